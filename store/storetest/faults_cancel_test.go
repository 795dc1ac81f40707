package storetest

import (
	"context"
	"time"

	"github.com/flagstead/flagstead/store"
)

// cancelFaults are about contexts that end in the middle of a call.
var cancelFaults = []fault{{
	name: "a cancelled call keeps its turn",
	breaks: func(h *handle) {
		turn := make(chan struct{}, 1)
		enter := func(ctx context.Context) (leave func(), err error) {
			select {
			case turn <- struct{}{}:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			if err := ctx.Err(); err != nil {
				return nil, err // and the turn is lost
			}
			return func() { <-turn }, nil
		}
		load, apply := h.load, h.apply
		h.load = func(ctx context.Context, since store.Rev) (store.Snapshot, error) {
			leave, err := enter(ctx)
			if err != nil {
				return store.Snapshot{}, err
			}
			defer leave()
			return load(ctx, since)
		}
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			leave, err := enter(ctx)
			if err != nil {
				return "", err
			}
			defer leave()
			return apply(ctx, c)
		}
	},
	cases: []string{"cancelled-at-every-step-of-load", "cancelled-at-every-step-of-apply"},
}, {
	name: "a Load that is cancelled returns what it has",
	breaks: func(h *handle) {
		load := h.load
		h.load = func(ctx context.Context, since store.Rev) (store.Snapshot, error) {
			if err := ctx.Err(); err != nil {
				return store.Snapshot{}, err
			}
			snap, err := load(context.WithoutCancel(ctx), since)
			for i := range snap.Items {
				if ctx.Err() != nil {
					snap.Items = snap.Items[:i]
					break
				}
			}
			return snap, err
		}
	},
	cases: []string{"cancelled-at-every-step-of-load"},
}, {
	name: "an Apply that is cancelled leaves what it has",
	breaks: func(h *handle) {
		apply := h.apply
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			for i := range c.Items {
				if err := ctx.Err(); err != nil {
					if i > 0 {
						apply(context.WithoutCancel(ctx), store.Change{Items: c.Items[:i]})
					}
					return "", err
				}
			}
			return apply(ctx, c)
		}
	},
	cases: []string{"cancelled-at-every-step-of-apply"},
}, {
	name: "an Apply that is cancelled while it waits leaves half a change",
	breaks: func(h *handle) {
		apply := h.apply
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			if len(c.Items) > 1 && !c.Full && ctx.Err() == nil {
				waitUpTo(20*time.Millisecond, func() bool { return ctx.Err() != nil })
			}
			if len(c.Items) > 1 && ctx.Err() != nil {
				apply(context.WithoutCancel(ctx), patch(c.Items[0]))
				return "", ctx.Err()
			}
			return apply(ctx, c)
		}
	},
	cases: []string{"cancelled-at-any-time-under-load"},
}, {
	name: "Watch does not look at its context until the next commit",
	breaks: func(h *handle) {
		watch := h.watch
		h.watch = func(ctx context.Context, wake func()) error {
			err := watch(context.WithoutCancel(ctx), func() {
				if ctx.Err() == nil {
					wake()
				}
			})
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
	},
	cases: []string{"cancelled-at-every-step-of-watch"},
}}

// wakeFaults are about what a wake-up means.
var wakeFaults = []fault{{
	name: "news come to other handles with their wake-ups alone",
	breaks: func(h *handle) {
		if !h.second {
			return
		}
		load, watch := h.load, h.watch
		fresh := make(chan struct{}, 1)
		fresh <- struct{}{}
		var kept store.Snapshot
		h.load = func(ctx context.Context, since store.Rev) (store.Snapshot, error) {
			h.place.writing.Lock()
			defer h.place.writing.Unlock()
			var err error
			select {
			case <-fresh:
				kept, err = load(ctx, "")
			default:
			}
			return kept, err
		}
		h.watch = func(ctx context.Context, wake func()) error {
			return watch(ctx, func() {
				select {
				case fresh <- struct{}{}:
				default:
				}
				wake()
			})
		}
	},
	cases: []string{"follow-without-watch"},
}, {
	name: "a wake-up is acknowledged by the Load after it",
	breaks: func(h *handle) {
		load, watch := h.load, h.watch
		watched := 0
		woken := make(chan struct{}, 1)
		var kept store.Snapshot
		h.load = func(ctx context.Context, since store.Rev) (store.Snapshot, error) {
			h.place.writing.Lock()
			defer h.place.writing.Unlock()
			if watched == 0 || kept.Rev == "" {
				snap, err := load(ctx, "")
				kept = snap
				return snap, err
			}
			select {
			case <-woken:
				snap, err := load(ctx, "")
				kept = snap
				return snap, err
			default:
				return kept, nil
			}
		}
		h.watch = func(ctx context.Context, wake func()) error {
			h.place.writing.Lock()
			watched++
			h.place.writing.Unlock()
			n := 0
			return watch(ctx, func() {
				if n++; n == 1 {
					wake() // that it watches, but not that there are news
					return
				}
				first := make(chan struct{}, 1)
				h.place.writing.Lock()
				woken = first
				h.place.writing.Unlock()
				wake()
			})
		}
	},
	cases: []string{"follow-loses-wakes"},
}, {
	name: "a Watch that ended cannot begin again",
	breaks: func(h *handle) {
		watch := h.watch
		h.watch = func(ctx context.Context, wake func()) error {
			err := watch(ctx, wake)
			h.end()
			return err
		}
	},
	cases: []string{"follow-with-a-watch-that-ends", "cancelled-at-every-step-of-watch"},
}}
