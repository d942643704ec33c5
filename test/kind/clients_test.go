package kind

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"vortex/internal/api/kindrpc"
	kindpb "vortex/proto/kind"
)

// quickly is how soon a lost server is dialled again.
var quickly = backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 300 * time.Millisecond}

const (
	sets       = 8                      // groups of clients that work at the same time
	setSize    = 5                      // clients that share a pair of keys
	turns      = 200                    // requests to one pair
	maxUnknown = 6                      // after so many lost answers a pair is left alone: checking would take for ever
	opTimeout  = 2 * time.Second        // after which an answer is given up
	afterError = 100 * time.Millisecond // a client's pause
)

// workload is clients of several servers that write down what they ask and what they get.
type workload struct {
	servers []func() kindpb.KindServiceClient // current clients: a restarted server has another address
	began   time.Time

	pairs    atomic.Int64 // so many were made
	answered atomic.Int64 // requests that got an answer
	stale    atomic.Int64 // reads that were marked as stale, and are no part of any history

	mu        sync.Mutex
	histories map[string][]porcupine.Operation // by prefix of the pair
}

func newWorkload(servers ...func() kindpb.KindServiceClient) *workload {
	return &workload{servers: servers, began: time.Now(), histories: map[string][]porcupine.Operation{}}
}

// run keeps the clients busy until ctx ends.
func (w *workload) run(ctx context.Context) {
	var wg sync.WaitGroup
	for range sets {
		set := &set{w: w}
		for id := range setSize {
			wg.Go(func() { set.work(ctx, id) })
		}
	}
	wg.Wait()
}

// set is clients that work on one pair of keys at a time. Whoever still waits for an answer about the last pair does not
// hold up the others.
type set struct {
	w *workload

	mu      sync.Mutex
	prefix  string
	turn    int
	unknown int
}

// next returns the pair to work on and the number of this turn.
func (s *set) next() (prefix string, turn int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.turn%turns == 0 || s.unknown >= maxUnknown {
		s.prefix, s.turn, s.unknown = fmt.Sprintf("proof:%d:", s.w.pairs.Add(1)), 0, 0
	}
	s.turn++
	return s.prefix, s.turn
}

// lost notes that a request to a pair had no answer.
func (s *set) lost(prefix string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if prefix == s.prefix {
		s.unknown++
	}
}

