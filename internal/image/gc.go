package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Freed counts what a collection removed.
type Freed struct {
	Names, Blobs, Layers int
	Bytes                int64 // of the blobs
}

// GC removes every name that keep declines, then each blob and layer that no name, mount or running pull needs. Images
// with mounts keep their names. A nil keep keeps all names.
func (s *Store) GC(keep func(Image) bool) (Freed, error) {
	names := 0
	images, err := s.List()
	if err != nil {
		return Freed{}, err
	}
	for _, img := range images {
		if keep == nil || keep(img) || s.mounted(img.Digest) {
			continue
		}
		ref, err := parseReference(img.Name)
		if err != nil {
			return Freed{}, err
		}
		if err := s.dropRef(ref.canonical()); err != nil {
			return Freed{}, err
		}
		names++
	}
	freed, err := s.sweep()
	freed.Names = names
	return freed, err
}

func (s *Store) mounted(digest string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.mounts {
		if m.Digest.String() == digest {
			return true
		}
	}
	return false
}

// sweep removes blobs and layers that nothing needs.
func (s *Store) sweep() (Freed, error) {
	trash, err := os.MkdirTemp(s.path("tmp"), "trash-")
	if err != nil {
		return Freed{}, fmt.Errorf("collect images: %w", err)
	}
	defer os.RemoveAll(trash)
	var freed Freed
	var errs []error
	freed.Blobs, freed.Bytes, err = s.sweepDir(s.path("blobs/sha256"), filepath.Join(trash, "b"))
	errs = append(errs, err)
	freed.Layers, _, err = s.sweepDir(s.path("layers"), filepath.Join(trash, "l"))
	return freed, errors.Join(append(errs, err)...)
}

// sweepDir moves what nothing needs from dir to names that begin with trash. Deciding and moving is one step, so that
// nobody can begin to need an entry in between.
func (s *Store) sweepDir(dir, trash string) (count int, bytes int64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, 0, fmt.Errorf("collect images: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	needed, err := s.needed()
	if err != nil {
		return 0, 0, err
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if needed[path] || s.pins[path] > 0 {
			continue
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.Rename(path, trash+entry.Name())
		}
		if err != nil {
			return count, bytes, fmt.Errorf("collect images: %w", err)
		}
		count, bytes = count+1, bytes+info.Size()
	}
	return count, bytes, nil
}

// needed returns the paths of everything that names and mounts refer to. The caller holds mu.
func (s *Store) needed() (map[string]bool, error) {
	digests := map[v1.Hash]bool{}
	for _, r := range s.refs {
		digests[r.Digest] = true
	}
	paths := map[string]bool{}
	for _, m := range s.mounts {
		digests[m.Digest] = true
		for _, layer := range m.Layers {
			paths[s.layerPath(layer)] = true
		}
	}
	for digest := range digests {
		if err := s.neededBy(digest, paths); err != nil {
			return nil, err
		}
	}
	for digest := range s.images {
		if !digests[digest] {
			delete(s.images, digest)
		}
	}
	return paths, nil
}

// neededBy adds the paths of one image. An image whose documents are lost needs nothing any more: it is pulled
// again. The caller holds mu, so that nothing is added between deciding and moving.
func (s *Store) neededBy(digest v1.Hash, paths map[string]bool) error {
	img := s.images[digest]
	if img == nil {
		read, err := s.readImage(digest)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		img = read
	}
	paths[s.blobPath(digest)] = true
	paths[s.blobPath(img.manifest.Config.Digest)] = true
	for layer, diffID := range img.layers {
		paths[s.blobPath(layer.Digest)] = true
		paths[s.layerPath(diffID)] = true
	}
	return nil
}
