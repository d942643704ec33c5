package kind

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"vortex"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/ksl"
)

// SchemaPrefix is where KSL texts live that were loaded at run time: <prefix><name>. Their types
// are added to those the program was built with, in the order in which the texts were stored.
const SchemaPrefix = "vortex:schema:"

// schemaGuard is the guard that transactions which change the schema meet at, so that of two servers that do so at
// the same time one looks again.
const schemaGuard = guardPrefix + "schema"

// SchemaText is a stored KSL text.
type SchemaText struct {
	Name     string
	Text     []byte
	Revision int64 // of its last change; 0 when it is built in
}

// SchemaChange is what storing texts, or removing them, does to the types in force.
type SchemaChange struct {
	// Schema is what is in force afterwards.
	Schema *ksl.Schema
	// Differences are all that changes, what records stand against it included.
	Differences []ksl.Difference

	texts []*ksl.Schema // the new ones: where the differences stand
}

// Refusal returns an Invalid error that names all that is breaking and where it stands, nil when nothing is.
func (c *SchemaChange) Refusal() error {
	breaking := ksl.Breaking(c.Differences)
	if len(breaking) == 0 {
		return nil
	}
	lines := make([]string, len(breaking))
	for i, d := range breaking {
		lines[i] = "  " + d.String()
		for _, text := range c.texts {
			if fault := text.Fault(d.Path, d.String()); fault != nil {
				lines[i] = fault.Error()
			}
		}
	}
	return vortex.Errorf(vortex.Invalid, "the schema does not fit the running one; force it if this is meant:\n%s", strings.Join(lines, "\n"))
}

// CheckSchema returns what storing a text under a name would change. The error is Invalid, and names all the places, when
// the text is no schema or cannot be in force beside the others; what is only breaking is no error here.
func (s *Store) CheckSchema(ctx context.Context, name string, text []byte) (*SchemaChange, error) {
	return s.schemaChange(ctx, []Op{{Key: SchemaPrefix + name, Value: text}})
}

// LoadSchema stores a text under a name, also when it is breaking if force is set, and returns what it changed.
// Records that do not fit any more stay readable as they are; whoever writes them next has to make them fit.
func (s *Store) LoadSchema(ctx context.Context, name string, text []byte, force bool) (*SchemaChange, error) {
	change, err := s.CheckSchema(ctx, name, text)
	if err != nil {
		return nil, err
	}
	_, err = s.Commit(ctx, Txn{Ops: []Op{{Key: SchemaPrefix + name, Value: text, forced: force}}})
	return change, err
}

// SchemaTexts returns the built-in types as a text without a name, and then the stored texts in the order in which they
// came into force.
func (s *Store) SchemaTexts() []SchemaText {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	return append([]SchemaText{{Text: []byte(s.state.builtin.String())}}, s.state.schemaTexts()...)
}

// schemaTexts returns the stored texts in the order in which they came into force. The caller holds the lock.
func (s *state) schemaTexts() (texts []SchemaText) {
	View{s: s}.Prefix(SchemaPrefix, func(rec *Record) bool {
		texts = append(texts, SchemaText{Name: rec.Key[len(SchemaPrefix):], Text: rec.Value, Revision: rec.ModRevision})
		return true
	})
	slices.SortStableFunc(texts, func(a, b SchemaText) int { return cmp.Compare(a.Revision, b.Revision) })
	return texts
}

// takeSchemas puts the stored texts into force. The caller holds the lock.
func (s *state) takeSchemas() {
	composed, ignored := ComposeSchema(s.builtin, s.schemaTexts())
	s.ignored = ignored
	if composed != s.schema {
		s.setSchema(composed)
	}
}

// ComposeSchema returns the built-in types with those of texts added, in the order of their revisions, and why some are
// left out: they were accepted by a program with other built-in types.
func ComposeSchema(builtin *ksl.Schema, texts []SchemaText) (composed *ksl.Schema, ignored []error) {
	composed = builtin
	byRevision := func(a, b SchemaText) int { return cmp.Compare(a.Revision, b.Revision) }
	for _, text := range slices.SortedStableFunc(slices.Values(texts), byRevision) {
		next, _, err := addText(composed, builtin, text.Name, text.Text)
		if err != nil {
			ignored = append(ignored, vortex.Errorf(vortex.Invalid, "schema %s: %w", text.Name, err))
			continue
		}
		composed = next
	}
	return composed, ignored
}

