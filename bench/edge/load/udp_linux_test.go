package load

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// udpServer hands every datagram and its sender to answer, which returns what to send back, until the test ends.
func udpServer(t *testing.T, answer func([]byte) []byte) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() {
		conn.Close()
		<-ended
	})
	go func() {
		defer close(ended)
		buf := make([]byte, 64<<10)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if b := answer(buf[:n]); b != nil {
				_, _ = conn.WriteToUDPAddrPort(b, from)
			}
		}
	}()
	return netip.MustParseAddrPort(conn.LocalAddr().String())
}

func TestDatagramsCountsWhatComesBack(t *testing.T) {
	for name, bundled := range map[string]bool{"one by one": false, "in bundles": true} {
		asked := 0
		addr := udpServer(t, func(b []byte) []byte {
			asked++
			if asked%100 == 0 {
				return nil // lost: the window must not stay smaller for ever
			}
			return b
		})
		count, err := Datagrams{Addr: addr, Sockets: 2, Window: 4, Size: 64, Bundled: bundled, For: 500 * time.Millisecond}.Run()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if count == 0 {
			t.Errorf("%s: nothing came back", name)
		}
	}
}

func TestDatagramsOutlastsSilence(t *testing.T) {
	began := time.Now()
	addr := udpServer(t, func(b []byte) []byte {
		if time.Since(began) < 100*time.Millisecond {
			return nil
		}
		return b
	})
	count, err := Datagrams{Addr: addr, Sockets: 1, Window: 1, Size: 64, For: 2 * time.Second}.Run()
	if err != nil || count == 0 {
		t.Errorf("%d came back, %v", count, err)
	}
}

func TestFloodCountsWhatTheSinkReceived(t *testing.T) {
	var received, told atomic.Uint64
	addr := udpServer(t, func(b []byte) []byte {
		if len(b) == 64 {
			received.Add(1)
			return nil
		}
		told.Store(received.Load())
		return binary.BigEndian.AppendUint64(nil, 1000+received.Load())
	})
	count, err := Flood{Addr: addr, Sink: addr, Sockets: 3, Burst: 5, Size: 64, For: 50 * time.Millisecond}.Run()
	if err != nil || count == 0 || uint64(count) != told.Load() {
		t.Errorf("%d received, the sink told %d: %v", count, told.Load(), err)
	}
}

func TestFloodSaysThatNoSinkAnswers(t *testing.T) {
	addr := udpServer(t, func([]byte) []byte { return nil })
	_, err := Flood{Addr: addr, Sink: addr, Sockets: 1, Burst: 1, Size: 64, For: time.Millisecond}.Run()
	if err == nil {
		t.Error("a sink that never answers was taken for one")
	}
}
