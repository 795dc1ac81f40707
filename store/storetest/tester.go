package storetest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flagstead/flagstead/store"
)

// A tester is what a case works with.
type tester struct {
	ctx  context.Context // ends when the time of the case is over
	tb   testing.TB      // for opts only
	opts Options
	rec  recorder

	s       store.DataStore // on an empty place
	other   store.DataStore // on the same place; nil if the case does not need one
	foreign store.DataStore // on another empty place; nil if the case does not need one
	handles []store.DataStore

	place     string     // what Options.Place returned
	mu        sync.Mutex // guards processes
	processes []*process

	failing atomic.Bool  // Follow may deliver errors
	late    atomic.Int64 // calls that were slow to notice that their context ended
}

// A content is what a store holds.
type content map[store.ID]store.Item

// contentOf returns the content that items spell out, the last one of a key
// winning.
func contentOf(items ...store.Item) content {
	m := make(content, len(items))
	for _, it := range items {
		m[it.ID()] = it
	}
	return m
}

// apply returns what the rules make of c, and whether that differs from m.
func (m content) apply(c store.Change) (content, bool) {
	if c.Full {
		n := make(content, len(c.Items))
		for _, it := range c.Items {
			if w, ok := n[it.ID()]; !ok || it.Version >= w.Version {
				n[it.ID()] = it
			}
		}
		return n, diff(n, m) != ""
	}
	n, changed := maps.Clone(m), false
	for _, it := range c.Items {
		if w, ok := n[it.ID()]; !ok || it.Version > w.Version {
			n[it.ID()] = it
			changed = true
		}
	}
	return n, changed
}

// diff says how got differs from want, or nothing if it does not.
func diff(got, want content) string {
	var lines []string
	for id, w := range want {
		g, ok := got[id]
		switch {
		case !ok:
			lines = append(lines, "missing "+show(w))
		case !same(g, w):
			lines = append(lines, "got "+show(g)+", want "+show(w))
		}
	}
	for id, g := range got {
		if _, ok := want[id]; !ok {
			lines = append(lines, "unexpected "+show(g))
		}
	}
	slices.Sort(lines)
	if n := len(lines); n > 4 {
		lines = append(lines[:4], fmt.Sprintf("and %d more", n-4))
	}
	return strings.Join(lines, "; ")
}

func same(a, b store.Item) bool {
	return a.Kind == b.Kind && a.Key == b.Key && a.Version == b.Version &&
		a.Archived == b.Archived && bytes.Equal(a.Data, b.Data)
}

func show(it store.Item) string {
	archived := ""
	if it.Archived {
		archived = " archived"
	}
	return fmt.Sprintf("%v %s v%d%s %s", it.Kind, clip(it.Key), it.Version, archived, clip(string(it.Data)))
}

func clip(s string) string {
	if len(s) > 60 {
		return fmt.Sprintf("%q... (%d bytes)", s[:60], len(s))
	}
	return fmt.Sprintf("%q", s)
}

// flag returns a flag whose Data says its key, its version and more.
func flag(key string, version int64, more ...string) store.Item {
	return item(store.Flag, key, version, more...)
}

func segment(id string, version int64, more ...string) store.Item {
	return item(store.Segment, id, version, more...)
}

func item(k store.Kind, key string, version int64, more ...string) store.Item {
	data := fmt.Appendf(nil, `{"key":%q,"updatedAt":%d,"more":%q}`, key, version, strings.Join(more, " "))
	return store.Item{Kind: k, Key: key, Version: version, Data: data}
}

func archived(it store.Item) store.Item {
	it.Archived = true
	return it
}

func patch(items ...store.Item) store.Change { return store.Change{Items: items} }

func full(items ...store.Item) store.Change { return store.Change{Full: true, Items: items} }

// apply commits ch through h and returns the Rev.
func (c *tester) apply(h store.DataStore, ch store.Change) store.Rev {
	rev, err := h.Apply(c.ctx, ch)
	if err != nil {
		c.fatalf("Apply: unexpected error %v", err)
	}
	return rev
}

// applyKeeps commits ch through h, which must not get another Rev by that.
func (c *tester) applyKeeps(h store.DataStore, rev store.Rev, ch store.Change) {
	if got := c.apply(h, ch); got != rev {
		c.fatalf("Apply returned Rev %q, want still %q", got, rev)
	}
	if got := c.load(h, "").Rev; got != rev {
		c.fatalf("Load returned Rev %q, want still %q", got, rev)
	}
}

