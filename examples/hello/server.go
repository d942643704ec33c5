package main

import (
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// server answers the requests of hello.
type server struct {
	name    string // of the instance
	version string
	sick    atomic.Bool
	code    atomic.Int32  // the exit code that was asked for
	exit    chan struct{} // closed when an exit was asked for
	once    sync.Once     // closes exit
}

func newServer(name, version string) *server {
	return &server{name: name, version: version, exit: make(chan struct{})}
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.greet)
	mux.HandleFunc("GET /health", s.health)
	mux.HandleFunc("GET /slow", s.slow)
	mux.HandleFunc("/fail", s.fail)
	mux.HandleFunc("/exit", s.quit)
	return mux
}

// exitCode returns the code that was asked for, 0 when none was.
func (s *server) exitCode() int { return int(s.code.Load()) }

func (s *server) greet(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	answer(w, "Hello from %s, version %s\n", s.name, s.version)
}

func (s *server) health(w http.ResponseWriter, _ *http.Request) {
	if s.sick.Load() {
		http.Error(w, "failing on purpose; GET /fail again to recover", http.StatusServiceUnavailable)
		return
	}
	answer(w, "ok\n")
}

// slow answers after ?ms= milliseconds, 1000 when it is not given, at most a minute.
func (s *server) slow(w http.ResponseWriter, r *http.Request) {
	ms, ok := number(w, r, "ms", 1000, 60_000)
	if !ok {
		return
	}
	select {
	case <-time.After(time.Duration(ms) * time.Millisecond):
		answer(w, "Hello from %s after %d ms\n", s.name, ms)
	case <-r.Context().Done():
	}
}

func (s *server) fail(w http.ResponseWriter, _ *http.Request) {
	for {
		sick := s.sick.Load()
		if s.sick.CompareAndSwap(sick, !sick) {
			answer(w, "healthy: %t\n", sick)
			return
		}
	}
}

// quit answers, then ends the process with ?code=, 1 when it is not given.
func (s *server) quit(w http.ResponseWriter, r *http.Request) {
	code, ok := number(w, r, "code", 1, 255)
	if !ok {
		return
	}
	answer(w, "exiting with %d\n", code)
	s.once.Do(func() {
		s.code.Store(int32(code))
		close(s.exit)
	})
}

// answer writes a text. A client that is gone does not matter.
func answer(w http.ResponseWriter, format string, args ...any) {
	_, _ = fmt.Fprintf(w, format, args...)
}

// number reads a parameter from 0 to most. It answers the request when the parameter is wrong.
func number(w http.ResponseWriter, r *http.Request, name string, fallback, most int) (int, bool) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return fallback, true
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > most {
		http.Error(w, fmt.Sprintf("%s: expected a number from 0 to %d, got %q", name, most, text), http.StatusBadRequest)
		return 0, false
	}
	return n, true
}
