package etcd

import (
	"context"
	"crypto/tls"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"vortex"
)

// External configures a connection to an etcd cluster that runs elsewhere.
type External struct {
	// Endpoints are host:port of the cluster's members.
	Endpoints []string
	// Prefix separates Vortex's keys from others; default "/vortex/".
	Prefix string
	// TLS is nil for plain connections.
	TLS *tls.Config
	// Username and Password are empty when the cluster asks for none.
	Username, Password string
}

const (
	dialTimeout   = 5 * time.Second
	keepAlive     = 2 * time.Second
	externalBytes = 16 << 20
	externalOps   = 120 // of all transactions that share a round: etcd takes 128 unless told otherwise
)

// Open connects to the cluster and returns when a member answered.
func (c External) Open(ctx context.Context) (*Engine, error) {
	if c.Prefix == "" {
		c.Prefix = "/vortex/"
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            c.Endpoints,
		DialTimeout:          dialTimeout,
		DialKeepAliveTime:    keepAlive,
		DialKeepAliveTimeout: keepAlive,
		MaxCallSendMsgSize:   externalBytes,
		TLS:                  c.TLS,
		Username:             c.Username,
		Password:             c.Password,
		Logger:               zap.NewNop(),
	})
	if err != nil {
		return nil, &vortex.Error{Kind: vortex.Unavailable, Msg: "cannot connect to the etcd cluster", Err: err}
	}
	e := newEngine(client, c.Prefix, bounds{operations: externalOps, bytes: groupBytes})
	e.index, e.follow, e.close = e.remoteIndex, e.followRemote, client.Close
	ping, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if _, err := e.index(ping); err != nil {
		_ = client.Close()
		return nil, &vortex.Error{
			Kind: vortex.Unavailable,
			Msg:  "no member of the etcd cluster answered; check --store and that etcd runs",
			Err:  err,
		}
	}
	return e, nil
}
