package kind

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	kindpb "vortex/proto/kind"
	"vortex/test/harness"
)

const crashSchema = `
@prefix("crash:user")
type CrashUser {
	@unique mail: String,
	@indexed team: String,
	@indexed active: Bool,
	turn: U64
}`

const (
	crashClients = 8
	crashKeys    = 60  // records of a client
	crashMails   = 900 // fewer than there are records wanted: clients meet
	crashTeams   = 12
)

// user is what is indexed of a typed record.
type user struct {
	Mail   string `json:"mail"`
	Team   string `json:"team"`
	Active bool   `json:"active"`
}

// wanted is what a key has to hold; a zero life never ends.
type wanted struct {
	value    string // "" is absent
	from, to time.Time
}

// visible reports whether the record may be seen, and whether it may be missing, by a read between two moments.
func (w wanted) visible(before, after time.Time) (may, mayNot bool) {
	switch {
	case w.value == "":
		return false, true
	case w.to.IsZero():
		return true, false
	default:
		return before.Before(w.to), !after.Before(w.from)
	}
}

// writer is a client that alone writes its keys and knows what they must hold.
type writer struct {
	id    int
	turn  uint64
	holds map[string]wanted
	sent  map[string]wanted // what a request without an answer would have changed
	acks  int
}

// work writes until the server is gone.
func (w *writer) work(ctx context.Context, kind kindpb.KindServiceClient) {
	for ctx.Err() == nil {
		w.turn++
		ops, changes := w.draw()
		began := time.Now()
		resp, err := kind.Txn(ctx, &kindpb.TxnRequest{Operations: ops})
		for key, change := range changes {
			if !change.to.IsZero() { // until now it was a length of life
				life := change.to.Sub(change.from)
				changes[key] = wanted{change.value, began.Add(life), time.Now().Add(life)}
			}
		}
		switch status.Code(err) {
		case codes.OK:
			if resp.GetSuccess() {
				w.acks++
				maps.Copy(w.holds, changes)
			}
		case codes.AlreadyExists, codes.Aborted: // nothing happened
		default:
			w.sent = changes
			return
		}
	}
}

// draw makes a transaction of one to four writes.
func (w *writer) draw() (ops []*kindpb.Operation, changes map[string]wanted) {
	changes = map[string]wanted{}
	for range 1 + rand.IntN(2)*rand.IntN(4) {
		n := rand.IntN(crashKeys)
		key, value, life := fmt.Sprintf("crash:user:%d:%d", w.id, n), "", time.Duration(0)
		switch rand.IntN(10) {
		case 0: // a delete
		case 1, 2:
			key, value, life = fmt.Sprintf("brief:%d:%d", w.id, n), strconv.FormatUint(w.turn, 10), time.Duration(50+rand.IntN(3000))*time.Millisecond
		case 3:
			key, value = fmt.Sprintf("opaque:%d:%d", w.id, n), strconv.FormatUint(w.turn, 10)
		default:
			value = fmt.Sprintf(`{"mail":"m%d@x","team":"t%d","active":%t,"turn":%d}`, rand.IntN(crashMails), rand.IntN(crashTeams), rand.IntN(2) == 0, w.turn)
		}
		if _, twice := changes[key]; twice {
			continue
		}
		changes[key] = wanted{value: value}
		op := &kindpb.Operation{Operation: &kindpb.Operation_Delete{Delete: &kindpb.DeleteRequest{Key: key}}}
		if value != "" {
			put := &kindpb.PutRequest{Key: key, Value: []byte(value)}
			if life > 0 {
				ms := uint64(life.Milliseconds())
				put.TtlMs = &ms
				changes[key] = wanted{value, time.UnixMilli(0), time.UnixMilli(int64(ms))}
			}
			op = &kindpb.Operation{Operation: &kindpb.Operation_Put{Put: put}}
		}
		ops = append(ops, op)
	}
	return ops, changes
}

// settle compares what the store holds with what it must, and takes over what became of the request without an answer: it
// happened whole or not at all.
func (w *writer) settle(t *testing.T, found map[string]string, before, after time.Time) (happened bool) {
	t.Helper()
	if len(w.sent) > 0 {
		next := maps.Clone(w.holds)
		maps.Copy(next, w.sent)
		if len(w.wrong(next, found, before, after)) == 0 {
			w.holds, happened = next, true
		}
	}
	for _, problem := range w.wrong(w.holds, found, before, after) {
		t.Errorf("client %d: %s (in flight: %v)", w.id, problem, w.sent)
	}
	w.sent = nil
	return happened
}

