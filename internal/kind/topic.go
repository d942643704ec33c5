package kind

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// topic is what all watchers with the same prefixes and the same indexed filter read: a chain of batches
// with the events they asked for. Each watcher has its own place in the chain; what every watcher has left behind is
// collected as garbage.
type topic struct {
	key      string
	prefixes []string
	filter   *Filter

	tail atomic.Pointer[link]

	// Under the hub's lock.
	watchers int
	dirty    bool
	selected []Event // of the batch being published; reused

	// The waking goroutine's own.
	late  bool     // waits to be woken
	woken []*Watch // reused

	mu      sync.Mutex
	members map[*Watch]struct{}
}

const (
	squad  = 4                    // so many watchers are woken before they get the processor
	waking = 2 * time.Millisecond // after which the rest of a topic is woken at once, for other topics wait
)

// link is one batch of a chain. The first link of a chain holds none.
type link struct {
	batch Batch
	end   lag // batches and bytes of the chain up to and with this one
	next  atomic.Pointer[link]
}

// extend appends the selected events to the chain.
func (t *topic) extend(batch Batch) {
	if len(t.selected) < len(batch.Events) {
		batch.Events = make([]Event, len(t.selected))
		copy(batch.Events, t.selected)
	}
	clear(t.selected)
	t.selected = t.selected[:0]
	last := t.tail.Load()
	l := &link{batch: batch, end: lag{last.end.batches + 1, last.end.bytes + batch.size()}}
	last.next.Store(l)
	t.tail.Store(l)
}

// admit makes a watch one of those that are woken.
func (t *topic) admit(w *Watch, limit lag) {
	t.mu.Lock()
	t.members[w] = struct{}{}
	t.mu.Unlock()
	w.notice(limit) // for what was published before
}

func (t *topic) dismiss(w *Watch) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.members, w)
}

// wake wakes every watcher, drops the ones that are too far behind, and returns how many there are.
//
// It wakes a few at a time and lets them run: so the first ones' events are under way to their clients while the others are
// woken. Woken all at once they go step by step together, and nothing leaves before the last of them had its turn.
func (t *topic) wake(limit lag) int {
	t.mu.Lock()
	for w := range t.members {
		t.woken = append(t.woken, w)
	}
	t.mu.Unlock()
	n, began := len(t.woken), time.Now()
	for i, w := range t.woken {
		w.notice(limit)
		if i%squad == squad-1 && time.Since(began) < waking {
			runtime.Gosched()
		}
	}
	clear(t.woken)
	t.woken = t.woken[:0]
	return n
}

// crowded reports whether so many watch that they are woken with pauses in between.
func (t *topic) crowded() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.members) > crowd
}

// topicIndex finds the topics that an event concerns without looking at the others.
type topicIndex struct {
	byKey   map[string]*topic
	nodes   map[string]*prefixNode
	lengths map[int]int // of the prefixes in nodes, and how many have it
	sorted  []int       // the same lengths, ascending
	touched []*topic    // by the batch being published; reused
}

// prefixNode holds the topics that name one prefix.
type prefixNode struct {
	topics []*topic
	fields map[string]map[string][]*topic // indexed field -> value -> the topics that filter on it
}

// gather puts each event into the topics it concerns, which are touched then.
func (x *topicIndex) gather(events []Event) {
	clear(x.touched)
	x.touched = x.touched[:0]
	if len(x.nodes) == 0 {
		return
	}
	for i := range events {
		ev := &events[i]
		for _, n := range x.sorted {
			if n > len(ev.Key) {
				break
			}
			if node := x.nodes[ev.Key[:n]]; node != nil {
				x.offer(node, ev)
			}
		}
	}
}

// offer puts an event into the topics of a node.
func (x *topicIndex) offer(node *prefixNode, ev *Event) {
	x.choose(node.topics, ev)
	for field, byValue := range node.fields {
		var now string
		if ev.Record != nil {
			now = jsonField(ev.Record.Value, field)
			x.choose(byValue[now], ev)
		}
		if ev.Prev == nil {
			continue
		}
		if before := jsonField(ev.Prev.Value, field); ev.Record == nil || before != now {
			x.choose(byValue[before], ev)
		}
	}
}

// choose adds an event to what each topic gets of the batch.
func (x *topicIndex) choose(topics []*topic, ev *Event) {
	for _, t := range topics {
		if ev.memo == nil {
			ev.memo = &Memo{}
		}
		if len(t.selected) == 0 {
			x.touched = append(x.touched, t)
		}
		t.selected = append(t.selected, *ev)
	}
}

// join returns the topic of some prefixes and an indexed filter, nil being none, for one more watcher.
func (x *topicIndex) join(prefixes []string, filter *Filter) *topic {
	key := fmt.Sprintf("%q", prefixes)
	if filter != nil {
		key = fmt.Sprintf("%q %q", prefixes, *filter)
	}
	t := x.byKey[key]
	if t == nil {
		t = &topic{key: key, prefixes: prefixes, filter: filter, members: map[*Watch]struct{}{}}
		t.tail.Store(&link{})
		x.byKey[key] = t
		for _, p := range prefixes {
			x.insert(p, t)
		}
	}
	t.watchers++
	return t
}

// part takes one watcher from a topic, and forgets a topic without watchers.
func (x *topicIndex) part(t *topic) {
	if t.watchers--; t.watchers > 0 {
		return
	}
	delete(x.byKey, t.key)
	for _, p := range t.prefixes {
		x.remove(p, t)
	}
}

func (x *topicIndex) insert(prefix string, t *topic) {
	node := x.nodes[prefix]
	if node == nil {
		node = &prefixNode{fields: map[string]map[string][]*topic{}}
		x.nodes[prefix] = node
		if x.lengths[len(prefix)]++; x.lengths[len(prefix)] == 1 {
			x.sorted = slices.Sorted(maps.Keys(x.lengths))
		}
	}
	if t.filter == nil {
		node.topics = append(node.topics, t)
		return
	}
	byValue := node.fields[t.filter.Field]
	if byValue == nil {
		byValue = map[string][]*topic{}
		node.fields[t.filter.Field] = byValue
	}
	byValue[t.filter.Value] = append(byValue[t.filter.Value], t)
}

func (x *topicIndex) remove(prefix string, t *topic) {
	node := x.nodes[prefix]
	isT := func(other *topic) bool { return other == t }
	if f := t.filter; f == nil {
		node.topics = slices.DeleteFunc(node.topics, isT)
	} else {
		byValue := node.fields[f.Field]
		if byValue[f.Value] = slices.DeleteFunc(byValue[f.Value], isT); len(byValue[f.Value]) == 0 {
			delete(byValue, f.Value)
		}
		if len(byValue) == 0 {
			delete(node.fields, f.Field)
		}
	}
	if len(node.topics) > 0 || len(node.fields) > 0 {
		return
	}
	delete(x.nodes, prefix)
	if x.lengths[len(prefix)]--; x.lengths[len(prefix)] == 0 {
		delete(x.lengths, len(prefix))
		x.sorted = slices.Sorted(maps.Keys(x.lengths))
	}
}

// narrow returns the prefixes without those that another one covers, so that no key is selected twice. None is all keys.
func narrow(prefixes []string) []string {
	if len(prefixes) == 0 {
		return []string{""}
	}
	var kept []string
	for _, p := range slices.Sorted(slices.Values(prefixes)) {
		if len(kept) == 0 || !strings.HasPrefix(p, kept[len(kept)-1]) {
			kept = append(kept, p)
		}
	}
	return kept
}
