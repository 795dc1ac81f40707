package storetest

import (
	"errors"
	"fmt"

	"github.com/flagstead/flagstead/store"
)

var fullCases = []testCase{
	{
		name: "full-replaces-everything",
		rule: "A full change replaces everything.",
		run: func(c *tester) {
			c.apply(c.s, patch(flag("a", 1), flag("b", 1), segment("s", 1), archived(flag("old", 1))))
			c.apply(c.s, full(flag("b", 2), flag("c", 1)))
			c.expect(c.s, flag("b", 2), flag("c", 1))
			c.apply(c.s, full(segment("s", 1)))
			c.expect(c.s, segment("s", 1))
		},
	},
	{
		name: "full-wins-with-lower-versions",
		rule: "A full change replaces everything, even with lower versions.",
		run: func(c *tester) {
			c.apply(c.s, patch(flag("a", 9), archived(segment("s", 9))))
			v := c.expect(c.s, flag("a", 9), archived(segment("s", 9)))
			c.applyMoves(c.s, v.rev, full(flag("a", 2), segment("s", 2)))
			c.expect(c.s, flag("a", 2), segment("s", 2))
			c.expectAfter(c.s, v, flag("a", 2), segment("s", 2))
			// What counts from now on are the lower versions.
			c.apply(c.s, patch(flag("a", 3), segment("s", 1)))
			c.expect(c.s, flag("a", 3), segment("s", 2))
		},
	},
	{
		name: "full-wins-with-equal-versions",
		rule: "A full change replaces everything, also an item of equal version and other content.",
		run: func(c *tester) {
			c.apply(c.s, patch(flag("a", 5, "first"), flag("b", 5)))
			v := c.expect(c.s, flag("a", 5, "first"), flag("b", 5))
			c.applyMoves(c.s, v.rev, full(flag("a", 5, "second"), archived(flag("b", 5))))
			c.expect(c.s, flag("a", 5, "second"), archived(flag("b", 5)))
			c.expectAfter(c.s, v, flag("a", 5, "second"), archived(flag("b", 5)))
		},
	},
	{
		name: "full-forgets-tombstones",
		rule: "A full change replaces everything: what it removed may come back with any version.",
		run: func(c *tester) {
			c.apply(c.s, patch(archived(flag("a", 9)), flag("b", 9)))
			c.apply(c.s, full(flag("c", 1)))
			c.apply(c.s, patch(flag("a", 1), flag("b", 1)))
			c.expect(c.s, flag("a", 1), flag("b", 1), flag("c", 1))
		},
	},
	{
		name: "delta-does-not-forget-removals",
		rule: "After a full change that removed items, Load with an earlier Rev must not leave the reader with them.",
		run: func(c *tester) {
			c.apply(c.s, patch(flag("a", 1), flag("b", 1)))
			first := c.expect(c.s, flag("a", 1), flag("b", 1))
			c.apply(c.s, patch(segment("s", 1)))
			second := c.expect(c.s, flag("a", 1), flag("b", 1), segment("s", 1))
			c.apply(c.s, full(flag("b", 2)))
			third := c.expect(c.s, flag("b", 2))
			for _, v := range []view{first, second, third} {
				c.expectAfter(c.s, v, flag("b", 2))
			}
			// Nor does a later patch make up for it.
			c.apply(c.s, patch(flag("c", 1)))
			for _, v := range []view{first, second, third} {
				c.expectAfter(c.s, v, flag("b", 2), flag("c", 1))
			}
			// Nor that the removed item is back, or that all are gone.
			c.apply(c.s, full(flag("a", 1)))
			for _, v := range []view{first, second, third} {
				c.expectAfter(c.s, v, flag("a", 1))
			}
			c.apply(c.s, full())
			for _, v := range []view{first, second, third} {
				c.expectAfter(c.s, v)
			}
		},
	},
	{
		name: "identical-full-keeps-rev",
		rule: "A full change with the content the store already has keeps the Rev.",
		run: func(c *tester) {
			items := []store.Item{flag("a", 1), archived(flag("b", 2)), segment("a", 3)}
			rev := c.apply(c.s, full(items...))
			c.applyKeeps(c.s, rev, full(items...))
			c.applyKeeps(c.s, rev, full(items[2], items[0], items[1]))
			c.applyKeeps(c.s, rev, full(items[2], flag("a", 0), items[0], items[1], items[1]))
			c.expect(c.s, items...)
			// Reached by patches, the content is just as identical.
			rev = c.apply(c.s, patch(flag("a", 4)))
			c.applyKeeps(c.s, rev, full(items[1], flag("a", 4), items[2]))
		},
	},
	{
		name: "full-with-a-key-twice",
		rule: "Inside a full change the larger version of a key wins (equal versions: the last one).",
		run: func(c *tester) {
			c.apply(c.s, full(
				flag("down", 9), flag("down", 1), flag("up", 1), flag("up", 9),
				flag("even", 5, "first"), flag("even", 5, "last"), segment("even", 5, "other"),
			))
			c.expect(c.s, flag("down", 9), flag("up", 9), flag("even", 5, "last"), segment("even", 5, "other"))
		},
	},
	{
		name: "empty-full-is-committed",
		rule: "The empty Rev means that nothing was ever committed, which is not the same as a committed state without items.",
		run: func(c *tester) {
			rev := c.apply(c.s, full())
			if rev == "" {
				c.fatalf("Apply of an empty full change returned no Rev")
			}
			c.expect(c.s)
			c.applyKeeps(c.s, rev, full())
			c.apply(c.s, patch(flag("a", 1)))
			c.expectAfter(c.s, view{rev: rev}, flag("a", 1))
		},
	},
	{
		name: "empty-full-removes-everything",
		rule: "A full change replaces everything, also by nothing.",
		run: func(c *tester) {
			rev := c.apply(c.s, patch(flag("a", 1), segment("s", 1)))
			v := c.expect(c.s, flag("a", 1), segment("s", 1))
			c.applyMoves(c.s, rev, full())
			c.expect(c.s)
			c.expectAfter(c.s, v)
		},
	},
	{
		name: "no-rev-twice",
		rule: "No store ever reaches a Rev twice with different content.",
		run: func(c *tester) {
			seen := map[store.Rev]content{}
			for i := range 24 {
				ch := patch(flag("a", int64(i)))
				switch i % 4 {
				case 1:
					ch = full(flag(fmt.Sprint(i), 1))
				case 3:
					ch = full(flag("a", 1), flag("b", int64(i)))
				}
				c.apply(c.s, ch)
				v := c.all(c.s)
				if was, ok := seen[v.rev]; ok && diff(was, v.items) != "" {
					c.fatalf("Rev %q again, with other content: %s", v.rev, diff(v.items, was))
				}
				seen[v.rev] = v.items
			}
		},
	},
}

