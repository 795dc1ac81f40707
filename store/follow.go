package store

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// FollowOptions tunes [Follow]. The zero value is useful.
type FollowOptions struct {
	// Interval is the longest time between two loads when nothing wakes Follow
	// earlier: what a lost wake-up costs at most. Zero means one second.
	Interval time.Duration

	// Timeout bounds one Load. Zero means 10 seconds.
	Timeout time.Duration

	// MaxBackoff caps the pause after failed loads, which starts at 50 ms and
	// doubles, with jitter. Zero means 5 seconds.
	MaxBackoff time.Duration

	// HoldBack is how long a state is held back that has an older version of
	// something than the state before: what a writer that is behind puts into a
	// store that lost its content. Others repair that within moments; meanwhile fn
	// gets [ErrHeldBack]. It applies to stores that were seen to have a heartbeat,
	// since where people write by hand, older versions are meant; and not while
	// publication is frozen, or just after, since they are meant then, too
	// ([Control]). Zero holds nothing back.
	HoldBack time.Duration

	// OnHeartbeat, if set, gets the heartbeat of a store that has such, see
	// [HeartbeatReader], or why it cannot be read: once per Interval, and when a
	// state comes from another layer than the one before. It is not called while
	// the function given to Follow is.
	OnHeartbeat func(Heartbeat, error)
}

func (o FollowOptions) withDefaults() FollowOptions {
	if o.Interval <= 0 {
		o.Interval = time.Second
	}
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.MaxBackoff <= 0 {
		o.MaxBackoff = 5 * time.Second
	}
	return o
}

// Follow delivers the state of r and then every newer one, until ctx ends. It
// blocks and returns ctx's error, or [ErrClosed] once r is closed.
//
// If r is a [Watcher], Follow loads when woken and, as a safety net, every
// Interval; otherwise it polls. States that replace each other faster than fn
// returns are skipped, never delivered out of order.
//
// fn is called from one goroutine at a time. It gets a Snapshot whose Delta
// follows the last Snapshot that fn got, or an error that kept Follow from
// loading or watching; Follow then goes on trying. A Watch that does not come back
// is reported once, since polling goes on. The first successful load is
// always delivered, also if the store is empty (Rev ""), and so is the first
// one after an error, or with another Layer or Degraded, as an empty Delta if
// nothing changed. The caller of
// Follow keeps its last state when it gets an error.
func Follow(ctx context.Context, r Reader, o FollowOptions, fn func(Snapshot, error)) error {
	o = o.withDefaults()
	f := follower{reader: r, opts: o, fn: fn, woken: make(chan struct{}, 1), moved: make(chan struct{}, 1)}

	watchCtx, stop := context.WithCancel(ctx)
	var watching sync.WaitGroup
	if w, ok := r.(Watcher); ok {
		watching.Go(func() { f.watch(watchCtx, w) })
	}
	if h, ok := r.(HeartbeatReader); ok && (o.OnHeartbeat != nil || o.HoldBack > 0) {
		watching.Go(func() { f.heartbeats(watchCtx, h) })
	}
	defer watching.Wait()
	defer stop()
	return f.run(ctx)
}

type follower struct {
	reader Reader
	opts   FollowOptions
	woken  chan struct{} // capacity 1: wake-ups that arrive during a load merge into one
	moved  chan struct{} // capacity 1: a state came from another layer

	mu      sync.Mutex // guards fn and what follows, between run and watch
	fn      func(Snapshot, error)
	rev     Rev
	where   origin
	started bool
	failed  bool
	written bool // there was a heartbeat

	versions map[uint64]int64 // of the last state by hashes of its IDs, if older ones are held back
	heldAt   time.Time        // since when one is; zero: none is
}

// An origin is where a state came from. A change of it is delivered, too.
type origin struct{ layer, degraded string }

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (f *follower) wake() {
	select {
	case f.woken <- struct{}{}:
	default:
	}
}

func (f *follower) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.woken:
		case <-timer.C:
		}
		err := f.load(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, ErrClosed) {
			return err
		}
		if err == nil {
			failures = 0
			timer.Reset(f.interval())
			continue
		}
		// A wake-up must not turn an outage into a busy loop: pause first, and
		// only then listen to wake-ups again.
		failures++
		if !sleep(ctx, Backoff(failures, 50*time.Millisecond, f.opts.MaxBackoff)) {
			return ctx.Err()
		}
		timer.Reset(0)
	}
}

// interval is the time until the next load: what is held back is delivered in time,
// also where only wake-ups are relied on.
func (f *follower) interval() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.heldAt.IsZero() {
		return f.opts.Interval
	}
	return min(f.opts.Interval, max(0, time.Until(f.heldAt.Add(f.opts.HoldBack))))
}

