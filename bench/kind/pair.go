package main

import (
	"context"
	"errors"
)

// pair is both stores, running side by side.
type pair struct {
	ours *vortexServer
	etcd *etcdServer
}

// start starts both, with the same records in them.
func (b *bench) start(ctx context.Context, records int) (*pair, error) {
	ours, err := startVortex(ctx)
	if err != nil {
		return nil, err
	}
	etcd, err := startEtcd(ctx, b.etcd)
	if err != nil {
		return nil, errors.Join(err, ours.close())
	}
	p := &pair{ours, etcd}
	for _, s := range []server{ours, etcd} {
		if err := fill(ctx, s, records); err != nil {
			return nil, errors.Join(err, p.close())
		}
	}
	return p, nil
}

// fill writes records into a server.
func fill(ctx context.Context, s server, records int) error {
	const clients = 4
	f, err := gather(s, clients)
	if err != nil {
		return err
	}
	return errors.Join(f.fill(ctx, records), f.close())
}

func (p *pair) close() error { return errors.Join(p.ours.close(), p.etcd.close()) }

// gather connects n clients to each.
func (p *pair) gather(n int) (ours, etcd *fleet, err error) {
	if ours, err = gather(p.ours, n); err != nil {
		return nil, nil, err
	}
	if etcd, err = gather(p.etcd, n); err != nil {
		return nil, nil, errors.Join(err, ours.close())
	}
	return ours, etcd, nil
}
