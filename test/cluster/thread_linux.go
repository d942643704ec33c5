package cluster

import (
	"context"
	"fmt"
	"net"
	"runtime"

	"golang.org/x/sys/unix"
)

// onThread runs fn on a thread of its own, in whatever namespaces fn moves it to. The goroutine ends locked to its thread,
// which the Go runtime therefore destroys. The process's first thread stands for the process in /proc and is never used.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			done <- onThread(fn) // on another thread, since this goroutine keeps this one
			runtime.UnlockOSThread()
			return
		}
		done <- fn()
	}()
	return <-done
}

// inNetwork runs fn on a thread in a network namespace. Sockets that fn makes stay in it.
func inNetwork(ns int, fn func() error) error {
	return onThread(func() error {
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return fn()
	})
}

// newNetworkNamespace makes a network namespace that lives as long as what it returns is open, or something is in it.
func newNetworkNamespace() (fd int, err error) {
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	return fd, err
}

// dial connects from within a network namespace. The address must be a number: the goroutine that asks is the one that connects.
func dial(ctx context.Context, ns int, network, addr string) (conn net.Conn, err error) {
	err = inNetwork(ns, func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}
