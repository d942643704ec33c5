package l4

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"vortex/internal/edge/proxyproto"
)

// opening is a connection before it has a backend: what decides where it goes, and what was received meanwhile.
type opening struct {
	conn   *conn
	routes *routes
	peer   netip.AddrPort    // who connected
	told   proxyproto.Header // who the client is
	target target

	buf  *headBuffer // nil when nothing had to be read
	rest []byte      // of buf: what belongs to the backend
}

// headBuffer holds the longest PROXY header and the longest ClientHello.
type headBuffer [proxyproto.MaxHeader + maxHello]byte

var headBuffers = sync.Pool{New: func() any { return new(headBuffer) }}

// release gives the buffer back.
func (o *opening) release() {
	if o.buf != nil {
		headBuffers.Put(o.buf)
		o.buf, o.rest = nil, nil
	}
}

// Why a connection leads nowhere.
var (
	errStranger = errors.New("the port is for trusted proxies alone; edge.trusted names them")
	errNoName   = errors.New("no app takes the server name or protocol that the client asks for")
	errNoRoute  = errors.New("no app takes what is not TLS on this port")
	errTooLong  = errors.New("what a client says first is too long")
)

// alertNoName is the fatal TLS alert "unrecognized_name".
var alertNoName = []byte{21, 3, 1, 0, 2, 2, 112}

// decide finds the target, and reads no more than it needs for that.
func (o *opening) decide() error {
	trusted := o.routes.accept != AcceptNever && o.routes.trusts(o.peer.Addr())
	if o.routes.accept == AcceptRequired && !trusted {
		return errStranger
	}
	if !trusted && !o.routes.peek {
		return o.choose(hello{}, errNoRoute)
	}
	o.buf, _ = headBuffers.Get().(*headBuffer)
	client := o.conn.client
	if err := client.SetReadDeadline(time.Now().Add(o.routes.head)); err != nil {
		return err
	}
	if err := o.read(trusted); err != nil {
		return err
	}
	return client.SetReadDeadline(time.Time{})
}

// read receives until the PROXY header, where one is expected, and the ClientHello, where it matters, are whole.
func (o *opening) read(proxied bool) error {
	n, start := 0, 0
	for {
		if proxied {
			h, size, err := proxyproto.Parse(o.buf[:n])
			if err == nil {
				proxied, start = false, size
				o.believe(h)
			} else if !errors.Is(err, proxyproto.ErrShort) {
				return err
			}
		}
		o.rest = o.buf[start:n]
		if !proxied {
			done, err := o.peek()
			if done || err != nil {
				return err
			}
		}
		if n == len(o.buf) {
			return errTooLong
		}
		m, err := o.conn.client.Read(o.buf[n:])
		n += m
		if err != nil && m == 0 {
			if n == start && !proxied && errors.Is(err, os.ErrDeadlineExceeded) {
				return o.choose(hello{}, err) // a protocol in which the server speaks first
			}
			return err
		}
	}
}

// peek finds the target by what was received so far, and reports whether that was enough.
func (o *opening) peek() (done bool, err error) {
	if !o.routes.peek {
		return true, o.choose(hello{}, errNoRoute)
	}
	h, err := parseHello(o.rest)
	switch {
	case err == nil:
		return true, o.choose(h, errNoName)
	case errors.Is(err, errMore):
		return false, nil
	case errors.Is(err, errNotTLS):
		return true, o.choose(hello{}, errNoRoute)
	}
	return false, err
}

func (o *opening) choose(h hello, otherwise error) error {
	var ok bool
	if o.target, ok = o.routes.match(h); !ok {
		return otherwise
	}
	return nil
}

// believe takes over what a trusted proxy says about the client.
func (o *opening) believe(h proxyproto.Header) {
	if !h.Local && h.Transport == proxyproto.TCP {
		o.told = proxyproto.Header{Transport: proxyproto.TCP, Source: h.Source, Destination: h.Destination}
	}
}

// forward sends a backend who the client is, where it wants to know, and what was received already.
func (o *opening) forward(backend *net.TCPConn) error {
	var out []byte
	switch o.target.service.SendProxy {
	case 1:
		out = proxyproto.AppendV1(nil, o.told)
	case 2:
		out = proxyproto.AppendV2(nil, o.told)
	}
	if out = append(out, o.rest...); len(out) == 0 {
		return nil
	}
	_, err := backend.Write(out)
	return err
}