var baseCases = []testCase{
	{
		name: "base-conflict-writes-nothing",
		rule: "If Base is set and is no longer current, Apply returns ErrConflict and writes nothing.",
		run: func(c *tester) {
			old := c.apply(c.s, full(flag("a", 1)))
			rev := c.apply(c.s, patch(flag("b", 1)))
			for _, base := range []store.Rev{old, "garbage", rev + "0"} {
				for _, ch := range []store.Change{
					patch(flag("a", 2), flag("c", 1)), full(flag("c", 1)), full(),
					// These would change nothing, but the Base is as wrong.
					patch(flag("a", 1)), patch(), full(flag("a", 1), flag("b", 1)),
				} {
					ch.Base = base
					if _, err := c.s.Apply(c.ctx, ch); !errors.Is(err, store.ErrConflict) {
						c.fatalf("Apply with Base %q at Rev %q: error %v, want ErrConflict", base, rev, err)
					}
					if v := c.expect(c.s, flag("a", 1), flag("b", 1)); v.rev != rev {
						c.fatalf("the Rev is %q after a conflict, %q before", v.rev, rev)
					}
				}
			}
		},
	},
	{
		name: "base-conflict-on-an-empty-store",
		rule: "If Base is set and is no longer current, Apply returns ErrConflict, also on an empty store.",
		run: func(c *tester) {
			for _, ch := range []store.Change{patch(flag("a", 1)), full(flag("a", 1)), full()} {
				ch.Base = "garbage"
				if _, err := c.s.Apply(c.ctx, ch); !errors.Is(err, store.ErrConflict) {
					c.fatalf("Apply with Base %q: error %v, want ErrConflict", ch.Base, err)
				}
				if snap := c.load(c.s, ""); snap.Rev != "" || len(snap.Items) != 0 {
					c.fatalf("after a conflict: Rev %q, %d items", snap.Rev, len(snap.Items))
				}
			}
		},
	},
	{
		name: "current-base-commits",
		rule: "If Base is set, the commit happens while the store is at Base.",
		run: func(c *tester) {
			rev := c.apply(c.s, patch(flag("a", 1)))
			for i, ch := range []store.Change{
				patch(flag("a", 2)), full(flag("a", 1), flag("b", 1)), patch(archived(flag("b", 2))), full(),
				patch(flag("c", 1)),
			} {
				ch.Base = rev
				next := c.apply(c.s, ch)
				if next == rev {
					c.fatalf("change %d was not committed: still Rev %q", i, rev)
				}
				rev = next
			}
			c.expect(c.s, flag("c", 1))
			// A Base that is current does not make a commit of nothing.
			ch := patch(flag("c", 1))
			ch.Base = rev
			c.applyKeeps(c.s, rev, ch)
			ch.Full = true
			c.applyKeeps(c.s, rev, ch)
		},
	},
	{
		name:  "one-of-many-wins-a-base",
		rule:  "If Base is no longer current, Apply returns ErrConflict: of several writers with one Base, one commits.",
		needs: wantOther,
		run: func(c *tester) {
			base := c.apply(c.s, full(flag("a", 1)))
			for range 5 {
				c.oneWins(base)
				c.eventually("the first handle sees the commit", func() bool { return c.load(c.s, "").Rev != base })
				base = c.load(c.s, "").Rev
			}
		},
	},
	{
		name: "uncommitted-base-commits-once",
		rule: "If Base is Uncommitted, the commit happens while nothing was ever committed; else Apply returns ErrConflict and writes nothing.",
		run: func(c *tester) {
			first := full()
			first.Base = store.Uncommitted
			rev := c.apply(c.s, first)
			if rev == "" || rev == store.Uncommitted {
				c.fatalf("Apply on Base Uncommitted returned Rev %q", rev)
			}
			c.expect(c.s) // a state without items is a committed one
			c.conflicts(store.Uncommitted, patch(flag("a", 1)), full(flag("a", 1)), full(), patch())
			c.expect(c.s)
			rev = c.applyMoves(c.s, rev, patch(flag("a", 1)))
			c.conflicts(store.Uncommitted, patch(flag("a", 2)), full(flag("b", 1)), full(), patch(flag("a", 1)))
			if v := c.expect(c.s, flag("a", 1)); v.rev != rev {
				c.fatalf("the Rev is %q after conflicts, %q before", v.rev, rev)
			}
		},
	},
	{
		name:  "one-of-many-wins-an-uncommitted-base",
		rule:  "If Base is Uncommitted and something was committed, Apply returns ErrConflict: of several writers to an empty store, one commits.",
		needs: wantOther,
		run: func(c *tester) {
			c.oneWins(store.Uncommitted)
			if n := len(c.all(c.s).items); n != 1 {
				c.fatalf("%d items, want the one of the writer that committed", n)
			}
		},
	},
}

