// Package images lets the machines of a cluster get images from its servers: what was built on one, or pushed or imported to it, runs on all.
//
// A machine asks the servers in turn for an image that it has not got, before it asks a registry. Whoever may read releases
// may read the images that they name.
package images

import (
	"bufio"
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vortex"
	imagespb "vortex/proto/images"
)

// partBytes is how much of an archive a message carries.
const partBytes = 256 << 10

// Exporter has images.
type Exporter interface {
	// Export writes an image as an archive; the error is NotFound when it is not here.
	Export(ctx context.Context, ref string, w io.Writer) error
}

// Service sends images. It returns errors of the domain; the server it is registered with gives them their code.
type Service struct {
	imagespb.UnimplementedImageServiceServer

	Images Exporter
	// Authorize returns why the caller of a context may not have images, nil when it may.
	Authorize func(ctx context.Context) error
}

// Export implements the wire contract.
func (s *Service) Export(req *imagespb.ExportRequest, stream grpc.ServerStreamingServer[imagespb.Part]) error {
	if err := s.Authorize(stream.Context()); err != nil {
		return err
	}
	out := bufio.NewWriterSize(parts{stream}, partBytes)
	if err := s.Images.Export(stream.Context(), req.GetReference(), out); err != nil {
		return err
	}
	return out.Flush()
}

// parts sends what is written.
type parts struct {
	stream grpc.ServerStreamingServer[imagespb.Part]
}

func (p parts) Write(data []byte) (n int, err error) {
	for n < len(data) {
		size := min(len(data)-n, partBytes)
		if err := p.stream.Send(&imagespb.Part{Data: data[n : n+size]}); err != nil {
			return n, err
		}
		n += size
	}
	return n, nil
}

// Fetch gets an image from the first of the servers, host:port, that has it, and gives its archive to take. The error is NotFound when
// none has it, else what kept the last one from sending it.
func Fetch(ctx context.Context, servers []string, dial []grpc.DialOption, ref string, take func(ctx context.Context, archive io.Reader) error) error {
	err := error(vortex.Errorf(vortex.NotFound, "no server of the cluster has the image %s", ref))
	for _, server := range servers {
		switch ferr := fetch(ctx, server, dial, ref, take); {
		case ferr == nil:
			return nil
		case ctx.Err() != nil:
			return ferr
		case status.Code(ferr) != codes.NotFound:
			err = vortex.Errorf(vortex.Unavailable, "the image %s could not be had from the server %s: %w", ref, server, ferr)
		}
	}
	return err
}

func fetch(ctx context.Context, server string, dial []grpc.DialOption, ref string, take func(context.Context, io.Reader) error) (err error) {
	conn, err := grpc.NewClient(server, dial...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	ctx, cancel := context.WithCancel(ctx) // ends the stream when take has enough
	defer cancel()
	stream, err := imagespb.NewImageServiceClient(conn).Export(ctx, &imagespb.ExportRequest{Reference: ref})
	if err != nil {
		return err
	}
	first, err := stream.Recv() // before anything is taken, so that a refusal is told as such
	if err != nil {
		return err
	}
	return take(ctx, &archive{stream: stream, rest: first.GetData()})
}

// archive reads the parts as one.
type archive struct {
	stream grpc.ServerStreamingClient[imagespb.Part]
	rest   []byte
}

func (a *archive) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		part, err := a.stream.Recv()
		if err != nil {
			return 0, err
		}
		a.rest = part.GetData()
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}
