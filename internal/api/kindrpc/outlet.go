package kindrpc

import (
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"vortex"
	"vortex/internal/kind"
)

// outlet is a stream to a client that may be slow, or take nothing at all: then a send blocks for good, and only the
// end of the call frees it.
type outlet struct {
	s       *Service
	stream  grpc.ServerStream
	steps   atomic.Int64 // one more before each send and after it: odd while one blocks
	dropped chan (<-chan struct{})
}

func (s *Service) outlet(stream grpc.ServerStream) *outlet {
	return &outlet{s: s, stream: stream, dropped: make(chan (<-chan struct{}), 1)}
}

// send sends one message. It blocks while the client has no room for it.
func (o *outlet) send(message any) error {
	o.steps.Add(1)
	defer o.steps.Add(1)
	return o.stream.SendMsg(message)
}

// follows makes the outlet end the call when the watch, whose events it sends, is dropped.
func (o *outlet) follows(w *kind.Watch) { o.dropped <- w.Dropped() }

// run runs produce, which sends, until it returns or the stream's context ends. A client that is too slow for its watch, or
// takes nothing for longer than the service's patience, is given up with Exhausted; produce then finds the stream ended
// and returns a moment after run.
func (o *outlet) run(produce func() error) error {
	done := make(chan error, 1)
	go func() { done <- o.guarded(produce) }()
	patience := o.s.Limits.withDefaults().Patience
	tick := time.NewTicker(patience)
	defer tick.Stop()
	var dropped <-chan struct{}
	for before := int64(0); ; {
		select {
		case err := <-done:
			return err
		case <-o.stream.Context().Done():
			return nil
		case dropped = <-o.dropped:
		case <-dropped:
			return o.s.fail(vortex.Errorf(vortex.Exhausted, "the client reads more slowly than the store changes and was dropped; list again and watch from there, or resume from the last revision seen"))
		case <-tick.C:
			now := o.steps.Load()
			if now%2 == 1 && now == before {
				return o.s.fail(vortex.Errorf(vortex.Exhausted, "the client took nothing for %s and was dropped; resume from the last revision seen", patience))
			}
			before = now
		}
	}
}

// guarded keeps a panic of produce from ending the process.
func (o *outlet) guarded(produce func() error) (err error) {
	defer o.s.recovered(&err)
	return produce()
}