// conflicts checks that each change conflicts on base.
func (c *tester) conflicts(base store.Rev, changes ...store.Change) {
	for i, ch := range changes {
		ch.Base = base
		if _, err := c.s.Apply(c.ctx, ch); !errors.Is(err, store.ErrConflict) {
			c.fatalf("change %d, Apply with Base %q: error %v, want ErrConflict", i, base, err)
		}
	}
}

// oneWins lets several writers commit on one base, by patches and full changes,
// and checks that one does and the others conflict.
func (c *tester) oneWins(base store.Rev) {
	results := make(chan error, 6)
	g := group{c: c}
	for i := range cap(results) {
		h := c.s
		if i%2 == 1 && c.opts.ReopenedWrites && c.other != nil {
			h = c.other
		}
		ch := store.Change{
			Full:  base == store.Uncommitted && i%3 == 0,
			Base:  base,
			Items: []store.Item{flag(fmt.Sprintf("%s of %d", base, i), 1)},
		}
		g.run(func() {
			_, err := h.Apply(c.ctx, ch)
			results <- err
		})
	}
	g.wg.Wait()
	close(results)
	won := 0
	for err := range results {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, store.ErrConflict):
			c.fatalf("Apply: error %v, want ErrConflict", err)
		}
	}
	if won != 1 {
		c.fatalf("%d writers committed on Base %q, want one", won, base)
	}
}

