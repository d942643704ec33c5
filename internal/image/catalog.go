package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"vortex"
)

// Image is what a store knows of an image.
type Image struct {
	Name     string // as users write it: "nginx:1.27"
	Digest   string // of the manifest: "sha256:…"
	Platform string // "linux/amd64"
	Size     int64  // bytes, compressed
	Created  time.Time
	Config   ImageConfig
}

// record is a name on disk: one file in refs.
type record struct {
	Name    string    `json:"name"`           // canonical
	Digest  v1.Hash   `json:"digest"`         // of the manifest for our platform
	Index   v1.Hash   `json:"index,omitzero"` // of the index the manifest was chosen from; zero when there was none
	Updated time.Time `json:"updated"`
}

// image is a manifest and its configuration, parsed and checked.
type image struct {
	digest   v1.Hash
	manifest *v1.Manifest
	config   *v1.ConfigFile
}

// layers pairs every layer's blob with the digest of its unpacked tar stream.
func (i *image) layers(yield func(v1.Descriptor, v1.Hash) bool) {
	for n, layer := range i.manifest.Layers {
		if !yield(layer, i.config.RootFS.DiffIDs[n]) {
			return
		}
	}
}

// size is the sum of all compressed parts in bytes.
func (i *image) size() int64 {
	total := i.manifest.Config.Size
	for _, layer := range i.manifest.Layers {
		total += layer.Size
	}
	return total
}

// load returns the image of a manifest that is here.
func (s *Store) load(digest v1.Hash) (*image, error) {
	s.mu.Lock()
	img := s.images[digest]
	s.mu.Unlock()
	if img != nil {
		return img, nil
	}
	img, err := s.readImage(digest)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images[digest] = img
	return img, nil
}

// readImage reads an image's documents from disk.
func (s *Store) readImage(digest v1.Hash) (*image, error) {
	document, err := s.readDocument(digest)
	if err != nil {
		return nil, err
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(document))
	if err != nil {
		return nil, vortex.Errorf(vortex.Invalid, "image %s: its manifest is not valid: %w", digest, err)
	}
	if document, err = s.readDocument(manifest.Config.Digest); err != nil {
		return nil, err
	}
	return parseImage(digest, manifest, document)
}

// parseImage checks that a manifest and a configuration make an image that can run here.
func parseImage(digest v1.Hash, manifest *v1.Manifest, config []byte) (*image, error) {
	cf, err := v1.ParseConfigFile(bytes.NewReader(config))
	if err != nil {
		return nil, vortex.Errorf(vortex.Invalid, "image %s: its configuration is not valid: %w", digest, err)
	}
	if cf.OS != "" && cf.OS != "linux" {
		return nil, vortex.Errorf(vortex.Invalid, "image %s is for %s: only linux images run here", digest, cf.OS)
	}
	if len(manifest.Layers) != len(cf.RootFS.DiffIDs) {
		return nil, vortex.Errorf(vortex.Invalid, "image %s is not a container image: %d layers in its manifest, %d in its configuration",
			digest, len(manifest.Layers), len(cf.RootFS.DiffIDs))
	}
	for _, d := range append(slices.Clone(cf.RootFS.DiffIDs), manifest.Config.Digest) {
		if d.Algorithm != "sha256" {
			return nil, vortex.Errorf(vortex.Invalid, "image %s uses the digest algorithm %q: only sha256 is supported", digest, d.Algorithm)
		}
	}
	return &image{digest: digest, manifest: manifest, config: cf}, nil
}

// describe is what users see of an image.
func describe(r record, img *image) Image {
	return Image{
		Name: familiar(r.Name), Digest: img.digest.String(), Size: img.size(), Created: img.config.Created.Time,
		Platform: strings.Trim(img.config.OS+"/"+img.config.Architecture+"/"+img.config.Variant, "/"),
		Config:   img.runConfig(),
	}
}

func (i *image) runConfig() ImageConfig {
	c := i.config.Config
	return ImageConfig{
		Digest: i.digest.String(), Entrypoint: slices.Clone(c.Entrypoint), Cmd: slices.Clone(c.Cmd), Env: slices.Clone(c.Env),
		WorkingDir: c.WorkingDir, User: c.User, Ports: ports(c.ExposedPorts), StopSignal: c.StopSignal, Labels: c.Labels,
	}
}

// ports reads "8080", "8080/tcp" and "53/udp"; what is not a port is left out.
func ports(exposed map[string]struct{}) []Port {
	var list []Port
	for text := range exposed {
		number, protocol, _ := strings.Cut(text, "/")
		n, err := strconv.ParseUint(number, 10, 16)
		if err == nil && n > 0 {
			list = append(list, Port{Number: uint16(n), UDP: protocol == "udp"})
		}
	}
	slices.SortFunc(list, func(a, b Port) int { return int(a.Number) - int(b.Number) })
	return list
}

