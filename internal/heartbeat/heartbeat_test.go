package heartbeat_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"vortex/internal/heartbeat"
	"vortex/internal/heartbeat/pulse"
)

// program is the built pulse, "" where it cannot be built.
var program string

func TestMain(m *testing.M) {
	if how := os.Getenv(beatEnv); how != "" {
		panic(beat(how))
	}
	goleak.VerifyTestMain(build{m})
}

// build runs the tests with the program built.
type build struct{ m *testing.M }

func (b build) Run() int {
	dir, err := os.MkdirTemp("", "pulse")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program = filepath.Join(dir, "pulse")
	if out, err := exec.CommandContext(context.Background(), "go", "build", "-o", program, "./pulse/cmd").CombinedOutput(); err != nil {
		panic(fmt.Sprintf("build the program: %v\n%s", err, out))
	}
	return b.m.Run()
}

// start runs a pulse until the test ends or stop is called.
func start(t *testing.T, program string) (p *heartbeat.Pulse, stop func()) {
	t.Helper()
	p, err := heartbeat.Listen(t.Context(), heartbeat.Config{Address: "127.0.0.1:0", Program: program, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("pulse: %v", err)
		}
	})
	t.Cleanup(stop)
	return p, stop
}

func local(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
}

// connect links two pulses. at is where a believes b to be, and b a.
func connect(t *testing.T, a, b *heartbeat.Pulse, aAt, bAt netip.AddrPort) (ab, ba *heartbeat.Link) {
	t.Helper()
	ab, err1 := a.Reserve()
	ba, err2 := b.Reserve()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	one, two := [pulse.KeySize]byte{1}, [pulse.KeySize]byte{2}
	ab.Start(heartbeat.Peer{Peer: bAt, Channel: ba.Channel(), Send: true, Watch: true, Out: one, In: two, Interval: 5 * time.Millisecond}, nil)
	ba.Start(heartbeat.Peer{Peer: aAt, Channel: ab.Channel(), Send: true, Watch: true, Out: two, In: one, Interval: 5 * time.Millisecond}, nil)
	return ab, ba
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

func is(l *heartbeat.Link, want heartbeat.State) func() bool {
	return func() bool { return l.State() == want }
}

// each runs a test with the program, and with a thread in its stead.
func each(t *testing.T, test func(t *testing.T, program string)) {
	t.Helper()
	t.Run("process", func(t *testing.T) { test(t, program) })
	t.Run("thread", func(t *testing.T) { test(t, "") })
}

func TestPeerThatEndsIsKnown(t *testing.T) {
	each(t, func(t *testing.T, program string) {
		t.Helper()
		end := heartbeat.Silent // a thread says nothing: it ends with its process
		if program != "" {
			end = heartbeat.Ended
		}
		a, _ := start(t, program)
		b, stop := start(t, program)
		ab, ba := connect(t, a, b, local(a.Port()), local(b.Port()))
		eventually(t, "both hear each other", func() bool { return ab.State() == heartbeat.Alive && ba.State() == heartbeat.Alive })
		stop()
		eventually(t, "the one that is left knows", is(ab, end))
		if silence, ok := ab.Silence(); !ok || silence <= 0 {
			t.Errorf("the silence is %v, %v", silence, ok)
		}
		ab.Close()
		if got := ab.State(); got != heartbeat.Unwatched {
			eventually(t, "a closed link is unwatched", is(ab, heartbeat.Unwatched))
		}
	})
}

func TestChangesAreTold(t *testing.T) {
	a, _ := start(t, program)
	b, stop := start(t, program)
	states := make(chan heartbeat.State, 100)
	ab, err := a.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	ba, err := b.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	key := [pulse.KeySize]byte{7}
	ab.Start(heartbeat.Peer{Watch: true, In: key, Interval: time.Second}, func(s heartbeat.State) { states <- s })
	ba.Start(heartbeat.Peer{Peer: local(a.Port()), Channel: ab.Channel(), Send: true, Out: key, Interval: 5 * time.Millisecond}, nil)
	wait := func(want heartbeat.State) {
		for {
			select {
			case got := <-states:
				if got == want {
					return
				}
			case <-time.After(30 * time.Second):
				t.Fatalf("%v was not told", want)
			}
		}
	}
	wait(heartbeat.Alive)
	stop()
	wait(heartbeat.Ended)
}

// TestKilledProcessIsKnownByItsLastWord kills a process that beats: its program outlives it for long enough to say so.
func TestKilledProcessIsKnownByItsLastWord(t *testing.T) {
	a, _ := start(t, program)
	for range 3 {
		states := make(chan heartbeat.State, 100)
		l, err := a.Reserve()
		if err != nil {
			t.Fatal(err)
		}
		l.Start(heartbeat.Peer{Watch: true, In: [pulse.KeySize]byte{7}, Interval: time.Second}, func(s heartbeat.State) { states <- s })
		cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "/proc/self/exe")
		cmd.Env = append(os.Environ(), beatEnv+"="+fmt.Sprint(program, " ", a.Port(), " ", l.Channel()))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Wait() })
		eventually(t, "it is heard", is(l, heartbeat.Alive))
		_ = cmd.Process.Kill()
		eventually(t, "its end is known", is(l, heartbeat.Ended))
		l.Close()
	}
}

