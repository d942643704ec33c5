package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"vortex/client"
	kindpb "vortex/proto/kind"
	"vortex/test/harness"
)

// server is a running store in a process of its own.
type server interface {
	pid() int
	address() string
	// dial opens a connection of its own to the store.
	dial() (*grpc.ClientConn, error)
	// client speaks the store's protocol on a connection.
	client(conn *grpc.ClientConn) store
	close() error
}

// store is what both stores can do.
type store interface {
	put(ctx context.Context, key string, value []byte) error
	// get reads a key: as new as everything acknowledged before, or whatever the server has at hand.
	get(ctx context.Context, key string, linearizable bool) error
	// putAll writes records in one transaction.
	putAll(ctx context.Context, keys []string, values [][]byte) error
	// watch calls saw with each key that changes, until ctx ends; it closes ready once it is subscribed. It makes a connection of its own.
	watch(ctx context.Context, addr string, ready chan<- struct{}, saw func(key string)) error
}

func dial(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)))
}

// vortexServer is the built vortex without agent and edge.
type vortexServer struct{ *harness.Vortex }

// startVortex starts a vortex with new data, and more flags, and loads the schema.
func startVortex(ctx context.Context, flags ...string) (*vortexServer, error) {
	v, err := harness.Start(ctx, harness.Options{Args: append([]string{"--no-agent", "--no-edge"}, flags...)})
	if err != nil {
		return nil, err
	}
	s := &vortexServer{v}
	kind, err := client.OpenKind(v.Run.Kind, v.Run.Token)
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	_, err = kind.LoadSchema(ctx, "bench", []byte(schema), false)
	if err = errors.Join(err, kind.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("load the schema: %w", err), s.close())
	}
	return s, nil
}

func (s *vortexServer) pid() int { return s.PID() }

func (s *vortexServer) address() string { return s.Run.Kind }

func (s *vortexServer) dial() (*grpc.ClientConn, error) { return dial(s.Run.Kind) }

func (s *vortexServer) client(conn *grpc.ClientConn) store {
	return kindStore{kindpb.NewKindServiceClient(conn)}
}

// close ends the process and removes its data; it has made nothing else.
func (s *vortexServer) close() error {
	s.Kill()
	return os.RemoveAll(s.Data)
}

// etcdServer is an etcd of one member in its default settings.
type etcdServer struct {
	cmd  *exec.Cmd
	addr string
	data string
	log  bytes.Buffer
}

// startEtcd starts an etcd with new data and returns when it answers.
func startEtcd(ctx context.Context, path string) (*etcdServer, error) {
	data, err := os.MkdirTemp("", "vortex-bench-etcd-")
	if err != nil {
		return nil, err
	}
	s := &etcdServer{data: data}
	if err := s.start(ctx, path); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *etcdServer) start(ctx context.Context, path string) error {
	ports, err := freePorts(ctx)
	if err != nil {
		return err
	}
	s.addr = ports[0]
	clients, peers := "http://"+ports[0], "http://"+ports[1]
	s.cmd = exec.Command(path, //nolint:noctx // it is ended by close
		"--data-dir", filepath.Join(s.data, "data"), "--listen-client-urls", clients, "--advertise-client-urls", clients,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers)
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	conn, err := s.dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	const patience = 30 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err = etcdserverpb.NewKVClient(conn).Range(ctx, &etcdserverpb.RangeRequest{Key: []byte("a")}, grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("etcd does not answer: %w", err)
	}
	return nil
}

// freePorts returns two addresses nobody listens on now.
func freePorts(ctx context.Context) (addrs [2]string, err error) {
	for i := range addrs {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return addrs, fmt.Errorf("find a free port: %w", err)
		}
		defer func() { _ = l.Close() }()
		addrs[i] = l.Addr().String()
	}
	return addrs, nil
}

func (s *etcdServer) pid() int { return s.cmd.Process.Pid }

func (s *etcdServer) address() string { return s.addr }

func (s *etcdServer) dial() (*grpc.ClientConn, error) { return dial(s.addr) }

func (s *etcdServer) client(conn *grpc.ClientConn) store {
	return etcdStore{etcdserverpb.NewKVClient(conn)}
}

func (s *etcdServer) close() error {
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
	return os.RemoveAll(s.data)
}
