package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flagstead/flagstead/store"
)

// A fault breaks one rule of a sound handle.
type fault struct {
	name           string
	breaks         func(h *handle)
	panics         bool     // a panic is the right reason
	reopenedWrites bool     // whether handles from Reopen write although Options say no
	cases          []string // every one of which has to notice
}

var errBroken = errors.New("broken on purpose")

// faults has at least one fault for every case.
var faults = slices.Concat(mergeFaults, fullFaults, loadFaults, dataFaults, commitFaults, callFaults, watchFaults, versionFaults,
	cancelFaults, wakeFaults, heartbeatFaults, controlFaults, historyFaults, reportFaults, processFaults, outageFaults, spoilFaults, largeFaults)

var mergeFaults = []fault{{
	name: "the last write wins",
	breaks: func(h *handle) {
		h.merged(func(now, _ content, it store.Item, _ bool) { now[it.ID()] = it })
	},
	cases: []string{
		"larger-version-wins-between-changes", "larger-version-wins-inside-a-change",
		"archived-items-outrank-older-ones", "random-changes-follow-the-model",
		"life-of-a-tombstone", "equal-versions-from-two-handles",
	},
}, {
	name: "the last of a key in a change wins",
	breaks: func(h *handle) {
		h.applied(func(c *store.Change) { c.Items = slices.Collect(maps.Values(contentOf(c.Items...))) })
	},
	cases: []string{"larger-version-wins-inside-a-change", "full-with-a-key-twice"},
}, {
	name: "equal versions replace",
	breaks: func(h *handle) {
		h.merged(func(now, _ content, it store.Item, _ bool) {
			if had, ok := now[it.ID()]; !ok || it.Version >= had.Version {
				now[it.ID()] = it
			}
		})
	},
	cases: []string{"equal-version-and-other-content-changes-nothing", "equal-version-inside-a-change", "many-items-of-one-version"},
}, {
	name: "versions are compared as text",
	breaks: func(h *handle) {
		h.merged(func(now, _ content, it store.Item, full bool) {
			if had, ok := now[it.ID()]; !ok || fmt.Sprint(it.Version) > fmt.Sprint(had.Version) || full {
				now[it.ID()] = it
			}
		})
	},
	cases: []string{"versions-are-compared-as-numbers"},
}, {
	name: "versions lose their last bits",
	breaks: func(h *handle) {
		h.merged(func(now, _ content, it store.Item, full bool) {
			if had, ok := now[it.ID()]; !ok || float32(it.Version) > float32(had.Version) || full {
				now[it.ID()] = it
			}
		})
	},
	cases: []string{"versions-are-compared-as-numbers"},
}, {
	name: "archived items are deleted",
	breaks: func(h *handle) {
		h.merged(func(now, before content, it store.Item, full bool) {
			sound(now, before, it, full)
			if now[it.ID()].Archived {
				delete(now, it.ID())
			}
		})
	},
	cases: []string{"archived-items-outrank-older-ones", "archived-items-keep-their-data", "delta-has-tombstones", "life-of-a-tombstone", "tombstones-in-full-changes"},
}, {
	name: "archived items stay archived",
	breaks: func(h *handle) {
		h.merged(func(now, before content, it store.Item, full bool) {
			if !now[it.ID()].Archived {
				sound(now, before, it, full)
			}
		})
	},
	cases: []string{"archived-items-can-come-back-newer", "life-of-a-tombstone"},
}, {
	name: "archived items lose their data",
	breaks: func(h *handle) {
		h.applied(func(c *store.Change) {
			for i := range c.Items {
				if c.Items[i].Archived {
					c.Items[i].Data = nil
				}
			}
		})
	},
	cases: []string{"archived-items-keep-their-data"},
}, {
	name: "flags and segments share their keys",
	breaks: func(h *handle) {
		h.merged(func(now, before content, it store.Item, full bool) {
			sound(now, before, it, full)
			delete(now, store.ID{Kind: store.Flag + store.Segment - it.Kind, Key: it.Key})
		})
	},
	cases: []string{"flags-and-segments-are-distinct"},
}}

