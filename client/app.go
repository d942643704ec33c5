package client

import (
	"strconv"
	"strings"
	"time"

	"vortex"
)

// The states of an app.
const (
	StatusRunning  = "running"  // every wanted instance is healthy
	StatusStopped  = "stopped"  // by hand
	StatusStarting = "starting" // on its way to what is wanted
	StatusDegraded = "degraded" // serves with fewer healthy instances than wanted
	StatusError    = "error"    // no instance is healthy and that will not change by itself
)

// AppSummary is an app as a list shows it.
type AppSummary struct {
	Name         string     `json:"name"`
	Type         string     `json:"type"`
	Image        string     `json:"image"`
	Status       string     `json:"status"`            // one of the Status constants
	Message      string     `json:"message,omitempty"` // why, when it is not running
	Replicas     Replicas   `json:"replicas"`
	Metrics      AppMetrics `json:"metrics"`
	ScalingMode  string     `json:"scaling_mode"` // auto or manual
	Generation   uint64     `json:"generation"`   // grows with every change a user makes
	Release      uint64     `json:"release"`      // the one wanted now; 0 before the first
	Hosts        []string   `json:"hosts,omitempty"`
	Ports        []EdgePort `json:"ports,omitempty"` // of TCP and UDP, on every edge
	CreatedAt    time.Time  `json:"created_at"`
	UpdatedAt    time.Time  `json:"updated_at"`
	LastScaledAt *time.Time `json:"last_scaled_at"` // null when it never was
}

// EdgePort is a port, or a range of them, that every edge opens for an app.
type EdgePort struct {
	Port          uint16 `json:"port"`
	EndPort       uint16 `json:"end_port,omitempty"` // the last of a range
	Protocol      string `json:"protocol"`           // TCP or UDP
	ContainerPort uint16 `json:"container_port"`
	Name          string `json:"name,omitempty"`
}

// String is the port as people write it: 5432/tcp or 7000-7010/udp.
func (p EdgePort) String() string {
	s := strconv.Itoa(int(p.Port))
	if p.EndPort != 0 {
		s += "-" + strconv.Itoa(int(p.EndPort))
	}
	return s + "/" + strings.ToLower(p.Protocol)
}

// App is an app with its instances and the state of its newest rollout.
type App struct {
	AppSummary

	Rollout    *Rollout    `json:"rollout"` // null before the first
	Containers []Container `json:"containers"`
}

// Replicas counts an app's instances.
type Replicas struct {
	Current int `json:"current"` // running
	Desired int `json:"desired"` // wanted by the autoscaler or by hand
	Healthy int `json:"healthy"` // running, and healthy by its check when it has one
}

// AppMetrics is what an app did in the last seconds.
type AppMetrics struct {
	CPUPercent        float64 `json:"cpu_percent"`    // of what its running instances may use; of one core each when unlimited
	MemoryPercent     float64 `json:"memory_percent"` // of the same
	RPS               float64 `json:"rps"`            // requests a second, over all edges
	LatencyP95Ms      float64 `json:"latency_p95_ms"` // of the slowest edge
	ActiveConnections int     `json:"active_connections"`
}

// Rollout is how the newest release of an app is doing.
type Rollout struct {
	State      string    `json:"state"`             // Progressing, Complete, Failed or Reverted
	Release    uint64    `json:"release"`           // the newest
	Active     uint64    `json:"active"`            // the one wanted now; older than release after a revert
	Generation uint64    `json:"generation"`        // the app's generation this answers
	Message    string    `json:"message,omitempty"` // on failure: the last probe result or exit
	Instance   string    `json:"instance,omitempty"`
	UpdatedAt  time.Time `json:"updated_at,omitzero"`
}

// The states of a container, besides those of vortex.ContainerStatus.
const (
	ContainerPending  = "Pending"  // wanted, and on no node yet
	ContainerLost     = "Lost"     // its node is down: nobody can tell whether it still runs
	ContainerDraining = "Draining" // running, gets no new requests, stops when it has answered the old ones
)

// Container is one instance of an app.
type Container struct {
	ID           string     `json:"id"`
	Name         string     `json:"name"`
	App          string     `json:"app"`
	IP           string     `json:"ip"`   // "" until it has one
	Port         uint16     `json:"port"` // 0 when the app has none
	Node         string     `json:"node"`
	Status       string     `json:"status"` // Pending, Provisioning, Running, Draining or Dead
	Health       string     `json:"health"` // Unknown, Healthy or Unhealthy
	HealthDetail string     `json:"health_detail,omitempty"`
	StartedAt    *time.Time `json:"started_at"`
	FinishedAt   *time.Time `json:"finished_at,omitempty"`
	Release      uint64     `json:"release"`
	Image        string     `json:"image"`
	Driver       string     `json:"driver,omitempty"`
	ExitCode     *int32     `json:"exit_code,omitempty"`
	OOMKilled    bool       `json:"oom_killed,omitempty"`
	Reason       string     `json:"reason,omitempty"` // what it waits for, or why it is dead
}

