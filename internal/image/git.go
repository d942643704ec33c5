package image

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"vortex"
)

// gitEnvironment keeps git from asking for anything and from helpers that run commands.
var gitEnvironment = []string{
	"GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=true", "GIT_ALLOW_PROTOCOL=https:file", "GIT_CONFIG_NOSYSTEM=1", "GIT_LFS_SKIP_SMUDGE=1",
}

var validRevision = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._/-]{0,254}$`)

// repository is where to build from: URL[#REVISION[:DIRECTORY]].
type repository struct {
	url      string
	revision string // a branch, a tag or a commit; "" is the default branch
	dir      string // inside the repository; "" is its top
}

// BuildRepo makes an image of a git repository, https:// or file://, optionally with #BRANCH and :DIRECTORY after it, as BuildPath does
// of a directory. Only the newest commit is fetched, and no submodules. Invalid for other URLs and for what git cannot fetch.
func (s *Store) BuildRepo(ctx context.Context, repo, name string, progress io.Writer) (Image, error) {
	r, err := parseRepository(repo)
	if err != nil {
		return Image{}, err
	}
	if progress == nil {
		progress = io.Discard
	}
	tmp, err := os.MkdirTemp(s.path("tmp"), "clone-")
	if err != nil {
		return Image{}, fmt.Errorf("clone repository: %w", err)
	}
	defer os.RemoveAll(tmp)
	if err := r.clone(ctx, tmp, progress); err != nil {
		return Image{}, err
	}
	dir, err := r.inside(tmp)
	if err != nil {
		return Image{}, err
	}
	return s.BuildPath(ctx, dir, name, progress)
}

// parseRepository refuses every URL with which git would do more than fetch.
func parseRepository(text string) (repository, error) {
	address, fragment, _ := strings.Cut(text, "#")
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" && u.Scheme != "file" || u.Scheme == "https" && u.Hostname() == "" || u.Path == "" {
		return repository{}, vortex.Errorf(vortex.Invalid, "repository %q is not valid: write https://HOST/PATH or file:///PATH, with #BRANCH for a branch", redact(text))
	}
	if strings.HasPrefix(u.Hostname(), "-") || u.Scheme == "file" && u.Host != "" || strings.ContainsAny(address, "\x00\n\r \t") {
		return repository{}, vortex.Errorf(vortex.Invalid, "repository %q is not valid: its host or path has characters that no repository has", redact(text))
	}
	revision, dir, _ := strings.Cut(fragment, ":")
	if revision != "" && (!validRevision.MatchString(revision) || strings.Contains(revision, "..")) {
		return repository{}, vortex.Errorf(vortex.Invalid, "revision %q is not valid: write a branch, a tag or a commit after #", revision)
	}
	if !inside(dir) {
		return repository{}, vortex.Errorf(vortex.Invalid, "directory %q is not valid: it must lie inside the repository", dir)
	}
	return repository{url: address, revision: revision, dir: dir}, nil
}

// redact hides a password in a URL.
func redact(text string) string {
	if u, err := url.Parse(text); err == nil {
		return u.Redacted()
	}
	return text
}

// clone fetches one commit into dir and removes git's own files.
func (r repository) clone(ctx context.Context, dir string, progress io.Writer) error {
	git, err := exec.LookPath("git")
	if err != nil {
		return vortex.Errorf(vortex.Precondition, "building from a repository needs git, which this node does not have: install it")
	}
	revision := r.revision
	if revision == "" {
		revision = "HEAD"
	}
	for _, args := range [][]string{
		{"init", "--quiet", "--template="},
		{"fetch", "--quiet", "--depth", "1", "--no-tags", "--no-recurse-submodules", "--", r.url, revision},
		{"-c", "advice.detachedHead=false", "checkout", "--quiet", "FETCH_HEAD"},
	} {
		cmd := exec.CommandContext(ctx, git, args...) //nolint:gosec // the URL and revision were checked and follow --
		cmd.Dir = dir
		cmd.Env = append(withoutGit(os.Environ()), gitEnvironment...)
		if err := runTool(ctx, progress, cmd); err != nil {
			return vortex.Errorf(vortex.KindOf(err), "repository %s cannot be fetched: check the URL and the branch: %w", redact(r.url), err)
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, ".git")); err != nil {
		return fmt.Errorf("clone repository: %w", err)
	}
	return nil
}

// withoutGit leaves out what would point git at another repository.
func withoutGit(environment []string) []string {
	return slices.DeleteFunc(environment, func(v string) bool { return strings.HasPrefix(v, "GIT_") })
}

// inside returns the directory to build, which no link may lead out of the clone.
func (r repository) inside(clone string) (string, error) {
	root, err := os.OpenRoot(clone)
	if err != nil {
		return "", fmt.Errorf("clone repository: %w", err)
	}
	defer root.Close()
	if r.dir == "" {
		return clone, nil
	}
	sub, err := root.OpenRoot(r.dir)
	if err != nil {
		return "", vortex.Errorf(vortex.NotFound, "repository %s has no directory %s", redact(r.url), r.dir)
	}
	defer sub.Close()
	return filepath.EvalSymlinks(filepath.Join(clone, r.dir))
}
