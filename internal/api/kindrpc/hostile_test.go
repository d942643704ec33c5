package kindrpc_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"vortex/internal/api/kindrpc"
	"vortex/internal/kind/kindtest"
	kindpb "vortex/proto/kind"
)

// unharmed fails the test unless, once attack has ended, the server answers, its goroutines are gone and its memory is about
// what it was. While attack runs others must be served.
func (s *server) unharmed(attack func(ctx context.Context)) {
	s.Helper()
	s.put("innocent", "v")
	goroutines, heap := runtime.NumGoroutine(), inUse()
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	attacked := make(chan struct{})
	go func() { defer close(attacked); attack(ctx) }()
	other := s.client(token)
	served := 0
	for done := false; !done || served < 10; served++ {
		select {
		case <-attacked:
			done = true
		default:
		}
		rec, err := other.Get(s.ctx(), &kindpb.GetRequest{Key: "innocent"})
		if err != nil || string(rec.GetValue()) != "v" {
			s.Fatalf("after %d answers others get %v, %v", served, rec, err)
		}
	}
	cancel()
	const slack = 64 << 20
	kindtest.Eventually(s, "memory is given back", func() bool { return inUse() < heap+slack })
	kindtest.Eventually(s, "goroutines end", func() bool { return runtime.NumGoroutine() < goroutines+20 })
}

// inUse is how much memory is in use after a collection.
func inUse() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return stats.HeapInuse
}

// raw is a connection without a gRPC client.
func (s *server) raw(ctx context.Context) net.Conn {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.addr)
	if err != nil {
		return nil // refused: fine too
	}
	s.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	return conn
}

// framer begins HTTP/2 on a connection.
func framer(conn net.Conn) *http2.Framer {
	_, _ = conn.Write([]byte(http2.ClientPreface))
	fr := http2.NewFramer(conn, conn)
	_ = fr.WriteSettings()
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	return fr
}

// request is the header block of a call, with more fields if given.
func request(method string, more ...string) []byte {
	var buf bytes.Buffer
	enc := hpack.NewEncoder(&buf)
	fields := []string{
		":method", "POST", ":scheme", "http", ":path", "/kind.KindService/" + method, ":authority", "x",
		"content-type", "application/grpc", "te", "trailers", "authorization", "Bearer " + token,
	}
	fields = append(fields, more...)
	for i := 0; i+1 < len(fields); i += 2 {
		_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return buf.Bytes()
}

func TestConnectionsThatNeverSpeak(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	s.unharmed(func(ctx context.Context) {
		for range 300 {
			if conn := s.raw(ctx); conn != nil {
				_, _ = conn.Write([]byte("PRI * HT"))
				defer conn.Close()
			}
		}
	})
}

func TestRapidResets(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	s.unharmed(func(ctx context.Context) {
		for range 4 {
			conn := s.raw(ctx)
			fr, block := framer(conn), request("Watch")
			for id := uint32(1); id < 2*5000; id += 2 {
				if fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true}) != nil ||
					fr.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
					break
				}
			}
			_ = conn.Close()
		}
	})
}

func TestTenThousandStreamsOnOneConnection(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	s.unharmed(func(ctx context.Context) {
		conn := s.raw(ctx)
		fr, block := framer(conn), request("Watch")
		message := []byte{0, 0, 0, 0, 0} // an empty WatchRequest
		for id := uint32(1); id < 2*10_000; id += 2 {
			if fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true}) != nil ||
				fr.WriteData(id, true, message) != nil {
				break
			}
		}
		_ = conn.Close()
	})
}

func TestHugeMetadataIsRefused(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	stranger := s.client("")
	_, _ = stranger.Status(s.ctx(), &kindpb.StatusRequest{}) // connects
	s.unharmed(func(ctx context.Context) {
		for range 20 {
			ctx := metadata.AppendToOutgoingContext(ctx, "x", strings.Repeat("y", 1<<20))
			if _, err := s.Get(ctx, &kindpb.GetRequest{Key: "innocent"}); err == nil {
				t.Error("a megabyte of metadata was taken")
			}
			ctx = metadata.AppendToOutgoingContext(s.ctx(), "authorization", "Bearer "+strings.Repeat("t", 8<<10))
			_, err := stranger.Get(ctx, &kindpb.GetRequest{Key: "innocent"})
			wantCode(t, "a long token", err, codes.Unauthenticated)
		}
	})
}

