package image

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"

	"vortex"
)

// Import stores the images of an archive as `docker save` or an OCI image layout packed as tar, plain or compressed. A name
// given is used instead of those in the archive, which then must hold one image. It returns one Image per name.
// Errors: Invalid for what is no such archive, Exhausted beyond the limits or on a full disk.
func (s *Store) Import(ctx context.Context, r io.Reader, name string) ([]Image, error) {
	if name != "" {
		ref, err := parseTag(name)
		if err != nil {
			return nil, err
		}
		name = ref.canonical()
	}
	f, err := s.spoolStream(ctx, r)
	if err != nil {
		return nil, err
	}
	sp, err := indexTar(f, s.cfg.Limits.Entries)
	if err != nil {
		return nil, err
	}
	defer sp.close()
	a := &archive{s: s, spool: sp}
	defer a.unpin()
	if err := a.read(ctx); err != nil {
		return nil, err
	}
	return a.store(ctx, name)
}

// archive is an import on its way.
type archive struct {
	s     *Store
	spool *spool
	found []found
	pins  []func()
}

// found is an image of an archive whose blobs are stored.
type found struct {
	digest v1.Hash
	names  []string // as they stand in the archive
}

func (a *archive) pin(d v1.Hash) { a.pins = append(a.pins, a.s.pin(a.s.blobPath(d))) }

func (a *archive) unpin() {
	for _, unpin := range a.pins {
		unpin()
	}
}

// read stores the blobs of every image. Archives of newer Dockers hold both formats: there the Docker one has the names.
func (a *archive) read(ctx context.Context) error {
	if _, ok := a.spool.entries["manifest.json"]; ok {
		return a.readDocker(ctx)
	}
	if _, ok := a.spool.entries["index.json"]; ok {
		return a.readLayout(ctx)
	}
	return vortex.Errorf(vortex.Invalid,
		"this is no image archive, it has neither manifest.json nor index.json: make one with `docker save IMAGE`; for a plain directory use `vortex image build`")
}

// store gives the images their names.
func (a *archive) store(ctx context.Context, name string) ([]Image, error) {
	if name != "" && len(a.found) != 1 {
		return nil, vortex.Errorf(vortex.Invalid, "the archive holds %d images, which cannot all be named %s: leave the name out", len(a.found), familiar(name))
	}
	var images []Image
	for _, f := range a.found {
		names := f.names
		if name != "" {
			names = []string{name}
		}
		if len(names) == 0 {
			return images, vortex.Errorf(vortex.Invalid, "the archive does not name its image: give a name")
		}
		for _, n := range names {
			img, err := a.s.adopt(ctx, record{Name: n, Digest: f.digest})
			if err != nil {
				return images, err
			}
			images = append(images, img)
		}
	}
	return images, nil
}

// adopt makes an image whose blobs are stored ready and visible under a name.
func (s *Store) adopt(ctx context.Context, r record) (Image, error) {
	ref, err := parseTag(r.Name)
	if err != nil {
		return Image{}, err
	}
	r.Name = ref.canonical()
	img, err := s.load(r.Digest)
	if err != nil {
		return Image{}, err
	}
	defer s.pinImage(img)()
	for layer, diffID := range img.layers {
		if err := s.unpackOne(ctx, layer, diffID); err != nil {
			return Image{}, err
		}
	}
	if err := s.setRef(r); err != nil {
		return Image{}, err
	}
	s.log.InfoContext(ctx, "Image stored", "image", familiar(r.Name), "digest", r.Digest.String())
	return describe(r, img), nil
}

// dockerEntry is an element of a Docker archive's manifest.json.
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (a *archive) readDocker(ctx context.Context) error {
	document, err := a.spool.document("manifest.json")
	if err != nil {
		return err
	}
	var entries []dockerEntry
	if err := json.Unmarshal(document, &entries); err != nil {
		return vortex.Errorf(vortex.Invalid, "the archive's manifest.json is not valid: %w", err)
	}
	for _, entry := range entries {
		config, err := a.spool.document(entry.Config)
		if err != nil {
			return err
		}
		var layers []v1.Descriptor
		for _, name := range entry.Layers {
			layer, err := a.dockerLayer(ctx, name)
			if err != nil {
				return err
			}
			layers = append(layers, layer)
		}
		digest, err := a.s.putImage(ctx, config, layers, a.pin)
		if err != nil {
			return err
		}
		a.found = append(a.found, found{digest: digest, names: entry.RepoTags})
	}
	return nil
}

// dockerLayer stores a layer of a Docker archive. A plain one is compressed on the way, as it would be for a registry.
func (a *archive) dockerLayer(ctx context.Context, name string) (v1.Descriptor, error) {
	r, err := a.spool.open(name)
	if err != nil {
		return v1.Descriptor{}, err
	}
	mediaType, packed := compression(r)
	if !packed {
		return a.s.putLayer(ctx, a.pin, func(w io.Writer) error {
			_, err := copyContext(ctx, w, r)
			return err
		})
	}
	layer, err := a.s.putUnknown(ctx, r, a.pin)
	layer.MediaType = mediaType
	return layer, err
}

// compression tells a layer's media type and whether it is compressed.
func compression(r io.ReaderAt) (types.MediaType, bool) {
	magic := make([]byte, 4)
	n, _ := r.ReadAt(magic, 0) // a short one is plain
	switch magic = magic[:n]; {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return types.OCILayer, true
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return types.OCILayerZStd, true
	default:
		return types.OCIUncompressedLayer, false
	}
}

