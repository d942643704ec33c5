package api_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"testing"
	"time"

	"vortex"
	"vortex/client"
	"vortex/internal/api/apitest"
	"vortex/internal/kind"
)

// TestRolesHoldAtTheAPI asks with tokens of several roles.
func TestRolesHoldAtTheAPI(t *testing.T) {
	f := apitest.Start(t)
	web := vortex.RoleRecord{Name: "web", CreatedAt: time.Now(), Allow: []vortex.Permission{
		{Verb: vortex.AccessVerbRead, Prefix: "vortex:app:web"}, {Verb: vortex.AccessVerbWrite, Prefix: "vortex:app:web"},
	}}
	if _, err := kind.Put(t.Context(), f.Store, vortex.Roles, &web, "web"); err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{"viewer", "web", "admin"} {
		sum := sha256.Sum256([]byte("token-" + role))
		rec := vortex.TokenRecord{Name: role, Role: role, Hash: hex.EncodeToString(sum[:]), CreatedAt: time.Now()}
		if _, err := kind.Put(t.Context(), f.Store, vortex.Tokens, &rec, role); err != nil {
			t.Fatal(err)
		}
	}
	const allowed = http.StatusNotFound // there are no apps
	for _, c := range []struct {
		method, path       string
		viewer, web, admin int
	}{
		{http.MethodGet, "/apps", http.StatusOK, http.StatusForbidden, http.StatusOK},
		{http.MethodGet, "/apps/web", allowed, allowed, allowed},
		{http.MethodGet, "/apps/other", allowed, http.StatusForbidden, allowed},
		{http.MethodPost, "/apps/web/stop", http.StatusForbidden, allowed, allowed},
		{http.MethodPost, "/apps/other/stop", http.StatusForbidden, http.StatusForbidden, allowed},
		{http.MethodDelete, "/apps/web", http.StatusForbidden, allowed, allowed},
		{http.MethodGet, "/apps/web/exec?command=sh", http.StatusForbidden, 0, 0},
		{http.MethodGet, "/instances/x/exec?command=sh", http.StatusForbidden, http.StatusForbidden, 0},
		{http.MethodPost, "/apps/register", http.StatusForbidden, http.StatusForbidden, http.StatusBadRequest},
		{http.MethodPut, "/config", http.StatusForbidden, http.StatusForbidden, http.StatusOK},
		{http.MethodDelete, "/images/x", http.StatusForbidden, http.StatusForbidden, 0},
	} {
		for role, want := range map[string]int{"viewer": c.viewer, "web": c.web, "admin": c.admin} {
			if got := status(t, f.URL, "token-"+role, c.method, c.path); got != want && want != 0 || got == http.StatusForbidden && want != got {
				t.Errorf("%s %s as %s: %d; want %d", c.method, c.path, role, got, want)
			}
		}
	}
	if _, err := f.Store.Delete(t.Context(), vortex.Tokens.Key("viewer")); err != nil {
		t.Fatal(err)
	}
	gone, err := client.New(client.Options{Server: f.URL, Token: "token-viewer"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gone.Apps(t.Context()); !isStatus(err, http.StatusUnauthorized) {
		t.Errorf("a token that was removed: %v", err)
	}
}

func isStatus(err error, want int) bool {
	e, ok := errors.AsType[*client.Error](err)
	return ok && e.Status == want
}

// status makes a request and returns the status of the answer.
func status(t *testing.T, server, token, method, path string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, server+"/api/v1"+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}
