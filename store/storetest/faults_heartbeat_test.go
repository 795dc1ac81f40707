package storetest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/flagstead/flagstead/store"
)

// heartbeatFaults are about heartbeats.
var heartbeatFaults = []fault{{
	name: "a store without a heartbeat has one of its own",
	breaks: func(h *handle) {
		h.beatRead(func(b *store.Heartbeat) {
			if b.Written.IsZero() {
				*b = store.Heartbeat{Source: "off", Written: time.Now()}
			}
		})
	},
	cases: []string{"no-heartbeat-at-first"},
}, {
	name:   "heartbeats are ignored",
	breaks: func(h *handle) { h.writeBeat = func(context.Context, store.Heartbeat) error { return nil } },
	cases:  []string{"heartbeat-is-kept", "heartbeats-merge", "heartbeats-amid-commits"},
}, {
	name: "heartbeats stay in their handle",
	breaks: func(h *handle) {
		var mu sync.Mutex
		var kept store.Heartbeat
		h.writeBeat = func(_ context.Context, b store.Heartbeat) error {
			mu.Lock()
			defer mu.Unlock()
			kept, _ = b.Merge(kept, time.Now())
			return nil
		}
		h.readBeat = func(context.Context) (store.Heartbeat, error) {
			mu.Lock()
			defer mu.Unlock()
			return kept, nil
		}
	},
	cases: []string{"heartbeat-is-kept", "heartbeats-merge"},
}, {
	name: "heartbeats are kept to the hour",
	breaks: func(h *handle) {
		h.beatRead(func(b *store.Heartbeat) { b.Confirmed = b.Confirmed.Truncate(time.Hour).Add(-time.Hour) })
	},
	cases: []string{"heartbeat-is-kept"},
}, {
	name: "the writer says when a heartbeat was written",
	breaks: func(h *handle) {
		h.beatRead(func(b *store.Heartbeat) { b.Written = time.Unix(1, 0) })
	},
	cases: []string{"heartbeat-is-kept"},
}, {
	name: "names in heartbeats are cleaned up",
	breaks: func(h *handle) {
		h.beatRead(func(b *store.Heartbeat) {
			b.Source = strings.TrimSpace(strings.ToValidUTF8(b.Source, ""))
			b.Writer, _, _ = strings.Cut(b.Writer, "|")
		})
	},
	cases: []string{"heartbeat-is-kept"},
}, {
	name: "the last heartbeat speaks",
	breaks: func(h *handle) {
		var mu sync.Mutex
		var kept store.Heartbeat
		h.writeBeat = func(_ context.Context, b store.Heartbeat) error {
			mu.Lock()
			defer mu.Unlock()
			kept = b
			kept.Written = time.Now()
			return nil
		}
		h.readBeat = func(context.Context) (store.Heartbeat, error) {
			mu.Lock()
			defer mu.Unlock()
			return kept, nil
		}
	},
	cases: []string{"heartbeats-merge"},
}, {
	name: "confirmations go back",
	breaks: func(h *handle) {
		last := map[*place]time.Time{}
		write := h.writeBeat
		h.writeBeat = func(ctx context.Context, b store.Heartbeat) error {
			last[h.place] = b.Confirmed
			return write(ctx, b)
		}
		h.beatRead(func(b *store.Heartbeat) { b.Confirmed = last[h.place] })
	},
	cases: []string{"heartbeats-merge"},
}, {
	name: "a heartbeat is an item",
	breaks: func(h *handle) {
		write := h.writeBeat
		h.writeBeat = func(ctx context.Context, b store.Heartbeat) error {
			if _, err := h.apply(ctx, patch(flag("$heartbeat", time.Now().UnixMicro()))); err != nil {
				return err
			}
			return write(ctx, b)
		}
	},
	cases: []string{"heartbeat-is-no-commit"},
}, {
	name: "a heartbeat counts as a commit of nothing",
	breaks: func(h *handle) {
		write, load := h.writeBeat, h.load
		h.writeBeat = func(ctx context.Context, b store.Heartbeat) error {
			h.place.add(1)
			return write(ctx, b)
		}
		h.load = func(ctx context.Context, since store.Rev) (store.Snapshot, error) {
			suffix := fmt.Sprintf("+%d", h.place.add(0))
			cut, ok := strings.CutSuffix(string(since), suffix)
			if !ok {
				cut = "unknown"
			}
			snap, err := load(ctx, store.Rev(cut))
			if snap.Rev != "" {
				snap.Rev += store.Rev(suffix)
			}
			return snap, err
		}
	},
	cases: []string{"heartbeat-is-no-commit"},
}, {
	name: "a heartbeat writes back what it read",
	breaks: func(h *handle) {
		write := h.writeBeat
		h.writeBeat = func(ctx context.Context, b store.Heartbeat) error {
			snap, err := h.load(ctx, "")
			if err != nil {
				return err
			}
			waitUpTo(3*time.Millisecond, func() bool { return false }) // somebody commits
			if snap.Rev != "" {
				h.apply(ctx, full(snap.Items...))
			}
			return write(ctx, b)
		}
	},
	cases: []string{"heartbeats-amid-commits"},
}, {
	name: "heartbeats ignore contexts and Close",
	breaks: func(h *handle) {
		h.readBeat = func(context.Context) (store.Heartbeat, error) {
			return h.place.store().ReadHeartbeat(context.Background())
		}
		h.writeBeat = func(_ context.Context, b store.Heartbeat) error {
			return h.place.store().WriteHeartbeat(context.Background(), b)
		}
	},
	cases: []string{"ended-context-ends-heartbeats", "closed-heartbeats", "read-only-handle-writes-no-heartbeat"},
}}

// beatRead changes what ReadHeartbeat returns.
func (h *handle) beatRead(change func(b *store.Heartbeat)) {
	read := h.readBeat
	h.readBeat = func(ctx context.Context) (store.Heartbeat, error) {
		b, err := read(ctx)
		if err == nil {
			change(&b)
		}
		return b, err
	}
}