// addText returns a schema with a text added, and the text's own.
func addText(composed, builtin *ksl.Schema, name string, text []byte) (next, own *ksl.Schema, err error) {
	own, err = ksl.Parse(name, text)
	if err != nil {
		return nil, nil, vortex.Errorf(vortex.Invalid, "the schema is refused:\n%w", err)
	}
	next, err = ksl.Compose(composed, builtin, own)
	if err != nil {
		return nil, nil, vortex.Errorf(vortex.Invalid, "the schema does not fit the running one: %w", err)
	}
	if typ, ok := next.TypeOf(SchemaPrefix); ok {
		return nil, nil, vortex.Errorf(vortex.Invalid, "the schema is refused: %s would own the keys below %q", typ.Name, SchemaPrefix)
	}
	return next, own, nil
}

// schemaChange returns what writes of schema texts would do. It looks at the records too, at a copy of them.
func (s *Store) schemaChange(ctx context.Context, ops []Op) (*SchemaChange, error) {
	frozen := s.state.freeze()
	ops = slices.SortedFunc(slices.Values(ops), func(a, b Op) int { return cmp.Compare(a.Key, b.Key) }) // as takeSchemas does
	changed := make(map[string]bool, len(ops))
	for _, op := range ops {
		changed[strings.TrimPrefix(op.Key, SchemaPrefix)] = true
	}
	rest := slices.DeleteFunc(frozen.schemaTexts(), func(text SchemaText) bool { return changed[text.Name] })
	change := &SchemaChange{}
	change.Schema, _ = ComposeSchema(frozen.builtin, rest)
	var faults []error
	for _, op := range ops {
		if !op.Delete {
			faults = append(faults, change.add(frozen.builtin, op))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	change.Differences = ksl.Compare(frozen.schema, change.Schema)
	return change, change.meet(ctx, frozen, s.now())
}

// add takes in one text.
func (c *SchemaChange) add(builtin *ksl.Schema, op Op) error {
	name := strings.TrimPrefix(op.Key, SchemaPrefix)
	if err := checkSchemaName(name); err != nil {
		return err
	}
	if op.TTL != 0 {
		return vortex.Errorf(vortex.Invalid, "a schema cannot expire; remove it when it is not needed any more")
	}
	next, own, err := addText(c.Schema, builtin, name, op.Value)
	if err != nil {
		return err
	}
	if void := ksl.Ineffective(own, next); len(void) > 0 {
		return builtIn(own, void)
	}
	c.Schema = next
	c.texts = append(c.texts, own)
	return nil
}

// builtIn is the error of a text that wants to change built-in types.
func builtIn(text *ksl.Schema, void []ksl.Difference) error {
	lines := make([]string, len(void))
	for i, d := range void {
		lines[i] = text.Fault(d.Path, d.Path+" is built in, and a text may only add to it; what is built in differs: "+d.What).Error()
	}
	return vortex.Errorf(vortex.Invalid, "the schema does not fit the running one:\n%s", strings.Join(lines, "\n"))
}

// checkSchemaName allows names that are good as file names and parts of keys.
func checkSchemaName(name string) error {
	for _, c := range name {
		word := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !word && !strings.ContainsRune("._-", c) {
			return vortex.Errorf(vortex.Invalid, "the name of a schema has letters, digits, '.', '_' and '-', got %q", name)
		}
	}
	if name == "" {
		return vortex.Errorf(vortex.Invalid, "a schema needs a name to be kept under")
	}
	return nil
}

// guardSchema checks a transaction's writes of schema texts and returns the guard that holds it to what was seen;
// an empty one when there are none.
func (s *Store) guardSchema(ctx context.Context, ops []Op) (engine.Compare, error) {
	if len(ops) == 0 {
		return engine.Compare{}, nil
	}
	if err := s.Sync(ctx); err != nil {
		return engine.Compare{}, err
	}
	s.state.mu.RLock()
	guard := engine.Compare{Key: schemaGuard, ModRevision: s.state.guards[schemaGuard]}
	s.state.mu.RUnlock()
	change, err := s.schemaChange(ctx, ops)
	if err != nil {
		return guard, err
	}
	for _, op := range ops {
		if !op.forced {
			return guard, change.Refusal()
		}
	}
	return guard, nil
}
