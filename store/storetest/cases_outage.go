package storetest

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flagstead/flagstead/store"
)

// brief is how long a call may take while the place is down.
const brief = 150 * time.Millisecond

// outageCases take the place down and up again.
var outageCases = []testCase{
	{
		name:  "outage-is-no-state",
		rule:  "While a place is down, calls return by the end of their context, with an error that says neither damage nor conflict nor Close, or with a state that was committed; nothing that Apply returned for is lost by it.",
		needs: needBreak | wantOther,
		run: func(c *tester) {
			for round := range 2 {
				c.outage(round)
			}
		},
	},
	{
		name:  "follow-through-outages",
		rule:  "While the store fails, the last state that Follow delivered stands; when it is back, Follow delivers the newest one.",
		needs: needBreak | wantOther,
		run: func(c *tester) {
			state := contentOf(flag("a", 0), segment("n", 0))
			c.apply(c.s, full(flag("a", 0), segment("n", 0)))
			c.failing.Store(true) // Follow may deliver errors from now on
			var followers []*followed
			for _, h := range c.handles {
				f := c.follow(h)
				c.eventually("Follow delivers", func() bool { return diff(f.now().items, state) == "" })
				followers = append(followers, f)
			}
			for round := range int64(3) {
				mend := c.opts.Break(c.tb, c.s)
				for _, h := range c.handles {
					_, _ = c.briefly(func(ctx context.Context) error { // how it ends is the other case's question
						_, err := h.Load(ctx, "")
						return err
					})
				}
				c.pause(brief) // Follow finds out
				for _, f := range followers {
					if d := diff(f.now().items, state); d != "" {
						c.fatalf("what Follow had delivered changed in an outage: %s", d)
					}
				}
				mend()
				ch := full(flag("a", round+1), segment("n", round+1))
				c.insists(c.s, ch)
				state, _ = state.apply(ch)
				for _, f := range followers {
					c.eventually("Follow delivers what was committed after an outage", func() bool { return diff(f.now().items, state) == "" })
				}
			}
		},
	},
	{
		name:  "flapping-store",
		rule:  "On an error whose outcome is unknown, applying the change again is safe, and readers see whole states in order, however often the place goes down.",
		needs: needBreak | wantOther,
		run: func(c *tester) {
			c.apply(c.s, full(generation(1)...))
			stop := make(chan struct{})
			g := group{c: c}
			for _, h := range c.handles {
				g.run(func() { c.readFlapping(h, stop) })
			}
			written := make(chan int64, 1)
			var w flapping
			g.run(func() { written <- c.writeFlapping(&w, stop) })
			for range 4 {
				c.pause(rand.N(40 * time.Millisecond))
				mend := c.opts.Break(c.tb, c.s)
				before := w.failed.Load()
				began := time.Now()
				c.poll(func() bool { return w.failed.Load() > before || time.Since(began) > 2*brief })
				c.mended(&w, mend)
			}
			close(stop)
			last := receive(c, "the writer ends", written)
			g.wg.Wait()
			c.insists(c.s, full(generation(last+1)...))
			for _, h := range c.handles {
				c.seesAgain(h, generation(last+1)...)
			}
		},
	},
}

// outage takes the place down and calls everything.
func (c *tester) outage(round int) {
	items := []store.Item{flag("a", 1), segment("s", int64(round))}
	ch := patch(flag("a", 2), flag("b", 1))
	before := contentOf(items...)
	after, _ := before.apply(ch)
	c.insists(c.s, full(items...))
	for _, h := range c.handles {
		c.seesAgain(h, items...)
	}
	v := view{}.follow(c.loadAgain(c.s, ""))

	mend := c.opts.Break(c.tb, c.s)
	applied := false
	for _, h := range c.handles {
		for _, from := range []view{{}, v, {rev: "garbage"}} {
			var snap store.Snapshot
			returned, err := c.briefly(func(ctx context.Context) (err error) {
				snap, err = h.Load(ctx, from.rev)
				return err
			})
			if !returned {
				mend()
				c.fatalf("Load did not return when its context ended, while the place was down")
			}
			c.plain("Load", err)
			if err == nil && snap.Rev == "" {
				c.fatalf("Load took a place that was down for an empty one")
			}
			if d := diff(from.follow(snap).items, before); err == nil && d != "" {
				c.fatalf("Load while the place was down: %s", d)
			}
		}
	}
	returned, err := c.briefly(func(ctx context.Context) error {
		_, err := c.s.Apply(ctx, ch)
		return err
	})
	if !returned {
		mend()
		c.fatalf("Apply did not return when its context ended, while the place was down")
	}
	c.plain("Apply", err)
	applied = err == nil
	mend()

	for _, h := range c.handles {
		now := view{}.follow(c.loadAgain(h, ""))
		switch {
		case applied && h == c.s && diff(now.items, after) != "":
			c.fatalf("Apply returned no error while the place was down, and then: %s", diff(now.items, after))
		case now.rev == "": // the place does not keep its content
		case diff(now.items, before) != "" && diff(now.items, after) != "":
			c.fatalf("after an outage: neither the state before an Apply that returned error %v nor the one after it: %s", err, diff(now.items, after))
		}
		// Nobody writes, but what an Apply that failed began may come late.
		if n := v.follow(c.loadAgain(h, v.rev)); n.rev == now.rev && diff(n.items, now.items) != "" {
			c.fatalf("after an outage, for a reader at an earlier Rev: %s", diff(n.items, now.items))
		}
	}
	c.insists(c.s, full(flag("z", int64(round))))
	for _, h := range c.handles {
		c.seesAgain(h, flag("z", int64(round)))
	}
}

