package node

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"vortex/client"
	"vortex/internal/api/kindrpc"
	"vortex/internal/config"
	"vortex/internal/edge"
	"vortex/internal/edge/accesslog"
)

// Daemon runs nodes for the command line.
type Daemon struct {
	Version, Commit string
	// Stderr takes the log.
	Stderr io.Writer
	// RuntimeDir is where the run file is left for the commands on this machine.
	RuntimeDir string
	// Hangup begins to listen for SIGHUP, at which an edge that runs alone reads its file again; nil is never.
	Hangup func() <-chan os.Signal
}

// Run starts what cfg says, leaves a run file, calls ready once everything serves, and returns when ctx ended, nil,
// or a part failed.
func (d Daemon) Run(ctx context.Context, cfg config.Config, ready func(client.RunFile)) error {
	log := d.logger(cfg)
	removeRunFile := func() {}
	defer func() { removeRunFile() }()
	started := time.Now().UTC()
	trusted, err := cfg.TrustedPrefixes()
	if err != nil {
		return err
	}
	n, err := New(Config{
		Data: cfg.Data, Name: cfg.Name, Labels: cfg.Labels,
		API: cfg.API, Kind: cfg.Kind, Edge: cfg.Edge,
		EtcdClient: cfg.EtcdClient, EtcdPeer: cfg.EtcdPeer, Store: cfg.Store,
		StoreTLS:  StoreTLS{CA: cfg.StoreCA, Cert: cfg.StoreCert, Key: cfg.StoreKey},
		Anonymous: kindrpc.Anonymous(cfg.KindAnonymous), Token: cfg.Token,
		TLS:         TLS{Cert: cfg.TLSCert, Key: cfg.TLSKey, ClientCA: cfg.TLSClientCA, RequireClient: cfg.TLSClientAuth == "required"},
		Cluster:     Cluster{Advertise: cfg.Advertise, Join: cfg.Servers(), Token: cfg.JoinToken, Bootstrap: int(cfg.Bootstrap), Lifetime: cfg.CertificateLifetime, Worker: cfg.Worker, Subnet: subnetOf(cfg), Members: int(cfg.ClusterMembers)},
		Heartbeats:  heartbeatsOf(cfg),
		Gossip:      cfg.Gossip,
		Limits:      kindrpc.Limits{TxnOps: int(cfg.MaxTxnOps), AnswerBytes: int(cfg.MaxAnswer), Streams: int64(cfg.MaxStreams)},
		MaxKeyBytes: int(cfg.MaxKeyBytes), MaxValueBytes: int(cfg.MaxValueBytes), MaxConnections: int(cfg.MaxConnections),
		Backups: Backups{Dir: cfg.BackupDir, Every: cfg.BackupEvery, Keep: int(cfg.BackupKeep), Ship: !cfg.NoBackupLog},
		Runtime: cfg.Runtime, DockerHost: cfg.DockerHost,
		Trusted: trusted, AcceptProxy: edge.AcceptanceOf(cfg.EdgeAcceptProxy),
		ClientLimits: edge.ClientLimitsOf(cfg.MaxClientConns, cfg.MaxConnRequests, cfg.MinBodyRate, cfg.BodyGrace, cfg.IdleTimeout),
		AccessLog:    accesslog.Config{Path: cfg.AccessLog, Sample: share(cfg.AccessLogPercent)},
		NoAgent:      cfg.NoAgent, NoEdge: cfg.NoEdge, Remove: cfg.Rm,
		Settings: cfg.Settings, Version: d.Version, Commit: d.Commit, Log: log,
		Ready: func(a Addresses) {
			run := client.RunFile{
				API: urlOf(a.API), Kind: a.Kind, Edge: urlOf(a.Edge), Token: a.Token, TLS: a.TLS,
				PID: os.Getpid(), Data: cfg.Data, StartedAt: started,
			}
			if a.TLS != (client.TLS{}) {
				run.API = strings.Replace(run.API, "http://", "https://", 1)
				if run.Kind != "" {
					run.Kind = "https://" + run.Kind
				}
			}
			if cfg.Worker { // it has no API
				ready(run)
				return
			}
			remove, err := client.WriteRunFile(run, d.RuntimeDir)
			if err != nil {
				log.WarnContext(ctx, "Commands on this machine will not find this server by themselves", "err", err)
			} else {
				removeRunFile = remove
			}
			ready(run)
		},
	})
	if err != nil {
		return err
	}
	return n.Run(ctx)
}

// heartbeatsOf is where heartbeats are exchanged: nowhere on a machine alone.
func heartbeatsOf(cfg config.Config) string {
	if !cfg.Clustered() {
		return ""
	}
	return cfg.Heartbeat
}

// subnetOf is the range of the cluster's subnets; cfg was validated.
func subnetOf(cfg config.Config) netip.Prefix {
	p, err := netip.ParsePrefix(cfg.ClusterSubnet)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// logger writes to stderr in the format that cfg asks for.
func (d Daemon) logger(cfg config.Config) *slog.Logger {
	opts := &slog.HandlerOptions{Level: cfg.Level()}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(d.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(d.Stderr, opts))
}

// urlOf is the URL people open for an address something listens on.
func urlOf(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// share returns a percentage as an access log has it: none is negative, because 0 is its default.
func share(percent uint32) float64 {
	if percent == 0 {
		return -1
	}
	return float64(percent) / 100
}
