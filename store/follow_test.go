package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flagstead/flagstead/store"
)

// A reader is a store.Reader of which a test sets the state, or an error.
type reader struct {
	mu     sync.Mutex
	rev    int // 0: empty; commits are counted from 1
	items  map[string]int
	err    error
	closed bool
	loads  []time.Time
	since  []store.Rev
	block  bool // Load waits until its context ends
}

func (r *reader) set(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.items == nil {
		r.items = map[string]int{}
	}
	r.rev++
	r.items[key] = r.rev
}

func (r *reader) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

func (r *reader) loaded() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.loads)
}

func revOf(n int) store.Rev {
	if n == 0 {
		return ""
	}
	return store.Rev(fmt.Sprint("r", n))
}

func (r *reader) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loads = append(r.loads, time.Now())
	r.since = append(r.since, since)
	if r.block {
		r.mu.Unlock()
		<-ctx.Done()
		r.mu.Lock()
		return store.Snapshot{}, ctx.Err()
	}
	if r.closed {
		return store.Snapshot{}, fmt.Errorf("reader: %w", store.ErrClosed)
	}
	if r.err != nil {
		return store.Snapshot{}, r.err
	}
	snap := store.Snapshot{Rev: revOf(r.rev), Delta: since != ""}
	from := 0
	fmt.Sscanf(string(since), "r%d", &from)
	for key, n := range r.items {
		if n > from {
			snap.Items = append(snap.Items, store.Item{Kind: store.Flag, Key: key, Version: int64(n)})
		}
	}
	return snap, nil
}

// A watcher is a reader that can be watched.
type watcher struct {
	reader
	watches chan watch
}

type watch struct {
	wake func()
	end  chan error
}

func newWatcher() *watcher { return &watcher{watches: make(chan watch, 100)} }

func (w *watcher) Watch(ctx context.Context, wake func()) error {
	this := watch{wake, make(chan error, 1)}
	w.watches <- this
	wake()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-this.end:
		return err
	}
}

// A delivery is one call of Follow's fn.
type delivery struct {
	snap store.Snapshot
	err  error
	at   time.Duration // since the start
}

// A following is a Follow under way.
type following struct {
	mu         sync.Mutex
	deliveries []delivery
	taken      int
	done       chan error
	cancel     context.CancelFunc
}

func follow(t *testing.T, r store.Reader, o store.FollowOptions) *following {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	f := &following{done: make(chan error, 1), cancel: cancel}
	start := time.Now()
	go func() {
		f.done <- store.Follow(ctx, r, o, func(s store.Snapshot, err error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.deliveries = append(f.deliveries, delivery{s, err, time.Since(start)})
		})
	}()
	return f
}

// take returns what was delivered since the last take, once all is quiet.
func (f *following) take() []delivery {
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	d := slices.Clone(f.deliveries[f.taken:])
	f.taken = len(f.deliveries)
	return d
}

// one returns the only delivery since the last take.
func (f *following) one(t *testing.T) delivery {
	t.Helper()
	d := f.take()
	if len(d) != 1 {
		t.Fatalf("%d deliveries, want one: %+v", len(d), d)
	}
	return d[0]
}

// after lets d pass.
func after(d time.Duration) { <-time.After(d) }

func keys(s store.Snapshot) []string {
	m := map[string]bool{}
	for _, it := range s.Items {
		m[it.Key] = true
	}
	return slices.Sorted(maps.Keys(m))
}

func TestFollowDeliversAnEmptyStoreFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(reader)
		f := follow(t, r, store.FollowOptions{})
		if d := f.one(t); d.err != nil || d.snap.Rev != "" || d.snap.Delta || len(d.snap.Items) != 0 || d.at != 0 {
			t.Errorf("first delivery %+v, want the zero Snapshot at once", d)
		}
		after(5 * time.Second)
		if d := f.take(); len(d) != 0 {
			t.Errorf("delivered again without news: %+v", d)
		}
		r.set("a")
		after(time.Second)
		if d := f.one(t); d.snap.Rev != "r1" || !slices.Equal(keys(d.snap), []string{"a"}) {
			t.Errorf("delivery %+v, want r1 with a", d)
		}
	})
}

func TestFollowPollsEveryInterval(t *testing.T) {
	for _, c := range []struct{ set, want time.Duration }{{0, time.Second}, {-1, time.Second}, {3 * time.Second, 3 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			r := new(reader)
			follow(t, r, store.FollowOptions{Interval: c.set})
			after(c.want*10 + c.want/2)
			if n := r.loaded(); n != 11 {
				t.Errorf("Interval %v: %d loads in 10 intervals of %v, want 11", c.set, n, c.want)
			}
		})
	}
}

