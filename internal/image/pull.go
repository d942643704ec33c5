package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"

	"vortex"
)

// Policy says when Ensure asks the registry.
type Policy string

// The policies. The empty Policy is IfNotPresent.
const (
	IfNotPresent Policy = "IfNotPresent" // only when the image is not here
	Always       Policy = "Always"       // every time, for the tag may have moved
	Never        Policy = "Never"        // the image must be here
)

const (
	layersAtOnce  = 3                // downloads of one pull that run side by side
	blobAttempts  = 3                // tries per blob before a pull fails
	stallTimeout  = 60 * time.Second // a download that sends nothing for so long is started again
	progressEvery = 100 * time.Millisecond
)

// PullOptions refine a pull. The zero value suits most.
type PullOptions struct {
	Platform string         // "os/arch[/variant]"; "" is the store's
	Auth     Auth           // zero is what Config.Credentials says
	Progress func(Progress) // called from one goroutine at a time; nil is nobody
}

// Progress is one step of a pull.
type Progress struct {
	Image string
	Phase string // "resolving", "downloading", "unpacking", "done"
	Layer string // digest; "" when the step is about the whole image
	Done  int64  // bytes of the layer that are here
	Total int64  // bytes of the layer
}

// Ensure returns the image, from the registry only where policy wants it. An image that is here costs no I/O but
// one stat per layer. A layer that was lost is unpacked or fetched again.
func (s *Store) Ensure(ctx context.Context, name string, policy Policy) (Image, error) {
	r, img, err := s.ensure(ctx, name, policy)
	if err != nil {
		return Image{}, err
	}
	return describe(r, img), nil
}

// fixed reports whether a name holds a digest, so that no registry can know anything newer.
func fixed(name string) bool {
	ref, err := parseReference(name)
	if err != nil {
		return false
	}
	_, ok := ref.digest()
	return ok
}

func (s *Store) ensure(ctx context.Context, name string, policy Policy) (record, *image, error) {
	if policy != Always || fixed(name) {
		r, img, err := s.warm(ctx, name)
		if err == nil || policy == Never || !vortex.IsKind(err, vortex.NotFound) {
			return r, img, err
		}
	}
	if _, err := s.Pull(ctx, name, PullOptions{}); err != nil {
		return record{}, nil, err
	}
	return s.find(name)
}

// warm returns an image from what is here. It is NotFound when any part is missing.
func (s *Store) warm(ctx context.Context, name string) (record, *image, error) {
	r, img, err := s.find(name)
	if err != nil {
		return r, img, err
	}
	err = s.unpack(ctx, img, func(Progress) {})
	if damaged(err) {
		s.log.WarnContext(ctx, "Image is damaged on disk, fetching it again", "image", familiar(r.Name), "err", err)
		return r, img, vortex.Errorf(vortex.NotFound, "image %s is damaged on this node: pull, build or import it again", familiar(r.Name))
	}
	return r, img, err
}

// Pull fetches an image from its registry, verifies it and unpacks it. Pulls of the same image at the same time are
// one. Errors: Invalid name or content, NotFound, Unauthenticated, Denied, Exhausted (rate limit, disk or Limits), Unavailable.
func (s *Store) Pull(ctx context.Context, name string, opts PullOptions) (Image, error) {
	ref, err := parseReference(name)
	if err != nil {
		return Image{}, err
	}
	platform := s.platform
	if opts.Platform != "" {
		if platform, err = parsePlatform(opts.Platform); err != nil {
			return Image{}, err
		}
	}
	p := &pull{s: s, ref: ref, platform: platform, auth: opts.Auth, report: reporter(ref.String(), opts.Progress)}
	key := fmt.Sprintf("pull %s %s %v", ref.canonical(), platform, opts.Auth)
	if err := s.flights.do(ctx, key, p.run); err != nil {
		return Image{}, registryError(ref, err)
	}
	p.report(Progress{Phase: "done"})
	return s.Inspect(name)
}

// pull is one image on its way.
type pull struct {
	s        *Store
	ref      reference
	platform v1.Platform
	auth     Auth
	report   func(Progress)
}

