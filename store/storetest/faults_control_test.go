package storetest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/flagstead/flagstead/store"
)

// controlFaults are about controls.
var controlFaults = []fault{{
	name: "a store without a control has one of its own",
	breaks: func(h *handle) {
		h.controlRead(func(c *store.Control) {
			if c.At.IsZero() {
				c.At = time.Now()
			}
		})
	},
	cases: []string{"no-control-at-first"},
}, {
	name:   "controls are ignored",
	breaks: func(h *handle) { h.writeControl = func(context.Context, store.Control) error { return nil } },
	cases:  []string{"control-is-kept", "frozen-store-refuses-changes", "frozen-empty-store-stays-empty", "freeze-amid-commits", "impossible-controls-are-refused"},
}, {
	name:   "the control forgets what is pinned",
	breaks: func(h *handle) { h.controlRead(func(c *store.Control) { c.Pinned = 0 }) },
	cases:  []string{"control-is-kept"},
}, {
	name: "the reason is cleaned up",
	breaks: func(h *handle) {
		h.controlRead(func(c *store.Control) { c.By = strings.ReplaceAll(c.By, "\n", " ") })
	},
	cases: []string{"control-is-kept"},
}, {
	name: "a freeze stays in its handle",
	breaks: func(h *handle) {
		var mu sync.Mutex
		var kept store.Control
		h.writeControl = func(_ context.Context, c store.Control) error {
			mu.Lock()
			defer mu.Unlock()
			if c.At.IsZero() {
				c.At = time.Now()
			}
			kept = c
			return nil
		}
		h.readControl = func(context.Context) (store.Control, error) {
			mu.Lock()
			defer mu.Unlock()
			return kept, nil
		}
		apply := h.apply
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			mu.Lock()
			frozen := kept.Frozen
			mu.Unlock()
			if frozen && !c.Override {
				return "", store.ErrFrozen
			}
			return apply(ctx, c)
		}
	},
	reopenedWrites: true,
	cases:          []string{"control-is-kept", "frozen-store-refuses-changes"},
}, {
	name:   "everything overrides",
	breaks: func(h *handle) { h.applied(func(c *store.Change) { c.Override = true }) },
	cases:  []string{"frozen-store-refuses-changes", "frozen-empty-store-stays-empty", "freeze-amid-commits"},
}, {
	name:   "nothing overrides",
	breaks: func(h *handle) { h.applied(func(c *store.Change) { c.Override = false }) },
	cases:  []string{"override-commits-while-frozen", "frozen-empty-store-stays-empty"},
}, {
	name: "an override has no Base",
	breaks: func(h *handle) {
		h.applied(func(c *store.Change) {
			if c.Override {
				c.Base = ""
			}
		})
	},
	cases: []string{"override-commits-while-frozen"},
}, {
	name: "an override wins over newer versions",
	breaks: func(h *handle) {
		h.applied(func(c *store.Change) {
			for i := range c.Items {
				if c.Override && !c.Full {
					c.Items[i].Version += 10
				}
			}
		})
	},
	cases: []string{"override-commits-while-frozen"},
}, {
	name: "a change that changes nothing is let through",
	breaks: func(h *handle) {
		apply := h.apply
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			rev, err := apply(ctx, c)
			if snap, _ := h.place.store().Load(ctx, ""); errors.Is(err, store.ErrFrozen) {
				if next, changed := contentOf(snap.Items...).apply(c); !changed && len(next) > 0 {
					return snap.Rev, nil
				}
			}
			return rev, err
		}
	},
	cases: []string{"frozen-store-refuses-changes"},
}, {
	name: "a control is a commit",
	breaks: func(h *handle) {
		write := h.writeControl
		h.writeControl = func(ctx context.Context, c store.Control) error {
			if err := write(ctx, c); err != nil {
				return err
			}
			_, err := h.apply(ctx, store.Change{Items: []store.Item{flag("$control", time.Now().UnixNano()/1000)}, Override: true})
			return err
		}
	},
	cases: []string{"control-is-no-commit"},
}, {
	name: "Apply looks whether it is frozen, and commits later",
	breaks: func(h *handle) {
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			control, err := h.readControl(ctx)
			if err != nil {
				return "", err
			}
			if control.Frozen && !c.Override {
				return "", store.ErrFrozen
			}
			waitUpTo(3*time.Millisecond, func() bool { return false }) // somebody freezes
			c.Override = true
			return h.place.store().Apply(ctx, c)
		}
	},
	cases: []string{"freeze-amid-commits"},
}, {
	name: "controls are not checked",
	breaks: func(h *handle) {
		write := h.writeControl
		h.writeControl = func(ctx context.Context, c store.Control) error {
			if c.Check() != nil {
				c = store.Control{By: c.By}
			}
			return write(ctx, c)
		}
	},
	cases: []string{"impossible-controls-are-refused"},
}, {
	name: "controls ignore contexts and Close",
	breaks: func(h *handle) {
		h.readControl = func(context.Context) (store.Control, error) {
			return h.place.store().ReadControl(context.Background())
		}
		h.writeControl = func(_ context.Context, c store.Control) error {
			return h.place.store().WriteControl(context.Background(), c)
		}
	},
	cases: []string{"ended-context-ends-controls", "closed-controls"},
}}

