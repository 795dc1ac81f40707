package syncer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/syncer"
)

// A flushable is a store that can lose everything at once, its control and its
// history included.
type flushable struct{ inner atomic.Pointer[memory.Store] }

func newFlushable(t *testing.T) *flushable {
	f := &flushable{}
	f.flush()
	t.Cleanup(func() { f.inner.Load().Close() })
	return f
}

func (f *flushable) flush() { f.inner.Store(memory.New()) }

// evict loses the content alone.
func (f *flushable) evict(t *testing.T) {
	next := memory.New()
	c, err := f.inner.Load().ReadControl(t.Context())
	if err == nil {
		err = next.WriteControl(t.Context(), c)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.inner.Store(next)
}

func (f *flushable) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	return f.inner.Load().Load(ctx, since)
}

func (f *flushable) Apply(ctx context.Context, c store.Change) (store.Rev, error) {
	return f.inner.Load().Apply(ctx, c)
}

func (f *flushable) ReadControl(ctx context.Context) (store.Control, error) {
	return f.inner.Load().ReadControl(ctx)
}

func (f *flushable) WriteControl(ctx context.Context, c store.Control) error {
	return f.inner.Load().WriteControl(ctx, c)
}

func (f *flushable) Close() error { return nil }

func control(t *testing.T, st store.Controller, c store.Control) {
	t.Helper()
	if err := st.WriteControl(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

var frozen = store.Control{Frozen: true, By: "ops", Reason: "incident 7"}

func isFrozen(s *syncer.Syncer) func() bool { return func() bool { return s.Status().Frozen != nil } }

// TestFreeze: what FeatBit says during a freeze is held, and written afterwards.
func TestFreeze(t *testing.T) {
	for _, gone := range []bool{false, true} {
		f := newFeatbit(t)
		f.set(true, flag("a", 1000), flag("b", 1000))
		f.up()
		st := memory.New()
		defer st.Close()
		s, _ := start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st, Name: "w", Reconcile: 50 * time.Millisecond})
		was := map[string]int64{"a": 1000, "b": 1000}
		until(t, "first state", holds(t, st, was))
		until(t, "ok", func() bool { return s.Status().State == syncer.OK })
		control(t, st, frozen)
		until(t, "frozen", isFrozen(s))
		if c := s.Status().Frozen; c.By != "ops" || c.Reason != "incident 7" {
			t.Errorf("Frozen = %+v", c)
		}
		rev, err := st.Load(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		f.set(false, flag("a", 2000), flag("c", 2001))
		fulls := s.Status().Fulls
		until(t, "more full states", func() bool { return s.Status().Fulls > fulls+2 })
		until(t, "heartbeat", func() bool {
			h, _ := st.ReadHeartbeat(t.Context())
			return h.Source == store.SourceFrozen && h.Writer == "w"
		})
		confirmed := s.Status().Confirmed
		until(t, "still more", func() bool { return s.Status().Fulls > fulls+4 })
		now, _ := st.Load(t.Context(), "")
		if got := content(t, st); now.Rev != rev.Rev || len(got) != 2 || got["a"] != 1000 {
			t.Fatalf("the store has %v at %s", got, now.Rev)
		}
		got := s.Status()
		if got.State != syncer.OK || got.Err != nil || got.Heals != 0 || !got.Confirmed.Equal(confirmed) {
			t.Errorf("Status() = %+v, confirmed %v before", got, confirmed)
		}
		if gone {
			f.down()
			until(t, "interrupted", func() bool { return s.Status().State == syncer.Interrupted })
		}
		control(t, st, store.Control{By: "ops"})
		until(t, "newest state", holds(t, st, map[string]int64{"a": 2000, "b": 1000, "c": 2001}))
		until(t, "not frozen", func() bool { return s.Status().Frozen == nil })
		if !gone {
			until(t, "confirmed", func() bool { return s.Status().Confirmed.After(confirmed) })
			f.set(false, flag("a", 3000))
			until(t, "patch", holds(t, st, map[string]int64{"a": 3000, "b": 1000, "c": 2001}))
		}
	}
}

// TestFrozenAndEqual: as long as FeatBit says the same, it confirms what is
// published.
func TestFrozenAndEqual(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, flag("a", 1000))
	f.up()
	st := memory.New()
	defer st.Close()
	control(t, st, frozen)
	if _, err := st.Apply(t.Context(), store.Change{Full: true, Items: []store.Item{flag("a", 1000)}, Override: true}); err != nil {
		t.Fatal(err)
	}
	s, _ := start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st, Reconcile: 50 * time.Millisecond})
	until(t, "confirmed", func() bool { return !s.Status().Confirmed.IsZero() && s.Status().Frozen != nil })
	before := s.Status().Confirmed
	until(t, "confirmed again", func() bool { return s.Status().Confirmed.After(before) })
}

