package kind

import (
	"strings"

	"vortex"
	"vortex/internal/kind/ksl"
)

// SchemaPrefix is where KSL texts live that were loaded at run time: <prefix><name>. Their types
// are added to those the program was built with.
const SchemaPrefix = "vortex:schema:"

// checkSchemaText refuses a text below SchemaPrefix that does not parse.
func checkSchemaText(op Op) error {
	name, ok := strings.CutPrefix(op.Key, SchemaPrefix)
	if !ok || op.Delete {
		return nil
	}
	if _, err := ksl.Parse(name, op.Value); err != nil {
		return vortex.Errorf(vortex.Invalid, "the schema is refused:\n%w", err)
	}
	return nil
}

// CheckSchema parses a text and returns the types that would be in force with it, or why it is refused.
func (s *Store) CheckSchema(name string, text []byte) (*ksl.Schema, error) {
	parsed, err := ksl.Parse(name, text)
	if err != nil {
		return nil, vortex.Errorf(vortex.Invalid, "the schema is refused:\n%w", err)
	}
	merged, err := s.Schema().Merge(parsed)
	if err != nil {
		return nil, vortex.Errorf(vortex.Invalid, "the schema does not fit the running one: %w", err)
	}
	return merged, nil
}

// takeSchemas puts the stored schemas into force. The caller holds the lock.
func (s *state) takeSchemas() {
	merged := s.builtin
	View{s: s}.Prefix(SchemaPrefix, func(rec *Record) bool {
		if parsed, err := ksl.Parse(rec.Key, rec.Value); err == nil {
			if next, err := merged.Merge(parsed); err == nil {
				merged = next
			}
		}
		return true
	})
	if merged != s.schema {
		s.setSchema(merged)
	}
}
