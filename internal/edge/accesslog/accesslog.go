// Package accesslog writes a line of JSON for each request that an edge answered.
//
// A request's goroutine appends its line to a buffer and goes on; one goroutine writes what was gathered, ten times a second. When the disk does
// not keep up lines are dropped and counted: the log never holds a request up, and its memory is bounded. Answers of 500 and above are
// always written, others as often as the sample says.
//
// A file that was renamed or removed is opened anew within a second, so that logrotate needs no signal.
//
//	l, err := accesslog.Open(accesslog.Config{Path: "/var/log/vortex/access.log", Sample: 0.1})
//	go l.Run(ctx)
//	line := accesslog.AppendRequest(nil, method, host, path, agent)
//	l.Add(line, accesslog.Outcome{Status: 200})
package accesslog

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Config of a Log.
type Config struct {
	Path   string       // of the file; "-" is standard output
	Sample float64      // share of the answers below 500 that is written; 0 is all
	Log    *slog.Logger // where it says that it cannot write; nil discards
}

const (
	shardCount    = 8
	shardSize     = 128 << 10 // most bytes that wait in a shard
	writeInterval = 100 * time.Millisecond
	lookInterval  = time.Second
)

// Log is an access log. Use Open, and Run it.
type Log struct {
	config Config
	out    io.Writer
	file   *os.File // nil for standard output
	shards [shardCount]shard
	full   chan struct{} // one slot: a shard is half full
	lost   atomic.Uint64
	broken bool // the last write failed
}

type shard struct {
	mu  sync.Mutex
	buf []byte
}

// Open opens the log's file.
func Open(c Config) (*Log, error) {
	if c.Sample == 0 {
		c.Sample = 1
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	l := &Log{config: c, full: make(chan struct{}, 1)}
	if c.Path == "-" {
		l.out = os.Stdout
		return l, nil
	}
	return l, l.open()
}

// fileMode lets nobody else read who asked for what.
const fileMode = 0o640

func (l *Log) open() error {
	file, err := os.OpenFile(l.config.Path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, fileMode)
	if err != nil {
		return fmt.Errorf("open access log: %w", err)
	}
	l.file, l.out = file, file
	return nil
}

// Run writes until ctx ends, and then what is left.
func (l *Log) Run(ctx context.Context) error {
	write, look := time.NewTicker(writeInterval), time.NewTicker(lookInterval)
	defer write.Stop()
	defer look.Stop()
	spare := make([]byte, 0, shardSize)
	for {
		select {
		case <-ctx.Done():
			l.write(ctx, spare)
			if l.file != nil {
				return l.file.Close()
			}
			return nil
		case <-write.C:
			spare = l.write(ctx, spare)
		case <-l.full:
			spare = l.write(ctx, spare)
		case <-look.C:
			l.reopen(ctx)
		}
	}
}

// write takes what the shards hold and writes it. It returns an empty buffer for the next time.
func (l *Log) write(ctx context.Context, spare []byte) []byte {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		lines := s.buf
		s.buf = spare[:0]
		s.mu.Unlock()
		if len(lines) > 0 {
			_, err := l.out.Write(lines)
			l.tell(ctx, err)
		}
		spare = lines[:0]
	}
	return spare
}

// tell says once that the log cannot be written, and once that it can again.
func (l *Log) tell(ctx context.Context, err error) {
	if l.broken == (err != nil) {
		return
	}
	if l.broken = err != nil; l.broken {
		l.config.Log.ErrorContext(ctx, "Access log not written, lines are lost", "path", l.config.Path, "err", err)
	} else {
		l.config.Log.InfoContext(ctx, "Access log written again", "path", l.config.Path)
	}
}

// reopen follows a file that was renamed or removed.
func (l *Log) reopen(ctx context.Context) {
	if l.file == nil {
		return
	}
	at, err := os.Stat(l.config.Path)
	mine, err2 := l.file.Stat()
	if err == nil && err2 == nil && os.SameFile(at, mine) {
		return
	}
	old := l.file
	if err := l.open(); err != nil {
		l.tell(ctx, err)
		return
	}
	_ = old.Close() // what it was to hold was written or told
}

// Lost returns how many lines were dropped because the log was not written fast enough.
func (l *Log) Lost() uint64 { return l.lost.Load() }

// Outcome is how a request ended.
type Outcome struct {
	Began   time.Time
	Took    time.Duration
	Client  netip.Addr
	Status  int
	Bytes   int64 // of the response's body
	App     string
	Backend netip.AddrPort // the last one asked; invalid is none
	Tries   int
	ID      []byte  // the request's; none is ""
	Off     bool    // the route wants no line
	Sample  float64 // the route's share of answers below 500; 0 is the log's, negative is none
}

// wants reports whether a line is written.
func (l *Log) wants(o *Outcome) bool {
	switch {
	case o.Off:
		return false
	case o.Status >= 500:
		return true
	}
	sample := o.Sample
	if sample == 0 {
		sample = l.config.Sample
	}
	return sample >= 1 || sample > 0 && rand.Float64() < sample
}

// Add adds a request's line. request is what AppendRequest made.
func (l *Log) Add(request []byte, o Outcome) {
	if !l.wants(&o) {
		return
	}
	s := &l.shards[rand.Uint32N(shardCount)]
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.buf)
	if before+len(request)+lineRoom > shardSize {
		l.lost.Add(1)
		return
	}
	s.buf = append(o.appendTo(append(s.buf, request...)), '}', '\n')
	if before < shardSize/2 && len(s.buf) >= shardSize/2 {
		select {
		case l.full <- struct{}{}:
		default:
		}
	}
}
