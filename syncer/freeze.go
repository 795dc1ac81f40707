package syncer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/flagstead/flagstead/store"
)

// While an operator has frozen the store, the manager receives and holds the newest
// state, and looks at what is published instead of making the store equal to what
// it holds. See store.Control.

// A freeze is what a manager knows of one.
type freeze struct {
	on      bool
	control store.Control

	rev       store.Rev               // what published is at
	published map[store.ID]store.Item // the store's content; nil: not known yet
	compared  bool                    // differs is about what is held now
	differs   bool                    // what is held is not what is published
	restore   bool                    // the store lost what was published, and perhaps the control
	damaged   bool                    // and cannot be read
	pinned    store.Control           // the last one whose pin was carried out, or cannot be
}

// readControl reads the store's control, the zero one if it has none.
func readControl(ctx context.Context, st store.DataStore) (store.Control, error) {
	r, ok := st.(store.ControlReader)
	if !ok {
		return store.Control{}, nil
	}
	c, err := r.ReadControl(ctx)
	if errors.Is(err, errors.ErrUnsupported) {
		return store.Control{}, nil
	}
	if err != nil {
		// Damage of the control is none of the content.
		err = fmt.Errorf("whether publication is frozen cannot be read: %s", err)
	}
	return c, err
}

// republish makes the calls of a job that writes in spite of a freeze: it puts the
// control back that the store lost, and then what is to be published.
func (m *manager) republish(ctx context.Context, j job) (r result) {
	r.job = j
	st := m.syncer.cfg.Store
	if j.pin != 0 {
		h, ok := st.(store.History)
		if !ok {
			r.err = fmt.Errorf("%w: %d; the store keeps none", store.ErrNoRevision, j.pin)
			r.lost = true
			return r
		}
		snap, err := h.At(ctx, j.pin)
		if err != nil {
			r.err = fmt.Errorf("revision %d, which is to be published: %w", j.pin, err)
			r.lost = errors.Is(err, store.ErrNoRevision) || errors.Is(err, store.ErrDamaged) || errors.Is(err, errors.ErrUnsupported)
			return r
		}
		r.change.Items = snap.Items
	}
	if j.rewrite != nil {
		if c, ok := st.(store.Controller); ok {
			if r.err = c.WriteControl(ctx, *j.rewrite); r.err != nil {
				return r
			}
		}
	}
	r.rev, r.err = st.Apply(ctx, r.change)
	return r
}

// freezes notes that publication is frozen, by c if that is known.
func (m *manager) freezes(c store.Control) {
	m.freeze = freeze{on: true}
	m.wantLoad = true
	if !c.At.IsZero() {
		m.frozenBy(c)
	}
}

// frozenBy notes by what publication is frozen.
func (m *manager) frozenBy(c store.Control) {
	m.freeze.control = c
	m.syncer.cfg.Logger.Warn("publication is frozen: the store keeps what it has", "env", m.syncer.env, "by", c.By, "reason", c.Reason, "pinned", c.Pinned)
	m.showFreeze()
}

// sameWord reports whether a and b are one control: stores with a clock of their own
// give times that differ a little from look to look.
func sameWord(a, b store.Control) bool {
	near := a.At.Sub(b.At).Abs() < time.Second
	a.At, b.At = time.Time{}, time.Time{}
	return near && a == b
}

// showFreeze makes the freeze, or its end, part of the status.
func (m *manager) showFreeze() {
	var shown *store.Control
	if m.freeze.on {
		c := m.freeze.control
		shown = &c
	}
	m.syncer.update(func(st *Status, _ *health) { st.Frozen = shown })
	signal(m.syncer.beats)
}

