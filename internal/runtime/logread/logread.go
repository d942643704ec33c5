// Package logread reads back what package logfile wrote: the entries of an instance's rotated log files, oldest first, and
// those still to come. It follows by inotify, across rotations, and never polls. Parts of one long line are
// joined again up to MaxLine.
//
// A reader that is slower than the log is rotated away under it loses the oldest entries, never the order.
package logread

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"

	"vortex/internal/runtime"
	"vortex/internal/runtime/logfile"
)

// MaxLine is the longest line an entry holds, in bytes; a longer one comes as several entries.
const MaxLine = 1 << 20

// Source is where a log is and how to tell that it is complete.
type Source struct {
	Path string // of the current file
	// Done reports whether nothing will be written any more. It is asked again whenever a file beside Path changes.
	Done func() bool
}

// Read returns the entries opts selects. The sequence ends with an error when the log cannot be read, and without one
// when everything was read and opts.Follow is not set or src is done, or when ctx ends.
func Read(ctx context.Context, src Source, opts runtime.LogOptions) iter.Seq2[runtime.LogEntry, error] {
	return func(yield func(runtime.LogEntry, error) bool) {
		r := &reader{src: src, since: opts.Since}
		defer r.close()
		if opts.Follow {
			w, err := newWatch(ctx, filepath.Dir(src.Path))
			if err != nil {
				yield(runtime.LogEntry{}, err)
				return
			}
			defer w.close()
			r.watch = w
		}
		err := r.run(ctx, opts.Tail, func(e runtime.LogEntry) bool { return yield(e, nil) })
		if err != nil && ctx.Err() == nil {
			yield(runtime.LogEntry{}, err)
		}
	}
}

// reader is at one place in a log.
type reader struct {
	src   Source
	since time.Time
	watch *watch // nil: do not follow
	file  *os.File
	buf   []byte // bytes of file not parsed yet
	chunk [64 << 10]byte
	parts [runtime.Stderr + 1]part
}

// part is a line whose end was not read yet.
type part struct {
	at   time.Time
	text []byte
}

// run emits what is there, cut to the last tail entries, and then what comes.
func (r *reader) run(ctx context.Context, tail int, emit func(runtime.LogEntry) bool) error {
	last := ring{max: tail}
	catch := emit
	if tail > 0 {
		catch = last.add
	}
	for done := false; ; {
		if r.watch == nil {
			done = true
		} else if !done {
			done = r.src.Done()
		}
		more, err := r.drain(ctx, catch)
		if err != nil || !more {
			return err
		}
		if !last.each(emit) {
			return nil
		}
		catch = emit
		if done {
			r.unended(emit)
			return nil
		}
		if err := r.watch.wait(); err != nil {
			return err
		}
	}
}

// drain emits every complete entry up to the end of the newest file. It reports false when emit did.
func (r *reader) drain(ctx context.Context, emit func(runtime.LogEntry) bool) (bool, error) {
	for ctx.Err() == nil {
		if r.file == nil {
			if ok, err := r.next(); err != nil || !ok {
				return true, err
			}
		}
		rotated := r.rotated() // asked before the last read: what is written before a rotation is read
		n, err := r.file.Read(r.chunk[:])
		r.buf = append(r.buf, r.chunk[:n]...)
		if !r.parse(emit) {
			return false, nil
		}
		switch {
		case err == nil:
		case !errors.Is(err, io.EOF):
			return false, fmt.Errorf("read log: %w", err)
		case !rotated:
			return true, nil
		default:
			if ok, err := r.next(); err != nil || !ok {
				return true, err
			}
		}
	}
	return true, nil
}

// rotated reports whether the file being read is not the current one.
func (r *reader) rotated() bool {
	here, err := r.file.Stat()
	if err != nil {
		return false
	}
	current, err := os.Stat(r.src.Path)
	return errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(here, current)
}

