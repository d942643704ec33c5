package kind

import (
	"fmt"
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

// loadSchemas takes in every stored schema. Open calls it before anybody else sees the store.
func (s *Store) loadSchemas() error {
	merged := s.cfg.Schema
	for _, rec := range s.PrefixScan(SchemaPrefix) {
		parsed, err := ksl.Parse(rec.Key, rec.Value)
		if err != nil {
			return fmt.Errorf("schema at %s: %w", rec.Key, err)
		}
		next, err := merged.Merge(parsed)
		if err != nil {
			s.log.Warn("Stored schema ignored", "key", rec.Key, "err", err)
			continue
		}
		merged = next
	}
	if merged != s.state.schema {
		s.state.setSchema(merged)
	}
	return nil
}

// schemaChanged takes in the schemas among events.
func (s *Store) schemaChanged(events []Event) {
	for _, ev := range events {
		if strings.HasPrefix(ev.Key, SchemaPrefix) {
			if err := s.loadSchemas(); err != nil {
				s.log.Error("Stored schema ignored", "key", ev.Key, "err", err)
			}
			return
		}
	}
}