func TestFollowDeliversDeltasThatContinue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(reader)
		r.set("a")
		f := follow(t, r, store.FollowOptions{})
		if d := f.one(t); d.snap.Delta || d.snap.Rev != "r1" {
			t.Fatalf("first delivery %+v, want everything at r1", d)
		}
		last := store.Rev("r1")
		for i, batch := range [][]string{{"b"}, {"c", "d"}, {"a"}} {
			for _, key := range batch {
				r.set(key)
			}
			after(time.Second)
			d := f.one(t)
			if !d.snap.Delta || !slices.Equal(keys(d.snap), batch) {
				t.Errorf("delivery %d: %+v, want a Delta with %v", i, d, batch)
			}
			if since := r.since[len(r.since)-1]; since != last {
				t.Errorf("delivery %d counts from %q, the one before is at %q", i, since, last)
			}
			last = d.snap.Rev
		}
	})
}

// TestFollowSkipsStates: states that come while fn is busy merge into one.
func TestFollowSkipsStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatcher()
		var mu sync.Mutex
		var got []store.Snapshot
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error, 1)
		go func() {
			done <- store.Follow(ctx, w, store.FollowOptions{}, func(s store.Snapshot, err error) {
				mu.Lock()
				got = append(got, s)
				mu.Unlock()
				after(10 * time.Second)
			})
		}()
		watch := <-w.watches
		synctest.Wait()
		for i := range 50 {
			w.set(fmt.Sprint(i))
			watch.wake()
		}
		after(25 * time.Second)
		cancel()
		<-done
		if len(got) != 2 || got[1].Rev != "r50" || len(got[1].Items) != 50 {
			t.Errorf("deliveries %+v, want the empty store and then all 50 commits in one", got)
		}
	})
}

func TestFollowLoadsWhenWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatcher()
		f := follow(t, w, store.FollowOptions{Interval: time.Hour})
		watch := <-w.watches
		f.one(t)
		for i := range 3 {
			after(time.Minute)
			w.set("a")
			watch.wake()
			if d := f.one(t); d.at != time.Duration(i+1)*time.Minute || d.snap.Rev != revOf(i+1) {
				t.Errorf("commit %d: %+v, want it at once", i+1, d)
			}
		}
		loads := w.loaded()
		watch.wake()
		if d := f.take(); len(d) != 0 {
			t.Errorf("a wake without a commit delivered %+v", d)
		}
		if w.loaded() != loads+1 {
			t.Errorf("%d loads after a wake, want one", w.loaded()-loads)
		}
	})
}

func TestFollowLostWakeCostsOneInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatcher()
		f := follow(t, w, store.FollowOptions{Interval: 7 * time.Second})
		<-w.watches
		f.one(t)
		after(time.Second)
		w.set("a") // and nobody wakes
		after(5 * time.Second)
		if d := f.take(); len(d) != 0 {
			t.Fatalf("delivered before the interval was over: %+v", d)
		}
		after(time.Second)
		if d := f.one(t); d.snap.Rev != "r1" || d.at != 7*time.Second {
			t.Errorf("delivery %+v, want r1 after one interval", d)
		}
	})
}

func TestFollowDeliversErrorsAndRecovery(t *testing.T) {
	for _, news := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := new(reader)
			r.set("a")
			f := follow(t, r, store.FollowOptions{})
			f.one(t)
			down := errors.New("down")
			r.fail(down)
			after(10 * time.Second)
			failures := f.take()
			if len(failures) == 0 {
				t.Fatal("no error was delivered")
			}
			for _, d := range failures {
				if !errors.Is(d.err, down) || d.snap.Rev != "" || len(d.snap.Items) != 0 {
					t.Errorf("delivery %+v during an outage, want the error alone", d)
				}
			}
			if news {
				r.set("b")
			}
			r.fail(nil)
			after(6 * time.Second)
			d := f.one(t)
			want, rev := []string(nil), store.Rev("r1")
			if news {
				want, rev = []string{"b"}, "r2"
			}
			if d.err != nil || !d.snap.Delta || d.snap.Rev != rev || !slices.Equal(keys(d.snap), want) {
				t.Errorf("delivery %+v after an outage, want a Delta at %q with %v", d, rev, want)
			}
		})
	}
}

