package storetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flagstead/flagstead/store"
)

// loadFaults are about Revs and Deltas.
var loadFaults = []fault{{
	name: "an empty store has a Rev",
	breaks: func(h *handle) {
		h.loaded(func(_ store.Rev, snap *store.Snapshot) {
			if snap.Rev == "" {
				snap.Rev = "0"
			}
		})
	},
	cases: []string{"empty-store-is-the-zero-snapshot", "empty-store-knows-no-rev", "flushed-store-is-empty"},
}, {
	name: "an unknown Rev is taken for the current one",
	breaks: func(h *handle) {
		h.loaded(func(since store.Rev, snap *store.Snapshot) {
			if since != "" && !snap.Delta {
				*snap = store.Snapshot{Rev: since, Delta: true}
			}
		})
	},
	cases: []string{"unknown-rev-loads-everything", "empty-store-knows-no-rev", "flushed-store-is-empty", "delta-does-not-forget-removals"},
}, {
	name: "Revs are numbers that start over",
	breaks: func(h *handle) {
		epoch := func() (store.Rev, int) {
			snap, _ := h.place.store().Load(context.Background(), "")
			return snap.Rev, strings.LastIndexByte(string(snap.Rev), '-') + 1
		}
		inner := func(rev store.Rev) store.Rev {
			if rev == "" {
				return ""
			}
			now, n := epoch()
			return now[:n] + rev
		}
		outer := func(rev store.Rev) store.Rev { return rev[strings.LastIndexByte(string(rev), '-')+1:] }
		load, apply := h.load, h.apply
		h.load = func(ctx context.Context, since store.Rev) (store.Snapshot, error) {
			snap, err := load(ctx, inner(since))
			snap.Rev = outer(snap.Rev)
			return snap, err
		}
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			c.Base = inner(c.Base)
			rev, err := apply(ctx, c)
			return outer(rev), err
		}
	},
	cases: []string{"refilled-store-has-new-revs", "places-do-not-share-revs", "unknown-rev-loads-everything", "refilled-with-the-same-content", "refilled-through-another-handle"},
}, {
	name: "the Rev is a count of the items",
	breaks: func(h *handle) {
		count := func(rev *store.Rev) {
			snap, _ := h.place.store().Load(context.Background(), "")
			if *rev != "" {
				*rev = store.Rev(fmt.Sprint("items ", len(snap.Items)))
			}
		}
		apply := h.apply
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			rev, err := apply(ctx, c)
			count(&rev)
			return rev, err
		}
		h.loaded(func(_ store.Rev, snap *store.Snapshot) { count(&snap.Rev) })
	},
	cases: []string{"no-rev-twice", "refilled-store-has-new-revs"},
}, {
	name: "Apply returns the Rev before",
	breaks: func(h *handle) {
		apply := h.apply
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			snap, err := h.load(ctx, "")
			if err != nil {
				return "", err
			}
			if _, err = apply(ctx, c); err != nil {
				return "", err
			}
			return snap.Rev, nil
		}
	},
	cases: []string{"apply-returns-the-rev-that-load-returns"},
}, {
	name: "every change gets a new Rev",
	breaks: func(h *handle) {
		newRevs(h, func(store.Change) bool { return true })
	},
	cases: []string{
		"patch-that-changes-nothing-keeps-rev", "equal-version-and-content-changes-nothing", "empty-patch-on-an-empty-store",
		"identical-full-keeps-rev", "applying-again-is-safe", "random-changes-follow-the-model",
	},
}, {
	name: "every full change gets a new Rev",
	breaks: func(h *handle) {
		newRevs(h, func(c store.Change) bool { return c.Full })
	},
	cases: []string{"identical-full-keeps-rev", "applying-again-is-safe", "empty-full-is-committed"},
}, {
	name: "the current Rev loads everything",
	breaks: func(h *handle) {
		load := h.load
		h.load = func(ctx context.Context, _ store.Rev) (store.Snapshot, error) { return load(ctx, "") }
	},
	cases: []string{"current-rev-gives-an-empty-delta"},
}, {
	name: "a Delta holds everything",
	breaks: func(h *handle) {
		load := h.load
		h.load = func(ctx context.Context, since store.Rev) (store.Snapshot, error) {
			snap, err := load(ctx, since)
			if snap.Delta && snap.Rev != since {
				snap, err = load(ctx, "")
				snap.Delta = err == nil
			}
			return snap, err
		}
	},
	cases: []string{"delta-leads-from-every-rev-to-now"},
}, {
	name: "a Delta reaches back behind removals",
	breaks: func(h *handle) {
		h.loaded(func(since store.Rev, snap *store.Snapshot) {
			if since != "" && snap.Rev != "" && len(snap.Items) > 0 {
				snap.Delta = true
			}
		})
	},
	cases: []string{"delta-does-not-forget-removals", "full-back-to-earlier-content"},
}, {
	name: "a Delta has no tombstones",
	breaks: func(h *handle) {
		h.loaded(func(since store.Rev, snap *store.Snapshot) {
			if snap.Delta && snap.Rev != since {
				snap.Items = slices.DeleteFunc(snap.Items, func(it store.Item) bool { return it.Archived })
			}
		})
	},
	cases: []string{"delta-has-tombstones"},
}, {
	name: "a Delta has only the last change",
	breaks: func(h *handle) {
		h.loaded(func(since store.Rev, snap *store.Snapshot) {
			if snap.Delta && len(snap.Items) > 2 {
				snap.Items = snap.Items[:2]
			}
		})
	},
	cases: []string{"delta-leads-from-every-rev-to-now"},
}, {
	name: "a Delta repeats what changed twice",
	breaks: func(h *handle) {
		h.loaded(func(since store.Rev, snap *store.Snapshot) {
			if snap.Delta && len(snap.Items) > 0 {
				snap.Items = append(snap.Items, snap.Items[0])
			}
		})
	},
	cases: []string{"delta-has-every-item-once"},
}, {
	name: "a flushed store shows what it had",
	breaks: func(h *handle) {
		var mu sync.Mutex
		var last store.Snapshot
		h.loaded(func(since store.Rev, snap *store.Snapshot) {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case snap.Rev == "":
				*snap = store.Snapshot{Rev: last.Rev, Items: slices.Clone(last.Items)}
			case !snap.Delta:
				last = store.Snapshot{Rev: snap.Rev, Items: slices.Clone(snap.Items)}
			}
		})
	},
	cases: []string{"other-handle-sees-a-flush"},
}}

