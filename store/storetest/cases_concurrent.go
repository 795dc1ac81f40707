package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flagstead/flagstead/store"
)

// The size of the concurrent cases. Stores that sync a disk take milliseconds
// for a commit, so there are not too many.
const (
	width       = 8  // items of a generation
	generations = 60 // commits of a case
)

// generation returns width items that all say n.
func generation(n int64) []store.Item {
	items := make([]store.Item, 0, width+1)
	for i := range width {
		items = append(items, item(store.Kind(1+i%2), fmt.Sprintf("item-%d", i/2), n))
	}
	return items
}

// generationOf returns what all the items say, and why m is no generation if
// they do not. An empty m is generation 0.
func generationOf(m content) (n int64, why string) {
	first := true
	for id, it := range m {
		if id.Key == "only-in" {
			continue
		}
		if first {
			n, first = it.Version, false
		}
		if it.Version != n {
			return 0, fmt.Sprintf("%d items, one of generation %d and one of %d", len(m), n, it.Version)
		}
	}
	if len(m) != 0 && len(m) != width && len(m) != width+1 {
		return 0, fmt.Sprintf("%d items of generation %d, want %d", len(m), n, width)
	}
	return n, ""
}

// A watched handle knows the newest generation that anyone got through it.
type watchedHandle struct {
	store.DataStore
	name  string
	floor atomic.Int64
}

func (h *watchedHandle) raise(n int64) {
	for {
		old := h.floor.Load()
		if n <= old || h.floor.CompareAndSwap(old, n) {
			return
		}
	}
}

// generationsHold lets write commit generations while readers load through both
// handles, and checks every state that they get.
func (c *tester) generationsHold(write func(handles []*watchedHandle)) {
	handles := []*watchedHandle{{DataStore: c.s, name: "the first handle"}}
	if c.other != nil {
		handles = append(handles, &watchedHandle{DataStore: c.other, name: "the other handle"})
	}
	stop := make(chan struct{})
	readers := group{c: c}
	for i := range 2 * len(handles) {
		h := handles[i/2]
		readers.run(func() { c.readGenerations(h, i%2 == 0, stop) })
	}
	writers := group{c: c}
	writers.run(func() { write(handles) })
	writers.wg.Wait()
	close(stop)
	readers.wg.Wait()
}

func (c *tester) readGenerations(h *watchedHandle, deltas bool, stop <-chan struct{}) {
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	var v view
	for i := 0; ; i++ {
		floor := h.floor.Load()
		if !deltas {
			v = view{}
		}
		v = v.follow(c.load(h, v.rev))
		n, why := generationOf(v.items)
		if why != "" {
			c.fatalf("a torn state through %s: %s", h.name, why)
		}
		if n < floor {
			c.fatalf("back in time through %s: generation %d after %d", h.name, n, floor)
		}
		h.raise(n)
		if i%8 != 0 {
			continue
		}
		select {
		case <-stop:
			return
		case <-c.ctx.Done():
			return
		case <-tick.C:
		}
	}
}

const tornRule = "A change becomes visible whole or not at all, and a handle never shows an older state after a newer one."

var concurrentCases = []testCase{
	{
		name:  "patch-is-visible-whole",
		rule:  tornRule,
		needs: wantOther,
		run: func(c *tester) {
			c.generationsHold(func(handles []*watchedHandle) {
				var next atomic.Int64
				writers := group{c: c}
				for i := range 4 {
					h := handles[0]
					if i%2 == 1 && c.opts.ReopenedWrites && len(handles) > 1 {
						h = handles[1]
					}
					writers.run(func() {
						for {
							n := next.Add(1)
							if n > generations {
								return
							}
							c.apply(h, patch(generation(n)...))
							// Whoever committed sees it, or what came after it.
							h.raise(n)
						}
					})
				}
				writers.wg.Wait()
			})
			c.expect(c.s, generation(generations)...)
		},
	},
	{
		name:  "full-is-visible-whole",
		rule:  tornRule,
		needs: wantOther,
		run: func(c *tester) {
			c.generationsHold(func(handles []*watchedHandle) {
				for n := range int64(generations) {
					ch := full(generation(n + 1)...)
					if n%2 == 0 {
						ch.Items = append(ch.Items, flag("only-in", -n+generations))
					}
					c.apply(handles[0], ch)
					handles[0].raise(n + 1)
				}
			})
			c.expect(c.s, generation(generations)...)
		},
	},
	{
		name: "never-back-in-time",
		rule: "A handle never shows an older state after a newer one.",
		run: func(c *tester) {
			for n := range int64(generations) {
				c.apply(c.s, patch(flag("a", n+1)))
				for range 3 {
					c.expect(c.s, flag("a", n+1))
				}
			}
		},
	},
	{
		name:  "random-changes-follow-the-model",
		rule:  "Whatever is committed from wherever, every Rev has the content that the rules give it.",
		needs: wantOther,
		run: func(c *tester) {
			seed := rand.Uint64()
			if s, err := strconv.ParseUint(os.Getenv("STORETEST_SEED"), 10, 64); err == nil {
				seed = s
			}
			c.rec.addNote("seed: STORETEST_SEED=%d", seed)
			m := &model{c: c, seed: seed, states: map[store.Rev]content{}}
			m.run()
		},
	},
}

