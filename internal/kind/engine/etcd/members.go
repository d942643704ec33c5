package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	etcderrors "go.etcd.io/etcd/server/v3/etcdserver/errors"
	"go.etcd.io/raft/v3/raftpb"

	"vortex"
)

// ErrRemoved is why a member ends that the others have removed: its data is of no use any more.
var ErrRemoved = errors.New("this server is no member of the store's group any more")

// Member is one of the group.
type Member struct {
	ID uint64
	// Name is the server's, empty until the member has started.
	Name string
	// URL is how the others reach it.
	URL string
	// Learner is set while it does not vote.
	Learner bool
}

// Status is what a member knows of itself.
type Status struct {
	// ID is its own, Leader the leader's, 0 while there is none.
	ID, Leader uint64
	// Cluster is the same for all members of a group, and for no others.
	Cluster uint64
	// Learner is set while it does not vote: not yet, or no more.
	Learner bool
	// Committed and Applied count entries of the log: what it has heard is final, and what of it is in its database.
	Committed, Applied uint64
	Term               uint64
}

// Group is the members of an embedded store as one of them sees them. Changes are made through the log, so any member may make them; each needs
// a quorum of those that vote, before and after.
type Group struct {
	server *etcdserver.EtcdServer
	log    *slog.Logger
	guard  sentinel
	orphan atomic.Int64 // when the member was first seen without a leader, in Unix nanoseconds; 0 while it has one
	end    context.CancelFunc
	done   chan struct{}
}

// newGroup begins to watch over the leader.
func newGroup(server *etcdserver.EtcdServer, cfg *embed.Config, log *slog.Logger) *Group {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := &Group{server: server, log: log, end: cancel, done: make(chan struct{})}
	g.guard = sentinel{group: g, tls: cfg.PeerTLSInfo}
	var parts sync.WaitGroup
	parts.Go(func() { g.settle(ctx, cfg.AdvertisePeerUrls[0].String()) })
	if cfg.TickMs == groupTickMillis {
		parts.Go(func() { g.guard.run(ctx) })
		parts.Go(func() { g.observe(ctx) })
	}
	go func() { defer close(g.done); parts.Wait() }()
	return g
}

// orphaned is how long a member may be without a leader before it says so: an election takes less.
const orphaned = 3 * time.Second

