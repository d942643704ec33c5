package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"
)

// call is a streaming call on a connection of its own, as cheap for the client as can be: one goroutine that reads frames. A hundred
// clients of the usual kind take more of two cores than the servers that are to be measured.
type call struct {
	addr    string
	method  string // /package.Service/Method
	request proto.Message
	more    bool // the client may send more, so that its side stays open
}

// errEnded is a stream that the server ended.
var errEnded = errors.New("the server ended the stream")

// each makes the call and gives each message to see, until ctx ends. begun is called when the answer begins.
func (c call) each(ctx context.Context, begun func(), see func(message []byte) error) (err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", c.addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	framer := http2.NewFramer(conn, bufio.NewReaderSize(conn, 32<<10))
	framer.SetReuseFrames()
	if err := c.begin(conn, framer); err != nil {
		return err
	}
	var received []byte
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return err
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = framer.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				err = framer.WritePing(true, f.Data)
			}
		case *http2.HeadersFrame:
			if f.StreamEnded() {
				return errEnded
			}
			begun()
		case *http2.DataFrame:
			received, err = messages(append(received, f.Data()...), see)
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return fmt.Errorf("%w: %v", errEnded, frame)
		}
		if err != nil {
			return err
		}
	}
}

// begin opens the connection and the stream on it, with windows that never fill.
func (c call) begin(conn net.Conn, framer *http2.Framer) error {
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		return err
	}
	if err := framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: math.MaxInt32}); err != nil {
		return err
	}
	if err := framer.WriteWindowUpdate(0, math.MaxInt32-1<<16); err != nil {
		return err
	}
	var head bytes.Buffer
	encoder := hpack.NewEncoder(&head)
	for _, f := range [][2]string{
		{":method", "POST"},
		{":scheme", "http"},
		{":path", c.method},
		{":authority", c.addr},
		{"content-type", "application/grpc"},
		{"te", "trailers"},
	} {
		if err := encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			return err
		}
	}
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndHeaders: true}); err != nil {
		return err
	}
	message, err := proto.Marshal(c.request)
	if err != nil {
		return err
	}
	prefixed := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))) //nolint:gosec // a few bytes
	return framer.WriteData(1, !c.more, append(prefixed, message...))
}

// messages gives the whole messages of data to see and returns the rest.
func messages(data []byte, see func(message []byte) error) ([]byte, error) {
	const prefix = 5 // not compressed, and the length
	rest := data
	for len(rest) >= prefix {
		n := int(binary.BigEndian.Uint32(rest[1:prefix]))
		if len(rest) < prefix+n {
			break
		}
		if err := see(rest[prefix : prefix+n]); err != nil {
			return nil, err
		}
		rest = rest[prefix+n:]
	}
	return append(data[:0], rest...), nil
}
