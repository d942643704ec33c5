package node

import (
	"context"
	"encoding/json"
	"errors"
	"os"

	"vortex"
	"vortex/internal/config"
	"vortex/internal/kind"
	"vortex/internal/kind/engine"
)

// Engine opens the engine of a server that does not run. It fails while one does: the data directory is locked, or an
// external store's leader is alive.
func (d Daemon) Engine(ctx context.Context, cfg config.Config) (engine.Engine, error) {
	o := &offline{}
	if cfg.Store == "" {
		file, err := lock(cfg.Data)
		if err != nil {
			return nil, err
		}
		o.lock = file
	}
	eng, err := openEngine(ctx, Config{
		Data: cfg.Data, Store: cfg.Store, StoreTLS: StoreTLS{CA: cfg.StoreCA, Cert: cfg.StoreCert, Key: cfg.StoreKey},
	}, d.logger(cfg))
	if err != nil {
		return nil, errors.Join(err, o.unlock())
	}
	o.Engine = eng
	if cfg.Store != "" { // others may use it, from other machines
		if err := unled(ctx, eng); err != nil {
			return nil, errors.Join(err, o.Close())
		}
	}
	return o, nil
}

// offline is an engine with the lock on its data directory, nil where it is none of this machine's.
type offline struct {
	engine.Engine

	lock *os.File
}

func (o *offline) unlock() error {
	if o.lock == nil {
		return nil
	}
	return o.lock.Close()
}

// Close implements engine.Engine.
func (o *offline) Close() error { return errors.Join(o.Engine.Close(), o.unlock()) }

// unled refuses an engine whose store has a leader that is alive.
func unled(ctx context.Context, eng engine.Engine) error {
	value, err := kind.Holds(ctx, eng, vortex.LeaderLocks.Key("leader"))
	if err != nil || value == nil {
		return err
	}
	var leader vortex.LeaderLock
	_ = json.Unmarshal(value, &leader)
	return vortex.Errorf(vortex.Unavailable, "the server %s uses the store; stop it first, or wait a few seconds when it was killed", leader.ID)
}
