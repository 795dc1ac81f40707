package syncer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/flagstead/flagstead/store"
)

// What follows is the manager's side towards the store; manager.go has the one
// towards the link.

// A job is one call of the store: a Load, of what a full state has to be worked
// out again on if rebase is set, or an Apply.
type job struct {
	load   bool
	rebase bool
	since  store.Rev
	change store.Change
	gen    int // fullGen when the change was worked out

	// In spite of a freeze the change is applied, after the control was written, if
	// that is set; with the items of revision pin, if that is.
	rewrite *store.Control
	pin     uint64
}

// frozen reports whether j writes in spite of a freeze.
func (j job) frozen() bool { return j.change.Override }

type result struct {
	job
	snap    store.Snapshot
	control store.Control // that a load found
	lost    bool          // revision pin is not there
	rev     store.Rev
	err     error
}

// work makes the calls of the store.
func (m *manager) work(ctx context.Context) {
	st := m.syncer.cfg.Store
	for j := range m.jobs {
		callCtx, cancel := context.WithTimeout(ctx, m.syncer.cfg.StoreTimeout)
		r := result{job: j}
		switch {
		case j.load:
			if r.control, r.err = readControl(callCtx, st); r.err == nil {
				r.snap, r.err = st.Load(callCtx, j.since)
			}
		case j.frozen():
			r = m.republish(callCtx, j)
		default:
			r.rev, r.err = st.Apply(callCtx, j.change)
		}
		cancel()
		m.results <- r
	}
}

// step starts the next call of the store, if there is one to make.
func (m *manager) step() {
	m.report()
	if m.busy {
		return
	}
	if m.freeze.on {
		if j, ok := m.frozenWrite(); ok {
			m.start(j)
		} else if m.wantLoad {
			m.start(m.loading(m.freeze.rev))
		}
		return
	}
	if j, ok := m.write(); ok {
		m.start(j)
	} else if m.wantLoad {
		m.start(m.loading(m.rev))
	}
}

func (m *manager) start(j job) {
	if j.load {
		m.wantLoad = false
	}
	m.busy = true
	m.jobs <- j
}

func (m *manager) loading(since store.Rev) job { return job{load: true, since: since} }

// write returns the next call on the way to a store that lacks nothing.
func (m *manager) write() (job, bool) {
	if !m.full && len(m.dirty) == 0 || time.Now().Before(m.retryAt) {
		return job{}, false
	}
	switch {
	case m.force && (m.full || m.synced):
		if m.refused() {
			return job{}, false
		}
		return job{change: store.Change{Full: true, Items: m.items()}, gen: m.fullGen}, true
	case m.full && !m.baseKnown:
		return job{load: true, rebase: true, since: m.base}, true
	case !m.full && (m.stale || !m.loaded):
		return m.loading(m.rev), true
	case !m.full && m.rev == "" && !m.synced:
		// One push on an empty store would look like a whole state.
		return job{}, false
	case !m.full && m.rev == "":
		m.full, m.base, m.baseKnown = true, "", true
	}
	if m.full && m.base == "" && !m.mayFill() {
		return job{}, false
	}
	if m.full {
		if m.base == m.rev && m.refused() {
			return job{}, false
		}
		return job{change: store.Change{Full: true, Base: condition(m.base), Items: m.items()}, gen: m.fullGen}, true
	}
	items := make([]store.Item, 0, len(m.dirty))
	for id := range m.dirty {
		items = append(items, m.held[id])
	}
	return job{change: store.Change{Base: condition(m.rev), Items: sorted(items)}}, true
}

// mayFill reports whether what is held may fill an empty store. Others may have
// had newer flags in it before it was flushed, and a process that was paused holds
// old ones, so FeatBit is asked first; but not waited for very long.
func (m *manager) mayFill() bool {
	if m.forEmpty || !m.synced || !m.connected() {
		return true
	}
	if m.fillBy.IsZero() {
		m.fillBy = time.Now().Add(fillPatience)
		m.retry.Reset(fillPatience)
		m.asking = true
		m.opened(true)
	}
	return !time.Now().Before(m.fillBy)
}

// connected reports whether there is a connection that FeatBit can answer on.
func (m *manager) connected() bool {
	m.syncer.mu.Lock()
	defer m.syncer.mu.Unlock()
	return m.connection > m.syncer.health.lost
}

// condition returns the Base that stands for rev.
func condition(rev store.Rev) store.Rev { return cmp.Or(rev, store.Uncommitted) }