// next opens the file that follows the one being read, or the oldest. It reports false when there is none yet.
func (r *reader) next() (bool, error) {
	i, err := r.following()
	if err != nil || i < 0 {
		return false, err
	}
	f, err := os.Open(logfile.Name(r.src.Path, i))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // being rotated right now: the next event tells
	}
	if err != nil {
		return false, fmt.Errorf("open log: %w", err)
	}
	r.close()
	r.file, r.buf = f, r.buf[:0]
	return true, nil
}

// following returns the index of the file after the one being read: the next newer, or the oldest when there is none being read or it
// was rotated away. It is -1 when there is no such file.
func (r *reader) following() (int, error) {
	var here os.FileInfo
	if r.file != nil {
		var err error
		if here, err = r.file.Stat(); err != nil {
			return 0, fmt.Errorf("stat log: %w", err)
		}
	}
	oldest := -1
	for i := 0; ; i++ {
		fi, err := os.Stat(logfile.Name(r.src.Path, i))
		if err != nil && i > 0 { // the current one may be missing for a moment
			return oldest, nil
		}
		if err != nil {
			continue
		}
		if here != nil && os.SameFile(here, fi) {
			return i - 1, nil
		}
		oldest = i
	}
}

func (r *reader) close() {
	if r.file != nil {
		_ = r.file.Close()
		r.file = nil
	}
}

// parse emits the complete entries in buf.
func (r *reader) parse(emit func(runtime.LogEntry) bool) bool {
	rest := r.buf
	for {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			break
		}
		e, ok := r.entry(rest[:i])
		rest = rest[i+1:]
		if ok && !e.Time.Before(r.since) && !emit(e) {
			return false
		}
	}
	r.buf = r.buf[:copy(r.buf, rest)]
	return true
}

// unended emits the parts of lines that never ended: whoever wrote them was killed.
func (r *reader) unended(emit func(runtime.LogEntry) bool) {
	for stream, p := range r.parts {
		if len(p.text) == 0 {
			continue
		}
		if !emit(runtime.LogEntry{Time: p.at, Stream: runtime.Stream(stream), Line: string(p.text)}) {
			return
		}
	}
}

// entry parses one line of the file. It reports false for one that is no entry, or only a part of one.
func (r *reader) entry(line []byte) (runtime.LogEntry, bool) {
	stamp, line, ok1 := bytes.Cut(line, []byte(" "))
	name, line, ok2 := bytes.Cut(line, []byte(" "))
	tag, text, ok3 := bytes.Cut(line, []byte(" "))
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if !ok1 || !ok2 || !ok3 || err != nil || len(tag) != 1 {
		return runtime.LogEntry{}, false
	}
	stream := runtime.Stdout
	if string(name) == "stderr" {
		stream = runtime.Stderr
	}
	p := &r.parts[stream]
	if len(p.text) == 0 {
		p.at = at
	}
	if tag[0] == 'P' && len(p.text)+len(text) < MaxLine {
		p.text = append(p.text, text...)
		return runtime.LogEntry{}, false
	}
	e := runtime.LogEntry{Time: p.at, Stream: stream, Line: string(p.text) + string(text)}
	p.text = p.text[:0]
	return e, true
}

// ring keeps the last max entries.
type ring struct {
	max     int
	entries []runtime.LogEntry
	at      int
}

func (r *ring) add(e runtime.LogEntry) bool {
	if len(r.entries) < r.max {
		r.entries = append(r.entries, e)
		return true
	}
	r.entries[r.at] = e
	r.at = (r.at + 1) % r.max
	return true
}

// each emits what is kept, oldest first, and keeps it no longer.
func (r *ring) each(emit func(runtime.LogEntry) bool) bool {
	for i := range r.entries {
		if !emit(r.entries[(r.at+i)%len(r.entries)]) {
			return false
		}
	}
	r.entries = nil
	return true
}

// Size returns how many bytes the log at path takes in all its files.
func Size(path string) int64 {
	var sum int64
	for i := 0; ; i++ {
		fi, err := os.Stat(logfile.Name(path, i))
		if err != nil && i > 0 {
			return sum
		}
		if err == nil {
			sum += fi.Size()
		}
	}
}
