package syncer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
)

// A manager holds the newest state of the environment and makes the store equal
// to it. One goroutine owns it; the link talks to it through channels.
type manager struct {
	syncer *Syncer

	begins   chan chan int64
	received chan delivery
	resync   chan struct{} // asks the link to request everything
	answered chan struct{} // tells the link that data arrived

	held   map[store.ID]store.Item // the state as far as it is known
	synced bool                    // a full state arrived in this process

	// What the store lacks.
	full  bool                  // everything in held, replacing all else
	dirty map[store.ID]struct{} // or these

	// A full state is committed on the revision that the store had when it was
	// asked for. Pushes that arrived in between are newer than it.
	base      store.Rev
	baseKnown bool
	pushed    map[store.ID]store.Item
	fullMax   int64 // newest version in the last full state

	rev    store.Rev // state of the store that held was last compared with
	loaded bool      // the store was read at least once

	latest   uint64 // connection that the newest data came on
	failures int    // writes that failed in a row
	bad      error  // why the store could not be read or written last
}

// A delivery is a message and the number of the connection it came on.
type delivery struct {
	doc        wire.DataSync
	connection uint64
}

func newManager(s *Syncer) *manager {
	return &manager{
		syncer:   s,
		begins:   make(chan chan int64),
		received: make(chan delivery, 16),
		resync:   make(chan struct{}, 1),
		answered: make(chan struct{}, 1),
		held:     map[store.ID]store.Item{},
		dirty:    map[store.ID]struct{}{},
		pushed:   map[store.ID]store.Item{},
	}
}

