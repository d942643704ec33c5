package node

import (
	"context"
	"log/slog"
	"math"

	"golang.org/x/sync/errgroup"

	"vortex"
	"vortex/internal/autoscale"
	"vortex/internal/consensus"
	"vortex/internal/deploy"
	"vortex/internal/endpoints"
	"vortex/internal/event"
	"vortex/internal/kind"
	"vortex/internal/kind/backup"
	"vortex/internal/kind/engine/etcd"
	"vortex/internal/nodes"
	"vortex/internal/placement"
	"vortex/internal/settings"
)

// control is the control plane: the loops that run under the lead.
type control struct {
	name     string
	group    func() *etcd.Group // nil where nobody keeps it
	members  int                // of the group at most
	store    *kind.Store
	settings settings.Settings
	backups  Backups
	version  string
	beats    *nodes.Heartbeats
	events   *event.Recorder
	log      *slog.Logger
}

// runner is a loop.
type runner interface {
	Run(ctx context.Context) error
}

// lead runs every loop of the leader until its lead ends; w carries its epoch.
func (c *control) lead(ctx context.Context, w kind.Writer) error {
	component := func(name string) *slog.Logger { return c.log.With("component", name) }
	loops := []runner{
		&autoscale.Autoscaler{Writer: w, Settings: c.settings, Events: c.events, Log: component("autoscaler")},
		&deploy.Deployer{Writer: w, Settings: c.settings, Events: c.events, Log: component("rollout")},
		&placement.Placer{Writer: w, Events: c.events, Log: component("scheduler")},
		&endpoints.Endpoints{
			Writer: w, Log: component("endpoints"), FirstPort: func() uint16 { return startingPort(c.store, c.settings) },
		},
		&nodes.Monitor{Writer: w, Heartbeats: c.beats, Events: c.events, Log: component("nodes")},
	}
	if group := c.group(); group != nil {
		loops = append(loops, &consensus.Keeper{
			Writer: w, Group: peers{group}, Self: c.name, Policy: consensus.Policy{Most: c.members}, Events: c.events, Log: component("consensus"),
		})
	}
	if c.backups.Dir != "" {
		loops = append(loops, &backup.Keeper{
			Store: c.store, Dir: c.backups.Dir, Every: c.backups.Every, Keep: c.backups.Keep, Ship: c.backups.Ship,
			Version: c.version, Record: c.events.Record, Log: component("backup"),
		})
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range loops {
		group.Go(func() error { return l.Run(ctx) })
	}
	group.Go(func() error { return c.store.Sweep(ctx) })
	group.Go(func() error { return c.store.KeepHistory(ctx, c.retention) })
	return group.Wait()
}

// retention is how much history is to be kept now.
func (c *control) retention() kind.Retention {
	set := c.settings
	if entry, err := kind.Get(c.store, vortex.Settings, settings.ID); err == nil {
		set = set.With(entry.Value)
	}
	return kind.Retention{Age: set.HistoryAge, Count: clamp(set.HistoryCount), Max: clamp(set.HistoryMax)}
}

// clamp makes a number of transactions one that revisions can have.
func clamp(n uint64) int64 { return int64(min(n, math.MaxInt64/2)) } //nolint:gosec // it fits