var fullFaults = []fault{{
	name:   "full changes merge",
	breaks: func(h *handle) { h.applied(func(c *store.Change) { c.Full = false }) },
	cases: []string{
		"full-replaces-everything", "full-wins-with-lower-versions", "full-wins-with-equal-versions",
		"full-forgets-tombstones", "empty-full-removes-everything", "empty-full-is-committed",
	},
}, {
	name: "full changes refuse lower versions",
	breaks: func(h *handle) {
		h.merged(func(now, before content, it store.Item, full bool) {
			if had, ok := before[it.ID()]; full && ok && had.Version > it.Version {
				it = had
			}
			sound(now, before, it, full)
		})
	},
	cases: []string{"full-wins-with-lower-versions", "tombstones-in-full-changes"},
}, {
	name: "full changes keep items of equal version",
	breaks: func(h *handle) {
		h.merged(func(now, before content, it store.Item, full bool) {
			if had, ok := before[it.ID()]; full && ok && had.Version == it.Version {
				it = had
			}
			sound(now, before, it, full)
		})
	},
	cases: []string{"full-wins-with-equal-versions"},
}, {
	name: "versions outlive a full change that removes their items",
	breaks: func(h *handle) {
		largest := map[store.ID]int64{}
		h.merged(func(now, before content, it store.Item, full bool) {
			if full || it.Version >= largest[it.ID()] {
				sound(now, before, it, full)
			}
			largest[it.ID()] = max(largest[it.ID()], it.Version)
		})
	},
	cases: []string{"full-forgets-tombstones"},
}, {
	name: "the first of equal versions in a full change wins",
	breaks: func(h *handle) {
		h.merged(func(now, before content, it store.Item, _ bool) { sound(now, before, it, false) })
	},
	cases: []string{"full-with-a-key-twice"},
}, {
	name: "an empty full change of an empty store is no commit",
	breaks: func(h *handle) {
		h.applied(func(c *store.Change) { c.Full = c.Full && len(c.Items) > 0 })
	},
	cases: []string{"empty-full-is-committed", "empty-full-removes-everything"},
}}

var dataFaults = []fault{{
	name: "data is cleaned up",
	breaks: func(h *handle) {
		h.loaded(func(_ store.Rev, snap *store.Snapshot) {
			for i, it := range snap.Items {
				snap.Items[i].Data = bytes.TrimSpace(it.Data)
			}
		})
	},
	cases: []string{"data-is-exact"},
}, {
	name: "keys are cleaned up",
	breaks: func(h *handle) {
		h.applied(func(c *store.Change) {
			for i, it := range c.Items {
				c.Items[i].Key = strings.ToLower(it.Key)
			}
		})
	},
	cases: []string{"keys-are-exact"},
}, {
	name: "the caller's slice is kept",
	breaks: func(h *handle) {
		apply := h.apply
		var kept []store.Item
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			kept = c.Items
			return apply(ctx, c)
		}
		h.loaded(func(_ store.Rev, snap *store.Snapshot) {
			now := contentOf(snap.Items...)
			for _, it := range kept {
				now[it.ID()] = it
			}
			snap.Items = slices.Collect(maps.Values(now))
		})
	},
	cases: []string{"caller-reuses-items"},
}, {
	name: "the caller's slice is sorted",
	breaks: func(h *handle) {
		apply := h.apply
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			slices.SortStableFunc(c.Items, func(a, b store.Item) int { return strings.Compare(a.Key, b.Key) })
			return apply(ctx, c)
		}
	},
	cases: []string{"apply-leaves-the-change-alone"},
}, {
	name: "snapshots share their items",
	breaks: func(h *handle) {
		var buf []store.Item
		h.loaded(func(_ store.Rev, snap *store.Snapshot) {
			buf = append(buf[:0], snap.Items...)
			snap.Items = buf
		})
	},
	cases: []string{"a-loaded-snapshot-stays"},
}, {
	name: "a thousand items are enough",
	breaks: func(h *handle) {
		h.applied(func(c *store.Change) { c.Items = c.Items[:min(1000, len(c.Items))] })
	},
	cases: []string{"many-items"},
}}