// watchFrozen takes what a load found while publication is frozen, or when that
// turned out to be over.
func (m *manager) watchFrozen(r result) {
	f := &m.freeze
	if r.snap.Rev == "" && len(f.published) > 0 && (r.control.Frozen || r.control.At.IsZero()) {
		// It was flushed, perhaps with the operator's word.
		if !f.restore {
			m.syncer.update(func(st *Status, _ *health) { st.Heals++ })
			m.syncer.cfg.Logger.Warn("the frozen store lost its content", "env", m.syncer.env)
		}
		f.restore = true
		m.opened(true)
		return
	}
	f.restore, f.damaged = false, false
	switch {
	case r.snap.Delta && f.published != nil && r.since == f.rev:
		for _, it := range r.snap.Items {
			f.published[it.ID()] = it
		}
	case r.snap.Delta:
		m.wantLoad = true // that was for another purpose
		return
	default:
		f.published = make(map[store.ID]store.Item, len(r.snap.Items))
		for _, it := range r.snap.Items {
			f.published[it.ID()] = it
		}
	}
	m.there.set(r.snap.Items, r.snap.Delta)
	f.rev, f.compared = r.snap.Rev, false
	m.rev, m.loaded, m.stale = r.snap.Rev, true, false
	if m.failures == 0 || !f.toPin() {
		m.failures, m.bad, m.retryAt = 0, nil, time.Time{}
	}
	switch {
	case !r.control.Frozen:
		m.thaw(r.control)
	case !sameWord(f.control, r.control):
		m.frozenBy(r.control)
	}
	m.opened(true)
}

// toPin reports whether a revision is to be published that was not yet.
func (f *freeze) toPin() bool { return f.control.Pinned != 0 && !sameWord(f.pinned, f.control) }

// thaw goes back to making the store equal to what is held, of which everything
// that the store has otherwise is written at once.
func (m *manager) thaw(c store.Control) {
	differs := m.differs()
	m.freeze = freeze{}
	m.syncer.cfg.Logger.Warn("publication is no longer frozen", "env", m.syncer.env, "by", c.By, "reason", c.Reason)
	m.conflicts = 0
	switch {
	case !m.synced && !m.adopted:
		// Nothing newer is known than what the store has.
		m.loaded, m.rev, m.wantLoad = false, "", true
	case differs:
		m.full, m.base, m.baseKnown, m.force = true, m.rev, true, false
	default:
		m.full, m.force = false, false
		clear(m.dirty)
		m.accepted()
	}
	m.showFreeze()
}

// frozenWrite returns the next write that is due in spite of the freeze.
func (m *manager) frozenWrite() (job, bool) {
	f := &m.freeze
	if time.Now().Before(m.retryAt) {
		return job{}, false
	}
	base := condition(f.rev)
	if f.damaged {
		base = ""
	}
	switch {
	case f.restore && f.published != nil:
		items := make([]store.Item, 0, len(f.published))
		for _, it := range f.published {
			items = append(items, it)
		}
		if !f.damaged {
			base = store.Uncommitted
		}
		c := f.control
		return job{rewrite: &c, change: store.Change{Full: true, Base: base, Items: sorted(items), Override: true}}, true
	case f.toPin() && (f.published != nil || f.damaged):
		return job{pin: f.control.Pinned, change: store.Change{Full: true, Base: base, Override: true}}, true
	}
	return job{}, false
}

// republished takes the outcome of such a write.
func (m *manager) republished(r result) {
	f := &m.freeze
	m.wantLoad = true
	switch {
	case r.lost:
		// Trying again does not bring it back.
		f.pinned = f.control
		m.syncer.cfg.Logger.Error("the revision to publish is not there; the store keeps what it has", "env", m.syncer.env, "error", r.err)
		return
	case errors.Is(r.err, store.ErrDamaged):
		f.damaged, f.rev = true, "" // what was published is still what belongs there
		m.fail(r.err)
		return
	case errors.Is(r.err, store.ErrConflict):
		f.restore, f.rev, f.published = false, "", nil // others were faster
		return
	case r.err != nil:
		m.fail(r.err)
		return
	}
	m.failures, m.bad, m.retryAt = 0, nil, time.Time{}
	before := f.rev
	if r.pin != 0 {
		f.pinned = f.control
	}
	f.restore, f.damaged, f.rev, f.published = false, false, "", nil // to be looked at
	m.rev = r.rev
	if r.rev != before {
		m.note(before, r)
	}
}

// differs reports whether what is held is not what is published.
func (m *manager) differs() bool {
	f := &m.freeze
	switch {
	case f.published == nil || !m.synced && !m.adopted:
		return true
	case f.compared:
		return f.differs
	}
	f.compared, f.differs = true, len(f.published) != len(m.held)
	for id, it := range f.published {
		if f.differs {
			break
		}
		held, ok := m.held[id]
		f.differs = !ok || held.Version != it.Version || held.Archived != it.Archived
	}
	return f.differs
}
