package storetest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/flagstead/flagstead/store"
)

// A large set has that many items of that many bytes: 10 MB, or 100 MB if asked
// for.
const (
	largeItems = 5_000
	largestSet = 50_000
	largeData  = 2 << 10
	largeLimit = 10 * time.Minute // for the case
)

// large reports whether the set of 100 MB was asked for.
func (o Options) large() bool { return o.Large || os.Getenv("STORETEST_LARGE") == "1" }

var largeCases = []testCase{
	{
		name:  "large-set",
		rule:  "A store holds tens of thousands of items, some 100 MB, and loads them exactly; what changed among them is a Delta or everything.",
		needs: wantOther,
		limit: largeLimit,
		run: func(c *tester) {
			n := largeItems
			if c.opts.large() {
				n = largestSet
			}
			began := time.Now()
			lap := func(what string) {
				c.rec.addNote("%s after %v", what, time.Since(began).Round(time.Millisecond))
			}
			items := make([]store.Item, n)
			versions := make([]int64, n)
			for i := range items {
				versions[i] = 1
				items[i] = largeItem(nil, i, 1)
			}
			first := c.apply(c.s, full(items...))
			lap("applied")
			for _, h := range c.handles {
				c.largeSet(h, first, "", versions)
			}
			lap("loaded")
			if rev := c.apply(c.s, full(items...)); rev != first {
				c.fatalf("the same %d items again: Rev %q, was %q", n, rev, first)
			}
			lap("applied again")

			changed := patch()
			for i := 0; i < n; i += 100 {
				versions[i]++
				changed.Items = append(changed.Items, largeItem(nil, i, versions[i]))
			}
			second := c.apply(c.s, changed)
			lap("patched")
			for _, h := range c.handles {
				c.largeSet(h, second, first, versions)
			}
			lap("loaded what changed")
			half := n / 2
			for i := range items[:half] {
				if versions[i] > 1 {
					items[i] = largeItem(nil, i, versions[i])
				}
			}
			third := c.apply(c.s, full(items[:half]...))
			lap("removed half")
			for _, h := range c.handles {
				c.largeSet(h, third, second, versions[:half])
			}
		},
	},
}

// largeItem returns item i of a large set. Its data grows in buf, if that is not
// nil, and does not compress well.
func largeItem(buf []byte, i int, version int64) store.Item {
	if buf == nil {
		buf = make([]byte, 0, largeData+64)
	}
	buf = fmt.Appendf(buf[:0], `{"key":"large-%06d","updatedAt":%d,"more":"`, i, version)
	rng := rand.NewPCG(uint64(i), uint64(version))
	for len(buf) < largeData {
		word := rng.Uint64()
		for range 8 {
			buf = append(buf, 'a'+byte(word%26))
			word /= 26
		}
	}
	buf = append(buf, `"}`...)
	return store.Item{Kind: store.Flag, Key: fmt.Sprintf("large-%06d", i), Version: version, Data: buf}
}

// largeSet waits until h is at rev, loads what came after since, and checks that
// this leads to the items of those versions, without keeping any.
func (c *tester) largeSet(h store.DataStore, rev, since store.Rev, versions []int64) {
	var snap store.Snapshot
	c.eventually("a handle shows a large change", func() bool {
		snap = c.load(h, since)
		return snap.Rev == rev
	})
	found := make([]bool, len(versions))
	buf := make([]byte, 0, largeData+64)
	for _, it := range snap.Items {
		i := -1
		if _, err := fmt.Sscanf(it.Key, "large-%06d", &i); err != nil || i < 0 || i >= len(versions) {
			c.fatalf("unexpected %s", show(it))
		}
		want := largeItem(buf, i, versions[i])
		if it.Kind != want.Kind || it.Version != want.Version || it.Archived || !bytes.Equal(it.Data, want.Data) {
			c.fatalf("got %s, want %s", show(it), show(want))
		}
		found[i] = true
	}
	for i, ok := range found {
		if !ok && (!snap.Delta || versions[i] > 1) {
			c.fatalf("item %d of %d is missing (Delta %v of %d items)", i, len(versions), snap.Delta, len(snap.Items))
		}
	}
}
