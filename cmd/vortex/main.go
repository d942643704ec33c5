// Command vortex is the whole of Vortex: state store, control plane, node agent, edge load balancer and command line.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"vortex/client"
	"vortex/internal/cli"
	"vortex/internal/node"
)

// Set by the linker.
var (
	version = "dev"
	commit  = "none"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	daemon := node.Daemon{
		Version: version, Commit: commit, Stderr: os.Stderr,
		RuntimeDir: client.RuntimeDir(os.Geteuid(), os.Getenv("XDG_RUNTIME_DIR")),
		Hangup:     hangup,
	}
	code := cli.Main(ctx, os.Args[1:], cli.Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Environ: os.Environ(),
		Build: cli.Build{Version: version, Commit: commit}, Daemon: daemon, Edge: daemon, Engine: daemon.Engine, Recover: daemon.Recover,
	})
	stop()
	os.Exit(code)
}

// hangup begins to listen for SIGHUP, which ends the commands that do not.
func hangup() <-chan os.Signal {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGHUP)
	return ch
}
