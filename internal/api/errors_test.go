package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"vortex"
	"vortex/client"
	"vortex/internal/api"
	"vortex/internal/api/apitest"
)

func TestEveryKindHasItsWayOut(t *testing.T) {
	for _, kind := range vortex.ErrorKinds() {
		if api.GRPCCode(kind) == codes.OK || api.GRPCCode(kind) == codes.Unknown {
			t.Errorf("%s: gRPC code %s", kind, api.GRPCCode(kind))
		}
		if s := api.HTTPStatus(kind); s < 400 || s > 599 {
			t.Errorf("%s: HTTP status %d", kind, s)
		}
		if api.Code(kind) == "" {
			t.Errorf("%s has no API code", kind)
		}
		if exit := api.ExitCode(vortex.Errorf(kind, "x")); exit < 1 || exit > 4 {
			t.Errorf("%s: exit code %d", kind, exit)
		}
		back := &client.Error{Status: api.HTTPStatus(kind), ErrorBody: client.ErrorBody{Error: "x", Code: api.Code(kind)}}
		if got := vortex.KindOf(back); got != kind {
			t.Errorf("%s comes back from the wire as %s", kind, got)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for want, err := range map[int]error{
		0: nil,
		1: errors.New("odd"),
		2: vortex.Errorf(vortex.Invalid, "x"),
		3: fmt.Errorf("web: %w", vortex.Errorf(vortex.NotFound, "x")),
		4: vortex.Errorf(vortex.Unauthenticated, "x"),
		5: fmt.Errorf("wait: %w", context.DeadlineExceeded),
	} {
		if got := api.ExitCode(err); got != want {
			t.Errorf("%v: exit code %d, want %d", err, got, want)
		}
	}
	late := &client.Error{Status: http.StatusGatewayTimeout, ErrorBody: client.ErrorBody{Code: client.CodeTimeout}}
	if got := api.ExitCode(late); got != 5 {
		t.Errorf("a wait the server gave up: exit code %d", got)
	}
}

// failingImages fails in a way nobody classified.
type failingImages struct{ api.Images }

func (failingImages) List(context.Context) ([]client.Image, error) {
	return nil, errors.New("disk /dev/secret is on fire")
}

func TestInternalErrorsShowAnIDOnly(t *testing.T) {
	var logged bytes.Buffer
	f := apitest.Start(t, func(s *api.Server) {
		s.Images, s.Log = failingImages{}, slog.New(slog.NewTextHandler(&logged, nil))
	})
	_, err := f.Client.Images(t.Context())
	e, ok := errors.AsType[*client.Error](err)
	if !ok || e.Status != http.StatusInternalServerError {
		t.Fatalf("got %v", err)
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the answer tells too much: %v", err)
	}
	_, id, _ := strings.Cut(err.Error(), "(")
	id, _, _ = strings.Cut(id, ")")
	if id == "" || !strings.Contains(logged.String(), id) || !strings.Contains(logged.String(), "secret") {
		t.Errorf("the log does not have %q with its cause:\n%s", id, logged.String())
	}
}

func TestErrorShape(t *testing.T) {
	f := apitest.Start(t)
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, f.URL+"/api/v1/apps/none", http.NoBody)
	req.Header.Set("Authorization", "Bearer "+apitest.Token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		t.Fatal(err)
	}
	if body["code"] != "APP_NOT_FOUND" || body["error"] == "" || body["timestamp"] == nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("status %d, body %v", resp.StatusCode, body)
	}
}
