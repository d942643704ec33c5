package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"vortex"
	"vortex/client"
	"vortex/internal/kind"
)

const (
	sendTimeout  = 10 * time.Second // a client that takes longer for one message is dropped
	pingEvery    = 20 * time.Second
	metricsEvery = time.Second
)

// serveValues answers a WebSocket. produce calls send for every value until its ctx ends, which it does when the
// client leaves. The connection closes with the reason when produce fails.
func (s *Server) serveValues(w http.ResponseWriter, r *http.Request, produce func(ctx context.Context, send func(any) error) error) error {
	conn, err := accept(w, r)
	if err != nil {
		return nil
	}
	defer conn.CloseNow() //nolint:errcheck // closed properly below where it can be
	ctx := conn.CloseRead(r.Context())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go keepAlive(ctx, conn, cancel)
	err = produce(ctx, func(value any) error { return send(ctx, conn, value) })
	if ctx.Err() != nil {
		return nil
	}
	s.hangUp(conn, err)
	return nil
}

func accept(w http.ResponseWriter, r *http.Request) (*websocket.Conn, error) {
	return websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{client.StreamProtocol}})
}

// send writes one value as one text message.
func send(ctx context.Context, conn *websocket.Conn, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	return conn.Write(ctx, websocket.MessageText, data)
}

// keepAlive finds out when the client has vanished without a word.
func keepAlive(ctx context.Context, conn *websocket.Conn, gone context.CancelFunc) {
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		pinged, cancel := context.WithTimeout(ctx, sendTimeout)
		err := conn.Ping(pinged)
		cancel()
		if err != nil {
			gone()
			return
		}
	}
}

const maxCloseReason = 120 // bytes; the protocol allows 123

// hangUp closes a stream, with the error's API code and message when there is one.
func (s *Server) hangUp(conn *websocket.Conn, err error) {
	if err == nil {
		_ = conn.Close(websocket.StatusNormalClosure, "")
		return
	}
	body, _ := s.body(err)
	reason := body.Code + ": " + body.Error
	code := websocket.StatusInternalError
	if vortex.IsKind(err, vortex.Unavailable) {
		code = websocket.StatusGoingAway
	}
	_ = conn.Close(code, reason[:min(len(reason), maxCloseReason)])
}

// knowsApp answers for an unknown app with an error of HTTP, before the stream begins.
func (s *Server) knowsApp(r *http.Request) error {
	_, err := s.appRecord(r.PathValue("app"))
	return err
}

func (s *Server) streamApps(w http.ResponseWriter, r *http.Request) error {
	return s.serveValues(w, r, func(ctx context.Context, send func(any) error) error {
		return s.follow(ctx, "", func() (bool, error) { return false, send(s.apps(ctx)) })
	})
}

func (s *Server) streamApp(w http.ResponseWriter, r *http.Request) error {
	if err := s.knowsApp(r); err != nil {
		return err
	}
	name := r.PathValue("app")
	return s.serveValues(w, r, func(ctx context.Context, send func(any) error) error {
		return s.follow(ctx, name, func() (bool, error) {
			app, err := s.app(ctx, name)
			if err != nil {
				return false, err
			}
			return false, send(app)
		})
	})
}

func (s *Server) streamMetrics(w http.ResponseWriter, r *http.Request) error {
	if err := s.knowsApp(r); err != nil {
		return err
	}
	return s.serveValues(w, r, func(ctx context.Context, send func(any) error) error {
		ticker := time.NewTicker(metricsEvery)
		defer ticker.Stop()
		for {
			app, err := s.app(ctx, r.PathValue("app"))
			if err == nil {
				err = send(app.Metrics)
			}
			if err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-ticker.C:
			}
		}
	})
}

func (s *Server) streamEvents(w http.ResponseWriter, r *http.Request) error {
	only := r.URL.Query().Get("app")
	watch := s.Store.Watch(kind.WatchOptions{Prefixes: []string{vortex.Events.Prefix + ":"}}) // before the handshake: nothing after it is missed
	defer watch.Close()
	return s.serveValues(w, r, func(ctx context.Context, send func(any) error) error {
		for {
			batches, err := watch.Next(ctx)
			if err != nil {
				return err
			}
			for _, b := range batches {
				if err := sendEvents(b, only, send); err != nil {
					return err
				}
			}
		}
	})
}

func sendEvents(b kind.Batch, only string, send func(any) error) error {
	for _, ev := range b.Events {
		if ev.Record == nil {
			continue // expired
		}
		entry, err := kind.Decode(vortex.Events, ev.Record)
		if err != nil || only != "" && entry.Value.ClientID != only {
			continue
		}
		if err := send(eventOf(entry.Value)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) streamLogs(w http.ResponseWriter, r *http.Request) error {
	q, err := readLogQuery(r)
	if err != nil {
		return err
	}
	if _, err := s.logSources(q); err != nil {
		return err
	}
	return s.serveValues(w, r, func(ctx context.Context, send func(any) error) error {
		return s.followLogs(ctx, q, func(entry client.LogEntry) error { return send(entry) })
	})
}
