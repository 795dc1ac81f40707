// Package faultstore wraps a store so that it misbehaves on demand: for tests of
// what a service does when its store fails, hangs or goes away.
//
//	st, faults := faultstore.Wrap(memory.New())
//	client, err := sdk.New(sdk.Config{Store: st})
//	…
//	faults.Hang(faultstore.Load)            // Redis accepts connections and answers nobody
//	faults.Fail(faultstore.Apply, errTimeout, faultstore.Every(3))
//	faults.FailAfter(faultstore.Apply, nil) // it commits, and the answer is lost
//	faults.Delay(faultstore.All, 200*time.Millisecond, faultstore.Chance(0.1))
//	faults.LoseWakes(true)                  // no push any more, polling has to do
//	faults.Down()                           // nothing works
//	faults.Reset()                          // all is well again
//
// Without faults the wrapped store keeps every rule that the store itself keeps;
// with them it still loads whole states only, and it waits no longer than the
// contexts of its callers.
package faultstore

import (
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/flagstead/flagstead/store"
)

// Errors of calls that were interfered with.
var (
	// ErrInjected is what calls return that fail if no other error was given.
	ErrInjected = errors.New("faultstore: injected failure")

	// ErrDown is what calls return between Down and Up.
	ErrDown = errors.New("faultstore: the store is down")
)

// An Op is a set of methods.
type Op uint8

// The methods of a store that faults can be injected into.
const (
	Load Op = 1 << iota
	Apply
	Watch
	ReadHeartbeat
	WriteHeartbeat

	All = Load | Apply | Watch | ReadHeartbeat | WriteHeartbeat
)

var opNames = [...]string{"Load", "Apply", "Watch", "ReadHeartbeat", "WriteHeartbeat"}

// String returns the names of the methods in o, as in "Load|Apply".
func (o Op) String() string {
	var names []string
	for i, name := range opNames {
		if o&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, "|")
}

// Faults controls the stores that it has wrapped. The zero value is not usable,
// see [New] and [Wrap]. Its methods are safe for concurrent use, at any time; they
// take effect at the next call of the store.
type Faults struct {
	mu      sync.Mutex // guards what follows
	seed    uint64
	added   uint64 // rules so far
	rules   []*Rule
	down    bool
	deaf    bool
	watches map[*watching]struct{}
	counts  [len(opNames)]Counts
}

// New returns a Faults without faults. What [Chance] decides follows from seed,
// from the order in which faults were added, and from that of the calls that each
// applies to.
func New(seed uint64) *Faults {
	return &Faults{seed: seed, watches: map[*watching]struct{}{}}
}

// Wrap returns a store that works like inner, and what makes it fail: a [New]
// with the seed 1, and its [Faults.Wrap].
func Wrap(inner store.DataStore) (store.DataStore, *Faults) {
	f := New(1)
	return f.Wrap(inner), f
}

// A When narrows down which calls a fault applies to. Of several, all must hold.
type When struct {
	times, every int
	chance       float64
}

// Times lets a fault apply to the first n calls that it could apply to.
func Times(n int) When {
	if n < 1 {
		panic("faultstore: Times of less than 1")
	}
	return When{times: n}
}

// Every lets a fault apply to every n-th call: to the n-th, the 2n-th and so on
// of those that come after it was added.
func Every(n int) When {
	if n < 1 {
		panic("faultstore: Every of less than 1")
	}
	return When{every: n}
}

// Chance lets a fault apply to a call with probability p, from 0 to 1.
func Chance(p float64) When {
	if !(p >= 0 && p <= 1) {
		panic("faultstore: Chance that is not from 0 to 1")
	}
	return When{chance: p}
}

// A Rule is one fault that was added to a [Faults].
type Rule struct {
	faults *Faults
	ops    Op
	do     kind
	err    error
	delay  time.Duration
	gone   chan struct{} // closed when the rule is removed

	// Guarded by faults.mu.
	whens    []When
	rng      *rand.Rand
	seen     int // calls of ops
	injected int
	removed  bool
}

type kind uint8

const (
	fail kind = iota
	failAfter
	delay
	hang
)

// Injected returns how many calls the fault was injected into.
func (r *Rule) Injected() int {
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	return r.injected
}

// Remove ends the fault. Calls that hang or wait because of it go on.
func (r *Rule) Remove() {
	f := r.faults
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, other := range f.rules {
		if other == r {
			f.rules = append(f.rules[:i:i], f.rules[i+1:]...)
		}
	}
	r.end()
}