// newRevs makes h count the changes that bump names, and spell the count out in
// its Revs.
func newRevs(h *handle, bump func(store.Change) bool) {
	outer := func(rev store.Rev) store.Rev { return store.Rev(fmt.Sprintf("%s+%d", rev, h.place.add(0))) }
	inner := func(rev store.Rev) store.Rev {
		if cut, ok := strings.CutSuffix(string(rev), fmt.Sprintf("+%d", h.place.add(0))); ok {
			return store.Rev(cut)
		}
		return "unknown"
	}
	load, apply := h.load, h.apply
	h.load = func(ctx context.Context, since store.Rev) (store.Snapshot, error) {
		if since != "" {
			since = inner(since)
		}
		snap, err := load(ctx, since)
		if err == nil && (snap.Rev != "" || h.place.add(0) > 0) {
			snap.Rev = outer(snap.Rev)
		}
		return snap, err
	}
	h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
		if c.Base != "" {
			c.Base = inner(c.Base)
		}
		rev, err := apply(ctx, c)
		if err == nil && bump(c) {
			h.place.add(1)
		}
		return outer(rev), err
	}
}

// callFaults are about contexts and Close.
var callFaults = []fault{{
	name: "contexts are ignored",
	breaks: func(h *handle) {
		load, apply := h.load, h.apply
		h.load = func(ctx context.Context, since store.Rev) (store.Snapshot, error) {
			return load(context.WithoutCancel(ctx), since)
		}
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			return apply(context.WithoutCancel(ctx), c)
		}
	},
	cases: []string{"ended-context-ends-load", "ended-context-ends-load-of-an-empty-store", "ended-context-ends-apply"},
}, {
	name: "contexts count only at the begin of a call",
	breaks: func(h *handle) {
		apply := h.apply
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			if at, ok := ctx.Deadline(); ok && ctx.Err() == nil && time.Until(at) < promptly {
				<-time.After(promptly * 5 / 4)
				ctx = context.WithoutCancel(ctx)
			}
			return apply(ctx, c)
		}
	},
	cases: []string{"cancel-during-apply-is-all-or-nothing"},
}, {
	name: "Close fails",
	breaks: func(h *handle) {
		end := h.close
		h.close = func() error {
			end()
			return errBroken
		}
	},
	cases: []string{"larger-version-wins-between-changes"},
}, {
	name: "the error of an ended context is another one",
	breaks: func(h *handle) {
		load, apply := h.load, h.apply
		h.load = func(ctx context.Context, since store.Rev) (store.Snapshot, error) {
			if ctx.Err() != nil {
				return store.Snapshot{}, errBroken
			}
			return load(ctx, since)
		}
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			if ctx.Err() != nil {
				return "", errBroken
			}
			return apply(ctx, c)
		}
	},
	cases: []string{"ended-context-ends-load", "ended-context-ends-load-of-an-empty-store", "ended-context-ends-apply"},
}, {
	name: "a context that ends leaves half a change",
	breaks: func(h *handle) {
		apply := h.apply
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			if end, ok := ctx.Deadline(); ok && time.Until(end) < time.Second && len(c.Items) > 1 {
				c.Items = c.Items[:1]
				apply(context.WithoutCancel(ctx), c)
				<-ctx.Done()
				return "", ctx.Err()
			}
			return apply(ctx, c)
		}
	},
	cases: []string{"cancel-during-apply-is-all-or-nothing"},
}, {
	name: "Close is forgotten",
	breaks: func(h *handle) {
		h.close = func() error { return nil }
	},
	cases: []string{
		"closed-load", "closed-apply", "closed-watch", "closed-before-use", "watch-ends-on-close", "follow-ends-on-close",
	},
}, {
	name: "the error after Close is another one",
	breaks: func(h *handle) {
		load, apply, watch := h.load, h.apply, h.watch
		h.load = func(ctx context.Context, since store.Rev) (store.Snapshot, error) {
			if h.life.Err() != nil {
				return store.Snapshot{}, errBroken
			}
			return load(ctx, since)
		}
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			if h.life.Err() != nil {
				return "", errBroken
			}
			return apply(ctx, c)
		}
		h.watch = func(ctx context.Context, wake func()) error {
			err := watch(ctx, wake)
			if h.life.Err() != nil {
				err = errBroken
			}
			return err
		}
	},
	cases: []string{
		"closed-load", "closed-apply", "closed-watch", "closed-before-use", "close-while-in-use", "watch-ends-on-close",
	},
}, {
	name: "closing again is an error",
	breaks: func(h *handle) {
		shut := h.close
		h.close = func() error {
			if h.life.Err() != nil {
				return errBroken
			}
			return shut()
		}
	},
	cases: []string{"close-twice"},
}, {
	name: "Close closes the place",
	breaks: func(h *handle) {
		shut := h.close
		h.close = func() error {
			h.place.store().Close()
			return shut()
		}
	},
	cases: []string{"close-closes-one-handle"},
}}

