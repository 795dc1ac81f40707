package storetest

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/flagstead/flagstead/store"
)

// A countdown is a context that is cancelled when it is looked at for the n-th
// time: at every step of a call that looks at it, if n takes every value.
type countdown struct {
	context.Context

	mu    sync.Mutex // guards what follows
	left  int
	done  chan struct{}
	ended time.Time
}

func newCountdown(n int) *countdown {
	return &countdown{Context: context.Background(), left: n, done: make(chan struct{})}
}

// look counts one look, and fire counts the rest.
func (c *countdown) look() { c.count(1) }

func (c *countdown) fire() { c.count(1 << 30) }

func (c *countdown) count(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left > 0 && c.left <= n {
		c.ended = time.Now()
		close(c.done)
	}
	c.left = max(0, c.left-n)
}

// fired returns when the context was cancelled, if it was.
func (c *countdown) fired() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended, c.left == 0
}

func (c *countdown) Done() <-chan struct{} {
	c.look()
	return c.done
}

func (c *countdown) Err() error {
	c.look()
	select {
	case <-c.done:
		return context.Canceled
	default:
		return nil
	}
}

// steps bounds how many looks at a context the suite cuts a call at. A call that
// looks more often does the same again and again.
const steps = 40

var cancelCases = []testCase{
	{
		name: "cancelled-at-every-step-of-load",
		rule: contextRule,
		run: func(c *tester) {
			c.apply(c.s, full(flag("a", 1), segment("s", 1)))
			old := c.expect(c.s, flag("a", 1), segment("s", 1))
			c.apply(c.s, patch(flag("a", 2)))
			want := contentOf(flag("a", 2), segment("s", 1))
			for _, v := range []view{{}, old, {rev: "garbage"}} {
				for n := 1; n <= steps; n++ {
					ctx := newCountdown(n)
					snap, err := call(c, ctx, func(ctx context.Context) (store.Snapshot, error) { return c.s.Load(ctx, v.rev) })
					if err == nil && diff(v.follow(snap).items, want) != "" {
						c.fatalf("Load, cancelled at look %d at its context, returned no error and %s", n, diff(v.follow(snap).items, want))
					}
					c.goesOn(want)
					if _, fired := ctx.fired(); !fired {
						break
					}
				}
			}
		},
	},
	{
		name: "cancelled-at-every-step-of-apply",
		rule: contextRule,
		run: func(c *tester) {
			state := content{}
			for n := 1; n <= steps; n++ {
				v := int64(n)
				ch := patch(flag("a", v), flag("b", v), segment("c", v))
				ch.Full = n%2 == 0
				if ch.Full {
					ch.Items = append(ch.Items, segment("only", -v+steps))
				}
				ctx := newCountdown(n)
				_, err := call(c, ctx, func(ctx context.Context) (store.Rev, error) { return c.s.Apply(ctx, ch) })
				state = c.oneOf(state, ch, err)
				c.goesOn(state)
				if _, fired := ctx.fired(); !fired && n > 2 {
					break
				}
			}
		},
	},
	{
		name:  "cancelled-at-every-step-of-watch",
		rule:  "Watch ends when ctx ends, at whatever it was, and another Watch can follow.",
		needs: needWatch,
		run: func(c *tester) {
			for n := 1; n <= steps/2; n++ {
				ctx := newCountdown(n)
				done := make(chan error, 1)
				g := group{c: c}
				g.run(func() { done <- c.s.(store.Watcher).Watch(ctx, func() {}) })
				c.apply(c.s, patch(flag("a", int64(n))))
				ctx.fire()
				if err := receive(c, "Watch returns when its context is cancelled", done); !errors.Is(err, context.Canceled) {
					c.fatalf("Watch, cancelled at look %d at its context: error %v, want %v", n, err, context.Canceled)
				}
			}
			w := c.watch(c.s)
			c.wait(w, "when it started, after others were cancelled")
			c.waitFor(w, c.s, c.apply(c.s, full(flag("last", 1))), "after a commit")
		},
	},
	{
		name:  "cancelled-at-any-time-under-load",
		rule:  contextRule,
		needs: wantOther,
		run: func(c *tester) {
			state := contentOf(flag("a", 0), flag("b", 0), segment("c", 0))
			began := time.Now()
			c.apply(c.s, full(flag("a", 0), flag("b", 0), segment("c", 0)))
			typical := max(time.Since(began), 100*time.Microsecond)
			for i := range int64(20) {
				ch := patch(flag("a", i+1), flag("b", i+1), segment("c", i+1))
				g := group{c: c}
				for _, h := range c.handles {
					for range 2 {
						g.run(func() {
							_, err := c.cut(typical, func(ctx context.Context) error {
								_, err := h.Load(ctx, "")
								return err
							})
							if err != nil && !errors.Is(err, context.Canceled) {
								c.fatalf("Load: error %v, want %v", err, context.Canceled)
							}
						})
					}
				}
				_, err := c.cut(typical, func(ctx context.Context) error {
					_, err := c.s.Apply(ctx, ch)
					return err
				})
				g.wg.Wait()
				state = c.oneOf(state, ch, err)
				c.goesOn(state)
			}
		},
	},
}