// begin is called by the link before it asks for data on a new connection and
// returns the cursor to ask with: 0 for everything.
func (m *manager) begin(ctx context.Context) (int64, error) {
	answer := make(chan int64, 1)
	select {
	case m.begins <- answer:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	select {
	case cursor := <-answer:
		return cursor, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// receive hands over what arrived.
func (m *manager) receive(ctx context.Context, d delivery) error {
	select {
	case m.received <- d:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *manager) run(ctx context.Context) {
	cfg := &m.syncer.cfg
	check := time.NewTicker(cfg.Check)
	defer check.Stop()
	reconcile := time.NewTimer(m.reconcileIn())
	defer reconcile.Stop()
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()

	m.compare(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case answer := <-m.begins:
			m.open(ctx)
			answer <- m.cursor()
			if m.synced {
				// The cursor catches up quickly; what it cannot see (deletions,
				// late commits) is found by asking for everything soon after.
				reconcile.Reset(rand.N(min(cfg.Reconcile, 30*time.Second)))
			}
		case d := <-m.received:
			m.take(d)
		case <-reconcile.C:
			m.requestFull(ctx)
			reconcile.Reset(m.reconcileIn())
		case <-check.C:
			m.compare(ctx)
		case <-retry.C:
		}
		if err := m.flush(ctx); err != nil && ctx.Err() == nil {
			m.failures++
			m.bad = err
			m.storeState()
			retry.Reset(store.Backoff(m.failures, 50*time.Millisecond, 5*time.Second))
		}
	}
}

func (m *manager) reconcileIn() time.Duration {
	d := m.syncer.cfg.Reconcile
	return d - d/20 + rand.N(d/10+1)
}

func (m *manager) cursor() int64 {
	if !m.synced {
		return 0
	}
	newest := int64(0)
	for _, it := range m.held {
		newest = max(newest, it.Version)
	}
	return newest
}

// open notes where the store stands before a full state is asked for.
func (m *manager) open(ctx context.Context) {
	clear(m.pushed)
	m.baseKnown = m.compare(ctx)
	m.base = m.rev
}

// requestFull asks the link, if there is one, for everything.
func (m *manager) requestFull(ctx context.Context) {
	m.open(ctx)
	m.ask()
}

func (m *manager) ask() {
	select {
	case m.resync <- struct{}{}:
	default:
	}
}

// take merges what arrived into held.
func (m *manager) take(d delivery) {
	m.latest = d.connection
	select {
	case m.answered <- struct{}{}:
	default:
	}
	full := d.doc.EventType == wire.Full
	if full {
		m.takeFull(d.doc.Items)
	} else {
		for _, it := range d.doc.Items {
			m.takePush(it)
		}
		if !m.synced {
			// A server that answers a request for everything with a patch. An
			// empty one must still make the store a committed one.
			m.synced, m.full = true, m.full || len(m.held) == 0
		}
	}
	m.syncer.update(func(st *Status, _ *health) {
		st.Confirmed = time.Now()
		switch {
		case full:
			st.Fulls++
		case len(d.doc.Items) > 0:
			st.Patches++
		}
	})
}

func (m *manager) takePush(it store.Item) {
	id := it.ID()
	if old, ok := m.held[id]; ok && old.Version >= it.Version {
		return
	}
	m.held[id] = it
	m.dirty[id] = struct{}{}
	m.pushed[id] = it
}

// takeFull replaces held by items and the newer ones that were pushed since the
// items were asked for: FeatBit reads a full state before it sends it, and a
// push may overtake it.
func (m *manager) takeFull(items []store.Item) {
	m.fullMax = 0
	m.held = make(map[store.ID]store.Item, len(items))
	for _, it := range items {
		m.fullMax = max(m.fullMax, it.Version)
		if old, ok := m.held[it.ID()]; !ok || it.Version >= old.Version {
			m.held[it.ID()] = it
		}
	}
	for id, it := range m.pushed {
		if old, ok := m.held[id]; !ok || it.Version > old.Version {
			m.held[id] = it
		}
	}
	clear(m.pushed)
	m.synced, m.full = true, true
}

// flush writes what the store lacks.
func (m *manager) flush(ctx context.Context) error {
	if m.full || len(m.dirty) > 0 {
		write := m.flushDirty
		if m.full {
			write = m.flushFull
		}
		if err := write(ctx); err != nil {
			return err
		}
		m.failures, m.bad = 0, nil
	}
	m.storeState()
	return nil
}

// storeState makes known whether the store works and, if it does, that what was
// received so far is in it.
func (m *manager) storeState() {
	m.syncer.mu.Lock()
	h := m.syncer.health
	m.syncer.mu.Unlock()
	if m.bad == nil && h.storeErr == nil && h.live == m.latest {
		return // the usual case, once per turn of the loop
	}
	m.syncer.update(func(_ *Status, h *health) {
		if m.bad == nil {
			h.storeErr, h.live = nil, m.latest
			return
		}
		// The same trouble as before is no news.
		if err := fmt.Errorf("store: %w", m.bad); h.storeErr == nil || h.storeErr.Error() != err.Error() {
			h.storeErr = err
		}
	})
}

func (m *manager) call(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, m.syncer.cfg.StoreTimeout)
}

func (m *manager) flushDirty(ctx context.Context) error {
	ctx, cancel := m.call(ctx)
	defer cancel()
	items := make([]store.Item, 0, len(m.dirty))
	for id := range m.dirty {
		if it, ok := m.held[id]; ok {
			items = append(items, it)
		}
	}
	// m.rev stays: others may have committed too, and the next compare must see
	// what they wrote.
	if _, err := m.syncer.cfg.Store.Apply(ctx, store.Change{Items: sorted(items)}); err != nil {
		return err
	}
	clear(m.dirty)
	return nil
}

// maxConflicts bounds how often a full state is worked out again in one go.
const maxConflicts = 10

func (m *manager) flushFull(ctx context.Context) error {
	if !m.baseKnown {
		if err := m.rebase(ctx); err != nil {
			return err
		}
	}
	for range maxConflicts {
		callCtx, cancel := m.call(ctx)
		rev, err := m.syncer.cfg.Store.Apply(callCtx, store.Change{Full: true, Base: m.base, Items: m.items()})
		cancel()
		if err == nil {
			m.rev, m.base, m.full, m.loaded = rev, rev, false, true
			clear(m.dirty)
			return nil
		}
		if !errors.Is(err, store.ErrConflict) {
			// The outcome is unknown, and so is where the store stands.
			m.baseKnown = false
			return err
		}
		if err := m.rebase(ctx); err != nil {
			return err
		}
	}
	return fmt.Errorf("other writers were faster %d times: %w", maxConflicts, store.ErrConflict)
}

// rebase works a full state out again on what the store holds now. Another
// syncer of the same environment wrote that, so what is newer than the full
// state is true as well.
func (m *manager) rebase(ctx context.Context) error {
	snap, err := m.load(ctx, m.base)
	if err != nil {
		m.baseKnown = false
		return err
	}
	for _, it := range snap.Items {
		old, ok := m.held[it.ID()]
		if ok && it.Version > old.Version || !ok && it.Version > m.fullMax {
			m.held[it.ID()] = it
		}
	}
	m.base, m.baseKnown = snap.Rev, true
	return nil
}

func (m *manager) load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	ctx, cancel := m.call(ctx)
	defer cancel()
	return m.syncer.cfg.Store.Load(ctx, since)
}

// compare looks at what others did to the store, and reports whether the store
// could be read. What is newer there is taken over; what is lost there is
// written again.
func (m *manager) compare(ctx context.Context) bool {
	snap, err := m.load(ctx, m.rev)
	if err != nil {
		m.bad = err
		return false
	}
	if m.failures == 0 {
		m.bad = nil
	}
	if m.loaded && snap.Rev == m.rev {
		return true
	}
	first := !m.loaded
	m.rev, m.loaded = snap.Rev, true
	if m.full {
		return true // everything will be written anyway, on a base of its own
	}
	if lost := m.adopt(snap); len(lost) > 0 && !first {
		m.heal(snap.Rev, lost)
	}
	return true
}

// adopt takes over what is newer in snap and returns what snap lacks or has in
// an older version.
func (m *manager) adopt(snap store.Snapshot) (lost []store.ID) {
	there := make(map[store.ID]int64, len(snap.Items))
	for _, it := range snap.Items {
		if old, ok := m.held[it.ID()]; !ok || it.Version > old.Version {
			m.held[it.ID()] = it
		}
		there[it.ID()] = it.Version
	}
	for id, it := range m.held {
		version, ok := there[id]
		if ok && version < it.Version || !ok && !snap.Delta {
			lost = append(lost, id)
		}
	}
	return lost
}

// heal sees to it that a store gets back what it lost.
func (m *manager) heal(rev store.Rev, lost []store.ID) {
	m.syncer.update(func(st *Status, _ *health) { st.Heals++ })
	m.syncer.cfg.Logger.Warn("the store lacks content", "env", m.syncer.env, "items", len(lost))
	switch {
	case rev == "":
		m.full, m.base, m.baseKnown = true, "", true
	case m.syncer.linkUp():
		// Content was damaged or replaced, or another syncer was told of a
		// deletion first. FeatBit knows which.
		m.base, m.baseKnown = rev, true
		clear(m.pushed)
		m.ask()
	default:
		// If it was a deletion after all, this brings back what FeatBit had
		// archived before, and the next full state removes it again.
		for _, id := range lost {
			m.dirty[id] = struct{}{}
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
