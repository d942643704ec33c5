package static

import (
	"bytes"
	"context"
	"crypto/rand"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"vortex"
	"vortex/internal/edge"
	"vortex/internal/edge/accesslog"
)

// Config of a Static. File is required.
type Config struct {
	File     string
	Edge     edge.Config // what the file does not say; ID, listeners and Linger are set by New
	Resolver Resolver    // nil is net.DefaultResolver
	Log      *slog.Logger
	// Prepare is called before a file is put into force, with what is not this package's, and may refuse it. end is then called once, and told whether
	// the file was taken in. nil takes everything.
	Prepare func(ctx context.Context, f *File) (end func(taken bool), err error)
}

// linger is how long requests that were on the way to a pool which the new file does not have any more are still answered by it.
const linger = 2 * time.Second

// Static is the loop. Use New.
type Static struct {
	config Config
	log    *slog.Logger
	edge   *edge.Edge
	names  *names

	accessLog string // where it is written, as the first file said

	key    []byte        // of sticky sessions' cookies, when the file has none
	reload chan struct{} // one slot
	ready  chan struct{} // closed when the first file is in force

	mu    sync.Mutex
	file  *File
	state State
}

// State is which file is in force, and what became of the last one that was read.
type State struct {
	File      string
	LoadedAt  time.Time // when what is in force was taken in
	Reloads   uint64    // files taken in, the first included
	Refused   uint64    // files that were not
	RefusedAt time.Time // when the last one was refused; zero when the file as it stands is in force
	Error     error     // why
}

// New reads the file, and opens the access log that it names. It starts nothing. The error is that of Read.
func New(c Config) (*Static, error) {
	file, err := Read(c.File)
	if err != nil {
		return nil, err
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Resolver == nil {
		c.Resolver = net.DefaultResolver
	}
	s := &Static{
		config: c, log: c.Log, file: file, reload: make(chan struct{}, 1), ready: make(chan struct{}), key: make([]byte, keySize),
		names: &names{resolver: c.Resolver, log: c.Log, known: map[string][]netip.Addr{}, failing: map[string]bool{}},
		state: State{File: c.File}, accessLog: file.AccessLog,
	}
	_, _ = rand.Read(s.key) // never fails
	e := c.Edge
	e.ID, e.Linger, e.Log = "alone", linger, c.Log
	e.ShutdownTimeout, e.Zone, e.ClientLimits = file.shutdownTimeout(), file.Zone, file.clientLimits()
	e.HTTP.Hint, e.HTTP.Why = "To see what is answered here: vortex edge routes", "vortex edge backends"
	if file.AccessLog != "" {
		if e.Access, err = accesslog.Open(accesslog.Config{Path: file.AccessLog, Log: c.Log}); err != nil {
			return nil, vortex.Errorf(vortex.Invalid, "%s: accessLog: %w", c.File, err)
		}
	}
	s.edge = edge.New(e, nowhere{}, nowhere{})
	return s, nil
}

// keySize is the size of the key that sticky sessions' cookies are made with.
const keySize = 32

// Edge is what runs.
func (s *Static) Edge() *edge.Edge { return s.edge }

// File returns the file in force.
func (s *Static) File() *File {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.file
}

// State tells which file is in force.
func (s *Static) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Reload reads the file again, though it may not have changed. It does not wait for that.
func (s *Static) Reload() {
	select {
	case s.reload <- struct{}{}:
	default:
	}
}

// Ready waits until the first file is in force, and reports false when ctx ended first.
func (s *Static) Ready(ctx context.Context) bool {
	select {
	case <-s.ready:
		return true
	case <-ctx.Done():
		return false
	}
}

// Run serves until ctx ends, then lets requests in flight finish. It returns nil when it was told to end.
func (s *Static) Run(ctx context.Context) error {
	data, err := read(s.config.File)
	if err != nil {
		return err
	}
	if err := s.take(ctx, data); err != nil {
		return err
	}
	close(s.ready)
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var loops sync.WaitGroup
	loops.Go(func() { s.follow(ctx, data) })
	loops.Go(func() { s.resolve(ctx) })
	err = s.edge.Run(ctx)
	end(err)
	loops.Wait()
	return err
}

// take puts a file into force, whole or not at all.
func (s *Static) take(ctx context.Context, data []byte) error {
	file, err := Parse(s.config.File, data)
	if err != nil {
		return err
	}
	list := namesOf(file)
	s.names.lookup(ctx, s.names.unknown(list), firstLookup)
	s.mu.Lock()
	defer s.mu.Unlock()
	p, err := file.plan(s.names.addresses, s.key)
	if err != nil {
		return err
	}
	end, err := s.prepare(ctx, file)
	if err != nil {
		return err
	}
	if err := s.edge.SetListeners(ctx, p.listeners); err != nil {
		end(false)
		return err
	}
	s.edge.SetZone(file.Zone)
	s.edge.SetShutdownTimeout(file.shutdownTimeout())
	s.edge.SetClientLimits(file.clientLimits())
	s.edge.Take(ctx, p.routers)
	s.names.forget(list)
	end(true)
	if file.AccessLog != s.accessLog {
		s.log.WarnContext(ctx, "The change of accessLog takes effect at the next start; all else is in force", "file", s.config.File)
	}
	s.file = file
	s.state.Reloads++
	s.state.LoadedAt, s.state.RefusedAt, s.state.Error = time.Now(), time.Time{}, nil
	s.log.InfoContext(ctx, "Configuration in force", "file", s.config.File,
		"listeners", len(file.Listeners), "routes", len(file.Routes), "streams", len(file.Streams), "pools", len(file.Pools))
	return nil
}

// prepare asks whoever else has to do with a file.
func (s *Static) prepare(ctx context.Context, file *File) (end func(taken bool), err error) {
	if s.config.Prepare == nil {
		return func(bool) {}, nil
	}
	return s.config.Prepare(ctx, file)
}

// refuse remembers why a file is not in force.
func (s *Static) refuse(ctx context.Context, err error) {
	s.mu.Lock()
	s.state.Refused++
	s.state.RefusedAt, s.state.Error = time.Now(), err
	loaded := s.state.LoadedAt
	s.mu.Unlock()
	s.log.ErrorContext(ctx, "Configuration refused, the last good one stays in force", "file", s.config.File, "since", loaded.Format(time.RFC3339), "err", err)
}

// retryInterval is between two tries to put a file into force that was refused because an address was taken.
const retryInterval = time.Second

// follow takes in the file whenever it changes or Reload is called, and tries again what was refused for a reason that may pass, until ctx ends. data
// is what is in force.
func (s *Static) follow(ctx context.Context, data []byte) {
	changed := watch(ctx, s.config.File, s.log)
	retry := time.NewTimer(retryInterval)
	retry.Stop()
	for {
		why := changedFile
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-s.reload:
			why = asked
		case <-retry.C:
			why = dueAgain
		}
		retry.Stop()
		var again bool
		if data, again = s.look(ctx, why, data); again {
			retry.Reset(retryInterval)
		}
	}
}

