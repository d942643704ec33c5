package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"

	"vortex/internal/runtime"
)

// errEnough ends reading because the consumer wants no more.
var errEnough = errors.New("enough")

// Logs returns the instance's output as the engine kept it. A line longer than 16 KiB comes as several entries.
func (d *Driver) Logs(ctx context.Context, id string, opts runtime.LogOptions) (iter.Seq2[runtime.LogEntry, error], error) {
	c, err := d.find(ctx, id)
	if err != nil {
		return nil, err
	}
	options := client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Timestamps: true, Follow: opts.Follow}
	if opts.Tail > 0 {
		options.Tail = strconv.Itoa(opts.Tail)
	}
	if !opts.Since.IsZero() {
		options.Since = unixTime(opts.Since)
	}
	return func(yield func(runtime.LogEntry, error) bool) {
		body, err := d.engine.ContainerLogs(ctx, c.ID, options)
		if err != nil {
			yield(runtime.LogEntry{}, d.fail("read logs of instance "+id, err))
			return
		}
		defer func() { _ = body.Close() }()
		emit := func(stream runtime.Stream) io.Writer {
			return &entryWriter{stream: stream, since: opts.Since, yield: yield}
		}
		_, err = stdcopy.StdCopy(emit(runtime.Stdout), emit(runtime.Stderr), body)
		if err != nil && ctx.Err() == nil && !errors.Is(err, errEnough) {
			yield(runtime.LogEntry{}, d.fail("read logs of instance "+id, err))
		}
	}, nil
}

// entryWriter turns the engine's messages, one in each Write, into entries: a time, a blank, the text, and a
// line break except where a long line was cut.
type entryWriter struct {
	stream runtime.Stream
	since  time.Time
	yield  func(runtime.LogEntry, error) bool
}

// Write yields one message.
func (w *entryWriter) Write(b []byte) (int, error) {
	stamp, text, _ := bytes.Cut(b, []byte(" "))
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return 0, fmt.Errorf("parse log message: %w", err)
	}
	if at.Before(w.since) {
		return len(b), nil
	}
	if !w.yield(runtime.LogEntry{Time: at, Stream: w.stream, Line: string(bytes.TrimSuffix(text, []byte("\n")))}, nil) {
		return 0, errEnough
	}
	return len(b), nil
}
