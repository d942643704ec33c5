package agent_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"vortex"
	"vortex/internal/agent"
	"vortex/internal/api/kindrpc"
	"vortex/internal/kind"
	"vortex/internal/kind/engine/remote"
	"vortex/internal/kind/kindtest"
	"vortex/internal/kind/ksl"
	"vortex/internal/runtime"
)

const serverToken = "secret"

// control is a server of the cluster, which can be cut off from its agents.
type control struct {
	t     *testing.T
	store *kind.Store
	addr  string
	srv   *grpc.Server
	done  chan struct{}
}

func (c *control) start() {
	c.t.Helper()
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", c.addr)
	if err != nil {
		c.t.Fatal(err)
	}
	c.addr = l.Addr().String()
	srv, done := kindrpc.NewServer(&kindrpc.Service{Store: c.store, Token: serverToken}), make(chan struct{})
	c.srv, c.done = srv, done
	go func() { defer close(done); _ = srv.Serve(l) }()
}

func (c *control) stop() { c.srv.Stop(); <-c.done }

// agentStore is the store of a machine that keeps none.
func (c *control) agentStore() *kind.Store {
	c.t.Helper()
	eng, err := remote.Config{Servers: []string{c.addr}, Token: serverToken, Hold: agent.Needs(node)}.Open(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	schema, err := ksl.Parse("vortex.ksl", vortex.Schema())
	if err != nil {
		c.t.Fatal(err)
	}
	store, err := kind.Open(c.t.Context(), kind.Config{Engine: eng, Schema: schema, Bridge: true})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = store.Run(ctx) })
	c.t.Cleanup(func() { cancel(); running.Wait(); _ = eng.Close() })
	return store
}

// TestAgentCutOffFromEveryServer changes what is wanted while an agent reaches no server, and lets the history be forgotten
// meanwhile: what died is started again here, and after the return only what has to change does.
func TestAgentCutOffFromEveryServer(t *testing.T) {
	c := &control{t: t, store: kindtest.Open(t), addr: "127.0.0.1:0"}
	c.start()
	defer func() { c.stop() }()
	d := newSim(t)
	b := &bed{t: t, store: c.store, events: &recorder{}}
	b.cfg = agent.Config{
		Node: vortex.NodeRecord{ID: node, Name: node}, Store: c.agentStore(), Events: b.events,
		Sweep: 20 * time.Millisecond, Alone: 50 * time.Millisecond,
	}
	b.use(d)
	b.start()
	b.place(worker("job"), 10)
	b.place(worker("elsewhere"), 5, func(p *vortex.PlacementRecord) { p.Node = "n2" })
	before := map[string]vortex.ContainerRecord{}
	for k := range 10 {
		id := fmt.Sprintf("job-%d", k)
		before[id] = b.until(id, "is healthy", isHealthy)
	}

	c.stop()
	kindtest.Eventually(t, "the agent's store knows", b.cfg.Store.Stale)
	if err := d.Exit("job-9", 3); err != nil {
		t.Fatal(err)
	}
	kindtest.Eventually(t, "what died is started again", func() bool { return b.events.has("InstanceRestarted", "job-9") && runsIn(t, d, "job-9") })
	b.unplace("job-0")
	b.want("job-1", vortex.WantedStateStopped, "scaled down")
	moved := vortex.PlacementRecord{Instance: "job-2", ClientID: "job", Node: "n2", Release: 1, Epoch: 2}
	b.commit(must[kind.Op](t)(kind.PutOp(vortex.Placements, &moved, "job-2")))
	b.place(worker("late"), 2)
	if _, err := c.store.Compact(t.Context(), c.store.Revision()); err != nil {
		t.Fatal(err)
	}
	if rec := b.record("job-9"); !rec.StartedAt.Equal(before["job-9"].StartedAt) {
		t.Fatalf("a record came through although the server is away: %+v", rec)
	}

	c.start()
	b.until("job-0", "is gone", isGone)
	b.until("job-1", "is stopped", isDead)
	b.until("late-0", "is healthy", isHealthy)
	b.until("late-1", "is healthy", isHealthy)
	kindtest.Eventually(t, "what moved to another node is gone here", func() bool { return !runsIn(t, d, "job-2") })
	b.until("job-9", "is told of", func(rec vortex.ContainerRecord) bool {
		return isHealthy(rec) && rec.StartedAt.After(before["job-9"].StartedAt)
	})
	for k := 3; k < 9; k++ {
		id := fmt.Sprintf("job-%d", k)
		if rec := b.record(id); !isHealthy(rec) || !rec.StartedAt.Equal(before[id].StartedAt) {
			t.Errorf("%s was right and was touched: %+v", id, rec)
		}
	}
}

// runsIn reports whether a driver runs an instance.
func runsIn(t *testing.T, d runtime.Driver, id string) bool {
	t.Helper()
	all, err := d.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, st := range all {
		if st.ID == id {
			return st.State == runtime.Running
		}
	}
	return false
}
