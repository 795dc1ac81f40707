package storetest

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/flagstead/flagstead/store"
)

// controlCases are about stores whose handles are a store.Controller.
var controlCases = []testCase{
	{
		name:  "no-control-at-first",
		rule:  "ReadControl returns the zero Control if nobody wrote one, also after commits.",
		needs: needControl | wantOther,
		run: func(c *tester) {
			for range 2 {
				for _, h := range c.handles {
					if got := c.control(h); got != (store.Control{}) {
						c.fatalf("ReadControl before the first WriteControl: %+v", got)
					}
				}
				c.apply(c.s, full(flag("a", 1)))
			}
		},
	},
	{
		name:  "control-is-kept",
		rule:  "ReadControl returns the control that was written last, whole, through every handle; a zero At means now.",
		needs: needControl | wantOther,
		run: func(c *tester) {
			for _, want := range []store.Control{
				{Frozen: true, By: "ops", Reason: "incident 7", At: time.Now().Add(-time.Hour)},
				{Frozen: true, Pinned: 1<<53 - 1},
				{By: "a b|c,d\n\"{}' ⚑"},
				{Frozen: true, Reason: string(make([]byte, 100)) + "x"},
				{},
			} {
				c.freeze(c.s, want)
				if want.At.IsZero() {
					want.At = time.Now()
				}
				for _, h := range c.handles {
					got := c.control(h)
					if !near(got.At, want.At, 2*time.Second) {
						c.fatalf("ReadControl: At is %v, want about %v", got.At, want.At)
					}
					if got.At = want.At; got != want {
						c.fatalf("ReadControl: %+v, want %+v", got, want)
					}
				}
			}
			if c.opts.Flush != nil {
				c.apply(c.s, full(flag("a", 1)))
				c.freeze(c.s, store.Control{})
				c.opts.Flush(c.tb, c.s)
				c.apply(c.s, full(flag("b", 1)))
			}
		},
	},
	{
		name:  "frozen-store-refuses-changes",
		rule:  "While publication is frozen, Apply without Override returns ErrFrozen and writes nothing.",
		needs: needControl | wantOther,
		run: func(c *tester) {
			at := c.apply(c.s, full(flag("a", 1), flag("b", 1)))
			c.apply(c.s, patch(flag("a", 2)))
			view := c.expect(c.s, flag("a", 2), flag("b", 1))
			c.freeze(c.s, store.Control{Frozen: true})
			based := patch(flag("a", 3))
			based.Base = view.rev
			stale := patch(flag("a", 3))
			stale.Base = at
			for _, h := range c.writers() {
				for what, ch := range map[string]store.Change{
					"a patch": patch(flag("a", 9)), "a new item": patch(flag("c", 1)), "a based patch": based, "a patch on another Base": stale,
					"a full change": full(flag("a", 9)), "an empty full change": full(), "the content that is there": full(flag("a", 2), flag("b", 1)),
				} {
					if rev, err := h.Apply(c.ctx, ch); !errors.Is(err, store.ErrFrozen) {
						c.fatalf("Apply of %s while frozen: Rev %q, error %v, want ErrFrozen", what, rev, err)
					}
				}
			}
			for _, h := range c.handles {
				if got := c.expect(h, flag("a", 2), flag("b", 1)); got.rev != view.rev {
					c.fatalf("the Rev became %q while frozen, was %q", got.rev, view.rev)
				}
			}
			c.freeze(c.s, store.Control{})
			for _, h := range c.writers() {
				c.apply(h, patch(flag("a", 3)))
			}
			c.expect(c.s, flag("a", 3), flag("b", 1))
		},
	},
	{
		name:  "frozen-empty-store-stays-empty",
		rule:  "A store without a commit can be frozen, too.",
		needs: needControl,
		run: func(c *tester) {
			c.freeze(c.s, store.Control{Frozen: true})
			first := full(flag("a", 1))
			first.Base = store.Uncommitted
			for _, ch := range []store.Change{full(), full(flag("a", 1)), patch(flag("a", 1)), first} {
				if rev, err := c.s.Apply(c.ctx, ch); !errors.Is(err, store.ErrFrozen) {
					c.fatalf("Apply to a frozen, empty store: Rev %q, error %v, want ErrFrozen", rev, err)
				}
			}
			if snap := c.load(c.s, ""); snap.Rev != "" {
				c.fatalf("it became Rev %q", snap.Rev)
			}
			first.Override = true
			c.apply(c.s, first)
			c.expect(c.s, flag("a", 1))
		},
	},
	{
		name:  "override-commits-while-frozen",
		rule:  "Override commits although publication is frozen, by all other rules.",
		needs: needControl | wantOther,
		run: func(c *tester) {
			c.apply(c.s, full(flag("a", 5), flag("b", 5)))
			c.freeze(c.s, store.Control{Frozen: true, Pinned: 1})
			for _, h := range c.writers() {
				back := full(flag("a", 3))
				back.Override = true
				at := c.apply(h, back)
				for _, r := range c.handles {
					c.sees(r, flag("a", 3))
				}
				on := patch(flag("a", 4))
				on.Override, on.Base = true, "other"
				if _, err := h.Apply(c.ctx, on); !errors.Is(err, store.ErrConflict) {
					c.fatalf("Apply with Override on another Base: error %v, want ErrConflict", err)
				}
				on.Base = at
				c.apply(h, on)
				older := patch(flag("a", 2))
				older.Override = true
				c.apply(h, older)
				c.expect(c.s, flag("a", 4))
			}
		},
	},
	{
		name:  "control-is-no-commit",
		rule:  "A control is no commit: it changes no Rev, and Load(since) is still an empty Delta.",
		needs: needControl | wantOther,
		run: func(c *tester) {
			c.freeze(c.s, store.Control{Frozen: true})
			if snap := c.load(c.s, ""); snap.Rev != "" {
				c.fatalf("a control on an empty place made Rev %q", snap.Rev)
			}
			c.freeze(c.s, store.Control{})
			base := c.apply(c.s, full(flag("a", 1)))
			for i := range 4 {
				c.freeze(c.s, store.Control{Frozen: i%2 == 0})
				for _, h := range c.handles {
					c.sees(h, flag("a", 1))
					if snap := c.load(h, base); !snap.Delta || len(snap.Items) > 0 {
						c.fatalf("Load(%q) after a control: Rev %q, Delta %v, %d items", base, snap.Rev, snap.Delta, len(snap.Items))
					}
				}
			}
			ch := patch(flag("a", 2))
			ch.Base = base
			c.apply(c.s, ch)
		},
	},
	{
		name:  "freeze-amid-commits",
		rule:  "Once WriteControl has returned, nothing is committed that it forbids.",
		needs: needControl | wantOther,
		run: func(c *tester) {
			var version, refused atomic.Int64
			stop := make(chan struct{})
			g := group{c: c}
			for _, h := range c.writers() {
				g.run(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						_, err := h.Apply(c.ctx, patch(flag("a", version.Add(1))))
						switch {
						case errors.Is(err, store.ErrFrozen):
							refused.Add(1)
						case err != nil:
							c.rec.addf("Apply: unexpected error %v", err)
							return
						}
					}
				})
			}
			for range 20 {
				began := version.Load()
				c.eventually("commits go on", func() bool { return version.Load() > began+3 })
				c.freeze(c.s, store.Control{Frozen: true})
				at := c.load(c.s, "").Rev
				was := refused.Load()
				c.eventually("changes are refused", func() bool { return refused.Load() > was+2 })
				if now := c.load(c.s, "").Rev; now != at {
					c.rec.addf("the Rev became %q after the freeze, was %q", now, at)
					break
				}
				c.freeze(c.s, store.Control{})
			}
			close(stop)
			g.wg.Wait()
		},
	},
	{
		name:  "impossible-controls-are-refused",
		rule:  "WriteControl returns an error for what does not pass Control.Check, and keeps the control.",
		needs: needControl,
		run: func(c *tester) {
			c.freeze(c.s, store.Control{By: "before"})
			for _, bad := range []store.Control{
				{Frozen: true, Reason: string(make([]byte, store.MaxControlText+1))}, {Pinned: 3}, {Frozen: true, Pinned: 1 << 60},
			} {
				if err := c.s.(store.Controller).WriteControl(c.ctx, bad); err == nil {
					c.fatalf("WriteControl took a control of %d bytes that pins %d, Frozen %v", len(bad.Reason), bad.Pinned, bad.Frozen)
				}
			}
			if got := c.control(c.s); got.By != "before" {
				c.fatalf("the control became %+v", got)
			}
		},
	},
	{
		name:  "ended-context-ends-controls",
		rule:  contextRule,
		needs: needControl,
		run: func(c *tester) {
			h := c.s.(store.Controller)
			for want, ctx := range ended() {
				if err := h.WriteControl(ctx, store.Control{Frozen: true}); !errors.Is(err, want) {
					c.fatalf("WriteControl with an ended context: error %v, want %v", err, want)
				}
				if _, err := h.ReadControl(ctx); !errors.Is(err, want) {
					c.fatalf("ReadControl with an ended context: error %v, want %v", err, want)
				}
			}
			if got := c.control(c.s); got != (store.Control{}) {
				c.fatalf("WriteControl with an ended context wrote %+v", got)
			}
		},
	},
	{
		name:  "closed-controls",
		rule:  closedRule,
		needs: needControl,
		run: func(c *tester) {
			h := c.s.(store.Controller)
			c.close(c.s)
			if err := h.WriteControl(c.ctx, store.Control{Frozen: true}); !errors.Is(err, store.ErrClosed) {
				c.fatalf("WriteControl after Close: error %v, want ErrClosed", err)
			}
			if _, err := h.ReadControl(c.ctx); !errors.Is(err, store.ErrClosed) {
				c.fatalf("ReadControl after Close: error %v, want ErrClosed", err)
			}
		},
	},
}

// control reads the control through h.
func (c *tester) control(h store.DataStore) store.Control {
	r, ok := h.(store.ControlReader)
	if !ok {
		c.fatalf("a handle of a store that can be frozen cannot read its control")
	}
	got, err := r.ReadControl(c.ctx)
	if err != nil {
		c.fatalf("ReadControl: unexpected error %v", err)
	}
	return got
}

// freeze writes a control through h.
func (c *tester) freeze(h store.DataStore, control store.Control) {
	if err := h.(store.Controller).WriteControl(c.ctx, control); err != nil {
		c.fatalf("WriteControl: unexpected error %v", err)
	}
}
