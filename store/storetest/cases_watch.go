package storetest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flagstead/flagstead/store"
)

// A watching is a Watch under way.
type watching struct {
	woken  chan struct{} // wakes, merged
	wakes  atomic.Int64
	ended  chan error // gets what Watch returned
	cancel context.CancelFunc
}

// watch starts a Watch of h, until the case ends.
func (c *tester) watch(h store.DataStore) *watching {
	ctx, cancel := context.WithCancel(c.ctx)
	w := &watching{woken: make(chan struct{}, 1), ended: make(chan error, 1), cancel: cancel}
	watcher, ok := h.(store.Watcher)
	if !ok {
		c.fatalf("a handle of a Watcher is none")
	}
	g := group{c: c}
	g.run(func() {
		defer cancel()
		w.ended <- watcher.Watch(ctx, func() {
			w.wakes.Add(1)
			select {
			case w.woken <- struct{}{}:
			default:
			}
		})
	})
	return w
}

// wait waits until w is woken.
func (c *tester) wait(w *watching, why string) {
	limit := time.NewTimer(c.opts.Patience)
	defer limit.Stop()
	select {
	case <-w.woken:
	case err := <-w.ended:
		c.fatalf("Watch returned %v instead of waking %s", err, why)
	case <-limit.C:
		c.fatalf("Watch did not wake within %v %s", c.opts.Patience, why)
	}
}

// waitFor waits until w was woken and h then shows rev.
func (c *tester) waitFor(w *watching, h store.DataStore, rev store.Rev, why string) {
	for {
		c.wait(w, why)
		if c.load(h, "").Rev == rev {
			return
		}
	}
}

const wakeRule = "Watch calls wake after every commit made through any handle on the same place."

