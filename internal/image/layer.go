package image

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"vortex"
)

// layerPath is where the layer with the given digest of its tar stream is unpacked.
func (s *Store) layerPath(diffID v1.Hash) string { return s.path("layers", diffID.Hex) }

// hasLayer reports whether a layer is unpacked.
func (s *Store) hasLayer(diffID v1.Hash) bool {
	_, err := os.Lstat(s.layerPath(diffID))
	return err == nil
}

// unpack makes sure that every layer of an image is ready to be mounted or extracted.
func (s *Store) unpack(ctx context.Context, img *image, report func(Progress)) error {
	for layer, diffID := range img.layers {
		if s.privileged && s.hasLayer(diffID) {
			continue
		}
		if !s.privileged && s.hasBlob(layer) {
			continue
		}
		report(Progress{Phase: "unpacking", Layer: layer.Digest.String(), Total: layer.Size})
		if err := s.unpackOne(ctx, layer, diffID); err != nil {
			return err
		}
	}
	return nil
}

// unpackOne unpacks a layer once, whoever asks. Without root, overlay trees cannot be made: the layer is only verified then.
func (s *Store) unpackOne(ctx context.Context, layer v1.Descriptor, diffID v1.Hash) error {
	return s.flights.do(ctx, "layer "+diffID.Hex, func(ctx context.Context) error {
		if s.privileged && s.hasLayer(diffID) {
			return nil
		}
		if !s.privileged {
			return s.readLayer(ctx, layer, diffID, discardTar)
		}
		return s.unpackLayer(ctx, layer, diffID)
	})
}

// unpackLayer unpacks a layer aside, makes it durable and renames it into place.
func (s *Store) unpackLayer(ctx context.Context, layer v1.Descriptor, diffID v1.Hash) error {
	tmp, err := os.MkdirTemp(s.path("tmp"), "layer-")
	if err != nil {
		return fmt.Errorf("unpack layer: %w", err)
	}
	defer os.RemoveAll(tmp)
	tree := tmp + "/root"
	root, err := makeRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	u := newUnpacker(root, s.cfg.Limits, true)
	u.overlay = true
	if err := s.readLayer(ctx, layer, diffID, u.apply); err != nil {
		return err
	}
	dir, err := root.Open(".")
	if err != nil {
		return fmt.Errorf("unpack layer: %w", err)
	}
	defer dir.Close()
	if err := syncFilesystem(dir); err != nil {
		return err
	}
	if err := os.Rename(tree, s.layerPath(diffID)); err != nil && !s.hasLayer(diffID) {
		return fmt.Errorf("unpack layer: %w", err)
	}
	return syncDir(s.path("layers"))
}

// makeRoot makes the directory of a container's root, readable by all its users whatever our umask is.
func makeRoot(dir string) (*os.Root, error) {
	err := os.Mkdir(dir, 0o755)
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		return nil, fmt.Errorf("make root: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("make root: %w", err)
	}
	return root, nil
}

// readLayer hands a layer's tar stream to use and verifies it as a whole: the blob by its digest, the stream by its diffID. What use did is
// worthless when an error is returned.
func (s *Store) readLayer(ctx context.Context, layer v1.Descriptor, diffID v1.Hash, use func(context.Context, io.Reader) error) error {
	f, err := os.Open(s.blobPath(layer.Digest))
	if err != nil {
		return fmt.Errorf("open layer: %w", err)
	}
	defer f.Close()
	packed, plain := sha256.New(), sha256.New()
	source := io.TeeReader(&contextReader{ctx: ctx, r: f}, packed)
	err = s.readStream(ctx, source, func(ctx context.Context, r io.Reader) error {
		return use(ctx, io.TeeReader(r, plain))
	})
	if stop := canceled(ctx); stop != nil {
		return stop
	}
	if _, rest := io.Copy(io.Discard, source); rest != nil {
		return fmt.Errorf("read layer: %w", rest)
	}
	if sum := hex.EncodeToString(packed.Sum(nil)); sum != layer.Digest.Hex {
		os.Remove(f.Name()) // then it is found damaged once more
		return &corruptError{want: layer, got: v1.Hash{Algorithm: "sha256", Hex: sum}, size: layer.Size}
	}
	if err != nil {
		return err
	}
	if sum := hex.EncodeToString(plain.Sum(nil)); sum != diffID.Hex {
		return vortex.Errorf(vortex.Invalid, "layer %s is not what its image says: it unpacks to %s, not to %s", layer.Digest, sum, diffID.Hex)
	}
	return nil
}

// readStream decompresses source, hands it to use and reads on to its end, within the limits.
func (s *Store) readStream(ctx context.Context, source io.Reader, use func(context.Context, io.Reader) error) error {
	r, err := decompress(source)
	if err != nil {
		return err
	}
	defer r.Close()
	limited := &limitReader{r: r, left: s.cfg.Limits.Bytes + s.cfg.Limits.Bytes/4 + 64<<20}
	return use(ctx, limited)
}

// discardTar reads a stream for its digest alone.
func discardTar(_ context.Context, r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return unpackError("stream", err)
}

// limitReader fails, instead of ending, when there is more than it lets through.
type limitReader struct {
	r    io.Reader
	left int64
}

// Read reads up to the limit.
func (l *limitReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}

var errTooLarge = &vortex.Error{
	Kind: vortex.Exhausted,
	Msg:  "the image unpacks to more than this node allows: use a smaller image, or raise the image limits in its configuration",
}

// decompress returns the plain form of a gzip, zstd or plain stream, told apart by its first bytes.
func decompress(r io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(r, 128<<10)
	magic, err := buffered.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read stream: %w", err)
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, vortex.Errorf(vortex.Invalid, "the stream is not valid gzip: %w", err)
		}
		return z, nil
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, vortex.Errorf(vortex.Invalid, "the stream is not valid zstd: %w", err)
		}
		return z.IOReadCloser(), nil
	default:
		return io.NopCloser(buffered), nil
	}
}
