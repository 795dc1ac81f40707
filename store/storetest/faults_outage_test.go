package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/flagstead/flagstead/store"
)

// outageFaults are about places that are down.
var outageFaults = []fault{{
	name: "an outage is an empty store",
	breaks: func(h *handle) {
		load := h.load
		h.load = func(ctx context.Context, since store.Rev) (store.Snapshot, error) {
			if h.place.isDown() {
				return store.Snapshot{}, nil
			}
			return load(ctx, since)
		}
	},
	cases: []string{"outage-is-no-state", "follow-through-outages"},
}, {
	name: "calls wait for the end of an outage",
	breaks: func(h *handle) {
		load := h.load
		h.load = func(ctx context.Context, since store.Rev) (store.Snapshot, error) {
			waitUpTo(5*time.Second, func() bool { return !h.place.isDown() })
			return load(ctx, since)
		}
	},
	cases: []string{"outage-is-no-state"},
}, {
	name: "an outage is damage",
	breaks: func(h *handle) {
		load := h.load
		h.load = func(ctx context.Context, since store.Rev) (store.Snapshot, error) {
			snap, err := load(ctx, since)
			if errors.Is(err, errDown) {
				err = fmt.Errorf("%w: %w", store.ErrDamaged, err)
			}
			return snap, err
		}
	},
	cases: []string{"outage-is-no-state"},
}, {
	name: "a handle does not get over an outage",
	breaks: func(h *handle) {
		var broken atomic.Bool
		load := h.load
		h.load = func(ctx context.Context, since store.Rev) (store.Snapshot, error) {
			if broken.Load() {
				return store.Snapshot{}, errDown
			}
			snap, err := load(ctx, since)
			if h.place.isDown() {
				broken.Store(true)
			}
			return snap, err
		}
	},
	cases: []string{"outage-is-no-state", "follow-through-outages", "flapping-store"},
}, {
	name: "what is acknowledged in an outage is lost",
	breaks: func(h *handle) {
		apply := h.apply
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			if h.place.isDown() {
				return "later", nil
			}
			return apply(ctx, c)
		}
	},
	cases: []string{"outage-is-no-state"},
}, {
	name: "a commit that an outage interrupts is torn",
	breaks: func(h *handle) {
		apply := h.apply
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			rev, err := apply(ctx, c)
			if err != nil && len(c.Items) > 1 && ctx.Err() == nil || h.place.isDown() {
				h.place.store().Apply(context.Background(), patch(c.Items[0]))
			}
			return rev, err
		}
	},
	cases: []string{"outage-is-no-state", "flapping-store"},
}, {
	name: "after an outage a handle shows what it had before",
	breaks: func(h *handle) {
		var kept atomic.Pointer[store.Snapshot]
		load := h.load
		h.load = func(ctx context.Context, since store.Rev) (store.Snapshot, error) {
			if h.place.isDown() {
				if snap, err := h.place.store().Load(ctx, ""); err == nil {
					kept.CompareAndSwap(nil, &snap)
				}
			}
			if snap := kept.Load(); snap != nil {
				return *snap, nil
			}
			return load(ctx, since)
		}
	},
	cases: []string{"follow-through-outages"},
}}

// spoilFaults are about damage.
var spoilFaults = []fault{{
	name: "damage is an empty store",
	breaks: func(h *handle) {
		h.damaged(func(context.Context) (store.Snapshot, error) { return store.Snapshot{}, nil })
	},
	cases: []string{"damage-is-no-state"},
}, {
	name: "damage costs a part of the state",
	breaks: func(h *handle) {
		h.damaged(func(ctx context.Context) (store.Snapshot, error) {
			snap, err := h.place.store().Load(ctx, "")
			if len(snap.Items) > 0 {
				snap.Items = snap.Items[1:]
			}
			return snap, err
		})
	},
	cases: []string{"damage-is-no-state"},
}, {
	name:   "damage is a panic",
	breaks: func(h *handle) { h.damaged(func(context.Context) (store.Snapshot, error) { panic("damaged") }) },
	panics: true,
	cases:  []string{"damage-is-no-state"},
}, {
	name: "damage cannot be repaired",
	breaks: func(h *handle) {
		apply := h.apply
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			if err := h.place.enter(ctx); err != nil {
				return "", err
			}
			return apply(ctx, c)
		}
	},
	cases: []string{"damage-is-no-state"},
}, {
	name: "a patch on damage makes a state of its own",
	breaks: func(h *handle) {
		apply := h.apply
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			c.Full = c.Full || errors.Is(h.place.enter(ctx), store.ErrDamaged)
			return apply(ctx, c)
		}
	},
	cases: []string{"damage-is-no-state"},
}}

// damaged changes what Load returns while the place is damaged.
func (h *handle) damaged(instead func(ctx context.Context) (store.Snapshot, error)) {
	load := h.load
	h.load = func(ctx context.Context, since store.Rev) (store.Snapshot, error) {
		snap, err := load(ctx, since)
		if errors.Is(err, store.ErrDamaged) {
			return instead(ctx)
		}
		return snap, err
	}
}

// largeFaults are about size.
var largeFaults = []fault{{
	name: "a page of 4096 items is everything",
	breaks: func(h *handle) {
		h.loaded(func(_ store.Rev, snap *store.Snapshot) { snap.Items = snap.Items[:min(4096, len(snap.Items))] })
	},
	cases: []string{"large-set"},
}, {
	name: "a large set has a byte that is wrong",
	breaks: func(h *handle) {
		h.applied(func(c *store.Change) {
			if len(c.Items) > 4000 {
				d := append([]byte(nil), c.Items[4000].Data...)
				d[len(d)/2] ^= 1
				c.Items[4000].Data = d
			}
		})
	},
	cases: []string{"large-set"},
}}
