package storetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/flagstead/flagstead/store"
)

var spoilCases = []testCase{
	{
		name:  "damage-is-no-state",
		rule:  "Content that cannot be read as a state is an error of Load, never a part of a state or an empty one, and a full change without a Base puts a whole state there again.",
		needs: needSpoil | wantOther,
		run: func(c *tester) {
			names := slices.Sorted(maps.Keys(c.opts.Spoil))
			var old []view
			for i, name := range names {
				items := []store.Item{flag("a", int64(i+1)), flag("b", 1), archived(flag("c", 1)), segment("s", 1)}
				for n := range 30 {
					items = append(items, flag(fmt.Sprint("more ", n), int64(i+1)))
				}
				c.apply(c.s, full(slices.Clone(items)...))
				for _, h := range c.handles {
					c.sees(h, items...)
				}
				v := c.all(c.s)
				c.opts.Spoil[name](c.tb, c.s)
				c.wholeOrError(name, v)

				// A change on top of damage has nothing to go on, unless the handle
				// knows better.
				ch := patch(flag("a", 100), flag("new", 1))
				if _, err := c.s.Apply(c.ctx, ch); err == nil {
					v.items, _ = v.items.apply(ch)
					for _, h := range c.handles {
						c.sees(h, slices.Collect(maps.Values(v.items))...)
					}
				}
				old = append(old, v)

				repaired := []store.Item{flag("repaired", int64(i)), segment("s", 2)}
				if _, err := c.s.Apply(c.ctx, full(repaired...)); err != nil {
					c.fatalf("%s: Apply of a full change without a Base: %v", name, err)
				}
				for _, h := range c.handles {
					var err error
					if !c.poll(func() bool {
						_, err = h.Load(c.ctx, "")
						return err == nil
					}) {
						c.fatalf("%s: Load after the repair: %v", name, err)
					}
					c.sees(h, repaired...)
					for _, v := range old {
						c.expectAfter(h, v, repaired...)
					}
				}
			}
		},
	},
}

// wholeOrError loads for a while and checks that every answer is the content of
// v, or an error.
func (c *tester) wholeOrError(name string, v view) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 12 {
		for _, h := range c.handles {
			for _, from := range []view{{}, v, {rev: "garbage"}} {
				ctx, cancel := context.WithTimeout(c.ctx, c.opts.Patience)
				snap, err := h.Load(ctx, from.rev)
				cancel()
				if d := diff(from.follow(snap).items, v.items); err == nil && d != "" {
					c.fatalf("%s: Load(%q) returned no error and Rev %q: %s", name, from.rev, snap.Rev, d)
				}
			}
		}
		<-tick.C
	}
}