// controlRead changes what ReadControl returns.
func (h *handle) controlRead(change func(c *store.Control)) {
	read := h.readControl
	h.readControl = func(ctx context.Context) (store.Control, error) {
		c, err := read(ctx)
		if err == nil {
			change(&c)
		}
		return c, err
	}
}

// historyFaults are about histories.
var historyFaults = []fault{{
	name: "commits are revisions by themselves",
	breaks: func(h *handle) {
		h.revised(func(all []store.Revision) []store.Revision {
			if snap, _ := h.place.store().Load(context.Background(), ""); len(all) == 0 && snap.Rev != "" {
				return []store.Revision{{N: 1, Rev: snap.Rev}}
			}
			return all
		})
	},
	cases: []string{"no-history-at-first"},
}, {
	name: "an unknown revision is an empty one",
	breaks: func(h *handle) {
		at := h.at
		h.at = func(ctx context.Context, n uint64) (store.Snapshot, error) {
			snap, err := at(ctx, n)
			if errors.Is(err, store.ErrNoRevision) {
				return store.Snapshot{}, nil
			}
			return snap, err
		}
	},
	cases: []string{"no-history-at-first", "history-is-kept", "old-revisions-are-dropped"},
}, {
	name: "At gives the last revision",
	breaks: func(h *handle) {
		at := h.at
		h.at = func(ctx context.Context, n uint64) (store.Snapshot, error) {
			if _, err := at(ctx, n); err != nil {
				return store.Snapshot{}, err
			}
			all, err := h.place.store().Revisions(ctx)
			if err != nil {
				return store.Snapshot{}, err
			}
			return at(ctx, all[len(all)-1].N)
		}
	},
	cases: []string{"history-is-kept", "old-revisions-are-dropped"},
}, {
	name: "a revision loses its tombstones",
	breaks: func(h *handle) {
		at := h.at
		h.at = func(ctx context.Context, n uint64) (store.Snapshot, error) {
			snap, err := at(ctx, n)
			for i := range snap.Items {
				snap.Items[i].Archived = false
			}
			return snap, err
		}
	},
	cases: []string{"history-is-kept"},
}, {
	name: "records are not compared with what is there",
	breaks: func(h *handle) {
		add := h.appendRevision
		h.appendRevision = func(ctx context.Context, r store.Record, k store.Keep) (store.Revision, error) {
			for {
				r.After = 0
				if all, err := h.place.store().Revisions(ctx); err == nil && len(all) > 0 {
					r.After, r.Prev = all[len(all)-1].N, all[len(all)-1].Rev
				}
				if rev, err := add(ctx, r, k); !errors.Is(err, store.ErrNotNext) {
					return rev, err
				}
			}
		}
	},
	cases: []string{"records-follow-each-other", "records-of-several-writers"},
}, {
	name: "the same state is recorded twice",
	breaks: func(h *handle) {
		add := h.appendRevision
		h.appendRevision = func(ctx context.Context, r store.Record, k store.Keep) (store.Revision, error) {
			all, err := h.place.store().Revisions(ctx)
			if err == nil && len(all) > 0 && all[len(all)-1].Rev == r.Rev {
				r.After, r.Whole, r.Rev = all[len(all)-1].N, true, r.Rev+"'"
			}
			return add(ctx, r, k)
		}
	},
	cases: []string{"records-follow-each-other"},
}, {
	name: "nothing is dropped",
	breaks: func(h *handle) {
		add := h.appendRevision
		h.appendRevision = func(ctx context.Context, r store.Record, _ store.Keep) (store.Revision, error) {
			return add(ctx, r, store.Keep{Revisions: 1000, Bytes: 1 << 40})
		}
	},
	cases: []string{"old-revisions-are-dropped"},
}, {
	name: "only the last revision is kept",
	breaks: func(h *handle) {
		h.revised(func(all []store.Revision) []store.Revision { return all[max(0, len(all)-1):] })
	},
	cases: []string{"history-is-kept", "old-revisions-are-dropped"},
}, {
	name: "a revision is a commit",
	breaks: func(h *handle) {
		add := h.appendRevision
		h.appendRevision = func(ctx context.Context, r store.Record, k store.Keep) (store.Revision, error) {
			rev, err := add(ctx, r, k)
			if err == nil {
				_, err = h.place.store().Apply(ctx, store.Change{Items: []store.Item{flag("$revision", int64(rev.N))}, Override: true})
			}
			return rev, err
		}
	},
	cases: []string{"history-is-no-part-of-the-state"},
}, {
	name: "nothing is recorded while it is frozen",
	breaks: func(h *handle) {
		add := h.appendRevision
		h.appendRevision = func(ctx context.Context, r store.Record, k store.Keep) (store.Revision, error) {
			if c, err := h.readControl(ctx); err == nil && c.Frozen {
				return store.Revision{}, store.ErrFrozen
			}
			return add(ctx, r, k)
		}
	},
	cases: []string{"history-is-no-part-of-the-state"},
}, {
	name: "histories ignore contexts and Close, and who may write",
	breaks: func(h *handle) {
		h.revisions = func(context.Context) ([]store.Revision, error) {
			return h.place.store().Revisions(context.Background())
		}
		h.at = func(_ context.Context, n uint64) (store.Snapshot, error) {
			return h.place.store().At(context.Background(), n)
		}
		h.appendRevision = func(_ context.Context, r store.Record, k store.Keep) (store.Revision, error) {
			return h.place.store().AppendRevision(context.Background(), r, k)
		}
	},
	cases: []string{"ended-context-ends-histories", "closed-histories", "read-only-handle-records-nothing"},
}}