// TestStartWhileFrozen: a syncer that finds a frozen store, even an empty one,
// writes nothing, and everything at the end.
func TestStartWhileFrozen(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, flag("a", 2000))
	f.up()
	st := memory.New()
	defer st.Close()
	control(t, st, frozen)
	s, _ := start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st})
	until(t, "a full state", func() bool { return s.Status().Fulls > 0 && s.Status().State == syncer.OK })
	if got := content(t, st); len(got) > 0 || s.Status().Frozen == nil || !s.Status().Confirmed.IsZero() {
		t.Errorf("the store has %v; %+v", got, s.Status())
	}
	control(t, st, store.Control{})
	until(t, "state", holds(t, st, map[string]int64{"a": 2000}))
}

// TestFreezeWithTwoSyncers: neither writes, both end it.
func TestFreezeWithTwoSyncers(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, flag("a", 1000))
	f.up()
	st := memory.New()
	defer st.Close()
	one, _ := start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st, Name: "one", Reconcile: 30 * time.Millisecond})
	two, _ := start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st, Name: "two", Reconcile: 30 * time.Millisecond})
	until(t, "first state", holds(t, st, map[string]int64{"a": 1000}))
	until(t, "both ok", func() bool { return one.Status().State == syncer.OK && two.Status().State == syncer.OK })
	for version := int64(2000); version < 6000; version += 1000 {
		control(t, st, frozen)
		until(t, "both frozen", func() bool { return isFrozen(one)() && isFrozen(two)() })
		f.set(false, flag("a", version))
		patches := one.Status().Fulls + two.Status().Fulls
		until(t, "both heard", func() bool { return one.Status().Fulls+two.Status().Fulls > patches+3 })
		if got := content(t, st); got["a"] != version-1000 {
			t.Fatalf("the store has %v", got)
		}
		control(t, st, store.Control{})
		until(t, "newest state", holds(t, st, map[string]int64{"a": version}))
		until(t, "none frozen", func() bool { return !isFrozen(one)() && !isFrozen(two)() })
	}
	if one.Status().Heals+two.Status().Heals > 0 {
		t.Errorf("healed: %+v, %+v", one.Status(), two.Status())
	}
}

// TestFlushedWhileFrozen: a store that lost everything gets back the freeze and what
// was published, not the newest state.
func TestFlushedWhileFrozen(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, flag("a", 1000), flag("b", 1000))
	f.up()
	st := newFlushable(t)
	s, _ := start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st, Reconcile: 30 * time.Millisecond})
	until(t, "first state", holds(t, st, map[string]int64{"a": 1000, "b": 1000}))
	control(t, st, frozen)
	until(t, "frozen", isFrozen(s))
	f.set(false, flag("a", 2000))
	fulls := s.Status().Fulls
	until(t, "a newer state", func() bool { return s.Status().Fulls > fulls+1 })
	for round := range 3 {
		if round < 2 {
			st.flush()
		} else {
			st.evict(t)
		}
		until(t, "what was published", holds(t, st, map[string]int64{"a": 1000, "b": 1000}))
		if c, err := st.ReadControl(t.Context()); err != nil || !c.Frozen || c.Reason != "incident 7" {
			t.Errorf("control %+v, %v", c, err)
		}
		at := s.Status().Fulls
		until(t, "a full state later", func() bool { return s.Status().Fulls > at+1 })
	}
	if got := content(t, st); got["a"] != 1000 || s.Status().Heals != 3 {
		t.Errorf("the store has %v; %+v", got, s.Status())
	}
	control(t, st, store.Control{})
	until(t, "newest state", holds(t, st, map[string]int64{"a": 2000, "b": 1000}))
}