// reporter makes progress calls one at a time and fills the image in.
func reporter(name string, call func(Progress)) func(Progress) {
	if call == nil {
		return func(Progress) {}
	}
	var mu sync.Mutex
	return func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		p.Image = name
		call(p)
	}
}

func (p *pull) run(ctx context.Context) error {
	start := time.Now()
	p.report(Progress{Phase: "resolving"})
	remoteImage, r, err := p.resolve(ctx)
	if err != nil {
		return err
	}
	defer p.s.pin(p.s.blobPath(r.Digest))()
	if err := p.documents(ctx, remoteImage, r.Digest); err != nil {
		return err
	}
	img, err := p.s.readImage(r.Digest)
	if err != nil {
		return err
	}
	defer p.s.pinImage(img)()
	if err := p.documents(ctx, remoteImage, r.Digest); err != nil { // once more: now nobody collects them
		return err
	}
	if err := p.layers(ctx, remoteImage, img); err != nil {
		return err
	}
	if err := p.s.setRef(r); err != nil {
		return err
	}
	p.s.log.InfoContext(ctx, "Image pulled", "image", p.ref.String(), "digest", r.Digest.String(), "bytes", img.size(), "took", time.Since(start))
	return nil
}

// pinImage keeps an image's parts from being collected until the returned function is called.
func (s *Store) pinImage(img *image) (unpin func()) {
	unpins := []func(){s.pin(s.blobPath(img.digest)), s.pin(s.blobPath(img.manifest.Config.Digest))}
	for layer, diffID := range img.layers {
		unpins = append(unpins, s.pin(s.blobPath(layer.Digest)), s.pin(s.layerPath(diffID)))
	}
	return func() {
		for _, unpin := range unpins {
			unpin()
		}
	}
}

// resolve asks the registry which manifest the reference means on our platform.
func (p *pull) resolve(ctx context.Context) (v1.Image, record, error) {
	options := p.s.remoteOptions(ctx, p.auth)
	desc, err := remote.Get(p.ref.Reference, options...)
	if err != nil {
		return nil, record{}, err
	}
	r := record{Name: p.ref.canonical()}
	if !desc.MediaType.IsIndex() {
		img, err := desc.Image()
		r.Digest = desc.Digest
		return img, r, err
	}
	r.Index = desc.Digest
	index, err := desc.ImageIndex()
	if err != nil {
		return nil, r, err
	}
	img, digest, err := p.fromIndex(index)
	r.Digest = digest
	return img, r, err
}

// fromIndex picks our platform's image. Indexes may hold indexes; a few levels are enough for everybody.
func (p *pull) fromIndex(index v1.ImageIndex) (v1.Image, v1.Hash, error) {
	for range 4 {
		manifest, err := index.IndexManifest()
		if err != nil {
			return nil, v1.Hash{}, err
		}
		entry, ok := choose(manifest.Manifests, p.platform)
		if !ok {
			return nil, v1.Hash{}, vortex.Errorf(vortex.Invalid, "image %s is not made for %s, only for %s: choose another image or build it for this platform",
				p.ref, p.platform, platforms(manifest.Manifests))
		}
		if !entry.MediaType.IsIndex() {
			img, err := index.Image(entry.Digest)
			return img, entry.Digest, err
		}
		if index, err = index.ImageIndex(entry.Digest); err != nil {
			return nil, v1.Hash{}, err
		}
	}
	return nil, v1.Hash{}, vortex.Errorf(vortex.Invalid, "image %s: its index is nested too deeply", p.ref)
}

// documents stores the manifest and the configuration.
func (p *pull) documents(ctx context.Context, img v1.Image, digest v1.Hash) error {
	manifest, err := img.RawManifest()
	if err != nil {
		return err
	}
	want := v1.Descriptor{Digest: digest, Size: int64(len(manifest))}
	stored, err := p.s.putBytes(ctx, manifest)
	if err != nil {
		return err
	}
	if stored.Digest != digest {
		return &corruptError{want: want, got: stored.Digest, size: stored.Size}
	}
	parsed, err := img.Manifest()
	if err != nil {
		return vortex.Errorf(vortex.Invalid, "image %s: its manifest is not valid: %w", p.ref, err)
	}
	if parsed.Config.Size > maxDocument {
		return vortex.Errorf(vortex.Invalid, "image %s: its configuration is larger than %d MiB", p.ref, maxDocument>>20)
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	if stored, err = p.s.putBytes(ctx, config); err != nil {
		return err
	}
	if stored.Digest != parsed.Config.Digest {
		return &corruptError{want: parsed.Config, got: stored.Digest, size: stored.Size}
	}
	return nil
}

// layers downloads and unpacks what is not here yet.
func (p *pull) layers(ctx context.Context, from v1.Image, img *image) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(layersAtOnce)
	for layer, diffID := range img.layers {
		group.Go(func() error {
			err := p.layer(ctx, from, layer, diffID)
			if damaged(err) { // what was here already turned out to be something else, and is gone now
				return p.layer(ctx, from, layer, diffID)
			}
			return err
		})
	}
	return group.Wait()
}

