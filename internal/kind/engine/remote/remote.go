// Package remote is Kind's engine on machines that keep no store: it stands on the wire contract of the servers that do.
//
// One server is in use and another connection is kept warm. When the one in use goes away or falls silent, the other takes its place within
// milliseconds, and every watch goes on at the revision where it was: nothing is lost and nothing comes twice. While no server answers, reads of the
// store above go on from memory, writes are Unavailable at once, and the engine comes back by itself.
//
// It holds everything, as servers outside of the consensus group do, or what some selections name, as agents and edges do. Writes
// are validated and authorized by the server that takes them; what a store writes for its own use beside them, the server adds itself.
//
// It never tries a write again: after Unavailable nobody knows whether it happened, and compares keep it from happening twice.
//
//	eng, err := remote.Config{Servers: []string{"10.0.0.1:50051", "10.0.0.2:50051"}, Hold: selections}.Open(ctx)
//	store, err := kind.Open(ctx, kind.Config{Engine: eng, Bridge: true})
package remote

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	kindpb "vortex/proto/kind"
)

// Config says which servers an engine stands on, and what it holds.
type Config struct {
	// Servers are host:port of the servers' Kind ports. Engine.Use replaces them.
	Servers []string
	// Credentials secure the connections; nil leaves them plain.
	Credentials credentials.TransportCredentials
	// Token is the bearer token; empty sends none.
	Token string
	// Hold selects the records that the engine has; none is all, the store's own included, which only a server may ask for.
	Hold []kind.Selection
	// Quiet is how long the server in use may say nothing before it is asked for a sign of life; default 500 ms.
	Quiet time.Duration
	// Silence is how long it may take to give one before it counts as gone; default 2 s. The warm connection takes over far sooner when it answers.
	Silence time.Duration
	// Log receives what an operator would act on; nil discards.
	Log *slog.Logger
}

const (
	defaultQuiet   = 500 * time.Millisecond
	defaultSilence = 2 * time.Second
	openPatience   = 5 * time.Second // for the first server to answer
	patience       = 5 * time.Second // for an answer that has to come from the engine behind the server
)

// Engine stands on other servers' stores.
type Engine struct {
	cfg     Config
	hold    []*kindpb.Selection
	route   *route
	end     context.CancelFunc
	running sync.WaitGroup

	wanted  atomic.Int64 // a revision that the watches have to tell of
	mu      sync.Mutex
	streams map[*stream]struct{}
}

var _ engine.Engine = (*Engine)(nil)

// Open connects and returns when a server answered.
func (c Config) Open(ctx context.Context) (*Engine, error) {
	if c.Credentials == nil {
		c.Credentials = insecure.NewCredentials()
	}
	if c.Quiet == 0 {
		c.Quiet = defaultQuiet
	}
	if c.Silence == 0 {
		c.Silence = defaultSilence
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if len(c.Servers) == 0 {
		return nil, vortex.Errorf(vortex.Invalid, "no server is named; name at least one as host:port")
	}
	life, end := context.WithCancel(context.Background())
	e := &Engine{cfg: c, route: newRoute(c), end: end, streams: map[*stream]struct{}{}}
	byPrefix := func(a, b kind.Selection) int { return strings.Compare(a.Prefix, b.Prefix) } // as ranges are read
	for _, sel := range slices.SortedFunc(slices.Values(c.Hold), byPrefix) {
		e.hold = append(e.hold, selection(sel))
	}
	e.running.Go(func() { e.route.run(life) })
	wait, cancel := context.WithTimeout(ctx, openPatience)
	defer cancel()
	if err := e.route.first(wait); err != nil {
		_ = e.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	return e, nil
}

func selection(sel kind.Selection) *kindpb.Selection {
	out := &kindpb.Selection{Prefix: []byte(sel.Prefix)}
	if f := sel.Filter; f != nil {
		out.Filter = &kindpb.ScanFilter{Field: f.Field, Value: f.Value}
	}
	if via := sel.Via; via != nil {
		out.Via = &kindpb.Via{Prefix: []byte(via.Prefix), Fields: via.Fields}
	}
	return out
}

// Use replaces the servers. Connections to those that stay go on.
func (e *Engine) Use(servers []string) { e.route.use(servers) }

// Server is the address of the server in use, "" while there is none.
func (e *Engine) Server() string {
	if l, _ := e.route.now(); l != nil {
		return l.addr
	}
	return ""
}

// Warm reports whether another server would take its place at once.
func (e *Engine) Warm() bool {
	e.route.mu.Lock()
	defer e.route.mu.Unlock()
	return e.route.spare != nil
}

// Relayed reports that what the engine has is passed on by others.
func (e *Engine) Relayed() bool { return true }

// Trouble is why nothing can be written, nil while a server answers.
func (e *Engine) Trouble() error {
	if l, _ := e.route.now(); l != nil {
		return nil
	}
	return e.route.away()
}

// Close implements engine.Engine.
func (e *Engine) Close() error {
	e.end()
	e.running.Wait()
	return nil
}
