package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/url"
	"slices"
	"syscall"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
)

// sentinel finds out that the leader's process has died long before the log's own clock does: it holds a connection to it, and when that
// ends and nobody listens there any more, the leader is dead beyond doubt. Of the members that see this one asks for votes at once.
// A leader whose host is gone says nothing at all; that is left to the clock.
type sentinel struct {
	group *Group
	tls   transport.TLSInfo
}

const (
	dialPatience = time.Second
	// turn is how long each member waits longer than the one before, so that two do not take each other's votes.
	turn  = 40 * time.Millisecond
	look  = 250 * time.Millisecond // how often the lead is looked at where no change is told
	again = 20 * time.Millisecond  // until a leader is tried again that could not be reached
)

// run watches whoever leads until ctx ends.
func (s *sentinel) run(ctx context.Context) {
	for ctx.Err() == nil {
		server := s.group.server
		changed := server.LeaderChangedNotify()
		lead := server.Lead()
		me := uint64(server.MemberID())
		if lead == 0 || lead == me || s.group.learner() {
			select {
			case <-ctx.Done():
			case <-server.StoppingNotify():
				return
			case <-changed:
			case <-time.After(look):
			}
			continue
		}
		s.watch(ctx, lead, changed)
	}
}

// watch holds a connection to the leader until there is another leader, or it is dead.
func (s *sentinel) watch(ctx context.Context, lead uint64, changed <-chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-changed:
			cancel()
		case <-s.group.server.StoppingNotify():
			cancel()
		case <-ctx.Done():
		}
	}()
	for ctx.Err() == nil && s.group.server.Lead() == lead {
		err := s.hold(ctx, lead)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			wait(ctx, again)
			continue
		}
		wait(ctx, turn*time.Duration(s.place(lead)))
		if ctx.Err() != nil {
			return
		}
		s.group.log.WarnContext(ctx, "Leader of the store died", "member", lead)
		_ = s.group.Succeed(ctx, lead)
		wait(ctx, look)
	}
}

// hold connects to a member and returns when it cannot, or once the connection has ended and was tried again.
func (s *sentinel) hold(ctx context.Context, id uint64) error {
	conn, err := s.dial(ctx, id)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	_, _ = io.Copy(io.Discard, conn) // nothing ever comes: it ends with the leader, or because it is idle for long
	_ = conn.Close()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	probe, err := s.dial(ctx, id)
	if err != nil {
		return err
	}
	return probe.Close()
}

// answers reports whether a member's process lives and shows itself.
func (s *sentinel) answers(ctx context.Context, id uint64) bool {
	conn, err := s.dial(ctx, id)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

var errNowhere = errors.New("the member has no address")

func (s *sentinel) dial(ctx context.Context, id uint64) (net.Conn, error) {
	var target *url.URL
	for _, m := range s.group.Known() {
		if m.ID == id {
			target, _ = url.Parse(m.URL)
		}
	}
	if target == nil {
		return nil, errNowhere
	}
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	dialer := &net.Dialer{}
	if target.Scheme != "https" {
		return dialer.DialContext(ctx, "tcp", target.Host)
	}
	config, err := s.tls.ClientConfig()
	if err != nil {
		return nil, err
	}
	config.NextProtos = []string{"http/1.1"}
	secure := &tls.Dialer{NetDialer: dialer, Config: config}
	return secure.DialContext(ctx, "tcp", target.Host)
}

// place is this member's among those that vote, without the leader.
func (s *sentinel) place(lead uint64) int {
	ids := []uint64{}
	for _, m := range s.group.Known() {
		if !m.Learner && m.ID != lead {
			ids = append(ids, m.ID)
		}
	}
	slices.Sort(ids)
	return max(slices.Index(ids, uint64(s.group.server.MemberID())), 0)
}
