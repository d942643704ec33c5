package consensus

import (
	"cmp"
	"context"
	"log/slog"
	"reflect"
	"strconv"
	"strings"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/loop"
)

// Label is a server's label that says whether it is to be a member: preferred or never.
const Label = "member"

// Peer is a member as the engine's group has it.
type Peer struct {
	ID      uint64
	Name    string // empty until it has started
	URL     string
	Learner bool
}

// Group is the engine's members. A change that could cost the quorum, or that the group is not ready for, is refused with Precondition.
type Group interface {
	Members(ctx context.Context) ([]Peer, error)
	AddLearner(ctx context.Context, url string) error
	Promote(ctx context.Context, id uint64) error
	Remove(ctx context.Context, id uint64) error
}

// Events takes what happened; recording never waits.
type Events interface {
	Record(ev vortex.EventRecord)
}

// Keeper is the loop that keeps the group as Choose wants it.
type Keeper struct {
	Writer kind.Writer
	Group  Group
	Policy Policy
	// Self is this server, which lives for certain.
	Self   string
	Events Events
	Log    *slog.Logger

	seenDown map[string]time.Time // when a server was Down the last time, as far as this keeper knows
}

const (
	soon  = time.Second     // until a group that is changing is looked at again
	later = 5 * time.Second // until one is whose servers are not all well
)

// Run keeps the group until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	k.seenDown = map[string]time.Time{}
	l := loop.Loop{
		Store: k.Writer.Store, Log: k.Log,
		Prefixes: []string{vortex.Servers.Prefix + ":", vortex.Liveness.Prefix + ":", vortex.Identities.Prefix + ":"},
	}
	return l.Run(ctx, k.tick)
}

// tick makes the records what the group is, and makes one step.
func (k *Keeper) tick(ctx context.Context, _ loop.Changes) (time.Duration, error) {
	peers, err := k.Group.Members(ctx)
	if err != nil {
		return 0, err
	}
	now := time.Now().UTC()
	var scene scene
	k.Writer.Store.View(func(v kind.View) { scene = k.look(v, peers, now) })
	if err := k.Writer.Commit(ctx, scene.ops...); err != nil {
		return 0, err
	}
	step := Choose(scene.servers, scene.members, now, k.Policy)
	if step.Do == Stay {
		k.Log.DebugContext(ctx, "Group stays", "why", step.Why)
		return scene.again(), nil
	}
	if err := k.carryOut(ctx, scene, step, now); err != nil {
		if vortex.IsKind(err, vortex.Precondition) { // the group needs a moment
			k.Log.DebugContext(ctx, "Group not changed yet", "err", err)
			return soon, nil
		}
		return 0, err
	}
	return soon, nil
}

// scene is what one pass decides on.
type scene struct {
	servers []Server
	members []Member
	records map[string]*vortex.MemberRecord
	peers   map[string]Peer
	urls    map[string]string // of the servers
	ops     []kind.Op         // that make the records what the group is
}

// again is when to look again though nothing changes.
func (s scene) again() time.Duration {
	for _, m := range s.members {
		if m.Learner {
			return soon
		}
	}
	for _, server := range s.servers {
		if !server.Alive || time.Since(server.Since) < later {
			return later
		}
	}
	return 0
}

// look reads the servers, and gives each peer its name and record.
func (k *Keeper) look(v kind.View, peers []Peer, now time.Time) scene {
	s := scene{records: map[string]*vortex.MemberRecord{}, peers: map[string]Peer{}, urls: map[string]string{}}
	names, caughtUp := map[string]string{}, map[string]bool{}
	for _, e := range kind.List(v, vortex.Servers) {
		if removed(v, e.ID) {
			s.ops = append(s.ops, kind.DeleteOp(vortex.Servers, e.ID))
			continue
		}
		s.servers = append(s.servers, k.server(v, e.Value, now))
		s.urls[e.Value.Name], names[e.Value.Peer] = e.Value.Peer, e.Value.Name
		caughtUp[e.Value.Name] = e.Value.CaughtUp != nil && *e.Value.CaughtUp
	}
	old := map[string]*vortex.MemberRecord{}
	for _, e := range kind.List(v, vortex.Members) {
		old[e.ID] = e.Value
	}
	for _, p := range peers {
		name := cmp.Or(names[p.URL], p.Name, strconv.FormatUint(p.ID, 16))
		rec := vortex.MemberRecord{Name: name, ID: strconv.FormatUint(p.ID, 16), Role: vortex.MemberRoleVoter, Address: p.URL, Since: now}
		if p.Learner {
			rec.Role = vortex.MemberRoleLearner
		}
		if was := old[name]; was != nil {
			rec.Why = was.Why
			if was.Role == rec.Role {
				rec.Since = was.Since
			}
		}
		if was := old[name]; was == nil || !reflect.DeepEqual(*was, rec) {
			if op, err := kind.PutOp(vortex.Members, &rec, name); err == nil {
				s.ops = append(s.ops, op)
			}
		}
		s.records[name], s.peers[name] = &rec, p
		s.members = append(s.members, Member{Name: name, Learner: p.Learner, CaughtUp: caughtUp[name], Since: rec.Since})
	}
	for name := range old {
		if s.records[name] == nil {
			s.ops = append(s.ops, kind.DeleteOp(vortex.Members, name))
		}
	}
	return s
}

