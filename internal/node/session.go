package node

import (
	"context"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"vortex"
	"vortex/internal/api/kindrpc"
	"vortex/internal/authz"
	"vortex/internal/heartbeat"
	"vortex/internal/runtime/oci/embedded"
	"vortex/internal/session"
)

// startHeartbeats exchanges heartbeats with the other nodes of the cluster, and watches the sessions that they hold to this server.
func (n *Node) startHeartbeats(ctx context.Context) error {
	if n.cfg.Heartbeats == "" {
		return nil
	}
	program, err := embedded.UnpackPulse(filepath.Join(n.cfg.Data, "bin"))
	if err != nil {
		n.log.WarnContext(ctx, "No program for heartbeats", "err", err)
	}
	pulse, err := heartbeat.Listen(ctx, heartbeat.Config{Address: n.cfg.Heartbeats, Program: program, Log: n.component("heartbeat")})
	if err != nil {
		return err
	}
	n.parts.start("heartbeats", pulse.Run)
	servers, dial := n.cfg.Servers, n.cfg.Dial
	if n.holder != nil {
		servers = n.servers()
		dial = append(dial, grpc.WithTransportCredentials(credentials.NewTLS(n.holder.Client("h2"))))
	}
	c := session.ClientConfig{Node: n.cfg.Name, Pulse: pulse, Dial: dial, Log: n.component("session")}
	if n.cfg.Kind != "" {
		n.sessions = &session.Server{Name: n.cfg.Name, Pulse: pulse, Authorize: maySpeak, Changed: n.sighted, Log: n.component("session")}
		n.parts.start("sessions", n.sessions.Run)
	} else {
		c.Opinion = n.suspect // it hears nobody itself
	}
	n.calls = session.NewClient(c)
	n.calls.SetServers(servers)
	n.parts.start("sessions to servers", n.calls.Run)
	return nil
}

// maySpeak lets those hold a node's session who may write its record.
func maySpeak(ctx context.Context, node string) error {
	caller := kindrpc.Caller(ctx)
	if caller == nil {
		return vortex.Errorf(vortex.Unauthenticated, "a session needs the certificate of a node, or a token")
	}
	return caller.Check(authz.Write, vortex.Nodes.Key(node))
}

// sighted passes on what is known of another node: to the edge, which acts at once, and to what the monitor and the election look at.
func (n *Node) sighted(node string, s session.Sight) {
	n.suspect(node, s.State > session.Alive)
	switch s.State {
	case session.Unknown:
	case session.Alive:
		n.beats.Beat(node)
	case session.Silent, session.Ended:
		n.beats.Silent(node, s.Reason)
	case session.Confirmed:
		n.beats.Confirm(node, s.Reason)
	}
}

// suspect tells this process's edge that a node is silent, or no more.
func (n *Node) suspect(node string, silent bool) {
	if e := n.acting.Load(); e != nil {
		e.Suspect(node, silent)
	}
}
