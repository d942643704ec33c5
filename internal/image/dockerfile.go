package image

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/moby/client"

	"vortex"
)

const (
	defaultDockerfile = "Dockerfile"
	pingTimeout       = 2 * time.Second
)

// BuildDockerfile makes an image of a directory with a Dockerfile, by the Docker Engine when one answers and by buildah
// when it is installed. dockerfile is relative to contextDir; "" is Dockerfile. progress gets the builder's output; nil discards it.
// Errors: NotFound without that file, Precondition without a builder, Invalid when the build fails, with its last words.
func (s *Store) BuildDockerfile(ctx context.Context, contextDir, dockerfile, name string, progress io.Writer) (Image, error) {
	ref, err := parseTag(name)
	if err != nil {
		return Image{}, err
	}
	if dockerfile == "" {
		dockerfile = defaultDockerfile
	}
	if progress == nil {
		progress = io.Discard
	}
	if err := checkDockerfile(contextDir, dockerfile); err != nil {
		return Image{}, err
	}
	build := dockerfileBuild{s: s, dir: contextDir, dockerfile: dockerfile, name: ref.canonical(), progress: progress}
	engine, err := s.dockerEngine(ctx)
	if err == nil {
		defer engine.Close()
		return build.docker(ctx, engine)
	}
	if tool, missing := exec.LookPath("buildah"); missing == nil {
		return build.buildah(ctx, tool)
	}
	return Image{}, &vortex.Error{Kind: vortex.Precondition, Err: err, Msg: "a Dockerfile needs a builder, and this node has none: " +
		"install Docker or buildah, build elsewhere and use `vortex image import`, or build a static executable, which needs no Dockerfile"}
}

// checkDockerfile refuses a Dockerfile that is missing or not inside the context.
func checkDockerfile(dir, dockerfile string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return vortex.Errorf(vortex.NotFound, "the directory %s cannot be opened to build from", dir)
	}
	defer root.Close()
	if info, err := root.Stat(dockerfile); err != nil || !info.Mode().IsRegular() {
		return vortex.Errorf(vortex.NotFound, "there is no file %s in the directory to build from", dockerfile)
	}
	return nil
}

