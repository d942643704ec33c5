package node

import (
	"context"
	"fmt"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/ksl"
)

// openEngineAndStore opens the engine that the configuration names, or that stands on the cluster's servers, and the store on it. A machine that
// belongs to a cluster waits until a server answers.
func (n *Node) openEngineAndStore(ctx context.Context) (*kind.Store, engine.Engine, error) {
	schema, err := ksl.Parse("vortex.ksl", vortex.Schema())
	if err != nil {
		return nil, nil, fmt.Errorf("parse the built-in schema: %w", err)
	}
	for waits := false; ; waits = true {
		store, eng, err := n.openOnce(ctx, schema)
		if err == nil || !n.afar() || !vortex.IsKind(err, vortex.Unavailable) || ctx.Err() != nil {
			return store, eng, err
		}
		if !waits { // it has been let in: the servers come back, this machine stays
			n.log.WarnContext(ctx, "Waits for a server of the cluster: none answers", "servers", n.servers(), "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(serverRetry):
		}
	}
}

// serverRetry is the pause before the servers are asked again of which none answered.
const serverRetry = 500 * time.Millisecond

func (n *Node) openOnce(ctx context.Context, schema *ksl.Schema) (*kind.Store, engine.Engine, error) {
	eng, err := n.openEngine(ctx)
	if err != nil {
		return nil, nil, err
	}
	agent := n.cfg.Cluster.Worker && n.afar()
	store, err := kind.Open(ctx, kind.Config{
		Engine: eng, Schema: schema, Log: n.component("kind"), MaxKeyBytes: n.cfg.MaxKeyBytes, MaxValueBytes: n.cfg.MaxValueBytes,
		Bridge: agent, // clients of a server count on every transaction
		Name:   n.cfg.Name, KeepExpired: agent,
	})
	if err != nil {
		_ = eng.Close()
		return nil, nil, err
	}
	return store, eng, nil
}

// openEngine opens the engine that the configuration names, or that this machine's place in the cluster asks for.
func (n *Node) openEngine(ctx context.Context) (engine.Engine, error) {
	switch {
	case n.holder == nil || n.cfg.Store != "":
		return openEngine(ctx, n.cfg, n.component("engine"))
	case n.cfg.Cluster.Worker:
		return n.openAfar(ctx)
	default:
		return n.openSeat(ctx)
	}
}
