package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"

	"github.com/flagstead/flagstead/store"
)

// historyCases are about stores whose handles are a store.History and a
// store.HistoryWriter.
var historyCases = []testCase{
	{
		name:  "no-history-at-first",
		rule:  "A store has no revisions until one is appended, also after commits.",
		needs: needHistory | wantOther,
		run: func(c *tester) {
			for range 2 {
				for _, h := range c.handles {
					if all := c.revisions(h); len(all) > 0 {
						c.fatalf("Revisions before the first AppendRevision: %+v", all)
					}
					if _, err := h.(store.History).At(c.ctx, 1); !errors.Is(err, store.ErrNoRevision) {
						c.fatalf("At(1) without revisions: error %v, want ErrNoRevision", err)
					}
				}
				c.apply(c.s, full(flag("a", 1)))
			}
		},
	},
	{
		name:  "history-is-kept",
		rule:  "Each revision that is kept can be loaded whole, exactly as it was, through every handle.",
		needs: needHistory | wantOther,
		run: func(c *tester) {
			model := content{}
			var states []content
			add := func(r store.Record, change store.Change) {
				r.Whole, r.Items = change.Full, change.Items
				model, _ = model.apply(change)
				states = append(states, model)
				r.Writer = "a b|\"{}' ⚑"
				c.append(c.s, r, store.Keep{})
			}
			add(store.Record{Rev: "r1", Prev: "never seen"}, full(flag("a", 5), segment("s", 1), archived(flag("gone", 7))))
			add(store.Record{Rev: "r2", Prev: "r1", After: 1, Flags: 3, Segments: 1}, patch(flag("a", 6, "six"), flag("b", 1)))
			add(store.Record{Rev: "r3", Prev: "r2", After: 2}, patch(flag("a", 4, "too old"), flag("b", 1, "equal"), archived(flag("b", 2)), segment("s", 9), flag("gone", 3)))
			add(store.Record{Rev: "r4", Prev: "whatever", After: 3, Restores: 2}, full(flag("b", 1, "older")))
			add(store.Record{Rev: "r5", Prev: "r4", After: 4}, patch(flag("c", 1)))
			add(store.Record{Rev: "r6", Prev: "r5", After: 5}, full())
			for _, h := range c.handles {
				all := c.revisions(h)
				if len(all) != len(states) {
					c.fatalf("%d revisions, want %d: %+v", len(all), len(states), all)
				}
				for i, r := range all {
					if r.N != uint64(i+1) || r.Rev != store.Rev(fmt.Sprintf("r%d", i+1)) || r.At.IsZero() || r.Writer != "a b|\"{}' ⚑" || r.Size <= 0 {
						c.fatalf("revision %d is %+v", i+1, r)
					}
					snap, err := h.(store.History).At(c.ctx, r.N)
					if err != nil {
						c.fatalf("At(%d): unexpected error %v", r.N, err)
					}
					if d := diff(contentOf(snap.Items...), states[i]); d != "" || snap.Delta || snap.Rev != r.Rev || len(snap.Items) != len(states[i]) {
						c.fatalf("At(%d) has Rev %q, Delta %v: %s", r.N, snap.Rev, snap.Delta, d)
					}
				}
				if r := all[0]; !r.Whole || r.Flags != 2 || r.Segments != 1 || r.Prev != "never seen" {
					c.fatalf("revision 1 is %+v", r)
				}
				if r := all[1]; r.Whole || r.Flags != 3 || r.Segments != 1 || len(r.Changed) != 2 || r.Changed[0].Key != "a" {
					c.fatalf("revision 2 is %+v", r)
				}
				if r := all[3]; r.Restores != 2 {
					c.fatalf("revision 4 is %+v", r)
				}
				for _, n := range []uint64{0, 7, 1 << 40} {
					if _, err := h.(store.History).At(c.ctx, n); !errors.Is(err, store.ErrNoRevision) {
						c.fatalf("At(%d): error %v, want ErrNoRevision", n, err)
					}
				}
			}
		},
	},
	{
		name:  "records-follow-each-other",
		rule:  "A record that does not follow the last revision is refused, and one that is there already is not repeated.",
		needs: needHistory | wantOther,
		run: func(c *tester) {
			refused := func(why error, r store.Record) {
				for _, h := range c.writers() {
					before := len(c.revisions(h))
					if rev, err := h.(store.HistoryWriter).AppendRevision(c.ctx, r, store.Keep{}); !errors.Is(err, why) {
						c.fatalf("AppendRevision of %q after %q, number %d: %+v, error %v, want %v", r.Rev, r.Prev, r.After, rev, err, why)
					}
					if n := len(c.revisions(h)); n != before {
						c.fatalf("a refused record was written: %d revisions, %d before", n, before)
					}
				}
			}
			refused(store.ErrWholeWanted, store.Record{Rev: "r1", Prev: "r0", Items: []store.Item{flag("a", 1)}})
			refused(store.ErrNotNext, store.Record{Rev: "r1", After: 1, Whole: true, Items: []store.Item{flag("a", 1)}})
			first := store.Record{Rev: "r1", Whole: true, Items: []store.Item{flag("a", 1)}}
			c.append(c.s, first, store.Keep{})
			refused(store.ErrNotNext, store.Record{Rev: "r3", Prev: "r2", After: 1, Items: []store.Item{flag("a", 3)}})
			refused(store.ErrNotNext, store.Record{Rev: "r2", Prev: "r1", Items: []store.Item{flag("a", 2)}})
			refused(store.ErrNotNext, store.Record{Rev: "r2", Prev: "r1", Whole: true, Items: []store.Item{flag("a", 2)}})
			for _, h := range c.writers() {
				if r := c.append(h, first, store.Keep{}); r.N != 1 {
					c.fatalf("the same record again is revision %d", r.N)
				}
			}
			// The same content under another name.
			if r := c.append(c.s, store.Record{Rev: "n1", Prev: "r1", After: 1}, store.Keep{}); r.N != 1 || r.Rev != "n1" {
				c.fatalf("a new name for revision 1: %+v", r)
			}
			for _, h := range c.handles {
				snap, err := h.(store.History).At(c.ctx, 1)
				if err != nil || snap.Rev != "n1" || len(snap.Items) != 1 {
					c.fatalf("At(1) under its new name: %+v, error %v", snap, err)
				}
			}
			if r := c.append(c.s, store.Record{Rev: "n2", Prev: "n1", After: 1, Items: []store.Item{flag("a", 2)}}, store.Keep{}); r.N != 2 {
				c.fatalf("what follows it: %+v", r)
			}
		},
	},
	{
		name:  "old-revisions-are-dropped",
		rule:  "A history keeps as many revisions as it is told to, and not many more, within its bytes; each one that it lists can be loaded.",
		needs: needHistory | wantOther,
		run: func(c *tester) {
			model, wholes := content{}, 0
			add := func(n int, keep store.Keep, change store.Change) {
				r := store.Record{Rev: store.Rev(fmt.Sprint("r", n)), Prev: store.Rev(fmt.Sprint("r", n-1)), After: uint64(n - 1), Items: change.Items, Whole: change.Full}
				model, _ = model.apply(change)
				_, err := c.s.(store.HistoryWriter).AppendRevision(c.ctx, r, keep)
				if errors.Is(err, store.ErrWholeWanted) {
					wholes++
					r.Whole, r.Items = true, nil
					for _, it := range model {
						r.Items = append(r.Items, it)
					}
					_, err = c.s.(store.HistoryWriter).AppendRevision(c.ctx, r, keep)
				}
				if err != nil {
					c.fatalf("AppendRevision of number %d: unexpected error %v", n, err)
				}
			}
			for n := 1; n <= 100; n++ {
				add(n, store.Keep{Revisions: 10}, patch(flag("a", int64(n)), flag(fmt.Sprint("k", n%7), int64(n))))
				all := c.revisions(c.s)
				if len(all) < min(n, 10) || len(all) > 40 || all[len(all)-1].N != uint64(n) {
					c.fatalf("after %d records %d revisions are kept, want 10 or some more", n, len(all))
				}
			}
			if wholes > 40 {
				c.fatalf("of 100 small records %d had to be whole states", wholes)
			}
			for _, h := range c.handles {
				for _, r := range c.revisions(h) {
					snap, err := h.(store.History).At(c.ctx, r.N)
					if err != nil || contentOf(snap.Items...)[store.ID{Kind: store.Flag, Key: "a"}].Version != int64(r.N) {
						c.fatalf("At(%d): %d items, error %v", r.N, len(snap.Items), err)
					}
				}
				if _, err := h.(store.History).At(c.ctx, 1); !errors.Is(err, store.ErrNoRevision) {
					c.fatalf("At(1), which was dropped: error %v, want ErrNoRevision", err)
				}
			}
			noise := make([]byte, 100<<10)
			for i := range noise {
				noise[i] = byte('a' + rand.N(16)) // half of it at best
			}
			for n := 101; n <= 110; n++ {
				add(n, store.Keep{Revisions: 10, Bytes: 200 << 10}, full(store.Item{Kind: store.Flag, Key: "a", Version: int64(n), Data: noise}))
			}
			size := int64(0)
			for _, r := range c.revisions(c.s) {
				size += r.Size
			}
			if size > 200<<10 {
				c.fatalf("the history has %d bytes, the limit is %d", size, 200<<10)
			}
			// What is larger than all may be is kept alone.
			add(111, store.Keep{Bytes: 1}, full(flag("a", 111)))
			if all := c.revisions(c.s); len(all) != 1 || all[0].N != 111 {
				c.fatalf("with a limit of one byte: %+v", all)
			}
		},
	},
	{
		name:  "history-is-no-part-of-the-state",
		rule:  "A revision is no commit: it changes no Rev and no content, and it is recorded while publication is frozen, too.",
		needs: needHistory | wantOther,
		run: func(c *tester) {
			c.append(c.s, store.Record{Rev: "x", Whole: true, Items: []store.Item{flag("x", 1)}}, store.Keep{})
			for _, h := range c.handles {
				if snap := c.load(h, ""); snap.Rev != "" {
					c.fatalf("a revision on an empty place made Rev %q", snap.Rev)
				}
			}
			base := c.apply(c.s, full(flag("a", 1)))
			if f, ok := c.s.(store.Controller); ok {
				if err := f.WriteControl(c.ctx, store.Control{Frozen: true}); err != nil {
					c.fatalf("WriteControl: unexpected error %v", err)
				}
			}
			c.append(c.s, store.Record{Rev: base, Prev: "x", After: 1, Whole: true, Items: []store.Item{flag("a", 1)}}, store.Keep{})
			for _, h := range c.handles {
				c.sees(h, flag("a", 1))
				if snap := c.load(h, base); !snap.Delta || len(snap.Items) > 0 {
					c.fatalf("Load(%q) after a revision: Rev %q, Delta %v, %d items", base, snap.Rev, snap.Delta, len(snap.Items))
				}
			}
		},
	},
	{
		name:  "records-of-several-writers",
		rule:  "Of several records for one number one is taken.",
		needs: needHistory | wantOther,
		run: func(c *tester) {
			var taken atomic.Int64
			g := group{c: c}
			const rounds = 20
			for w, h := range c.writers() {
				for worker := range 2 {
					g.run(func() {
						for n := range uint64(rounds) {
							rev := store.Rev(fmt.Sprintf("%d-%d-%d", n, w, worker))
							_, err := h.(store.HistoryWriter).AppendRevision(c.ctx, store.Record{Rev: rev, After: n, Whole: true, Items: []store.Item{flag("a", int64(n))}}, store.Keep{})
							switch {
							case err == nil:
								taken.Add(1)
							case !errors.Is(err, store.ErrNotNext):
								c.rec.addf("AppendRevision: unexpected error %v", err)
								return
							}
							if !c.poll(func() bool { return len(c.revisions(h)) > int(n) }) {
								c.rec.addf("nobody's record %d was taken", n+1)
								return
							}
						}
					})
				}
			}
			g.wg.Wait()
			if n := taken.Load(); n != rounds {
				c.fatalf("%d records were taken for %d numbers", n, rounds)
			}
		},
	},
	{
		name:  "ended-context-ends-histories",
		rule:  contextRule,
		needs: needHistory,
		run: func(c *tester) {
			for want, ctx := range ended() {
				if _, err := c.s.(store.HistoryWriter).AppendRevision(ctx, store.Record{Rev: "x", Whole: true}, store.Keep{}); !errors.Is(err, want) {
					c.fatalf("AppendRevision with an ended context: error %v, want %v", err, want)
				}
				if _, err := c.s.(store.History).Revisions(ctx); !errors.Is(err, want) {
					c.fatalf("Revisions with an ended context: error %v, want %v", err, want)
				}
				if _, err := c.s.(store.History).At(ctx, 1); !errors.Is(err, want) {
					c.fatalf("At with an ended context: error %v, want %v", err, want)
				}
			}
			if all := c.revisions(c.s); len(all) > 0 {
				c.fatalf("AppendRevision with an ended context wrote %+v", all)
			}
		},
	},
	{
		name:  "closed-histories",
		rule:  closedRule,
		needs: needHistory,
		run: func(c *tester) {
			c.append(c.s, store.Record{Rev: "x", Whole: true}, store.Keep{})
			c.close(c.s)
			if _, err := c.s.(store.HistoryWriter).AppendRevision(c.ctx, store.Record{Rev: "y", After: 1, Whole: true}, store.Keep{}); !errors.Is(err, store.ErrClosed) {
				c.fatalf("AppendRevision after Close: error %v, want ErrClosed", err)
			}
			if _, err := c.s.(store.History).Revisions(c.ctx); !errors.Is(err, store.ErrClosed) {
				c.fatalf("Revisions after Close: error %v, want ErrClosed", err)
			}
			if _, err := c.s.(store.History).At(c.ctx, 1); !errors.Is(err, store.ErrClosed) {
				c.fatalf("At after Close: error %v, want ErrClosed", err)
			}
		},
	},
	{
		name:  "read-only-handle-records-nothing",
		rule:  "AppendRevision on a store that was opened for reading returns ErrReadOnly.",
		needs: needHistory | needReads,
		run: func(c *tester) {
			if w, ok := c.other.(store.HistoryWriter); ok {
				if _, err := w.AppendRevision(c.ctx, store.Record{Rev: "x", Whole: true}, store.Keep{}); !errors.Is(err, store.ErrReadOnly) {
					c.fatalf("AppendRevision on a handle for reading: error %v, want ErrReadOnly", err)
				}
			}
			if all := c.revisions(c.s); len(all) > 0 {
				c.fatalf("it wrote %+v", all)
			}
		},
	},
}

// revisions returns the history that h shows.
func (c *tester) revisions(h store.DataStore) []store.Revision {
	r, ok := h.(store.History)
	if !ok {
		c.fatalf("a handle of a store with a history cannot read it")
	}
	all, err := r.Revisions(c.ctx)
	if err != nil {
		c.fatalf("Revisions: unexpected error %v", err)
	}
	return all
}

// append appends r through h.
func (c *tester) append(h store.DataStore, r store.Record, k store.Keep) store.Revision {
	rev, err := h.(store.HistoryWriter).AppendRevision(c.ctx, r, k)
	if err != nil {
		c.fatalf("AppendRevision of %q: unexpected error %v", r.Rev, err)
	}
	return rev
}
