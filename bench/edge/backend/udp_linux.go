package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"vortex/bench/edge/poll"
)

const (
	datagrams    = 64       // read and written at once, each of which may be several of one sender
	datagramSize = 64 << 10 // at most
	udpBuffer    = 4 << 20
)

// serveUDP sends back every datagram that comes to a port: bundled are those that came together, where the kernel hands them over so.
func serveUDP(port uint16, bundled bool, failed chan<- error) error {
	conn, err := new(net.ListenConfig).ListenPacket(context.Background(), "udp4", poll.Loopback(port).String())
	if err != nil {
		return err
	}
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		return fmt.Errorf("listening for UDP gave a %T", conn)
	}
	_ = udp.SetReadBuffer(udpBuffer) // as much as the system allows
	_ = udp.SetWriteBuffer(udpBuffer)
	if bundled {
		if err := bundle(udp); err != nil {
			return err
		}
	}
	packets := ipv4.NewPacketConn(conn)
	in := make([]ipv4.Message, datagrams)
	for i := range in {
		in[i].Buffers = [][]byte{make([]byte, datagramSize)}
		in[i].OOB = make([]byte, unix.CmsgSpace(4))
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

// bundle lets the kernel hand over those that came together as one.
func bundle(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	controlErr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, 1) })
	return errors.Join(controlErr, err)
}

// echoBatch sends datagrams back, those that came together together; what the socket does not take is lost, as datagrams are.
func echoBatch(packets *ipv4.PacketConn, in []ipv4.Message) {
	for i := range in {
		in[i].Buffers[0] = in[i].Buffers[0][:in[i].N]
		in[i].OOB = segmented(in[i].OOB[:in[i].NN])
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
		in[i].OOB = in[i].OOB[:cap(in[i].OOB)]
	}
}

// segmented makes of what the kernel says of datagrams that it has put together, their size, what tells it to cut them apart again.
func segmented(oob []byte) []byte {
	head := unix.CmsgLen(0)
	if len(oob) < head+4 {
		return oob[:0]
	}
	size := binary.NativeEndian.Uint32(oob[head:])
	oob = oob[:unix.CmsgSpace(2)]
	h := cmsg(oob)
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(oob[head:], uint16(size))
	return oob
}

// cmsg is the head of control data.
func cmsg(oob []byte) *unix.Cmsghdr { return (*unix.Cmsghdr)(unsafe.Pointer(&oob[0])) }