// applyMoves commits ch through h, which must get another Rev by that.
func (c *tester) applyMoves(h store.DataStore, old store.Rev, ch store.Change) store.Rev {
	rev := c.apply(h, ch)
	if rev == "" || rev == old {
		c.fatalf("Apply returned Rev %q after %q, want a new one", rev, old)
	}
	if got := c.load(h, "").Rev; got != rev {
		c.fatalf("Load returned Rev %q after Apply returned %q", got, rev)
	}
	return rev
}

// load loads from h and checks what holds for every Snapshot.
func (c *tester) load(h store.DataStore, since store.Rev) store.Snapshot {
	snap, err := h.Load(c.ctx, since)
	if err != nil {
		c.fatalf("Load(%q): unexpected error %v", since, err)
	}
	if why := malformed(since, snap); why != "" {
		c.fatalf("Load(%q): %s", since, why)
	}
	return snap
}

// malformed says what no answer to Load(since) may look like.
func malformed(since store.Rev, snap store.Snapshot) string {
	switch {
	case snap.Rev == "" && (snap.Delta || len(snap.Items) > 0):
		return fmt.Sprintf("a Snapshot with Delta %v and %d items but no Rev", snap.Delta, len(snap.Items))
	case since == "" && snap.Delta:
		return "a Delta although everything was asked for"
	case snap.Delta && len(snap.Items) == 0 && snap.Rev != since:
		return fmt.Sprintf("an empty Delta, which says that the Rev is still current, with Rev %q", snap.Rev)
	case snap.Delta && len(snap.Items) > 0 && snap.Rev == since:
		return fmt.Sprintf("a Delta of %d items with the same Rev", len(snap.Items))
	}
	seen := make(map[store.ID]bool, len(snap.Items))
	for _, it := range snap.Items {
		if seen[it.ID()] {
			return fmt.Sprintf("%v %s comes twice", it.Kind, clip(it.Key))
		}
		seen[it.ID()] = true
	}
	return ""
}

// A view is what a reader knows: a content and the Rev it has it from.
type view struct {
	rev   store.Rev
	items content
}

// follow returns the view of a reader with view v after it got snap.
func (v view) follow(snap store.Snapshot) view {
	if !snap.Delta {
		return view{snap.Rev, contentOf(snap.Items...)}
	}
	n := view{snap.Rev, maps.Clone(v.items)}
	if n.items == nil {
		n.items = content{}
	}
	maps.Copy(n.items, contentOf(snap.Items...))
	return n
}

// all loads everything from h.
func (c *tester) all(h store.DataStore) view {
	return view{}.follow(c.load(h, ""))
}

// expect checks that h holds exactly items, at a Rev, and returns the view.
func (c *tester) expect(h store.DataStore, items ...store.Item) view {
	v := c.all(h)
	if d := diff(v.items, contentOf(items...)); d != "" {
		c.fatalf("Load of everything: %s", d)
	}
	if v.rev == "" {
		c.fatalf("Load of everything: no Rev although something was committed")
	}
	return v
}

// expectAfter checks that a reader with view v, if it loads what came after,
// knows exactly items.
func (c *tester) expectAfter(h store.DataStore, v view, items ...store.Item) view {
	snap := c.load(h, v.rev)
	n := v.follow(snap)
	if d := diff(n.items, contentOf(items...)); d != "" {
		what := "everything"
		if snap.Delta {
			what = "a Delta"
		}
		c.fatalf("Load(%q) answers with %s, after which a reader has: %s", v.rev, what, d)
	}
	return n
}

// poll asks ok until it is true. It gives up after a while and returns false.
func (c *tester) poll(ok func() bool) bool {
	limit := time.NewTimer(c.opts.Patience)
	defer limit.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			return false
		case <-c.ctx.Done():
			return false
		}
	}
	return true
}

// eventually fails unless ok becomes true within a while.
func (c *tester) eventually(what string, ok func() bool) {
	if !c.poll(ok) {
		c.fatalf("not within %v: %s", c.opts.Patience, what)
	}
}

// receive waits for ch. It gives up, and fails, after a while.
func receive[T any](c *tester, what string, ch <-chan T) T {
	limit := time.NewTimer(c.opts.Patience)
	defer limit.Stop()
	select {
	case v := <-ch:
		return v
	case <-limit.C:
	case <-c.ctx.Done():
	}
	c.fatalf("not within %v: %s", c.opts.Patience, what)
	panic("unreachable")
}

// A group runs goroutines of a case.
type group struct {
	c  *tester
	wg sync.WaitGroup
}

func (g *group) run(f func()) {
	g.wg.Go(func() {
		defer g.c.recoverPanic()
		f()
	})
}
