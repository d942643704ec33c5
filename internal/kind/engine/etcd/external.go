package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
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
	var clients []*clientv3.Client
	for _, endpoint := range nearestFirst(c.Endpoints) {
		client, err := c.dial(endpoint)
		if err != nil {
			return nil, errors.Join(err, newRoute(clients...).close())
		}
		clients = append(clients, client)
	}
	e := newEngine(newRoute(clients...), c.Prefix, bounds{operations: externalOps, bytes: groupBytes})
	e.index, e.follow = e.remoteIndex, e.followRemote
	life, end := context.WithCancel(context.Background())
	var tending sync.WaitGroup
	tending.Go(func() { e.route.tend(life, e.count) })
	e.close = func() error {
		end()
		tending.Wait()
		return e.route.close()
	}
	ping, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if _, err := e.index(ping); err != nil {
		_ = e.close()
		return nil, &vortex.Error{
			Kind: vortex.Unavailable,
			Msg:  "no member of the etcd cluster answered; check --store and that etcd runs",
			Err:  err,
		}
	}
	return e, nil
}

// nearestFirst returns the endpoints in the order in which they are tried: that on this machine, whose loss is not felt elsewhere, and then the others in
// any order, so that servers that start share the members.
func nearestFirst(endpoints []string) []string {
	order := slices.Clone(endpoints)
	rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	own, _ := net.InterfaceAddrs() // without them none is known to be near
	near := func(endpoint string) int {
		host, _, _ := net.SplitHostPort(endpoint)
		ip, err := netip.ParseAddr(host)
		isIP := func(a net.Addr) bool {
			prefix, err := netip.ParsePrefix(a.String())
			return err == nil && prefix.Addr() == ip.Unmap()
		}
		if host == "localhost" || err == nil && slices.ContainsFunc(own, isIP) {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(order, func(a, b string) int { return near(a) - near(b) })
	return order
}

// dial returns a client of one member.
func (c External) dial(endpoint string) (*clientv3.Client, error) {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            []string{endpoint},
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
		return nil, &vortex.Error{Kind: vortex.Unavailable, Msg: "cannot connect to etcd at " + endpoint + "; check --store, the user in it, and --store-ca, --store-cert and --store-key", Err: err}
	}
	return client, nil
}
