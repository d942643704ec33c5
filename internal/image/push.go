package image

import (
	"context"
	"errors"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// PushOptions refine a push. The zero value suits most.
type PushOptions struct {
	Target string // the name to push to; "" is the image's own
	Auth   Auth   // zero is what Config.Credentials says
}

// Push sends a local image to the registry that its name, or opts.Target, tells. Layers that are there already are not sent
// again. Errors: NotFound locally, Unauthenticated, Denied, Unavailable.
func (s *Store) Push(ctx context.Context, name string, opts PushOptions) error {
	_, img, err := s.find(name)
	if err != nil {
		return err
	}
	if opts.Target != "" {
		name = opts.Target
	}
	target, err := parseTag(name)
	if err != nil {
		return err
	}
	defer s.pinImage(img)()
	manifest, err := s.readDocument(img.digest)
	if err != nil {
		return err
	}
	stored, err := partial.CompressedToImage(&storedImage{s: s, img: img, manifest: manifest})
	if err != nil {
		return err
	}
	if err := remote.Write(target.Reference, stored, s.remoteOptions(ctx, opts.Auth)...); err != nil {
		return registryError(target, err)
	}
	s.log.InfoContext(ctx, "Image pushed", "image", target.String(), "digest", img.digest.String())
	return nil
}

// storedImage shows a local image to the registry client.
type storedImage struct {
	s        *Store
	img      *image
	manifest []byte
}

// RawConfigFile returns the configuration's bytes.
func (i *storedImage) RawConfigFile() ([]byte, error) {
	return i.s.readDocument(i.img.manifest.Config.Digest)
}

// MediaType returns the manifest's media type.
func (i *storedImage) MediaType() (types.MediaType, error) {
	if i.img.manifest.MediaType == "" {
		return types.OCIManifestSchema1, nil
	}
	return i.img.manifest.MediaType, nil
}

// RawManifest returns the manifest's bytes.
func (i *storedImage) RawManifest() ([]byte, error) { return i.manifest, nil }

// LayerByDigest returns a blob of the image.
func (i *storedImage) LayerByDigest(digest v1.Hash) (partial.CompressedLayer, error) {
	for _, d := range append([]v1.Descriptor{i.img.manifest.Config}, i.img.manifest.Layers...) {
		if d.Digest == digest {
			return &storedLayer{s: i.s, desc: d}, nil
		}
	}
	return nil, errors.New("the image has no such layer")
}

// storedLayer shows a blob to the registry client.
type storedLayer struct {
	s    *Store
	desc v1.Descriptor
}

// Digest returns the blob's digest.
func (l *storedLayer) Digest() (v1.Hash, error) { return l.desc.Digest, nil }

// Compressed opens the blob.
func (l *storedLayer) Compressed() (io.ReadCloser, error) {
	return os.Open(l.s.blobPath(l.desc.Digest))
}

// Size returns the blob's size in bytes.
func (l *storedLayer) Size() (int64, error) { return l.desc.Size, nil }

// MediaType returns the blob's media type.
func (l *storedLayer) MediaType() (types.MediaType, error) { return l.desc.MediaType, nil }