// TestThawedWhileDamaged: a freeze ends also while the store's content is damaged, and
// does not come back with it.
func TestThawedWhileDamaged(t *testing.T) {
	for _, known := range []bool{true, false} { // what was published
		f := newFeatbit(t)
		f.set(true, flag("a", 1000))
		f.up()
		st := newHooked(t)
		var damaged, stuck atomic.Bool
		damage := fmt.Errorf("reading: %w", store.ErrDamaged)
		st.load = func(context.Context) error {
			if damaged.Load() {
				return damage
			}
			return nil
		}
		st.apply = func(_ context.Context, c store.Change) error {
			switch {
			case stuck.Load():
				return errors.New("the disk is full")
			case damaged.Load() && c.Full && c.Base == "":
				damaged.Store(false)
			case damaged.Load():
				return damage
			}
			return nil
		}
		if !known {
			control(t, st.Store, frozen)
			damaged.Store(true)
		}
		s, _ := start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st})
		if known {
			until(t, "first state", holds(t, st.Store, map[string]int64{"a": 1000}))
			control(t, st.Store, frozen)
		}
		until(t, "frozen", isFrozen(s))
		f.set(false, flag("a", 2000), flag("b", 2001))
		stuck.Store(true)
		damaged.Store(true)
		until(t, "noticed", func() bool { return errors.Is(s.Status().Err, store.ErrDamaged) })
		control(t, st.Store, store.Control{By: "ops"})
		until(t, "not frozen", func() bool { return s.Status().Frozen == nil })
		stuck.Store(false)
		until(t, "newest state", holds(t, st, map[string]int64{"a": 2000, "b": 2001}))
		if c, err := st.ReadControl(t.Context()); err != nil || c.Frozen {
			t.Errorf("control %+v, %v", c, err)
		}
		until(t, "ok", func() bool { return s.Status().State == syncer.OK && s.Status().Err == nil })
	}
}

func revisions(t *testing.T, st store.History) []store.Revision {
	t.Helper()
	all, err := st.Revisions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestPin: a running syncer publishes a pinned revision, also one that starts
// later, and nothing of FeatBit's until the end.
func TestPin(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, flag("a", 1000), flag("b", 1000))
	f.up()
	st := memory.New()
	defer st.Close()
	ctx, stop := context.WithCancel(t.Context())
	first, err := syncer.New(fast(syncer.Config{URL: f.url, Secret: f.secret, Store: st, History: 10}))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { first.Run(ctx); close(done) }()
	defer func() { stop(); <-done }()
	recorded := func(n int) func() bool { return func() bool { return len(revisions(t, st)) == n } }
	until(t, "first revision", recorded(1))
	until(t, "ok", func() bool { return first.Status().State == syncer.OK })
	f.set(false, flag("a", 2000))
	until(t, "second revision", recorded(2))
	f.set(false, flag("c", 3000))
	until(t, "third revision", recorded(3))

	control(t, st, store.Control{Frozen: true, Pinned: 2})
	two := map[string]int64{"a": 2000, "b": 1000}
	until(t, "revision 2", holds(t, st, two))
	until(t, "a record of that", recorded(4))
	if last := revisions(t, st)[3]; last.Restores != 2 || !last.Whole || last.Flags != 2 {
		t.Errorf("the rollback is %+v", last)
	}
	control(t, st, store.Control{Frozen: true, Pinned: 1})
	one := map[string]int64{"a": 1000, "b": 1000}
	until(t, "revision 1", holds(t, st, one))
	stop()
	<-done

	// Somebody pins another one while nobody is there.
	control(t, st, store.Control{Frozen: true, Pinned: 2})
	second, _ := start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st, History: 10})
	until(t, "revision 2 again", holds(t, st, two))
	until(t, "a full state", func() bool { return second.Status().Fulls > 0 })
	// One that is not there changes nothing.
	control(t, st, store.Control{Frozen: true, Pinned: 99})
	until(t, "seen", func() bool { c := second.Status().Frozen; return c != nil && c.Pinned == 99 })
	if got := content(t, st); got["a"] != 2000 {
		t.Errorf("the store has %v", got)
	}
	control(t, st, store.Control{})
	until(t, "newest state", holds(t, st, map[string]int64{"a": 2000, "b": 1000, "c": 3000}))
}

// A jittery store has a clock of its own, so that ages differ a little.
type jittery struct {
	*memory.Store
	reads, applies atomic.Int64
}

