// Command hello is a small web server to try Vortex with. It is the image hello:latest of vortex-app.yaml.
//
//	GET /             greets with the instance's name and VERSION
//	GET /health       200, or 503 after /fail
//	GET /slow?ms=250  answers after that many milliseconds
//	GET /fail         toggles the health
//	GET /exit?code=3  ends the process with that code
//
// It listens on -port, else $PORT, else 8080. On SIGTERM it finishes the requests it has and exits with 0.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	os.Exit(run(os.Args[1:], os.Getenv))
}

// run serves until the process is told to stop and returns the exit code.
func run(args []string, getenv func(string) string) int {
	log := slog.New(slog.NewTextHandler(os.Stdout, nil))
	flags := flag.NewFlagSet("hello", flag.ContinueOnError)
	port := flags.String("port", cmp.Or(getenv("PORT"), "8080"), "port to listen on; default $PORT, else 8080")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	name, err := os.Hostname()
	if err != nil {
		name = "unknown"
	}
	stopping, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	listener, err := new(net.ListenConfig).Listen(stopping, "tcp", net.JoinHostPort("", *port))
	if err != nil {
		log.Error("Server cannot listen", "err", err)
		return 1
	}
	s := newServer(name, cmp.Or(getenv("VERSION"), "v1"))
	log.Info("Server listening", "address", listener.Addr().String(), "instance", s.name, "version", s.version)
	if err := s.serve(stopping, listener, s.handler()); err != nil {
		log.Error("Server failed", "err", err)
		return 1
	}
	log.Info("Server stopped", "code", s.exitCode())
	return s.exitCode()
}

// serve answers requests until stopping ends or one asks for the exit, then finishes those under way.
func (s *server) serve(stopping context.Context, listener net.Listener, handler http.Handler) error {
	web := http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- web.Serve(listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-stopping.Done():
	case <-s.exit:
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(stopping), 8*time.Second)
	defer cancel()
	if err := web.Shutdown(grace); err != nil {
		return fmt.Errorf("finish requests: %w", err)
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}
