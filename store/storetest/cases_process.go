package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/flagstead/flagstead/store"
)

const processRule = "What is committed in one process shows in all others, whole and in order, as it does through the handles of one process."

// processCases run a part of themselves in another process.
var processCases = []testCase{
	{
		name:  "process-sees-commits",
		rule:  processRule,
		needs: needProcess,
		run: func(c *tester) {
			p := c.process(c.opts.ReopenedWrites)
			if snap := c.load(p, ""); snap.Rev != "" {
				c.fatalf("Load of an empty place in another process: Rev %q", snap.Rev)
			}
			state := content{}
			var v view
			for i, ch := range []store.Change{
				full(flag("a", 1), flag("b", 1)), patch(flag("a", 2), segment("s", 1)), patch(archived(flag("b", 2))),
				full(flag("a", 1)), patch(flag("c", 1)), full(), patch(flag("d", 1)),
			} {
				writer := c.s
				if i%3 == 2 && c.opts.ReopenedWrites {
					writer = p
				}
				rev := c.apply(writer, ch)
				state, _ = state.apply(ch)
				c.eventually("another process sees a commit", func() bool {
					v = v.follow(c.load(p, v.rev))
					return v.rev == rev
				})
				if d := diff(v.items, state); d != "" {
					c.fatalf("change %d, step by step in another process: %s", i, d)
				}
				c.eventually("this process sees a commit", func() bool { return c.load(c.s, "").Rev == rev })
				if d := diff(c.all(c.s).items, state); d != "" {
					c.fatalf("change %d, everything in this process: %s", i, d)
				}
			}
			c.sees(c.process(c.opts.ReopenedWrites), flag("d", 1))
			if !c.opts.ReopenedWrites {
				if _, err := p.Apply(c.ctx, patch(flag("a", 1))); !errors.Is(err, store.ErrReadOnly) {
					c.fatalf("Apply on a handle for reading, in another process: error %v, want ErrReadOnly", err)
				}
			}
		},
	},
	{
		name:  "processes-show-commits-in-order",
		rule:  processRule,
		needs: needProcess,
		run: func(c *tester) {
			p := c.process(c.opts.ReopenedWrites)
			writers := []store.DataStore{c.s}
			if c.opts.ReopenedWrites {
				writers = append(writers, p)
			}
			c.order(writers, []store.DataStore{c.s, p})
		},
	},
	{
		name:  "processes-lose-no-update",
		rule:  "If Base is no longer current, Apply returns ErrConflict, whichever process committed meanwhile.",
		needs: needProcess | needWrites,
		run: func(c *tester) {
			c.countUp([]store.DataStore{c.s, c.process(true), c.process(true)})
		},
	},
	{
		name:  "process-is-woken",
		rule:  "Watch wakes after every commit made through any handle on the same place, in whatever process.",
		needs: needProcess | needWatch,
		run: func(c *tester) {
			p := c.process(c.opts.ReopenedWrites)
			w := c.watch(p)
			c.wait(w, "when it started, in another process")
			for i := range 3 {
				c.waitFor(w, p, c.apply(c.s, patch(flag("a", int64(i+1)))), "in another process, after a commit")
			}
			if c.opts.ReopenedWrites {
				w := c.watch(c.s)
				c.wait(w, "when it started")
				c.waitFor(w, c.s, c.apply(p, patch(flag("a", 9))), "after another process's commit")
			}
		},
	},
	{
		name:  "process-sees-a-flush",
		rule:  "Load with a Rev that the store does not know (flushed) loads everything, in every process.",
		needs: needProcess | needFlush,
		run: func(c *tester) {
			p := c.process(c.opts.ReopenedWrites)
			c.apply(c.s, full(flag("a", 1)))
			c.apply(c.s, patch(flag("b", 1)))
			c.sees(p, flag("a", 1), flag("b", 1))
			v := c.all(p)
			c.opts.Flush(c.tb, c.s)
			c.eventually("another process finds the place empty", func() bool { return c.load(p, v.rev).Rev == "" })
			c.apply(c.s, full(flag("a", 1)))
			c.apply(c.s, patch(flag("c", 1)))
			c.sees(p, flag("a", 1), flag("c", 1))
			c.expectAfter(p, v, flag("a", 1), flag("c", 1))
		},
	},
	{
		name:  "process-reads-heartbeats",
		rule:  "ReadHeartbeat returns the last heartbeat, in every process.",
		needs: needProcess | needHeart,
		run: func(c *tester) {
			p := c.process(c.opts.ReopenedWrites)
			for i, source := range []string{"initializing", "ok", "interrupted"} {
				ago := time.Minute - time.Duration(i)*10*time.Second
				c.write(c.s, "a", source, ago)
				wrote := time.Now()
				c.eventually("another process reads a heartbeat", func() bool {
					b := c.beat(p)
					return b.Source == source && b.Writer == "a" && near(b.Confirmed, wrote.Add(-ago), time.Second+time.Since(wrote))
				})
			}
		},
	},
	{
		name:  "writer-is-killed",
		rule:  "A writer that is killed, at whatever moment, leaves the old or the new state, whole, with all that Apply returned for, and stands in nobody's way.",
		needs: needProcess | wantOther,
		run: func(c *tester) {
			var reader store.DataStore = c.s
			if !c.opts.ReopenedWrites {
				c.close(c.s) // the processes write now
				if reader = c.other; reader == nil {
					reader = c.process(false)
				}
			}
			k := killing{c: c, reader: reader}
			typical := k.round(50 * time.Millisecond)
			for range kills {
				k.round(rand.N(4 * typical))
			}
			last := c.process(true)
			c.apply(last, full(flag("last", 1)))
			c.sees(reader, flag("last", 1))
			c.expect(last, flag("last", 1))
		},
	},
}