var flushCases = []testCase{
	{
		name:  "flushed-store-is-empty",
		rule:  "Load with a Rev that the store does not know (flushed) loads everything: from an empty store the zero Snapshot.",
		needs: needFlush,
		run: func(c *tester) {
			c.apply(c.s, full(flag("a", 1)))
			rev := c.apply(c.s, patch(flag("b", 1)))
			c.opts.Flush(c.tb, c.s)
			for _, since := range []store.Rev{rev, "", rev} {
				if snap := c.load(c.s, since); snap.Rev != "" || snap.Delta || len(snap.Items) != 0 {
					c.fatalf("Load(%q) of a flushed store: Rev %q, Delta %v, %d items",
						since, snap.Rev, snap.Delta, len(snap.Items))
				}
			}
		},
	},
	{
		name:  "refilled-store-has-new-revs",
		rule:  "No store ever reaches a Rev twice with different content, not even after it was flushed.",
		needs: needFlush,
		run: func(c *tester) {
			old := map[store.Rev]view{}
			for round := range 3 {
				state := content{}
				var views []view
				for i := range 4 {
					ch := patch(flag(fmt.Sprintf("round %d", round), int64(i+1)))
					ch.Full = i == 0
					state, _ = state.apply(ch)
					c.apply(c.s, ch)
					now := c.all(c.s)
					if d := diff(now.items, state); d != "" {
						c.fatalf("round %d, change %d: %s", round, i, d)
					}
					if _, ok := old[now.rev]; ok {
						c.fatalf("round %d, change %d: Rev %q was used before the flush", round, i, now.rev)
					}
					for _, v := range old {
						snap := c.load(c.s, v.rev)
						if d := diff(v.follow(snap).items, state); d != "" {
							c.fatalf("Load(%q), which was flushed, with Delta %v: %s", v.rev, snap.Delta, d)
						}
					}
					views = append(views, now)
				}
				for _, v := range views {
					old[v.rev] = v
				}
				c.opts.Flush(c.tb, c.s)
			}
		},
	},
	{
		name:  "flushed-base-conflicts",
		rule:  "If Base is set and is no longer current, Apply returns ErrConflict, also because the store was flushed.",
		needs: needFlush,
		run: func(c *tester) {
			base := c.apply(c.s, full(flag("a", 1)))
			c.opts.Flush(c.tb, c.s)
			ch := patch(flag("b", 1))
			ch.Base = base
			if _, err := c.s.Apply(c.ctx, ch); !errors.Is(err, store.ErrConflict) {
				c.fatalf("Apply with a flushed Base: error %v, want ErrConflict", err)
			}
			c.apply(c.s, full(flag("c", 1)))
			if _, err := c.s.Apply(c.ctx, ch); !errors.Is(err, store.ErrConflict) {
				c.fatalf("Apply with a flushed Base after a refill: error %v, want ErrConflict", err)
			}
			c.expect(c.s, flag("c", 1))
		},
	},
	{
		name:  "uncommitted-base-commits-after-a-flush",
		rule:  "If Base is Uncommitted, the commit happens while nothing was ever committed, as in a store that was flushed.",
		needs: needFlush,
		run: func(c *tester) {
			c.apply(c.s, full(flag("a", 1)))
			c.conflicts(store.Uncommitted, patch(flag("b", 1)), full(flag("b", 1)))
			c.opts.Flush(c.tb, c.s)
			c.apply(c.s, store.Change{Base: store.Uncommitted, Items: []store.Item{flag("c", 1)}})
			c.conflicts(store.Uncommitted, patch(flag("b", 1)), full(flag("b", 1)))
			c.expect(c.s, flag("c", 1))
		},
	},
}
