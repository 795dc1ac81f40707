package storetest

import (
	"github.com/flagstead/flagstead/store"
)

var mergeCases = []testCase{
	{
		name: "larger-version-wins-between-changes",
		rule: "Per key the larger Version wins, whatever the order between changes.",
		run: func(c *tester) {
			c.apply(c.s, patch(flag("up", 1), flag("down", 9)))
			v := c.expect(c.s, flag("up", 1), flag("down", 9))
			c.apply(c.s, patch(flag("up", 9), flag("down", 1)))
			c.expect(c.s, flag("up", 9), flag("down", 9))
			c.expectAfter(c.s, v, flag("up", 9), flag("down", 9))
		},
	},
	{
		name: "larger-version-wins-inside-a-change",
		rule: "Per key the larger Version wins, whatever the order inside a change.",
		run: func(c *tester) {
			c.apply(c.s, patch(flag("down", 3), flag("down", 2), flag("up", 1), flag("up", 2), flag("down", 1), flag("up", 3)))
			c.expect(c.s, flag("up", 3), flag("down", 3))
		},
	},
	{
		name: "versions-are-compared-as-numbers",
		rule: "Per key the larger Version wins; Versions are integers from 0 up to 2^53-1.",
		run: func(c *tester) {
			const top = 1<<53 - 1
			c.apply(c.s, patch(flag("zero", 0), flag("digits", 9), flag("top", top-1), flag("millis", 999_999_999_999)))
			c.expect(c.s, flag("zero", 0), flag("digits", 9), flag("top", top-1), flag("millis", 999_999_999_999))
			c.apply(c.s, patch(flag("zero", 1), flag("digits", 10), flag("top", top), flag("millis", 1_000_000_000_000)))
			want := []store.Item{flag("zero", 1), flag("digits", 10), flag("top", top), flag("millis", 1_000_000_000_000)}
			v := c.expect(c.s, want...)
			c.applyKeeps(c.s, v.rev, patch(flag("zero", 0), flag("digits", 9), flag("top", top-1), flag("millis", 999_999_999_999)))
			c.expect(c.s, want...)
		},
	},
	{
		name: "equal-version-and-content-changes-nothing",
		rule: "An item of equal version and equal content changes nothing.",
		run: func(c *tester) {
			a, b := flag("a", 5), archived(segment("b", 5))
			c.apply(c.s, patch(a, b))
			v := c.expect(c.s, a, b)
			c.applyKeeps(c.s, v.rev, patch(a, b))
			c.applyKeeps(c.s, v.rev, patch(b))
			c.expect(c.s, a, b)
		},
	},
	{
		name: "equal-version-and-other-content-changes-nothing",
		rule: "An item of equal version and other content changes nothing: the first one stays.",
		run: func(c *tester) {
			a, b := flag("a", 5, "first"), segment("b", 5, "first")
			c.apply(c.s, patch(a, b))
			v := c.expect(c.s, a, b)
			c.applyKeeps(c.s, v.rev, patch(flag("a", 5, "second"), segment("b", 5, "second")))
			c.applyKeeps(c.s, v.rev, patch(archived(a)))
			c.expect(c.s, a, b)
		},
	},
	{
		name: "equal-version-inside-a-change",
		rule: "Of two items of equal version in a change that is not full, the first one stays.",
		run: func(c *tester) {
			c.apply(c.s, patch(flag("a", 5, "first"), flag("a", 5, "second")))
			c.expect(c.s, flag("a", 5, "first"))
		},
	},
	{
		name: "patch-that-changes-nothing-keeps-rev",
		rule: "A change that changes nothing keeps the Rev.",
		run: func(c *tester) {
			c.apply(c.s, patch(flag("a", 5), flag("b", 5)))
			v := c.expect(c.s, flag("a", 5), flag("b", 5))
			c.applyKeeps(c.s, v.rev, patch(flag("a", 4), flag("b", 1)))
			c.applyKeeps(c.s, v.rev, patch())
			c.applyKeeps(c.s, v.rev, patch(archived(flag("a", 4))))
			c.expect(c.s, flag("a", 5), flag("b", 5))
			// Some news among much that is not.
			c.applyMoves(c.s, v.rev, patch(flag("a", 4), flag("b", 6), flag("a", 5)))
			c.expect(c.s, flag("a", 5), flag("b", 6))
		},
	},
	{
		name: "empty-patch-on-an-empty-store",
		rule: "A change that changes nothing keeps the Rev, also the empty one.",
		run: func(c *tester) {
			if rev := c.apply(c.s, patch()); rev != "" {
				c.fatalf("Apply of nothing on nothing returned Rev %q", rev)
			}
			if snap := c.load(c.s, ""); snap.Rev != "" {
				c.fatalf("Load returned Rev %q", snap.Rev)
			}
		},
	},
	{
		name: "archived-items-outrank-older-ones",
		rule: "An archived item is a tombstone: older versions of it cannot come back.",
		run: func(c *tester) {
			a, b := archived(flag("a", 5)), archived(segment("b", 5))
			c.apply(c.s, patch(flag("a", 3), segment("b", 3)))
			c.apply(c.s, patch(a, b))
			v := c.expect(c.s, a, b)
			c.applyKeeps(c.s, v.rev, patch(flag("a", 4), segment("b", 4), flag("a", 5)))
			c.expect(c.s, a, b)
			// A tombstone for something that was never there counts as well.
			d := archived(flag("d", 5))
			c.apply(c.s, patch(d))
			c.apply(c.s, patch(flag("d", 4)))
			c.expect(c.s, a, b, d)
		},
	},
	{
		name: "archived-items-can-come-back-newer",
		rule: "Per key the larger Version wins, whether archived or not.",
		run: func(c *tester) {
			c.apply(c.s, patch(archived(flag("a", 5))))
			v := c.expect(c.s, archived(flag("a", 5)))
			c.apply(c.s, patch(flag("a", 6)))
			c.expect(c.s, flag("a", 6))
			c.expectAfter(c.s, v, flag("a", 6))
		},
	},
	{
		name: "archived-items-keep-their-data",
		rule: "Archived items are loaded like all others, and their Data is kept for relays.",
		run: func(c *tester) {
			a, b := archived(flag("a", 5, "kept")), archived(segment("b", 5, "kept"))
			c.apply(c.s, full(a, flag("c", 1)))
			c.apply(c.s, patch(b))
			c.expect(c.s, a, b, flag("c", 1))
		},
	},
	{
		name: "flags-and-segments-are-distinct",
		rule: "An item is named by kind and key: a flag and a segment of one key are two items.",
		run: func(c *tester) {
			c.apply(c.s, patch(flag("x", 2), segment("x", 1)))
			v := c.expect(c.s, flag("x", 2), segment("x", 1))
			c.apply(c.s, patch(segment("x", 3)))
			c.expect(c.s, flag("x", 2), segment("x", 3))
			c.expectAfter(c.s, v, flag("x", 2), segment("x", 3))
			c.apply(c.s, full(segment("x", 3)))
			c.expect(c.s, segment("x", 3))
			c.expectAfter(c.s, v, segment("x", 3))
		},
	},
	{
		name: "applying-again-is-safe",
		rule: "On an error whose outcome is unknown, applying the change again is safe.",
		run: func(c *tester) {
			for _, ch := range []store.Change{
				full(flag("a", 1), flag("b", 1)), patch(flag("a", 2), segment("s", 1)), full(flag("a", 1)), full(),
			} {
				rev := c.apply(c.s, ch)
				c.applyKeeps(c.s, rev, ch)
			}
		},
	},
}
