package network

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"vortex/internal/runtime"
)

func TestMain(m *testing.M) {
	if spec := os.Getenv("VORTEX_NETWORK_TEST_CHILD"); spec != "" {
		os.Exit(child(spec))
	}
	os.Exit(m.Run())
}

// child attaches instances without end and prints each id once it has it, until it is killed.
func child(spec string) int {
	var cfg Config
	if err := json.Unmarshal([]byte(spec), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	n, err := New(cfg)
	if err == nil {
		err = n.Setup(context.Background())
	}
	for k := 0; err == nil; k++ {
		id := fmt.Sprintf("i-%d", k)
		if _, err = n.Attach(context.Background(), id, AttachSpec{}); err == nil {
			fmt.Println(id)
		}
		if k%3 == 2 && err == nil {
			err = n.Detach(context.Background(), fmt.Sprintf("i-%d", k-1))
			fmt.Println("-" + fmt.Sprintf("i-%d", k-1))
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// A process killed anywhere in Attach and Detach leaves what the next one adopts: everything acknowledged, nothing else.
func TestKilledInTheMiddle(t *testing.T) {
	cfg := testConfig(t)
	cfg.Log = nil
	spec, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		acked := runAndKill(t, string(spec), 10+7*round)
		n := mustNew(t, cfg)
		list, err := n.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		have := map[string]netip.Addr{}
		for _, a := range list {
			have[a.ID] = a.IP
			if err := ping(a.NetNS, a.Gateway); err != nil {
				t.Errorf("adopted %s: %v", a.ID, err)
			}
		}
		for id, there := range acked {
			if _, ok := have[id]; there && !ok {
				t.Errorf("instance %s was attached and is gone", id)
			}
		}
		if got, want := links(t, n), len(list)+poolLen(n); got != want {
			t.Errorf("%d links on the bridge for %d namespaces", got, want)
		}
		if err := n.Reconcile(t.Context(), map[string]bool{"i-0": true}); err != nil {
			t.Error(err)
		}
		if list, _ = n.List(t.Context()); len(list) != 1 || list[0].ID != "i-0" || list[0].IP != have["i-0"] {
			t.Errorf("after Reconcile: %+v; want i-0 alone at %v", list, have["i-0"])
		}
		if err := n.Reconcile(t.Context(), nil); err != nil {
			t.Error(err)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := mustNew(t, cfg).Teardown(t.Context()); err != nil {
		t.Error(err)
	}
}

// runAndKill starts a child, kills it after some lines, and returns what it had attached (true) or detached (false).
func runAndKill(t *testing.T, spec string, lines int) map[string]bool {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "VORTEX_NETWORK_TEST_CHILD="+spec)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaints strings.Builder
	cmd.Stderr = &complaints
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	acked := map[string]bool{}
	sc := bufio.NewScanner(out)
	for k := 0; sc.Scan(); k++ {
		id, gone := strings.CutPrefix(sc.Text(), "-")
		acked[id] = !gone
		if k == lines {
			cmd.Process.Kill()
		}
	}
	cmd.Wait()
	if len(acked) <= lines/2 {
		t.Fatalf("child ended by itself: %s", complaints.String())
	}
	// The last instance may have been detached without the line having been read.
	delete(acked, "i-"+strconv.Itoa(len(acked)-2))
	return acked
}

// Connections live on while no process runs, published ports included, and the next process has the same addresses.
func TestRestartKeepsTraffic(t *testing.T) {
	cfg := testConfig(t)
	cfg.PoolSize = 2
	first := mustNew(t, cfg)
	port := freePort(t)
	spec := AttachSpec{Hostname: "web", Ports: []runtime.PortMapping{{HostPort: port, ContainerPort: 80}}}
	a := mustAttach(t, first, "a", spec)
	first.fill(t.Context())
	var ln net.Listener
	in(t, a.NetNS, func() (err error) {
		ln, err = net.Listen("tcp4", ":80")
		return err
	})
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go io.Copy(c, c)
		}
	}()
	c, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	echo := func(when string) {
		t.Helper()
		buf := make([]byte, 4)
		c.Write([]byte("ping"))
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}
	echo("before")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	echo("while nobody is there")
	second := setup(t, cfg)
	echo("after")
	list, _ := second.List(t.Context())
	if len(list) != 1 || list[0] != a {
		t.Errorf("List() = %+v; want %+v", list, a)
	}
	if poolLen(second) != 2 {
		t.Errorf("pool of %d adopted; want 2", poolLen(second))
	}
	if b := mustAttach(t, second, "b", AttachSpec{}); b.IP == a.IP {
		t.Errorf("address %s given twice", b.IP)
	}
	if _, err := second.Attach(t.Context(), "c", spec); err == nil {
		t.Error("port of an adopted instance given again")
	}
}