// putUnknown stores a blob whose digest is not known before.
func (s *Store) putUnknown(ctx context.Context, r io.Reader, pin func(v1.Hash)) (v1.Descriptor, error) {
	w, err := s.newBlob()
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer w.close()
	if _, err := copyContext(ctx, w, r); err != nil {
		return v1.Descriptor{}, unpackError("archive", err)
	}
	pin(w.digest())
	return v1.Descriptor{Digest: w.digest(), Size: w.size}, w.commit()
}

// putLayer stores what fill writes as a gzip layer. The same content gives the same bytes.
func (s *Store) putLayer(_ context.Context, pin func(v1.Hash), fill func(io.Writer) error) (v1.Descriptor, error) {
	w, err := s.newBlob()
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer w.close()
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("compress layer: %w", err)
	}
	if err := errors.Join(fill(z), z.Close()); err != nil {
		return v1.Descriptor{}, unpackError("archive", err)
	}
	pin(w.digest())
	return v1.Descriptor{MediaType: types.OCILayer, Digest: w.digest(), Size: w.size}, w.commit()
}

// putImage stores a configuration and the manifest that binds it to its layers, and returns the manifest's digest.
func (s *Store) putImage(ctx context.Context, config []byte, layers []v1.Descriptor, pin func(v1.Hash)) (v1.Hash, error) {
	pin(hashOf(config))
	described, err := s.putBytes(ctx, config)
	if err != nil {
		return v1.Hash{}, err
	}
	described.MediaType = types.OCIConfigJSON
	if layers == nil {
		layers = []v1.Descriptor{}
	}
	manifest, err := json.Marshal(v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: described, Layers: layers})
	if err != nil {
		return v1.Hash{}, fmt.Errorf("encode manifest: %w", err)
	}
	pin(hashOf(manifest))
	stored, err := s.putBytes(ctx, manifest)
	return stored.Digest, err
}

func hashOf(document []byte) v1.Hash {
	sum := sha256.Sum256(document)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// readLayout stores the images of an OCI layout.
func (a *archive) readLayout(ctx context.Context) error {
	document, err := a.spool.document("index.json")
	if err != nil {
		return err
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(document))
	if err != nil {
		return vortex.Errorf(vortex.Invalid, "the archive's index.json is not valid: %w", err)
	}
	byDigest := map[v1.Hash]int{}
	for _, entry := range index.Manifests {
		digest, err := a.layoutImage(ctx, entry)
		if err != nil {
			return err
		}
		at, ok := byDigest[digest]
		if !ok {
			at = len(a.found)
			byDigest[digest] = at
			a.found = append(a.found, found{digest: digest})
		}
		name := cmp.Or(entry.Annotations["io.containerd.image.name"], entry.Annotations["org.opencontainers.image.ref.name"])
		if name != "" {
			a.found[at].names = append(a.found[at].names, name)
		}
	}
	return nil
}

// layoutImage stores what one entry of an OCI index leads to on our platform.
func (a *archive) layoutImage(ctx context.Context, entry v1.Descriptor) (v1.Hash, error) {
	for range 4 {
		document, err := a.spool.document(layoutPath(entry.Digest))
		if err != nil {
			return v1.Hash{}, err
		}
		if hashOf(document) != entry.Digest {
			return v1.Hash{}, vortex.Errorf(vortex.Invalid, "the archive is damaged: the content of %s does not match", entry.Digest)
		}
		if !entry.MediaType.IsIndex() {
			return entry.Digest, a.layoutManifest(ctx, document)
		}
		index, err := v1.ParseIndexManifest(bytes.NewReader(document))
		if err != nil {
			return v1.Hash{}, vortex.Errorf(vortex.Invalid, "the archive's index %s is not valid: %w", entry.Digest, err)
		}
		next, ok := choose(index.Manifests, a.s.platform)
		if !ok {
			return v1.Hash{}, vortex.Errorf(vortex.Invalid, "the archive has no image for %s, only for %s", a.s.platform, platforms(index.Manifests))
		}
		entry = next
	}
	return v1.Hash{}, vortex.Errorf(vortex.Invalid, "the archive's index is nested too deeply")
}

// layoutManifest stores a manifest and everything it names.
func (a *archive) layoutManifest(ctx context.Context, document []byte) error {
	manifest, err := v1.ParseManifest(bytes.NewReader(document))
	if err != nil {
		return vortex.Errorf(vortex.Invalid, "the archive's manifest is not valid: %w", err)
	}
	for _, d := range append([]v1.Descriptor{manifest.Config}, manifest.Layers...) {
		r, err := a.spool.open(layoutPath(d.Digest))
		if err != nil {
			return err
		}
		a.pin(d.Digest)
		if a.s.hasBlob(d) {
			continue
		}
		err = a.s.putBlob(ctx, d, r)
		if corrupt, ok := errors.AsType[*corruptError](err); ok {
			return vortex.Errorf(vortex.Invalid, "the archive is damaged: %w", corrupt)
		}
		if err != nil {
			return err
		}
	}
	a.pin(hashOf(document))
	_, err = a.s.putBytes(ctx, document)
	return err
}

func layoutPath(d v1.Hash) string { return "blobs/" + d.Algorithm + "/" + d.Hex }
