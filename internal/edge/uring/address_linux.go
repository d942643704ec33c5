package uring

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Address is a socket address as the kernel takes it.
type Address struct {
	raw  unix.RawSockaddrInet6 // large enough for both families
	size uint32
}

// AddressOf returns the address of an IP address and port.
func AddressOf(to netip.AddrPort) Address {
	var a Address
	ip := to.Addr().Unmap()
	var port [2]byte
	binary.BigEndian.PutUint16(port[:], to.Port())
	if ip.Is4() {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&a.raw))
		v4.Family, v4.Addr = unix.AF_INET, ip.As4()
		v4.Port = binary.NativeEndian.Uint16(port[:])
		a.size = unix.SizeofSockaddrInet4
		return a
	}
	a.raw.Family, a.raw.Addr = unix.AF_INET6, ip.As16()
	a.raw.Port = binary.NativeEndian.Uint16(port[:])
	a.size = unix.SizeofSockaddrInet6
	return a
}

// Family returns the address family, for socket(2).
func (a *Address) Family() int { return int(a.raw.Family) }
