package storetest

import (
	"context"
	"errors"
	"time"

	"github.com/flagstead/flagstead/store"
)

// ended returns contexts that have ended already, by error.
func ended() map[error]context.Context {
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	expired, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
	cancel()
	return map[error]context.Context{context.Canceled: cancelled, context.DeadlineExceeded: expired}
}

const (
	closedRule = "After Close every method returns ErrClosed."
	// promptly is how much later than its context a call may return.
	promptly = time.Second

	contextRule = "A cancelled context makes a call return promptly with the context's error and leaves the store whole."
)

// callCases are about contexts and Close.
var callCases = []testCase{
	{
		name: "ended-context-ends-load",
		rule: contextRule,
		run: func(c *tester) {
			rev := c.apply(c.s, full(flag("a", 1)))
			for want, ctx := range ended() {
				for _, since := range []store.Rev{"", rev, "garbage"} {
					if _, err := c.s.Load(ctx, since); !errors.Is(err, want) {
						c.fatalf("Load(%q) with an ended context: error %v, want %v", since, err, want)
					}
				}
			}
			c.expect(c.s, flag("a", 1))
		},
	},
	{
		name: "ended-context-ends-load-of-an-empty-store",
		rule: contextRule,
		run: func(c *tester) {
			for want, ctx := range ended() {
				if _, err := c.s.Load(ctx, ""); !errors.Is(err, want) {
					c.fatalf("Load with an ended context: error %v, want %v", err, want)
				}
			}
		},
	},
	{
		name: "ended-context-ends-apply",
		rule: contextRule,
		run: func(c *tester) {
			changes := []store.Change{
				patch(flag("a", 2), flag("b", 1)), full(flag("b", 1)), full(), patch(), patch(flag("a", 1)),
			}
			try := func() {
				for want, ctx := range ended() {
					for _, ch := range changes {
						if _, err := c.s.Apply(ctx, ch); !errors.Is(err, want) {
							c.fatalf("Apply with an ended context: error %v, want %v", err, want)
						}
					}
				}
			}
			try()
			if snap := c.load(c.s, ""); snap.Rev != "" {
				c.fatalf("Apply with an ended context committed Rev %q", snap.Rev)
			}
			rev := c.apply(c.s, full(flag("a", 1)))
			try()
			if v := c.expect(c.s, flag("a", 1)); v.rev != rev {
				c.fatalf("the Rev is %q after Apply with an ended context, %q before", v.rev, rev)
			}
			c.applyMoves(c.s, rev, patch(flag("a", 2)))
		},
	},
	{
		name: "cancel-during-apply-is-all-or-nothing",
		rule: contextRule,
		run: func(c *tester) {
			state := contentOf(flag("a", 0), flag("b", 0), segment("c", 0))
			c.apply(c.s, full(flag("a", 0), flag("b", 0), segment("c", 0)))
			late := 0
			for i := range int64(12) {
				limit := time.Duration(i*i) * 20 * time.Microsecond
				ctx, cancel := context.WithTimeout(c.ctx, limit)
				ch := patch(flag("a", i+1), flag("b", i+1), segment("c", i+1))
				began := time.Now()
				_, err := c.s.Apply(ctx, ch)
				cancel()
				// Once may be a disk that stalls.
				if over := time.Since(began) - limit; over > promptly {
					if late++; late == 2 {
						c.fatalf("Apply returned %v after its context ended", over)
					}
				}
				if err != nil && !errors.Is(err, context.DeadlineExceeded) {
					c.fatalf("Apply: error %v, want %v", err, context.DeadlineExceeded)
				}
				next, _ := state.apply(ch)
				now := c.all(c.s).items
				if err == nil && diff(now, next) != "" {
					c.fatalf("Apply said that it committed: %s", diff(now, next))
				}
				if diff(now, next) != "" && diff(now, state) != "" {
					c.fatalf("neither the state before nor the one after: %s", diff(now, next))
				}
				state = now
			}
		},
	},
	{
		name: "closed-load",
		rule: closedRule,
		run: func(c *tester) {
			rev := c.apply(c.s, full(flag("a", 1)))
			c.close(c.s)
			for _, since := range []store.Rev{"", rev, "garbage"} {
				if snap, err := c.s.Load(c.ctx, since); !errors.Is(err, store.ErrClosed) {
					c.fatalf("Load(%q) after Close: Rev %q, error %v, want ErrClosed", since, snap.Rev, err)
				}
			}
		},
	},
	{
		name: "closed-apply",
		rule: closedRule,
		run: func(c *tester) {
			rev := c.apply(c.s, full(flag("a", 1)))
			c.close(c.s)
			for _, ch := range []store.Change{
				patch(flag("a", 2)), patch(), full(), full(flag("a", 1)), {Base: rev, Items: []store.Item{flag("a", 2)}},
			} {
				if rev, err := c.s.Apply(c.ctx, ch); !errors.Is(err, store.ErrClosed) {
					c.fatalf("Apply after Close: Rev %q, error %v, want ErrClosed", rev, err)
				}
			}
		},
	},
	{
		name:  "closed-watch",
		rule:  closedRule,
		needs: needWatch,
		run: func(c *tester) {
			c.apply(c.s, full(flag("a", 1)))
			c.close(c.s)
			w := c.watch(c.s)
			if err := receive(c, "Watch of a closed store returns", w.ended); !errors.Is(err, store.ErrClosed) {
				c.fatalf("Watch after Close: error %v, want ErrClosed", err)
			}
		},
	},
	{
		name: "closed-before-use",
		rule: closedRule,
		run: func(c *tester) {
			c.close(c.s)
			if _, err := c.s.Load(c.ctx, ""); !errors.Is(err, store.ErrClosed) {
				c.fatalf("Load after Close: error %v, want ErrClosed", err)
			}
			if _, err := c.s.Apply(c.ctx, full()); !errors.Is(err, store.ErrClosed) {
				c.fatalf("Apply after Close: error %v, want ErrClosed", err)
			}
		},
	},
	{
		name: "close-twice",
		rule: "Close may be called again, and concurrently, and returns nil.",
		run: func(c *tester) {
			c.apply(c.s, full(flag("a", 1)))
			c.close(c.s)
			c.close(c.s)
			g := group{c: c}
			for range 3 {
				g.run(func() { c.close(c.s) })
			}
			g.wg.Wait()
		},
	},
	{
		name: "close-while-in-use",
		rule: "Methods are safe for concurrent use: calls that Close overtakes succeed or return ErrClosed.",
		run: func(c *tester) {
			c.apply(c.s, full(flag("a", 1)))
			g := group{c: c}
			running := make(chan struct{}, 4)
			for n := range 4 {
				g.run(func() {
					for i := int64(2); c.ctx.Err() == nil; i++ {
						var err error
						if n == 0 {
							_, err = c.s.Apply(c.ctx, patch(flag("a", i)))
						} else {
							_, err = c.s.Load(c.ctx, "")
						}
						if i == 4 {
							running <- struct{}{}
						}
						if errors.Is(err, store.ErrClosed) {
							return
						}
						if err != nil {
							c.fatalf("a call that Close overtook: error %v, want none or ErrClosed", err)
						}
					}
				})
			}
			for range cap(running) {
				receive(c, "Load and Apply go on", running)
			}
			c.close(c.s)
			g.wg.Wait()
			if c.ctx.Err() != nil {
				c.fatalf("calls went on after Close without ErrClosed")
			}
		},
	},
}

// close closes h, which has to work, and not to hang.
func (c *tester) close(h store.DataStore) {
	done := make(chan error, 1)
	g := group{c: c}
	g.run(func() { done <- h.Close() })
	if err := receive(c, "Close returns", done); err != nil {
		c.fatalf("Close: %v", err)
	}
}
