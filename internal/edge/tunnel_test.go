package edge_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"

	"vortex"
)

// TestWebSocketsAreBoundedWhereTheRouteSaysSo echoes one message after another for longer than the bound, and then none.
func TestWebSocketsAreBoundedWhereTheRouteSaysSo(t *testing.T) {
	t.Parallel()
	const bound = 2 * time.Second
	echo := func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		defer ws.CloseNow()
		for {
			kind, text, err := ws.Read(context.Background())
			if err != nil || ws.Write(context.Background(), kind, text) != nil {
				return
			}
		}
	}
	for name, test := range map[string]struct {
		timeouts     vortex.Timeouts
		talks, stays bool
	}{
		"idle":            {vortex.Timeouts{Idle: vortex.Duration(bound)}, true, false},
		"total":           {vortex.Timeouts{Total: vortex.Duration(bound)}, false, false},
		"total, and idle": {vortex.Timeouts{Total: vortex.Duration(bound), Idle: vortex.Duration(time.Minute)}, false, false},
		"neither":         {vortex.Timeouts{PerTry: vortex.Duration(bound)}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := ruled(t, vortex.Route{RoutePolicy: vortex.RoutePolicy{Timeouts: &test.timeouts}}, nil, newBackend(t, "w", echo))
			ws, _, err := websocket.Dial(t.Context(), "ws://"+h.addr+"/", &websocket.DialOptions{Host: "web.localhost"})
			if err != nil {
				t.Fatal(err)
			}
			defer ws.CloseNow()
			say := func() error {
				if err := ws.Write(t.Context(), websocket.MessageText, []byte("x")); err != nil {
					return err
				}
				_, _, err := ws.Read(t.Context())
				return err
			}
			began := time.Now()
			for err = say(); err == nil && time.Since(began) < 2*bound; err = say() {
				time.Sleep(10 * time.Millisecond) // it is talking slowly that is tested
			}
			if (err == nil) != test.talks {
				t.Fatalf("after %v of talking: %v", time.Since(began), err)
			}
			if !test.talks {
				return
			}
			patience := time.Minute
			if test.stays {
				patience = 2 * bound
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, _, err = ws.Read(ctx)
			if stayed := ctx.Err() != nil; err == nil || stayed != test.stays {
				t.Errorf("after silence: %v, stayed %v", err, stayed)
			}
		})
	}
}