// A model knows the content of every Rev, because all commits are conditional:
// each makes one known state from another.
type model struct {
	c    *tester
	seed uint64

	mu      sync.Mutex
	states  map[store.Rev]content
	commits int
	loads   []observation
}

// An observation is what a reader had after a Load.
type observation struct {
	since store.Rev
	delta bool
	got   view
}

const (
	modelWriters = 3
	modelCommits = 120
)

func (m *model) run() {
	c := m.c
	ch := full(flag("k0", 5), segment("k1", 5))
	state, _ := content{}.apply(ch)
	m.states[c.apply(c.s, ch)] = state

	stop := make(chan struct{})
	readers := group{c: c}
	for i, h := range c.handles {
		rng := rand.New(rand.NewPCG(m.seed, uint64(100+i)))
		readers.run(func() { m.read(h, rng, stop) })
	}
	writers := group{c: c}
	for i := range modelWriters {
		h := c.s
		if i == 1 && c.other != nil && c.opts.ReopenedWrites {
			h = c.other
		}
		rng := rand.New(rand.NewPCG(m.seed, uint64(i)))
		writers.run(func() { m.write(h, rng) })
	}
	writers.wg.Wait()
	close(stop)
	readers.wg.Wait()
	for _, o := range m.loads {
		want, ok := m.states[o.got.rev]
		if !ok {
			c.fatalf("Load(%q) returned Rev %q, which no Apply returned", o.since, o.got.rev)
		}
		if d := diff(o.got.items, want); d != "" {
			c.fatalf("Load(%q) with Delta %v returned Rev %q, which differs from the model: %s", o.since, o.delta, o.got.rev, d)
		}
	}
}

// read loads, from where it is or from somewhere it was.
func (m *model) read(h store.DataStore, rng *rand.Rand, stop <-chan struct{}) {
	c := m.c
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	seen := []view{{}}
	for {
		select {
		case <-stop:
			return
		case <-c.ctx.Done():
			return
		case <-tick.C:
		}
		from := seen[len(seen)-1]
		if rng.IntN(3) == 0 {
			from = seen[rng.IntN(len(seen))]
		}
		snap := c.load(h, from.rev)
		v := from.follow(snap)
		if v.rev == "" {
			continue // a handle that lags behind the first commit
		}
		seen = append(seen, v)
		m.mu.Lock()
		m.loads = append(m.loads, observation{from.rev, snap.Delta, v})
		m.mu.Unlock()
	}
}

// write commits random changes, each on the Rev that it was worked out for.
func (m *model) write(h store.DataStore, rng *rand.Rand) {
	c := m.c
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	var v view
	for c.ctx.Err() == nil {
		v = v.follow(c.load(h, v.rev))
		m.mu.Lock()
		done := m.commits >= modelCommits
		m.mu.Unlock()
		if done {
			return
		}
		ch := randomChange(rng, v.items)
		ch.Base = v.rev
		rev, err := h.Apply(c.ctx, ch)
		if errors.Is(err, store.ErrConflict) || v.rev == "" {
			<-tick.C
			continue
		}
		if err != nil {
			c.fatalf("Apply: unexpected error %v", err)
		}
		next, changed := v.items.apply(ch)
		if changed == (rev == v.rev) {
			c.fatalf("Apply on %q returned %q, but the model says that it changed something: %v", v.rev, rev, changed)
		}
		m.mu.Lock()
		m.commits++
		was, again := m.states[rev]
		m.states[rev] = next
		m.mu.Unlock()
		if d := diff(next, was); again && d != "" {
			c.fatalf("Apply returned Rev %q again, which had other content: %s", rev, d)
		}
	}
}

// randomChange returns a change that often collides with what is in now.
func randomChange(rng *rand.Rand, now content) store.Change {
	ch := store.Change{Full: rng.IntN(6) == 0}
	n := 1 + rng.IntN(4)
	if ch.Full {
		n = rng.IntN(12)
		if rng.IntN(3) == 0 {
			for _, it := range now { // much the same as before
				ch.Items = append(ch.Items, it)
			}
			n = rng.IntN(2)
		}
	}
	for range n {
		it := item(store.Kind(1+rng.IntN(2)), fmt.Sprintf("k%d", rng.IntN(8)), 5, fmt.Sprint(rng.IntN(2)))
		if w, ok := now[it.ID()]; ok {
			it.Version = max(0, w.Version+int64(rng.IntN(5))-2)
		}
		it.Archived = rng.IntN(4) == 0
		ch.Items = append(ch.Items, it)
	}
	return ch
}