// kills is how many writers lose their life for one case.
const kills = 6

// batch is what a writer commits until it is killed.
func batch(n int64) store.Change {
	ch := store.Change{Full: n%3 == 0}
	more := strings.Repeat("x", 500)
	for i := range 40 {
		ch.Items = append(ch.Items, flag(fmt.Sprint("flag ", i), n, more))
	}
	return ch
}

// A killing is a succession of writers, each killed while it commits.
type killing struct {
	c      *tester
	reader store.DataStore
	acked  int64 // the last batch that Apply returned for
	view   view  // of a reader that loads what came after
}

// check checks that h shows the last batch that is known to be committed, or the
// one after it.
func (k *killing) check(h store.DataStore, who string) {
	c := k.c
	if !c.poll(func() bool {
		k.view = k.view.follow(c.load(h, k.view.rev))
		for _, v := range []view{k.view, c.all(h)} {
			n := int64(0)
			for _, it := range v.items {
				n = it.Version
			}
			if d := diff(v.items, contentOf(batch(n).Items...)); n > 0 && d != "" {
				c.fatalf("%s, after a writer was killed, finds a torn state: %s", who, d)
			}
			if n < k.acked {
				return false // it may lag behind
			}
			if n > k.acked+1 {
				c.fatalf("%s finds batch %d, which nobody wrote: %d was the last", who, n, k.acked)
			}
		}
		return true
	}) {
		c.fatalf("%s does not find batch %d, which Apply returned for before the writer was killed", who, k.acked)
	}
	for _, it := range k.view.items {
		k.acked = it.Version
	}
}

// round lets one writer commit and kills it after d. It returns how long a
// commit took.
func (k *killing) round(d time.Duration) (typical time.Duration) {
	c := k.c
	w := c.process(true)
	k.check(w, "the next writer")
	k.view = view{} // Revs of a writer that is gone may be gone with it
	began, first := time.Now(), k.acked
	timer := time.AfterFunc(d, func() { _ = w.cmd.Process.Kill() })
	defer timer.Stop()
	for c.ctx.Err() == nil {
		_, err := w.Apply(c.ctx, batch(k.acked+1))
		if errors.Is(err, errGone) {
			break
		}
		if err != nil {
			c.fatalf("Apply in another process: unexpected error %v", err)
		}
		k.acked++
	}
	typical = max(time.Millisecond, time.Since(began)/time.Duration(1+k.acked-first))
	w.kill()
	k.check(k.reader, "a reader")
	return typical
}
