package storetest

import (
	"context"
	"slices"

	"github.com/flagstead/flagstead/store"
)

// versionFaults are about what shares a version, and about tombstones.
var versionFaults = []fault{{
	name: "a Delta counts from the largest version",
	breaks: func(h *handle) {
		largest := map[store.Rev]int64{}
		load := h.load
		h.load = func(ctx context.Context, since store.Rev) (store.Snapshot, error) {
			h.place.writing.Lock()
			defer h.place.writing.Unlock()
			snap, err := load(ctx, since)
			if err != nil {
				return snap, err
			}
			if snap.Delta && snap.Rev != since {
				snap.Items = slices.DeleteFunc(snap.Items, func(it store.Item) bool { return it.Version <= largest[since] })
			}
			for _, it := range snap.Items {
				largest[snap.Rev] = max(largest[snap.Rev], largest[since], it.Version)
			}
			return snap, nil
		}
	},
	cases: []string{"many-items-of-one-version"},
}, {
	name: "equal versions of another handle replace",
	breaks: func(h *handle) {
		if !h.second {
			return
		}
		h.merged(func(now, before content, it store.Item, full bool) {
			if had, ok := now[it.ID()]; ok && had.Version == it.Version {
				now[it.ID()] = it
			}
			sound(now, before, it, full)
		})
	},
	cases: []string{"equal-versions-from-two-handles"},
}, {
	name: "full changes drop tombstones",
	breaks: func(h *handle) {
		h.applied(func(c *store.Change) {
			if c.Full {
				c.Items = slices.DeleteFunc(c.Items, func(it store.Item) bool { return it.Archived })
			}
		})
	},
	cases: []string{"tombstones-in-full-changes"},
}, {
	name: "tombstones are kept apart from a full change",
	breaks: func(h *handle) {
		tombs := map[store.ID]int64{}
		h.merged(func(now, before content, it store.Item, full bool) {
			if it.Archived {
				tombs[it.ID()] = max(tombs[it.ID()], it.Version)
			}
			if it.Archived || it.Version > tombs[it.ID()] {
				sound(now, before, it, full)
			}
		})
	},
	cases: []string{"life-of-a-tombstone", "tombstones-in-full-changes"},
}, {
	name: "every other Rev is that of two commits before",
	breaks: func(h *handle) {
		short := map[store.Rev]store.Rev{"": ""}
		var names []store.Rev
		name := func(rev store.Rev) store.Rev {
			if _, ok := short[rev]; !ok {
				short[rev] = rev
				if len(names) > 1 {
					short[rev] = names[len(names)-2]
				}
				names = append(names, short[rev])
			}
			return short[rev]
		}
		load, apply := h.load, h.apply
		h.load = func(ctx context.Context, since store.Rev) (store.Snapshot, error) {
			snap, err := load(ctx, "")
			if snap.Rev = name(snap.Rev); err == nil && since == snap.Rev && since != "" {
				snap.Delta, snap.Items = true, nil
			}
			return snap, err
		}
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			rev, err := apply(ctx, c)
			return name(rev), err
		}
	},
	cases: []string{"full-back-to-earlier-content", "no-rev-twice"},
}}
