package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/net/ipv4"

	"vortex/bench/edge/poll"
)

// Datagrams sends datagrams to what echoes them: each socket keeps a number of them under way.
type Datagrams struct {
	Addr    netip.AddrPort
	Sockets int
	Window  int // under way from each socket
	Size    int
	For     time.Duration
	Cores   []int
}

// lost is after how long without an answer a socket sends a whole window anew.
const lost = 20 * time.Millisecond

// Run returns how many datagrams came back.
func (d Datagrams) Run() (count int, err error) {
	end := time.Now().Add(d.For)
	counts, errs := make([]int, d.Sockets), make([]error, d.Sockets)
	var wg sync.WaitGroup
	for i := range d.Sockets {
		wg.Go(func() {
			errs[i] = poll.OnThread(d.Cores, func() (err error) {
				counts[i], err = d.exchange(end)
				return err
			})
		})
	}
	wg.Wait()
	for _, n := range counts {
		count += n
	}
	return count, errors.Join(errs...)
}

// exchange keeps one socket's window full until end.
func (d Datagrams) exchange(end time.Time) (count int, err error) {
	raw, err := new(net.Dialer).DialContext(context.Background(), "udp4", d.Addr.String())
	if err != nil {
		return 0, err
	}
	defer func() { _ = raw.Close() }()
	udp, ok := raw.(*net.UDPConn)
	if !ok {
		return 0, fmt.Errorf("dialling UDP gave a %T", raw)
	}
	conn := ipv4.NewPacketConn(udp)
	out, in := messages(d.Window, d.Size), messages(d.Window, d.Size)
	missing := d.Window
	for time.Now().Before(end) {
		if missing > 0 {
			if _, err := conn.WriteBatch(out[:missing], 0); err != nil {
				return count, err
			}
		}
		if err := conn.SetReadDeadline(time.Now().Add(lost)); err != nil {
			return count, err
		}
		n, err := conn.ReadBatch(in, 0)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			n = 0
			missing = d.Window
		case err != nil:
			return count, err
		default:
			missing = n
		}
		count += n
	}
	return count, nil
}

func messages(n, size int) []ipv4.Message {
	list := make([]ipv4.Message, n)
	for i := range list {
		list[i].Buffers = [][]byte{make([]byte, size)}
	}
	return list
}