// work is one client's work.
func (s *set) work(ctx context.Context, id int) {
	c := &client{w: s.w, id: id, server: s.w.servers[id%len(s.w.servers)]}
	for ctx.Err() == nil {
		prefix, turn := s.next()
		if prefix != c.prefix {
			c.prefix, c.seen = prefix, pair{}
		}
		if !c.turn(c.draw(turn)) {
			s.lost(prefix)
			pause(ctx, afterError)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// readAll reads every pair once more, at every server: what was acknowledged must be there, everywhere.
func (w *workload) readAll(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	var prefixes []string
	for prefix := range w.histories {
		prefixes = append(prefixes, prefix)
	}
	w.mu.Unlock()
	for i, server := range w.servers {
		for _, prefix := range prefixes {
			c := &client{w: w, id: setSize + i, prefix: prefix, server: server}
			before := w.answered.Load()
			eventually(t, "the store answers a read when everything is whole again", func() bool {
				c.turn(request{op: opScan})
				return w.answered.Load() > before
			})
		}
	}
}

// all returns every history.
func (w *workload) all() (histories [][]porcupine.Operation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range w.histories {
		histories = append(histories, h)
	}
	return histories
}

// client does one request after the other on one pair.
type client struct {
	w      *workload
	id     int
	prefix string
	server func() kindpb.KindServiceClient
	seen   pair // the newest values it knows of
}

// draw chooses the next request.
func (c *client) draw(turn int) request {
	r := request{key: rand.IntN(2), value: fmt.Sprintf("%d.%d", c.id, turn), expect: c.seen}
	switch n := rand.IntN(100); {
	case n < 25:
		r.op = opGet
	case n < 40:
		r.op = opScan
	case n < 60:
		r.op = opPut
	case n < 75:
		r.op = opCas
	case n < 80:
		r.op = opDelete
	default:
		r.op = opTxn
		if rand.IntN(4) > 0 {
			r.other = r.value + "'"
		}
	}
	return r
}

// turn does a request and writes it down. It reports whether there was an answer.
func (c *client) turn(r request) bool {
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	var header metadata.MD
	call := time.Since(c.w.began).Nanoseconds()
	out, err := c.ask(ctx, r, grpc.Header(&header))
	op := porcupine.Operation{ClientId: c.id, Input: r, Call: call, Output: out, Return: time.Since(c.w.began).Nanoseconds()}
	reads := r.op == opGet || r.op == opScan
	switch {
	case err == nil && len(header.Get(kindrpc.StaleHeader)) > 0:
		c.w.stale.Add(1)
		return false
	case err == nil:
		c.w.answered.Add(1)
		c.learn(r, out)
	case reads || status.Code(err) == codes.Aborted: // it changed nothing
		return false
	default:
		op.Output, op.Return = response{unknown: true}, never
	}
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.w.histories[c.prefix] = append(c.w.histories[c.prefix], op)
	return err == nil
}

// learn remembers what an answer tells of the values.
func (c *client) learn(r request, out response) {
	switch r.op {
	case opGet:
		c.seen[r.key] = out.found[r.key]
	case opScan:
		c.seen = out.found
	case opTxn:
		if out.won {
			c.seen[r.key], c.seen[1-r.key] = r.value, r.other
		}
	case opDelete:
		c.seen[r.key] = ""
	default:
		c.seen[r.key] = r.value
	}
}

func (c *client) key(n int) string { return c.prefix + string(rune('a'+n)) }

// ask sends a request.
func (c *client) ask(ctx context.Context, r request, header grpc.CallOption) (out response, err error) {
	kind, key := c.server(), c.key(r.key)
	switch r.op {
	case opGet:
		rec, err := kind.Get(ctx, &kindpb.GetRequest{Key: key}, header)
		if status.Code(err) == codes.NotFound {
			return out, nil
		}
		out.found[r.key] = string(rec.GetValue())
		return out, err
	case opScan:
		resp, err := kind.PrefixScan(ctx, &kindpb.PrefixScanRequest{Prefix: c.prefix}, header)
		for _, rec := range resp.GetRecords() {
			out.found[rec.GetKey()[len(c.prefix)]-'a'] = string(rec.GetValue())
		}
		return out, err
	case opPut:
		resp, err := kind.Put(ctx, &kindpb.PutRequest{Key: key, Value: []byte(r.value)})
		return response{won: resp.GetSuccess()}, err
	case opCas:
		resp, err := kind.Cas(ctx, &kindpb.CasRequest{Key: key, ExpectedValue: []byte(r.expect[r.key]), NewValue: []byte(r.value)})
		return response{won: resp.GetSuccess()}, err
	case opDelete:
		resp, err := kind.Delete(ctx, &kindpb.DeleteRequest{Key: key})
		return response{won: resp.GetSuccess()}, err
	default:
		resp, err := kind.Txn(ctx, c.txn(r))
		return response{won: resp.GetSuccess()}, err
	}
}

func (c *client) txn(r request) *kindpb.TxnRequest {
	compare := func(n int) *kindpb.Compare {
		return &kindpb.Compare{Key: c.key(n), Target: &kindpb.Compare_Value{Value: []byte(r.expect[n])}}
	}
	put := &kindpb.PutRequest{Key: c.key(r.key), Value: []byte(r.value)}
	ops := []*kindpb.Operation{{Operation: &kindpb.Operation_Put{Put: put}}}
	if r.other == "" {
		ops = append(ops, &kindpb.Operation{Operation: &kindpb.Operation_Delete{Delete: &kindpb.DeleteRequest{Key: c.key(1 - r.key)}}})
	} else {
		ops = append(ops, &kindpb.Operation{Operation: &kindpb.Operation_Put{Put: &kindpb.PutRequest{Key: c.key(1 - r.key), Value: []byte(r.other)}}})
	}
	return &kindpb.TxnRequest{Compares: []*kindpb.Compare{compare(0), compare(1)}, Operations: ops}
}