// briefly calls f with a context that ends soon, and reports whether f returned
// soon after that.
func (c *tester) briefly(f func(ctx context.Context) error) (returned bool, err error) {
	ctx, cancel := context.WithTimeout(c.ctx, brief)
	defer cancel()
	done := make(chan error, 1)
	g := group{c: c}
	g.run(func() { done <- f(ctx) })
	limit := time.NewTimer(brief + min(promptly, c.opts.Patience))
	defer limit.Stop()
	select {
	case err := <-done:
		return true, err
	case <-limit.C:
		return false, nil
	}
}

// plain checks that err, if it is one, is that of a place that is down.
func (c *tester) plain(what string, err error) {
	for _, not := range []error{store.ErrDamaged, store.ErrClosed, store.ErrConflict, store.ErrReadOnly} {
		if errors.Is(err, not) {
			c.fatalf("%s while the place was down: error %v, which is a %q", what, err, not)
		}
	}
}

// insists applies ch until it is committed, as a syncer would.
func (c *tester) insists(h store.DataStore, ch store.Change) {
	var err error
	if !c.poll(func() bool {
		ctx, cancel := context.WithTimeout(c.ctx, c.opts.Patience)
		defer cancel()
		_, err = h.Apply(ctx, ch)
		return err == nil
	}) {
		c.fatalf("not within %v: Apply works: %v", c.opts.Patience, err)
	}
}

// loadAgain loads from h, whose first attempts after an outage may fail.
func (c *tester) loadAgain(h store.DataStore, since store.Rev) store.Snapshot {
	var snap store.Snapshot
	var err error
	if !c.poll(func() bool {
		ctx, cancel := context.WithTimeout(c.ctx, c.opts.Patience)
		defer cancel()
		snap, err = h.Load(ctx, since)
		return err == nil
	}) {
		c.fatalf("not within %v: Load works again after an outage: %v", c.opts.Patience, err)
	}
	if why := malformed(since, snap); why != "" {
		c.fatalf("Load(%q): %s", since, why)
	}
	return snap
}

// seesAgain waits until h shows exactly items, after an outage.
func (c *tester) seesAgain(h store.DataStore, items ...store.Item) {
	want := contentOf(items...)
	var d string
	if !c.poll(func() bool {
		snap := c.loadAgain(h, "")
		d = diff(contentOf(snap.Items...), want)
		return d == "" && snap.Rev != ""
	}) {
		c.fatalf("not within %v: Load of everything after an outage: %s", c.opts.Patience, d)
	}
}

// pause lets the others work for d.
func (c *tester) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.ctx.Done():
	}
}

// A flapping is a writer on a place that goes up and down.
type flapping struct {
	turn   sync.Mutex // held during Apply
	failed atomic.Int64
}

// mended ends an outage and looks at what it left before w writes over that.
func (c *tester) mended(w *flapping, mend func()) {
	w.turn.Lock()
	defer w.turn.Unlock()
	mend()
	for _, h := range c.handles {
		if _, why := generationOf(contentOf(c.loadAgain(h, "").Items...)); why != "" {
			c.fatalf("a torn state after an outage: %s", why)
		}
	}
}

// writeFlapping commits generation after generation, each until Apply says that
// it is committed.
func (c *tester) writeFlapping(w *flapping, stop <-chan struct{}) (last int64) {
	for n := int64(2); ; {
		select {
		case <-stop:
			return n
		case <-c.ctx.Done():
			return n
		default:
		}
		w.turn.Lock()
		ctx, cancel := context.WithTimeout(c.ctx, brief)
		_, err := c.s.Apply(ctx, patch(generation(n)...))
		cancel()
		w.turn.Unlock()
		if err == nil {
			n++
		} else {
			w.failed.Add(1)
		}
		c.pause(time.Millisecond)
	}
}

func (c *tester) readFlapping(h store.DataStore, stop <-chan struct{}) {
	var v view
	last := int64(0)
	for {
		ctx, cancel := context.WithTimeout(c.ctx, brief)
		snap, err := h.Load(ctx, v.rev)
		cancel()
		if err == nil {
			v = v.follow(snap)
			n, why := generationOf(v.items)
			if why != "" {
				c.fatalf("a torn state of a place that goes up and down: %s", why)
			}
			if v.rev != "" && n < last {
				c.fatalf("back in time on a place that goes up and down: generation %d after %d", n, last)
			}
			last = max(last, n)
		}
		select {
		case <-stop:
			return
		case <-c.ctx.Done():
			return
		default:
			c.pause(time.Millisecond)
		}
	}
}
