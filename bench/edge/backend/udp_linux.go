package main

import (
	"context"
	"net"

	"golang.org/x/net/ipv4"

	"vortex/bench/edge/poll"
)

const (
	datagrams    = 64   // read and written at once
	datagramSize = 2048 // at most
	udpBuffer    = 4 << 20
)

// serveUDP sends back every datagram that comes to a port.
func serveUDP(port uint16, failed chan<- error) error {
	conn, err := new(net.ListenConfig).ListenPacket(context.Background(), "udp4", poll.Loopback(port).String())
	if err != nil {
		return err
	}
	if u, ok := conn.(*net.UDPConn); ok {
		_ = u.SetReadBuffer(udpBuffer) // as much as the system allows
		_ = u.SetWriteBuffer(udpBuffer)
	}
	packets := ipv4.NewPacketConn(conn)
	in := make([]ipv4.Message, datagrams)
	for i := range in {
		in[i].Buffers = [][]byte{make([]byte, datagramSize)}
	}
	go func() {
		for {
			n, err := packets.ReadBatch(in, 0)
			if err != nil {
				failed <- err
				return
			}
			echoBatch(packets, in[:n])
		}
	}()
	return nil
}

// echoBatch sends datagrams back; what the socket does not take is lost, as datagrams are.
func echoBatch(packets *ipv4.PacketConn, in []ipv4.Message) {
	for i := range in {
		in[i].Buffers[0] = in[i].Buffers[0][:in[i].N]
	}
	for sent := 0; sent < len(in); {
		n, err := packets.WriteBatch(in[sent:], 0)
		if err != nil {
			break
		}
		sent += n
	}
	for i := range in {
		in[i].Buffers[0] = in[i].Buffers[0][:datagramSize]
	}
}
