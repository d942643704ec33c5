package pulse

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

const ms = int64(time.Millisecond)

func pair(tb testing.TB) (*sealer, *opener) {
	tb.Helper()
	aead, err := newAEAD([KeySize]byte{1, 2, 3})
	if err != nil {
		tb.Fatal(err)
	}
	return &sealer{aead: aead}, &opener{aead: aead}
}

func TestDatagramsComeOnceInOrderAndUnchanged(t *testing.T) {
	s, o := pair(t)
	want := body{interval: 5 * ms, stall: 3 * ms, parent: 70 * ms, echo: 9, flags: flagRealTime}
	first := s.seal(make([]byte, 0, DatagramSize), kindBeat, 77, want)
	if channel, kind, err := channelOf(first); channel != 77 || kind != kindBeat || err != nil {
		t.Fatalf("channelOf: %d, %d, %v", channel, kind, err)
	}
	got, err := o.open(first)
	if err != nil || got != want {
		t.Fatalf("open: %+v, %v; want %+v", got, err, want)
	}
	if _, err := o.open(first); err == nil {
		t.Error("a datagram was taken twice")
	}
	s.seal(make([]byte, 0, DatagramSize), kindBeat, 77, want) // lost
	third := s.seal(make([]byte, 0, DatagramSize), kindBeat, 77, want)
	for i := range third {
		bad := bytes.Clone(third)
		bad[i] ^= 1
		if _, err := o.open(bad); err == nil {
			t.Errorf("byte %d could be changed", i)
		}
	}
	if _, err := o.open(third); err != nil {
		t.Errorf("open after one was lost: %v", err)
	}
}

// TestWhatOthersCarryMayBeLate opens pings after beats that were sealed later, each once, as long as they are not too old.
func TestWhatOthersCarryMayBeLate(t *testing.T) {
	s, o := pair(t)
	o.resume(0)
	seal := func(kind byte) []byte { return s.seal(make([]byte, 0, DatagramSize), kind, 1, body{}) }
	opens := func(what string, d []byte, want bool) {
		t.Helper()
		if _, err := o.open(d); (err == nil) != want {
			t.Errorf("%s: %v", what, err)
		}
	}
	old, late, lateBeat, pong := seal(kindPing), seal(kindPing), seal(kindBeat), seal(kindPong)
	for range window - 3 {
		opens("a beat", seal(kindBeat), true)
	}
	opens("a ping as far behind as may be", late, true)
	opens("the same again", late, false)
	opens("a beat that others have overtaken", lateBeat, false)
	opens("a pong", pong, true)
	opens("the same again", pong, false)
	opens("a ping that is too old", old, false)
	opens("the next beat", seal(kindBeat), true)
	unsent := seal(kindPing)
	for range 10 * window {
		seal(kindBeat)
	}
	opens("a beat after many that were lost", seal(kindBeat), true)
	opens("a ping from before them", unsent, false)
	before := seal(kindPing)
	resumed := *o
	o = &resumed
	o.resume(s.seq)
	opens("a ping from before what came in an earlier life", before, false)
	opens("a beat of this one", seal(kindBeat), true)
}

func TestSealingMakesNoGarbage(t *testing.T) {
	s, o := pair(t)
	room := make([]byte, DatagramSize)
	allocations := testing.AllocsPerRun(100, func() {
		if _, err := o.open(s.seal(room[:0], kindBeat, 1, body{interval: 5 * ms})); err != nil {
			t.Fatal(err)
		}
	})
	if allocations != 0 {
		t.Errorf("%v allocations for a datagram", allocations)
	}
}

func TestOrdersAndReportsAreReadAsTheyWereWritten(t *testing.T) {
	want := Order{
		Verb: Add, Link: 5, Generation: 6, Peer: netip.MustParseAddrPort("10.1.2.3:7947"), Channel: 8, Send: true, Watch: true,
		Out: [KeySize]byte{1}, In: [KeySize]byte{2}, OutSeq: 3, InSeq: 4, Interval: 5 * time.Millisecond, Number: 10, Datagram: []byte("x"),
	}
	got, ok := parseOrder(want.Append(nil))
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); !ok || diff != "" {
		t.Error(diff)
	}
	report := Report{Link: 1, Generation: 2, State: Silent, Ping: bytes.Repeat([]byte{3}, DatagramSize)}
	read, ok := ParseReport(report.append(nil))
	if diff := cmp.Diff(report, read); !ok || diff != "" {
		t.Error(diff)
	}
}

func TestBeatsThatDidNotComeAreCounted(t *testing.T) {
	var l link
	for _, step := range []struct {
		number uint32
		lost   uint64
	}{{100, 0}, {101, 0}, {104, 2}, {3, 0}, {5, 1}} { // the first says nothing, and a sender may begin anew
		if got := l.lost(step.number); got != step.lost {
			t.Errorf("at beat %d: %d lost; want %d", step.number, got, step.lost)
		}
	}
}

