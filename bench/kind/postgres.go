package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"vortex/bench/report"
)

const (
	postgresClients    = 16
	postgresRateLimit  = 2  // times kine's throughput
	postgresWatchLimit = 20 // ms
)

// measurePostgres measures the store on PostgreSQL beside kine on the same server: puts, and how soon watchers see them.
func (b *bench) measurePostgres(ctx context.Context) (err error) {
	if b.postgres == "" {
		b.say("no PostgreSQL server is installed: the store on it is not measured")
		return nil
	}
	ours, err := startVortex(ctx, "--store", b.postgres+"/postgres?sslmode=disable")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.close()) }()
	kine, err := startKine(ctx, b.kine, b.postgres+"/kine?sslmode=disable")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, kine.close()) }()
	if err := b.putBeside(ctx, ours, kine); err != nil {
		return err
	}
	took, err := b.delaysOf(ctx, ours)
	if err != nil {
		return err
	}
	const name = "kind/postgres/watch/100_watchers/"
	b.report.Add(report.Figure{Name: name + "p50", Unit: "ms", Value: report.Percentile(took, 0.5), Samples: len(took)})
	b.report.Add(report.Figure{Name: name + "p99", Unit: "ms", Value: report.Percentile(took, p99), Limit: postgresWatchLimit, Samples: len(took)})
	return nil
}

// putBeside lets clients put into the store and into kine in turn.
func (b *bench) putBeside(ctx context.Context, ours, kine server) (err error) {
	mine, err := gather(ours, postgresClients)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mine.close()) }()
	theirs, err := gather(kine, postgresClients)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, theirs.close()) }()
	put := func(ctx context.Context, s store, n int) error {
		return s.put(ctx, key(n%keys), value(n%keys, uint64(n)))
	}
	var rate, cpu, tail report.Compared
	err = b.takeTurns(ctx, mine, theirs, put, put, func(mine, theirs sample) {
		rate.Add(mine.rate(), theirs.rate())
		cpu.Add(mine.cost(), theirs.cost())
		tail.Add(mine.p99, theirs.p99)
	})
	if err != nil {
		return err
	}
	name := fmt.Sprintf("kind/postgres/put/%d_clients/", postgresClients)
	b.report.Add(rate.Figure(name+"throughput", "1/s", "kine", "higher", postgresRateLimit))
	b.report.Add(cpu.Figure(name+"cpu", "us", "kine", "", 0))
	b.report.Add(tail.Figure(name+"p99", "ms", "kine", "", 0))
	return nil
}

// kineServer is kine on a PostgreSQL database, in its default settings.
type kineServer struct {
	cmd       *exec.Cmd
	addr      string
	log       bytes.Buffer
	revisions sync.Map // by key: kine takes an update only with the revision that it replaces
}

// startKine starts kine and returns when it answers. It makes its database itself.
func startKine(ctx context.Context, path, database string) (*kineServer, error) {
	ports, err := freePorts(ctx)
	if err != nil {
		return nil, err
	}
	s := &kineServer{addr: ports[0]}
	listen := url.URL{Scheme: "tcp", Host: s.addr}
	s.cmd = exec.Command(path, "--endpoint", database, "--listen-address", listen.String(), "--metrics-bind-address", "0") //nolint:noctx // it is ended by close
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start kine: %w", err)
	}
	if err := s.await(ctx); err != nil {
		return nil, errors.Join(err, s.close(), errors.New(s.log.String()))
	}
	return s, nil
}

// await writes until that succeeds.
func (s *kineServer) await(ctx context.Context) (err error) {
	conn, err := s.dial()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	var last error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if last = s.client(conn).put(ctx, "ready", nil); last == nil {
			return nil
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("kine does not answer: %w", last)
}

func (s *kineServer) pid() int { return s.cmd.Process.Pid }

func (s *kineServer) address() string { return s.addr }

func (s *kineServer) dial() (*grpc.ClientConn, error) { return dial(s.addr) }

func (s *kineServer) client(conn *grpc.ClientConn) store {
	return kineStore{etcdStore{etcdserverpb.NewKVClient(conn)}, s}
}

func (s *kineServer) close() error {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait() // killed is how it ends
	return nil
}

// kineStore speaks the part of etcd's protocol that kine has, as Kubernetes does.
type kineStore struct {
	etcdStore

	server *kineServer
}

func (s kineStore) put(ctx context.Context, key string, value []byte) error {
	for {
		replaced, _ := s.server.revisions.LoadOrStore(key, int64(0))
		rev, _ := replaced.(int64)
		resp, err := s.kv.Txn(ctx, update(key, value, rev))
		if err != nil {
			return err
		}
		if resp.GetSucceeded() {
			s.server.revisions.Store(key, resp.GetHeader().GetRevision())
			return nil
		}
		if found := resp.GetResponses()[0].GetResponseRange().GetKvs(); len(found) == 1 { // another client was first
			s.server.revisions.Store(key, found[0].GetModRevision())
		}
	}
}

// update is the transaction that replaces a revision of a key, 0 being none.
func update(key string, value []byte, rev int64) *etcdserverpb.TxnRequest {
	name := []byte(key)
	return &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{{
			Key: name, Target: etcdserverpb.Compare_MOD, Result: etcdserverpb.Compare_EQUAL,
			TargetUnion: &etcdserverpb.Compare_ModRevision{ModRevision: rev},
		}},
		Success: []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: &etcdserverpb.PutRequest{Key: name, Value: value}}}},
		Failure: []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: &etcdserverpb.RangeRequest{Key: name}}}},
	}
}

func (s kineStore) putAll(ctx context.Context, keys []string, values [][]byte) error {
	for i, key := range keys {
		if err := s.put(ctx, key, values[i]); err != nil {
			return err
		}
	}
	return nil
}
