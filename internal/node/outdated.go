package node

import (
	"context"
	"crypto/tls"
	"sync"
	"time"

	"vortex"
)

// askEpoch is how often a server that waits for its store asks whether the others have gone on without it.
const askEpoch = 2 * time.Second

// unlessOutdated returns a context that ends, with the reason, when another server shows that the cluster was recovered without this one: who waits
// for the members of the old group would wait for ever. end has to be called.
func (n *Node) unlessOutdated(ctx context.Context) (opening context.Context, end func()) {
	opening, cancel := context.WithCancelCause(ctx)
	if n.holder == nil || n.cfg.Store != "" {
		return opening, func() { cancel(nil) }
	}
	var asking sync.WaitGroup
	for _, server := range n.servers() {
		asking.Go(func() {
			for opening.Err() == nil {
				if err := n.outdated(opening, server); err != nil {
					cancel(err)
				}
				select {
				case <-opening.Done():
				case <-time.After(askEpoch):
				}
			}
		})
	}
	return opening, func() { cancel(nil); asking.Wait() }
}

// outdated returns an error when a server's certificate is of a later epoch of the cluster.
func (n *Node) outdated(ctx context.Context, server string) (err error) {
	cfg := n.holder.Client("h2")
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		if id, ok := n.holder.Later(state.PeerCertificates); ok {
			err = vortex.Errorf(vortex.Precondition, "the cluster was recovered without %s: %s is at epoch %d, this server at %d\nremove %s and join again with a new token",
				n.cfg.Name, id.Name, id.Epoch, n.holder.Identity().Epoch, n.cfg.Data)
		}
		return err
	}
	attempt, cancel := context.WithTimeout(ctx, askEpoch)
	defer cancel()
	conn, dialed := (&tls.Dialer{Config: cfg}).DialContext(attempt, "tcp", server)
	if dialed == nil {
		_ = conn.Close()
	}
	return err
}
