package node

import (
	"context"
	"fmt"
	"log/slog"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/ksl"
)

// openStore opens the engine that the configuration names, and the store on it.
func openStore(ctx context.Context, cfg Config, log *slog.Logger) (*kind.Store, engine.Engine, error) {
	eng, err := openEngine(ctx, cfg, log.With("component", "engine"))
	if err != nil {
		return nil, nil, err
	}
	schema, err := ksl.Parse("vortex.ksl", vortex.Schema())
	if err != nil {
		return nil, nil, fmt.Errorf("parse the built-in schema: %w", err)
	}
	store, err := kind.Open(ctx, kind.Config{
		Engine: eng, Schema: schema, Log: log.With("component", "kind"), MaxKeyBytes: cfg.MaxKeyBytes, MaxValueBytes: cfg.MaxValueBytes,
	})
	if err != nil {
		_ = eng.Close()
		return nil, nil, err
	}
	return store, eng, nil
}
