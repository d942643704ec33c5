package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"vortex"
)

// spool is a tar archive put aside as a plain file, so that its entries can be read in any order.
type spool struct {
	file    *os.File
	entries map[string]spooled
}

// spooled is where an entry's content lies in the file.
type spooled struct {
	header *tar.Header
	offset int64
}

// spoolStream writes r, decompressed, to a file aside. It is Exhausted when r is larger than the limits.
func (s *Store) spoolStream(ctx context.Context, r io.Reader) (*os.File, error) {
	f, err := os.CreateTemp(s.path("tmp"), "spool-")
	if err != nil {
		return nil, fmt.Errorf("spool archive: %w", err)
	}
	err = s.readStream(ctx, &contextReader{ctx: ctx, r: r}, func(ctx context.Context, plain io.Reader) error {
		_, err := copyContext(ctx, f, plain)
		return unpackError("archive", err)
	})
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		discard(f)
		return nil, err
	}
	return f, nil
}

// discard closes and removes a file aside.
func discard(f *os.File) {
	f.Close()
	os.Remove(f.Name()) // a leftover goes at the next open
}

// indexTar lists a spooled archive's entries by their clean names. It takes the file over.
func indexTar(f *os.File, limit int64) (*spool, error) {
	sp := &spool{file: f, entries: map[string]spooled{}}
	counter := &countReader{r: f}
	reader := tar.NewReader(counter)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return sp, nil
		}
		if err != nil {
			sp.close()
			return nil, vortex.Errorf(vortex.Invalid, "the archive is not a valid tar stream: %w", err)
		}
		name, err := cleanName(header.Name)
		if err == nil && int64(len(sp.entries)) >= limit {
			err = errTooLarge
		}
		if err != nil {
			sp.close()
			return nil, err
		}
		sp.entries[name] = spooled{header: header, offset: counter.n}
	}
}

func (sp *spool) close() { discard(sp.file) }

// open returns an entry's content. Links inside the archive are followed, as old Docker archives need it.
func (sp *spool) open(name string) (*io.SectionReader, error) {
	name = path.Clean(name)
	for range 8 {
		entry, ok := sp.entries[name]
		switch {
		case !ok:
			return nil, vortex.Errorf(vortex.Invalid, "the archive is incomplete: it has no %q", name)
		case entry.header.Typeflag == tar.TypeReg:
			return io.NewSectionReader(sp.file, entry.offset, entry.header.Size), nil
		case entry.header.Typeflag == tar.TypeSymlink:
			name = path.Join(path.Dir(name), entry.header.Linkname)
		case entry.header.Typeflag == tar.TypeLink:
			name = path.Clean(entry.header.Linkname)
		default:
			return nil, vortex.Errorf(vortex.Invalid, "the archive is not valid: %q is no file", name)
		}
		if !filepath.IsLocal(name) {
			return nil, vortex.Errorf(vortex.Invalid, "the archive is not valid: a link leads outside of it")
		}
	}
	return nil, vortex.Errorf(vortex.Invalid, "the archive is not valid: links go in circles at %q", name)
}

// document reads a small entry.
func (sp *spool) document(name string) ([]byte, error) {
	r, err := sp.open(name)
	if err != nil {
		return nil, err
	}
	if r.Size() > maxDocument {
		return nil, vortex.Errorf(vortex.Invalid, "the archive is not valid: %q is larger than %d MiB", name, maxDocument>>20)
	}
	content, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	return content, nil
}

// countReader counts what was read.
type countReader struct {
	r io.Reader
	n int64
}

// Read reads and counts.
func (c *countReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
