package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"vortex"
)

// maxDocument bounds manifests and image configurations, which are read into memory.
const maxDocument = 8 << 20

func (s *Store) blobPath(d v1.Hash) string { return s.path("blobs", d.Algorithm, d.Hex) }

// hasBlob reports whether a blob is here, complete.
func (s *Store) hasBlob(d v1.Descriptor) bool {
	fi, err := os.Stat(s.blobPath(d.Digest))
	return err == nil && fi.Size() == d.Size
}

// blobWriter makes a blob aside; commit puts it under its digest.
type blobWriter struct {
	s    *Store
	file *os.File
	hash hash.Hash
	size int64
}

func (s *Store) newBlob() (*blobWriter, error) {
	f, err := os.CreateTemp(s.path("tmp"), "blob-")
	if err != nil {
		return nil, fmt.Errorf("create blob: %w", err)
	}
	return &blobWriter{s: s, file: f, hash: sha256.New()}, nil
}

// Write appends to the blob.
func (w *blobWriter) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.hash.Write(p[:n])
	w.size += int64(n)
	return n, err
}

func (w *blobWriter) digest() v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(w.hash.Sum(nil))}
}

// commit makes the blob durable and visible.
func (w *blobWriter) commit() error {
	if err := w.file.Sync(); err != nil {
		return fmt.Errorf("sync blob: %w", err)
	}
	if err := os.Rename(w.file.Name(), w.s.blobPath(w.digest())); err != nil {
		return fmt.Errorf("commit blob: %w", err)
	}
	return syncDir(filepath.Dir(w.s.blobPath(w.digest())))
}

// close frees what the writer holds; a blob that was not committed is gone.
func (w *blobWriter) close() {
	w.file.Close()
	os.Remove(w.file.Name()) // a committed blob has moved away; a leftover goes at the next open
}

// putBlob stores r under the digest and size it must have. It is Invalid when r is something else.
func (s *Store) putBlob(ctx context.Context, want v1.Descriptor, r io.Reader) error {
	w, err := s.newBlob()
	if err != nil {
		return err
	}
	defer w.close()
	if _, err := copyContext(ctx, w, io.LimitReader(r, want.Size+1)); err != nil {
		return fmt.Errorf("write blob %s: %w", want.Digest, err)
	}
	if w.size != want.Size || w.digest() != want.Digest {
		return &corruptError{want: want, got: w.digest(), size: w.size}
	}
	return w.commit()
}

// putBytes stores a document and returns its descriptor.
func (s *Store) putBytes(ctx context.Context, document []byte) (v1.Descriptor, error) {
	sum := sha256.Sum256(document)
	d := v1.Descriptor{
		Digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])},
		Size:   int64(len(document)),
	}
	if _, err := s.readDocument(d.Digest); err == nil {
		return d, nil
	}
	return d, s.putBlob(ctx, d, bytes.NewReader(document))
}

// readDocument returns a small blob after verifying it. A damaged one is removed and as good as absent.
func (s *Store) readDocument(d v1.Hash) ([]byte, error) {
	f, err := os.Open(s.blobPath(d))
	if err != nil {
		return nil, fmt.Errorf("read blob: %w", err)
	}
	defer f.Close()
	document, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("read blob: %w", err)
	}
	if len(document) > maxDocument {
		return nil, vortex.Errorf(vortex.Invalid, "image document %s is larger than %d MiB", d, maxDocument>>20)
	}
	sum := sha256.Sum256(document)
	if hex.EncodeToString(sum[:]) != d.Hex {
		os.Remove(f.Name()) // then it is found damaged once more
		return nil, fmt.Errorf("read blob: %s is damaged on disk: %w", d, fs.ErrNotExist)
	}
	return document, nil
}

// corruptError says that content is not what its digest promised.
type corruptError struct {
	want v1.Descriptor
	got  v1.Hash
	size int64
}

func (e *corruptError) Error() string {
	if e.got.Hex == "" {
		return fmt.Sprintf("content of %s (%d bytes) came as something else (%d bytes)", e.want.Digest, e.want.Size, e.size)
	}
	return fmt.Sprintf("content of %s (%d bytes) came as %s (%d bytes)", e.want.Digest, e.want.Size, e.got, e.size)
}

// copyContext copies until the end or until ctx ends.
func copyContext(ctx context.Context, w io.Writer, r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, &contextReader{ctx: ctx, r: r}, make([]byte, 128<<10))
}

// contextReader fails once its context has ended.
type contextReader struct {
	ctx context.Context //nolint:containedctx // lives for one copy
	r   io.Reader
}

// Read reads unless the context has ended.
func (c *contextReader) Read(p []byte) (int, error) {
	if err := canceled(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// writeFile replaces a small file as a whole, durably when sync is set.
func (s *Store) writeFile(path string, content []byte, sync bool) error {
	f, err := os.CreateTemp(s.path("tmp"), "file-")
	if err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	if sync {
		err = f.Sync()
	}
	if err = errors.Join(err, os.Rename(f.Name(), path)); err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	if sync {
		return syncDir(filepath.Dir(path))
	}
	return nil
}

// syncDir makes renames into a directory durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}

// syncFilesystem makes everything written below dir durable in one go.
func syncFilesystem(dir *os.File) error {
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("sync filesystem: %w", err)
	}
	return nil
}

// emptyDir removes what a directory holds.
func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list directory: %w", err)
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return fmt.Errorf("remove leftover: %w", err)
		}
	}
	return nil
}