// revised changes what Revisions returns.
func (h *handle) revised(change func([]store.Revision) []store.Revision) {
	list := h.revisions
	h.revisions = func(ctx context.Context) ([]store.Revision, error) {
		all, err := list(ctx)
		if err == nil {
			all = change(all)
		}
		return all, err
	}
}

// reportFaults are about reports.
var reportFaults = []fault{{
	name:   "reports are lost",
	breaks: func(h *handle) { h.writeReport = func(context.Context, store.Report) error { return nil } },
	cases:  []string{"reports-are-kept", "last-report-removes", "impossible-reports-are-refused", "closed-reports"},
}, {
	name: "each reader is listed once, forever",
	breaks: func(h *handle) {
		write := h.writeReport
		h.writeReport = func(ctx context.Context, r store.Report) error {
			if r.State == "off" {
				return nil
			}
			return write(ctx, r)
		}
	},
	cases: []string{"last-report-removes"},
}, {
	name: "the reader says when it wrote",
	breaks: func(h *handle) {
		read := h.readReports
		h.readReports = func(ctx context.Context) ([]store.Report, error) {
			all, err := read(ctx)
			for i := range all {
				all[i].At = time.Unix(1, 0)
			}
			return all, err
		}
	},
	cases: []string{"reports-are-kept"},
}, {
	name: "a report is a commit",
	breaks: func(h *handle) {
		write := h.writeReport
		h.writeReport = func(ctx context.Context, r store.Report) error {
			if err := write(ctx, r); err != nil {
				return err
			}
			_, err := h.place.store().Apply(ctx, patch(flag("$"+r.Reader, time.Now().UnixNano()/1000)))
			return err
		}
	},
	cases: []string{"report-is-no-commit"},
}, {
	name: "long names are cut",
	breaks: func(h *handle) {
		write := h.writeReport
		h.writeReport = func(ctx context.Context, r store.Report) error {
			r.Reader = r.Reader[:min(len(r.Reader), 64)]
			return write(ctx, r)
		}
	},
	cases: []string{"impossible-reports-are-refused"},
}, {
	name: "reports ignore contexts and Close",
	breaks: func(h *handle) {
		h.readReports = func(context.Context) ([]store.Report, error) {
			return h.place.store().ReadReports(context.Background())
		}
		h.writeReport = func(_ context.Context, r store.Report) error {
			return h.place.store().WriteReport(context.Background(), r)
		}
	},
	cases: []string{"ended-context-ends-reports", "closed-reports"},
}}
