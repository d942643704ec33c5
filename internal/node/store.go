package node

import (
	"context"
	"fmt"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/ksl"
)

// openEngineAndStore opens the engine that the configuration names, or that stands on the cluster's servers, and the store on it.
func (n *Node) openEngineAndStore(ctx context.Context) (*kind.Store, engine.Engine, error) {
	open := func(ctx context.Context) (engine.Engine, error) { return openEngine(ctx, n.cfg, n.component("engine")) }
	if n.afar() {
		open = n.openAfar
	}
	eng, err := open(ctx)
	if err != nil {
		return nil, nil, err
	}
	schema, err := ksl.Parse("vortex.ksl", vortex.Schema())
	if err != nil {
		return nil, nil, fmt.Errorf("parse the built-in schema: %w", err)
	}
	store, err := kind.Open(ctx, kind.Config{
		Engine: eng, Schema: schema, Log: n.component("kind"), MaxKeyBytes: n.cfg.MaxKeyBytes, MaxValueBytes: n.cfg.MaxValueBytes,
		Bridge: n.afar(), Name: n.cfg.Name, KeepExpired: n.afar() && n.cfg.Cluster.Worker,
	})
	if err != nil {
		_ = eng.Close()
		return nil, nil, err
	}
	return store, eng, nil
}
