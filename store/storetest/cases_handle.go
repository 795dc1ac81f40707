package storetest

import (
	"errors"

	"github.com/flagstead/flagstead/store"
)

const handleRule = "A commit becomes visible, whole, through every handle on the same place."

// sees waits until h shows exactly items. A handle on the same place may lag a
// little behind the one that committed.
func (c *tester) sees(h store.DataStore, items ...store.Item) {
	want := contentOf(items...)
	var d string
	if !c.poll(func() bool {
		v := c.all(h)
		d = diff(v.items, want)
		return d == "" && v.rev != ""
	}) {
		c.fatalf("not within %v: Load of everything: %s", c.opts.Patience, d)
	}
}

// handleCases are about two handles on one place.
var handleCases = []testCase{
	{
		name:  "other-handle-sees-commits",
		rule:  handleRule,
		needs: needOther,
		run: func(c *tester) {
			if snap := c.load(c.other, ""); snap.Rev != "" {
				c.fatalf("Load of an empty place through another handle: Rev %q", snap.Rev)
			}
			state := content{}
			var v view
			for i, ch := range []store.Change{
				full(flag("a", 1), flag("b", 1)), patch(flag("a", 2), segment("s", 1)), patch(archived(flag("b", 2))),
				full(flag("a", 1)), patch(flag("c", 1)), full(), patch(flag("d", 1)),
			} {
				rev := c.apply(c.s, ch)
				state, _ = state.apply(ch)
				c.eventually("another handle sees a commit", func() bool {
					v = v.follow(c.load(c.other, v.rev))
					return v.rev == rev
				})
				if d := diff(v.items, state); d != "" {
					c.fatalf("change %d, step by step through another handle: %s", i, d)
				}
				if d := diff(c.all(c.other).items, state); d != "" {
					c.fatalf("change %d, everything through another handle: %s", i, d)
				}
			}
		},
	},
	{
		name:  "late-handle-sees-what-is-there",
		rule:  handleRule,
		needs: needOther,
		run: func(c *tester) {
			c.apply(c.s, full(flag("a", 1)))
			v := c.all(c.s)
			c.apply(c.s, patch(flag("b", 1)))
			late := c.opened(c.opts.Reopen(c.tb, c.s))
			c.sees(late, flag("a", 1), flag("b", 1))
			c.expectAfter(late, v, flag("a", 1), flag("b", 1))
		},
	},
	{
		name:  "other-handle-writes",
		rule:  handleRule,
		needs: needWrites,
		run: func(c *tester) {
			c.apply(c.other, full(flag("a", 1)))
			c.sees(c.s, flag("a", 1))
			c.apply(c.s, patch(flag("a", 2), flag("b", 1)))
			c.apply(c.other, patch(flag("a", 1), flag("b", 2)))
			c.sees(c.s, flag("a", 2), flag("b", 2))
			c.sees(c.other, flag("a", 2), flag("b", 2))
			if a, b := c.all(c.s).rev, c.all(c.other).rev; a != b {
				c.fatalf("two handles show the same state at Rev %q and %q", a, b)
			}
		},
	},
	{
		name:  "base-conflicts-between-handles",
		rule:  "If Base is set and is no longer current, Apply returns ErrConflict, whoever committed meanwhile.",
		needs: needWrites,
		run: func(c *tester) {
			base := c.apply(c.s, full(flag("a", 1)))
			c.sees(c.other, flag("a", 1))
			next := c.apply(c.other, store.Change{Base: base, Items: []store.Item{flag("a", 2)}})
			_, err := c.s.Apply(c.ctx, store.Change{Base: base, Items: []store.Item{flag("b", 1)}})
			if !errors.Is(err, store.ErrConflict) {
				c.fatalf("Apply with the Base before another handle's commit: error %v, want ErrConflict", err)
			}
			c.apply(c.s, store.Change{Base: next, Items: []store.Item{flag("b", 1)}})
			c.sees(c.other, flag("a", 2), flag("b", 1))
		},
	},
	{
		name:  "read-only-handle-does-not-write",
		rule:  "Apply on a store that was opened for reading returns ErrReadOnly.",
		needs: needReads,
		run: func(c *tester) {
			rev := c.apply(c.s, full(flag("a", 1)))
			c.sees(c.other, flag("a", 1))
			for _, ch := range []store.Change{
				patch(flag("a", 2)), patch(), full(), full(flag("b", 1)), {Base: rev, Items: []store.Item{flag("a", 2)}},
			} {
				if _, err := c.other.Apply(c.ctx, ch); !errors.Is(err, store.ErrReadOnly) {
					c.fatalf("Apply on a handle for reading: error %v, want ErrReadOnly", err)
				}
			}
			for _, h := range []store.DataStore{c.s, c.other} {
				if v := c.expect(h, flag("a", 1)); v.rev != rev {
					c.fatalf("the Rev is %q, was %q", v.rev, rev)
				}
			}
		},
	},
	{
		name:  "close-closes-one-handle",
		rule:  "Close closes a handle, not the place: other handles go on.",
		needs: needOther,
		run: func(c *tester) {
			c.apply(c.s, full(flag("a", 1)))
			c.sees(c.other, flag("a", 1))
			c.close(c.other)
			if _, err := c.other.Load(c.ctx, ""); !errors.Is(err, store.ErrClosed) {
				c.fatalf("Load after Close: error %v, want ErrClosed", err)
			}
			c.apply(c.s, patch(flag("b", 1)))
			c.expect(c.s, flag("a", 1), flag("b", 1))
			third := c.opened(c.opts.Reopen(c.tb, c.s))
			c.sees(third, flag("a", 1), flag("b", 1))
			c.close(c.s)
			c.expect(third, flag("a", 1), flag("b", 1))
		},
	},
	{
		name:  "other-handle-sees-a-flush",
		rule:  "Load with a Rev that the store does not know (flushed) loads everything, through every handle.",
		needs: needFlush | needOther,
		run: func(c *tester) {
			c.apply(c.s, full(flag("a", 1)))
			rev := c.apply(c.s, patch(flag("b", 1)))
			c.sees(c.other, flag("a", 1), flag("b", 1))
			v := c.all(c.other)
			c.opts.Flush(c.tb, c.s)
			c.eventually("another handle finds the place empty", func() bool { return c.load(c.other, rev).Rev == "" })
			c.apply(c.s, full(flag("c", 1)))
			c.apply(c.s, patch(flag("d", 1)))
			c.sees(c.other, flag("c", 1), flag("d", 1))
			c.expectAfter(c.other, v, flag("c", 1), flag("d", 1))
		},
	},
}