var watchCases = []testCase{
	{
		name:  "watch-wakes-at-start",
		rule:  "Watch calls wake once when it has started to watch.",
		needs: needWatch,
		run: func(c *tester) {
			c.wait(c.watch(c.s), "when it started, on an empty store")
			c.apply(c.s, full(flag("a", 1)))
			c.wait(c.watch(c.s), "when it started")
		},
	},
	{
		name:  "watch-wakes-on-commit",
		rule:  wakeRule,
		needs: needWatch,
		run: func(c *tester) {
			w := c.watch(c.s)
			c.wait(w, "when it started")
			for i := range 5 {
				ch := patch(flag("a", int64(i+1)))
				ch.Full = i == 3
				c.waitFor(w, c.s, c.apply(c.s, ch), "after a commit")
			}
			c.waitFor(w, c.s, c.apply(c.s, full()), "after a full change to nothing")
		},
	},
	{
		name:  "every-watch-wakes",
		rule:  wakeRule,
		needs: needWatch,
		run: func(c *tester) {
			watches := []*watching{c.watch(c.s), c.watch(c.s), c.watch(c.s)}
			for _, w := range watches {
				c.wait(w, "when it started")
			}
			for i := range 3 {
				rev := c.apply(c.s, patch(flag("a", int64(i+1))))
				for _, w := range watches {
					c.waitFor(w, c.s, rev, "after a commit")
				}
			}
			// One that ends leaves the others alone.
			watches[0].cancel()
			receive(c, "Watch returns when its context ends", watches[0].ended)
			rev := c.apply(c.s, patch(flag("a", 9)))
			c.waitFor(watches[1], c.s, rev, "after a commit")
			c.waitFor(watches[2], c.s, rev, "after a commit")
		},
	},
	{
		name:  "watch-of-other-handle-wakes",
		rule:  wakeRule,
		needs: needWatch | needOther,
		run: func(c *tester) {
			w := c.watch(c.other)
			c.wait(w, "when it started")
			for i := range 3 {
				c.waitFor(w, c.other, c.apply(c.s, patch(flag("a", int64(i+1)))), "after another handle's commit")
			}
			c.waitFor(w, c.other, c.apply(c.s, full()), "after another handle's commit")
		},
	},
	{
		name:  "watch-wakes-on-commit-of-other-handle",
		rule:  wakeRule,
		needs: needWatch | needWrites,
		run: func(c *tester) {
			w := c.watch(c.s)
			c.wait(w, "when it started")
			for i := range 3 {
				c.waitFor(w, c.s, c.apply(c.other, patch(flag("a", int64(i+1)))), "after another handle's commit")
			}
		},
	},
	{
		name:  "watch-ends-with-its-context",
		rule:  "Watch ends when ctx ends, and returns ctx's error.",
		needs: needWatch,
		run: func(c *tester) {
			w := c.watch(c.s)
			c.wait(w, "when it started")
			w.cancel()
			if err := receive(c, "Watch returns when its context ends", w.ended); !errors.Is(err, context.Canceled) {
				c.fatalf("Watch returned %v, want %v", err, context.Canceled)
			}
			ctx, cancel := context.WithTimeout(c.ctx, time.Millisecond)
			defer cancel()
			done := make(chan error, 1)
			g := group{c: c}
			g.run(func() { done <- c.s.(store.Watcher).Watch(ctx, func() {}) })
			if err := receive(c, "Watch returns at its deadline", done); !errors.Is(err, context.DeadlineExceeded) {
				c.fatalf("Watch returned %v, want %v", err, context.DeadlineExceeded)
			}
			c.expectUsable()
		},
	},
	{
		name:  "watch-does-not-wake-after-it-returned",
		rule:  "wake may not be called after Watch returned.",
		needs: needWatch,
		run: func(c *tester) {
			g := group{c: c}
			stop := make(chan struct{})
			g.run(func() {
				for i := int64(1); ; i++ {
					select {
					case <-stop:
						return
					default:
						c.apply(c.s, patch(flag("a", i)))
					}
				}
			})
			var ended []*watching
			var counts []int64
			for range 10 {
				w := c.watch(c.s)
				c.wait(w, "when it started")
				w.cancel()
				receive(c, "Watch returns when its context ends", w.ended)
				ended, counts = append(ended, w), append(counts, w.wakes.Load())
			}
			close(stop)
			g.wg.Wait()
			last := c.watch(c.s)
			c.wait(last, "when it started")
			// A wake that comes late may also come later than that of last, but
			// hardly after every one of many commits, with the processor offered
			// to it: last and this goroutine hand it to each other otherwise.
			for i := range 20 {
				for range 100 {
					runtime.Gosched()
				}
				c.waitFor(last, c.s, c.apply(c.s, full(flag("last", int64(i)))), "after a commit")
			}
			for i, w := range ended {
				if n := w.wakes.Load(); n != counts[i] {
					c.fatalf("%d wakes after Watch returned", n-counts[i])
				}
			}
		},
	},
	{
		name:  "watch-ends-on-close",
		rule:  "After Close every method returns ErrClosed, a Watch under way included.",
		needs: needWatch,
		run: func(c *tester) {
			c.apply(c.s, full(flag("a", 1)))
			watches := []*watching{c.watch(c.s), c.watch(c.s)}
			for _, w := range watches {
				c.wait(w, "when it started")
			}
			c.close(c.s)
			for _, w := range watches {
				if err := receive(c, "Watch returns on Close", w.ended); !errors.Is(err, store.ErrClosed) {
					c.fatalf("Watch returned %v, want ErrClosed", err)
				}
			}
		},
	},
	{
		name:  "follow-delivers-the-newest-state",
		rule:  "Follow delivers the state of a Reader and then every newer one, never out of order.",
		needs: wantOther,
		run: func(c *tester) {
			followers := []*followed{c.follow(c.s)}
			if c.other != nil {
				followers = append(followers, c.follow(c.other))
			}
			state := content{}
			for i := range 20 {
				ch := patch(flag(fmt.Sprint(i%7), int64(i+1)), segment("n", int64(i+1)))
				if i%8 == 5 {
					ch = full(flag("full", 1), segment("n", int64(i+1)))
				}
				c.apply(c.s, ch)
				state, _ = state.apply(ch)
				if i%6 != 0 {
					continue // the followers may skip this one
				}
				for _, f := range followers {
					c.eventually("Follow delivers a commit", func() bool { return diff(f.now().items, state) == "" })
				}
			}
			for _, f := range followers {
				c.eventually("Follow delivers the last commit", func() bool { return diff(f.now().items, state) == "" })
				f.cancel()
				if err := receive(c, "Follow returns when its context ends", f.ended); !errors.Is(err, context.Canceled) {
					c.fatalf("Follow returned %v", err)
				}
			}
		},
	},
	{
		name: "follow-ends-on-close",
		rule: "Follow returns ErrClosed once its Reader is closed.",
		run: func(c *tester) {
			c.apply(c.s, full(flag("a", 1)))
			f := c.follow(c.s)
			c.eventually("Follow delivers", func() bool { return f.now().rev != "" })
			c.close(c.s)
			if err := receive(c, "Follow returns on Close", f.ended); !errors.Is(err, store.ErrClosed) {
				c.fatalf("Follow returned %v, want ErrClosed", err)
			}
		},
	},
}

// expectUsable checks that the store still works.
func (c *tester) expectUsable() {
	c.apply(c.s, full(flag("usable", 1)))
	c.expect(c.s, flag("usable", 1))
}

// A followed is a Follow under way.
type followed struct {
	mu     sync.Mutex
	view   view
	ended  chan error
	cancel context.CancelFunc
}

func (f *followed) now() view {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.view
}

// follow starts to follow h, until the case ends.
func (c *tester) follow(h store.DataStore) *followed {
	return c.followCounting(h, new(atomic.Int64))
}

// followCounting is a follow that counts what is delivered.
func (c *tester) followCounting(h store.DataStore, delivered *atomic.Int64) *followed {
	ctx, cancel := context.WithCancel(c.ctx)
	f := &followed{ended: make(chan error, 1), cancel: cancel}
	newest := int64(-1)
	g := group{c: c}
	g.run(func() {
		f.ended <- store.Follow(ctx, h, store.FollowOptions{Interval: 20 * time.Millisecond, MaxBackoff: 200 * time.Millisecond}, func(s store.Snapshot, err error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			delivered.Add(1)
			if err != nil {
				if !errors.Is(err, store.ErrClosed) && !errors.Is(err, errWatchLost) && !c.failing.Load() {
					c.rec.addf("Follow delivers error %v", err)
				}
				return
			}
			f.view = f.view.follow(s)
			if n, ok := f.view.items[store.ID{Kind: store.Segment, Key: "n"}]; ok {
				if n.Version < newest {
					c.rec.addf("Follow delivers commit %d after %d", n.Version, newest)
				}
				newest = n.Version
			}
		})
	})
	return f
}