func (w *writer) wrong(holds map[string]wanted, found map[string]string, before, after time.Time) (problems []string) {
	for key, want := range holds {
		got, there := found[key]
		may, mayNot := want.visible(before, after)
		if there && (!may || got != want.value) || !there && !mayNot {
			problems = append(problems, fmt.Sprintf("%s holds %q, want %+v", key, got, want))
		}
	}
	return problems
}

// TestCrashes kills the server in the middle of writes again and again.
func TestCrashes(t *testing.T) {
	v := serve(t, harness.Options{Args: []string{"--kind-anonymous", "full"}})
	if _, err := connect(t, v).Schema(t.Context(), &kindpb.SchemaRequest{Name: "crash", Text: []byte(crashSchema)}); err != nil {
		t.Fatal(err)
	}
	writers := make([]*writer, crashClients)
	for i := range writers {
		writers[i] = &writer{id: i, holds: map[string]wanted{}}
	}
	rounds, began := long(100), time.Now()
	inFlight, happened, compared := 0, 0, 0
	var starts []time.Duration
	for round := range rounds {
		load(t, v, writers)
		if err := v.Restart(context.Background()); err != nil {
			t.Fatal(err)
		}
		starts = append(starts, v.Took)
		kind := connect(t, v)
		before := time.Now()
		resp, err := kind.RangeScan(t.Context(), &kindpb.RangeScanRequest{Lo: "brief", Hi: "opaque~"})
		if err != nil {
			t.Fatal(err)
		}
		after := time.Now()
		found := map[string]string{}
		for _, rec := range resp.GetRecords() {
			found[rec.GetKey()] = string(rec.GetValue())
		}
		for _, w := range writers {
			inFlight += min(1, len(w.sent))
			if w.settle(t, found, before, after) {
				happened++
			}
		}
		compared += compareIndexes(t, kind, found, round == rounds-1)
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	acks := 0
	for _, w := range writers {
		acks += w.acks
	}
	slices.Sort(starts)
	t.Logf("%d crashes in %s: %d transactions acknowledged, all there; %d were in flight, of which %d happened, each whole; %d answers of indexes compared with the records; back after %s (median), %s (longest)",
		rounds, time.Since(began).Round(time.Second), acks, inFlight, happened, compared, starts[len(starts)/2].Round(time.Millisecond), starts[len(starts)-1].Round(time.Millisecond))
}

// load lets all clients write and kills the server at some moment.
func load(t *testing.T, v *harness.Vortex, writers []*writer) {
	t.Helper()
	kind := connect(t, v)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var wg sync.WaitGroup
	for _, w := range writers {
		wg.Go(func() { w.work(ctx, kind) })
	}
	pause(ctx, time.Duration(20+rand.IntN(150))*time.Millisecond)
	v.Kill()
	wg.Wait()
}

// compareIndexes holds every index to the records: each value of each indexed field finds exactly the records that a scan
// finds, and no value of a unique field has two. Of the unique ones a part is asked for unless all is set.
func compareIndexes(t *testing.T, kind kindpb.KindServiceClient, found map[string]string, all bool) (compared int) {
	t.Helper()
	want := map[[2]string][]string{}
	for key, value := range found {
		var u user
		if len(key) < len("crash:") || key[:len("crash:")] != "crash:" {
			continue
		}
		if err := json.Unmarshal([]byte(value), &u); err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		for _, at := range [][2]string{{"mail", u.Mail}, {"team", u.Team}, {"active", strconv.FormatBool(u.Active)}} {
			want[at] = append(want[at], key)
		}
	}
	for n := range crashMails { // values that nobody has find nothing
		at := [2]string{"mail", fmt.Sprintf("m%d@x", n)}
		want[at] = append([]string{}, want[at]...)
	}
	for at, keys := range want {
		if at[0] == "mail" && len(keys) > 1 {
			t.Errorf("%s is not unique: %v", at[1], keys)
		}
		if at[0] == "mail" && !all && rand.IntN(10) > 0 {
			continue
		}
		resp, err := kind.Query(t.Context(), &kindpb.QueryRequest{SchemaType: "CrashUser", Field: at[0], Value: at[1], Consistency: kindpb.Consistency_SNAPSHOT})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, rec := range resp.GetRecords() {
			got = append(got, rec.GetKey())
		}
		slices.Sort(keys)
		if !slices.Equal(got, keys) {
			t.Errorf("%s = %s: the index finds %v, a scan %v", at[0], at[1], got, keys)
		}
		compared++
	}
	return compared
}