// call calls f, which has to return promptly once ctx is cancelled, and with its
// error or none.
func call[T any](c *tester, ctx *countdown, f func(context.Context) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
		at    time.Time
	}
	done := make(chan result, 1)
	g := group{c: c}
	g.run(func() {
		v, err := f(ctx)
		done <- result{v, err, time.Now()}
	})
	r := receive(c, "a call returns when its context is cancelled", done)
	at, fired := ctx.fired()
	c.promptly(at, r.at, fired)
	if r.err != nil && (!fired || !errors.Is(r.err, context.Canceled)) {
		c.fatalf("a call whose context was cancelled (%v): error %v, want none or %v", fired, r.err, context.Canceled)
	}
	return r.value, r.err
}

// cut calls f and cancels its context within about twice the typical time.
func (c *tester) cut(typical time.Duration, f func(context.Context) error) (time.Duration, error) {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	limit := rand.N(2 * typical)
	defer time.AfterFunc(limit, cancel).Stop()
	began := time.Now()
	err := f(ctx)
	c.promptly(began.Add(limit), time.Now(), true)
	return time.Since(began), err
}

// promptly checks that a call returned soon after its context ended. Once may be
// a disk that stalls.
func (c *tester) promptly(ended, returned time.Time, did bool) {
	if over := returned.Sub(ended); did && over > promptly && c.late.Add(1) > 1 {
		c.fatalf("a call returned %v after its context ended", over)
	}
}

// oneOf returns the content after an Apply of ch on state that returned err:
// with ch, or, after an error, perhaps without.
func (c *tester) oneOf(state content, ch store.Change, err error) content {
	if err != nil && !errors.Is(err, context.Canceled) {
		c.fatalf("Apply: error %v, want %v", err, context.Canceled)
	}
	next, _ := state.apply(ch)
	ctx, cancel := context.WithTimeout(c.ctx, c.opts.Patience)
	defer cancel()
	snap, loadErr := c.s.Load(ctx, "")
	if loadErr != nil {
		c.fatalf("Load after an Apply that returned error %v: %v", err, loadErr)
	}
	now := contentOf(snap.Items...)
	if d := diff(now, next); d != "" && (err == nil || diff(now, state) != "") {
		c.fatalf("after an Apply that returned error %v: %s", err, d)
	}
	return now
}

// goesOn checks that calls work, with want to be loaded, after others were
// cancelled.
func (c *tester) goesOn(want content) {
	ctx, cancel := context.WithTimeout(c.ctx, c.opts.Patience)
	defer cancel()
	snap, err := c.s.Load(ctx, "")
	if err != nil {
		c.fatalf("Load after another call was cancelled: %v", err)
	}
	if d := diff(contentOf(snap.Items...), want); d != "" {
		c.fatalf("Load after another call was cancelled: %s", d)
	}
	// It changes nothing, but has to get in.
	if rev, err := c.s.Apply(ctx, patch()); err != nil || rev != snap.Rev {
		c.fatalf("Apply after another call was cancelled: Rev %q, error %v, want %q", rev, err, snap.Rev)
	}
}
