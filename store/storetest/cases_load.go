package storetest

import (
	"fmt"
	"strings"

	"github.com/flagstead/flagstead/store"
)

var loadCases = []testCase{
	{
		name: "empty-store-is-the-zero-snapshot",
		rule: "An empty store returns the zero Snapshot and no error.",
		run: func(c *tester) {
			snap := c.load(c.s, "")
			if snap.Rev != "" || snap.Delta || len(snap.Items) != 0 {
				c.fatalf("Load of an empty store: %+v", snap)
			}
		},
	},
	{
		name: "empty-store-knows-no-rev",
		rule: "Load with a Rev that the store does not know loads everything, from an empty store the zero Snapshot.",
		run: func(c *tester) {
			snap := c.load(c.s, "some-rev")
			if snap.Rev != "" || snap.Delta || len(snap.Items) != 0 {
				c.fatalf("Load of an empty store: %+v", snap)
			}
		},
	},
	{
		name: "apply-returns-the-rev-that-load-returns",
		rule: "Apply returns the store's Rev afterwards.",
		run: func(c *tester) {
			rev := c.applyMoves(c.s, "", patch(flag("a", 1)))
			rev = c.applyMoves(c.s, rev, patch(segment("a", 1)))
			c.applyMoves(c.s, rev, full(flag("b", 1)))
		},
	},
	{
		name: "current-rev-gives-an-empty-delta",
		rule: "A Delta without items means that the asked Rev is still current.",
		run: func(c *tester) {
			for i, ch := range []store.Change{patch(flag("a", 1)), full(flag("b", 2)), patch(archived(flag("b", 3))), full()} {
				rev := c.apply(c.s, ch)
				for range 2 {
					snap := c.load(c.s, rev)
					if !snap.Delta || len(snap.Items) != 0 || snap.Rev != rev {
						c.fatalf("change %d: Load of the current Rev %q: Rev %q, Delta %v, %d items",
							i, rev, snap.Rev, snap.Delta, len(snap.Items))
					}
				}
			}
		},
	},
	{
		name: "delta-leads-from-every-rev-to-now",
		rule: "Items of a Delta hold only what was added or replaced after the asked Rev; everything else is as it was.",
		run: func(c *tester) {
			var views []view
			state := content{}
			for i := range 12 {
				ch := patch(flag(fmt.Sprintf("f%d", i%5), int64(i+1)), segment("s", int64(i+1)))
				state, _ = state.apply(ch)
				c.apply(c.s, ch)
				v := c.all(c.s)
				if d := diff(v.items, state); d != "" {
					c.fatalf("after change %d: %s", i, d)
				}
				for n, old := range append(views, view{}) {
					snap := c.load(c.s, old.rev)
					if d := diff(old.follow(snap).items, state); d != "" {
						c.fatalf("from change %d to %d (Delta %v): %s", n, i, snap.Delta, d)
					}
					if !snap.Delta {
						continue
					}
					for _, it := range snap.Items {
						if was, ok := old.items[it.ID()]; ok && same(was, it) {
							c.fatalf("from change %d to %d: the Delta has %s, which did not change", n, i, show(it))
						}
					}
				}
				views = append(views, v)
			}
		},
	},
	{
		name: "delta-has-tombstones",
		rule: "A Delta holds what was added or replaced, tombstones included.",
		run: func(c *tester) {
			a, b := flag("a", 1), segment("b", 1)
			c.apply(c.s, patch(a, b))
			v := c.expect(c.s, a, b)
			a = archived(flag("a", 2))
			c.apply(c.s, patch(a))
			c.expectAfter(c.s, v, a, b)
			b = archived(segment("b", 2))
			c.apply(c.s, patch(b))
			c.expectAfter(c.s, v, a, b)
		},
	},
	{
		name: "delta-has-every-item-once",
		rule: "Items of a Snapshot are one per kind and key, also if a change had several of one key.",
		run: func(c *tester) {
			c.apply(c.s, patch(flag("a", 1)))
			v := c.expect(c.s, flag("a", 1))
			// load refuses a Snapshot that has an item twice.
			c.apply(c.s, patch(flag("a", 2), flag("b", 1), flag("a", 3), flag("b", 2), segment("a", 1)))
			c.expectAfter(c.s, v, flag("a", 3), flag("b", 2), segment("a", 1))
			c.apply(c.s, patch(flag("a", 4), flag("a", 5)))
			c.expectAfter(c.s, v, flag("a", 5), flag("b", 2), segment("a", 1))
		},
	},
	{
		name:  "unknown-rev-loads-everything",
		rule:  "Load with a Rev that the store does not know (flushed, replaced, foreign, garbage) loads everything.",
		needs: needForeign,
		run: func(c *tester) {
			var current, foreign store.Rev
			for i := range 3 {
				current = c.apply(c.s, patch(flag("mine", int64(i+1))))
				foreign = c.apply(c.foreign, patch(flag("theirs", int64(i+1))))
			}
			revs := []store.Rev{
				"garbage", " ", "0", "1", "2", "3", "-1", "9999999999999999999999", "\x00\xff", "ключ", "null", `"`,
				"a:b:c", "../..", store.Rev(strings.Repeat("x", 5000)),
				current + "0", current + " ", " " + current, current[:len(current)-1],
			}
			for _, rev := range append(revs, foreign) {
				snap, err := c.s.Load(c.ctx, rev)
				if err != nil {
					c.fatalf("Load(%s): %v", clip(string(rev)), err)
				}
				// What looks unknown may by chance name an earlier state of this
				// very store, which a store may count from.
				known := snap.Delta && snap.Rev != rev && len(snap.Items) == 1
				if rev == foreign || rev == "garbage" {
					known = false
				}
				if snap.Rev != current || (snap.Delta && !known) || len(snap.Items) != 1 ||
					!same(snap.Items[0], flag("mine", 3)) {
					c.fatalf("Load(%s) at Rev %q: Rev %q, Delta %v, %d items",
						clip(string(rev)), current, snap.Rev, snap.Delta, len(snap.Items))
				}
			}
		},
	},
	{
		name:  "places-do-not-share-revs",
		rule:  "No two places give one Rev to different contents.",
		needs: needForeign,
		run: func(c *tester) {
			seen := map[store.Rev]int{}
			for i := range 4 {
				seen[c.apply(c.s, patch(flag("mine", int64(i+1))))] = i
			}
			for i := range 4 {
				rev := c.apply(c.foreign, patch(flag("theirs", int64(i+1))))
				if n, ok := seen[rev]; ok {
					c.fatalf("Rev %q is change %d of one place and change %d of another", rev, n, i)
				}
			}
		},
	},
}
