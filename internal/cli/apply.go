package cli

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vortex"
	"vortex/client"
	"vortex/internal/spec"
)

const (
	defaultWait  = 5 * time.Minute
	logTail      = 10      // lines shown of what failed
	maxStdinSpec = 1 << 20 // bytes
)

func (a *cli) applyCommand() *cobra.Command {
	var files []string
	var opts applyOptions
	var noWait bool
	cmd := &cobra.Command{
		Use: "apply -f FILE…|DIR|-", Aliases: []string{"register"},
		Short:   "Create or update apps from specs or compose files, and wait until they run",
		Example: "  vortex apply -f app.yaml\n  vortex apply -f ./deploy --dry-run\n  cat app.yaml | vortex apply -f -",
		Args:    files2args(&files),
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "spec, compose file, directory of them, or - for stdin; may be repeated")
	cmd.Flags().BoolVar(&opts.dryRun, "dry-run", false, "check everything and print what would change")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until the apps run")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		documents, err := a.needDocuments(cmd, files)
		if err != nil {
			return err
		}
		c, err := a.client()
		if err != nil {
			return err
		}
		opts.wait = !noWait && !opts.dryRun
		return a.apply(cmd.Context(), c, documents, opts)
	}
	return cmd
}

// files2args accepts files without -f too.
func files2args(files *[]string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		*files = append(*files, args...)
		return nil
	}
}

func (a *cli) diffCommand() *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use: "diff -f FILE…|DIR|-", Short: "Print what apply would change",
		Args: files2args(&files),
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "spec, compose file, directory of them, or - for stdin; may be repeated")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		documents, err := a.needDocuments(cmd, files)
		if err != nil {
			return err
		}
		c, err := a.client()
		if err != nil {
			return err
		}
		return a.apply(cmd.Context(), c, documents, applyOptions{dryRun: true})
	}
	return cmd
}

func (a *cli) needDocuments(cmd *cobra.Command, files []string) ([]spec.Document, error) {
	if len(files) == 0 {
		return nil, errUsage("%s: expected -f with a file, a directory or -, got nothing\nusage: %s", cmd.CommandPath(), cmd.UseLine())
	}
	documents, err := loadDocuments(a, files)
	if err == nil && len(documents) == 0 {
		err = errUsage("no app in %s", strings.Join(files, ", "))
	}
	return documents, err
}

// loadDocuments reads specs from files, directories and stdin.
func loadDocuments(a *cli, files []string) ([]spec.Document, error) {
	var documents []spec.Document
	var paths []string
	for _, file := range files {
		if file != "-" {
			paths = append(paths, file)
			continue
		}
		data, err := io.ReadAll(io.LimitReader(a.env.Stdin, maxStdinSpec+1))
		if err != nil {
			return nil, fmt.Errorf("read stdin: %w", err)
		}
		apps, err := spec.Parser{Dir: ".", Environment: a.vars}.Parse("stdin", data)
		if err != nil {
			return nil, err
		}
		for _, app := range apps {
			documents = append(documents, spec.Document{File: "stdin", App: app})
		}
	}
	loaded, err := spec.Parser{Environment: a.vars}.Load(paths...)
	return append(documents, loaded...), err
}

type applyOptions struct{ dryRun, wait bool }

// apply registers apps, prints what it did to each, and waits until they run.
func (a *cli) apply(ctx context.Context, c *client.Client, documents []spec.Document, opts applyOptions) error {
	var answers []client.RegisterResponse
	for _, doc := range documents {
		image, err := a.buildFor(ctx, c, doc, opts)
		if err != nil {
			return about(doc, err)
		}
		answer, err := c.Register(ctx, doc.App, image, opts.dryRun)
		if err != nil {
			return about(doc, err)
		}
		answers = append(answers, answer)
		if a.tableOnly() {
			a.printChange(answer)
		} else if a.output == "name" {
			a.say("%s", answer.AppName)
		}
	}
	if !opts.wait {
		return a.printAnswers(answers)
	}
	for _, answer := range answers {
		if err := a.awaitRollout(ctx, c, answer); err != nil {
			return err
		}
	}
	return a.printAnswers(answers)
}

func (a *cli) printAnswers(answers []client.RegisterResponse) error {
	if a.output != "json" && a.output != "yaml" {
		return nil
	}
	return a.object(answers)
}

