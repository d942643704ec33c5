package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"vortex"
)

// Extract writes an image's root, flattened, to dir, which must not exist or be empty. It works without root, then
// without owners and privileged attributes. It is done whole or dir is left out: Exists when dir has content. Other errors
// are those of Ensure.
func (s *Store) Extract(ctx context.Context, ref, dir string) (ImageConfig, error) {
	if !filepath.IsAbs(dir) {
		return ImageConfig{}, vortex.Errorf(vortex.Invalid, "directory %q must be an absolute path", dir)
	}
	_, img, err := s.ensure(ctx, ref, IfNotPresent)
	if err != nil {
		return ImageConfig{}, err
	}
	defer s.pinImage(img)()
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return ImageConfig{}, vortex.Errorf(vortex.Exists, "%s exists and is no empty directory: name one that does not exist", dir)
	}
	err = s.flatten(ctx, img, dir)
	if damaged(err) {
		if _, err := s.Pull(ctx, ref, PullOptions{}); err != nil {
			return ImageConfig{}, err
		}
		err = s.flatten(ctx, img, dir)
	}
	if err != nil {
		return ImageConfig{}, err
	}
	return img.runConfig(), nil
}

// flatten unpacks all layers into one tree beside dir and renames it.
func (s *Store) flatten(ctx context.Context, img *image, dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("extract image: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".extract-")
	if err != nil {
		return fmt.Errorf("extract image: %w", err)
	}
	defer os.RemoveAll(tmp)
	tree := filepath.Join(tmp, "root")
	root, err := makeRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	u := newUnpacker(root, s.cfg.Limits, s.privileged)
	for layer, diffID := range img.layers {
		if err := s.readLayer(ctx, layer, diffID, u.apply); err != nil {
			return err
		}
	}
	if err := os.Rename(tree, dir); err != nil {
		return fmt.Errorf("extract image: %w", err)
	}
	return nil
}