// end lets go of those who wait. The caller holds faults.mu.
func (r *Rule) end() {
	if !r.removed {
		r.removed = true
		close(r.gone)
	}
}

// applies reports whether the next call is one for the rule. The caller holds
// faults.mu.
func (r *Rule) applies(op Op) bool {
	if r.ops&op == 0 {
		return false
	}
	r.seen++
	yes := true
	for _, w := range r.whens {
		switch {
		case w.every > 0:
			yes = yes && r.seen%w.every == 0
		case w.times > 0:
			yes = yes && r.injected < w.times
		default: // drawn in any case, so that the draws do not depend on the others
			yes = r.rng.Float64() < w.chance && yes
		}
	}
	if yes {
		r.injected++
	}
	return yes
}

func (f *Faults) add(r *Rule, ops Op, whens []When) *Rule {
	if ops&All == 0 || ops&^All != 0 {
		panic("faultstore: a fault of no known method")
	}
	r.faults, r.ops, r.whens, r.gone = f, ops, whens, make(chan struct{})
	if r.err == nil {
		r.err = ErrInjected
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.added++
	r.rng = rand.New(rand.NewPCG(f.seed, f.added))
	f.rules = append(f.rules, r)
	return r
}

// Fail makes calls of ops return err, wrapped by nothing, without reaching the
// store. Nil stands for [ErrInjected]. Faults that are added to others apply as
// well, in the order in which they were added: a Delay before a Fail makes calls
// fail late.
func (f *Faults) Fail(ops Op, err error, when ...When) *Rule {
	return f.add(&Rule{do: fail, err: err}, ops, when)
}

// FailAfter makes calls of ops do their work and then return err, as if only the
// answer got lost: Apply commits and says that it did not. Nil stands for
// [ErrInjected]. For Watch it is the same as Fail.
func (f *Faults) FailAfter(ops Op, err error, when ...When) *Rule {
	return f.add(&Rule{do: failAfter, err: err}, ops, when)
}

// Delay makes calls of ops wait for d before they begin, unless their contexts
// end earlier.
func (f *Faults) Delay(ops Op, d time.Duration, when ...When) *Rule {
	return f.add(&Rule{do: delay, delay: d}, ops, when)
}

// Hang makes calls of ops wait until their contexts end, the store is closed, or
// the fault is removed. A Watch that has begun goes on, see LoseWakes.
func (f *Faults) Hang(ops Op, when ...When) *Rule {
	return f.add(&Rule{do: hang}, ops, when)
}

// LoseWakes sets whether wake-ups of Watch get lost from now on, those at its
// start included.
func (f *Faults) LoseWakes(lose bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deaf = lose
}

// Down makes all calls return [ErrDown], each Watch under way included, until Up
// or Reset. The store keeps what it has. Only Close works.
func (f *Faults) Down() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = true
	for w := range f.watches {
		w.cancel()
	}
}

// Up ends what Down began.
func (f *Faults) Up() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = false
}

// Reset removes all faults, lets calls that hang or wait go on, brings the store
// up, and keeps the counts.
func (f *Faults) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.rules {
		r.end()
	}
	f.rules, f.down, f.deaf = nil, false, false
}

// Counts says what happened to calls.
type Counts struct {
	Calls       int64 // of the wrapped stores, also those that were interfered with
	Failed      int64 // returned the error of a Fail
	FailedAfter int64 // did their work and returned the error of a FailAfter
	Delayed     int64 // waited for a Delay
	Hung        int64 // hung because of a Hang
	Hanging     int64 // do so now
	Refused     int64 // returned ErrDown
	LostWakes   int64 // wake-ups that got lost; counted for Watch
}

// Counts returns the counts of the methods in ops, added up.
func (f *Faults) Counts(ops Op) Counts {
	f.mu.Lock()
	defer f.mu.Unlock()
	var sum Counts
	for i, c := range f.counts {
		if ops&(1<<i) == 0 {
			continue
		}
		sum.Calls += c.Calls
		sum.Failed += c.Failed
		sum.FailedAfter += c.FailedAfter
		sum.Delayed += c.Delayed
		sum.Hung += c.Hung
		sum.Hanging += c.Hanging
		sum.Refused += c.Refused
		sum.LostWakes += c.LostWakes
	}
	return sum
}

// count changes the counts of op. The caller holds mu.
func (f *Faults) count(op Op) *Counts {
	for i := range f.counts {
		if op == 1<<i {
			return &f.counts[i]
		}
	}
	panic("faultstore: " + op.String() + " is not one method")
}
