package health

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
)

// What the gRPC health protocol (grpc.health.v1) says of a service.
var serving = map[uint64]string{0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}

const isServing = 1

// grpcTransport speaks HTTP/2 without TLS, on connections that each probe makes for itself.
var grpcTransport = func() *http.Transport {
	t := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true, MaxResponseHeaderBytes: maxAnswer}
	t.Protocols.SetUnencryptedHTTP2(true)
	t.DialContext = (&net.Dialer{}).DialContext
	return t
}()

// grpc is healthy when the target's health service says that the service asked for is serving.
func (p *Probe) grpc(service, target string) func(context.Context) answer {
	what := "gRPC health of " + target
	if service != "" {
		what += " for " + service
	}
	message := healthRequest(service)
	return func(ctx context.Context) answer {
		status, err := askGRPC(ctx, target, message)
		if err != nil {
			return p.failed(ctx, what, err)
		}
		name, known := serving[status]
		if !known {
			name = "status " + strconv.FormatUint(status, 10)
		}
		return answer{healthy: status == isServing, detail: what + ": " + name}
	}
}

// healthRequest is the message HealthCheckRequest{service}, in the frame of a gRPC message.
func healthRequest(service string) []byte {
	var body []byte
	if service != "" {
		body = append([]byte{1<<3 | 2}, binary.AppendUvarint(nil, uint64(len(service)))...)
		body = append(body, service...)
	}
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body)))
	return append(frame, body...)
}

// askGRPC calls grpc.health.v1.Health/Check on a connection of its own and returns the status in the answer.
func askGRPC(ctx context.Context, target string, message []byte) (uint64, error) {
	conn, err := grpcTransport.NewClientConn(ctx, "http", target)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+target+"/grpc.health.v1.Health/Check", bytes.NewReader(message))
	if err != nil {
		return 0, err
	}
	req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "User-Agent": {"vortex-health"}}
	resp, err := conn.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return 0, errors.New("answered with HTTP status " + statusText(resp.StatusCode) + " instead of gRPC")
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return 0, err
	}
	if err := grpcError(resp); err != nil {
		return 0, err
	}
	return healthResponse(body)
}

// grpcError returns the error that a call ended with, nil when it did not.
func grpcError(resp *http.Response) error {
	code, text := resp.Trailer.Get("Grpc-Status"), resp.Trailer.Get("Grpc-Message")
	if code == "" {
		code, text = resp.Header.Get("Grpc-Status"), resp.Header.Get("Grpc-Message")
	}
	switch code {
	case "0":
		return nil
	case "":
		return errors.New("answered without a gRPC status")
	case "12":
		return errors.New("has no gRPC health service (UNIMPLEMENTED)")
	case "5":
		return errors.New("does not know the service (NOT_FOUND)")
	}
	return fmt.Errorf("gRPC status %s %s", lastLine(code), lastLine(text))
}

var errGRPC = errors.New("the answer is no HealthCheckResponse")

// healthResponse reads the status of a framed HealthCheckResponse; 0 is one that is not there.
func healthResponse(frame []byte) (status uint64, err error) {
	if len(frame) < 5 || frame[0] != 0 || uint64(binary.BigEndian.Uint32(frame[1:])) != uint64(len(frame)-5) {
		return 0, errGRPC
	}
	for b := frame[5:]; len(b) > 0; {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return 0, errGRPC
		}
		value, size, ok := protoField(tag&7, b[n:])
		if !ok {
			return 0, errGRPC
		}
		if tag == 1<<3 {
			status = value
		}
		b = b[n+size:]
	}
	return status, nil
}

// protoField reads the field of a wire type at the start of b: the value of a number, and the field's size.
func protoField(wire uint64, b []byte) (value uint64, size int, ok bool) {
	switch wire {
	case 0:
		value, size = binary.Uvarint(b)
		return value, size, size > 0
	case 1:
		size = 8
	case 2:
		length, n := binary.Uvarint(b)
		if n <= 0 || length > uint64(len(b)) {
			return 0, 0, false
		}
		size = n + int(length)
	case 5:
		size = 4
	default:
		return 0, 0, false
	}
	return 0, size, size <= len(b)
}