func (p *pull) layer(ctx context.Context, from v1.Image, layer v1.Descriptor, diffID v1.Hash) error {
	if p.s.privileged && p.s.hasLayer(diffID) && p.s.hasBlob(layer) {
		return nil
	}
	fetch := func(ctx context.Context) error { return p.fetch(ctx, from, layer) }
	if err := p.s.flights.do(ctx, "blob "+layer.Digest.String(), fetch); err != nil {
		return err
	}
	p.report(Progress{Phase: "unpacking", Layer: layer.Digest.String(), Done: layer.Size, Total: layer.Size})
	return p.s.unpackOne(ctx, layer, diffID)
}

// damaged reports whether an error says that a blob on disk is lost or not what it should be.
func damaged(err error) bool {
	_, corrupt := errors.AsType[*corruptError](err)
	return corrupt || errors.Is(err, fs.ErrNotExist)
}

// fetch downloads a layer, with a few tries.
func (p *pull) fetch(ctx context.Context, from v1.Image, layer v1.Descriptor) error {
	if p.s.hasBlob(layer) {
		return nil
	}
	var err error
	for attempt := range blobAttempts {
		if attempt > 0 {
			p.s.log.WarnContext(ctx, "Layer download failed, trying again", "image", p.ref.String(), "layer", layer.Digest.String(), "err", err)
			if err := pause(ctx, time.Duration(attempt)*300*time.Millisecond); err != nil {
				return err
			}
		}
		if err = p.download(ctx, from, layer); err == nil || !worthRetry(err) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

func (p *pull) download(ctx context.Context, from v1.Image, layer v1.Descriptor) error {
	blob, err := from.LayerByDigest(layer.Digest)
	if err != nil {
		return err
	}
	r, err := blob.Compressed()
	if err != nil {
		return err
	}
	guard := newStallGuard(r, func(done int64) {
		p.report(Progress{Phase: "downloading", Layer: layer.Digest.String(), Done: done, Total: layer.Size})
	})
	defer guard.Close()
	err = p.s.putBlob(ctx, layer, guard)
	if err != nil && guard.done >= layer.Size && !local(err) && ctx.Err() == nil {
		return &corruptError{want: layer, size: guard.done}
	}
	return err
}

// worthRetry reports whether the same request may succeed a moment later.
func worthRetry(err error) bool {
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		return answer.Temporary() || answer.StatusCode >= http.StatusInternalServerError
	}
	_, ours := errors.AsType[*vortex.Error](err)
	return !ours && !local(err)
}

// pause waits unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// stallGuard closes a download that sends nothing for stallTimeout, and reports how far it is.
type stallGuard struct {
	r      io.ReadCloser
	timer  *time.Timer
	report func(done int64)
	done   int64
	last   time.Time
}

func newStallGuard(r io.ReadCloser, report func(int64)) *stallGuard {
	g := &stallGuard{r: r, report: report}
	g.timer = time.AfterFunc(stallTimeout, func() { r.Close() })
	return g
}

// Read reads and puts the deadline off.
func (g *stallGuard) Read(b []byte) (int, error) {
	n, err := g.r.Read(b)
	g.timer.Reset(stallTimeout)
	g.done += int64(n)
	if now := time.Now(); now.Sub(g.last) >= progressEvery || err != nil {
		g.last = now
		g.report(g.done)
	}
	return n, err
}

// Close ends the download.
func (g *stallGuard) Close() error {
	g.timer.Stop()
	return g.r.Close()
}
