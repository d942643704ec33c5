package logread_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vortex/internal/runtime"
	"vortex/internal/runtime/logfile"
	"vortex/internal/runtime/logread"
)

// pipe is an instance's output and the log it goes to.
type pipe struct {
	r, w *os.File
	log  *logfile.Writer
	path string
}

func newPipe(t *testing.T, maxSize int64, files int) *pipe {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	path := filepath.Join(t.TempDir(), "log")
	return &pipe{r, w, logfile.Open(path, maxSize, files), path}
}

// write sends text through the pipe into the log.
func (p *pipe) write(t *testing.T, text string, which int) {
	t.Helper()
	for len(text) > 0 {
		n, err := p.w.WriteString(text[:min(len(text), 4096)])
		if err != nil {
			t.Fatal(err)
		}
		text = text[n:]
		for n > 0 {
			m, err := p.log.ReadFrom(int(p.r.Fd()), which)
			if err != nil {
				t.Fatal(err)
			}
			n -= m
		}
	}
}

func read(t *testing.T, path string, opts runtime.LogOptions) []string {
	t.Helper()
	var lines []string
	for e, err := range logread.Read(t.Context(), logread.Source{Path: path, Done: func() bool { return true }}, opts) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("%d %s", e.Stream, e.Line))
	}
	return lines
}

func TestEntries(t *testing.T) {
	p := newPipe(t, 1<<20, 2)
	p.write(t, "one\n\ntw", logfile.Stdout)
	p.write(t, "err\r\n", logfile.Stderr)
	p.write(t, "o\nunended", logfile.Stdout)
	p.log.Close()
	got := strings.Join(read(t, p.path, runtime.LogOptions{}), "|")
	if want := "1 one|1 |2 err\r|1 two|1 unended"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestLongLines joins what was written in parts, also when the other stream writes in between.
func TestLongLines(t *testing.T) {
	p := newPipe(t, 8<<20, 2)
	line := strings.Repeat("x", 3*logfile.PartSize+17)
	p.write(t, line, logfile.Stdout)
	p.write(t, "between\n", logfile.Stderr)
	p.write(t, "\n"+strings.Repeat("y", 2*logread.MaxLine)+"\n", logfile.Stdout)
	p.log.Close()
	got := read(t, p.path, runtime.LogOptions{})
	if len(got) < 4 || got[0] != "2 between" || got[1] != "1 "+line {
		t.Fatalf("%d entries, the first of %d and %d bytes", len(got), len(got[0]), len(got[1]))
	}
	sum := 0
	for _, l := range got[2:] {
		sum += strings.Count(l, "y")
		if len(l) > logread.MaxLine+logfile.PartSize {
			t.Errorf("an entry of %d bytes", len(l))
		}
	}
	if sum != 2*logread.MaxLine {
		t.Errorf("%d bytes of the longest line, want %d", sum, 2*logread.MaxLine)
	}
}

// TestUnendedLine keeps a line that fills its parts exactly and never ends, whoever closed the log.
func TestUnendedLine(t *testing.T) {
	p := newPipe(t, 8<<20, 2)
	line := strings.Repeat("x", 2*logfile.PartSize)
	p.write(t, line, logfile.Stdout)
	if got := read(t, p.path, runtime.LogOptions{}); len(got) != 1 || got[0] != "1 "+line {
		t.Errorf("before the close: %d entries", len(got))
	}
	p.log.Close()
	if got := read(t, p.path, runtime.LogOptions{}); len(got) != 1 || got[0] != "1 "+line {
		t.Errorf("after the close: %d entries", len(got))
	}
}

// TestRotation keeps the newest lines in a bounded number of bounded files.
func TestRotation(t *testing.T) {
	const size, files = 64 << 10, 3
	p := newPipe(t, size, files)
	const n = 20_000
	for i := range n {
		p.write(t, fmt.Sprintf("line %d\n", i), logfile.Stdout)
	}
	p.log.Close()
	for i := range files + 1 {
		fi, err := os.Stat(logfile.Name(p.path, i))
		if i == files && err == nil {
			t.Errorf("there are more than %d files", files)
		}
		if err == nil && fi.Size() > size {
			t.Errorf("file %d has %d bytes, want at most %d", i, fi.Size(), size)
		}
	}
	got := read(t, p.path, runtime.LogOptions{})
	for i, l := range got {
		if want := fmt.Sprintf("1 line %d", n-len(got)+i); l != want {
			t.Fatalf("entry %d is %q, want %q", i, l, want)
		}
	}
	if tail := read(t, p.path, runtime.LogOptions{Tail: 3}); strings.Join(tail, "|") != "1 line 19997|1 line 19998|1 line 19999" {
		t.Errorf("tail: %q", tail)
	}
}

// TestFollow reads along while the log is written and rotated, and ends when the writer is done.
func TestFollow(t *testing.T) {
	p := newPipe(t, 256<<10, 4)
	exit := filepath.Join(filepath.Dir(p.path), "exit")
	done := func() bool { _, err := os.Stat(exit); return err == nil }
	const n = 6000
	read := make(chan int)
	go func() {
		defer close(read)
		i := 0
		for e, err := range logread.Read(t.Context(), logread.Source{Path: p.path, Done: done}, runtime.LogOptions{Follow: true}) {
			if err != nil {
				t.Errorf("after %d entries: %v", i, err)
				return
			}
			if want := fmt.Sprintf("line %d", i); e.Line != want {
				t.Errorf("entry %q, want %q", e.Line, want)
				return
			}
			i++
			read <- i
		}
	}()
	for i := range n {
		p.write(t, fmt.Sprintf("line %d\n", i), logfile.Stdout)
		select {
		case _, ok := <-read:
			if !ok {
				t.Fatal("the reader ended")
			}
		case <-time.After(time.Minute):
			t.Fatalf("line %d was not read", i)
		}
	}
	p.log.Close()
	if err := os.WriteFile(exit, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	select {
	case _, ok := <-read:
		if ok {
			t.Error("there was more to read")
		}
	case <-time.After(time.Minute):
		t.Fatal("the reader did not end")
	}
}

// TestFollowEnds ends with the context, and with the directory.
func TestFollowEnds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "x")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	src := logread.Source{Path: filepath.Join(dir, "log"), Done: func() bool { return false }}
	ended := make(chan error, 2)
	for _, ctx := range []context.Context{ctx, t.Context()} {
		go func() {
			var last error
			for _, err := range logread.Read(ctx, src, runtime.LogOptions{Follow: true}) {
				last = err
			}
			ended <- last
		}()
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("a cancelled reader ended with %v", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	<-ended
}

// FuzzRead holds that no content of a log file breaks the reader.
func FuzzRead(f *testing.F) {
	f.Add([]byte("2026-01-02T15:04:05.000000000Z stdout F text\n"))
	f.Add([]byte("2026-01-02T15:04:05.000000000Z stderr P part\nnonsense\n\n 2026 stdout X y\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		for e, err := range logread.Read(t.Context(), logread.Source{Path: path}, runtime.LogOptions{Tail: 3}) {
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(e.Line, "\n") || e.Stream != runtime.Stdout && e.Stream != runtime.Stderr {
				t.Errorf("entry %+v", e)
			}
		}
	})
}
