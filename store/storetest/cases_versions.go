package storetest

import (
	"fmt"
	"slices"

	"github.com/flagstead/flagstead/store"
)

// crowd is how many items share a version: a bulk edit, or an import, gives one
// time to everything that it touches.
const crowd = 300

// versionCases are about items that share a version, and about tombstones.
var versionCases = []testCase{
	{
		name:  "many-items-of-one-version",
		rule:  "Items of one version are told apart by kind and key alone: each is added, and is in the Delta, however many share its version.",
		needs: wantOther,
		run: func(c *tester) {
			var items []store.Item
			for i := range crowd {
				items = append(items, item(store.Kind(1+i%2), fmt.Sprintf("k%d", i/2), 7))
			}
			// One after the other, as deltas: a store that counts from a version
			// takes the second half for old.
			var views []view
			for part := range slices.Chunk(items, crowd/6) {
				c.apply(c.s, patch(slices.Clone(part)...))
				views = append(views, c.all(c.s))
			}
			for _, v := range views {
				c.expectAfter(c.s, v, items...)
			}
			c.expect(c.s, items...)
			if c.other != nil {
				c.sees(c.other, items...)
			}
			// Old news and news of that very version, mixed.
			v := c.all(c.s)
			ch := patch()
			for i := range items {
				ch.Items = append(ch.Items, item(items[i].Kind, items[i].Key, 7, "too late"))
			}
			c.applyKeeps(c.s, v.rev, store.Change{Items: slices.Clone(ch.Items)})
			items = append(items, flag("new", 7), segment("new", 7))
			ch.Items = slices.Insert(ch.Items, crowd/2, flag("new", 7), segment("new", 7))
			c.applyMoves(c.s, v.rev, ch)
			v = c.expectAfter(c.s, v, items...)
			// A full change moves them all to other content of that version.
			for i := range items {
				items[i] = item(items[i].Kind, items[i].Key, 7, "full")
			}
			c.applyMoves(c.s, v.rev, full(slices.Clone(items)...))
			c.expectAfter(c.s, v, items...)
			c.expect(c.s, items...)
		},
	},
	{
		name:  "equal-versions-from-two-handles",
		rule:  "Of items of equal version the first one stays, whichever handle it came through: all handles agree.",
		needs: needWrites,
		run: func(c *tester) {
			c.apply(c.s, full(flag("base", 1)))
			c.sees(c.other, flag("base", 1))
			late := c.all(c.other)
			// In turns, so that it is known who is first.
			c.apply(c.s, patch(flag("a", 5, "first handle")))
			c.apply(c.other, patch(flag("a", 5, "second handle"), flag("b", 5, "second handle")))
			c.apply(c.s, patch(flag("b", 5, "first handle"), flag("a", 5, "again")))
			want := []store.Item{flag("base", 1), flag("a", 5, "first handle"), flag("b", 5, "second handle")}
			c.sees(c.s, want...)
			c.sees(c.other, want...)
			c.expectAfter(c.other, late, want...)

			// At once: one of them is first, for everybody.
			g := group{c: c}
			for i, h := range []store.DataStore{c.s, c.other} {
				g.run(func() {
					for n := range 20 {
						c.apply(h, patch(flag(fmt.Sprint("race ", n), 9, fmt.Sprint("handle ", i))))
					}
				})
			}
			g.wg.Wait()
			final := c.all(c.s)
			if n := len(final.items); n != 23 {
				c.fatalf("%d items, want 23", n)
			}
			for _, h := range []store.DataStore{c.s, c.other} {
				c.eventually("both handles show one Rev", func() bool { return c.load(h, "").Rev == final.rev })
				if d := diff(c.all(h).items, final.items); d != "" {
					c.fatalf("two handles show Rev %q differently: %s", final.rev, d)
				}
				if d := diff(late.follow(c.load(h, late.rev)).items, final.items); d != "" {
					c.fatalf("a reader that comes from an earlier Rev: %s", d)
				}
			}
		},
	},
	{
		name:  "life-of-a-tombstone",
		rule:  "An archived item outranks older versions until a newer one, or a full change without it, comes; readers that follow see each turn.",
		needs: wantOther,
		run: func(c *tester) {
			f := follower{c: c}
			step := func(what string, ch store.Change, want ...store.Item) {
				c.apply(c.s, ch)
				f.step(what, append(want, flag("bystander", 1))...)
			}
			step("live", full(flag("bystander", 1), flag("a", 3)), flag("a", 3))
			step("archived", patch(archived(flag("a", 5))), archived(flag("a", 5)))
			step("an older one", patch(flag("a", 4)), archived(flag("a", 5)))
			step("an equal one", patch(flag("a", 5)), archived(flag("a", 5)))
			step("an older tombstone", patch(archived(flag("a", 2))), archived(flag("a", 5)))
			step("restored", patch(flag("a", 6)), flag("a", 6))
			step("its old tombstone again", patch(archived(flag("a", 5))), flag("a", 6))
			step("archived again", patch(archived(flag("a", 7))), archived(flag("a", 7)))
			step("both in one change", patch(flag("a", 9), archived(flag("a", 8))), flag("a", 9))
			step("both, the other way", patch(archived(flag("a", 11)), flag("a", 10)), archived(flag("a", 11)))
			step("a full change without it", full(flag("bystander", 1)))
			step("a very old one", patch(flag("a", 1)), flag("a", 1))
			step("a full change that lacks it again", full(flag("bystander", 1)))
			step("a tombstone of nothing", patch(archived(flag("a", 2))), archived(flag("a", 2)))
			step("what is older than that", patch(flag("a", 1)), archived(flag("a", 2)))
		},
	},
	{
		name:  "tombstones-in-full-changes",
		rule:  "A full change brings tombstones like all other items: older versions cannot come back after it, and a full change may undo one with a lower version.",
		needs: wantOther,
		run: func(c *tester) {
			f := follower{c: c}
			c.apply(c.s, full(archived(flag("a", 5)), archived(segment("a", 5)), flag("b", 5)))
			f.step("a full change with tombstones", archived(flag("a", 5)), archived(segment("a", 5)), flag("b", 5))
			c.apply(c.s, patch(flag("a", 4), segment("a", 5)))
			f.step("older ones", archived(flag("a", 5)), archived(segment("a", 5)), flag("b", 5))
			c.apply(c.s, full(flag("a", 9), archived(flag("a", 8)), archived(flag("b", 2)), flag("b", 1)))
			f.step("both kinds in a full change", flag("a", 9), archived(flag("b", 2)))
			c.apply(c.s, full(flag("a", 3), flag("b", 1)))
			f.step("a restored backup", flag("a", 3), flag("b", 1))
			c.apply(c.s, patch(archived(flag("a", 2)), archived(flag("b", 1))))
			f.step("tombstones of before the backup", flag("a", 3), flag("b", 1))
		},
	},
}

// A follower is a reader per handle that loads after each change, and others
// that stayed behind at each state that was.
type follower struct {
	c     *tester
	views []view
}

// step checks that everything, and what every earlier view becomes, is items.
func (f *follower) step(what string, items ...store.Item) {
	c, want := f.c, contentOf(items...)
	for _, h := range c.handles {
		var d string
		if !c.poll(func() bool {
			d = diff(c.all(h).items, want)
			return d == "" || h == c.s
		}) || d != "" {
			c.fatalf("after %s: %s", what, d)
		}
		for _, v := range f.views {
			if d := diff(v.follow(c.load(h, v.rev)).items, want); d != "" {
				c.fatalf("after %s, for a reader at an earlier Rev: %s", what, d)
			}
		}
	}
	f.views = append(f.views, c.all(c.s))
}