// dockerEngine returns a client of the Docker Engine, if one answers.
func (s *Store) dockerEngine(ctx context.Context) (*client.Client, error) {
	opts := []client.Opt{client.FromEnv}
	if s.cfg.DockerHost != "" {
		opts = append(opts, client.WithHost(s.cfg.DockerHost))
	}
	engine, err := client.New(opts...)
	if err != nil {
		return nil, fmt.Errorf("reach docker: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if _, err := engine.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return nil, errors.Join(fmt.Errorf("reach docker: %w", err), engine.Close())
	}
	return engine, nil
}

// dockerfileBuild is a build on its way.
type dockerfileBuild struct {
	s          *Store
	dir        string
	dockerfile string
	name       string
	progress   io.Writer
}

// docker builds in the Docker Engine and takes the image over. The engine keeps it under a name of ours until the next build
// of the same image, which so finds its layers again and takes the place of this one.
func (b *dockerfileBuild) docker(ctx context.Context, engine *client.Client) (Image, error) {
	tag := engineTag(b.name)
	earlier := b.engineID(ctx, engine, tag)
	packed := stream(func(w io.Writer) error { return PackDir(ctx, b.dir, w) })
	defer packed.Close()
	result, err := engine.ImageBuild(ctx, packed, client.ImageBuildOptions{
		Tags: []string{tag}, Dockerfile: filepath.ToSlash(b.dockerfile), Remove: true, ForceRemove: true,
	})
	if err != nil {
		return Image{}, vortex.Errorf(vortex.Invalid, "the Docker Engine refused the build: %w", err)
	}
	defer result.Body.Close()
	id, err := b.follow(result.Body)
	if err != nil {
		return Image{}, err
	}
	if earlier != "" && earlier != id {
		defer b.removeFrom(ctx, engine, earlier)
	}
	saved, err := engine.ImageSave(ctx, []string{cmp.Or(id, tag)})
	if err != nil {
		return Image{}, vortex.Errorf(vortex.Unavailable, "the Docker Engine built the image but did not hand it over: %w", err)
	}
	defer saved.Close()
	return b.take(ctx, saved)
}

// engineTag is the name under which a Docker Engine keeps what it built for an image of ours.
func engineTag(canonical string) string {
	return "vortex-build:" + hashOf([]byte(canonical)).Hex[:16]
}

// engineID returns the id of an image in the engine, or "".
func (b *dockerfileBuild) engineID(ctx context.Context, engine *client.Client, tag string) string {
	found, err := engine.ImageInspect(ctx, tag)
	if err != nil {
		return ""
	}
	return found.ID
}

// removeFrom removes an image and the layers only it had from the engine, even when the build was cancelled meanwhile.
func (b *dockerfileBuild) removeFrom(ctx context.Context, engine *client.Client, image string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if _, err := engine.ImageRemove(ctx, image, client.ImageRemoveOptions{PruneChildren: true}); err != nil {
		b.s.log.DebugContext(ctx, "Earlier image stays in the Docker Engine", "image", image, "err", err)
	}
}

// buildMessage is one message of the Docker Engine's build output.
type buildMessage struct {
	Stream string `json:"stream"`
	Status string `json:"status"`
	Error  string `json:"error"`
	Aux    struct {
		ID string
	} `json:"aux"`
}

// follow copies the build's output to progress and returns the id of the image that was built.
func (b *dockerfileBuild) follow(output io.Reader) (id string, err error) {
	decoder := json.NewDecoder(output)
	for {
		var m buildMessage
		err := decoder.Decode(&m)
		switch {
		case errors.Is(err, io.EOF):
			return id, nil
		case err != nil:
			return "", vortex.Errorf(vortex.Unavailable, "the Docker Engine broke the build off: %w", err)
		case strings.Contains(m.Error, "BuildKit"):
			return "", vortex.Errorf(vortex.Invalid, "the build failed, for the Dockerfile needs BuildKit: build it with `docker build`, then `docker save | vortex image import`: %s",
				m.Error)
		case m.Error != "":
			return "", vortex.Errorf(vortex.Invalid, "the build failed: %s", strings.TrimSpace(m.Error))
		}
		id = cmp.Or(m.Aux.ID, id)
		text := m.Stream
		if m.Status != "" {
			text = m.Status + "\n"
		}
		if _, err := io.WriteString(b.progress, text); err != nil {
			return "", fmt.Errorf("write progress: %w", err)
		}
	}
}

// buildah builds with buildah, through an archive aside.
func (b *dockerfileBuild) buildah(ctx context.Context, tool string) (Image, error) {
	dir, err := os.MkdirTemp(b.s.path("tmp"), "buildah-")
	if err != nil {
		return Image{}, fmt.Errorf("build image: %w", err)
	}
	defer os.RemoveAll(dir)
	archive := filepath.Join(dir, "image.tar")
	tag := "localhost/vortex-build:" + strings.ToLower(rand.Text())
	if err := b.command(ctx, tool, "build", "--isolation", "chroot", "-f", filepath.Join(b.dir, b.dockerfile), "-t", tag, b.dir); err != nil {
		return Image{}, err
	}
	err = b.command(ctx, tool, "push", tag, "docker-archive:"+archive)
	if removed := b.command(context.WithoutCancel(ctx), tool, "rmi", tag); removed != nil {
		b.s.log.WarnContext(ctx, "Temporary image stays in buildah", "image", tag, "err", removed)
	}
	if err != nil {
		return Image{}, err
	}
	f, err := os.Open(archive)
	if err != nil {
		return Image{}, fmt.Errorf("build image: %w", err)
	}
	defer f.Close()
	return b.take(ctx, f)
}

// command runs a tool, its output going to progress. A failure carries the last lines.
func (b *dockerfileBuild) command(ctx context.Context, tool string, args ...string) error {
	return runTool(ctx, b.progress, exec.CommandContext(ctx, tool, args...)) //nolint:gosec // tool comes from PATH, args are ours
}

// take stores the archive a builder made.
func (b *dockerfileBuild) take(ctx context.Context, archive io.Reader) (Image, error) {
	images, err := b.s.Import(ctx, archive, b.name)
	if err != nil {
		return Image{}, err
	}
	return images[0], nil
}

// runTool runs a command with its output going to progress, and ends it when ctx ends. A failure is Invalid and carries the last lines.
func runTool(ctx context.Context, progress io.Writer, cmd *exec.Cmd) error {
	var last tail
	cmd.Stdout = io.MultiWriter(progress, &last)
	cmd.Stderr = cmd.Stdout
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if stop := canceled(ctx); stop != nil {
		return stop
	}
	if err != nil {
		return vortex.Errorf(vortex.Invalid, "%s failed: %s: %w", filepath.Base(cmd.Path), last.text(), err)
	}
	return nil
}

// tail keeps the end of what is written to it.
type tail struct{ buffer []byte }

// Write keeps the last 2 KiB.
func (t *tail) Write(p []byte) (int, error) {
	t.buffer = append(t.buffer, p...)
	if extra := len(t.buffer) - 2048; extra > 0 {
		t.buffer = t.buffer[extra:]
	}
	return len(p), nil
}

// text returns the last three lines in one.
func (t *tail) text() string {
	var lines []string
	scanner := bufio.NewScanner(bytes.NewReader(t.buffer))
	for scanner.Scan() {
		if line := strings.TrimSpace(scanner.Text()); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-3):], " | ")
}
