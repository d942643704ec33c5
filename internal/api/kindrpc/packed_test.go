package kindrpc

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"vortex/internal/kind"
	kindpb "vortex/proto/kind"
)

// plain is the message that packed stands for, built by the generated code.
func plain(ev kind.Event, previous bool) *kindpb.WatchEvent {
	m := &kindpb.WatchEvent{Key: ev.Key, OperationType: "DELETE", Revision: uint64(ev.Revision)}
	if !ev.Deleted {
		m.OperationType, m.NewValue = "PUT", append([]byte{}, ev.Record.Value...)
		if ev.Record.ExpiresAt != 0 {
			m.ExpiresAt = new(uint64(ev.Record.ExpiresAt))
		}
	}
	if previous && ev.Prev != nil {
		m.OldValue = append([]byte{}, ev.Prev.Value...)
	}
	return m
}

func TestPackedEventsDecodeAsTheGeneratedMessage(t *testing.T) {
	records := rapid.Custom(func(t *rapid.T) *kind.Record {
		size := rapid.SampledFrom([]int{0, 1, 10, copiedValue, copiedValue + 1, 5000}).Draw(t, "size")
		return &kind.Record{
			Value:     bytes.Repeat([]byte{rapid.Byte().Draw(t, "byte")}, size),
			ExpiresAt: rapid.SampledFrom([]int64{0, 1, 1 << 50}).Draw(t, "expires"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		ev := kind.Event{
			Key: rapid.String().Draw(t, "key"), Revision: rapid.Int64Range(1, 1<<62).Draw(t, "revision"),
			Deleted: rapid.Bool().Draw(t, "deleted"),
		}
		if !ev.Deleted {
			ev.Record = records.Draw(t, "record")
		}
		if rapid.Bool().Draw(t, "had one") {
			ev.Prev = records.Draw(t, "before")
		}
		previous := rapid.Bool().Draw(t, "previous")
		data, err := (&codec{}).Marshal(pack(ev, previous))
		if err != nil {
			t.Fatal(err)
		}
		var got kindpb.WatchEvent
		if err := proto.Unmarshal(data.Materialize(), &got); err != nil {
			t.Fatal(err)
		}
		want := plain(ev, previous)
		if !proto.Equal(&got, want) || (got.NewValue == nil) != (want.NewValue == nil) || (got.OldValue == nil) != (want.OldValue == nil) {
			t.Fatalf("got %v; want %v", &got, want)
		}
	})
}

func TestPackedPartsDecodeAsTheGeneratedMessage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &part{revision: rapid.Int64Range(1, 1<<62).Draw(t, "revision")}
		want := &kindpb.FollowPart{Revision: uint64(p.revision)}
		for range rapid.IntRange(0, 4).Draw(t, "entries") {
			key := rapid.String().Draw(t, "key")
			if rapid.Bool().Draw(t, "deleted") {
				p.entries = append(p.entries, packEntry(kind.Event{Key: key, Deleted: true}))
				want.Entries = append(want.Entries, &kindpb.Entry{Key: []byte(key), Deleted: true})
				continue
			}
			size := rapid.SampledFrom([]int{0, 1, copiedValue, copiedValue + 1, 5000}).Draw(t, "size")
			rec := &kind.Record{
				Key: key, Value: bytes.Repeat([]byte{7}, size), ExpiresAt: rapid.SampledFrom([]int64{0, 1 << 50}).Draw(t, "expires"),
				CreateRevision: rapid.Int64Range(1, 1<<62).Draw(t, "created"), ModRevision: rapid.Int64Range(1, 1<<62).Draw(t, "changed"),
			}
			p.entries = append(p.entries, packEntry(kind.Event{Key: key, Record: rec}))
			want.Entries = append(want.Entries, &kindpb.Entry{
				Key: []byte(key), Value: rec.Value, ExpiresAt: uint64(rec.ExpiresAt),
				CreateRevision: uint64(rec.CreateRevision), ModRevision: uint64(rec.ModRevision),
			})
		}
		data, err := (&codec{}).Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var got kindpb.FollowPart
		if err := proto.Unmarshal(data.Materialize(), &got); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(&got, want) {
			t.Fatalf("got %v; want %v", &got, want)
		}
	})
}
