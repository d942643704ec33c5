package client

import (
	"context"
	"net"
	"net/http"
	"strings"
	"time"

	"vortex"
)

// DefaultEdge is where an edge that runs alone answers when its file does not say.
const DefaultEdge = "127.0.0.1:7071"

// Edge is a load balancer: one of a cluster, or one that runs alone.
type Edge struct {
	ID        string         `json:"id"`
	Alone     bool           `json:"alone"` // it runs from a file, without a cluster
	Node      string         `json:"node,omitempty"`
	Address   string         `json:"address,omitempty"`
	Version   string         `json:"version,omitempty"`
	StartedAt *time.Time     `json:"started_at"`
	Live      bool           `json:"live"` // this server sees what it does now; else only its records are known
	Listeners []EdgeListener `json:"listeners"`
	Revision  uint64         `json:"revision"` // of the routers it has taken in
	Busy      []string       `json:"busy"`     // removed instances with requests in flight
	Config    *EdgeConfig    `json:"config"`   // of one that runs alone
	Routes    []EdgeRoute    `json:"routes"`
	Backends  []EdgeBackend  `json:"backends"`
}

// EdgeListener is an address an edge accepts on.
type EdgeListener struct {
	Name     string `json:"name,omitempty"`
	Address  string `json:"address"`
	Protocol string `json:"protocol"`
}

// EdgeConfig is the file that an edge alone runs from.
type EdgeConfig struct {
	File      string     `json:"file"`
	LoadedAt  *time.Time `json:"loaded_at"` // when what is in force was taken in
	Reloads   uint64     `json:"reloads"`   // files taken in, the first included
	Refused   uint64     `json:"refused"`   // files that were not
	RefusedAt *time.Time `json:"refused_at"`
	Error     string     `json:"error,omitempty"` // why the file as it stands is not in force
}

// EdgeRoute is which requests go to which pool, and what became of them lately.
type EdgeRoute struct {
	Name            string   `json:"name"`
	Hosts           []string `json:"hosts"`
	Paths           []string `json:"paths"`
	Listeners       []string `json:"listeners"` // none is all
	Pool            string   `json:"pool"`
	Balance         string   `json:"balance"`
	Backends        int      `json:"backends"`
	Usable          int      `json:"usable"` // of the backends
	Panics          bool     `json:"panics"` // too few backends are usable, so all are used
	Held            int64    `json:"held"`   // requests that wait for a backend
	RPS             float64  `json:"rps"`    // of the pool, in the last second
	InFlight        uint64   `json:"in_flight"`
	Connections     uint64   `json:"connections"` // of clients
	LatencyP50Ms    float64  `json:"latency_p50_ms"`
	LatencyP95Ms    float64  `json:"latency_p95_ms"`
	ErrorsPerSecond float64  `json:"errors_per_second"` // answers of 500 and above
}

// EdgeBackend is one address of a pool.
type EdgeBackend struct {
	Pool     string `json:"pool"`
	Instance string `json:"instance"`
	Address  string `json:"address"` // IP and port
	Node     string `json:"node,omitempty"`
	Zone     string `json:"zone,omitempty"`
	Release  uint64 `json:"release,omitempty"`
	Weight   uint32 `json:"weight"`
	Out      string `json:"out,omitempty"`    // why it gets no requests: refused, node, check or ejected
	Detail   string `json:"detail,omitempty"` // … in words
	InFlight int64  `json:"in_flight"`
	Served   uint64 `json:"served"` // requests answered
	Failed   uint64 `json:"failed"` // attempts without an answer
	Errors   uint64 `json:"errors"` // answers of 500 and above
	Idle     int    `json:"idle"`   // connections kept for later
}

// EdgeList is the answer to GET /edges.
type EdgeList struct {
	Edges []Edge `json:"edges"`
	Total int    `json:"total"`
}

// NewEdge returns a client of an edge that runs alone, at its admin address: IP:port or unix:PATH. Only Edges is answered there.
func NewEdge(address string) (*Client, error) {
	path, unix := strings.CutPrefix(address, "unix:")
	if !unix {
		return New(Options{Server: address})
	}
	if path == "" {
		return nil, vortex.Errorf(vortex.Invalid, `expected a path after unix:, as in "unix:/run/edge.sock"`)
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return New(Options{Server: "http://localhost", HTTPClient: &http.Client{Transport: &http.Transport{DialContext: dial}}})
}

// Edges lists the cluster's edges, or the one that runs alone.
func (c *Client) Edges(ctx context.Context) (EdgeList, error) {
	return get[EdgeList](ctx, c, nil, "edges")
}

// EdgeSummary is what the file of an edge that runs alone holds.
type EdgeSummary struct {
	File      string   `json:"file"`
	Listeners int      `json:"listeners"`
	Routes    int      `json:"routes"`
	Pools     int      `json:"pools"` // named ones
	Backends  int      `json:"backends"`
	Warnings  []string `json:"warnings,omitempty"`
}
