package storetest

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/flagstead/flagstead/store"
)

// orderCases have several writers and know the order of all commits.
var orderCases = []testCase{
	{
		name:  "commits-show-whole-and-in-order",
		rule:  "Every state that a handle shows is one that was committed, whole, and none comes after a newer one, while several handles write.",
		needs: wantOther,
		run:   func(c *tester) { c.order(c.writers(), c.handles) },
	},
	{
		name:  "no-update-is-lost",
		rule:  "If Base is no longer current, Apply returns ErrConflict: of changes that were worked out on one state, none is lost and none is doubled.",
		needs: wantOther,
		run:   func(c *tester) { c.countUp(c.writers()) },
	},
}

// writers returns the handles that may write.
func (c *tester) writers() []store.DataStore {
	if c.other != nil && c.opts.ReopenedWrites {
		return []store.DataStore{c.s, c.other}
	}
	return []store.DataStore{c.s}
}

// countUp lets writers count up one number, in competition.
func (c *tester) countUp(writers []store.DataStore) {
	c.apply(c.s, full(flag("count", 0)))
	const each = 15
	g := group{c: c}
	for i := range 4 {
		h := writers[i%len(writers)]
		g.run(func() {
			for range each {
				c.increment(h)
			}
		})
	}
	g.wg.Wait()
	// The data counts, not the version, which would grow alike.
	c.expect(c.s, flag("count", 4*each, fmt.Sprint(4*each)))
}

// increment adds one to the flag "count", on the state that it read it from.
func (c *tester) increment(h store.DataStore) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for c.ctx.Err() == nil {
		v := c.all(h)
		<-tick.C // long enough for the others to read the same
		n := v.items[store.ID{Kind: store.Flag, Key: "count"}].Version + 1
		ch := patch(flag("count", n, fmt.Sprint(n)))
		ch.Base = v.rev
		_, err := h.Apply(c.ctx, ch)
		if err == nil {
			return
		}
		if !errors.Is(err, store.ErrConflict) {
			c.fatalf("Apply: unexpected error %v", err)
		}
	}
	c.fatalf("no increment within the time of the case")
}

// A history is the order of all commits: each was made on the one before.
type history struct {
	states []content      // by number
	byData map[string]int // number by the Data of the item that all states have

	mu     sync.Mutex
	number map[store.Rev]int
}

func newHistory() *history {
	h := &history{byData: map[string]int{}, number: map[store.Rev]int{}}
	for n := range generations + 1 {
		items := inOrder(n).Items
		h.states = append(h.states, contentOf(items...))
		h.byData[string(items[0].Data)] = n
	}
	return h
}

// stateOf returns which state m is, and why it is none if it is not.
func (h *history) stateOf(m content) (n int, why string) {
	n, ok := h.byData[string(m[inOrder(0).Items[0].ID()].Data)]
	if !ok {
		return 0, fmt.Sprintf("%d items without the one that all states have", len(m))
	}
	return n, diff(m, h.states[n])
}

func (h *history) add(rev store.Rev, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.number[rev] = n
}

func (h *history) of(rev store.Rev) (int, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n, ok := h.number[rev]
	return n, ok
}

// inOrder returns the change that makes state n of a history: what its items say
// grows, and so does their version but for full changes, which may go back.
func inOrder(n int) store.Change {
	v := int64(1000 + n)
	if n%5 == 4 {
		v = int64(1000 - n) // a restored backup; the next one is newer again
	}
	ch := store.Change{Full: n%5 == 4 || n%7 == 0}
	for i := range width {
		ch.Items = append(ch.Items, item(store.Kind(1+i%2), fmt.Sprint("k", i/2), v, fmt.Sprint(n)))
	}
	return ch
}

// order lets writers commit the states of a history, in competition, and readers
// look at it through each of handles.
func (c *tester) order(writers, handles []store.DataStore) {
	h := newHistory()
	h.add(c.apply(writers[0], inOrder(0)), 0)
	stop := make(chan struct{})
	readers, writing := group{c: c}, group{c: c}
	for i := range 2 * len(handles) {
		readers.run(func() { c.readInOrder(handles[i/2], i%2 == 0, h, stop) })
	}
	// In turns at first, or the fastest of them would do it all; then as they
	// like.
	for i := range 2 * len(writers) {
		mine := func(n int) bool { return n >= generations/2 || n%(2*len(writers)) == i }
		writing.run(func() { c.writeInOrder(writers[i%len(writers)], h, mine) })
	}
	writing.wg.Wait()
	close(stop)
	readers.wg.Wait()
	for _, handle := range handles {
		c.eventually("every handle shows the last commit", func() bool {
			n, ok := h.of(c.load(handle, "").Rev)
			return ok && n == generations
		})
	}
}

func (c *tester) writeInOrder(w store.DataStore, h *history, mine func(n int) bool) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	lost := time.Now().Add(c.opts.Patience)
	for c.ctx.Err() == nil {
		rev := c.load(w, "").Rev
		n, known := h.of(rev)
		if known && n == generations {
			return
		}
		if !known { // somebody is about to note it
			if time.Now().After(lost) {
				c.fatalf("Load returned Rev %q, which no Apply returned", rev)
			}
			<-tick.C
			continue
		}
		lost = time.Now().Add(c.opts.Patience)
		if !mine(n) {
			<-tick.C
			continue
		}
		ch := inOrder(n + 1)
		ch.Base = rev
		next, err := w.Apply(c.ctx, ch)
		if errors.Is(err, store.ErrConflict) {
			<-tick.C
			continue
		}
		if err != nil {
			c.fatalf("Apply: unexpected error %v", err)
		}
		h.add(next, n+1)
	}
}

func (c *tester) readInOrder(handle store.DataStore, deltas bool, h *history, stop <-chan struct{}) {
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	var v view
	last := -1
	for {
		if !deltas {
			v.items, v.rev = nil, ""
		}
		v = v.follow(c.load(handle, v.rev))
		if v.rev != "" {
			n, why := h.stateOf(v.items)
			if why != "" {
				c.fatalf("Rev %q is no state that was committed: %s", v.rev, why)
			}
			if was, ok := h.of(v.rev); ok && was != n {
				c.fatalf("Rev %q shows commit %d, but is that of commit %d", v.rev, n, was)
			}
			if n < last {
				c.fatalf("commit %d shows after commit %d through one handle", n, last)
			}
			last = n
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