// about says which app of which file an error is about.
func about(doc spec.Document, err error) error {
	return fmt.Errorf("%s (%s): %w", doc.App.Metadata.Name, doc.File, err)
}

// printChange prints what was done to one app, and the fields that changed.
func (a *cli) printChange(answer client.RegisterResponse) {
	if a.quiet {
		return
	}
	what := a.style.state(answer.Status)
	if answer.DryRun && answer.Status != client.RegisteredUnchanged {
		what = "would be " + what
	}
	a.say("app/%s %s", answer.AppName, what)
	for _, warning := range answer.Warnings {
		a.note("warning: %s", warning)
	}
	for _, ch := range answer.Changes {
		switch {
		case ch.Old == "":
			a.say("  %s %s: %s", a.style.good("+"), ch.Path, ch.New)
		case ch.New == "":
			a.say("  %s %s: %s", a.style.bad("-"), ch.Path, ch.Old)
		default:
			a.say("  %s %s: %s → %s", a.style.warn("~"), ch.Path, ch.Old, ch.New)
		}
	}
}

// buildFor has the image built of an app that comes as a directory or a repository, and returns its reference.
func (a *cli) buildFor(ctx context.Context, c *client.Client, doc spec.Document, opts applyOptions) (string, error) {
	what := doc.App.Spec
	if what.Image != "" || opts.dryRun || what.Path == "" && what.Repo == "" {
		return "", nil
	}
	req := client.BuildRequest{Name: doc.App.Metadata.Name, Repo: what.Repo}
	if what.Repo != "" {
		image, err := c.BuildImage(ctx, req, a.showProgress)
		return imageRef(image), err
	}
	dir := what.Path
	if !filepath.IsAbs(dir) && doc.File != "stdin" {
		dir = filepath.Join(filepath.Dir(doc.File), dir)
	}
	image, err := a.buildPath(ctx, c, dir, req)
	return imageRef(image), err
}

// imageRef names an image so that a later build under the same name is another.
func imageRef(image client.Image) string { return cmp.Or(image.Reference, image.Digest) }

// buildPath has an image built of a directory or a static executable: read by a server on this machine, sent to any other.
func (a *cli) buildPath(ctx context.Context, c *client.Client, dir string, req client.BuildRequest) (client.Image, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return client.Image{}, fmt.Errorf("find %s: %w", dir, err)
	}
	info, err := os.Stat(abs)
	if err != nil {
		return client.Image{}, errUsage("expected a directory or a static executable at %s, found nothing", abs)
	}
	if isLoopback(c.Server()) {
		local := req
		local.Path = abs
		image, err := c.BuildImage(ctx, local, a.showProgress)
		if !vortex.IsKind(err, vortex.NotFound) {
			return image, err
		}
		// A server in a container answers on the loopback and does not see this machine's files.
	}
	if !info.IsDir() {
		return a.sendFile(ctx, c, abs, req)
	}
	reader, writer := io.Pipe()
	go func() { writer.CloseWithError(tarDirectory(writer, abs)) }()
	defer reader.Close()
	return c.BuildImageFrom(ctx, reader, req, a.showProgress)
}

// sendFile has an image built of an executable that is sent to the server.
func (a *cli) sendFile(ctx context.Context, c *client.Client, path string, req client.BuildRequest) (client.Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return client.Image{}, errUsage("expected a readable executable at %s: %v", path, err)
	}
	defer f.Close()
	return c.BuildImageFrom(ctx, f, req, a.showProgress)
}

func isLoopback(server string) bool {
	u, err := url.Parse(server)
	return err == nil && (u.Hostname() == "localhost" || strings.HasPrefix(u.Hostname(), "127.") || u.Hostname() == "::1")
}

// tarDirectory writes a directory as a tar stream.
func tarDirectory(w io.Writer, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	defer root.Close()
	archive := tar.NewWriter(w)
	if err := archive.AddFS(root.FS()); err != nil {
		return fmt.Errorf("read directory: %w", err)
	}
	return archive.Close()
}

// showProgress prints how far an image is.
func (a *cli) showProgress(p client.Progress) {
	if a.quiet || p.Message == "" {
		return
	}
	if p.Total > 0 {
		a.status("%s %s of %s", p.Message, size(uint64(max(p.Done, 0))), size(uint64(p.Total)))
		return
	}
	a.status("%s", p.Message)
}