// commitFaults are about Base, whole commits and the way forward.
var commitFaults = []fault{{
	name:   "Base is ignored",
	breaks: func(h *handle) { h.applied(func(c *store.Change) { c.Base = "" }) },
	cases: []string{
		"base-conflict-writes-nothing", "base-conflict-on-an-empty-store", "one-of-many-wins-a-base",
		"flushed-base-conflicts", "base-conflicts-between-handles",
		"no-update-is-lost",
	},
}, {
	name: "Base is compared before the lock is taken",
	breaks: func(h *handle) {
		apply := h.apply
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			if snap, err := h.load(ctx, ""); err == nil && c.Base != "" && !c.Conflicts(snap.Rev) {
				// Waiting for a second call makes sure that the race is lost.
				h.place.add(1)
				waitUpTo(100*time.Millisecond, func() bool { return h.place.add(0) > 1 })
				c.Base = ""
			}
			return apply(ctx, c)
		}
	},
	cases: []string{"one-of-many-wins-a-base", "one-of-many-wins-an-uncommitted-base", "no-update-is-lost"},
}, {
	name: "a Base of Uncommitted is no condition",
	breaks: func(h *handle) {
		h.applied(func(c *store.Change) {
			if c.Base == store.Uncommitted {
				c.Base = ""
			}
		})
	},
	cases: []string{
		"uncommitted-base-commits-once", "uncommitted-base-commits-after-a-flush", "one-of-many-wins-an-uncommitted-base",
	},
}, {
	name: "a Base of Uncommitted means a store without items",
	breaks: func(h *handle) {
		apply := h.apply
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			if snap, err := h.load(ctx, ""); err == nil && c.Base == store.Uncommitted && len(snap.Items) == 0 {
				c.Base = snap.Rev
			}
			return apply(ctx, c)
		}
	},
	cases: []string{"uncommitted-base-commits-once"},
}, {
	name: "a conflict is reported after the commit",
	breaks: func(h *handle) {
		apply := h.apply
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			rev, err := apply(ctx, c)
			if errors.Is(err, store.ErrConflict) {
				c.Base = ""
				apply(ctx, c)
			}
			return rev, err
		}
	},
	cases: []string{"base-conflict-writes-nothing", "base-conflict-on-an-empty-store"},
}, {
	name: "every Base conflicts",
	breaks: func(h *handle) {
		h.applied(func(c *store.Change) {
			if c.Base != "" {
				c.Base += "?"
			}
		})
	},
	cases: []string{
		"current-base-commits", "uncommitted-base-commits-once", "uncommitted-base-commits-after-a-flush",
	},
}, {
	name: "commits are torn",
	breaks: func(h *handle) {
		apply := h.apply
		loads := make(chan struct{})
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			half := c
			half.Items = c.Items[:len(c.Items)/2]
			if _, err := apply(ctx, half); err != nil {
				return "", err
			}
			select {
			case <-loads: // somebody looks in between
			case <-time.After(20 * time.Millisecond):
			}
			c.Base = ""
			return apply(ctx, c)
		}
		h.loaded(func(store.Rev, *store.Snapshot) {
			select {
			case loads <- struct{}{}:
			default:
			}
		})
	},
	cases: []string{"patch-is-visible-whole", "full-is-visible-whole", "commits-show-whole-and-in-order"},
}, {
	name: "every third load shows the state before",
	breaks: func(h *handle) {
		var mu sync.Mutex
		var before, now store.Snapshot
		n := 0
		h.loaded(func(since store.Rev, snap *store.Snapshot) {
			mu.Lock()
			defer mu.Unlock()
			if since != "" || snap.Rev == "" {
				return
			}
			if snap.Rev != now.Rev {
				before, now = now, *snap
			}
			if n++; n%3 == 0 && before.Rev != "" {
				*snap = store.Snapshot{Rev: before.Rev, Items: slices.Clone(before.Items)}
			}
		})
	},
	cases: []string{"never-back-in-time", "commits-show-whole-and-in-order"},
}, {
	name: "other handles stay where they were opened",
	breaks: func(h *handle) {
		if !h.second {
			return
		}
		load := h.load
		first, _ := load(context.Background(), "")
		h.load = func(ctx context.Context, since store.Rev) (store.Snapshot, error) { return first, nil }
	},
	cases: []string{"other-handle-sees-commits", "follow-delivers-the-newest-state", "other-handle-sees-a-flush"},
}, {
	name: "other handles do not see what was there before",
	breaks: func(h *handle) {
		if h.second {
			before, _ := h.load(context.Background(), "")
			h.loaded(func(since store.Rev, snap *store.Snapshot) {
				if snap.Rev == before.Rev {
					*snap = store.Snapshot{}
				}
			})
		}
	},
	cases: []string{"late-handle-sees-what-is-there", "close-closes-one-handle"},
}, {
	name: "other handles lose what they write",
	breaks: func(h *handle) {
		if h.second {
			h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
				snap, err := h.load(ctx, "")
				return snap.Rev, err
			}
		}
	},
	cases: []string{"other-handle-writes"},
}, {
	name:           "handles for reading write",
	reopenedWrites: true,
	cases:          []string{"read-only-handle-does-not-write"},
}, {
	name: "handles for reading ignore what they are told to write",
	breaks: func(h *handle) {
		if h.second {
			h.apply = func(context.Context, store.Change) (store.Rev, error) { return "", nil }
		}
	},
	cases: []string{"read-only-handle-does-not-write"},
}}

// waitUpTo waits for ok, but not for long.
func waitUpTo(d time.Duration, ok func() bool) {
	limit := time.NewTimer(d)
	defer limit.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			return
		}
	}
}