// removed reports whether a server was put out of a cluster: who belongs to one is said by its identities.
func removed(v kind.View, server string) bool {
	if _, ok := kind.Lookup(v, vortex.Clusters, "self"); !ok {
		return false
	}
	_, in := kind.Lookup(v, vortex.Identities, server)
	return !in
}

// server translates a server's record. One that no monitor watches is believed to live, and so is one that is only suspect: that passes in a moment, or
// it is Down soon.
func (k *Keeper) server(v kind.View, rec *vortex.ServerRecord, now time.Time) Server {
	s := Server{
		Name: rec.Name, Able: rec.Peer != "" && rec.Member != vortex.MemberWishNever && belongs(v, rec.Name), Preferred: rec.Member == vortex.MemberWishPreferred,
		Zone: rec.Zone, Free: free(v, rec), Alive: true, Since: rec.StartedAt,
	}
	if live, ok := kind.Lookup(v, vortex.Liveness, rec.Name); ok && rec.Name != k.Self && live.Value.State == vortex.LivenessStateDown {
		s.Alive, s.Since = false, live.Value.Since
		k.seenDown[rec.Name] = now
	} else if back := k.seenDown[rec.Name]; back.After(s.Since) {
		s.Since = back
	}
	return s
}

// belongs reports whether a server is one of the cluster still. Servers without certificates are known to nobody but themselves.
func belongs(v kind.View, server string) bool {
	_, known := kind.Lookup(v, vortex.Identities, server)
	_, secured := kind.Lookup(v, vortex.Clusters, "self")
	return known || !secured
}

// free is the share of a server's machine that no instance there asks for.
func free(v kind.View, rec *vortex.ServerRecord) float64 {
	var cpu, memory float64
	for _, e := range kind.Find(v, vortex.Placements, "node", rec.Name) {
		if e.Value.CPUMillis != nil {
			cpu += float64(*e.Value.CPUMillis)
		}
		if e.Value.MemoryBytes != nil {
			memory += float64(*e.Value.MemoryBytes)
		}
	}
	return max(1-max(share(cpu, rec.CPUMillis), share(memory, rec.MemoryBytes)), 0)
}

func share(part float64, whole *uint64) float64 {
	if whole == nil || *whole == 0 {
		return 0
	}
	return part / float64(*whole)
}

// carryOut makes one change. The reason is written first, under the leader's epoch: who is the leader no more gets no further.
func (k *Keeper) carryOut(ctx context.Context, s scene, step Step, now time.Time) error {
	rec := &vortex.MemberRecord{Name: step.Name, ID: "0", Role: vortex.MemberRoleLearner, Address: s.urls[step.Name], Since: now}
	if was := s.records[step.Name]; was != nil {
		rec = new(*was)
	}
	if step.Do != Promote || rec.Why == "" {
		rec.Why = step.Why
	}
	op, err := kind.PutOp(vortex.Members, rec, step.Name)
	if err != nil {
		return err
	}
	if err := k.Writer.Commit(ctx, op); err != nil {
		return err
	}
	switch step.Do {
	case Add:
		err = k.Group.AddLearner(ctx, rec.Address)
	case Promote:
		err = k.Group.Promote(ctx, s.peers[step.Name].ID)
	case Remove:
		err = k.Group.Remove(ctx, s.peers[step.Name].ID)
	case Stay:
	}
	if err != nil {
		return err
	}
	verb := map[Action]string{Add: "joins the store's members", Promote: "is a member of the store", Remove: "is no member of the store any more"}[step.Do]
	k.Log.InfoContext(ctx, "Group changed", "step", step.Do.String(), "server", step.Name, "why", step.Why)
	k.Events.Record(vortex.EventRecord{
		Severity: vortex.SeverityInfo, Component: "consensus", Type: "Member" + eventNames[step.Do], Node: step.Name,
		Message: strings.Join([]string{step.Name, verb + ":", step.Why}, " "),
	})
	return nil
}

var eventNames = map[Action]string{Add: "Added", Promote: "Promoted", Remove: "Removed"} //nolint:gochecknoglobals // a table
