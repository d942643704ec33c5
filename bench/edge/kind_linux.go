package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"time"

	"vortex"
	"vortex/client"
	"vortex/test/harness"
)

// effectLimit is how many milliseconds after its commit a change of backends may take effect.
const effectLimit = 5

// measureKind measures how soon a change of an app's backends in the store takes effect at the edge, in the built binary.
func (b *bench) measureKind(ctx context.Context) (err error) {
	s, err := b.open(ctx, together(), 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	v, err := harness.Start(ctx, harness.Options{Args: []string{"--no-agent"}})
	if err != nil {
		return err
	}
	defer func() {
		v.Kill()
		err = errors.Join(err, os.RemoveAll(v.Data))
	}()
	c := &changes{site: s}
	if c.store, err = client.OpenKind(v.Run.Kind, v.Run.Token); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.store.Close()) }()
	if c.edge, err = edgeAddr(v.Run.Edge); err != nil {
		return err
	}
	return b.measureChanges(ctx, c)
}

func edgeAddr(address string) (netip.AddrPort, error) {
	u, err := url.Parse(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port)), err
}

func (b *bench) measureChanges(ctx context.Context, c *changes) error {
	const ignored = 10 // the first ones, in which connections are made
	var fromStart, fromCommit []float64
	for n := range ignored + b.changes {
		m, err := c.change(ctx, c.site.ports[n%len(c.site.ports)])
		if err != nil {
			return fmt.Errorf("change %d: %w", n, err)
		}
		if n >= ignored {
			fromStart = append(fromStart, float64(m.effect.Sub(m.start))/float64(time.Millisecond))
			fromCommit = append(fromCommit, max(0, float64(m.effect.Sub(m.committed))/float64(time.Millisecond)))
		}
	}
	b.percentiles("edge/kind/commit_to_effect", fromCommit, effectLimit)
	b.percentiles("edge/kind/put_to_effect", fromStart, 0)
	return nil
}

// changes moves an app from one backend to another and watches the edge's answers.
type changes struct {
	site  *site
	store *client.Kind
	edge  netip.AddrPort
}

// moments of a change are when its write began, when it was acknowledged, and when an answer of the new backend was there.
type moments struct{ start, committed, effect time.Time }

// change makes a port the only backend, while somebody asks the edge all the time.
func (c *changes) change(ctx context.Context, port uint16) (m moments, err error) {
	record := vortex.RouterRecord{
		ClientID: "app-0", Hosts: []string{host(0)},
		Backends: []vortex.Backend{{Instance: fmt.Sprintf("app-0-%d", port), Address: "127.0.0.1", Port: port}},
	}
	value, err := json.Marshal(record)
	if err != nil {
		return m, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	type seen struct {
		at  time.Time
		err error
	}
	effects, asking := make(chan seen, 1), make(chan struct{})
	go func() {
		at, err := c.awaitBackend(ctx, port, asking)
		effects <- seen{at, err}
	}()
	<-asking
	m.start = time.Now()
	_, err = c.store.Put(ctx, vortex.Routers.Key("app-0"), value, 0)
	m.committed = time.Now()
	if err != nil {
		cancel()
	}
	s := <-effects
	m.effect = s.at
	return m, errors.Join(err, s.err)
}

// awaitBackend asks the edge until the backend at a port answers. It closes asking once it has been answered, by whoever it may be.
func (c *changes) awaitBackend(ctx context.Context, port uint16, asking chan<- struct{}) (at time.Time, err error) {
	defer func() {
		if asking != nil {
			close(asking)
		}
	}()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", c.edge.String())
	if err != nil {
		return at, err
	}
	defer func() { _ = conn.Close() }()
	r := bufio.NewReader(conn)
	for ctx.Err() == nil {
		by, err := exchange(conn, r)
		if err != nil {
			return at, err
		}
		if asking != nil {
			close(asking)
			asking = nil
		}
		if by == port {
			return time.Now(), nil
		}
	}
	return at, fmt.Errorf("the change took no effect: %w", context.Cause(ctx))
}

// exchange sends one request and returns the port of the backend that answered it, 0 when the edge itself did.
func exchange(conn net.Conn, r *bufio.Reader) (uint16, error) {
	if _, err := conn.Write(head(0)); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return 0, err
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, err
	}
	port, err := strconv.ParseUint(resp.Header.Get("X-Backend"), 10, 16)
	if err != nil {
		return 0, nil //nolint:nilerr // there is no backend yet
	}
	return uint16(port), resp.Body.Close()
}
