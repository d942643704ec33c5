package node

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/etcd"
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
	store, err := kind.Open(ctx, kind.Config{Engine: eng, Schema: schema, Log: log.With("component", "kind")})
	if err != nil {
		_ = eng.Close()
		return nil, nil, err
	}
	return store, eng, nil
}

func openEngine(ctx context.Context, cfg Config, log *slog.Logger) (engine.Engine, error) {
	if cfg.Store == "" {
		if err := free(ctx, cfg); err != nil {
			return nil, err
		}
		embedded := etcd.Embedded{
			Dir: filepath.Join(cfg.Data, "store"), ClientAddr: cfg.EtcdClient, PeerAddr: cfg.EtcdPeer, Log: log,
		}
		return embedded.Open(ctx)
	}
	rest, ok := strings.CutPrefix(cfg.Store, "etcd://")
	if !ok {
		return nil, vortex.Errorf(vortex.Invalid, "--store must be etcd://host:port[,host:port…] or left out, got %q", cfg.Store)
	}
	hosts, path, _ := strings.Cut(rest, "/")
	external := etcd.External{Prefix: path}
	if at := strings.LastIndex(hosts, "@"); at >= 0 {
		user, err := url.Parse("etcd://" + hosts[:at] + "@host")
		if err != nil {
			return nil, vortex.Errorf(vortex.Invalid, "the credentials in --store cannot be read: %w", err)
		}
		external.Username = user.User.Username()
		external.Password, _ = user.User.Password()
		hosts = hosts[at+1:]
	}
	external.Endpoints = strings.Split(hosts, ",")
	return external.Open(ctx)
}

// free refuses addresses of the embedded engine that something else listens on, naming the flag to change.
func free(ctx context.Context, cfg Config) error {
	for flag, addr := range map[string]string{"--etcd-client": cfg.EtcdClient, "--etcd-peer": cfg.EtcdPeer} {
		if addr == "" {
			continue
		}
		l, err := listen(ctx, "The embedded store", flag, addr)
		if err != nil {
			return err
		}
		if err := l.Close(); err != nil {
			return fmt.Errorf("probe %s: %w", addr, err)
		}
	}
	return nil
}
