package cluster

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"
)

// TestMain makes this binary a host's first process, or one of the programs that the tests run on hosts, when it is asked to be one.
func TestMain(m *testing.M) {
	Init()
	if program := os.Getenv(programEnv); program != "" {
		os.Exit(programs[program](os.Args[1:]))
	}
	os.Exit(m.Run())
}

// program is the command that runs one of the tests' programs.
func program(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Path, _ = os.Executable()
	cmd.Env = append(os.Environ(), programEnv+"="+name)
	return cmd
}

// start runs one of the tests' programs on a host.
func start(t *testing.T, h *Host, name string, args ...string) *Process {
	t.Helper()
	p, err := h.Start(program(name, args...))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// eventually waits until ok returns true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		select {
		case <-t.Context().Done():
			t.Fatal("the test ended")
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// soon is a context that ends before the test does.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}