func (f *follower) load(ctx context.Context) error {
	loadCtx, cancel := context.WithTimeout(ctx, f.opts.Timeout)
	defer cancel()
	snap, err := f.reader.Load(loadCtx, f.rev)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	older := 0
	if err == nil {
		if older = f.older(snap); older > 0 && f.meant(loadCtx) {
			older = 0
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.failed = true
		f.fn(Snapshot{}, err)
		return err
	}
	unchanged := f.started && snap.Rev == f.rev
	where := origin{snap.Layer, text(snap.Degraded)}
	if unchanged && !f.failed && where == f.where {
		return nil
	}
	if unchanged {
		snap = Snapshot{Rev: snap.Rev, Delta: true, Layer: snap.Layer, Degraded: snap.Degraded}
	}
	if err := f.holdBack(snap, older); err != nil {
		f.failed = true
		f.fn(Snapshot{}, err)
		return nil // the store works, so it is asked again as often as usual
	}
	// A first heartbeat is wanted at once: from then on older states are held back.
	if where.layer != f.where.layer || f.opts.HoldBack > 0 && !f.written {
		select {
		case f.moved <- struct{}{}:
		default:
		}
	}
	f.rev, f.where, f.started, f.failed = snap.Rev, where, true, false
	f.fn(snap, nil)
	return nil
}

// ErrHeldBack says that a store has an older version of something than it had. The
// last state stands until the store is repaired, or for FollowOptions.HoldBack.
var ErrHeldBack = errors.New("store: older flags than before are held back")

// older returns how many items of snap have an older version than in the last
// state, if that counts.
func (f *follower) older(snap Snapshot) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.opts.HoldBack <= 0 || snap.Delta || !f.written {
		return 0
	}
	n := 0
	for _, it := range snap.Items {
		if it.Version < f.versions[hashOf(it)] {
			n++
		}
	}
	return n
}

// meant reports whether the store's control says that older versions are an
// operator's doing. One that cannot be read says nothing.
func (f *follower) meant(ctx context.Context) bool {
	r, ok := f.reader.(ControlReader)
	if !ok {
		return false
	}
	c, err := r.ReadControl(ctx)
	return err == nil && c.explains(time.Now())
}

// holdBack returns an error if snap, with so many items that are older than they
// may be, must not be delivered yet, or else notes its versions.
func (f *follower) holdBack(snap Snapshot, older int) error {
	if f.opts.HoldBack <= 0 {
		return nil
	}
	if snap.Rev == "" { // emptied; what comes next is another state
		f.heldAt = time.Time{}
		return nil
	}
	switch {
	case older == 0:
	case f.heldAt.IsZero():
		f.heldAt = time.Now()
		fallthrough
	case time.Since(f.heldAt) < f.opts.HoldBack:
		return fmt.Errorf("%w: %d of %d", ErrHeldBack, older, len(snap.Items))
	}
	f.heldAt = time.Time{}
	if !snap.Delta || f.versions == nil {
		f.versions = make(map[uint64]int64, len(snap.Items))
	}
	for _, it := range snap.Items {
		f.versions[hashOf(it)] = it.Version
	}
	return nil
}

// hashOf returns a hash of an item's ID, which takes half the memory that the ID takes.
// Its seed is random, so that nobody can choose two that have the same.
func hashOf(it Item) uint64 {
	return maphash.String(idSeeds[it.Kind&1], it.Key)
}

var idSeeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}

// heartbeats reads the store's heartbeat every Interval. It has a goroutine of its
// own: a store that does not tell must not delay what it does tell.
func (f *follower) heartbeats(ctx context.Context, r HeartbeatReader) {
	tick := time.NewTicker(f.opts.Interval)
	defer tick.Stop()
	for {
		readCtx, cancel := context.WithTimeout(ctx, f.opts.Timeout)
		h, err := r.ReadHeartbeat(readCtx)
		cancel()
		if ctx.Err() != nil || errors.Is(err, ErrClosed) {
			return
		}
		f.mu.Lock()
		f.written = f.written || err == nil && !h.Written.IsZero()
		if f.opts.OnHeartbeat != nil {
			f.opts.OnHeartbeat(h, err)
		}
		f.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-f.moved:
		}
	}
}

// watch keeps a Watch running. While it is down, polling carries on; so it is
// reported once that it is, and not by each attempt that does not get to work.
func (f *follower) watch(ctx context.Context, w Watcher) {
	var worked atomic.Bool
	wake := func() {
		worked.Store(true)
		f.wake()
	}
	worked.Store(true)
	for failures := 1; ; failures++ {
		began := time.Now()
		err := w.Watch(ctx, wake)
		if ctx.Err() != nil || errors.Is(err, ErrClosed) {
			f.wake()
			return
		}
		if time.Since(began) > time.Minute {
			failures = 1
		}
		if err == nil {
			err = errors.New("store: watch ended without a reason")
		}
		if worked.Swap(false) {
			f.mu.Lock()
			f.failed = true
			f.fn(Snapshot{}, err)
			f.mu.Unlock()
		}
		if !sleep(ctx, Backoff(failures, 50*time.Millisecond, f.opts.MaxBackoff)) {
			return
		}
	}
}

// Backoff returns the pause before the n-th retry, counted from 1: a random
// time between half of b and b, where b is first, doubled for each further
// retry and capped at limit.
func Backoff(n int, first, limit time.Duration) time.Duration {
	b := first
	for i := 1; i < n && b < limit; i++ {
		b *= 2
	}
	b = min(b, limit)
	return b/2 + rand.N(b/2+1)
}

// sleep pauses for d and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
