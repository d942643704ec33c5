package network

import (
	"context"
	"errors"
	"time"

	"github.com/google/nftables"

	"vortex"
)

const (
	resyncEvery = 30 * time.Second       // the safety net under the firewall's monitor
	settle      = 200 * time.Millisecond // a burst of rule changes is answered once
)

// Run keeps the pool of prepared namespaces filled and puts rules back that others flushed, until ctx
// ends; it then returns nil. Prepared namespaces stay for the next process.
func (n *Network) Run(ctx context.Context) error {
	n.mu.Lock()
	err := n.ready()
	n.mu.Unlock()
	if err != nil {
		return err
	}
	changes, stop := n.ruleChanges()
	defer func() { stop() }()
	tick := time.NewTicker(resyncEvery)
	defer tick.Stop()
	var settled <-chan time.Time
	n.tryResync(ctx) // what happened since Setup was not watched
	for n.fill(ctx); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-n.low:
			n.fill(ctx)
		case e, ok := <-changes:
			if !ok {
				changes = nil // it could not keep up: until the next tick there is none
			} else if settled == nil && concernsRules(e) {
				settled = time.After(settle)
			}
		case <-settled:
			settled = nil
			n.tryResync(ctx)
		case <-tick.C:
			if changes == nil {
				stop()
				changes, stop = n.ruleChanges()
			}
			n.tryResync(ctx)
		}
	}
}

// ruleChanges yields every change that anybody makes to the firewall, since the library's own selection of
// changes lets none through. Without the right to listen it yields nothing.
func (n *Network) ruleChanges() (<-chan *nftables.MonitorEvent, func()) {
	mon := nftables.NewMonitor()
	conn, err := nftables.New()
	if err != nil {
		n.log.Warn("Firewall changes not watched, checking every 30 s", "err", err)
		return nil, func() {}
	}
	events, err := conn.AddMonitor(mon)
	if err != nil {
		n.log.Warn("Firewall changes not watched, checking every 30 s", "err", err)
		return nil, func() {}
	}
	return events, func() {
		_ = mon.Close() // only ends the stream
		for range events {
			continue // the monitor's goroutine waits until all was taken
		}
	}
}

// concernsRules reports whether a change may have taken a rule away. Published ports come and go as set elements.
func concernsRules(e *nftables.MonitorEvent) bool {
	switch e.Type {
	case nftables.MonitorEventTypeDelTable, nftables.MonitorEventTypeNewChain, nftables.MonitorEventTypeDelChain,
		nftables.MonitorEventTypeNewRule, nftables.MonitorEventTypeDelRule, nftables.MonitorEventTypeOOB:
		return true
	default:
		return false
	}
}

// fill makes slots until the pool is full.
func (n *Network) fill(ctx context.Context) {
	for ctx.Err() == nil {
		n.mu.Lock()
		enough := !n.up || len(n.pool) >= n.cfg.PoolSize
		n.mu.Unlock()
		if enough {
			return
		}
		s, err := n.makeSlot()
		if vortex.IsKind(err, vortex.Exhausted) {
			return // all addresses are in slots, which is what they are for
		}
		if err != nil {
			n.log.WarnContext(ctx, "Network slot not prepared", "err", err)
			return
		}
		n.mu.Lock()
		n.pool = append(n.pool, s)
		n.mu.Unlock()
	}
}

func (n *Network) tryResync(ctx context.Context) {
	if err := n.resync(ctx); err != nil {
		n.log.ErrorContext(ctx, "Network not repaired, trying again in 30 s", "err", err)
	}
}

// resync puts back what is missing of bridge and firewall.
func (n *Network) resync(ctx context.Context) error {
	n.setup.Lock()
	defer n.setup.Unlock()
	return n.repair(ctx)
}

// repair is resync for whoever holds setup.
func (n *Network) repair(ctx context.Context) error {
	n.mu.Lock()
	index, err := n.bridge, n.ready()
	n.mu.Unlock()
	if err = errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	link, err := n.host.LinkByIndex(index)
	if err != nil || link.Attrs().Name != n.cfg.Bridge {
		if err := n.rebuildBridge(); err != nil {
			return err
		}
	}
	ok, err := n.fw.intact()
	if err != nil {
		return err
	}
	if !ok {
		n.log.WarnContext(ctx, "Firewall rules missing, putting them back", "table", n.cfg.Table)
		return n.fw.install()
	}
	return nil
}

// rebuildBridge makes the bridge again and plugs everything that lived on it back in.
func (n *Network) rebuildBridge() error {
	n.log.Warn("Bridge was removed, making it again", "bridge", n.cfg.Bridge)
	index, err := n.setupBridge()
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.bridge = index
	for ip := range n.addrs.used {
		link, err := n.host.LinkByName(vethName(fromUint(ip)))
		if err != nil {
			continue // being made, or gone with its instance
		}
		if err := n.host.LinkSetMasterByIndex(link, index); err != nil {
			n.log.Warn("Instance not back on the bridge", "address", fromUint(ip), "err", err)
			continue
		}
		_ = n.host.LinkSetHairpin(link, true) // only reaching oneself by a published port needs it
	}
	return nil
}
