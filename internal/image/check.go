package image

import (
	"context"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// checkTimeout bounds how long a registry may take to say whether it has an image.
const checkTimeout = 10 * time.Second

// Check returns nil when the image is here or its registry has it, without fetching it. Errors are those of Pull.
func (s *Store) Check(ctx context.Context, name string) error {
	ref, err := parseReference(name)
	if err != nil {
		return err
	}
	if _, _, err := s.find(name); err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	if _, err := remote.Head(ref.Reference, s.remoteOptions(ctx, Auth{})...); err != nil {
		return registryError(ref, err)
	}
	return nil
}
