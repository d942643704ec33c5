// Command piped runs an edge by itself whose store is a pipe: router records come in as JSON on stdin, and what the edge
// would write to the store goes out as JSON lines on stdout. Load proofs and benchmarks use it: they see the exact moment at which
// a revision is applied and drained, with no store in between.
//
//	piped -listen 127.0.0.1:8000 <<<'{"revision": 1, "reset": true, "changes": [{"app": "web", "router": {"client_id": "web", "backends": []}}]}'
//
// It says {"listening": […]} once it accepts connections, and {"edge": …} for each vortex:edge record. {"ask": "status"} on stdin is
// answered by {"status": …, "goroutines": N}, and so is {"ask": "collected"}, once garbage has been collected and pools are empty. It ends when stdin does, so that it never outlives who started it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	_ "net/http/pprof" // only where -pprof says
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"vortex"
	"vortex/internal/edge"
	"vortex/internal/edge/limit"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "piped:", err)
		stop()
		os.Exit(1) //nolint:forbidigo,gocritic // a program of its own
	}
}

// run serves until ctx or in ends.
func run(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet("piped", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:0", "addresses for HTTP, comma-separated")
	portHost := flags.String("port-host", "", "address that ports of TCP and UDP are opened on; every address by default")
	rate := flags.Uint64("limit", 0, "requests per client address and window; 0 is the default")
	window := flags.Duration("window", 0, "the rate limit's window; 0 is the default")
	idle := flags.Duration("idle-timeout", 0, "of a client connection between requests; 0 is the default")
	profile := flags.String("pprof", "", "address for net/http/pprof; none by default")
	verbose := flags.Bool("debug", false, "log to stderr with an access log")
	if err := flags.Parse(args); err != nil {
		return err
	}
	p := &pipe{updates: make(chan edge.RouterUpdate), out: json.NewEncoder(out)}
	config := edge.Config{
		ID: "piped", Listen: strings.Split(*listen, ","), PortHost: *portHost, Limit: limit.Config{Limit: *rate, Window: *window},
		Log: logger(*verbose), Accepting: p.accepting,
	}
	config.ClientLimits.IdleTimeout = *idle
	if *profile != "" {
		go serveProfiles(*profile)
	}
	p.edge = edge.New(config, p, p)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { cancel(p.read(ctx, in)) }()
	if err := p.edge.Run(ctx); err != nil {
		return err
	}
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func logger(verbose bool) *slog.Logger {
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

func serveProfiles(address string) {
	server := http.Server{Addr: address, ReadHeaderTimeout: time.Second}
	if err := server.ListenAndServe(); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "piped: profiles:", err)
	}
}

// pipe is the edge's store.
type pipe struct {
	edge    *edge.Edge
	updates chan edge.RouterUpdate

	mu  sync.Mutex
	out *json.Encoder
}

// order is a value on stdin: an update of the routers, or a question.
type order struct {
	edge.RouterUpdate

	Ask string
}

// said is a line on stdout; it has one of the fields.
type said struct {
	Listening  []string           `json:"listening,omitempty"`
	Edge       *vortex.EdgeRecord `json:"edge,omitempty"`
	Status     *edge.Status       `json:"status,omitempty"`
	Goroutines int                `json:"goroutines,omitempty"` // with Status
}

func (p *pipe) say(s said) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Encode(s)
}

func (p *pipe) accepting(addrs []net.Addr) {
	var s said
	for _, a := range addrs {
		s.Listening = append(s.Listening, a.String())
	}
	_ = p.say(s) // who does not read it does not use it
}

// read does what stdin says until it ends or ctx does.
func (p *pipe) read(ctx context.Context, in io.Reader) error {
	orders := json.NewDecoder(in)
	for {
		var o order
		if err := orders.Decode(&o); err != nil {
			if !errors.Is(err, io.EOF) {
				err = fmt.Errorf("stdin wants JSON values with revision and changes: %w", err)
			}
			return err
		}
		switch o.Ask {
		case "":
			select {
			case p.updates <- o.RouterUpdate:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		case "status", "collected":
			if o.Ask == "collected" {
				collect()
			}
			status := p.edge.Status()
			if err := p.say(said{Status: &status, Goroutines: runtime.NumGoroutine()}); err != nil {
				return err
			}
		default:
			return fmt.Errorf("ask knows status and collected, got %q", o.Ask)
		}
	}
}

// collect lets go of what nothing needs any more. Pools, such as that of the pipes for splicing, are empty after the second time.
func collect() {
	runtime.GC()
	debug.FreeOSMemory()
}

// WatchRouters implements edge.Routers.
func (p *pipe) WatchRouters(ctx context.Context) iter.Seq2[edge.RouterUpdate, error] {
	return func(yield func(edge.RouterUpdate, error) bool) {
		for {
			select {
			case u := <-p.updates:
				if !yield(u, nil) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// PutMetrics implements edge.Publisher. What is measured is asked for by status.
func (p *pipe) PutMetrics(context.Context, vortex.ClientMetrics) error { return nil }

// PutEdge implements edge.Publisher.
func (p *pipe) PutEdge(_ context.Context, r vortex.EdgeRecord) error { return p.say(said{Edge: &r}) }
