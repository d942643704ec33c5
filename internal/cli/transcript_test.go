package cli_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	"vortex/internal/api/kindrpc"
	"vortex/internal/cli"
	"vortex/internal/kind/backup"
	"vortex/internal/kind/kindtest"
)

var update = flag.Bool("update", false, "rewrite the transcripts in testdata")

// TestTranscripts runs the commands of every testdata/*.txtar. A line `$ vortex …` is a command, the lines after it are
// what it prints; those with ! before them go to stderr, a \ is an empty line, and a last line [N] is an exit code
// that is not 0. The files of the archive are in the directory the commands run in, which $DIR names; $TOKEN is the last token that was
// printed. NAME=VALUE before the command is a variable of its environment. Besides there are
//
//	$ vortex … &      goes on beside the lines after it
//	$ until N         waits until that printed N lines
//	$ wait N          does so, interrupts it, and shows what it printed
//	$ wait            waits until it ends by itself, and shows what it printed
//	$ tty vortex …    has a terminal as its stdout; \e is the escape character
//	$ far on, off     starts and stops a second server of the same store, at $FAR
//	$ keep DIR, off   backs the store up; off waits until everything is in the directory
//	$ damage PATTERN  cuts off the last byte of a file
func TestTranscripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) { transcript(t, path) })
	}
}

func transcript(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{world: newWorld(t), T: t, far: freeAddr(t)}
	script, files := unpack(string(data))
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var got strings.Builder
	for line := range strings.Lines(script) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "$ "):
			fmt.Fprintln(&got, line)
			got.WriteString(s.play(strings.TrimPrefix(line, "$ ")))
		case strings.HasPrefix(line, "#") || line == "":
			fmt.Fprintln(&got, line)
		}
	}
	if *update {
		if err := os.WriteFile(path, []byte(got.String()+strings.TrimPrefix(string(data), script)), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(strings.Split(script, "\n"), strings.Split(got.String(), "\n")); diff != "" {
		t.Errorf("%s differs (go test -update rewrites it):\n%s", path, diff)
	}
}

var fileHead = regexp.MustCompile(`(?m)^-- (\S+) --\n`)

// unpack splits an archive in the txtar format into what stands before its files, and them.
func unpack(archive string) (script string, files map[string]string) {
	heads := fileHead.FindAllStringSubmatchIndex(archive, -1)
	script, files = archive, map[string]string{}
	for i, h := range heads {
		end := len(archive)
		if i+1 < len(heads) {
			end = heads[i+1][0]
		}
		files[archive[h[2]:h[3]]] = archive[h[1]:end]
	}
	if len(heads) > 0 {
		script = archive[:heads[0][0]]
	}
	return script, files
}

// scene is a world in which a transcript is played.
type scene struct {
	*world
	*testing.T

	far    string // address of the second server
	second *grpc.Server
	beside *command
	// watchers are how many there were before what goes on beside.
	watchers int
	unkeep   func()
	token    string
}

// play does what a line says, and returns what the transcript says of it.
func (s *scene) play(line string) string {
	s.Helper()
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "until":
		s.until(rest)
	case "wait":
		if rest != "" {
			s.until(rest)
			s.beside.interrupt()
		}
		shown := s.shown(s.beside)
		kindtest.Eventually(s, "its watch ends", func() bool { return s.Store.Watchers() <= s.watchers })
		return shown
	case "far":
		s.setFar(rest == "on")
	case "keep":
		s.keep(rest)
	case "damage":
		s.damage(s.expand(rest))
	default:
		if background, ok := strings.CutSuffix(line, " &"); ok {
			s.begin(background)
			return ""
		}
		return s.shown(s.start(line))
	}
	return ""
}

func (s *scene) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// command is a command under way.
type command struct {
	out, errOut buffer
	interrupt   context.CancelFunc
	code        chan int
}

var redirect = regexp.MustCompile(`^(.*) < (\S+)$`)

