package kind

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// A history is of one pair of keys, a and b. Each pair is checked by itself, so that checking stays quick: transactions
// and scans span both keys of a pair and no others.
type pair [2]string // values; "" is absent

// The kinds of request.
const (
	opGet = iota
	opScan
	opPut
	opCas
	opDelete
	opTxn
)

// request is what a client asked for.
type request struct {
	op     int
	key    int    // 0 or 1
	value  string // put, cas and txn: of key
	other  string // txn: of the other key; "" deletes it
	expect pair   // cas: of key; txn: of both
}

// response is what it got. An unknown one may have happened at any later time, or not at all.
type response struct {
	unknown bool
	won     bool // cas, delete, txn
	found   pair // get: of key; scan: of both
}

// register is the sequential specification of a pair.
var register = porcupine.Model{
	Init: func() any { return pair{} },
	Step: func(state, input, output any) (bool, any) {
		return step(state.(pair), input.(request), output.(response)) //nolint:forcetypeassert // this file makes them
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

// step says whether a request may have had a response in a state, and what the state is then.
func step(s pair, in request, out response) (bool, pair) {
	next, can := s, true // what it does when its condition holds
	switch in.op {
	case opGet:
		return s[in.key] == out.found[in.key], s
	case opScan:
		return s == out.found, s
	case opPut:
		next[in.key] = in.value
		return true, next
	case opCas:
		can = s[in.key] == in.expect[in.key]
		next[in.key] = in.value
	case opDelete:
		can = s[in.key] != ""
		next[in.key] = ""
	case opTxn:
		can = s == in.expect
		next[in.key], next[1-in.key] = in.value, in.other
	}
	if !can {
		next = s
	}
	return out.unknown || out.won == can, next
}

// never is when an unknown response returned: it can have happened after everything else, which is as good as not at all.
const never = math.MaxInt64

// verdict checks histories and reports how many operations were decided on.
func verdict(t *testing.T, histories [][]porcupine.Operation) (operations, unknown int) {
	t.Helper()
	var wg sync.WaitGroup
	work := make(chan []porcupine.Operation)
	for range 2 {
		wg.Go(func() {
			for h := range work {
				if result := porcupine.CheckOperationsTimeout(register, h, checkLimit); result != porcupine.Ok {
					t.Errorf("a history of %d operations is not linearizable (%s):\n%s", len(h), result, describe(h))
				}
			}
		})
	}
	for _, h := range histories {
		work <- h
		operations += len(h)
		for _, op := range h {
			if op.Return == never {
				unknown++
			}
		}
	}
	close(work)
	wg.Wait()
	return operations, unknown
}

const checkLimit = time.Minute

// describe writes a history down in the order of its calls.
func describe(h []porcupine.Operation) string {
	var text strings.Builder
	sorted := slices.SortedFunc(slices.Values(h), func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	for _, op := range sorted {
		fmt.Fprintf(&text, "%12d %12d client %d: %s\n", op.Call, op.Return, op.ClientId, register.DescribeOperation(op.Input, op.Output))
	}
	return text.String()
}

// TestTheCheckerSeesWhatIsWrong holds the proofs themselves to account.
func TestTheCheckerSeesWhatIsWrong(t *testing.T) {
	op := func(call, ret int64, in request, out response) porcupine.Operation {
		return porcupine.Operation{Input: in, Output: out, Call: call, Return: ret}
	}
	put := func(call, ret int64, value string) porcupine.Operation {
		return op(call, ret, request{op: opPut, value: value}, response{unknown: ret == never})
	}
	get := func(call int64, value string) porcupine.Operation {
		return op(call, call+1, request{op: opGet}, response{found: pair{value}})
	}
	for name, c := range map[string]struct {
		want    porcupine.CheckResult
		history []porcupine.Operation
	}{
		"in order":            {porcupine.Ok, []porcupine.Operation{put(0, 1, "x"), get(2, "x")}},
		"a stale read":        {porcupine.Illegal, []porcupine.Operation{put(0, 1, "x"), put(2, 3, "y"), get(4, "x")}},
		"a lost write":        {porcupine.Illegal, []porcupine.Operation{put(0, 1, "x"), get(2, "")}},
		"unknown, not done":   {porcupine.Ok, []porcupine.Operation{put(0, never, "x"), get(2, "")}},
		"unknown, done later": {porcupine.Ok, []porcupine.Operation{put(0, never, "x"), get(2, ""), get(4, "x")}},
		"unknown, undone":     {porcupine.Illegal, []porcupine.Operation{put(0, never, "x"), get(2, "x"), get(4, "")}},
		"two swaps won": {porcupine.Illegal, []porcupine.Operation{
			op(0, 9, request{op: opCas, value: "x"}, response{won: true}), op(0, 9, request{op: opCas, value: "y"}, response{won: true}),
		}},
		"half a transaction": {porcupine.Illegal, []porcupine.Operation{
			op(0, 1, request{op: opTxn, value: "x", other: "y"}, response{won: true}), op(2, 3, request{op: opScan}, response{found: pair{"x", ""}}),
		}},
	} {
		if got := porcupine.CheckOperationsTimeout(register, c.history, 0); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
