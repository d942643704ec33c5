package http1

import (
	"net"
	"net/netip"

	"vortex"
	"vortex/internal/edge/proxyproto"
)

// introduced returns what a connection to a backend begins with: the request's head, after a header of the PROXY protocol where the rules
// want one. Such a connection is one client's alone and carries no other request.
func (c *conn) introduced() []byte {
	version := c.rule().Proxy
	if version == "" {
		return c.head
	}
	h := proxyproto.Header{Transport: proxyproto.TCP, Source: c.source(), Destination: addrPort(c.tcp.LocalAddr())}
	b := make([]byte, 0, maxIntroduction+len(c.head))
	if version == vortex.ProxyVersionV1 {
		b = proxyproto.AppendV1(b, h)
	} else {
		b = proxyproto.AppendV2(b, h)
	}
	return append(b, c.head...)
}

// maxIntroduction is room for a header of either version.
const maxIntroduction = 128

// source is the client's address; its port is only known of one that is connected itself.
func (c *conn) source() netip.AddrPort {
	if client := c.rules.Client; client != c.peer {
		return netip.AddrPortFrom(client, 0)
	}
	if told := addrPort(c.tcp.RemoteAddr()); told.Addr() == c.peer {
		return told
	}
	return netip.AddrPortFrom(c.peer, 0)
}

// addrPort returns the address of a connection's end, without the zone and as IPv4 where it is that.
func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
