package kind_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
)

const potSchema = `enum Glaze { matt, gloss }
@prefix("pot")
type Pot {
    @indexed name: String,
    glaze: Glaze?,
    litres: U8?
}
`

func load(t *testing.T, s *kind.Store, name, text string, force bool) error {
	t.Helper()
	_, err := s.LoadSchema(t.Context(), name, []byte(text), force)
	return err
}

func mustLoad(t *testing.T, s *kind.Store, name, text string) {
	t.Helper()
	if err := load(t, s, name, text, false); err != nil {
		t.Fatal(err)
	}
}

func putText(t *testing.T, s *kind.Store, key, value string) {
	t.Helper()
	if _, err := s.Put(t.Context(), key, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// TestEveryWayToASchemaIsChecked tries to bring a breaking text in by each of the store's writes.
func TestEveryWayToASchemaIsChecked(t *testing.T) {
	s := kindtest.Open(t)
	mustLoad(t, s, "pots", potSchema)
	putText(t, s, "pot:1", `{"name":"a"}`)
	before, err := s.Get(kind.SchemaPrefix + "pots")
	if err != nil {
		t.Fatal(err)
	}
	key, breaking := kind.SchemaPrefix+"pots", []byte(strings.Replace(potSchema, "litres: U8?", "litres: String?", 1))
	for name, write := range map[string]func() error{
		"put":    func() error { _, err := s.Put(t.Context(), key, breaking, 0); return err },
		"swap":   func() error { _, err := s.Swap(t.Context(), key, before.Value, breaking, 0); return err },
		"delete": func() error { _, err := s.Delete(t.Context(), key); return err },
		"load":   func() error { return load(t, s, "pots", string(breaking), false) },
		"txn": func() error {
			_, err := s.Commit(t.Context(), kind.Txn{Ops: []kind.Op{{Key: "other"}, {Key: key, Value: breaking}}})
			return err
		},
		"expiring":     func() error { _, err := s.Put(t.Context(), key, []byte(potSchema), time.Hour); return err },
		"another name": func() error { return load(t, s, "jars", string(breaking), false) },
		"bad name":     func() error { return load(t, s, "a:b", potSchema, true) },
		"no name":      func() error { return load(t, s, "", potSchema, true) },
		"no schema":    func() error { return load(t, s, "jars", "type {", true) },
		"its own keys": func() error { return load(t, s, "jars", `@prefix("vortex") type All { x: U8 }`, true) },
		"cluster's":    func() error { return load(t, s, "jars", `@prefix("vortex:app") type Mine { x: U8 }`, true) },
		"cluster type": func() error { return load(t, s, "jars", `@prefix("vortex:app") type AppRecord { name: U8? }`, true) },
	} {
		if err := write(); !vortex.IsKind(err, vortex.Invalid) {
			t.Errorf("%s: %v; want Invalid", name, err)
		}
	}
	after, err := s.Get(key)
	if err != nil || after.ModRevision != before.ModRevision || len(s.SchemaTexts()) != 2 {
		t.Errorf("the schema was changed: %v, %v, %d texts", after, err, len(s.SchemaTexts()))
	}
}

func TestRefusalNamesEverythingWithItsPlace(t *testing.T) {
	s := kindtest.Open(t)
	mustLoad(t, s, "pots", potSchema)
	putText(t, s, "pot:1", `{"name":"a","litres":2}`)
	putText(t, s, "pot:2", `{"name":"a"}`)
	err := load(t, s, "pots", `enum Glaze { matt }
@prefix("pot")
type Pot {
    @unique name: String,
    litres: String?, size: U8
}`, false)
	want := `the schema does not fit the running one; force it if this is meant:
pots:1:6: Glaze.gloss: the value is removed; records may have it
  enum Glaze { matt }
       ^^^^^
pots:5:5: Pot.litres: its type changes from U8 to String
      litres: String?, size: U8
      ^^^^^^
pots:5:22: Pot.size: the new field is required; make it optional or give it a default
      litres: String?, size: U8
                       ^^^^
pots:3:6: Pot.glaze: the field is removed; records may have it
  type Pot {
       ^^^
pots:3:6: Pot: 2 of 2 records do not fit and stay as they are; the first is "pot:1": Pot.litres: expected a string, got 2
  type Pot {
       ^^^
pots:4:13: Pot.name: records share values that have to be unique: "a" by "pot:1" and "pot:2"
      @unique name: String,
              ^^^^`
	if diff := cmp.Diff(want, fmt.Sprint(err)); diff != "" {
		t.Errorf("wrong refusal (-want +got):\n%s", diff)
	}
}

// TestForcedChange leaves records that do not fit readable, and refuses the next write that does not.
func TestForcedChange(t *testing.T) {
	s := kindtest.Open(t)
	mustLoad(t, s, "pots", potSchema)
	putText(t, s, "pot:1", `{"name":"a","litres":2}`)
	newer := `@prefix("pot") type Pot { @indexed name: String, litres: String? }`
	if err := load(t, s, "pots", newer, true); err != nil {
		t.Fatal(err)
	}
	if found, err := s.Query("Pot", kind.Filter{Field: "name", Value: "a"}, 0, 0); err != nil || len(found) != 1 {
		t.Errorf("the record that does not fit: %d, %v", len(found), err)
	}
	if _, err := s.Put(t.Context(), "pot:1", []byte(`{"name":"a","litres":2}`), 0); !vortex.IsKind(err, vortex.Invalid) {
		t.Errorf("a write that does not fit: %v; want Invalid", err)
	}
	putText(t, s, "pot:1", `{"name":"a","litres":"2"}`)
	if _, err := s.Delete(t.Context(), kind.SchemaPrefix+"pots"); !vortex.IsKind(err, vortex.Invalid) {
		t.Errorf("a type with records is removed: %v", err)
	}
	if err := load(t, s, "pots", "# nothing", true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Delete(t.Context(), kind.SchemaPrefix+"pots"); err != nil {
		t.Error(err)
	}
	putText(t, s, "pot:1", "opaque again")
}

// TestTypeOverRecordsThatDoNotFit types keys that were opaque: what was there stays, and is told.
func TestTypeOverRecordsThatDoNotFit(t *testing.T) {
	s := kindtest.Open(t)
	putText(t, s, "pot:1", `{"name":"a"}`)
	putText(t, s, "pot:2", `opaque`)
	change, err := s.LoadSchema(t.Context(), "pots", []byte(potSchema), false)
	if err != nil {
		t.Fatal(err)
	}
	want := `Pot: 1 of 2 records do not fit and stay as they are; the first is "pot:2": Pot: invalid JSON at byte 0: expected a value, got 'o'`
	if last := change.Differences[len(change.Differences)-1]; last.String() != want || last.Breaking {
		t.Errorf("told %v, want %s", last, want)
	}
	if rec, err := s.Get("pot:2"); err != nil || string(rec.Value) != "opaque" {
		t.Errorf("the record that does not fit: %v, %v", rec, err)
	}
	if _, err := s.Put(t.Context(), "pot:2", []byte("opaque"), 0); !vortex.IsKind(err, vortex.Invalid) {
		t.Errorf("it is written again as it was: %v", err)
	}
}

// TestClusterTypesCanBeExtended adds a field and an index to a built-in type, and restarts with them.
func TestClusterTypesCanBeExtended(t *testing.T) {
	dir := t.TempDir()
	e := openEngine(t, dir)
	s, stop := openStore(t, kind.Config{Engine: e}, userSchema)
	mustLoad(t, s, "more", `@prefix("user") type User { @unique email: String, @unique phone: String?, @indexed team: String?, @indexed town: String? }`)
	putText(t, s, "user:1", `{"email":"a@x","town":"Graz"}`)
	stop()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = openEngine(t, dir)
	t.Cleanup(func() { _ = e.Close() })
	newer := strings.Replace(userSchema, "@indexed team", "age: U8 @default(3), room: U8?, @indexed team", 1)
	s, _ = openStore(t, kind.Config{Engine: e}, newer)
	putText(t, s, "user:2", `{"email":"b@x","town":"Graz","room":7}`)
	found, err := s.Query("User", kind.Filter{Field: "town", Value: "Graz"}, 0, 0)
	if err != nil || len(found) != 2 {
		t.Errorf("the program's newer type lost what was added: %d, %v", len(found), err)
	}
}

// TestUpgradeThatTakesAStoredTypesKeys starts a program whose built-in types own what a stored text typed: the program wins.
func TestUpgradeThatTakesAStoredTypesKeys(t *testing.T) {
	dir := t.TempDir()
	e := openEngine(t, dir)
	s, stop := openStore(t, kind.Config{Engine: e}, userSchema)
	mustLoad(t, s, "pots", potSchema)
	mustLoad(t, s, "pets", `@prefix("pet") type Pet { @indexed name: String }`)
	putText(t, s, "pot:1", `{"name":"a"}`)
	stop()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = openEngine(t, dir)
	t.Cleanup(func() { _ = e.Close() })
	s, _ = openStore(t, kind.Config{Engine: e}, userSchema+` @prefix("pot") type Potato { kilos: U8 }`)
	putText(t, s, "pot:2", `{"kilos":3}`)
	if rec, err := s.Get("pot:1"); err != nil || string(rec.Value) != `{"name":"a"}` {
		t.Errorf("the old record: %v, %v", rec, err)
	}
	putText(t, s, "pet:1", `{"name":"rex"}`)
	if _, err := s.Put(t.Context(), "pet:1", []byte(`{}`), 0); !vortex.IsKind(err, vortex.Invalid) {
		t.Errorf("the other stored schema is lost: %v", err)
	}
}

// TestServersAgreeOnSchemas lets two servers load texts that exclude each other at the same time: one is refused each
// time, and both servers have the same types.
func TestServersAgreeOnSchemas(t *testing.T) {
	e := openEngine(t, t.TempDir())
	t.Cleanup(func() { _ = e.Close() })
	a, _ := openStore(t, kind.Config{Engine: e}, userSchema)
	b, _ := openStore(t, kind.Config{Engine: e}, userSchema)
	for round := range 20 {
		var won atomic.Int32
		var wg sync.WaitGroup
		for n, s := range []*kind.Store{a, b} {
			wg.Go(func() {
				text := fmt.Sprintf(`@prefix("p%d") type T%d_%d { @indexed x: String }`, round, round, n)
				switch err := load(t, s, fmt.Sprintf("s%d-%d", round, n), text, false); {
				case err == nil:
					won.Add(1)
				case !vortex.IsKind(err, vortex.Invalid):
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("round %d: %d of 2 texts are in force that exclude each other", round, won.Load())
		}
	}
	for _, s := range []*kind.Store{a, b} {
		if err := s.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(a.Schema().String(), b.Schema().String()); diff != "" {
		t.Errorf("the servers differ:\n%s", diff)
	}
}

// TestSchemaIsInForceOnEveryServer loads a text on one server and writes on the other.
func TestSchemaIsInForceOnEveryServer(t *testing.T) {
	e := openEngine(t, t.TempDir())
	t.Cleanup(func() { _ = e.Close() })
	a, _ := openStore(t, kind.Config{Engine: e}, userSchema)
	b, _ := openStore(t, kind.Config{Engine: e}, userSchema)
	mustLoad(t, a, "pots", potSchema)
	if err := b.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(t.Context(), "pot:1", []byte(`{}`), 0); !vortex.IsKind(err, vortex.Invalid) {
		t.Errorf("the other server accepts what the schema refuses: %v", err)
	}
}