func TestMessagesThatNeverEnd(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	s.unharmed(func(ctx context.Context) {
		head := binary.BigEndian.AppendUint32([]byte{0}, 15<<20) // a message of 15 MiB is coming
		part := make([]byte, 16<<10)
		for range 4 {
			conn := s.raw(ctx)
			fr, block := framer(conn), request("Put")
			for id := uint32(1); id < 2*200; id += 2 {
				if fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true}) != nil ||
					fr.WriteData(id, false, head) != nil || fr.WriteData(id, false, part) != nil {
					break
				}
			}
			_ = conn.Close()
		}
	})
}

func TestStrangersAreRefusedBeforeTheirMessage(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	_, err := s.client("").Put(s.ctx(), &kindpb.PutRequest{Key: "k", Value: make([]byte, 15<<20)})
	wantCode(t, "a large message of somebody unknown", err, codes.Unauthenticated)
}

func TestGarbage(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	s.unharmed(func(ctx context.Context) {
		for n := range 100 {
			conn := s.raw(ctx)
			junk := make([]byte, 4<<10)
			_, _ = rand.Read(junk)
			if n%2 == 0 {
				fr := framer(conn)
				_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: request("Put"), EndHeaders: true})
				_ = fr.WriteData(1, true, append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(junk))), junk...))
				_ = fr.WriteRawFrame(http2.FrameType(n), 0xff, 1, junk)
			} else {
				_, _ = conn.Write(junk)
			}
			_ = conn.Close()
		}
	})
}

func TestBigAnswersThatNobodyReads(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	value := bytes.Repeat([]byte("v"), 1<<20)
	for n := range 20 {
		s.put(fmt.Sprintf("big:%d", n), string(value))
	}
	message, err := proto.Marshal(&kindpb.PrefixScanRequest{Prefix: "big:"})
	if err != nil {
		t.Fatal(err)
	}
	message = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...) //nolint:gosec // it is short
	s.unharmed(func(ctx context.Context) {
		conn := s.raw(ctx)
		defer conn.Close()
		_, _ = conn.Write([]byte(http2.ClientPreface))
		fr, block := http2.NewFramer(conn, conn), request("PrefixScan")
		_ = fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
		before := inUse()
		const scans, bound = 100, 1 << 30 // all of them would hold 2 GB
		for id := uint32(1); id < 2*scans; id += 2 {
			if fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true}) != nil || fr.WriteData(id, true, message) != nil {
				break
			}
			if held := inUse(); held > before+bound {
				t.Errorf("after %d scans that nobody reads the server holds %d MiB more", id/2, (held-before)>>20)
				return
			}
		}
	})
}

func TestOneAnswerIsBounded(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	value := strings.Repeat("v", 1<<20)
	for n := range 70 {
		s.put(fmt.Sprintf("big:%02d", n), value)
	}
	_, err := s.PrefixScan(s.ctx(), &kindpb.PrefixScanRequest{Prefix: "big:"})
	wantCode(t, "a scan of 70 MiB", err, codes.ResourceExhausted)
	if !strings.Contains(err.Error(), "limit") || !strings.Contains(err.Error(), "Sync") {
		t.Errorf("%v does not say what to do", err)
	}
}

func TestTransactionsAreBounded(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	req := &kindpb.TxnRequest{}
	for n := range 10_001 {
		put := &kindpb.PutRequest{Key: strconv.Itoa(n)}
		req.Operations = append(req.Operations, &kindpb.Operation{Operation: &kindpb.Operation_Put{Put: put}})
	}
	_, err := s.Txn(s.ctx(), req)
	wantCode(t, "a transaction of 10,001 writes", err, codes.InvalidArgument)
}

func TestDeepJSONAndInvalidText(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	s.unharmed(func(context.Context) {
		deep := strings.Repeat(`{"a":`, 200_000) + "1" + strings.Repeat("}", 200_000)
		for _, value := range []string{deep, strings.Repeat("[", 1<<20), "\xff\xfe", `{"client_id":"\ud800","current_rps":1e999}`} {
			_, err := s.Put(s.ctx(), &kindpb.PutRequest{Key: "vortex:metrics:web", Value: []byte(value)})
			wantCode(t, "a bad value", err, codes.InvalidArgument)
			_, _ = s.PrefixScan(s.ctx(), &kindpb.PrefixScanRequest{Prefix: "x", Filters: []*kindpb.ScanFilter{{Field: value[:min(len(value), 1000)], Value: "x"}}})
		}
	})
}

func TestAFloodOfPuts(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	const clients, each = 20, 500
	s.unharmed(func(context.Context) {
		var wg sync.WaitGroup
		for n := range clients {
			wg.Go(func() {
				for range each {
					if _, err := s.Put(t.Context(), &kindpb.PutRequest{Key: fmt.Sprintf("flood:%d", n), Value: []byte("x")}); err != nil {
						t.Errorf("put: %v", err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
}
