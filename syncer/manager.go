package syncer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
)

// A manager holds the newest state of the environment and makes the store equal
// to it. One goroutine owns it; the link talks to it through channels, and a
// second goroutine makes the calls of the store, one at a time, so that a store
// that hangs keeps nobody from receiving.
type manager struct {
	syncer *Syncer

	begins   chan beginning
	received chan delivery
	suspects chan struct{} // the link lost a message
	resync   chan struct{} // asks the link to request everything
	answered chan struct{} // tells the link that its request was answered

	jobs    chan job
	results chan result
	busy    bool // a job is under way

	held   map[store.ID]store.Item // the state as far as it is known
	synced bool                    // held is a whole state of FeatBit's

	// What the link is doing.
	connection uint64     // the newest one; what comes from others is too late
	opening    *beginning // waits for where the store stands
	openLimit  *time.Timer
	asking     bool      // everything is to be requested once that is known
	again      bool      // even if it was already, for a lost message
	wantFull   bool      // everything was requested and has not come
	suspected  time.Time // when a lost message last made it so
	latest     uint64    // connection that answers came on

	// What the store lacks.
	full    bool                  // everything in held, replacing all else
	fullGen int                   // counts the full states that were received
	dirty   map[store.ID]struct{} // or these

	// A full state is committed on the revision that the store had when it was
	// asked for. Pushes that arrived in between are newer than it.
	base      store.Rev
	baseKnown bool
	force     bool // the store's content is damaged: commit on whatever is there
	pushed    map[store.ID]store.Item
	fullMax   int64 // newest version in the last full state

	rev      store.Rev // state of the store that held was last compared with
	loaded   bool      // the store was read at least once
	stale    bool      // rev is not what the store is at
	wantLoad bool      // it is time to compare again

	healed map[store.ID]int64 // versions written back while FeatBit was away

	retry     *time.Timer
	retryAt   time.Time // no writes before
	failures  int       // writes that failed in a row
	conflicts int       // writes in a row for which others were faster
	bad       error     // why the store could not be read or written last
}

// A delivery is a message and the number of the connection it came on.
type delivery struct {
	doc        wire.DataSync
	connection uint64
}

// A beginning is a connection that wants to know what to ask for.
type beginning struct {
	connection uint64
	cursor     chan<- int64 // capacity 1
}

// A job is one call of the store: a Load, of what a full state has to be worked
// out again on if rebase is set, or an Apply.
type job struct {
	load   bool
	rebase bool
	since  store.Rev
	change store.Change
	gen    int // fullGen when the change was worked out
}

type result struct {
	job
	snap store.Snapshot
	rev  store.Rev
	err  error
}

func newManager(s *Syncer) *manager {
	return &manager{
		syncer:   s,
		begins:   make(chan beginning),
		received: make(chan delivery, 16),
		suspects: make(chan struct{}, 1),
		resync:   make(chan struct{}, 1),
		answered: make(chan struct{}, 1),
		jobs:     make(chan job),
		results:  make(chan result, 1),
		held:     map[store.ID]store.Item{},
		dirty:    map[store.ID]struct{}{},
		pushed:   map[store.ID]store.Item{},
		healed:   map[store.ID]int64{},
	}
}