// start starts a command line.
func (s *scene) start(line string) *command {
	s.Helper()
	stdin := ""
	if m := redirect.FindStringSubmatch(line); m != nil {
		data, err := os.ReadFile(filepath.Join(s.dir, m[2]))
		s.must(err)
		line, stdin = m[1], string(data)
	}
	args := words(s.expand(line))
	tty := args[0] == "tty"
	if tty {
		args = args[1:]
	}
	environ := s.environ
	for args[0] != "vortex" {
		if !strings.Contains(args[0], "=") {
			s.Fatalf("unknown command %q", args[0])
		}
		environ, args = append(slices.Clip(environ), args[0]), args[1:]
	}
	ctx, cancel := context.WithTimeout(s.Context(), 30*time.Second)
	cmd := &command{interrupt: cancel, code: make(chan int, 1)}
	env := s.env(stdin, &cmd.out, &cmd.errOut)
	env.Environ = environ
	hangUp := func() {}
	if tty {
		env.Stdout, hangUp = s.terminal(&cmd.out)
	}
	go func() {
		code := cli.Main(ctx, args[1:], env)
		hangUp()
		cmd.code <- code
	}()
	return cmd
}

// terminal returns a terminal whose screen is out, and what hangs it up.
func (s *scene) terminal(out io.Writer) (tty *os.File, hangUp func()) {
	s.Helper()
	master, tty, err := openTerminal()
	if errors.Is(err, errors.ErrUnsupported) {
		s.Skip("terminals are opened on Linux only")
	}
	s.must(err)
	var screen sync.WaitGroup
	screen.Go(func() { _, _ = io.Copy(out, master) })
	return tty, func() {
		_ = tty.Close()
		screen.Wait()
		_ = master.Close()
	}
}

// shown waits for the end of a command and returns what the transcript says of it.
func (s *scene) shown(cmd *command) string {
	s.Helper()
	code := <-cmd.code
	cmd.interrupt()
	if token := someToken.FindString(cmd.out.String()); token != "" {
		s.token = token
	}
	var b strings.Builder
	for l := range strings.Lines(s.settle(cmd.out.String())) {
		if l == "\n" {
			l = "\\\n" // an empty line of the transcript is none of the output
		}
		b.WriteString(l)
	}
	last := ""
	for l := range strings.Lines(s.settle(cmd.errOut.String())) {
		if !underway.MatchString(l) && l != last {
			b.WriteString("! " + l)
		}
		if strings.HasPrefix(l, "LOST") { // as often as it was tried
			last = l
		}
	}
	if code != 0 {
		fmt.Fprintf(&b, "[%d]\n", code)
	}
	return b.String()
}

// begin starts a watch that goes on, and returns once it would see a change.
func (s *scene) begin(line string) {
	s.Helper()
	s.watchers = s.Store.Watchers()
	s.beside = s.start(line)
	kindtest.Eventually(s, line+" watches", func() bool { return s.Store.Watchers() > s.watchers })
}

