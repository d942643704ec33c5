// Package runtime is the contract between the agent and whatever really runs instances.
//
// A Driver starts, stops and observes instances on one node. Every implementation passes the suite in
// runtimetest, which is the contract's precise form. Drivers keep their own durable notes on disk or in
// their engine, so that an agent that was killed finds its instances again with List: same ids,
// same logs, exit codes complete.
//
// A driver that holds goroutines or connections implements io.Closer. Close lets go of them and touches
// no instance: they go on, and a driver opened over the same notes finds them.
//
// The package guarantees nothing about the cluster: it knows neither the store nor other nodes.
package runtime

import (
	"context"
	"io"
	"iter"
	"time"
)

// Driver runs instances on this node. All methods are safe for concurrent use. Errors are of the kinds of
// vortex.Error: NotFound for an unknown id, Exists when Start is given an id that exists, Invalid for a spec
// that can never run, Unavailable when the engine beneath does not answer.
type Driver interface {
	// Name is the driver's name as it stands in an App spec's runtime field.
	Name() string
	// Start creates and starts an instance and returns when its first process runs. When it fails nothing is left behind.
	Start(ctx context.Context, spec InstanceSpec) (Status, error)
	// Stop sends SIGTERM, waits for the exit, and sends SIGKILL when grace has passed. It returns when
	// the instance has exited, and at once when it had. The status and logs remain until Remove.
	Stop(ctx context.Context, id string, grace time.Duration) error
	// Remove deletes an exited instance with its logs, root and address. A running one is killed first.
	// Removing an unknown id is no error.
	Remove(ctx context.Context, id string) error
	// List returns every instance of this driver that exists, exited ones included.
	List(ctx context.Context) ([]Status, error)
	// Watch yields the status of an instance when it exits, at once, until ctx ends. Exits
	// between a List and a later Watch are not lost: an exit that this driver object never yielded is
	// yielded first, also one that happened before it was opened. A failed Start yields nothing.
	Watch(ctx context.Context) iter.Seq[Status]
	// Exec runs a command inside a running instance and returns its exit code. It is Precondition when the
	// instance does not run. A command that cannot be started has exit code 126 or 127, as in a shell, or is an error.
	// When ctx ends first the command is killed.
	Exec(ctx context.Context, id string, exec ExecSpec) (exitCode int, err error)
	// Logs returns the instance's output, oldest first.
	// With Follow the reader ends when the instance has exited and everything was read, or ctx ends.
	Logs(ctx context.Context, id string, opts LogOptions) (iter.Seq2[LogEntry, error], error)
}

// Statter is what a driver offers that can measure its instances.
type Statter interface {
	// Stats returns a running instance's use of resources now.
	Stats(ctx context.Context, id string) (Stats, error)
}

// Mount is a directory of the node made visible in an instance.
type Mount struct {
	Source, Target string // absolute paths
	ReadOnly       bool
}

// PortMapping publishes an instance's port on the node's own address.
type PortMapping struct {
	HostPort, ContainerPort uint16
	UDP                     bool
}

// InstanceSpec is everything a driver needs to start an instance. The zero value of a limit means none.
type InstanceSpec struct {
	ID          string            // unique on the node; [a-z0-9-]{1,63}
	App         string            // the app's name: the client_id
	Image       string            // an image reference; ignored by process when Command is an absolute host path
	Command     []string          // replaces the image's entrypoint when not empty
	Args        []string          // replaces the image's cmd when not empty
	WorkingDir  string            // "" is the image's
	User        string            // "uid", "uid:gid" or a name; "" is the image's
	Env         []string          // KEY=value, after the image's own
	Hostname    string            // "" is ID
	CPUMillis   uint64            // limit, thousandths of a core
	MemoryBytes uint64            // limit
	CPUShares   uint64            // requested thousandths of a core: the weight under contention
	PidsLimit   uint64            // 0 is the driver's default of 4096
	Mounts      []Mount           //
	Ports       []PortMapping     //
	Labels      map[string]string // vortex.client_id, vortex.repo_link, vortex.instance_id, vortex.release, vortex.epoch; kept with the instance
	Port        uint16            // the port the app listens on; 0 when it has none. process: made unique and passed as PORT
	AddressEnv  []string          // names of variables that the driver sets to the instance's own address before it starts; Invalid when it cannot know it by then
	PortEnv     []string          // names of variables in Env that hold Port; a driver that chooses the port puts that in their place
}

// State is where an instance stands. States only grow: Created < Running < Exited.
type State uint8

// The states of an instance.
const (
	Created State = iota
	Running
	Exited
)

// String returns the state's name.
func (s State) String() string {
	switch s {
	case Created:
		return "created"
	case Running:
		return "running"
	case Exited:
		return "exited"
	default:
		return "unknown"
	}
}

// Status is what a driver knows of an instance.
type Status struct {
	ID         string
	State      State
	Address    string // IP address the instance is reached at; "" before it has one
	Port       uint16 // the port to reach it at; equals the spec's Port except where the driver had to choose
	PID        int    // of its first process in the node's pid namespace; 0 when not running or unknown
	StartedAt  time.Time
	FinishedAt time.Time // zero until exited
	ExitCode   int       // valid when exited; 128+n after signal n; -1 when it cannot be known
	OOMKilled  bool
	Reason     string // for people: why it exited or could not be observed
	Labels     map[string]string
}

// ExecSpec is a command to run inside an instance.
type ExecSpec struct {
	Command []string
	Env     []string
	User    string
	TTY     bool
	Stdin   io.Reader // nil is empty
	Stdout  io.Writer // nil discards
	Stderr  io.Writer // nil discards; unused with TTY
	Resize  <-chan WindowSize
}

// WindowSize is a terminal's size in characters.
type WindowSize struct{ Rows, Cols uint16 }

// LogOptions select log entries. The zero value is everything up to now.
type LogOptions struct {
	Follow bool
	Tail   int       // at most the last Tail entries; 0 is all
	Since  time.Time // zero is from the start
}

// Stream tells which of its outputs an instance wrote an entry to.
type Stream uint8

// The outputs of an instance.
const (
	Stdout Stream = iota + 1
	Stderr
)

// LogEntry is one line an instance wrote, without its line break.
type LogEntry struct {
	Time   time.Time
	Stream Stream
	Line   string
}

// Stats is an instance's use of resources at a moment.
type Stats struct {
	At          time.Time
	CPU         time.Duration // used since its start
	MemoryBytes uint64        // resident, page cache that can be dropped not counted
	Pids        uint64
}