// done takes the outcome of a call.
func (m *manager) done(r result) {
	if r.load && r.control.Frozen && !m.freeze.on {
		m.freezes(r.control)
	}
	switch {
	case r.frozen() && !r.load:
		m.republished(r)
	case m.freeze.on && r.load && r.err == nil:
		m.watchFrozen(r)
	case errors.Is(r.err, store.ErrFrozen):
		// It is since a moment. The next load says more.
		m.lookAgain(r)
		m.freezes(store.Control{Frozen: true})
	case errors.Is(r.err, store.ErrDamaged):
		m.damaged(r)
	case r.load && r.err != nil:
		m.bad = r.err
		m.opened(false)
		if m.full && !m.baseKnown || m.stale {
			m.fail(r.err)
		}
	case r.rebase && m.full && !m.baseKnown:
		m.rebase(r.snap)
		m.opened(false)
	case r.load:
		m.compare(r.snap)
		m.opened(true)
	case r.err == nil:
		m.wrote(r)
	case errors.Is(r.err, store.ErrConflict):
		// Others were faster. What they wrote is looked at first.
		m.lookAgain(r)
		if m.conflicts++; m.conflicts >= maxConflicts {
			m.conflicts = 0
			m.fail(fmt.Errorf("other writers were faster %d times: %w", maxConflicts, r.err))
		}
	default:
		// The outcome is unknown, and so is where the store stands.
		m.lookAgain(r)
		m.fail(r.err)
	}
}

func (m *manager) lookAgain(r result) {
	m.stale = true
	if r.change.Full {
		m.baseKnown = false
	}
}

func (m *manager) fail(err error) {
	m.failures++
	m.bad = err
	pause := store.Backoff(m.failures, 50*time.Millisecond, 5*time.Second)
	m.retryAt = time.Now().Add(pause)
	m.retry.Reset(pause)
}

// damaged sees to it that a whole state replaces what cannot be read.
func (m *manager) damaged(r result) {
	if m.freeze.on && r.load { // the operator's word was read all the same
		switch c := r.control; {
		case c.Frozen && !sameWord(m.freeze.control, c):
			m.frozenBy(c)
		case !c.Frozen && (!c.At.IsZero() || len(m.freeze.published) == 0):
			// To put back what was published would bring the freeze back with it.
			m.freeze.published, m.freeze.compared = nil, false // what is held takes its place
			m.thaw(c)
		}
	}
	if m.freeze.on {
		// What was published is put there again, if it is known.
		m.freeze.damaged, m.freeze.restore = true, len(m.freeze.published) > 0
		m.bad = r.err
		m.opened(false)
		return
	}
	if !m.force {
		m.syncer.update(func(st *Status, _ *health) { st.Heals++ })
		m.syncer.cfg.Logger.Warn("the store's content is damaged", "env", m.syncer.env, "error", r.err)
	}
	m.force, m.rev, m.stale = true, "", false
	m.full = m.full || m.synced
	m.bad = r.err
	if !r.load && r.change.Full && r.change.Base == "" {
		m.fail(r.err) // not even a full state without conditions mends it
	}
	m.opened(false)
}

// wrote notes what the store has from now on.
func (m *manager) wrote(r result) {
	if before := m.rev; r.rev != before {
		if r.change.Full {
			before = m.base
		}
		if r.rev != before {
			m.note(before, r)
		}
	}
	if r.change.Full && r.gen == m.fullGen {
		m.full, m.force = false, false
		m.accepted()
		defer func() {
			m.report()
			signal(m.syncer.beats) // a store that was flushed has none
		}()
	} else if r.change.Full && m.unjudged {
		// A newer full state came meanwhile. If that is refused, this one stands.
		held := make(map[store.ID]store.Item, len(r.change.Items))
		for _, it := range r.change.Items {
			held[it.ID()] = it
		}
		dirty := map[store.ID]struct{}{} // pushed before that newer one
		for id := range m.before.dirty {
			if it := m.before.held[id]; it.Version > held[id].Version {
				held[id], dirty[id] = it, struct{}{}
			}
		}
		m.before.held, m.before.dirty, m.before.synced = held, dirty, true
	}
	m.there.set(r.change.Items, !r.change.Full)
	m.askedEmpty, m.forEmpty, m.fillBy = false, false, time.Time{}
	for _, it := range r.change.Items {
		if m.held[it.ID()].Version == it.Version {
			delete(m.dirty, it.ID())
		}
	}
	// Nobody else committed between the Base and this.
	if r.change.Full || m.base == m.rev {
		m.base = r.rev
	}
	m.rev, m.loaded, m.stale = r.rev, true, false
	m.failures, m.conflicts, m.bad = 0, 0, nil
	m.retryAt = time.Time{}
}