// TestFollowRecoversBeforeTheFirstState: errors come first, then everything.
func TestFollowRecoversBeforeTheFirstState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(reader)
		r.fail(errors.New("down"))
		f := follow(t, r, store.FollowOptions{})
		after(time.Second)
		if d := f.take(); len(d) == 0 || d[0].err == nil || d[0].at != 0 {
			t.Fatalf("deliveries %+v, want an error at once", d)
		}
		r.fail(nil)
		after(6 * time.Second)
		if d := f.one(t); d.err != nil || d.snap.Rev != "" || d.snap.Delta {
			t.Errorf("delivery %+v, want the empty store", d)
		}
	})
}

// TestFollowBacksOff: an outage is no busy loop, not even if wakes rain down.
func TestFollowBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatcher()
		w.fail(errors.New("down"))
		f := follow(t, w, store.FollowOptions{MaxBackoff: 2 * time.Second})
		watch := <-w.watches
		for range 600 {
			after(100 * time.Millisecond)
			watch.wake()
		}
		// A minute: the pauses grow to between one and two seconds.
		if n := len(f.take()); n < 30 || n > 70 {
			t.Errorf("%d tries in a minute, want 30 to 70", n)
		}
		for i := 10; i < len(w.loads); i++ {
			if gap := w.loads[i].Sub(w.loads[i-1]); gap < time.Second || gap > 2*time.Second {
				t.Errorf("pause %d is %v, want 1s to 2s", i, gap)
			}
		}
	})
}

func TestFollowBoundsALoad(t *testing.T) {
	for _, c := range []struct{ set, want time.Duration }{{0, 10 * time.Second}, {3 * time.Second, 3 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			r := &reader{block: true}
			f := follow(t, r, store.FollowOptions{Timeout: c.set})
			after(c.want + time.Millisecond)
			if d := f.one(t); !errors.Is(d.err, context.DeadlineExceeded) || d.at != c.want {
				t.Errorf("Timeout %v: delivery %+v, want a deadline exceeded after %v", c.set, d, c.want)
			}
		})
	}
}

func TestFollowReportsAndRestartsAWatch(t *testing.T) {
	for _, reason := range []error{errors.New("connection lost"), nil} {
		synctest.Test(t, func(t *testing.T) {
			w := newWatcher()
			f := follow(t, w, store.FollowOptions{Interval: time.Hour})
			watch := <-w.watches
			f.one(t)
			watch.end <- reason
			d := f.one(t)
			if d.err == nil || reason != nil && !errors.Is(d.err, reason) {
				t.Errorf("delivery %+v, want the error %v", d, reason)
			}
			watch = <-w.watches
			// The new Watch wakes as it starts, which loads and so tells that all
			// is well again.
			if d := f.one(t); d.err != nil || !d.snap.Delta && d.snap.Rev != "" {
				t.Errorf("delivery %+v, want a state", d)
			}
			w.set("a")
			watch.wake()
			if d := f.one(t); d.snap.Rev != "r1" {
				t.Errorf("delivery %+v, want r1", d)
			}
		})
	}
}

// TestFollowPollsWithoutAWatch: a Watch that cannot start leaves polling alone,
// and does not spin.
func TestFollowPollsWithoutAWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &brokenWatcher{}
		f := follow(t, r, store.FollowOptions{})
		after(time.Minute)
		reported := 0
		for _, d := range f.take() {
			if d.err != nil {
				reported++
			}
		}
		if reported != 1 {
			t.Errorf("reported %d times, want once: polling goes on", reported)
		}
		if n := r.tries.Load(); n < 10 || n > 60 {
			t.Errorf("%d tries to watch in a minute, want 10 to 60", n)
		}
		r.set("a")
		after(time.Second)
		found := false
		for _, d := range f.take() {
			found = found || d.snap.Rev == "r1"
		}
		if !found {
			t.Error("a commit was not delivered within an interval")
		}
	})
}

type brokenWatcher struct {
	reader
	tries atomic.Int64
}

func (w *brokenWatcher) Watch(context.Context, func()) error {
	w.tries.Add(1)
	return errors.New("cannot watch")
}

func TestFollowEndsWhenClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(reader)
		f := follow(t, r, store.FollowOptions{})
		f.one(t)
		r.mu.Lock()
		r.closed = true
		r.mu.Unlock()
		start := time.Now()
		if err := <-f.done; !errors.Is(err, store.ErrClosed) || time.Since(start) > time.Second {
			t.Errorf("Follow returned %v after %v, want ErrClosed within an interval", err, time.Since(start))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWatcher()
		f := follow(t, w, store.FollowOptions{Interval: time.Hour})
		watch := <-w.watches
		f.one(t)
		w.mu.Lock()
		w.closed = true
		w.mu.Unlock()
		start := time.Now()
		watch.end <- fmt.Errorf("watcher: %w", store.ErrClosed)
		if err := <-f.done; !errors.Is(err, store.ErrClosed) || time.Since(start) != 0 {
			t.Errorf("Follow returned %v after %v, want ErrClosed at once", err, time.Since(start))
		}
	})
}

func TestFollowEndsWithItsContext(t *testing.T) {
	for name, prepare := range map[string]func(*watcher){
		"idle":              func(*watcher) {},
		"while loading":     func(w *watcher) { w.block = true },
		"while backing off": func(w *watcher) { w.err = errors.New("down") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWatcher()
				prepare(w)
				f := follow(t, w, store.FollowOptions{})
				after(time.Millisecond)
				f.take()
				start := time.Now()
				f.cancel()
				if err := <-f.done; !errors.Is(err, context.Canceled) || time.Since(start) != 0 {
					t.Errorf("Follow returned %v after %v, want %v at once", err, time.Since(start), context.Canceled)
				}
				if d := f.take(); len(d) != 0 {
					t.Errorf("delivered after its context ended: %+v", d)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		err := store.Follow(ctx, new(reader), store.FollowOptions{}, func(store.Snapshot, error) {})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Follow returned %v, want %v", err, context.DeadlineExceeded)
		}
	})
}

func TestBackoff(t *testing.T) {
	for _, c := range []struct {
		n    int
		want time.Duration
	}{{0, 100}, {1, 100}, {2, 200}, {3, 400}, {4, 500}, {5, 500}, {1_000_000_000, 500}} {
		for range 100 {
			if got := store.Backoff(c.n, 100, 500); got < c.want/2 || got > c.want {
				t.Fatalf("Backoff(%d) = %d, want %d to %d", c.n, got, c.want/2, c.want)
			}
		}
	}
}

// A beating is a reader with heartbeats.
type beating struct {
	reader
	beat store.Heartbeat
	bad  error
	hang bool
}

func (b *beating) tell(bad error, hang bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bad, b.hang = bad, hang
}

func (b *beating) ReadHeartbeat(ctx context.Context) (store.Heartbeat, error) {
	b.mu.Lock()
	beat, err, hang := b.beat, b.bad, b.hang
	b.mu.Unlock()
	if hang {
		<-ctx.Done()
		return store.Heartbeat{}, ctx.Err()
	}
	return beat, err
}

func TestFollowReadsHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &beating{beat: store.Heartbeat{Source: "ok"}}
		type heard struct {
			source string
			err    error
			at     time.Duration
		}
		var mu sync.Mutex
		var got []heard
		begin := time.Now()
		take := func() []heard {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(got)
		}
		f := follow(t, r, store.FollowOptions{OnHeartbeat: func(h store.Heartbeat, err error) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, heard{h.Source, err, time.Since(begin)})
		}})
		after(time.Second + time.Second/2)
		if got := take(); len(f.take()) != 1 || !slices.Equal(got, []heard{{"ok", nil, 0}, {"ok", nil, time.Second}}) {
			t.Errorf("heard %+v", got)
		}
		// What does not tell its heartbeat still tells its state.
		r.tell(nil, true)
		after(time.Second)
		r.set("a")
		after(time.Second)
		if d := f.one(t); d.err != nil || d.snap.Rev != "r1" {
			t.Errorf("delivered %+v", d)
		}
		after(10 * time.Second)
		if got := take(); len(got) != 3 || !errors.Is(got[2].err, context.DeadlineExceeded) {
			t.Errorf("heard %+v of a store that hangs", got)
		}
		r.tell(fmt.Errorf("reader: %w", store.ErrClosed), false)
		after(20 * time.Second)
		if got := take(); len(got) != 4 {
			t.Errorf("heard %+v of a store that is closed", got)
		}
	})
}

// A degraded reader says that its state is not from the best place.
type degraded struct {
	reader
	layer string
	why   error
}

func (d *degraded) from(layer string, why error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.layer, d.why = layer, why
}

