package kind

import (
	"strings"
)

// following keeps, for one follower, which records of a selection others name at the moment.
type following struct {
	sel Selection
	by  Selection
	// names is the key that each of the others names, and held how many name it.
	names map[string]string
	held  map[string]int
}

// followings returns the selections with a Via as they stand in memory. What is followed from an earlier revision on is brought
// to that again by its own events.
func (s *Store) followings(selections []Selection) (all []*following) {
	s.View(func(v View) {
		v.now = 0
		for _, sel := range selections {
			if sel.Via == nil {
				continue
			}
			by, _ := source(selections, sel.Via)
			w := &following{sel: sel, by: by, names: map[string]string{}, held: map[string]int{}}
			v.each(by, "", "", func(rec *Record) bool {
				w.note(rec.Key, sel.named(rec), map[string]bool{})
				return true
			})
			all = append(all, w)
		}
	})
	return all
}

// note takes in that one of the others names a key now, "" being none, and adds to changed what is named from now on, or not any more.
func (w *following) note(other, key string, changed map[string]bool) {
	before := w.names[other]
	if before == key {
		return
	}
	if before != "" {
		if w.held[before]--; w.held[before] == 0 {
			delete(w.held, before)
			changed[before] = true
		}
	}
	delete(w.names, other)
	if key != "" {
		w.names[other] = key
		if w.held[key]++; w.held[key] == 1 {
			changed[key] = true
		}
	}
}

// changes takes in the others' events of a batch, and returns the keys of which it may have changed whether they are named.
func (w *following) changes(events []Event) map[string]bool {
	changed := map[string]bool{}
	for _, ev := range events {
		if !strings.HasPrefix(ev.Key, w.by.Prefix) {
			continue
		}
		if ev.Record != nil && w.by.matches(ev.Record) {
			w.note(ev.Key, w.sel.named(ev.Record), changed)
		} else {
			w.note(ev.Key, "", changed)
		}
		if ev.Prev == nil {
			continue
		}
		if key := w.sel.named(ev.Prev); w.held[key] == 0 {
			changed[key] = true // it may have been named before we followed
		}
	}
	return changed
}

// resolve leaves of a batch what is selected, with the records that are named from now on and the end of those that are not any
// more. A record that is named from now on comes as memory has it, which may be as a later transaction leaves it.
func (f *Feed) resolve(batch Batch) Batch {
	chosen := make([]Event, 0, len(batch.Events))
	for _, ev := range batch.Events {
		if f.keeps(ev.Key) {
			chosen = append(chosen, ev)
		}
	}
	for _, w := range f.via {
		changed := w.changes(batch.Events)
		for _, ev := range batch.Events {
			if strings.HasPrefix(ev.Key, w.sel.Prefix) && w.held[ev.Key] > 0 {
				chosen = append(chosen, ev)
				delete(changed, ev.Key)
			}
		}
		f.store.View(func(v View) {
			for key := range changed {
				ev := Event{Key: key, Revision: batch.Revision}
				if ev.Record, _ = v.s.records.Get(key); w.held[key] == 0 {
					ev.Record, ev.Deleted = nil, true
				}
				if ev.Deleted || ev.Record != nil {
					chosen = append(chosen, ev)
				}
			}
		})
	}
	batch.Events = chosen
	return batch
}

// keeps reports whether a key is of a selection without Via.
func (f *Feed) keeps(key string) bool {
	for _, w := range f.via {
		if strings.HasPrefix(key, w.sel.Prefix) {
			return false
		}
	}
	return true
}