func (j *jittery) ReadControl(ctx context.Context) (store.Control, error) {
	c, err := j.Store.ReadControl(ctx)
	if !c.At.IsZero() {
		c.At = c.At.Add(time.Duration(j.reads.Add(1)%7) * time.Millisecond)
	}
	return c, err
}

func (j *jittery) Apply(ctx context.Context, c store.Change) (store.Rev, error) {
	j.applies.Add(1)
	return j.Store.Apply(ctx, c)
}

// TestPinOnce: a pin is carried out once, and a freeze is one change of the status,
// however often the control is looked at.
func TestPinOnce(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, flag("a", 1000))
	f.up()
	st := &jittery{Store: memory.New()}
	defer st.Close()
	var frozenStatus atomic.Int64
	s, _ := start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st, History: 10, OnStatus: func(s syncer.Status) {
		if s.Frozen != nil {
			frozenStatus.Add(1)
		}
	}})
	until(t, "first revision", func() bool { return len(revisions(t, st)) == 1 && s.Status().State == syncer.OK })
	f.set(false, flag("a", 2000))
	until(t, "second revision", func() bool { return len(revisions(t, st)) == 2 })
	before := st.applies.Load()
	control(t, st, store.Control{Frozen: true, Pinned: 1})
	until(t, "revision 1", holds(t, st, map[string]int64{"a": 1000}))
	reads := st.reads.Load()
	until(t, "many looks", func() bool { return st.reads.Load() > reads+30 })
	if n := st.applies.Load() - before; n != 1 {
		t.Errorf("%d changes were applied", n)
	}
	if n := frozenStatus.Load(); n > 3 {
		t.Errorf("the status changed %d times", n)
	}
}

// TestHistoryOfCommits: each commit is a revision, of which any can be put together
// again, and what was missed is made good by a whole state.
func TestHistoryOfCommits(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, flag("a", 1000))
	f.up()
	st := memory.New()
	defer st.Close()
	s, _ := start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st, History: 5, Name: "w"})
	until(t, "ok", func() bool { return s.Status().State == syncer.OK })
	until(t, "first revision", func() bool { return len(revisions(t, st)) == 1 })
	for version := int64(1001); version < 1040; version++ {
		f.set(false, flag("a", version))
		until(t, "a revision", func() bool {
			all := revisions(t, st)
			last := all[len(all)-1]
			snap, err := st.At(t.Context(), last.N)
			return err == nil && len(snap.Items) == 1 && snap.Items[0].Version == version && last.Writer == "w"
		})
	}
	all := revisions(t, st)
	if len(all) < 5 || len(all) > 5+16 {
		t.Errorf("%d revisions are kept", len(all))
	}
	for i, r := range all {
		snap, err := st.At(t.Context(), r.N)
		if err != nil || snap.Rev != r.Rev || snap.Items[0].Version != 1000+int64(r.N)-1 {
			t.Errorf("revision %d: %+v, %v", r.N, snap, err)
		}
		if i > 0 && (r.N != all[i-1].N+1 || r.Prev != all[i-1].Rev) {
			t.Errorf("%+v follows %+v", r, all[i-1])
		}
	}
	if _, err := st.At(t.Context(), 1); !errors.Is(err, store.ErrNoRevision) {
		t.Errorf("revision 1: %v", err)
	}
	// Another writer's commits were never recorded: the next record holds them.
	if _, err := st.Apply(t.Context(), store.Change{Items: []store.Item{flag("x", 5000)}}); err != nil {
		t.Fatal(err)
	}
	f.set(false, flag("a", 6000))
	until(t, "a revision with all", func() bool {
		all := revisions(t, st)
		snap, err := st.At(t.Context(), all[len(all)-1].N)
		return err == nil && len(snap.Items) == 2 && slices.ContainsFunc(snap.Items, func(it store.Item) bool { return it.Version == 6000 })
	})
	until(t, "the metrics say so", func() bool {
		numbers := map[string]float64{}
		for _, m := range s.Metrics() {
			numbers[m.Name] = m.Value
		}
		kept := numbers["flagstead_syncer_revisions"]
		return numbers["flagstead_syncer_revision"] >= 41 && kept >= 5 && kept <= 40 && numbers["flagstead_syncer_revisions_bytes"] > kept
	})
}
