package client

import (
	"time"

	"vortex"
)

// Node is a machine that runs instances.
type Node struct {
	ID            string            `json:"id"`
	Name          string            `json:"name"`
	Address       string            `json:"address"`
	State         string            `json:"state"` // Ready, Suspect, Down, Draining, or Unknown
	StateSince    *time.Time        `json:"state_since"`
	Reason        string            `json:"reason,omitempty"`
	Schedulable   bool              `json:"schedulable"`
	CPUMillis     uint64            `json:"cpu_millis"`      // thousandths of a core it has
	CPUUsed       uint64            `json:"cpu_used_millis"` // promised to instances
	MemoryBytes   uint64            `json:"memory_bytes"`
	MemoryUsed    uint64            `json:"memory_used_bytes"`
	Instances     int               `json:"instances"`
	Labels        map[string]string `json:"labels,omitempty"`
	Drivers       []string          `json:"drivers"`
	OS            string            `json:"os,omitempty"`
	Arch          string            `json:"arch,omitempty"`
	Kernel        string            `json:"kernel,omitempty"`
	Version       string            `json:"version,omitempty"`
	StartedAt     *time.Time        `json:"started_at"`
	MaxInstances  uint32            `json:"max_instances,omitempty"`
	Unschedulable bool              `json:"unschedulable,omitempty"`
	Cordoned      bool              `json:"cordoned,omitempty"` // nothing new is placed there, because somebody said so
	CordonReason  string            `json:"cordon_reason,omitempty"`
}

// LabelsRequest is the body of POST /nodes/{node}/labels: what is in neither stays.
type LabelsRequest struct {
	Set    map[string]string `json:"set,omitempty"`
	Remove []string          `json:"remove,omitempty"` // keys of labels that were set so; the node's own comes to light again
}

// CordonRequest is the body of POST /nodes/{node}/cordon and …/drain.
type CordonRequest struct {
	Reason string `json:"reason,omitempty"` // for people
}

// NodeList is the answer to GET /nodes.
type NodeList struct {
	Nodes []Node `json:"nodes"`
	Total int    `json:"total"`
	Ready int    `json:"ready"`
}

// Event is something that happened.
type Event struct {
	ID        string    `json:"id"`
	At        time.Time `json:"at"`
	Severity  string    `json:"severity"`
	Component string    `json:"component"`
	Type      string    `json:"type"`
	Message   string    `json:"message"`
	App       string    `json:"app,omitempty"`
	Instance  string    `json:"instance,omitempty"`
	Node      string    `json:"node,omitempty"`
	Cause     string    `json:"cause,omitempty"`
}

// EventList is the answer to GET /events, oldest first.
type EventList struct {
	Events []Event `json:"events"`
	Total  int     `json:"total"`
}

// EventOptions select events.
type EventOptions struct {
	App   string // of this app only
	Limit int    // at most the newest Limit; 0 is 200
}

// ClusterMetrics is the answer to GET /metrics below /api/v1.
type ClusterMetrics struct {
	Apps      int                   `json:"apps"`
	Instances int                   `json:"instances"` // running
	Healthy   int                   `json:"healthy"`
	Nodes     int                   `json:"nodes"`
	RPS       float64               `json:"rps"`
	PerApp    map[string]AppMetrics `json:"per_app"`
}

// Cluster is the answer to GET /cluster.
type Cluster struct {
	Leader   *Leader  `json:"leader"` // null while there is none
	Servers  []Server `json:"servers"`
	Members  []Member `json:"members"`  // the servers that keep the store; none where it is kept elsewhere
	Revision int64    `json:"revision"` // the newest of the store that this server has seen
	Stale    bool     `json:"stale"`    // the store's engine is away: reads may be old, writes fail
	Nodes    int      `json:"nodes"`
	Ready    int      `json:"ready_nodes"`
	Version  string   `json:"version"`
}

// Leader is the server whose loops decide.
type Leader struct {
	ID      string `json:"id"`
	Epoch   uint64 `json:"epoch"`
	Address string `json:"address,omitempty"`
}

// Server is one server of the cluster.
type Server struct {
	ID      string `json:"id"`
	Address string `json:"address,omitempty"`
	Leader  bool   `json:"leader"`
	Zone    string `json:"zone,omitempty"`
	Version string `json:"version,omitempty"`
	State   string `json:"state,omitempty"`  // Ready, Suspect, Down or Draining; "" where nobody watches it
	Member  string `json:"member,omitempty"` // learner or voter; "" for one that keeps nothing of the store
}

// Member is a server that keeps the store.
type Member struct {
	Name    string    `json:"name"`
	ID      string    `json:"id"`
	Role    string    `json:"role"`   // learner or voter
	Leader  bool      `json:"leader"` // of the store's log, as far as the server that answers knows; the log's leader need not be the cluster's
	Address string    `json:"address"`
	State   string    `json:"state,omitempty"`
	Behind  uint64    `json:"behind,omitempty"` // by so many entries of the log, while they are many
	Since   time.Time `json:"since"`
	Why     string    `json:"why,omitempty"` // it was chosen
}

// Check is one condition of GET /readyz.
type Check struct {
	Name  string `json:"name"`
	Error string `json:"error,omitempty"` // "" when it holds
}

// Readiness is the answer to GET /readyz.
type Readiness struct {
	Ready  bool    `json:"ready"`
	Checks []Check `json:"checks"`
}

// Config is the body and the answer of /config, in the sections of vortex.yaml. In a request what is absent stays as it is.
type Config struct {
	Cluster     ClusterConfig   `json:"cluster"`
	Settings    ScalingConfig   `json:"settings"`
	RateLimiter RateLimitConfig `json:"ratelimiter"`
	Store       HistoryConfig   `json:"store"`
}

// HistoryConfig is the section store, as far as it can change at run time: how much history is kept.
type HistoryConfig struct {
	HistoryAge   vortex.Duration `json:"history_age,omitzero"`    // younger transactions are kept
	HistoryCount *uint64         `json:"history_count,omitempty"` // the newest that are kept whatever their age
	HistoryMax   *uint64         `json:"history_max,omitempty"`   // more are not kept however young; 0: no limit
}

// ClusterConfig is the section cluster.
type ClusterConfig struct {
	MinReplicas  *uint32 `json:"min_replicas,omitempty"`
	MaxReplicas  *uint32 `json:"max_replicas,omitempty"`
	StartingPort *uint16 `json:"starting_port,omitempty"`
}

// ScalingConfig is the section settings.
type ScalingConfig struct {
	ScaleUpNumber      *uint32         `json:"scaleupnumber,omitempty"`   // 0: no limit
	ScaleDownNumber    *uint32         `json:"scaledownnumber,omitempty"` // 0: no limit
	ScaleUpGracePeriod vortex.Duration `json:"scale_up_grace_period,omitzero"`
	ScaleDownCooldown  vortex.Duration `json:"scale_down_cooldown,omitzero"`
}

// RateLimitConfig is the section ratelimiter.
type RateLimitConfig struct {
	RateLimit  *uint64         `json:"ratelimit,omitempty"` // requests per client IP and window
	RateWindow vortex.Duration `json:"ratewindow,omitzero"`
}
