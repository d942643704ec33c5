package etcd_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"vortex"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/enginetest"
	"vortex/internal/kind/engine/etcd"
	"vortex/internal/kind/kindtest"
)

// TestGroupOfThree holds a group to the contract, through a member that does not lead.
func TestGroupOfThree(t *testing.T) {
	e := follower(newQuorum(t, 3))
	enginetest.Run(t, func(t *testing.T) engine.Engine {
		t.Helper()
		return emptied(t, e)
	})
}

// TestGroupWithOneKilled does the same with two of three, whose leader was killed.
func TestGroupWithOneKilled(t *testing.T) {
	q, kill := newQuorumBeside(t, 2, true)
	id := q.outside()
	q.lead(id)
	kill()
	kindtest.Eventually(t, "another leads", func() bool {
		lead := q.engines[0].Group().Status().Leader
		return lead != 0 && lead != id
	})
	e := follower(q)
	enginetest.Run(t, func(t *testing.T) engine.Engine {
		t.Helper()
		return emptied(t, e)
	})
}

// emptied takes everything out of an engine, for the next test.
func emptied(t *testing.T, e engine.Engine) engine.Engine {
	t.Helper()
	var txn engine.Txn
	commit := func() {
		if _, err := e.Commit(t.Context(), txn); err != nil {
			t.Fatal(err)
		}
		txn.Writes = nil
	}
	for kv, err := range e.Range(t.Context(), "", "", new(int64(0))) {
		if err != nil {
			t.Fatal(err)
		}
		txn.Writes = append(txn.Writes, engine.Write{Key: kv.Key, Delete: true})
		if len(txn.Writes) == 1000 {
			commit()
		}
	}
	if len(txn.Writes) > 0 {
		commit()
	}
	return e
}

func follower(q *quorum) *etcd.Engine {
	for _, e := range q.engines {
		if s := e.Group().Status(); s.Leader != s.ID {
			return e
		}
	}
	q.t.Fatal("all of them lead")
	return nil
}

// TestALoneStoreGrows is the way from one server to three and back, under writes, none of which fails.
func TestALoneStoreGrows(t *testing.T) {
	q := &quorum{t: t, authority: newAuthority(t)}
	first := q.next()
	alone := etcd.Embedded{Dir: first.Dir} // as a server without a cluster keeps it: nobody reaches it
	e, err := alone.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	enginetest.Commit(t, e, enginetest.Put("old", "1"))
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	q.members = append(q.members, first)
	founder := q.open(first)
	t.Cleanup(q.close)
	kindtest.Eventually(t, "the others can be told of the first one's address", func() bool {
		members, err := founder.Group().Members(t.Context())
		return err == nil && members[0].URL == first.PeerTLS.URL(first.PeerAddr) && members[0].Name == first.Name
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	written := make(chan int, 1)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			if _, err := founder.Commit(context.Background(), engine.Txn{Writes: []engine.Write{enginetest.Put("n", "x")}}); err != nil {
				t.Errorf("a write while members are added: %v", err)
				break
			}
		}
		written <- n
	}()
	ids := []uint64{founder.Group().Status().ID}
	for range 2 {
		c, id := q.add(founder)
		joined := q.open(c)
		if err := joined.Group().CaughtUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		q.promote(founder, id)
		ids = append(ids, id)
	}
	for _, id := range ids[1:] {
		kindtest.Eventually(t, "a member is removed", func() bool { return founder.Group().Remove(t.Context(), id) == nil })
	}
	cancel()
	if n := <-written; n == 0 {
		t.Error("nothing was written")
	}
	for _, e := range q.engines[1:] {
		select {
		case <-e.Group().Gone():
		case <-time.After(20 * time.Second):
			t.Fatal("a member that was removed goes on")
		}
		if !e.Group().Status().Learner {
			t.Error("a member that was removed says that it votes")
		}
		if _, err := e.Commit(t.Context(), engine.Txn{Writes: []engine.Write{enginetest.Put("a", "1")}}); !vortex.IsKind(err, vortex.Unavailable) {
			t.Errorf("a write through a member that was removed: %v; want Unavailable", err)
		}
	}
	if members, err := founder.Group().Members(t.Context()); err != nil || len(members) != 1 {
		t.Errorf("who is left: %v, %v", members, err)
	}
}

