package images_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"vortex"
	"vortex/internal/cluster/images"
	imagespb "vortex/proto/images"
)

// stock is the images of a server; one that is nil breaks off.
type stock map[string][]byte

func (s stock) Export(_ context.Context, ref string, w io.Writer) error {
	archive, ok := s[ref]
	switch {
	case !ok:
		return status.Error(codes.NotFound, "no such image")
	case archive == nil:
		_, err := w.Write(make([]byte, 1<<20))
		return errors.Join(err, errors.New("the disk is broken"))
	}
	_, err := w.Write(archive)
	return err
}

// serve serves images until the test ends.
func serve(t *testing.T, s stock, authorize func(context.Context) error) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	imagespb.RegisterImageServiceServer(srv, &images.Service{Images: s, Authorize: authorize})
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(srv.Stop)
	return ln.Addr().String()
}

func anybody(context.Context) error { return nil }

var plain = []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}

func TestImageComesFromTheServerThatHasIt(t *testing.T) {
	archive := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	without, with := serve(t, stock{}, anybody), serve(t, stock{"hello:latest": archive}, anybody)
	var got []byte
	err := images.Fetch(t.Context(), []string{"127.0.0.1:1", without, with}, plain, "hello:latest", func(_ context.Context, r io.Reader) (err error) {
		got, err = io.ReadAll(r)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, archive) {
		t.Errorf("%d bytes came of %d", len(got), len(archive))
	}
}

func TestImageThatCannotBeHad(t *testing.T) {
	take := func(_ context.Context, r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	}
	strict := func(context.Context) error { return status.Error(codes.PermissionDenied, "not for you") }
	without, broken, closed := serve(t, stock{}, anybody), serve(t, stock{"hello:latest": nil}, anybody), serve(t, stock{"hello:latest": {1}}, strict)
	for name, c := range map[string]struct {
		servers []string
		want    vortex.ErrorKind
	}{
		"nobody has it":           {[]string{without, without}, vortex.NotFound},
		"no servers":              {nil, vortex.NotFound},
		"a server breaks off":     {[]string{without, broken}, vortex.Unavailable},
		"a server may not say it": {[]string{closed}, vortex.Unavailable},
		"nobody answers":          {[]string{"127.0.0.1:1"}, vortex.Unavailable},
	} {
		if err := images.Fetch(t.Context(), c.servers, plain, "hello:latest", take); !vortex.IsKind(err, c.want) {
			t.Errorf("%s: %v; want %v", name, err, c.want)
		}
	}
}