// until waits until what goes on beside has printed so many lines.
func (s *scene) until(lines string) {
	s.Helper()
	n, err := strconv.Atoi(lines)
	s.must(err)
	kindtest.Eventually(s, lines+" lines", func() bool { return strings.Count(s.beside.out.String(), "\n") >= n })
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// setFar starts or stops the second server.
func (s *scene) setFar(on bool) {
	s.Helper()
	if !on {
		s.second.Stop()
		return
	}
	l, err := net.Listen("tcp", s.far)
	s.must(err)
	srv := kindrpc.NewServer(s.kind)
	go func() { _ = srv.Serve(l) }()
	s.Cleanup(srv.Stop)
	s.second = srv
}

// keep begins to back the store up, or ends it.
func (s *scene) keep(dir string) {
	s.Helper()
	if dir == "off" {
		s.unkeep()
		return
	}
	dir = s.expand(dir)
	ctx, cancel := context.WithCancel(context.Background())
	var keeper sync.WaitGroup
	keeper.Go(func() { _ = (&backup.Keeper{Store: s.Store, Dir: dir, Ship: true, Version: "test"}).Run(ctx) })
	s.Cleanup(func() { cancel(); keeper.Wait() })
	reached := func() bool {
		state, err := backup.OpenDir(dir, backup.Moment{})
		return err == nil && state.Revision >= s.Store.Revision()
	}
	kindtest.Eventually(s, "a snapshot is in "+dir, reached)
	s.unkeep = func() {
		kindtest.Eventually(s, "everything is in "+dir, reached)
		cancel()
		keeper.Wait()
	}
}

// damage cuts off the last byte of the one file that a pattern matches.
func (s *scene) damage(pattern string) {
	s.Helper()
	paths, err := filepath.Glob(pattern)
	s.must(err)
	if len(paths) != 1 {
		s.Fatalf("%s is %q; want one file", pattern, paths)
	}
	info, err := os.Stat(paths[0])
	s.must(err)
	s.must(os.Truncate(paths[0], info.Size()-1))
}

var (
	someToken = regexp.MustCompile(`vx_\w+`)
	underway  = regexp.MustCompile(`^app/\S+ (waits for|release \d+: )`) // depends on how fast things are
	volatile  = []struct {
		find *regexp.Regexp
		put  string
	}{
		{regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d)`), "TIME"},
		{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?`), "TIME"},
		{regexp.MustCompile(`vortex-\d{8}T\d{6}Z-r\d+(-\w+)?`), "vortex-TIME-rREV"},
		{regexp.MustCompile(`("?log"?: )"?\w+"?`), "${1}LOG"},
		{someToken, "vx_TOKEN"},
		{regexp.MustCompile(`vxj_\w+`), "vxj_TOKEN"},
		{regexp.MustCompile(`vortex:join:\w+`), "vortex:join:ID"},
		{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "SHA256"},
		{regexp.MustCompile(`(bytes"?:\s+)\d+`), "${1}N"},
		{regexp.MustCompile(`(?m)\b\d+(?:\.\d+)? [KM]?i?B(\s|$)`), "SIZE$1"},
		{regexp.MustCompile(`(watchers"?:?\s+)\d+`), "${1}N"},
		{regexp.MustCompile(`(good +)[a-z2-7]{8}\b`), "${1}LOG"},
		{regexp.MustCompile(`byte \d+`), "byte N"},
		{regexp.MustCompile(`vortex undo \d+`), "vortex undo REV"},
		{regexp.MustCompile(`(newest|kept) is \d+`), "$1 is REV"},
		{regexp.MustCompile(`\b\d+s\b`), "1s"},
		{regexp.MustCompile(`(revision|REVISION)("?:?\s*)\d+`), "${1}${2}REV"},
		{regexp.MustCompile(`revisions \d+ to \d+`), "revisions REV to REV"},
		{regexp.MustCompile(`(PUT|DELETE|PROGRESS) *(\\e\[m)? *\d+`), "$1$2 REV"},
		{regexp.MustCompile(`(?m)^.*(: connecting again)$`), "LOST$1"},
		{regexp.MustCompile(`go1[0-9.]+ \w+/\w+`), "GO"},
	}
)

// expand puts in what the names of a line stand for.
func (s *scene) expand(line string) string {
	return strings.NewReplacer("$DIR", s.dir, "$FAR", s.far, "$TOKEN", s.token).Replace(line)
}

// settle replaces what differs from run to run.
func (s *scene) settle(text string) string {
	text = strings.NewReplacer(s.URL, "http://SERVER", strings.TrimPrefix(s.URL, "http://"), "SERVER", s.dir, "$DIR", s.far, "$FAR",
		"\r\n", "\n", "\x1b", `\e`).Replace(text)
	for _, v := range volatile {
		text = v.find.ReplaceAllString(text, v.put)
	}
	return text
}

// words splits a command line; single quotes keep words together.
func words(line string) (out []string) {
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			out = append(out, part)
			continue
		}
		out = append(out, strings.Fields(part)...)
	}
	return out
}

// buffer is a buffer that is read while it is written.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String returns what was written.
func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
