package api

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"vortex"
	"vortex/client"
	"vortex/internal/runtime"
)

const (
	defaultTail = 1000
	maxTail     = 100_000
)

// logQuery selects log entries.
type logQuery struct {
	app, instance string
	tail          int
	since         time.Time
}

func readLogQuery(r *http.Request) (q logQuery, err error) {
	query := r.URL.Query()
	q.app, q.instance = r.PathValue("app"), query.Get("instance")
	if q.tail, err = count(query.Get("tail"), "tail", defaultTail); err != nil {
		return q, err
	}
	if q.tail == 0 || q.tail > maxTail {
		q.tail = maxTail
	}
	text := query.Get("since")
	if text == "" {
		return q, nil
	}
	if age, err := time.ParseDuration(text); err == nil {
		q.since = time.Now().Add(-age)
		return q, nil
	}
	if q.since, err = time.Parse(time.RFC3339, text); err != nil {
		return q, vortex.Errorf(vortex.Invalid, "since: expected a duration such as 10m, or a time such as 2006-01-02T15:04:05Z, got %q", text)
	}
	return q, nil
}

func (s *Server) getLogs(r *http.Request) ([]client.LogEntry, error) {
	q, err := readLogQuery(r)
	if err != nil {
		return nil, err
	}
	entries, err := s.logs(r.Context(), q)
	if entries == nil {
		entries = []client.LogEntry{}
	}
	return entries, err
}

// logSources are the instances of an app that may have written something.
func (s *Server) logSources(q logQuery) ([]string, error) {
	f, err := s.facts(q.app)
	if err != nil {
		return nil, err
	}
	if s.Instances == nil {
		return nil, withCode(client.CodeRuntime, vortex.Errorf(vortex.Unavailable, "this server reaches no instances; ask one that has an agent"))
	}
	var ids []string
	for _, c := range f.containers {
		if c.Status != client.ContainerPending && (q.instance == "" || q.instance == c.ID) {
			ids = append(ids, c.ID)
		}
	}
	if q.instance != "" && len(ids) == 0 {
		return nil, vortex.Errorf(vortex.NotFound, "app %q has no instance %q; `vortex ps %s` lists them", q.app, q.instance, q.app)
	}
	return ids, nil
}

// logs returns the last lines that the instances of an app wrote, ordered by time.
func (s *Server) logs(ctx context.Context, q logQuery) ([]client.LogEntry, error) {
	all, err := s.readLogs(ctx, q)
	return lastOf(all, q.tail), err
}

// lastOf returns the last n entries.
func lastOf(entries []client.LogEntry, n int) []client.LogEntry {
	return entries[max(0, len(entries)-n):]
}

// readLogs returns the last lines of each instance of an app, ordered by time.
func (s *Server) readLogs(ctx context.Context, q logQuery) ([]client.LogEntry, error) {
	ids, err := s.logSources(q)
	if err != nil {
		return nil, err
	}
	var all []client.LogEntry
	for _, id := range ids {
		entries, err := s.Instances.Logs(ctx, id, runtime.LogOptions{Tail: q.tail, Since: q.since})
		if vortex.IsKind(err, vortex.NotFound) || vortex.IsKind(err, vortex.Precondition) && q.instance == "" {
			continue // not created yet, removed just now, or could never be started
		}
		if err != nil {
			return nil, err
		}
		for entry, err := range entries {
			if err != nil {
				return nil, err
			}
			all = append(all, logEntry(id, entry))
		}
	}
	slices.SortStableFunc(all, func(a, b client.LogEntry) int { return a.Time.Compare(b.Time) })
	return all, nil
}

func logEntry(id string, entry runtime.LogEntry) client.LogEntry {
	stream := "stdout"
	if entry.Stream == runtime.Stderr {
		stream = "stderr"
	}
	return client.LogEntry{Time: entry.Time, Instance: id, Stream: stream, Line: entry.Line}
}

// logFollower sends what the instances of an app write, those that start later included.
type logFollower struct {
	s     *Server
	query logQuery
	lines chan client.LogEntry

	wg    sync.WaitGroup
	tasks map[string]struct{}  // instances followed, or followed to their end
	seen  map[string]time.Time // the time of the last entry sent before following
}

// followLogs calls send for what was written, and then for each new entry until ctx ends or send fails.
func (s *Server) followLogs(ctx context.Context, q logQuery, send func(client.LogEntry) error) error {
	f := &logFollower{s: s, query: q, lines: make(chan client.LogEntry, 256), tasks: map[string]struct{}{}, seen: map[string]time.Time{}}
	if err := f.skipDead(); err != nil {
		return err
	}
	backlog, err := s.readLogs(ctx, q)
	if err != nil {
		return err
	}
	for _, entry := range backlog { // those that are not sent, because others are newer, must not come later either
		f.seen[entry.Instance] = entry.Time
	}
	for _, entry := range lastOf(backlog, q.tail) {
		if err := send(entry); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	f.wg.Go(func() {
		cancel(s.follow(ctx, q.app, func() (bool, error) { return false, f.join(ctx) }))
	})
	defer f.wg.Wait()
	defer cancel(nil)
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case entry := <-f.lines:
			if err := send(entry); err != nil {
				return err
			}
		}
	}
}

// skipDead counts the instances that are dead already as followed: the backlog has all of them that is wanted.
func (f *logFollower) skipDead() error {
	facts, err := f.s.facts(f.query.app)
	if err != nil {
		return err
	}
	for _, c := range facts.containers {
		if c.Status == string(vortex.ContainerStatusDead) {
			f.tasks[c.ID] = struct{}{}
		}
	}
	return nil
}

// join starts to follow every instance that is not followed yet.
func (f *logFollower) join(ctx context.Context) error {
	ids, err := f.s.logSources(f.query)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if _, known := f.tasks[id]; known {
			continue
		}
		opts := runtime.LogOptions{Follow: true, Since: f.query.since}
		if last, ok := f.seen[id]; ok {
			opts.Since = last.Add(1)
		}
		entries, err := f.s.Instances.Logs(ctx, id, opts)
		if err != nil {
			continue // not created yet: the next change tries again
		}
		f.tasks[id] = struct{}{}
		f.wg.Go(func() {
			for entry, err := range entries {
				if err != nil {
					return
				}
				select {
				case f.lines <- logEntry(id, entry):
				case <-ctx.Done():
					return
				}
			}
		})
	}
	return nil
}

// readyInstance is the instance of an app that a command runs in when none is named: a healthy one, the oldest.
func (f *facts) readyInstance() (string, bool) {
	running := slices.DeleteFunc(slices.Clone(f.containers), func(c client.Container) bool {
		return c.Status != string(vortex.ContainerStatusRunning)
	})
	if len(running) == 0 {
		return "", false
	}
	return slices.MinFunc(running, func(a, b client.Container) int {
		return cmp.Or(compareBools(f.healthy(b), f.healthy(a)), compareTimes(a.StartedAt, b.StartedAt))
	}).ID, true
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	default:
		return -1
	}
}
