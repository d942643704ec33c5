package kind

import (
	"context"
	"fmt"
	"strings"

	"vortex/internal/kind/ksl"
)

const (
	namedCollisions = 5    // values that several records hold which are named
	checkContext    = 1024 // records between two looks at whether anybody still waits
)

// meet adds what the records stand against the change: those that do not fit, and those that share a value which becomes
// unique. A new type may lie over records that do not fit it: it types what is written from then on.
func (c *SchemaChange) meet(ctx context.Context, frozen *state, now int64) error {
	breaking := map[string]bool{}
	for _, d := range c.Differences {
		name, _, _ := strings.Cut(d.Path, ".")
		breaking[name] = breaking[name] || d.Breaking
	}
	for _, typ := range c.Schema.Types {
		if typ.Prefix == "" {
			continue
		}
		was, ok := frozen.schema.Type(typ.Name)
		m := meeting{change: c, typ: typ, fresh: !ok, unique: newlyUnique(was, typ), holders: map[fieldKey]string{}}
		m.validate = !ok || was.Prefix != typ.Prefix || breaking[typ.Name]
		if !m.validate && len(m.unique) == 0 {
			continue
		}
		if err := m.look(ctx, frozen, now); err != nil {
			return err
		}
	}
	return nil
}

// newlyUnique returns the places in Indexed of the fields that become unique.
func newlyUnique(was, typ *ksl.Type) (places []int) {
	for i, f := range typ.Indexed() {
		if !f.Unique {
			continue
		}
		if was != nil {
			if before, ok := was.Field(f.Name); ok && before.Unique {
				continue
			}
		}
		places = append(places, i)
	}
	return places
}

// meeting holds the records of one type against its new form.
type meeting struct {
	change   *SchemaChange
	typ      *ksl.Type
	fresh    bool // the type is new: what does not fit never did
	validate bool
	unique   []int

	records, misfits int
	misfit           string // the first
	holders          map[fieldKey]string
	collisions       map[string][]string // of each field
	room             [][]byte
}

func (m *meeting) look(ctx context.Context, frozen *state, now int64) error {
	m.collisions = map[string][]string{}
	frozen.eachBelow(m.typ.Prefix, "", func(rec *Record) bool {
		owner, _ := m.change.Schema.TypeOf(rec.Key)
		if owner == m.typ && !rec.expired(now) {
			m.record(rec)
		}
		return m.records%checkContext != 0 || ctx.Err() == nil
	})
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("hold the records against the schema: %w", err)
	}
	m.report()
	return nil
}

func (m *meeting) record(rec *Record) {
	m.records++
	if m.validate {
		if err := m.typ.Validate(rec.Value); err != nil {
			if m.misfits++; m.misfits == 1 {
				m.misfit = fmt.Sprintf("%q: %v", rec.Key, err)
			}
		}
	}
	if len(m.unique) == 0 {
		return
	}
	m.room = m.typ.IndexValues(rec.Value, m.room[:0])
	for _, i := range m.unique {
		if len(m.room[i]) == 0 {
			continue
		}
		field := m.typ.Indexed()[i].Name
		value := fieldKey{field, string(m.room[i])}
		if other, taken := m.holders[value]; taken {
			m.collisions[field] = append(m.collisions[field], fmt.Sprintf("%q by %q and %q", value.field, other, rec.Key))
			continue
		}
		m.holders[value] = rec.Key
	}
}

func (m *meeting) report() {
	if m.misfits > 0 {
		what := fmt.Sprintf("%d of %d records do not fit and stay as they are; the first is %s", m.misfits, m.records, m.misfit)
		m.change.Differences = append(m.change.Differences, ksl.Difference{Path: m.typ.Name, What: what, Breaking: !m.fresh})
	}
	for _, i := range m.unique {
		field := m.typ.Indexed()[i].Name
		held := m.collisions[field]
		if len(held) == 0 {
			continue
		}
		what := "records share values that have to be unique: " + strings.Join(held[:min(len(held), namedCollisions)], ", ")
		if more := len(held) - namedCollisions; more > 0 {
			what += fmt.Sprintf(" and %d more", more)
		}
		m.change.Differences = append(m.change.Differences, ksl.Difference{Path: m.typ.Name + "." + field, What: what, Breaking: true})
	}
}
