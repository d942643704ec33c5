package node

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// stack runs parts that stand on each other: started in order, stopped in the opposite order, each
// only when those above it have ended.
type stack struct {
	log   *slog.Logger
	parts []*part
	// failed receives the first error of a part that ended by itself.
	failed chan error
	once   sync.Once
}

type part struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}
}

func newStack(log *slog.Logger) *stack { return &stack{log: log, failed: make(chan error, 1)} }

// start runs a part above those that were started before. It must return soon after its context ends.
func (s *stack) start(name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	p := &part{name: name, cancel: cancel, done: make(chan struct{})}
	s.parts = append(s.parts, p)
	go func() {
		defer close(p.done)
		err := run(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = fmt.Errorf("%s ended by itself", name)
		} else {
			err = fmt.Errorf("%s: %w", name, err)
		}
		s.once.Do(func() { s.failed <- err })
	}()
}

// closer makes close run when everything above has ended.
func (s *stack) closer(name string, closeIt func() error) {
	s.start(name, func(ctx context.Context) error {
		<-ctx.Done()
		if err := closeIt(); err != nil {
			s.log.WarnContext(ctx, "Part did not close well", "part", name, "err", err)
		}
		return nil
	})
}

// slowStop is after how long a part that does not end is named in the log.
const slowStop = 10 * time.Second

// stop ends every part, the last started first.
func (s *stack) stop() {
	for _, p := range slices.Backward(s.parts) {
		p.cancel()
		select {
		case <-p.done:
			continue
		case <-time.After(slowStop):
			s.log.Warn("Part takes long to stop", "part", p.name)
		}
		<-p.done
	}
	s.parts = nil
}
