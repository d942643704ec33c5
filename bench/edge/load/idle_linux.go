package load

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"vortex/bench/edge/poll"
)

// Idle is connections that have been asked one thing each and are kept open.
type Idle struct{ fds []int }

// perAddress is how many connections come from one address of this machine: fewer than it has ports for them, and than the edge takes from one client.
const perAddress = 8_000

// openers is how many connections are opened at a time, and openGrace how long one may take: on an emulated processor, too.
const (
	openers   = 8
	openGrace = 30 * time.Second
)

// OpenIdle opens n connections, sends a request on each and waits for its answer. What was opened is in the result even when the
// rest could not be.
func OpenIdle(addr netip.AddrPort, n int, requests [][]byte) (*Idle, error) {
	i := &Idle{fds: make([]int, n)}
	for k := range i.fds {
		i.fds[k] = -1
	}
	var all errgroup.Group
	for first := range openers {
		all.Go(func() error {
			c, buf := conn{}, make([]byte, readSize)
			for k := first; k < n; k += openers {
				fd, err := poll.Dial(addr, netip.AddrFrom4([4]byte{127, 0, 0, byte(2 + k/perAddress)}))
				if err != nil {
					return fmt.Errorf("connection %d: %w", k+1, err)
				}
				i.fds[k] = fd
				c.left, c.head = -1, c.head[:0]
				if err := errors.Join(writeAll(fd, requests[k%len(requests)]), c.await(fd, buf)); err != nil {
					return fmt.Errorf("connection %d: %w", k+1, err)
				}
			}
			return nil
		})
	}
	err := all.Wait()
	i.fds = slices.DeleteFunc(i.fds, func(fd int) bool { return fd < 0 })
	return i, err
}

// await reads one whole answer.
func (c *conn) await(fd int, buf []byte) error {
	for c.left != 0 {
		if err := poll.Readable(fd, openGrace); err != nil {
			return err
		}
		n, err := poll.Read(fd, buf)
		if err != nil || n == 0 {
			return errors.Join(err, endOf(n, err))
		}
		if err := c.take(buf[:n]); err != nil {
			return err
		}
	}
	return nil
}

// Open returns how many of the connections the other side has not closed.
func (i *Idle) Open() (n int) {
	for _, fd := range i.fds {
		if poll.Readable(fd, 0) != nil {
			n++ // nothing comes, not even an end
		}
	}
	return n
}

// Close closes them.
func (i *Idle) Close() {
	for _, fd := range i.fds {
		poll.Close(fd)
	}
	i.fds = nil
}
