package storetest

import (
	"fmt"

	"github.com/flagstead/flagstead/store"
)

const refillRule = "A store that was emptied never reaches an old Rev with other content: whoever held one gets everything."

// refillCases are about places that were emptied and filled again.
var refillCases = []testCase{
	{
		name:  "refilled-with-the-same-content",
		rule:  refillRule,
		needs: needFlush | wantOther,
		run:   func(c *tester) { c.refill(c.s) },
	},
	{
		name:  "refilled-through-another-handle",
		rule:  refillRule,
		needs: needFlush | needWrites,
		run:   func(c *tester) { c.refill(c.other) },
	},
	{
		name:  "full-back-to-earlier-content",
		rule:  "No store ever reaches a Rev twice with different content, also if it comes back to a content that it had.",
		needs: wantOther,
		run: func(c *tester) {
			a, b := []store.Item{flag("a", 1)}, []store.Item{flag("a", 2), flag("b", 1)}
			f := follower{c: c}
			for round := range 4 {
				c.apply(c.s, full(a...))
				f.step(fmt.Sprintf("round %d, content A", round), a...)
				c.apply(c.s, full(b...))
				f.step(fmt.Sprintf("round %d, content B", round), b...)
				if round%2 == 1 {
					c.apply(c.s, patch(flag("c", 1)))
					f.step(fmt.Sprintf("round %d, content C", round), append(b[:2:2], flag("c", 1))...)
				}
			}
		},
	},
}

// refill fills the place three times alike, and then differently; the second time
// and from then on through h, after a flush that nobody told it of.
func (c *tester) refill(h store.DataStore) {
	f := follower{c: c}
	common := []store.Item{flag("a", 1), segment("s", 1)}
	for round := range 3 {
		filler := c.s
		if round > 0 {
			filler = h
		}
		// The last commit of each round differs, those before it do not: a store
		// that counts its commits from one reaches the same number with it.
		own := flag(fmt.Sprintf("round %d", round), 1)
		c.apply(filler, full(common...))
		c.sees(c.s, common...)
		f.step(fmt.Sprintf("refill %d", round), common...)
		c.apply(filler, patch(flag("a", 2)))
		c.sees(c.s, flag("a", 2), segment("s", 1))
		f.step(fmt.Sprintf("refill %d, the same patch", round), flag("a", 2), segment("s", 1))
		c.apply(filler, patch(own))
		c.sees(c.s, flag("a", 2), segment("s", 1), own)
		f.step(fmt.Sprintf("refill %d, a patch of its own", round), flag("a", 2), segment("s", 1), own)
		if round == 2 {
			return
		}
		c.opts.Flush(c.tb, c.s)
		for _, h := range c.handles {
			c.eventually("every handle finds the place empty", func() bool { return c.load(h, "").Rev == "" })
		}
	}
}