// look reads the file, and puts it into force if there is a reason to. It returns what the file holds, and reports whether it was refused for what may
// pass. data is what it held before.
func (s *Static) look(ctx context.Context, why reason, data []byte) (next []byte, again bool) {
	next, err := read(s.config.File)
	fresh := err == nil && !bytes.Equal(next, data)
	switch {
	case err != nil:
		next = data
	case !fresh && why == changedFile:
		return data, mayPass(s.State().Error)
	default:
		err = s.take(ctx, next)
	}
	if err == nil || ctx.Err() != nil {
		return next, false
	}
	if fresh || why == asked || !s.told(err) {
		s.refuse(ctx, err)
	}
	return next, mayPass(err)
}

// reason is why a file is looked at.
type reason uint8

const (
	changedFile reason = iota
	asked
	dueAgain
)

// mayPass reports whether a file was refused for what may change by itself: an address that is taken.
func mayPass(err error) bool {
	return vortex.IsKind(err, vortex.Precondition) || vortex.IsKind(err, vortex.Unavailable)
}

// told reports whether the last file was refused for the same reason.
func (s *Static) told(err error) bool {
	last := s.State().Error
	return last != nil && last.Error() == err.Error()
}

// resolve looks the names of backends up again and again, until ctx ends.
func (s *Static) resolve(ctx context.Context) {
	for {
		timer := time.NewTimer(s.File().resolveEvery())
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if s.names.lookup(ctx, namesOf(s.File()), lookupTimeout) {
			s.readdress(ctx)
		}
	}
}

// readdress gives the pools the addresses that their names have now.
func (s *Static) readdress(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, err := s.file.plan(s.names.addresses, s.key)
	if err != nil {
		s.log.ErrorContext(ctx, "Backends not updated", "err", err)
		return
	}
	s.edge.Take(ctx, p.routers)
}

// nowhere is where an edge that runs alone gets its routers from and tells what it sees.
type nowhere struct{}

// WatchRouters implements edge.Routers.
func (nowhere) WatchRouters(ctx context.Context) iter.Seq2[edge.RouterUpdate, error] {
	return func(func(edge.RouterUpdate, error) bool) { <-ctx.Done() }
}

// PutMetrics implements edge.Publisher.
func (nowhere) PutMetrics(context.Context, vortex.ClientMetrics) error { return nil }

// PutEdge implements edge.Publisher.
func (nowhere) PutEdge(context.Context, vortex.EdgeRecord) error { return nil }
