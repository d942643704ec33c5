package uring_test

import (
	"errors"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vortex/internal/edge/uring"
)

const (
	accepting = iota
	connecting
	sending
	receiving
)

// TestEcho accepts, connects, sends and receives with one ring.
func TestEcho(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ring, err := uring.New(uring.Config{Operations: 64, Buffers: 4, BufferSize: 1 << 10})
	if err != nil {
		t.Skipf("no io_uring here: %v", err)
	}
	defer ring.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := unix.SetNonblock(int(file.Fd()), false); err != nil {
		t.Fatal(err)
	}
	to := uring.AddressOf(netip.MustParseAddrPort(ln.Addr().String()))
	out, err := unix.Socket(to.Family(), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(out)
	ring.Accept(int(file.Fd()), accepting)
	ring.Connect(out, &to, connecting)
	message := make([]byte, 3<<10) // more than a buffer holds
	for i := range message {
		message[i] = byte(i)
	}
	var got []byte
	in := -1
	for deadline := time.Now().Add(10 * time.Second); len(got) < len(message) && time.Now().Before(deadline); {
		err := ring.Wait(time.Second, func(c uring.Completion) {
			if err := c.Err(); err != nil {
				t.Fatalf("operation %d: %v", c.User, err)
			}
			switch c.User {
			case accepting:
				in = int(c.Res)
				ring.Receive(in, true, receiving)
			case connecting:
				ring.Send(out, message, sending)
			case receiving:
				got = append(got, ring.Received(c)...)
				ring.Recycle(c)
				ring.Receive(in, false, receiving)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	defer unix.Close(in)
	if string(got) != string(message) {
		t.Errorf("got %d of %d bytes, or others", len(got), len(message))
	}
}

// TestWaitEndsInTime also cancels what is under way.
func TestWaitEndsInTime(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ring, err := uring.New(uring.Config{Operations: 64, Buffers: 4, BufferSize: 1 << 10})
	if err != nil {
		t.Skipf("no io_uring here: %v", err)
	}
	defer ring.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	ring.Receive(pair[0], true, receiving)
	began, completed := time.Now(), 0
	if err := ring.Wait(20*time.Millisecond, func(uring.Completion) { completed++ }); err != nil || completed > 0 {
		t.Fatalf("%v, %d completions of nothing", err, completed)
	}
	if took := time.Since(began); took < 20*time.Millisecond {
		t.Errorf("waited only %s", took)
	}
	ring.Cancel(receiving, sending)
	var ended error
	for range 10 {
		if err := ring.Wait(time.Second, func(c uring.Completion) {
			if c.User == receiving {
				ended = c.Err()
			}
		}); err != nil {
			t.Fatal(err)
		}
		if ended != nil {
			break
		}
	}
	if !errors.Is(ended, unix.ECANCELED) {
		t.Errorf("canceled receive: %v", ended)
	}
}
