package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/client"

	"vortex"
)

// bringImage makes the engine have an image and returns the name to create a container by. The node's own images come
// before a registry's. Callers for the same image wait for the first.
func (d *Driver) bringImage(ctx context.Context, ref string) (string, error) {
	unlock, err := d.lockImage(ctx, ref)
	if err != nil {
		return "", err
	}
	defer unlock()
	if d.hasImage(ctx, ref) {
		return ref, nil
	}
	if d.cfg.Images != nil {
		name, err := d.loadImage(ctx, ref)
		if !vortex.IsKind(err, vortex.NotFound) {
			return name, err
		}
	}
	return ref, d.pullImage(ctx, ref)
}

// lockImage waits for its turn with an image.
func (d *Driver) lockImage(ctx context.Context, ref string) (unlock func(), err error) {
	d.mu.Lock()
	turn := d.loading[ref]
	if turn == nil {
		turn = make(chan struct{}, 1)
		d.loading[ref] = turn
	}
	d.mu.Unlock()
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (d *Driver) hasImage(ctx context.Context, ref string) bool {
	_, err := d.engine.ImageInspect(ctx, ref)
	return err == nil
}

// loadImage streams an image of the node's own store into the engine. The error is NotFound when the store has none.
func (d *Driver) loadImage(ctx context.Context, ref string) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w := io.Pipe()
	exported := make(chan error, 1)
	go func() {
		err := d.cfg.Images.Export(ctx, ref, w)
		w.CloseWithError(err)
		exported <- err
	}()
	loaded, err := d.load(ctx, r)
	_ = r.CloseWithError(io.ErrClosedPipe) // so that Export ends when the engine gave up
	if exportErr := <-exported; exportErr != nil && !errors.Is(exportErr, io.ErrClosedPipe) {
		return "", fmt.Errorf("export image %s: %w", ref, exportErr)
	}
	if err != nil {
		return "", d.fail("load image "+ref+" into the engine", err)
	}
	if d.hasImage(ctx, ref) {
		return ref, nil
	}
	return d.nameLoaded(ctx, ref, loaded)
}

// load returns what the engine says it has loaded: a name or an id.
func (d *Driver) load(ctx context.Context, archive io.Reader) (string, error) {
	answer, err := d.engine.ImageLoad(ctx, archive, client.ImageLoadWithQuiet(true))
	if err != nil {
		return "", err
	}
	defer func() { _ = answer.Close() }()
	loaded := ""
	for dec := json.NewDecoder(answer); ; {
		var m jsonstream.Message
		if err := dec.Decode(&m); errors.Is(err, io.EOF) {
			return loaded, nil
		} else if err != nil {
			return "", err
		}
		if m.Error != nil {
			return "", m.Error
		}
		for _, prefix := range []string{"Loaded image ID: ", "Loaded image: "} {
			if name, ok := strings.CutPrefix(m.Stream, prefix); ok {
				loaded = strings.TrimSpace(name)
			}
		}
	}
}

// nameLoaded gives an image that came under another name, or none, the one it was asked for by. A reference
// with a digest cannot be given: the container is created by what the engine calls the image.
func (d *Driver) nameLoaded(ctx context.Context, ref, loaded string) (string, error) {
	if loaded == "" {
		return "", fmt.Errorf("load image %s: the engine took the archive and names no image of it", ref)
	}
	if strings.Contains(ref, "@") {
		return loaded, nil
	}
	if _, err := d.engine.ImageTag(ctx, client.ImageTagOptions{Source: loaded, Target: ref}); err != nil {
		return "", d.fail("name image "+ref, err)
	}
	return ref, nil
}

// pullImage has the engine fetch an image from its registry.
func (d *Driver) pullImage(ctx context.Context, ref string) error {
	progress, err := d.engine.ImagePull(ctx, ref, client.ImagePullOptions{})
	if err == nil {
		err = progress.Wait(ctx)
		_ = progress.Close()
	}
	if err == nil {
		return nil
	}
	text := err.Error()
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), d.unreachable(err):
		return d.fail("pull image "+ref, err)
	case errdefs.IsInvalidArgument(err), strings.Contains(text, "invalid reference"):
		return vortex.Errorf(vortex.Invalid, "image %q is not a reference like registry/name:tag: %w", ref, err)
	case strings.Contains(text, "denied"), errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err):
		return vortex.Errorf(vortex.Denied, "image %s: neither here nor readable in its registry: check the name, or log the engine in with docker login: %w", ref, err)
	case errdefs.IsNotFound(err), strings.Contains(text, "not found"), strings.Contains(text, "manifest unknown"):
		return vortex.Errorf(vortex.NotFound, "image %s: neither here nor in its registry: check name and tag, or build or import it: %w", ref, err)
	default:
		return vortex.Errorf(vortex.Unavailable, "image %s: its registry cannot be reached: check the network, or import the image: %w", ref, err)
	}
}
