package node

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/etcd"
	"vortex/internal/kind/engine/swap"
)

// seat moves a server's store between the group and the servers that are in it: to a member of its own when the leader has made room for one,
// and back to the others' when it was removed. The store on top goes on.
type seat struct {
	name   string
	store  *kind.Store
	engine *swap.Engine
	member etcd.Embedded
	// others opens the engine of a server that is no member.
	others func(ctx context.Context) (engine.Engine, error)
	log    *slog.Logger
}

const seatRetry = time.Second // until what failed is tried again

// Run follows what the leader decides until ctx ends.
func (s *seat) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		var err error
		if own, ok := s.engine.Current().(*etcd.Engine); ok {
			err = s.hold(ctx, own.Group())
		} else {
			err = s.join(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "Store not moved yet", "err", err)
			pause(ctx, seatRetry)
		}
	}
	return nil
}

// hold waits until the others have removed this member, and goes on with theirs.
func (s *seat) hold(ctx context.Context, group *etcd.Group) error {
	select {
	case <-ctx.Done():
		return nil
	case <-group.Gone():
	}
	next, err := s.others(ctx)
	if err != nil {
		return err
	}
	if err := s.engine.Replace(ctx, next); err != nil {
		return errors.Join(err, next.Close())
	}
	s.log.InfoContext(ctx, "This server keeps the store no more")
	return s.leave()
}

// leave puts the data of a membership away that has ended.
func (s *seat) leave() error {
	_, err := s.member.PutAside()
	return err
}

// join waits until the leader has made room for this server, and becomes a member.
func (s *seat) join(ctx context.Context) error {
	group := s.room(ctx)
	if group == nil {
		return nil
	}
	c := s.member
	c.Join, c.Group = true, group
	own, err := c.Open(ctx)
	if errors.Is(err, etcd.ErrRemoved) { // before it was a member, or long ago
		return errors.Join(err, s.leave())
	}
	if err != nil {
		return err
	}
	if err := own.Group().CaughtUp(ctx); err != nil {
		return errors.Join(err, own.Close())
	}
	if err := s.engine.Replace(ctx, own); err != nil {
		return errors.Join(err, own.Close())
	}
	s.log.InfoContext(ctx, "This server keeps the store now")
	return nil
}

// room waits for this server's place in the group, and returns the URLs of everybody in it; nil when there is none yet and it is to be asked again.
// A place that has a vote already is none to begin in: its data was lost, and with it what it has promised.
func (s *seat) room(ctx context.Context) map[string]string {
	watch := s.store.Watch(kind.WatchOptions{Prefixes: []string{vortex.Members.Prefix + ":"}})
	defer watch.Close()
	for ctx.Err() == nil {
		group, mine := map[string]string{}, false
		for _, e := range kind.All(s.store, vortex.Members) {
			if e.Value.ID == "0" {
				continue // the leader has written that it is about to, not that it has
			}
			group[e.Value.Name] = e.Value.Address
			mine = mine || e.Value.Name == s.name && e.Value.Role == vortex.MemberRoleLearner
		}
		if mine {
			return group
		}
		if _, err := watch.Next(ctx); err != nil {
			pause(ctx, watchAgain)
			return nil
		}
	}
	return nil
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// openSeat opens the engine of a server of a cluster: its own member where it has the data of one, or founds the cluster, else the others'.
func (n *Node) openSeat(ctx context.Context) (engine.Engine, error) {
	log := n.component("engine")
	member := embeddedStore(n.cfg, log)
	if !n.afar() {
		eng, err := openEmbedded(ctx, n.cfg, log)
		if err == nil {
			return swap.New(eng), nil
		}
		if !errors.Is(err, etcd.ErrRemoved) {
			return nil, err
		}
		kept, err := member.PutAside()
		if err != nil {
			return nil, err
		}
		n.log.WarnContext(ctx, "The store's members removed this server while it was away; it goes on with their store", "old", kept)
	} else if err := free(ctx, n.cfg); err != nil { // it will need them
		return nil, err
	}
	eng, err := n.openAfar(ctx)
	if err != nil {
		return nil, err
	}
	return swap.New(eng), nil
}

// startSeat lets this server become a member of the store's group, and leave it, as the leader decides.
func (n *Node) startSeat(context.Context) error {
	if eng, ok := n.engine.(*swap.Engine); ok && peerURL(n.cfg) != "" {
		log := n.component("engine")
		s := &seat{name: n.cfg.Name, store: n.store, engine: eng, member: embeddedStore(n.cfg, log), others: n.openAfar, log: log}
		n.parts.start("seat", s.Run)
	}
	return nil
}

// member is the group that this server is a member of now, nil while it is of none.
func (n *Node) member() *etcd.Group { return groupOf(n.engine, n.cfg) }

// votes reports whether this server has a store that it can commit by: of a cluster's own, who has a vote, of any other everybody.
func (n *Node) votes() bool {
	eng, ok := n.engine.(*swap.Engine)
	if !ok {
		return true
	}
	own, ok := eng.Current().(*etcd.Engine)
	return ok && !own.Group().Status().Learner
}

// whileVoting runs what is for servers that vote whenever this one does, until ctx ends.
func (n *Node) whileVoting(ctx context.Context, run func(context.Context) error) error {
	for n.awaitVote(ctx, true); ctx.Err() == nil; n.awaitVote(ctx, true) {
		term, end := context.WithCancel(ctx)
		lost := make(chan struct{})
		go func() { defer close(lost); n.awaitVote(term, false); end() }()
		err := run(term)
		end()
		<-lost
		if err != nil {
			return err
		}
	}
	return nil
}

// awaitVote returns once this server votes, or does no more, or ctx ends.
func (n *Node) awaitVote(ctx context.Context, vote bool) {
	watch := n.store.Watch(kind.WatchOptions{Prefixes: []string{vortex.Members.Key(n.cfg.Name)}})
	defer func() { watch.Close() }()
	for ctx.Err() == nil && n.votes() != vote {
		select {
		case <-ctx.Done():
		case <-time.After(watchAgain): // the record may come before or after the vote itself
		case <-watch.Ready():
			if _, err := watch.Take(); err != nil {
				watch.Close()
				pause(ctx, watchAgain)
				watch = n.store.Watch(kind.WatchOptions{Prefixes: []string{vortex.Members.Key(n.cfg.Name)}})
			}
		}
	}
}