// begin is called by the link before it asks for data on a new connection and
// returns the cursor to ask with: 0 for everything.
func (m *manager) begin(ctx context.Context, connection uint64) (int64, error) {
	answer := make(chan int64, 1)
	select {
	case m.begins <- beginning{connection, answer}:
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

// suspect says that a message was lost that may have held data.
func (m *manager) suspect() { signal(m.suspects) }

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func unsignal(c <-chan struct{}) {
	select {
	case <-c:
	default:
	}
}

const (
	// openPatience is how long a new connection waits for where the store
	// stands before it asks for data all the same.
	openPatience = time.Second

	// suspectEvery is the time between two requests for everything because of
	// messages that could not be read.
	suspectEvery = 30 * time.Second

	// maxConflicts is after how many faster writers in a row a pause is made.
	maxConflicts = 10
)

func (m *manager) run(ctx context.Context) {
	cfg := &m.syncer.cfg
	check := time.NewTicker(cfg.Check)
	defer check.Stop()
	reconcile := time.NewTimer(m.reconcileIn())
	defer reconcile.Stop()
	m.retry = time.NewTimer(time.Hour)
	defer m.retry.Stop()
	m.openLimit = time.NewTimer(time.Hour)
	defer m.openLimit.Stop()

	var worker sync.WaitGroup
	worker.Go(func() { m.work(ctx) })
	defer worker.Wait()
	defer close(m.jobs)

	m.wantLoad = true
	for {
		m.step()
		select {
		case <-ctx.Done():
			return
		case b := <-m.begins:
			m.open(b)
			if m.synced {
				// The cursor catches up quickly; what it cannot see (deletions,
				// late commits) is found by asking for everything soon after.
				reconcile.Reset(rand.N(min(cfg.Reconcile, 30*time.Second)))
			}
		case d := <-m.received:
			m.take(d)
			m.drain()
		case <-m.suspects:
			if time.Since(m.suspected) > suspectEvery {
				m.suspected = time.Now()
				m.asking, m.again, m.wantLoad = true, true, true
			}
		case <-reconcile.C:
			m.asking, m.wantLoad = true, true
			reconcile.Reset(m.reconcileIn())
		case <-check.C:
			m.wantLoad = true
		case r := <-m.results:
			m.busy = false
			m.done(r)
		case <-m.openLimit.C:
			m.opened(false)
		case <-m.retry.C:
		}
	}
}

func (m *manager) reconcileIn() time.Duration {
	d := m.syncer.cfg.Reconcile
	return d - d/20 + rand.N(d/10+1)
}

// work makes the calls of the store.
func (m *manager) work(ctx context.Context) {
	st := m.syncer.cfg.Store
	for j := range m.jobs {
		callCtx, cancel := context.WithTimeout(ctx, m.syncer.cfg.StoreTimeout)
		r := result{job: j}
		if j.load {
			r.snap, r.err = st.Load(callCtx, j.since)
		} else {
			r.rev, r.err = st.Apply(callCtx, j.change)
		}
		cancel()
		m.results <- r
	}
}

// drain takes what else has arrived, so that one write serves all of it.
func (m *manager) drain() {
	for {
		select {
		case d := <-m.received:
			m.take(d)
		default:
			return
		}
	}
}

// step starts the next call of the store, if there is one to make.
func (m *manager) step() {
	m.report()
	if m.busy {
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
	if m.full {
		return job{change: store.Change{Full: true, Base: condition(m.base), Items: m.items()}, gen: m.fullGen}, true
	}
	items := make([]store.Item, 0, len(m.dirty))
	for id := range m.dirty {
		items = append(items, m.held[id])
	}
	return job{change: store.Change{Base: condition(m.rev), Items: sorted(items)}}, true
}

// condition returns the Base that stands for rev.
func condition(rev store.Rev) store.Rev { return cmp.Or(rev, store.Uncommitted) }

// done takes the outcome of a call.
func (m *manager) done(r result) {
	switch {
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
	if r.change.Full && r.gen == m.fullGen {
		m.full, m.force = false, false
	}
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

// open is the begin of a new connection. It is told what to ask for once it is
// known where the store stands, see opened.
func (m *manager) open(b beginning) {
	m.connection, m.opening = b.connection, &b
	m.asking, m.again = false, false
	m.wantFull = true // what comes before the request answers nothing
	for _, old := range []chan struct{}{m.answered, m.resync, m.suspects} {
		unsignal(old) // of an earlier connection
	}
	if m.full {
		// A full state waits to be written, on a base of its own.
		m.opened(false)
		return
	}
	m.wantLoad = true
	m.openLimit.Reset(openPatience)
}

// opened lets requests go out that waited for where the store stands, which is
// rev if that is known.
func (m *manager) opened(known bool) {
	switch {
	case m.opening != nil:
		m.openLimit.Stop()
		m.rebaseOn(known)
		cursor := m.cursor()
		m.wantFull = cursor == 0
		m.opening.cursor <- cursor
		m.opening = nil
	case m.asking && !m.wantFull:
		m.rebaseOn(known)
		m.ask()
	case m.asking && m.again:
		// The lost message may have been the answer. If it was not, that is on
		// its way, and what came after the first request is newer.
		m.ask()
	default:
		m.asking = false // it is on its way, or the link loses its patience
	}
}

// rebaseOn notes where the store stands when everything is asked for.
func (m *manager) rebaseOn(known bool) {
	if !m.full {
		m.base, m.baseKnown = m.rev, known
	}
	clear(m.pushed)
}

// ask asks the link, if there is one, for everything.
func (m *manager) ask() {
	m.asking, m.again, m.wantFull = false, false, true
	unsignal(m.answered) // that was about an earlier request
	signal(m.resync)
}

// take merges what arrived into held.
func (m *manager) take(d delivery) {
	if d.connection != m.connection {
		return // the newer connection asks for what is newer than held
	}
	full := d.doc.EventType == wire.Full
	// A request for everything may get lost at FeatBit; a push that comes instead
	// must not pass for the answer. An empty patch is no push: it says that there
	// is nothing, which makes the store a committed one.
	empty := m.wantFull && m.opening == nil && !m.synced && len(m.held) == 0 && len(d.doc.Items)+len(d.doc.Skipped) == 0
	if full || empty || !m.wantFull {
		m.wantFull, m.latest = false, d.connection
		signal(m.answered)
	}
	if full || empty {
		m.takeFull(d.doc.Items)
	} else {
		for _, it := range d.doc.Items {
			m.takePush(it)
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
	clear(m.dirty) // the full state has them
	clear(m.healed)
	m.synced, m.full = true, true
	m.fullGen++
}

// report makes known whether the store works and, when all that was received is
// in it, which connection that came on.
func (m *manager) report() {
	m.syncer.mu.Lock()
	was := m.syncer.health
	m.syncer.mu.Unlock()
	live := was.live
	if m.bad == nil && !m.full && len(m.dirty) == 0 {
		live = m.latest
	}
	err := m.bad
	if err != nil {
		err = fmt.Errorf("store: %w", err)
	}
	if live == was.live && text(err) == text(was.storeErr) {
		return // the usual case, once per turn of the loop
	}
	m.syncer.update(func(_ *Status, h *health) { h.live, h.storeErr = live, err })
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
}

// compare looks at what others did to the store. What is newer there is taken
// over; what is lost there is written again.
func (m *manager) compare(snap store.Snapshot) {
	m.stale = false
	if known := m.loaded && !m.force && snap.Rev == m.rev; !known {
		first := !m.loaded
		m.rev, m.loaded = snap.Rev, true
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
