package backup

import (
	"slices"
	"time"
)

// Inspection is what reading a whole backup directory told.
type Inspection struct {
	Dir string `json:"dir"`
	// Snapshots are the newest first.
	Snapshots []Examined `json:"snapshots"`
	// Windows are the spans one can go back to any moment of, the newest first.
	Windows []Window `json:"windows"`
	// Problems are everything that is not as it should be.
	Problems []string `json:"problems"`
}

// Examined is a snapshot that was read.
type Examined struct {
	SnapshotFile

	Records int    `json:"records"`
	Error   string `json:"error,omitempty"`
}

// Window is a span of moments. Between windows only the state at the end of the one before can be restored.
type Window struct {
	From         time.Time `json:"from"`
	To           time.Time `json:"to"`
	FromRevision int64     `json:"from_revision"`
	ToRevision   int64     `json:"to_revision"`
	// Transactions are how many the log holds in it; 0 where no log leads on from a snapshot.
	Transactions int    `json:"transactions"`
	Log          string `json:"log,omitempty"`
}

// Good reports whether nothing was found wrong.
func (in *Inspection) Good() bool { return len(in.Problems) == 0 }

// Examine reads every file of a directory, and tells what can be restored.
func Examine(dir string) (*Inspection, error) {
	c, err := List(dir)
	if err != nil {
		return nil, err
	}
	in := &Inspection{Dir: dir, Snapshots: []Examined{}, Windows: []Window{}, Problems: []string{}}
	for _, snap := range slices.Backward(c.Snapshots) {
		e := Examined{SnapshotFile: snap}
		sum, err := Verify(snap.Path, nil)
		e.Records = sum.Records
		if err != nil {
			e.Error = err.Error()
			in.Problems = append(in.Problems, e.Error)
		} else {
			in.extend(c, snap)
		}
		in.Snapshots = append(in.Snapshots, e)
	}
	for _, damage := range c.Damaged {
		if text := damage.Error(); !slices.Contains(in.Problems, text) {
			in.Problems = append(in.Problems, text)
		}
	}
	slices.Reverse(in.Snapshots)
	slices.Reverse(in.Windows)
	return in, nil
}

// extend adds the window that begins with a good snapshot, unless the last one covers it already.
func (in *Inspection) extend(c *Catalog, snap SnapshotFile) {
	if n := len(in.Windows); n > 0 {
		if last := in.Windows[n-1]; last.Log != "" && last.Log == snap.Log && snap.Revision <= last.ToRevision {
			return
		}
	}
	s := State{Revision: snap.Revision, Time: snap.Time}
	if snap.Log != "" {
		for _, f := range c.after(snap.Log, s.Revision) {
			if _, err := s.apply(f, Moment{}); err != nil {
				in.Problems = append(in.Problems, err.Error())
				break
			}
		}
	}
	in.Windows = append(in.Windows, Window{
		From: snap.Time, To: s.Time, FromRevision: snap.Revision, ToRevision: s.Revision, Transactions: s.Transactions, Log: snap.Log,
	})
}

// Newest returns the newest moment that can be restored, as far as it can be found.
func (c *Catalog) Newest() (at time.Time, revision int64) {
	if len(c.Snapshots) == 0 {
		return time.Time{}, 0
	}
	s := State{Revision: c.Snapshots[0].Revision, Time: c.Snapshots[0].Time}
	for _, f := range c.after(c.Snapshots[0].Log, s.Revision) {
		if _, err := s.apply(f, Moment{}); err != nil {
			break
		}
	}
	return s.Time, s.Revision
}

// Prefixes counts records by what their keys begin with: up to the second colon of a key of
// the cluster, else up to the first colon or slash. Past a hundred the rest are counted together.
type Prefixes map[string]int

const (
	maxPrefixes   = 100
	otherPrefixes = "(others)"
)

// Add counts a key.
func (p Prefixes) Add(key string) {
	prefix := prefixOf(key)
	if _, known := p[prefix]; !known && len(p) >= maxPrefixes {
		prefix = otherPrefixes
	}
	p[prefix]++
}

func prefixOf(key string) string {
	const cluster = "vortex:"
	start := 0
	if len(key) > len(cluster) && key[:len(cluster)] == cluster {
		start = len(cluster)
	}
	for i := start; i < len(key); i++ {
		if key[i] == ':' || key[i] == '/' {
			return key[:i]
		}
	}
	return "(none)"
}