// TestQuorumLost leaves one of three: writes are refused in bounded time, at once after a while, and go on when another is back.
// TestADeadMemberIsReplaced has another take the place of one of three that was killed, and keeps those who are needed.
func TestADeadMemberIsReplaced(t *testing.T) {
	q, kill := newQuorumBeside(t, 2, true)
	dead := q.outside()
	kill()
	by, other := q.engines[0], q.engines[1]
	kindtest.Eventually(t, "one of the two leads", func() bool {
		lead := by.Group().Status().Leader
		return lead != 0 && lead != dead
	})
	if err := by.Group().Remove(t.Context(), other.Group().Status().ID); !vortex.IsKind(err, vortex.Precondition) {
		t.Fatalf("one of the two that live is removed: %v; want Precondition", err)
	}
	c, id := q.add(by)
	if err := q.open(c).Group().CaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	q.promote(by, id)
	if err := by.Group().Remove(t.Context(), dead); err != nil {
		t.Fatalf("the dead one is removed: %v", err)
	}
	members, err := by.Group().Members(t.Context())
	if err != nil || len(members) != 3 || slices.ContainsFunc(members, func(m etcd.Member) bool { return m.ID == dead || m.Learner }) {
		t.Fatalf("the members are %+v, %v", members, err)
	}
	enginetest.Commit(t, by, enginetest.Put("k", "v"))
}

func TestQuorumLost(t *testing.T) {
	q := newQuorum(t, 3)
	store := openStore(t, q.engines[0])
	if _, err := store.Put(t.Context(), "k", []byte("v"), 0); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if err := q.engines[i+1].Close(); err != nil {
			t.Fatal(err)
		}
		q.engines[i+1] = nil
	}
	start := time.Now()
	if _, err := store.Put(t.Context(), "k", []byte("lost"), 0); !vortex.IsKind(err, vortex.Unavailable) || time.Since(start) > 15*time.Second {
		t.Errorf("a write without quorum: %v after %s; want Unavailable within seconds", err, time.Since(start))
	}
	if rec, err := store.Get("k"); err != nil || string(rec.Value) != "v" || !store.Stale() {
		t.Errorf("a read without quorum: %v, %v, stale %t", rec, err, store.Stale())
	}
	kindtest.Eventually(t, "the engine says what is wrong", func() bool { return q.engines[0].Trouble() != nil })
	again, err := q.members[1].Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	q.engines[1] = again
	kindtest.Eventually(t, "writes go on", func() bool {
		_, err := store.Put(t.Context(), "k", []byte("w"), 0)
		return err == nil
	})
}

// TestLeaderKilled measures how long nothing can be written after the leader's process was killed.
func TestLeaderKilled(t *testing.T) {
	q, kill := newQuorumBeside(t, 2, true)
	id := q.outside()
	var took []time.Duration
	for range 5 {
		q.lead(id)
		kill()
		start := time.Now()
		kindtest.Eventually(t, "a write succeeds", func() bool {
			_, err := q.engines[0].Commit(t.Context(), engine.Txn{Writes: []engine.Write{enginetest.Put("k", "v")}})
			return err == nil
		})
		took = append(took, time.Since(start))
		kill = q.process(q.members[2])
	}
	slices.Sort(took)
	t.Logf("from the leader's death to the next write: %v", took)
	if took[2] > 5*time.Second {
		t.Errorf("it takes %v", took)
	}
}

// TestStrangersAreNoPeers: a certificate of the same authority that is no member's opens nothing, nor does none.
func TestStrangersAreNoPeers(t *testing.T) {
	q := newQuorum(t, 1)
	url := q.members[0].PeerTLS.URL(q.members[0].PeerAddr) + "/members"
	pool := x509.NewCertPool()
	authority, err := os.ReadFile(q.members[0].PeerTLS.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool.AppendCertsFromPEM(authority)
	ask := func(files *etcd.PeerTLS) error {
		config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: memberName}
		if files != nil {
			pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
			if err != nil {
				t.Fatal(err)
			}
			config.Certificates = []tls.Certificate{pair}
		}
		transport := &http.Transport{TLSClientConfig: config}
		defer transport.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := transport.RoundTrip(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		return err
	}
	member := q.authority.issue("other", time.Hour, memberName)
	agent := q.authority.issue("agent", time.Hour, "agent")
	stranger := newAuthority(t).issue("stranger", time.Hour, memberName)
	if err := ask(&member); err != nil {
		t.Errorf("a member: %v", err)
	}
	for what, files := range map[string]*etcd.PeerTLS{"nobody": nil, "an agent": &agent, "a stranger": &stranger} {
		if err := ask(files); err == nil {
			t.Errorf("%s is let in", what)
		}
	}
}

// TestCertificatesAreRenewed replaces the certificates of all members with ones that outlive the first, which soon end, and
// lets connections be made anew.
func TestCertificatesAreRenewed(t *testing.T) {
	q := newQuorum(t, 2)
	for i := range 2 {
		q.authority.issue(q.members[i].Name, 2*time.Second, memberName)
	}
	for i := range 2 {
		q.authority.issue(q.members[i].Name, time.Hour, memberName)
	}
	c, id := q.add(q.engines[0]) // new connections both ways
	q.open(c)
	q.promote(q.engines[0], id)
	enginetest.Commit(t, q.engines[2], enginetest.Put("a", "1"))
}
