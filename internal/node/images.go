package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"vortex"
	"vortex/client"
	"vortex/internal/image"
	"vortex/internal/runtime/oci"
	"vortex/internal/runtime/process"
)

// rootfs gives the oci driver its roots from the image store.
type rootfs struct{ store *image.Store }

// Mount implements oci.Images.
func (r rootfs) Mount(ctx context.Context, ref, instance, target string) (oci.ImageConfig, error) {
	cfg, err := r.store.Mount(ctx, ref, instance, target)
	return oci.ImageConfig{
		Entrypoint: cfg.Entrypoint, Cmd: cfg.Cmd, Env: cfg.Env, WorkingDir: cfg.WorkingDir, User: cfg.User, Digest: cfg.Digest,
	}, err
}

// Unmount implements oci.Images.
func (r rootfs) Unmount(ctx context.Context, instance string) error {
	return r.store.Unmount(ctx, instance)
}

// roots gives the process driver the files of images.
type roots struct{ store *image.Store }

// Digest implements process.Images.
func (r roots) Digest(ctx context.Context, ref string) (string, error) {
	img, err := r.store.Ensure(ctx, ref, image.IfNotPresent)
	return img.Digest, err
}

// Extract implements process.Images.
func (r roots) Extract(ctx context.Context, ref, dir string) (process.ImageConfig, error) {
	cfg, err := r.store.Extract(ctx, ref, dir)
	return process.ImageConfig{Entrypoint: cfg.Entrypoint, Cmd: cfg.Cmd, Env: cfg.Env, WorkingDir: cfg.WorkingDir}, err
}

// puller makes images ready for the agent.
type puller struct {
	store *image.Store
	// fetch gets an image from the servers of the cluster, NotFound when they have not got it; nil without a cluster.
	fetch func(ctx context.Context, ref string) error
}

// Ensure implements agent.Images: an image that is here is enough, then one that a server of the cluster has, then the registry's.
func (p puller) Ensure(ctx context.Context, ref string, progress func(string)) error {
	if _, err := p.store.Ensure(ctx, ref, image.Never); err == nil || !vortex.IsKind(err, vortex.NotFound) {
		return err
	}
	var ferr error
	if p.fetch != nil {
		progress("asking the servers of the cluster for " + ref)
		if ferr = p.fetch(ctx, ref); ferr == nil {
			return nil
		}
	}
	_, err := p.store.Pull(ctx, ref, image.PullOptions{Progress: func(pr image.Progress) { progress(progressText(pr)) }})
	if err != nil && ferr != nil && !vortex.IsKind(ferr, vortex.NotFound) {
		return errors.Join(err, ferr)
	}
	return err
}

// progressText says how far a pull is, for people.
func progressText(p image.Progress) string {
	if p.Total > 0 {
		return fmt.Sprintf("%s %s: %d of %d KiB", p.Phase, p.Image, p.Done>>10, p.Total>>10)
	}
	return p.Phase + " " + p.Image
}

// images is the image store as the API sees it.
type images struct{ store *image.Store }

// Check implements api.Images.
func (i images) Check(ctx context.Context, ref string) error { return i.store.Check(ctx, ref) }

// List implements api.Images.
func (i images) List(context.Context) ([]client.Image, error) {
	list, err := i.store.List()
	if err != nil {
		return nil, err
	}
	used := i.used()
	out := make([]client.Image, len(list))
	for n, img := range list {
		out[n] = imageOf(img)
		out[n].InUse = used[img.Digest]
	}
	return out, nil
}

func (i images) used() map[string]bool {
	used := map[string]bool{}
	for _, m := range i.store.Mounts() {
		used[m.Digest] = true
	}
	return used
}

// Pull implements api.Images.
func (i images) Pull(ctx context.Context, req client.PullRequest, progress func(client.Progress)) (client.Image, error) {
	img, err := i.store.Pull(ctx, req.Reference, image.PullOptions{
		Auth:     image.Auth{Username: req.Username, Password: req.Password},
		Progress: func(p image.Progress) { progress(progressOf(p)) },
	})
	return imageOf(img), err
}

// Push implements api.Images.
func (i images) Push(ctx context.Context, req client.PullRequest, progress func(client.Progress)) error {
	progress(client.Progress{Message: "pushing " + req.Reference})
	return i.store.Push(ctx, req.Reference, image.PushOptions{Auth: image.Auth{Username: req.Username, Password: req.Password}})
}

// Import implements api.Images.
func (i images) Import(ctx context.Context, archive io.Reader, name string) (client.Image, error) {
	list, err := i.store.Import(ctx, archive, name)
	if err != nil || len(list) == 0 {
		return client.Image{}, err
	}
	return imageOf(list[0]), nil
}

// Remove implements api.Images.
func (i images) Remove(_ context.Context, ref string, force bool) error {
	return i.store.Remove(ref, force)
}

// Build implements api.Builder.
func (i images) Build(ctx context.Context, req client.BuildRequest, progress func(client.Progress)) (client.Image, error) {
	lines := &lineWriter{line: func(text string) { progress(client.Progress{Message: text}) }}
	var img image.Image
	var err error
	switch {
	case req.Repo != "":
		img, err = i.store.BuildRepo(ctx, req.Repo, req.Name, lines)
	case req.Dockerfile != "":
		img, err = i.store.BuildDockerfile(ctx, req.Path, req.Dockerfile, req.Name, lines)
	case !filepath.IsAbs(req.Path):
		return client.Image{}, vortex.Errorf(vortex.Invalid, "the path to build must be absolute on the server's machine, got %q", req.Path)
	default:
		img, err = i.store.BuildPath(ctx, req.Path, req.Name, lines)
	}
	return imageOf(img), err
}

// Pin implements api.Builder: the name's tag is the image's digest.
func (i images) Pin(_ context.Context, ref string) (string, error) {
	img, err := i.store.Inspect(ref)
	if err != nil {
		return "", err
	}
	const digits = 12
	_, digest, _ := strings.Cut(img.Digest, ":")
	repository := img.Name
	if at := strings.LastIndexByte(repository, ':'); at > strings.LastIndexByte(repository, '/') {
		repository = repository[:at]
	}
	pinned := repository + ":" + digest[:min(digits, len(digest))]
	return pinned, i.store.Tag(ref, pinned)
}

// BuildArchive implements api.Builder.
func (i images) BuildArchive(ctx context.Context, directory io.Reader, req client.BuildRequest, progress func(client.Progress)) (client.Image, error) {
	progress(client.Progress{Message: "building " + req.Name})
	img, err := i.store.Build(ctx, image.BuildContext{Source: directory}, req.Name)
	return imageOf(img), err
}

func imageOf(img image.Image) client.Image {
	return client.Image{Reference: img.Name, Digest: img.Digest, Size: img.Size, CreatedAt: img.Created}
}

func progressOf(p image.Progress) client.Progress {
	return client.Progress{Message: p.Phase + " " + p.Image, Done: p.Done, Total: p.Total}
}

// lineWriter hands on whole lines of what is written to it.
type lineWriter struct {
	line func(string)
	rest []byte
}

// Write implements io.Writer.
func (w *lineWriter) Write(p []byte) (int, error) {
	for _, b := range p {
		if b != '\n' {
			w.rest = append(w.rest, b)
			continue
		}
		w.line(string(w.rest))
		w.rest = w.rest[:0]
	}
	return len(p), nil
}
