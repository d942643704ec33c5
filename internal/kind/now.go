package kind

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"vortex/internal/kind/engine"
)

// What the store takes for the time is one for all of its servers, whatever their own clocks say; docs/KIND.md has the rules.
const (
	// freshMark is how old the newest mark is at most while a server leads, which renews its lock every three seconds.
	freshMark = 3500 * time.Millisecond
	// companyPatience is how long a starting server waits for another's mark: a lead passes over in less.
	companyPatience = 8 * time.Second
	// companyLasts is for how long a server counts on others after it last saw a mark of one.
	companyLasts = 30 * 24 * time.Hour
	// The time is brought nearer to this server's clock by one part in so many: forward, when the server is alone, back.
	slewAhead, slewAlone, slewBack = 2000, 100, 100
	// steerEvery is how often at most.
	steerEvery = time.Second
	// introduceRetry is the pause after a first mark could not be written.
	introduceRetry = time.Second
)

// pace is the time as a store counts it: by the clock that measures durations, from where it stood at the start.
type pace struct {
	name    string           // this server's; "" is of none
	wall    func() time.Time // this server's clock
	began   time.Time
	start   atomic.Int64  // what it was when it began, in nanoseconds; changes with every correction
	steered time.Time     // when it was last compared with the clock
	asleep  time.Duration // for how long the machine had been suspended then
	running bool
	off     bool // nothing expires here by itself
}

// now is the time in Unix milliseconds.
func (p *pace) now() int64 {
	if p.off {
		return 0
	}
	return p.nanos() / int64(time.Millisecond)
}

func (p *pace) nanos() int64 { return p.start.Load() + int64(time.Since(p.began)) }

// Now is the time that the store's servers agree on, by which records expire.
func (s *Store) Now() time.Time { return time.UnixMilli(s.state.clock.pace.now()) }

// set begins to count at a time.
func (c *clock) set(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pace.began = time.Now()
	c.pace.steered, c.pace.asleep = c.pace.began, suspended()
	c.pace.start.Store(at.UnixNano())
	c.pace.running = true
}

// catchUp brings the time up to a mark: it is as late, wherever that was written. The caller holds the lock.
func (c *clock) catchUp(millis int64) {
	if behind := millis*int64(time.Millisecond) - c.pace.nanos(); c.pace.running && behind > 0 {
		c.pace.start.Add(behind)
	}
}

// steer adds the time for which the machine was suspended, and brings the time nearer to this server's clock, so slowly that no record's
// life is noticeably another.
func (c *clock) steer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	elapsed := time.Since(c.pace.steered)
	if !c.pace.running || elapsed < steerEvery {
		return
	}
	c.pace.steered = time.Now()
	asleep := suspended()
	if slept := asleep - c.pace.asleep; slept >= time.Second {
		c.pace.start.Add(int64(slept))
		c.pace.asleep = asleep
	}
	ahead := time.Duration(c.pace.wall().UnixNano() - c.pace.nanos())
	switch {
	case ahead > 0 && c.accompanied():
		ahead = min(ahead, elapsed/slewAhead)
	case ahead > 0:
		ahead = min(ahead, elapsed/slewAlone)
	case ahead < 0:
		ahead = max(ahead, -elapsed/slewBack)
	}
	c.pace.start.Add(int64(ahead))
}

// accompanied reports whether other servers write to the store, as far as its marks tell. The caller holds the lock.
func (c *clock) accompanied() bool {
	return c.pace.name != "" && c.others != 0 && c.newest-c.others < companyLasts.Milliseconds()
}

// mark is what stands at clockKey: the time, who wrote it, and the newest mark of another server that this one knew of.
type mark struct {
	millis int64
	writer string
	others int64
}

// text is `<millis>[ <writer> <others>]`.
func (m mark) text() []byte {
	if m.writer == "" {
		return strconv.AppendInt(nil, m.millis, 10)
	}
	return fmt.Appendf(nil, "%d %s %d", m.millis, m.writer, m.others)
}

// readMark reads an envelope with a mark; what is none is the zero mark.
func readMark(envelope []byte) (m mark) {
	value, _, err := unseal(envelope)
	if err != nil {
		return mark{}
	}
	millis, rest, _ := strings.Cut(string(value), " ")
	writer, others, _ := strings.Cut(rest, " ")
	if m.millis, err = strconv.ParseInt(millis, 10, 64); err != nil {
		return mark{}
	}
	m.writer = writer
	m.others, _ = strconv.ParseInt(others, 10, 64) // 0: it knew of none
	return m
}

// startClock says what time it is when the store opens. A server that is alone takes it from its own clock, and so does one that the
// newest mark agrees with. Else its clock may be wrong: it waits for a mark that another server writes now. When none comes, all
// have been away, and its own clock is the best there is.
func (s *Store) startClock(ctx context.Context) {
	c := &s.state.clock
	own := func() time.Time {
		if wall := s.cfg.Wall(); wall.After(c.time()) {
			return wall
		}
		return c.time()
	}
	c.mu.Lock()
	age, accompanied := s.cfg.Wall().UnixMilli()-c.newest, c.accompanied()
	c.mu.Unlock()
	agreed := age >= 0 && age < freshMark.Milliseconds()
	if !accompanied || agreed {
		c.set(own())
		return
	}
	if fresh := s.awaitMark(ctx); fresh != 0 {
		s.log.WarnContext(ctx, "This server's clock differs from the store's time, which counts for expiry",
			"off", time.Duration(s.cfg.Wall().UnixMilli()-fresh)*time.Millisecond)
		c.set(moment(fresh))
		return
	}
	c.set(own())
}

// awaitMark returns the next mark that another server writes, 0 when none comes.
func (s *Store) awaitMark(ctx context.Context) int64 {
	ctx, cancel := context.WithTimeout(ctx, companyPatience)
	defer cancel()
	for batch, err := range s.cfg.Engine.Watch(ctx, s.state.rev+1) {
		if err != nil {
			return 0
		}
		for _, ch := range batch.Changes {
			if m := readMark(ch.Value); ch.Key == clockKey && m.writer != s.cfg.Name {
				return m.millis
			}
		}
	}
	return 0
}

// introduce writes a mark if the newest is not this server's, so that the others know of it.
func (s *Store) introduce(ctx context.Context) {
	c := &s.state.clock
	for s.cfg.Name != "" && !c.pace.off && ctx.Err() == nil {
		txn, due := c.own()
		if !due {
			return
		}
		if result, err := s.cfg.Engine.Commit(ctx, txn); err == nil && result.Committed {
			return
		}
		pause(ctx, introduceRetry)
	}
}

// own is a transaction that writes a mark of this server, unless the newest is one.
func (c *clock) own() (engine.Txn, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writer == c.pace.name {
		return engine.Txn{}, false
	}
	return c.marked(engine.Txn{}, max(c.pace.now(), c.newest)), true
}
