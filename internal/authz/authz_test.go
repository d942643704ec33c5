package authz_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"vortex"
	"vortex/internal/authz"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
)

const admin = "admin-secret"

func authority(t *testing.T, mode authz.Mode) *authz.Authority {
	t.Helper()
	return &authz.Authority{Store: kindtest.Open(t), Token: admin, Anonymous: mode}
}

// allow keeps a role of grants such as read:jobs.
func allow(t *testing.T, a *authz.Authority, name string, grants ...string) {
	t.Helper()
	rec := vortex.RoleRecord{Name: name, Allow: []vortex.Permission{}, CreatedAt: time.Now()}
	for _, text := range grants {
		p, err := authz.ParseGrant(text)
		if err != nil {
			t.Fatal(err)
		}
		rec.Allow = append(rec.Allow, p)
	}
	if _, err := kind.Put(t.Context(), a.Store, vortex.Roles, &rec, name); err != nil {
		t.Fatal(err)
	}
}

// issue keeps a token with a role.
func issue(t *testing.T, a *authz.Authority, name, role string, expires time.Time) {
	t.Helper()
	sum := sha256.Sum256([]byte("token-" + name))
	rec := vortex.TokenRecord{Name: name, Hash: hex.EncodeToString(sum[:]), Role: role, CreatedAt: time.Now(), ExpiresAt: expires}
	if _, err := kind.Put(t.Context(), a.Store, vortex.Tokens, &rec, name); err != nil {
		t.Fatal(err)
	}
}