func FuzzWire(f *testing.F) {
	f.Add([]byte("VB\x01\x01"))
	f.Add(Order{Verb: Add}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, o := pair(t)
		if _, _, err := channelOf(b); err == nil {
			if _, err := o.open(b); err == nil {
				t.Error("somebody without the key made a datagram")
			}
		}
		parseOrder(b)
		ParseReport(b)
	})
}

// steady feeds a detector beats at an interval and returns the time of the last.
func steady(d *detector, at, interval int64, beats int) int64 {
	for range beats {
		at += interval
		d.beat(at, body{interval: interval, flags: flagRealTime}, 0, true)
	}
	return at
}

func TestSteadyBeatsAreMissedAfterThree(t *testing.T) {
	var d detector
	at := steady(&d, 1, 5*ms, 1000)
	if got := d.timeout(); got != 15*ms {
		t.Errorf("the timeout is %v; want 15 ms", time.Duration(got))
	}
	if d.silent(at+15*ms) || !d.silent(at+15*ms+1) {
		t.Error("the silence is judged at another time")
	}
}

func TestJitterAndLossWidenTheTimeout(t *testing.T) {
	var jittery detector
	at := steady(&jittery, 1, 5*ms, 10)
	jittery.beat(at+45*ms, body{interval: 5 * ms, flags: flagRealTime}, 0, true) // late, none lost
	if got := jittery.timeout(); got < 50*ms {
		t.Errorf("after a delay of 40 ms the timeout is %v", time.Duration(got))
	}
	steady(&jittery, at+45*ms, 5*ms, 10*60*200) // ten minutes
	if got := jittery.timeout(); got > 16*ms {
		t.Errorf("ten minutes later the timeout is still %v", time.Duration(got))
	}

	var lossy detector
	at = steady(&lossy, 1, 5*ms, 10)
	for range 1000 { // one of ten
		at = steady(&lossy, at, 5*ms, 8)
		at += 10 * ms
		lossy.beat(at, body{interval: 5 * ms, flags: flagRealTime}, 1, true)
	}
	if got := lossy.losses(); got < 9 {
		t.Errorf("with a tenth lost, %d in a row are a death", got)
	}
}

func TestWhatWasNoJitterWidensNothing(t *testing.T) {
	for name, odd := range map[string]func(d *detector, at int64){
		"the sender stalled": func(d *detector, at int64) {
			d.beat(at+50*ms, body{interval: 5 * ms, stall: 45 * ms, flags: flagRealTime}, 0, true)
		},
		"we stalled":       func(d *detector, at int64) { d.beat(at+50*ms, body{interval: 5 * ms, flags: flagRealTime}, 0, false) },
		"the link was cut": func(d *detector, at int64) { d.beat(at+50*ms, body{interval: 5 * ms, flags: flagRealTime}, 40, true) },
		"it was away":      func(d *detector, at int64) { d.beat(at+5000*ms, body{interval: 5 * ms, flags: flagRealTime}, 0, true) },
	} {
		var d detector
		odd(&d, steady(&d, 1, 5*ms, 100))
		if got := d.timeout(); got > 16*ms {
			t.Errorf("%s: the timeout is %v", name, time.Duration(got))
		}
	}
}

func TestSendersWithoutPriorityGetPatience(t *testing.T) {
	var d detector
	d.beat(1, body{interval: 5 * ms}, 0, true)
	if got := d.timeout(); got < slowPeak {
		t.Errorf("the timeout is %v", time.Duration(got))
	}
}

func TestExcuseMovesTheDeadline(t *testing.T) {
	var d detector
	at := steady(&d, 1, 5*ms, 100)
	d.excuse(200 * ms)
	if d.silent(at + 200*ms) {
		t.Error("a peer is blamed for our own stall")
	}
}

// TestTimeoutIsBounded feeds anything.
func TestTimeoutIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var d detector
		at := int64(1)
		for range rapid.IntRange(1, 200).Draw(t, "beats") {
			at += rapid.Int64Range(0, 10_000*ms).Draw(t, "gap")
			b := body{interval: rapid.SampledFrom([]int64{5 * ms, 20 * ms, 100 * ms}).Draw(t, "interval"), stall: rapid.Int64Range(0, 100*ms).Draw(t, "stall")}
			b.flags = rapid.Uint32Range(0, 1).Draw(t, "flags")
			d.beat(at, b, rapid.Uint64Range(0, 100).Draw(t, "lost"), rapid.Bool().Draw(t, "clean"))
			if got, least := d.timeout(), 3*b.interval; got < least || got > 30*100*ms+5*slowPeakLimit {
				t.Fatalf("the timeout is %v", time.Duration(got))
			}
		}
	})
}
