package bench

import (
	"math"
	"testing"
	"time"
)

// What an evaluation may cost in terms of the bare loop's before this test fails. It is
// far above what `make bench` finds, because it must hold on a machine that does other
// things, too; it is there to notice an evaluation that began to allocate, to parse or
// to wait.
const (
	mostOff = 2.0
	mostOn  = 2.5
)

// TestRatio compares the least times of many short runs in turn, which do not depend on
// how fast a machine is.
func TestRatio(t *testing.T) {
	find := func(name string) Peer {
		for _, p := range Peers() {
			if p.Name == name {
				return p
			}
		}
		t.Fatalf("no peer %s", name)
		return Peer{}
	}
	for _, events := range []bool{false, true} {
		bare, ours := open(t, find("floor"), 1000, events), open(t, find("flagstead"), 1000, events)
		most := mostOff
		if events {
			most = mostOn
		}
		for _, c := range Cases {
			ratio := math.Inf(1)
			for range 3 { // again, if somebody was in the way
				if ratio = least(ours, c) / least(bare, c); ratio <= most {
					break
				}
			}
			t.Logf("events %s, %s: %.2f", onOff(events), c, ratio)
			if ratio > most {
				t.Errorf("events %s, %s: %.2f times the bare loop, want at most %.1f", onOff(events), c, ratio, most)
			}
		}
	}
}

// least returns the time of an evaluation in the fastest of many runs.
func least(s Session, c Case) float64 {
	const runs, calls = 200, 500
	key, best := Question(c), time.Duration(math.MaxInt64)
	for range runs {
		began := time.Now()
		for range calls {
			s.Bool(key, true)
		}
		best = min(best, time.Since(began))
	}
	return float64(best) / calls
}

// TestNoAllocations: no case of the tables allocates.
func TestNoAllocations(t *testing.T) {
	for _, p := range Peers() {
		if p.Name != "flagstead" {
			continue
		}
		for _, events := range []bool{false, true} {
			s := open(t, p, 1000, events)
			for _, c := range Cases {
				key := Question(c)
				s.Bool(key, true)
				if n := testing.AllocsPerRun(200, func() { s.Bool(key, true) }); n != 0 {
					t.Errorf("events %s, %s: %v allocations", onOff(events), c, n)
				}
			}
		}
	}
}