const beatEnv = "VORTEX_TEST_BEAT"

// beat is a process that does nothing else, until it is killed.
func beat(how string) error {
	var program string
	var port uint16
	var channel uint32
	if _, err := fmt.Sscan(how, &program, &port, &channel); err != nil {
		return err
	}
	p, err := heartbeat.Listen(context.Background(), heartbeat.Config{Address: "127.0.0.1:0", Program: program, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	l, err := p.Reserve()
	if err != nil {
		return err
	}
	l.Start(heartbeat.Peer{Peer: local(port), Channel: channel, Send: true, Out: [pulse.KeySize]byte{7}, Interval: 5 * time.Millisecond}, nil)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return p.Run(ctx)
}

func TestPortIsNobodyElsesToo(t *testing.T) {
	a, _ := start(t, program)
	if _, err := heartbeat.Listen(t.Context(), heartbeat.Config{Address: local(a.Port()).String(), Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("a second pulse took the first one's port")
	}
}

func TestStrangersAreNotHeard(t *testing.T) {
	a, _ := start(t, program)
	b, _ := start(t, program)
	ab, _ := a.Reserve()
	ba, _ := b.Reserve()
	ab.Start(heartbeat.Peer{Watch: true, In: [pulse.KeySize]byte{1}, Interval: time.Second}, nil)
	ba.Start(heartbeat.Peer{Peer: local(a.Port()), Channel: ab.Channel(), Send: true, Out: [pulse.KeySize]byte{2}, Interval: time.Millisecond}, nil)
	eventually(t, "datagrams under another key are refused", func() bool { return a.Page().Refused.Load() > 100 })
	if got := ab.State(); got != heartbeat.Unheard {
		t.Errorf("the link is %v", got)
	}
}

// children are the processes of pulse programs that this process started.
func children(t *testing.T) (pids []int) {
	t.Helper()
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	if len(tasks) == 0 {
		t.Skip("the kernel does not list children")
	}
	for _, task := range tasks {
		out, err := os.ReadFile(task)
		if err != nil {
			continue
		}
		for field := range strings.FieldsSeq(string(out)) {
			pid, _ := strconv.Atoi(field)
			if exe, _ := os.Readlink("/proc/" + field + "/exe"); exe == program {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func TestProgramThatDiesIsStartedAgainAndHeardAgain(t *testing.T) {
	a, _ := start(t, "")
	b, _ := start(t, program)
	ab, ba := connect(t, a, b, local(a.Port()), local(b.Port()))
	eventually(t, "both hear each other", func() bool { return ab.State() == heartbeat.Alive && ba.State() == heartbeat.Alive })
	for range 3 {
		before := ab.Page().Beats.Load()
		for _, pid := range children(t) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		eventually(t, "its beats are believed again", func() bool { return ab.Page().Beats.Load() > before+20 && ab.State() == heartbeat.Alive })
		eventually(t, "it hears again", is(ba, heartbeat.Alive))
	}
}

func TestStoppedProgramIsSilentAndComesBack(t *testing.T) {
	a, _ := start(t, "")
	b, _ := start(t, program)
	ab, ba := connect(t, a, b, local(a.Port()), local(b.Port()))
	eventually(t, "both hear each other", func() bool { return ab.State() == heartbeat.Alive && ba.State() == heartbeat.Alive })
	pids := children(t)
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGSTOP)
	}
	eventually(t, "a frozen peer is silent", is(ab, heartbeat.Silent))
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
	eventually(t, "it is back", is(ab, heartbeat.Alive))
	eventually(t, "what froze says so", func() bool { return b.Page().Stalls.Load() > 0 })
	if n := ba.Page().Suspicions.Load(); n != 0 {
		t.Errorf("what froze itself suspected its peer %d times", n)
	}
}

func TestMoreThanHalfAtOnceIsHeld(t *testing.T) {
	a, _ := start(t, program)
	gate := &gate{}
	links := make([]*heartbeat.Link, 4)
	for i := range links {
		b, _ := start(t, program)
		links[i], _ = connect(t, a, b, gate.to(t, a.Port()), local(b.Port()))
	}
	count := func(want heartbeat.State) (n int) {
		for _, l := range links {
			if l.State() == want {
				n++
			}
		}
		return n
	}
	eventually(t, "all are heard", func() bool { return count(heartbeat.Alive) == 4 })
	gate.shut.Store(true)
	eventually(t, "the fault is taken to be here", func() bool { return count(heartbeat.Held) > 2 })
	rounds := a.Page().Rounds.Load()
	eventually(t, "it goes on for longer than a second", func() bool { return a.Page().Rounds.Load() > rounds+600 })
	if n := count(heartbeat.Held); n < 3 {
		t.Errorf("%d of 4 are still held", n)
	}
	gate.shut.Store(false)
	eventually(t, "all are heard again", func() bool { return count(heartbeat.Alive) == 4 })
}

// gate passes datagrams on while it is not shut.
type gate struct{ shut atomic.Bool }

// to returns an address that leads to a port.
func (g *gate) to(t *testing.T, port uint16) netip.AddrPort {
	t.Helper()
	in, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(local(0)))
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, _, err := in.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if !g.shut.Load() {
				_, _ = in.WriteToUDPAddrPort(buf[:n], local(port))
			}
		}
	})
	t.Cleanup(func() { _ = in.Close(); done.Wait() })
	return in.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestPeerBehindACutLinkAnswersThroughAnother(t *testing.T) {
	a, _ := start(t, program)
	b, _ := start(t, program)
	gate := &gate{}
	ab, _ := connect(t, a, b, gate.to(t, a.Port()), local(b.Port()))
	eventually(t, "it is heard", is(ab, heartbeat.Alive))
	gate.shut.Store(true)
	eventually(t, "it is silent", is(ab, heartbeat.Silent))
	if _, ok := ab.Relayed(); ok {
		t.Error("it answered through nobody")
	}
	var answer []byte
	eventually(t, "it answers", func() bool { // a ping that takes a third of a second is too old
		answer = carry(t, ab, b.Port())
		return answer != nil
	})
	forged := append([]byte(nil), answer...)
	forged[20] ^= 1
	ab.Carried(forged)
	ab.Carried(answer)
	eventually(t, "its answer is believed", func() bool { _, ok := ab.Relayed(); return ok })
	if got := ab.State(); got != heartbeat.Silent {
		t.Errorf("the link itself is %v", got)
	}
}

// carry takes a ping of a link to the peer's port, when a few beats have gone there by themselves, and returns the answer, nil when none comes.
func carry(t *testing.T, l *heartbeat.Link, port uint16) []byte {
	t.Helper()
	ping, err := l.Ask(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	carrier, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(local(port)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = carrier.Close() }()
	if _, err := carrier.Write(ping); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 1500)
	_ = carrier.SetReadDeadline(time.Now().Add(time.Second))
	n, err := carrier.Read(answer)
	if err != nil {
		return nil
	}
	return answer[:n]
}

func TestIntervalKeepsTheWatchersLoad(t *testing.T) {
	for peers, want := range map[int]time.Duration{0: 5 * time.Millisecond, 8: 5 * time.Millisecond, 100: 25 * time.Millisecond, 500: 100 * time.Millisecond} {
		if got := heartbeat.Interval(peers); got != want {
			t.Errorf("%d peers beat every %v; want %v", peers, got, want)
		}
	}
}
