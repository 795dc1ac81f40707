package syncer

import (
	"context"
	"math/rand/v2"
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

	whole  bool                    // the source gives everything whenever it is asked, and is asked in time by others
	held   map[store.ID]store.Item // the state as far as it is known
	synced bool                    // held is a whole state of FeatBit's

	// What the link is doing.
	connection uint64     // the newest one; what comes from others is too late
	opening    *beginning // waits for where the store stands
	openWhole  bool       // and must ask for everything
	openLimit  *time.Timer
	asking     bool   // everything is to be requested once that is known
	again      bool   // even if it was already, for a lost message
	wantFull   bool   // everything was requested and has not come
	latest     uint64 // connection that answers came on

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

	// An empty store is filled with what FeatBit says after it was found empty.
	askedEmpty bool      // it was when everything was asked for last
	forEmpty   bool      // and the answer is in held
	fillBy     time.Time // when that is no longer waited for; zero: not yet waited for

	rev      store.Rev // state of the store that held was last compared with
	loaded   bool      // the store was read at least once
	stale    bool      // rev is not what the store is at
	wantLoad bool      // it is time to compare again

	adopted  bool      // held has at least what the store had when it was not frozen
	freeze   freeze    // of the store, by an operator
	recorder *recorder // of revisions; nil: none are kept

	healed map[store.ID]int64 // versions written back while FeatBit was away

	// What the guard decides by, see guard.go.
	there    stock       // the store's content at rev
	unjudged bool        // a full state of FeatBit's is in held, but not in the store
	before   before      // what that replaced
	doubt    *doubt      // the full state that was refused last
	doubts   int         // how often one was refused since the last that was not
	doubtful *time.Timer // when to ask for it again
	accept   bool        // take the next one as it is

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
		there:    stock{flags: map[store.ID]struct{}{}},
		recorder: newRecorder(s),
	}
}

// begin is called by the source before it asks for data on a new connection, or
// again on this one, and returns the cursor to ask with: 0 for everything.
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

	// fillPatience is how long FeatBit is waited for before an empty store is
	// filled with what is held.
	fillPatience = time.Second

	// maxConflicts is after how many faster writers in a row a pause is made.
	maxConflicts = 10
)

func (m *manager) run(ctx context.Context) {
	cfg := &m.syncer.cfg
	check := time.NewTicker(cfg.Check)
	defer check.Stop()
	reconcile := time.NewTimer(m.reconcileIn())
	defer reconcile.Stop()
	if m.whole {
		reconcile.Stop()
	}
	m.retry = time.NewTimer(time.Hour)
	defer m.retry.Stop()
	m.openLimit = time.NewTimer(time.Hour)
	defer m.openLimit.Stop()
	m.doubtful = time.NewTimer(time.Hour)
	m.doubtful.Stop()
	defer m.doubtful.Stop()

	lost := newSuspicion(cfg.suspectEvery)
	defer lost.timer.Stop()

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
			fresh := b.connection != m.connection
			m.open(b)
			if fresh && m.synced && !m.whole {
				// The cursor catches up quickly; what it cannot see (deletions,
				// late commits) is found by asking for everything soon after.
				reconcile.Reset(rand.N(min(cfg.Reconcile, 30*time.Second)))
			}
		case d := <-m.received:
			m.take(d)
			m.drain()
		case <-m.suspects:
			lost.arise()
		case <-lost.timer.C:
			lost.acted()
			m.asking, m.again, m.wantLoad = true, true, true
		case <-reconcile.C:
			m.asking, m.wantLoad = true, true
			reconcile.Reset(m.reconcileIn())
		case <-m.doubtful.C:
			m.asking, m.wantLoad = true, true
		case <-m.syncer.reconciles:
			m.asking, m.wantLoad = true, true
		case <-m.syncer.accepts:
			m.accept = true
			if m.doubt != nil {
				m.asking, m.wantLoad = true, true
			}
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

func (m *manager) cursor() int64 {
	if !m.synced || m.whole {
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
	// A question that is not answered yet must not get lost by another one.
	m.openWhole = b.connection == m.connection && (m.asking || m.wantFull)
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
		if m.openWhole {
			cursor = 0
		}
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
	m.askedEmpty = known && m.loaded && m.rev == ""
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
	m.freeze.compared = false
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
	if m.unjudged {
		if old, ok := m.before.pushed[id]; !ok || old.Version < it.Version {
			m.before.pushed[id] = it
		}
	}
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
	if !m.unjudged {
		m.unjudged, m.before = true, before{m.held, m.dirty, m.synced, map[store.ID]store.Item{}}
	}
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
	m.dirty = map[store.ID]struct{}{} // the full state has them
	clear(m.healed)
	m.synced, m.full, m.forEmpty = true, true, m.askedEmpty
	m.fullGen++
}