func (s *Store) refPath(canonical string) string {
	sum := sha256.Sum256([]byte(canonical))
	return s.path("refs", hex.EncodeToString(sum[:16])+".json")
}

// readRefs fills the table of names. A name that cannot be read is dropped: the image is pulled again when needed.
func (s *Store) readRefs() error {
	entries, err := os.ReadDir(s.path("refs"))
	if err != nil {
		return fmt.Errorf("read image names: %w", err)
	}
	for _, entry := range entries {
		content, err := os.ReadFile(s.path("refs", entry.Name()))
		if err != nil {
			return fmt.Errorf("read image names: %w", err)
		}
		var r record
		if err := json.Unmarshal(content, &r); err != nil || r.Name == "" {
			s.log.Warn("Image name dropped: its file is damaged", "file", entry.Name(), "err", err)
			continue
		}
		s.refs[r.Name] = r
	}
	return nil
}

// setRef makes a name point at an image, durably.
func (s *Store) setRef(r record) error {
	r.Updated = time.Now().UTC()
	content, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode image name: %w", err)
	}
	s.naming.Lock()
	defer s.naming.Unlock()
	if err := s.writeFile(s.refPath(r.Name), content, true); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refs[r.Name] = r
	return nil
}

// lookup finds the record a reference means. A digest is found under any name, whether it is the manifest's own or that of
// the index it came from.
func (s *Store) lookup(ref reference) (record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.refs[ref.canonical()]; ok {
		return r, true
	}
	digest, ok := ref.digest()
	if !ok {
		return record{}, false
	}
	for _, r := range s.refs {
		if r.Digest == digest || r.Index == digest {
			return r, true
		}
	}
	return record{}, false
}

// find returns a local image or NotFound.
func (s *Store) find(name string) (record, *image, error) {
	ref, err := parseReference(name)
	if err != nil {
		return record{}, nil, err
	}
	r, ok := s.lookup(ref)
	if !ok {
		return record{}, nil, errMissing(ref)
	}
	img, err := s.load(r.Digest)
	if errors.Is(err, os.ErrNotExist) {
		return record{}, nil, errMissing(ref)
	}
	return r, img, err
}

func errMissing(ref reference) error {
	return vortex.Errorf(vortex.NotFound,
		"image %s is not on this node: get it with `vortex image pull`, `vortex image build` or `vortex image import`", ref)
}

// Inspect returns a local image, or NotFound.
func (s *Store) Inspect(name string) (Image, error) {
	r, img, err := s.find(name)
	if err != nil {
		return Image{}, err
	}
	return describe(r, img), nil
}

// List returns the local images, by name.
func (s *Store) List() ([]Image, error) {
	s.mu.Lock()
	records := make([]record, 0, len(s.refs))
	for _, r := range s.refs {
		records = append(records, r)
	}
	s.mu.Unlock()
	slices.SortFunc(records, func(a, b record) int { return strings.Compare(familiar(a.Name), familiar(b.Name)) })
	images := make([]Image, 0, len(records))
	for _, r := range records {
		img, err := s.load(r.Digest)
		if err != nil {
			s.log.Warn("Image cannot be read", "image", familiar(r.Name), "err", err)
			continue
		}
		images = append(images, describe(r, img))
	}
	return images, nil
}

// Tag gives a local image a further name, or moves the name from the image that had it.
func (s *Store) Tag(source, target string) error {
	to, err := parseTag(target)
	if err != nil {
		return err
	}
	r, _, err := s.find(source)
	if err != nil {
		return err
	}
	r.Name = to.canonical()
	return s.setRef(r)
}

// Remove takes a name away, and what only it needed. It refuses with Precondition while an instance
// runs on the image and this is its last name, unless force is set; files in use stay until the instance is gone in any case.
func (s *Store) Remove(name string, force bool) error {
	r, _, err := s.find(name)
	if err != nil {
		return err
	}
	if user := s.lastNameOf(r); user != "" && !force {
		return vortex.Errorf(vortex.Precondition, "image %s is in use by instance %s: stop it first, or force", familiar(r.Name), user)
	}
	if err := s.dropRef(r.Name); err != nil {
		return err
	}
	_, err = s.sweep()
	return err
}

// lastNameOf returns an instance that runs on an image of which r is the only name, or "".
func (s *Store) lastNameOf(r record) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range s.refs {
		if other.Digest == r.Digest && other.Name != r.Name {
			return ""
		}
	}
	for id, m := range s.mounts {
		if m.Digest == r.Digest {
			return id
		}
	}
	return ""
}

func (s *Store) dropRef(canonical string) error {
	s.naming.Lock()
	defer s.naming.Unlock()
	if err := os.Remove(s.refPath(canonical)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove image name: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.refs, canonical)
	return nil
}
