package kindrpc

import (
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"vortex/internal/kind"
)

// packed is a WatchEvent in its encoding. All watchers of an event send the same one.
type packed struct {
	head  mem.SliceBuffer
	value mem.SliceBuffer // of the new value, when it is too large to be copied into head
}

// The numbers of WatchEvent's fields.
const (
	fieldKey       protowire.Number = 1
	fieldNewValue  protowire.Number = 2
	fieldOperation protowire.Number = 3
	fieldRevision  protowire.Number = 100
	fieldOldValue  protowire.Number = 101
	fieldExpiresAt protowire.Number = 102

	copiedValue = 1024 // bytes of a value that are copied rather than sent from where they are
	headRoom    = 64   // of everything but keys and values
)

func packOnce(ev kind.Event) any { return pack(ev, false) }

// pack encodes an event, with what stood there before if previous is set and it is known.
func pack(ev kind.Event, previous bool) *packed {
	room := headRoom + len(ev.Key) + copiedValue
	if ev.Deleted {
		room -= copiedValue
	}
	head := make([]byte, 0, room)
	head = appendBytes(head, fieldKey, ev.Key)
	operation := opPut
	if ev.Deleted {
		operation = opDelete
	}
	head = appendBytes(head, fieldOperation, operation)
	head = appendNumber(head, fieldRevision, uint64(ev.Revision))
	if previous && ev.Prev != nil {
		head = appendBytes(head, fieldOldValue, ev.Prev.Value)
	}
	if ev.Deleted {
		return &packed{head: head}
	}
	if ev.Record.ExpiresAt != 0 {
		head = appendNumber(head, fieldExpiresAt, uint64(ev.Record.ExpiresAt))
	}
	value := ev.Record.Value
	if len(value) <= copiedValue {
		return &packed{head: appendBytes(head, fieldNewValue, value)}
	}
	head = protowire.AppendTag(head, fieldNewValue, protowire.BytesType)
	return &packed{head: protowire.AppendVarint(head, uint64(len(value))), value: value}
}

func appendBytes[T string | []byte](to []byte, field protowire.Number, data T) []byte {
	to = protowire.AppendTag(to, field, protowire.BytesType)
	to = protowire.AppendVarint(to, uint64(len(data)))
	return append(to, data...)
}

func appendNumber(to []byte, field protowire.Number, n uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(to, field, protowire.VarintType), n)
}

// buffers returns the encoding.
func (p *packed) buffers() mem.BufferSlice {
	if p.value == nil {
		return mem.BufferSlice{p.head}
	}
	return mem.BufferSlice{p.head, p.value}
}
