package node

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"vortex"
	"vortex/client"
	"vortex/internal/edge/static"
)

// admin is where an edge that runs alone answers with status and metrics, as the file in force says.
type admin struct {
	file    string // as messages name it
	dir     string // where run files are left
	started time.Time
	log     *slog.Logger
	handler http.Handler
	failed  chan error // one slot: why nothing is answered any more

	mu            sync.Mutex
	network, addr string // as the file says it; "" is nowhere
	end           func() // stops answering there; nil before the first file
}

// prepare opens the address of a file that is to be in force, unless it is open already.
func (a *admin) prepare(ctx context.Context, f *static.File) (end func(taken bool), err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	network, address := f.AdminAddress()
	if a.network == network && a.addr == address {
		return func(bool) {}, nil
	}
	ln, err := a.listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return func(taken bool) {
		switch {
		case taken:
			a.change(ctx, network, address, ln)
		case ln != nil:
			_ = ln.Close() // nobody was answered there
		}
	}, nil
}

// change answers at a new address, which may be none, and no longer at the old one.
func (a *admin) change(ctx context.Context, network, address string, ln net.Listener) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old := a.end
	a.network, a.addr, a.end = network, address, nil
	if old != nil {
		old()
	}
	if ln == nil {
		return
	}
	srv := &http.Server{Handler: a.handler, ReadHeaderTimeout: headerLimit, IdleTimeout: idleLimit, MaxHeaderBytes: maxHeader}
	remove := a.leaveRunFile(ctx, ln)
	a.end = func() {
		remove()
		_ = srv.Close()
	}
	go func() {
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			select {
			case a.failed <- err:
			default:
			}
		}
	}()
}

// close stops answering.
func (a *admin) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.end != nil {
		a.end()
		a.end = nil
	}
}

// listen opens an address; nil is none.
func (a *admin) listen(ctx context.Context, network, address string) (net.Listener, error) {
	if network == "" {
		return nil, nil //nolint:nilnil // off is no error
	}
	if network == "unix" {
		removeStale(address)
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, network, address)
	if err != nil {
		return nil, vortex.Errorf(vortex.Unavailable, "status and metrics cannot be answered on %s; is it taken? choose another address with admin: in %s: %w",
			address, a.file, err)
	}
	if unix, ok := ln.(*net.UnixListener); ok {
		unix.SetUnlinkOnClose(true)
		if err := os.Chmod(address, 0o600); err != nil {
			return nil, errors.Join(vortex.Errorf(vortex.Unavailable, "the permissions of %s cannot be set: %w", address, err), ln.Close())
		}
		return ln, nil
	}
	if tcp, ok := ln.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		a.log.WarnContext(ctx, "Anybody who reaches the admin address sees status and metrics", "address", ln.Addr().String())
	}
	return ln, nil
}

// removeStale removes a socket that nobody listens on any more.
func removeStale(path string) {
	conn, err := net.Dial("unix", path) //nolint:noctx // it answers at once or not at all
	switch {
	case err == nil:
		_ = conn.Close()
	case errors.Is(err, syscall.ECONNREFUSED):
		if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSocket != 0 {
			_ = os.Remove(path)
		}
	}
}

// leaveRunFile lets the commands on this machine find the edge.
func (a *admin) leaveRunFile(ctx context.Context, ln net.Listener) (remove func()) {
	run := client.RunFile{API: ln.Addr().String(), PID: os.Getpid(), StartedAt: a.started}
	if ln.Addr().Network() == "unix" {
		run.API = "unix:" + run.API
	}
	remove, err := client.WriteRunFile(run, client.EdgeRuntimeDir(a.dir))
	if err != nil {
		a.log.WarnContext(ctx, "Commands on this machine will not find this edge by themselves", "err", err)
		return func() {}
	}
	return remove
}
