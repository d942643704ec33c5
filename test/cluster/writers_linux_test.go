package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"vortex"
	kindpb "vortex/proto/kind"
)

// writers write records through every server, each through its own and one after the other, and remember which of them were
// acknowledged.
type writers struct {
	cluster *Cluster
	ctx     context.Context //nolint:containedctx // it is how long they write
	cancel  context.CancelFunc
	every   time.Duration // they pause so long after a write
	ended   sync.WaitGroup
	gate    sync.RWMutex // held while nothing is to be written

	mu      sync.Mutex
	acked   map[string]bool
	unknown map[string]bool // without an answer, or with a refusal: the record may be there, or not
	refused map[codes.Code]int
	through map[*Server]*through
}

// through is how writing through one server went since the last look.
type through struct {
	acked, failed int
	newest        time.Time     // when the newest acknowledgement came
	pause         time.Duration // the longest time without one
}

const (
	writersEach   = 2 // for each server
	writePatience = 5 * time.Second
)

// write starts writers that stop with the test.
func (c *Cluster) write(t *testing.T) *writers {
	t.Helper()
	return c.writeEvery(t, 5*time.Millisecond)
}

// writeEvery starts writers, each of which pauses so long after a write: the machine is to have time for the faults.
func (c *Cluster) writeEvery(t *testing.T, every time.Duration) *writers {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &writers{
		cluster: c, cancel: cancel, ctx: ctx, every: every, acked: map[string]bool{}, unknown: map[string]bool{}, refused: map[codes.Code]int{},
		through: map[*Server]*through{},
	}
	for _, s := range c.Servers {
		w.add(s)
	}
	t.Cleanup(w.stop)
	return w
}

// add starts the writers that write through a server.
func (w *writers) add(s *Server) {
	w.mu.Lock()
	w.through[s] = &through{newest: time.Now()}
	w.mu.Unlock()
	for i := range writersEach {
		w.ended.Go(func() {
			for n := 0; w.ctx.Err() == nil; n++ {
				w.gate.RLock()
				w.one(s, fmt.Sprintf("proof:%s:%d:%d", s.Host.Name, i, n))
				w.gate.RUnlock()
				select {
				case <-w.ctx.Done():
				case <-time.After(w.every):
				}
			}
		})
	}
}

// one writes one record. It is not cut short when the test ends, so that its outcome is known.
func (w *writers) one(s *Server, key string) {
	ctx, cancel := context.WithTimeout(context.Background(), writePatience)
	defer cancel()
	_, err := s.Kind.Put(ctx, &kindpb.PutRequest{Key: key, Value: []byte(key)})
	w.mu.Lock()
	defer w.mu.Unlock()
	by := w.through[s]
	if err != nil {
		w.refused[status.Code(err)]++
		w.unknown[key] = true
		by.failed++
		return
	}
	w.acked[key] = true
	by.acked++
	by.pause = max(by.pause, time.Since(by.newest))
	by.newest = time.Now()
}

// look returns how writing went since the last look, through these servers together: the longest pause is that of the worst of them.
func (w *writers) look(servers ...*Server) (sum through) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range servers {
		by := w.through[s]
		sum.acked, sum.failed, sum.pause = sum.acked+by.acked, sum.failed+by.failed, max(sum.pause, by.pause)
	}
	for _, by := range w.through {
		by.acked, by.failed, by.pause = 0, 0, 0
	}
	return sum
}

// stop ends the writers.
func (w *writers) stop() {
	w.cancel()
	w.ended.Wait()
}

// flow waits until writes are acknowledged, through each of these servers, that were asked for after now.
func (w *writers) flow(t *testing.T, servers ...*Server) {
	t.Helper()
	for _, s := range servers {
		before := -1
		eventually(t, "writes through "+s.Host.Name+" are acknowledged", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			now := w.through[s].acked
			if before < 0 || now < before {
				before = now
			}
			return now > before+writersEach // as many may have been under way
		})
	}
}

// verdict stops the writers and compares what every server has with what was acknowledged.
func (w *writers) verdict(t *testing.T) {
	t.Helper()
	w.stop()
	if len(w.acked) == 0 {
		t.Error("nothing was ever acknowledged")
	}
	for _, s := range w.cluster.Servers {
		found := w.read(t, s)
		lost := 0
		for key := range w.acked {
			if !found[key] {
				lost++
			}
		}
		if lost > 0 {
			t.Errorf("%s has lost %d of %d acknowledged writes", s.Host.Name, lost, len(w.acked))
		}
		for key := range found {
			if !w.acked[key] && !w.unknown[key] {
				t.Errorf("%s has %s, which nobody wrote", s.Host.Name, key)
			}
		}
	}
	t.Logf("%d writes acknowledged, none lost; without a good answer %v", len(w.acked), w.refused)
}

// read returns all that a server has of what was written.
func (w *writers) read(t *testing.T, s *Server) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	eventually(t, s.Host.Name+" answers", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), writePatience)
		defer cancel()
		var header metadata.MD
		resp, err := s.Kind.PrefixScan(ctx, &kindpb.PrefixScanRequest{Prefix: "proof:"}, grpc.Header(&header))
		for _, rec := range resp.GetRecords() {
			found[rec.GetKey()] = true
		}
		return err == nil && !Stale(header)
	})
	return found
}

// lead follows who leads, and knows what may never happen: that an epoch goes back, or has two leaders.
type lead struct {
	mu      sync.Mutex
	leaders map[uint64]string
	epoch   uint64
	err     error
}

// follow starts to.
func (c *Cluster) follow(t *testing.T) *lead {
	t.Helper()
	l := &lead{leaders: map[uint64]string{}}
	ctx, cancel := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	ended.Go(func() {
		for ctx.Err() == nil {
			l.see(c.Leader())
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		ended.Wait()
		if l.err != nil {
			t.Error(l.err)
		}
	})
	return l
}

func (l *lead) see(lock vortex.LeaderLock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lock.ID == "" {
		return
	}
	if before, known := l.leaders[lock.Epoch]; known && before != lock.ID {
		l.err = errors.Join(l.err, fmt.Errorf("epoch %d had two leaders, %s and %s", lock.Epoch, before, lock.ID))
	}
	if lock.Epoch < l.epoch {
		l.err = errors.Join(l.err, fmt.Errorf("epoch %d was seen after %d", lock.Epoch, l.epoch))
	}
	l.leaders[lock.Epoch], l.epoch = lock.ID, lock.Epoch
}

// wait returns who leads, once somebody does.
func (l *lead) wait(t *testing.T) (host string, epoch uint64) {
	t.Helper()
	eventually(t, "somebody leads", func() bool { host, epoch = l.now(); return host != "" })
	return host, epoch
}

// now returns who leads, as far as is known.
func (l *lead) now() (host string, epoch uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leaders[l.epoch], l.epoch
}