// observe notes since when there is no leader.
func (g *Group) observe(ctx context.Context) {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		if g.server.Lead() != 0 {
			g.orphan.Store(0)
		} else {
			g.orphan.CompareAndSwap(0, time.Now().UnixNano())
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// trouble is why nothing can be written: no quorum, for a while already.
func (g *Group) trouble() error {
	since := g.orphan.Load()
	if since == 0 || time.Since(time.Unix(0, since)) < orphaned || g.server.Lead() != 0 {
		return nil
	}
	return vortex.Errorf(vortex.Unavailable, "the store has no quorum: fewer than half of its %d members answer; reads go on from memory. "+
		"Start the others again; if they are lost for good, `vortex cluster recover`", len(g.Known()))
}

// stop ends what newGroup began.
func (g *Group) stop() {
	g.end()
	<-g.done
}

// Group is the members of an embedded store, nil where the store is elsewhere.
func (e *Engine) Group() *Group { return e.group }

// Gone is closed when the member has ended by itself, because the others have removed it.
func (g *Group) Gone() <-chan struct{} { return g.server.StopNotify() }

// settle tells the others where this member is reached, where that is not what they know.
func (g *Group) settle(ctx context.Context, url string) {
	for ctx.Err() == nil {
		me := g.server.Cluster().Member(g.server.MemberID())
		if me == nil || slices.Equal(me.PeerURLs, []string{url}) {
			return
		}
		moved := *me
		moved.PeerURLs = []string{url}
		attempt, cancel := context.WithTimeout(ctx, patience)
		_, err := g.server.UpdateMember(attempt, moved)
		cancel()
		if err != nil {
			g.log.WarnContext(ctx, "Other members not told of this one's address yet", "err", err)
			wait(ctx, reconnect)
		}
	}
}

// wait returns after d or at the end of ctx.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Status tells how far this member is.
func (g *Group) Status() Status {
	return Status{
		ID: uint64(g.server.MemberID()), Leader: g.server.Lead(), Cluster: uint64(g.server.Cluster().ID()), Learner: g.learner(),
		Committed: g.server.CommittedIndex(), Applied: g.server.AppliedIndex(), Term: g.server.Term(),
	}
}

// learner reports whether this member does not vote. The server itself takes the question for a broken database when the member was removed.
func (g *Group) learner() bool {
	me := g.server.Cluster().Member(g.server.MemberID())
	return me == nil || me.IsLearner
}

// Members lists the group, confirmed by a quorum of it, in the order of their ids.
func (g *Group) Members(ctx context.Context) ([]Member, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errSilent)
	defer cancel()
	members, err := g.server.MemberList(ctx, &etcdserverpb.MemberListRequest{Linearizable: true})
	if err != nil {
		return nil, classify(ctx, "list members", err)
	}
	return public(members), nil
}

// Known is the group as this member knows it, which is all there is without a quorum.
func (g *Group) Known() []Member { return public(g.server.Cluster().Members()) }

func public(members []*membership.Member) []Member {
	list := make([]Member, 0, len(members))
	for _, m := range members {
		entry := Member{ID: uint64(m.ID), Name: m.Name, Learner: m.IsLearner}
		if len(m.PeerURLs) > 0 {
			entry.URL = m.PeerURLs[0]
		}
		list = append(list, entry)
	}
	slices.SortFunc(list, func(a, b Member) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return list
}

// AddLearner makes room for a member that is reached at a URL. It has no vote, and so no quorum depends on it.
func (g *Group) AddLearner(ctx context.Context, url string) (Member, error) {
	urls, err := types.NewURLs([]string{url})
	if err != nil {
		return Member{}, vortex.Errorf(vortex.Invalid, "a member's URL: expected https://host:port, got %q", url)
	}
	now := time.Now()
	m := membership.NewMemberAsLearner("", urls, "", &now)
	return Member{ID: uint64(m.ID), URL: url, Learner: true}, g.change(ctx, "add a member", func(ctx context.Context) error {
		_, err := g.server.AddMember(ctx, *m)
		return err
	})
}

// Promote gives a learner its vote. It is refused while the learner is behind.
func (g *Group) Promote(ctx context.Context, id uint64) error {
	return g.change(ctx, "promote a member", func(ctx context.Context) error {
		_, err := g.server.PromoteMember(ctx, id)
		return err
	})
}

// Remove ends a membership. A member that runs ends by itself.
// It is refused where too few of the others answer to go on without it.
func (g *Group) Remove(ctx context.Context, id uint64) error {
	return g.change(ctx, "remove a member", func(ctx context.Context) error {
		if !g.spares(ctx, id) {
			return etcderrors.ErrUnhealthy
		}
		_, err := g.server.RemoveMember(ctx, id)
		return err
	})
}

// spares reports whether enough members that vote answer for the group to go on without one.
func (g *Group) spares(ctx context.Context, id uint64) bool {
	var all sync.WaitGroup
	var answers, voters atomic.Int32
	me := uint64(g.server.MemberID())
	for _, m := range g.Known() {
		switch {
		case m.ID == id && m.Learner:
			return true // no quorum depends on it
		case m.ID == id || m.Learner:
			continue
		}
		voters.Add(1)
		all.Go(func() {
			if m.ID == me || g.guard.answers(ctx, m.ID) {
				answers.Add(1)
			}
		})
	}
	all.Wait()
	return answers.Load() > voters.Load()/2
}

// Hand gives the lead of the log to another member that votes. Only the leader can.
func (g *Group) Hand(ctx context.Context, id uint64) error {
	return g.change(ctx, "hand over the lead", func(ctx context.Context) error {
		return g.server.MoveLeader(ctx, uint64(g.server.MemberID()), id)
	})
}

// change makes one change in bounded time and turns what is refused into our words.
func (g *Group) change(ctx context.Context, verb string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errSilent)
	defer cancel()
	err := do(ctx)
	refused := func(why string) error {
		return &vortex.Error{Kind: vortex.Precondition, Msg: why, Err: fmt.Errorf("%s: %w", verb, err)}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, etcderrors.ErrLearnerNotReady):
		return refused("the member has not caught up with the others yet")
	case errors.Is(err, etcderrors.ErrUnhealthy), errors.Is(err, etcderrors.ErrNotEnoughStartedMembers):
		return refused("too few members of the store run: the change could leave it without a quorum")
	case errors.Is(err, membership.ErrIDNotFound):
		return &vortex.Error{Kind: vortex.NotFound, Msg: "the store has no such member", Err: err}
	case errors.Is(err, membership.ErrIDExists), errors.Is(err, membership.ErrPeerURLexists):
		return &vortex.Error{Kind: vortex.Exists, Msg: "the store has such a member already", Err: err}
	default:
		return classify(ctx, verb, err)
	}
}

// CaughtUp returns once this member has everything that was committed before the call.
func (g *Group) CaughtUp(ctx context.Context) error { return confirmed(ctx, g.server) }

// confirmed waits until the server has applied all that was committed before. A change of the leader is no answer.
func confirmed(ctx context.Context, server *etcdserver.EtcdServer) error {
	for {
		err := server.LinearizableReadNotify(ctx)
		if !changedLeader(err) {
			return err
		}
		wait(ctx, time.Millisecond)
	}
}

func changedLeader(err error) bool {
	return errors.Is(err, etcderrors.ErrLeaderChanged) || errors.Is(err, rpctypes.ErrLeaderChanged) || errors.Is(err, rpctypes.ErrGRPCLeaderChanged)
}

// Succeed makes this member ask for votes at once, because the leader is known to be dead: the others vote although they may have
// heard of it a moment ago. It does nothing when the lead has changed since. A wrong call costs an election, and no data.
func (g *Group) Succeed(ctx context.Context, leader uint64) error {
	me := uint64(g.server.MemberID())
	if g.server.Lead() != leader || leader == 0 || leader == me {
		return nil
	}
	return g.server.Process(ctx, &raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), From: new(leader), To: new(me)})
}
