package ksl_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"vortex"
	"vortex/internal/kind/ksl"
)

func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/errors/*.ksl")
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	f.Add(vortex.Schema())
	f.Fuzz(func(t *testing.T, src []byte) {
		s, err := ksl.Parse("fuzz.ksl", src)
		if err != nil {
			if !vortex.IsKind(err, vortex.Invalid) || err.Error() == "" {
				t.Fatalf("Parse returned %v, want an Invalid error with a message", err)
			}
			return
		}
		for _, typ := range s.Types {
			if err := typ.Validate([]byte("[]")); err == nil {
				t.Fatalf("%s accepts a list", typ.Name)
			}
			if owner, ok := s.TypeOf(typ.Prefix + ":x"); typ.Prefix != "" && (!ok || owner != typ) {
				t.Fatalf("%s does not own the keys below %q", typ.Name, typ.Prefix)
			}
		}
		printed := s.String()
		again, err := ksl.Parse("printed.ksl", []byte(printed))
		if err != nil {
			t.Fatalf("what is printed does not parse: %v\n%s", err, printed)
		}
		if text := again.String(); text != printed {
			t.Fatalf("printed once:\n%s\nand again:\n%s", printed, text)
		}
		if differences := ksl.Compare(s, again); len(differences) > 0 {
			t.Fatalf("printing changes %v\n%s", differences, printed)
		}
	})
}

// full is the type T of everything in Go.
type full struct {
	S      *string                      `json:"s,omitempty"`
	B      *bool                        `json:"b,omitempty"`
	U8     *uint8                       `json:"u8,omitempty"`
	U16    *uint16                      `json:"u16,omitempty"`
	U32    *uint32                      `json:"u32,omitempty"`
	U64    *uint64                      `json:"u64,omitempty"`
	I8     *int8                        `json:"i8,omitempty"`
	I16    *int16                       `json:"i16,omitempty"`
	I32    *int32                       `json:"i32,omitempty"`
	I64    *int64                       `json:"i64,omitempty"`
	F32    *float32                     `json:"f32,omitempty"`
	F64    *float64                     `json:"f64,omitempty"`
	Bytes  []byte                       `json:"bytes,omitempty"`
	At     time.Time                    `json:"at,omitzero"`
	D      *vortex.Duration             `json:"d,omitempty"`
	JSON   json.RawMessage              `json:"json,omitempty"`
	Colour *string                      `json:"colour,omitempty"`
	Part   *fullPart                    `json:"part,omitempty"`
	Parts  []fullPart                   `json:"parts,omitempty"`
	Map    map[string]fullPart          `json:"map,omitempty"`
	Deep   []map[string]json.RawMessage `json:"deep,omitempty"`
}

type fullPart struct {
	ID    string     `json:"id"`
	Size  *uint8     `json:"size,omitempty"`
	Parts []fullPart `json:"parts,omitempty"`
}

// FuzzValidate holds every value that is accepted against encoding/json: it decodes, without loss.
func FuzzValidate(f *testing.F) {
	s, err := ksl.Parse("t.ksl", []byte(everything))
	if err != nil {
		f.Fatal(err)
	}
	all, _ := s.Type("T")
	record, _ := cluster(f).Type("ContainerRecord")
	f.Add(container)
	f.Fuzz(func(t *testing.T, value []byte) {
		record.IndexValues(value, nil)
		ksl.Text(value, "id")
		if all.Validate(value) == nil {
			decodesTheSame[full](t, all, value)
		}
		if record.Validate(value) == nil {
			decodesTheSame[vortex.ContainerRecord](t, record, value)
		}
	})
}

func decodesTheSame[T any](t *testing.T, typ *ksl.Type, value []byte) {
	t.Helper()
	once, err := decodeStrictly[T](value)
	if err != nil {
		t.Fatalf("accepted, and does not decode: %v\n%s", err, value)
	}
	encoded, err := json.Marshal(once)
	if err != nil {
		t.Fatalf("accepted, and does not encode again: %v\n%s", err, value)
	}
	if err := typ.Validate(encoded); err != nil {
		t.Fatalf("not accepted again: %v\n%s\n%s", err, value, encoded)
	}
	twice, err := decodeStrictly[T](encoded)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := json.Marshal(twice); err != nil || !bytes.Equal(again, encoded) {
		t.Fatalf("changed on the way, %v:\n%s\n%s\n%s", err, value, encoded, again)
	}
}

// decodeStrictly refuses what is not in the Go type.
func decodeStrictly[T any](value []byte) (record T, err error) {
	d := json.NewDecoder(bytes.NewReader(value))
	d.DisallowUnknownFields()
	err = d.Decode(&record)
	return record, err
}