// report makes known whether the store works and, when all that was received is
// in it, which connection that came on.
func (m *manager) report() {
	m.syncer.mu.Lock()
	was := m.syncer.health
	m.syncer.mu.Unlock()
	live, pending := was.live, m.full || len(m.dirty) > 0
	if m.freeze.on {
		pending = m.differs()
	}
	if m.bad == nil && (!pending || m.freeze.on) {
		live = m.latest
	}
	err := m.bad
	if err != nil {
		err = fmt.Errorf("store: %w", err)
	}
	guardErr := was.guardErr // refuse sets it
	if m.doubt == nil {
		guardErr = nil
	}
	if live == was.live && pending == was.pending && text(err) == text(was.storeErr) && text(guardErr) == text(was.guardErr) {
		return // the usual case, once per turn of the loop
	}
	m.syncer.update(func(_ *Status, h *health) {
		h.live, h.pending, h.storeErr, h.guardErr = live, pending, err, guardErr
	})
}

// rebase works a full state out again on what the store holds now. Another
// syncer of the same environment wrote that, so what is newer than the full
// state is true as well.
func (m *manager) rebase(snap store.Snapshot) {
	for _, it := range snap.Items {
		old, ok := m.held[it.ID()]
		if ok && it.Version > old.Version || !ok && it.Version > m.fullMax {
			m.held[it.ID()] = it
		}
	}
	m.base, m.baseKnown = snap.Rev, true
	m.rev, m.loaded, m.stale = snap.Rev, true, false
	m.there.set(snap.Items, snap.Delta)
	if snap.Rev == "" {
		m.forEmpty = false // it was filled, and flushed again
	}
}

// compare looks at what others did to the store. What is newer there is taken
// over; what is lost there is written again.
func (m *manager) compare(snap store.Snapshot) {
	m.stale = false
	if known := m.loaded && !m.force && snap.Rev == m.rev; !known {
		first := !m.loaded
		m.rev, m.loaded = snap.Rev, true
		m.adopted = m.adopted || snap.Rev != ""
		m.there.set(snap.Items, snap.Delta)
		if m.force {
			// Somebody else mended it. What that one wrote counts.
			m.force, m.baseKnown, m.base = false, false, ""
		}
		// A full state is written anyway, on a base of its own.
		if !m.full {
			if lost := m.adopt(snap); len(lost) > 0 && !first {
				m.heal(snap, lost)
			}
		}
	}
	// Only a write shows that a store which refused the last one is well, unless
	// the store turned out to have it.
	if m.failures == 0 || !m.full && len(m.dirty) == 0 {
		m.failures, m.bad, m.retryAt = 0, nil, time.Time{}
	}
}

// adopt takes over what is newer in snap and returns what snap lacks or has in
// an older version, apart from what is about to be written anyway.
func (m *manager) adopt(snap store.Snapshot) (lost []store.ID) {
	there := make(map[store.ID]int64, len(snap.Items))
	for _, it := range snap.Items {
		id := it.ID()
		if old, ok := m.held[id]; !ok || it.Version > old.Version {
			m.held[id] = it
		}
		if it.Version >= m.held[id].Version {
			delete(m.dirty, id) // somebody else has written it
		}
		there[id] = it.Version
	}
	for id, it := range m.held {
		if _, ok := m.dirty[id]; ok && snap.Rev != "" {
			continue
		}
		version, ok := there[id]
		if ok && version < it.Version || !ok && !snap.Delta {
			lost = append(lost, id)
		}
	}
	return lost
}

// heal sees to it that a store gets back what it lost.
func (m *manager) heal(snap store.Snapshot, lost []store.ID) {
	m.syncer.update(func(st *Status, _ *health) { st.Heals++ })
	m.syncer.cfg.Logger.Warn("the store lacks content", "env", m.syncer.env, "items", len(lost))
	switch {
	case snap.Rev == "":
		m.full, m.base, m.baseKnown = true, "", true
	case m.syncer.linkUp():
		// Content was damaged or replaced, or another syncer was told of a
		// deletion first. FeatBit knows which.
		m.asking = true
		m.opened(true)
	default:
		m.writeBack(snap, lost)
	}
}

// writeBack writes once what the store lost while FeatBit is away. If somebody
// takes it away again, that is a syncer that does hear FeatBit, and right.
func (m *manager) writeBack(snap store.Snapshot, lost []store.ID) {
	there := make(map[store.ID]store.Item, len(snap.Items))
	for _, it := range snap.Items {
		there[it.ID()] = it
	}
	for _, id := range lost {
		if version, ok := m.healed[id]; !ok || version != m.held[id].Version {
			m.healed[id] = m.held[id].Version
			m.dirty[id] = struct{}{}
			continue
		}
		if it, ok := there[id]; ok {
			m.held[id] = it
		} else {
			delete(m.held, id)
		}
	}
}

func (m *manager) items() []store.Item {
	items := make([]store.Item, 0, len(m.held))
	for _, it := range m.held {
		items = append(items, it)
	}
	return sorted(items)
}

// sorted orders items by version, so that what is written does not depend on
// the order of a map.
func sorted(items []store.Item) []store.Item {
	slices.SortFunc(items, func(a, b store.Item) int {
		return cmp.Or(cmp.Compare(a.Version, b.Version), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key, b.Key))
	})
	return items
}