func bearer(t *testing.T, a *authz.Authority, name string) *authz.Caller {
	t.Helper()
	c, err := a.Bearer("token-" + name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestGrantsAddUpAndFencesHold(t *testing.T) {
	a := authority(t, authz.Limited)
	allow(t, a, "jobs", "read:vortex", "read:jobs", "write:jobs:mine")
	allow(t, a, "all", "read", "write")
	allow(t, a, "tokens", "read", "read:vortex:token")
	allow(t, a, "designer", "schema", "read")
	for _, c := range []struct {
		role, reads, writes, refused string // keys; of refused, neither
	}{
		{"jobs", "vortex:app:web jobs jobs:1 jobs:mine", "jobs:mine jobs:mine:1", "jobs2 other vortex:token:x vortex:secret:x"},
		{"all", "x vortex:app:web vortex:role:x vortex:schema:x", "x vortex:app:web", "vortex:token:x vortex:secret:x"},
		{"tokens", "vortex:token:x x", "", "vortex:secret:x"},
		{"designer", "x", "vortex:schema:x", "vortex:token:x"},
		{"viewer", "x vortex:app:web vortex:role:x vortex:identity:x", "", "vortex:token:x vortex:secret:x vortex:join:x"},
		{"admin", "x vortex:token:x vortex:secret:x", "x vortex:token:x vortex:role:x vortex:schema:x vortex:join:x vortex:identity:x", ""},
		{
			"node:n1", "vortex:app:web vortex:placement:c router:web vortex:schema:x",
			"vortex:node:n1 vortex:edge:n1 vortex:quota:n1 vortex:metrics:web:n1 vortex:event:new", "x vortex:token:n1 vortex:join:x vortex:secret:x routers",
		},
		{"nothing", "", "", "x vortex:app:web"},
	} {
		issue(t, a, "t-"+c.role, c.role, time.Time{})
		caller := bearer(t, a, "t-"+c.role)
		for verb, keys := range map[authz.Verb]string{authz.Read: c.reads, authz.Write: c.writes} {
			for key := range strings.FieldsSeq(keys) {
				if err := caller.Check(verb, key); err != nil {
					t.Errorf("%s: %v", c.role, err)
				}
			}
		}
		for key := range strings.FieldsSeq(c.refused) {
			if caller.May(authz.Read, key) || caller.May(authz.Write, key) {
				t.Errorf("%s may touch %s", c.role, key)
			}
		}
		if got := caller.May(authz.Admin, ""); got != (c.role == "admin") {
			t.Errorf("%s is admin: %t", c.role, got)
		}
	}
	for _, key := range []string{"vortex:schema:x", "vortex:role:x", "vortex:identity:x", "vortex:cluster:self", "vortex:join:x"} {
		if bearer(t, a, "t-all").May(authz.Write, key) {
			t.Errorf("who may write every key may give itself more with %s", key)
		}
	}
	if bearer(t, a, "t-node:n1").May(authz.Write, "vortex:node:n2") {
		t.Error("a node may write another's record")
	}
}

func TestRecordsOfBuiltInNamesChangeNothing(t *testing.T) {
	a := authority(t, authz.Limited)
	allow(t, a, "viewer", "admin")
	allow(t, a, "anonymous", "admin")
	issue(t, a, "v", "viewer", time.Time{})
	if bearer(t, a, "v").May(authz.Write, "x") {
		t.Error("a record widened the role viewer")
	}
	if c, err := a.Nobody(); err != nil || c.May(authz.Read, "vortex:app:x") {
		t.Errorf("a record widened the role anonymous: %v", err)
	}
}

func TestScans(t *testing.T) {
	a := authority(t, authz.Limited)
	allow(t, a, "jobs", "read:jobs:a")
	issue(t, a, "j", "jobs", time.Time{})
	issue(t, a, "v", "viewer", time.Time{})
	jobs, viewer := bearer(t, a, "j"), bearer(t, a, "v")
	for prefix, want := range map[string]bool{"": true, "jobs": true, "jobs:a": true, "jobs:a:1": true, "jobs:b": false, "x": false} {
		if got := jobs.CheckScan(prefix) == nil; got != want {
			t.Errorf("scan %q: %t", prefix, got)
		}
	}
	if jobs.ReadsAll("jobs") || !jobs.ReadsAll("jobs:a") || viewer.ReadsAll("") || viewer.ReadsAll("vortex:") || !viewer.ReadsAll("vortex:app") {
		t.Error("ReadsAll is wrong")
	}
}

func TestRemovalActsAtOnce(t *testing.T) {
	a := authority(t, authz.Off)
	if _, err := a.Nobody(); !vortex.IsKind(err, vortex.Unauthenticated) {
		t.Errorf("anonymous: %v", err)
	}
	for range 100 {
		allow(t, a, "r", "read:x")
		issue(t, a, "t", "r", time.Time{})
		if !bearer(t, a, "t").May(authz.Read, "x") {
			t.Fatal("a new token may not read")
		}
		if _, err := a.Store.Delete(t.Context(), vortex.Roles.Key("r")); err != nil {
			t.Fatal(err)
		}
		if bearer(t, a, "t").May(authz.Read, "x") {
			t.Fatal("a role that was removed still allows")
		}
		if _, err := a.Store.Delete(t.Context(), vortex.Tokens.Key("t")); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Bearer("token-t"); !vortex.IsKind(err, vortex.Unauthenticated) {
			t.Fatalf("a token that was removed: %v", err)
		}
	}
}

func TestCertificatesHaveTheRolesTheyName(t *testing.T) {
	a := authority(t, authz.Off)
	allow(t, a, "writers", "write:x")
	id := func(name string, roles ...string) *authz.Caller {
		c, err := a.Certificate(certificate(t, name, roles...))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if c := id("eve"); c.May(authz.Read, "x") {
		t.Error("a certificate without a role may read")
	}
	if c := id("vi", "viewer", "writers"); !c.May(authz.Read, "vortex:app:a") || !c.May(authz.Write, "x") || c.May(authz.Write, "y") {
		t.Error("roles do not add up")
	}
	if first := id("vi", "viewer", "writers"); first != id("vi", "viewer", "writers") {
		t.Error("a certificate is another caller each time")
	}
	if id("a\x00admin").May(authz.Read, "x") || !id("a", "admin").May(authz.Admin, "") {
		t.Error("a name is taken for a role")
	}
	if c := id("late", "later"); c.May(authz.Read, "x") {
		t.Error("a role that does not exist allows")
	}
	allow(t, a, "later", "read:x")
	if c := id("late", "later"); !c.May(authz.Read, "x") {
		t.Error("a role made later does not count")
	}
}

func TestAnIdleRunEndsHeldStreams(t *testing.T) {
	a := authority(t, authz.Off)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = a.Run(ctx) }()
	defer func() { cancel(); <-done }()
	allow(t, a, "r", "read:x")
	for name, change := range map[string]func(){
		"removed": func() { _, _ = a.Store.Delete(ctx, vortex.Tokens.Key("removed")) },
		"widened": func() { allow(t, a, "r", "read:x", "read:y") },
	} {
		issue(t, a, name, "r", time.Time{})
		held, release := bearer(t, a, name).Hold(ctx)
		change()
		<-held.Done()
		release()
	}
	issue(t, a, "short", "r", time.Now().Add(50*time.Millisecond))
	held, release := bearer(t, a, "short").Hold(ctx)
	defer release()
	<-held.Done()
	if _, err := a.Bearer("token-short"); !vortex.IsKind(err, vortex.Unauthenticated) {
		t.Errorf("an expired token: %v", err)
	}
}

func TestWhoCallsCostsNoMemory(t *testing.T) {
	a := authority(t, authz.Limited)
	issue(t, a, "v", "viewer", time.Time{})
	id := certificate(t, "vi", "viewer")
	if n := testing.AllocsPerRun(100, func() {
		c, err := a.Bearer("token-v")
		if err != nil || c.Check(authz.Read, "vortex:app:web") != nil {
			t.Fatal("refused")
		}
		if c, err = a.Certificate(id); err != nil || c.Check(authz.Read, "x") != nil {
			t.Fatal("refused")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestParseGrant(t *testing.T) {
	for _, bad := range []string{"", "fly", "fly:x", "admin:x", "schema:x", "Read"} {
		if _, err := authz.ParseGrant(bad); !vortex.IsKind(err, vortex.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if p, err := authz.ParseGrant("read:vortex:app"); err != nil || p.Prefix != "vortex:app" || p.Verb != vortex.AccessVerbRead {
		t.Errorf("got %v, %v", p, err)
	}
}
