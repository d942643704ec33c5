package kindrpc

import (
	"sync"

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

// encodings are what was made of an event for watchers of both kinds.
type encodings struct {
	event func() *packed // for Watch
	entry func() *packed // for Follow
}

func encodeOnce(ev kind.Event) any {
	return &encodings{
		event: sync.OnceValue(func() *packed { return pack(ev, false) }),
		entry: sync.OnceValue(func() *packed { return packEntry(ev) }),
	}
}

// encoded returns the encodings of an event, which are made when they are first asked for.
func encoded(ev kind.Event) *encodings {
	return ev.Once(encodeOnce).(*encodings) //nolint:errcheck,forcetypeassert // nothing else is made of events
}

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

// The numbers of the fields of FollowPart and Entry.
const (
	fieldPartRevision protowire.Number = 100
	fieldPartEntry    protowire.Number = 101

	fieldEntryKey     protowire.Number = 100
	fieldEntryValue   protowire.Number = 101
	fieldEntryExpires protowire.Number = 102
	fieldEntryCreated protowire.Number = 103
	fieldEntryChanged protowire.Number = 104
	fieldEntryDeleted protowire.Number = 105
)

// packEntry encodes an event as one of a FollowPart's entries. All followers of it send the same bytes.
func packEntry(ev kind.Event) *packed {
	if ev.Deleted {
		return packGone(ev.Key)
	}
	rec := ev.Record
	inner := make([]byte, 0, headRoom+len(ev.Key)+copiedValue)
	inner = appendBytes(inner, fieldEntryKey, ev.Key)
	if rec.ExpiresAt != 0 {
		inner = appendNumber(inner, fieldEntryExpires, uint64(rec.ExpiresAt))
	}
	inner = appendNumber(inner, fieldEntryCreated, uint64(rec.CreateRevision))
	inner = appendNumber(inner, fieldEntryChanged, uint64(rec.ModRevision))
	if len(rec.Value) <= copiedValue {
		return &packed{head: appendBytes(nil, fieldPartEntry, appendBytes(inner, fieldEntryValue, rec.Value))}
	}
	inner = protowire.AppendTag(inner, fieldEntryValue, protowire.BytesType)
	inner = protowire.AppendVarint(inner, uint64(len(rec.Value)))
	head := protowire.AppendTag(nil, fieldPartEntry, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(len(inner)+len(rec.Value)))
	return &packed{head: append(head, inner...), value: rec.Value}
}

// packGone encodes the end of what stood at a key, for this follower.
func packGone(key string) *packed {
	inner := appendBytes(make([]byte, 0, headRoom+len(key)), fieldEntryKey, key)
	return &packed{head: appendBytes(nil, fieldPartEntry, appendNumber(inner, fieldEntryDeleted, 1))}
}

// part is a FollowPart of packed entries.
type part struct {
	revision int64
	entries  []*packed
}

// buffers returns the encoding.
func (p *part) buffers() mem.BufferSlice {
	out := make(mem.BufferSlice, 0, 1+len(p.entries))
	out = append(out, mem.SliceBuffer(appendNumber(nil, fieldPartRevision, uint64(p.revision))))
	for _, entry := range p.entries {
		out = append(out, entry.buffers()...)
	}
	return out
}