func (d *degraded) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	snap, err := d.reader.Load(ctx, since)
	d.mu.Lock()
	defer d.mu.Unlock()
	snap.Layer, snap.Degraded = d.layer, d.why
	return snap, err
}

func TestFollowDeliversOrigins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &degraded{layer: "copy", why: errors.New("down")}
		r.set("a")
		f := follow(t, r, store.FollowOptions{})
		if d := f.one(t); d.snap.Layer != "copy" || d.snap.Degraded == nil || len(d.snap.Items) != 1 {
			t.Errorf("delivered %+v", d)
		}
		after(3 * time.Second)
		if d := f.take(); len(d) != 0 {
			t.Errorf("delivered again: %+v", d)
		}
		r.from("redis", nil)
		after(time.Second)
		if d := f.one(t); d.snap.Layer != "redis" || d.snap.Degraded != nil || !d.snap.Delta || len(d.snap.Items) != 0 {
			t.Errorf("delivered %+v", d)
		}
	})
}

// A history is a reader of which a test sets the whole state, in any order.
type history struct {
	beating
	now store.Snapshot
}

func (h *history) become(rev string, versions map[string]int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = store.Snapshot{Rev: store.Rev(rev)}
	for key, v := range versions {
		h.now.Items = append(h.now.Items, store.Item{Kind: store.Flag, Key: key, Version: v})
	}
}

func (h *history) Load(_ context.Context, since store.Rev) (store.Snapshot, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if since == h.now.Rev {
		return store.Snapshot{Rev: since, Delta: true}, nil
	}
	return h.now, nil
}

// TestFollowHoldsBack: what a writer that is behind puts into a flushed store is
// not delivered, unless it stays.
func TestFollowHoldsBack(t *testing.T) {
	versions := func(s store.Snapshot) string {
		m := map[string]int64{}
		for _, it := range s.Items {
			m[it.Key] = it.Version
		}
		return fmt.Sprint(m)
	}
	begin := func(t *testing.T, written bool, hold time.Duration) (*history, *following) {
		h := &history{}
		if written {
			h.beat.Written = time.Now()
		}
		h.become("r1", map[string]int64{"a": 5, "b": 5})
		f := follow(t, h, store.FollowOptions{HoldBack: hold})
		f.one(t)
		return h, f
	}
	synctest.Test(t, func(t *testing.T) {
		h, f := begin(t, true, 5*time.Second)
		h.become("x1", map[string]int64{"a": 5, "b": 4, "c": 9})
		after(time.Second)
		if d := f.one(t); !errors.Is(d.err, store.ErrHeldBack) || !strings.Contains(d.err.Error(), "1 of 3") {
			t.Errorf("delivered %+v", d)
		}
		h.become("x2", map[string]int64{"a": 5, "b": 6})
		after(time.Second)
		if d := f.one(t); d.err != nil || d.snap.Delta || versions(d.snap) != "map[a:5 b:6]" {
			t.Errorf("delivered %+v", d)
		}
		// What is only gone was deleted.
		h.become("x3", map[string]int64{"b": 6})
		after(time.Second)
		if d := f.one(t); d.err != nil || versions(d.snap) != "map[b:6]" {
			t.Errorf("delivered %+v", d)
		}
		// An older state that stays is one that FeatBit was set back to.
		h.become("x4", map[string]int64{"b": 2})
		after(5*time.Second + time.Millisecond)
		all := f.take()
		for _, d := range all {
			if !errors.Is(d.err, store.ErrHeldBack) {
				t.Errorf("delivered early: %+v", d)
			}
		}
		after(time.Second)
		if d := f.one(t); d.err != nil || versions(d.snap) != "map[b:2]" {
			t.Errorf("delivered %+v", d)
		}
		h.become("x5", map[string]int64{"b": 1})
		after(time.Second)
		if d := f.one(t); !errors.Is(d.err, store.ErrHeldBack) {
			t.Errorf("the next one was not held back: %+v", d)
		}
	})
	for _, tc := range []struct {
		written bool
		hold    time.Duration
	}{{false, 5 * time.Second}, {true, 0}, {true, -1}} {
		synctest.Test(t, func(t *testing.T) {
			h, f := begin(t, tc.written, tc.hold)
			h.become("x1", map[string]int64{"a": 4})
			after(time.Second)
			if d := f.one(t); d.err != nil || versions(d.snap) != "map[a:4]" {
				t.Errorf("%+v: delivered %+v", tc, d)
			}
		})
	}
}