// watchFaults are about Watch, which has to wake and to end.
var watchFaults = []fault{{
	name: "Watch does not wake at its start",
	breaks: func(h *handle) {
		watch := h.watch
		h.watch = func(ctx context.Context, wake func()) error {
			started := false
			return watch(ctx, func() {
				if started {
					wake()
				}
				started = true
			})
		}
	},
	cases: []string{"watch-wakes-at-start"},
}, {
	name: "Watch wakes only at its start",
	breaks: func(h *handle) {
		watch := h.watch
		h.watch = func(ctx context.Context, wake func()) error {
			var once sync.Once
			return watch(ctx, func() { once.Do(wake) })
		}
	},
	cases: []string{"watch-wakes-on-commit", "every-watch-wakes"},
}, {
	name: "Watch wakes only the first",
	breaks: func(h *handle) {
		watch := h.watch
		h.watch = func(ctx context.Context, wake func()) error {
			if h.place.add(1) == 1 {
				return watch(ctx, wake)
			}
			var once sync.Once
			return watch(ctx, func() { once.Do(wake) })
		}
	},
	cases: []string{"every-watch-wakes"},
}, {
	name: "Watch wakes for its own handle only",
	breaks: func(h *handle) {
		news := make(chan struct{}, 1)
		apply := h.apply
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			rev, err := apply(ctx, c)
			select {
			case news <- struct{}{}:
			default:
			}
			return rev, err
		}
		h.watch = func(ctx context.Context, wake func()) error {
			for {
				wake()
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-h.life.Done():
					return store.ErrClosed
				case <-news:
				}
			}
		}
	},
	cases: []string{"watch-of-other-handle-wakes", "watch-wakes-on-commit-of-other-handle"},
}, {
	name: "Watch ignores its context",
	breaks: func(h *handle) {
		watch := h.watch
		h.watch = func(ctx context.Context, wake func()) error { return watch(context.WithoutCancel(ctx), wake) }
	},
	cases: []string{"watch-ends-with-its-context"},
}, {
	name: "Watch ends without an error",
	breaks: func(h *handle) {
		watch := h.watch
		h.watch = func(ctx context.Context, wake func()) error {
			watch(ctx, wake)
			return nil
		}
	},
	cases: []string{"watch-ends-with-its-context", "watch-ends-on-close", "closed-watch"},
}, {
	name: "Watch wakes after it returned",
	breaks: func(h *handle) {
		watch := h.watch
		h.watch = func(ctx context.Context, wake func()) error {
			go h.place.store().Watch(h.life, wake)
			return watch(ctx, wake)
		}
	},
	cases: []string{"watch-does-not-wake-after-it-returned"},
}}
