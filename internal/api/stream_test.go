package api_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"vortex"
	"vortex/client"
	"vortex/internal/api/apitest"
)

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestFollowAppSeesEveryStateAndTheEnd(t *testing.T) {
	f := apitest.Start(t)
	f.Obey(t)
	ctx := within(t)
	mustRegister(t, f, apitest.App("web"))
	deleted := false
	for app, err := range f.Client.FollowApp(ctx, "web") {
		if err != nil {
			if !vortex.IsKind(err, vortex.NotFound) || !deleted {
				t.Fatalf("the stream ended with %v", err)
			}
			return
		}
		if app.Status == client.StatusRunning && !deleted {
			deleted = true
			if _, err := f.Client.Delete(ctx, "web", client.WaitRequest{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Fatal("the stream ended without a word")
}

func TestStreamsRefuseLikeTheRest(t *testing.T) {
	f := apitest.Start(t)
	for _, err := range f.Client.FollowApp(t.Context(), "none") {
		if !vortex.IsKind(err, vortex.NotFound) {
			t.Errorf("unknown app: %v", err)
		}
	}
	stranger, err := client.New(client.Options{Server: f.URL, Token: "wrong"})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range stranger.FollowEvents(t.Context(), "") {
		if !vortex.IsKind(err, vortex.Unauthenticated) {
			t.Errorf("wrong token: %v", err)
		}
	}
}

func TestABrowserSendsItsTokenAsASubprotocol(t *testing.T) {
	f := apitest.Start(t)
	ctx := within(t)
	conn, _, err := websocket.Dial(ctx, f.URL+"/api/v1/stream", &websocket.DialOptions{
		Subprotocols: []string{client.StreamProtocol, client.TokenProtocol + apitest.Token},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	if conn.Subprotocol() != client.StreamProtocol {
		t.Errorf("subprotocol %q", conn.Subprotocol())
	}
	if _, message, err := conn.Read(ctx); err != nil || !bytes.Contains(message, []byte(`"total":0`)) {
		t.Errorf("%s, %v", message, err)
	}
	if _, _, err := websocket.Dial(ctx, f.URL+"/api/v1/stream", &websocket.DialOptions{
		HTTPHeader:   http.Header{"Origin": {"https://evil.example"}},
		Subprotocols: []string{client.StreamProtocol, client.TokenProtocol + apitest.Token},
	}); err == nil {
		t.Error("a page of another origin may open streams")
	}
}

func TestFollowEvents(t *testing.T) {
	f := apitest.Start(t)
	ctx := within(t)
	n := 0
	go func() {
		for range 3 {
			app := apitest.App(fmt.Sprintf("web%d", n))
			_, _ = f.Client.Register(ctx, app, "", false)
			n++
		}
	}()
	for ev, err := range f.Client.FollowEvents(ctx, "web2") {
		if err != nil {
			t.Fatal(err)
		}
		if ev.Type != "AppRegistered" || ev.App != "web2" {
			t.Fatalf("%+v", ev)
		}
		break
	}
}

func TestLogs(t *testing.T) {
	f := apitest.Start(t)
	f.Obey(t)
	ctx := within(t)
	mustRegister(t, f, apitest.App("web"))
	waitFor(t, f, "web", 1)
	for i := range 20 {
		f.Host.Write("web-1-0", fmt.Sprintf("line %d", i))
	}
	entries, err := f.Client.Logs(ctx, "web", client.LogOptions{Tail: 5})
	if err != nil || len(entries) != 5 || entries[4].Line != "line 19" || entries[4].Instance != "web-1-0" || entries[4].Stream != "stdout" {
		t.Fatalf("%+v, %v", entries, err)
	}
	if _, err := f.Client.Logs(ctx, "web", client.LogOptions{Instance: "web-9-9"}); !vortex.IsKind(err, vortex.NotFound) {
		t.Errorf("unknown instance: %v", err)
	}
	if status, body := do(t, http.MethodGet, f.URL+"/api/v1/apps/web/logs?since=yesterday", apitest.Token, "", ""); status != http.StatusBadRequest || !strings.Contains(body, "since: expected a duration") {
		t.Errorf("%d %s", status, body)
	}
}

func TestFollowLogsSeesInstancesThatStartLater(t *testing.T) {
	f := apitest.Start(t)
	f.Obey(t)
	ctx := within(t)
	mustRegister(t, f, apitest.App("web"))
	waitFor(t, f, "web", 1)
	f.Host.Write("web-1-0", "before")
	seen := map[string]int{}
	for entry, err := range f.Client.FollowLogs(ctx, "web", client.LogOptions{Tail: 1, Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		seen[entry.Line]++
		switch entry.Line {
		case "before":
			f.Host.Write("web-1-0", "after")
		case "after":
			two := 2
			if _, err := f.Client.Scale(ctx, "web", client.ScaleRequest{Replicas: &two}); err != nil {
				t.Fatal(err)
			}
		case "started web-1-1":
			for line, n := range seen {
				if n != 1 {
					t.Errorf("%q came %d times", line, n)
				}
			}
			return
		}
	}
}

func TestExec(t *testing.T) {
	f := apitest.Start(t)
	f.Obey(t)
	ctx := within(t)
	mustRegister(t, f, apitest.App("web"))
	waitFor(t, f, "web", 1)
	var out, errOut bytes.Buffer
	code, err := f.Client.ExecApp(ctx, "web", client.ExecOptions{
		Command: []string{"/bin/sh", "-c", "cat; echo oops >&2; exit 7"},
		Stdin:   strings.NewReader(strings.Repeat("0123456789", 100_000)), Stdout: &out, Stderr: &errOut,
	})
	if err != nil || code != 7 || out.Len() != 1_000_000 || errOut.String() != "oops\n" {
		t.Fatalf("code %d, %d bytes, %q, %v", code, out.Len(), errOut.String(), err)
	}
	if code, err := f.Client.ExecInstance(ctx, "web-1-0", client.ExecOptions{Command: []string{"/no/such"}}); err != nil || code != 127 {
		t.Errorf("a command that is not there: %d, %v", code, err)
	}
	if _, err := f.Client.ExecInstance(ctx, "nobody", client.ExecOptions{Command: []string{"/bin/true"}}); !vortex.IsKind(err, vortex.NotFound) {
		t.Errorf("unknown instance: %v", err)
	}
}

func TestACommandEndsWhenItsClientLeaves(t *testing.T) {
	f := apitest.Start(t)
	f.Obey(t)
	mustRegister(t, f, apitest.App("web"))
	waitFor(t, f, "web", 1)
	ctx, cancel := context.WithCancel(within(t))
	out := writerFunc(func(p []byte) (int, error) { cancel(); return len(p), nil })
	_, err := f.Client.ExecApp(ctx, "web", client.ExecOptions{Command: []string{"/bin/sh", "-c", "echo here; exec sleep 600"}, Stdout: out})
	if err == nil {
		t.Error("a session that was broken off reports an exit code")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
