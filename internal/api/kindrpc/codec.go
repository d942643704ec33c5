package kindrpc

import (
	"runtime"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that this one stands on
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	kindpb "vortex/proto/kind"
)

// codec is gRPC's own, except that it takes packed events as they are and keeps count of large answers until their memory is free again: gRPC holds an encoded answer
// for as long as its client takes to read it, and tells nobody.
type codec struct {
	load *load
}

// Name implements encoding.CodecV2.
func (*codec) Name() string { return "proto" }

// Unmarshal implements encoding.CodecV2.
func (*codec) Unmarshal(data mem.BufferSlice, v any) error { return protobuf.Unmarshal(data, v) }

// protobuf is gRPC's own codec.
var protobuf = encoding.GetCodecV2("proto")

// Marshal implements encoding.CodecV2.
func (c *codec) Marshal(v any) (mem.BufferSlice, error) {
	switch answer := v.(type) {
	case *packed:
		return answer.buffers(), nil
	case *part:
		return answer.buffers(), nil
	case *kindpb.RangeScanResponse:
		return c.answer(answer, len(answer.GetRecords()))
	case *kindpb.QueryResponse:
		return c.answer(answer, len(answer.GetRecords()))
	default:
		return protobuf.Marshal(v)
	}
}

func (c *codec) answer(m proto.Message, records int) (mem.BufferSlice, error) {
	size := 0
	if records > 0 {
		size = proto.Size(m)
	}
	if size < largeAnswer {
		return protobuf.Marshal(m)
	}
	data, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(make([]byte, 0, size), m)
	if err != nil {
		return nil, err
	}
	c.load.pending.Add(int64(size))
	runtime.AddCleanup(&data[0], func(size int64) { c.load.pending.Add(-size) }, int64(size))
	return mem.BufferSlice{mem.SliceBuffer(data)}, nil
}
