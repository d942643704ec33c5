package backup

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/ksl"
)

// Options say how to restore.
type Options struct {
	// Replace allows the engine to hold something, all of which is replaced.
	Replace bool
	// Schema are the types that records are checked against, those that the state itself holds added; nil checks nothing.
	Schema *ksl.Schema
}

// Report tells what a restore did.
type Report struct {
	Records int `json:"records"`
	// Expired records were left out.
	Expired int `json:"expired"`
	// Misfits are records that their type refuses today. They were restored as they are; at most 20 are told.
	Misfits int     `json:"misfits"`
	Reasons []error `json:"-"`
}

const maxReasons = 20

// Restore makes a state the whole content of an engine that no store is open on. What has expired by now is left out. See
// kind.Fill for what happens when it breaks.
func Restore(ctx context.Context, eng engine.Engine, s *State, opts Options) (Report, error) {
	var r Report
	schema, err := s.schema(opts.Schema)
	if err != nil {
		return r, err
	}
	r.Records, err = kind.Fill(ctx, eng, r.living(s.Records(), schema), opts.Replace)
	return r, err
}

// living yields the records that have not expired, and takes note of those that do not fit their types.
func (r *Report) living(records iter.Seq2[*kind.Record, error], schema *ksl.Schema) iter.Seq2[*kind.Record, error] {
	now := time.Now().UnixMilli()
	return func(yield func(*kind.Record, error) bool) {
		for rec, err := range records {
			if err == nil && rec.ExpiresAt != 0 && rec.ExpiresAt <= now {
				r.Expired++
				continue
			}
			if err == nil && schema != nil {
				r.check(schema, rec)
			}
			if !yield(rec, err) {
				return
			}
		}
	}
}

func (r *Report) check(schema *ksl.Schema, rec *kind.Record) {
	typ, ok := schema.TypeOf(rec.Key)
	if !ok {
		return
	}
	if err := typ.Validate(rec.Value); err != nil {
		r.Misfits++
		if len(r.Reasons) < maxReasons {
			r.Reasons = append(r.Reasons, fmt.Errorf("%s: %w", rec.Key, err))
		}
	}
}

// schema returns base with the types that the state's own records load. A text that
// does not fit is left to the store, which says so when it opens.
func (s *State) schema(base *ksl.Schema) (*ksl.Schema, error) {
	if base == nil {
		return nil, nil
	}
	var texts []kind.SchemaText
	for rec, err := range s.Records() {
		if err != nil {
			return nil, err
		}
		if name, ok := strings.CutPrefix(rec.Key, kind.SchemaPrefix); ok {
			texts = append(texts, kind.SchemaText{Name: name, Text: rec.Value, Revision: rec.ModRevision})
		}
	}
	composed, _ := kind.ComposeSchema(base, texts)
	return composed, nil
}
