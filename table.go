package vortex

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Table is where the records of one type live in the store: at <Prefix>:<id>, where an id may have
// several parts with a colon between them. The tables are generated from the schema.
type Table[T any] struct {
	Type   string // the type's name in the schema
	Prefix string // without the colon at its end
}

// Key returns the key of the record whose id consists of parts: Releases.Key("web", "3") is
// "vortex:release:web:3". Without parts it is the prefix.
func (t Table[T]) Key(parts ...string) string {
	if len(parts) == 1 {
		return t.Prefix + ":" + parts[0]
	}
	return strings.Join(append([]string{t.Prefix}, parts...), ":")
}

// ID returns the id in key, all of its parts: of "vortex:release:web:3" it is "web:3".
// It is "" when the key is not one of the table's.
func (t Table[T]) ID(key string) string {
	rest, ok := strings.CutPrefix(key, t.Prefix)
	if !ok || !strings.HasPrefix(rest, ":") {
		return ""
	}
	return rest[1:]
}

// Encode returns a record as it stands in the store.
func (t Table[T]) Encode(record T) ([]byte, error) {
	value, err := json.Marshal(record)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", t.Type, err)
	}
	return value, nil
}

// Decode reads a record as it stands in the store and sets the defaults of what is absent. Fields this version does not
// know are passed over: a newer version may have written them.
func (t Table[T]) Decode(value []byte) (T, error) {
	var record T
	if err := json.Unmarshal(value, &record); err != nil {
		return record, fmt.Errorf("decode %s: %w", t.Type, err)
	}
	if d, ok := any(&record).(interface{ SetDefaults() }); ok {
		d.SetDefaults()
	}
	return record, nil
}