// awaitRollout waits until the generation that was registered runs, and shows how far it is. When it fails it
// tells why, with the last lines of what the instance wrote.
func (a *cli) awaitRollout(ctx context.Context, c *client.Client, answer client.RegisterResponse) error {
	if a.timeout == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultWait)
		defer cancel()
	}
	defer a.endStatus()
	last := "the server said nothing about it"
	for app, err := range c.FollowApp(ctx, answer.AppName) {
		if err != nil {
			return a.stoppedWaiting(ctx, answer.AppName, last, err)
		}
		if app.Status == client.StatusStopped {
			a.note("app/%s is stopped; `vortex start %s` runs it", app.Name, app.Name)
			return nil
		}
		done, text := rolloutProgress(&app, answer.Generation)
		last = text
		switch {
		case !done:
			a.status("app/%s %s", app.Name, text)
		case app.Rollout.State == string(vortex.RolloutStateComplete):
			a.endStatus()
			a.note("app/%s %s", app.Name, a.style.good(text))
			return nil
		default:
			a.endStatus()
			return a.rolloutFailed(ctx, c, &app)
		}
	}
	return a.stoppedWaiting(ctx, answer.AppName, last, nil)
}

// rolloutProgress says how far a generation is.
func rolloutProgress(app *client.App, generation uint64) (done bool, text string) {
	r := app.Rollout
	if r == nil || r.Generation < generation {
		return false, "waits for the control plane"
	}
	text = fmt.Sprintf("release %d: %d/%d instances healthy", r.Release, healthyOf(app, r.Release), app.Replicas.Desired)
	switch vortex.RolloutState(r.State) {
	case vortex.RolloutStateFailed, vortex.RolloutStateReverted:
		return true, text
	case vortex.RolloutStateComplete:
		if app.Replicas.Healthy >= app.Replicas.Desired {
			return true, fmt.Sprintf("release %d runs: %d/%d instances healthy", r.Release, app.Replicas.Healthy, app.Replicas.Desired)
		}
	case vortex.RolloutStateProgressing:
	}
	if app.Message != "" {
		text += " (" + app.Message + ")"
	}
	return false, text
}

func healthyOf(app *client.App, release uint64) (n int) {
	for _, c := range app.Containers {
		if c.Release == release && c.Status == string(vortex.ContainerStatusRunning) && c.Health == string(vortex.HealthHealthy) {
			n++
		}
	}
	return n
}

// rolloutFailed tells why a release does not run.
func (a *cli) rolloutFailed(ctx context.Context, c *client.Client, app *client.App) error {
	r := app.Rollout
	text := fmt.Sprintf("release %d of %s does not run: %s", r.Release, app.Name, cmp.Or(r.Message, "no reason given"))
	if r.State == string(vortex.RolloutStateReverted) {
		text += fmt.Sprintf("\nrelease %d runs again", r.Active)
	}
	if lines := lastLines(ctx, c, app.Name, r.Instance); lines != "" {
		text += "\nthe last lines of " + r.Instance + ":\n" + lines
	}
	return vortex.Errorf(vortex.Conflict, "%s\n`vortex status %s` and `vortex events` tell more", text, app.Name)
}

// lastLines are the last lines an instance wrote; "" when they cannot be had.
func lastLines(ctx context.Context, c *client.Client, app, instance string) string {
	if instance == "" {
		return ""
	}
	entries, err := c.Logs(ctx, app, client.LogOptions{Tail: logTail, Instance: instance})
	if err != nil {
		return ""
	}
	lines := make([]string, len(entries))
	for i, entry := range entries {
		lines[i] = "  " + entry.Line
	}
	return strings.Join(lines, "\n")
}

// stoppedWaiting says why the wait for an app ended.
func (a *cli) stoppedWaiting(ctx context.Context, app, last string, err error) error {
	a.endStatus()
	switch {
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		return fmt.Errorf("app/%s is not there in time: %s\nit goes on; `vortex status %s` shows how far it is: %w", app, last, app, context.DeadlineExceeded)
	case err != nil:
		return err
	default:
		return vortex.Errorf(vortex.Unavailable, "the server went away while app/%s was starting\n`vortex status %s` shows how far it is", app, app)
	}
}