// AppList is the answer to GET /apps.
type AppList struct {
	Apps    []AppSummary `json:"apps"`
	Total   int          `json:"total"`
	Running int          `json:"running"` // starting and degraded ones included
	Stopped int          `json:"stopped"`
	Error   int          `json:"error"`
}

// ContainerList is the answer to GET /instances.
type ContainerList struct {
	Instances []Container `json:"instances"`
	Total     int         `json:"total"`
}

// What registering an app did to it.
const (
	RegisteredCreated   = "created"
	RegisteredUpdated   = "configured"
	RegisteredUnchanged = "unchanged"
)

// RegisterResponse is the answer to POST /apps/register.
type RegisterResponse struct {
	Message    string   `json:"message"`
	AppName    string   `json:"app_name"`
	Status     string   `json:"status"`            // created, configured or unchanged
	Changes    []Change `json:"changes,omitempty"` // of fields, when it existed
	Generation uint64   `json:"generation"`        // the one to wait for
	DryRun     bool     `json:"dry_run,omitempty"` // nothing was written
	Warnings   []string `json:"warnings,omitempty"`
}

// Change is one field that differs between two specs. Old or New is empty when the field was added or removed.
type Change struct {
	Path string `json:"path"` // as in the spec: spec.ports[0].containerPort
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
}

// ActionResponse is the answer to start, stop, restart, rollback, scale and delete.
type ActionResponse struct {
	Message          string `json:"message"`
	AppName          string `json:"app_name"`
	PreviousReplicas int    `json:"previous_replicas"`
	CurrentReplicas  int    `json:"current_replicas"` // now; equals the wish when the request waited for it
	DesiredReplicas  int    `json:"desired_replicas"`
	Generation       uint64 `json:"generation,omitempty"`
	Release          uint64 `json:"release,omitempty"` // rollback: the one gone back to
}

// WaitRequest asks an action to return when it is done. It is the body of start, stop and restart, and may be absent.
type WaitRequest struct {
	Wait    bool    `json:"wait,omitempty"`
	Timeout float64 `json:"timeout,omitempty"` // seconds; default 300
}

// ScaleRequest is the body of POST /apps/{app}/scale.
type ScaleRequest struct {
	Replicas *int    `json:"replicas"`
	Wait     bool    `json:"wait,omitempty"`
	Timeout  float64 `json:"timeout,omitempty"` // seconds; default 300
}

// RollbackRequest is the body of POST /apps/{app}/rollback, and may be absent.
type RollbackRequest struct {
	Release uint64  `json:"release,omitempty"` // default: the one before the active one
	Wait    bool    `json:"wait,omitempty"`
	Timeout float64 `json:"timeout,omitempty"` // seconds; default 300
}

// Scaling is the answer to GET /apps/{app}/scaling: the app's own block, and what holds where it says nothing.
type Scaling struct {
	Scaling   vortex.Scaling `json:"scaling"`
	Effective vortex.Scaling `json:"effective"`
	Current   int            `json:"current"`
	Desired   int            `json:"desired"`
	Asked     *int           `json:"asked"`                 // the last count asked for by hand, or null
	Reason    string         `json:"last_reason,omitempty"` // why the autoscaler last chose a count
}

// AppHealth is the answer to GET /apps/{app}/health and POST /apps/{app}/health/check.
type AppHealth struct {
	App       string              `json:"app"`
	Status    string              `json:"status"` // the app's
	Healthy   int                 `json:"healthy"`
	Total     int                 `json:"total"`
	Check     *vortex.HealthCheck `json:"check"` // null: a running instance counts as healthy
	Instances []InstanceHealth    `json:"instances"`
}

// InstanceHealth is the last known health of one instance.
type InstanceHealth struct {
	ID     string `json:"id"`
	Health string `json:"health"`
	Detail string `json:"detail,omitempty"`
}

// Release is one revision of an app's spec.
type Release struct {
	Number    uint64    `json:"number"`
	Active    bool      `json:"active"`
	Image     string    `json:"image"`
	Cause     string    `json:"cause,omitempty"`
	CreatedAt time.Time `json:"created_at"`
}

// History is the answer to GET /apps/{app}/history, newest first.
type History struct {
	App      string    `json:"app"`
	Releases []Release `json:"releases"`
}

// LogEntry is one line an instance wrote.
type LogEntry struct {
	Time     time.Time `json:"time"`
	Instance string    `json:"instance"`
	Stream   string    `json:"stream"` // stdout or stderr
	Line     string    `json:"line"`
}

// LogOptions select log entries.
type LogOptions struct {
	Tail     int           // at most the last Tail entries; 0 is all
	Since    time.Duration // not older than this; 0 is all
	Instance string        // of this instance only
	Follow   bool          // streams only: wait for more
}
