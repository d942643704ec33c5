package backup_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vortex/internal/kind/backup"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/etcd"
	"vortex/internal/kind/engine/postgres"
	"vortex/internal/kind/engine/postgres/pgtest"
	"vortex/internal/kind/kindtest"
)

// TestEveryEngineTakesABackup moves a store from one engine to each of the others, and proves it.
func TestEveryEngineTakesABackup(t *testing.T) {
	source := kindtest.Open(t)
	var l ledger
	for n := range 300 {
		if err := l.commit(t.Context(), source, some(n)...); err != nil {
			t.Fatal(err)
		}
	}
	put(t, source, "leaves", time.Hour)
	want := storeContent(source)
	state, err := backup.OpenFile(save(t, source))
	if err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func(*testing.T) engine.Engine{
		"embedded": func(t *testing.T) engine.Engine { t.Helper(); return openEngine(t, t.TempDir()) },
		"etcd":     externalEtcd,
		"postgres": database,
	} {
		t.Run(name, func(t *testing.T) {
			eng := open(t)
			report, err := backup.Prove(t.Context(), eng, state, builtin(t))
			if err != nil || report.Records != len(want) {
				t.Fatalf("%+v, %v; want %d records", report, err, len(want))
			}
			store, _ := openStore(t, eng)
			if diff := cmp.Diff(want, storeContent(store)); diff != "" {
				t.Error(diff)
			}
			put(t, store, "goes on", 0)
		})
	}
}

func database(t *testing.T) engine.Engine {
	t.Helper()
	eng, err := postgres.Config{URL: pgtest.Start(t).URL()}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = eng.Close() })
	return eng
}

// externalEtcd is Debian's etcd as a process of its own, with its default limits.
func externalEtcd(t *testing.T) engine.Engine {
	t.Helper()
	if _, err := exec.LookPath("etcd"); err != nil {
		t.Skip("no etcd on PATH: install etcd-server to test external clusters")
	}
	client, peer := freeAddr(t), freeAddr(t)
	cmd := exec.CommandContext(context.Background(), "etcd", "--data-dir", filepath.Join(t.TempDir(), "data"),
		"--listen-client-urls", "http://"+client, "--advertise-client-urls", "http://"+client,
		"--listen-peer-urls", "http://"+peer, "--initial-advertise-peer-urls", "http://"+peer, "--initial-cluster", "default=http://"+peer)
	cmd.Env = append(os.Environ(), "ETCD_UNSUPPORTED_ARCH=arm64")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var eng *etcd.Engine
	kindtest.Eventually(t, "etcd serves", func() bool {
		var err error
		eng, err = etcd.External{Endpoints: []string{client}}.Open(t.Context())
		return err == nil
	})
	t.Cleanup(func() { _ = eng.Close() })
	return eng
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// TestExamine tells the window of a good directory, and what is wrong with a damaged one.
func TestExamine(t *testing.T) {
	store, dir := kindtest.Open(t), t.TempDir()
	stop := keep(t, &backup.Keeper{Store: store, Dir: dir, Ship: true})
	reaches(t, dir, store.Revision())
	for n := range 20 {
		put(t, store, fmt.Sprint("k", n), 0)
	}
	newest := reaches(t, dir, store.Revision())
	stop()
	in, err := backup.Examine(dir)
	if err != nil || !in.Good() || len(in.Windows) != 1 || in.Windows[0].ToRevision != newest.Revision || in.Windows[0].Transactions == 0 {
		t.Fatalf("%+v, %v; want a window up to revision %d", in, err, newest.Revision)
	}
	if err := os.Truncate(in.Snapshots[0].Path, in.Snapshots[0].Bytes-1); err != nil {
		t.Fatal(err)
	}
	in, err = backup.Examine(dir)
	if err != nil || in.Good() || len(in.Windows) != 0 || !strings.Contains(in.Problems[0], "at byte") {
		t.Errorf("%+v, %v", in, err)
	}
}
