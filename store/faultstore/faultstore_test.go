package faultstore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/faultstore"
	"github.com/flagstead/flagstead/store/memory"
)

const patience = 10 * time.Second

func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	limit := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-limit:
			t.Fatalf("not within %v: %s", patience, what)
		case <-tick.C:
		}
	}
}

func wrapped(t testing.TB) (store.DataStore, *faultstore.Faults) {
	st, faults := faultstore.Wrap(memory.New())
	t.Cleanup(func() { st.Close() })
	return st, faults
}

func item(key string, version int64) store.Item {
	return store.Item{Kind: store.Flag, Key: key, Version: version, Data: []byte("{}")}
}

// calls calls every method, each with a context of its own, and returns the
// errors by method.
func calls(st store.DataStore, d time.Duration) map[faultstore.Op]error {
	out := map[faultstore.Op]error{}
	for op, call := range map[faultstore.Op]func(ctx context.Context) error{
		faultstore.Load: func(ctx context.Context) error {
			_, err := st.Load(ctx, "")
			return err
		},
		faultstore.Apply: func(ctx context.Context) error {
			_, err := st.Apply(ctx, store.Change{})
			return err
		},
		faultstore.Watch: func(ctx context.Context) error {
			ctx, cancel := context.WithCancelCause(ctx)
			defer cancel(nil)
			err := st.(store.Watcher).Watch(ctx, func() { cancel(errWoken) })
			if context.Cause(ctx) == errWoken {
				return nil
			}
			return err
		},
		faultstore.ReadHeartbeat: func(ctx context.Context) error {
			_, err := st.(store.HeartbeatReader).ReadHeartbeat(ctx)
			return err
		},
		faultstore.WriteHeartbeat: func(ctx context.Context) error {
			return st.(store.HeartbeatWriter).WriteHeartbeat(ctx, store.Heartbeat{Writer: "w"})
		},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), d)
		out[op] = call(ctx)
		cancel()
	}
	return out
}

var errWoken = errors.New("woken")

func TestFaultsByMethod(t *testing.T) {
	custom := errors.New("no route to host")
	for _, c := range []struct {
		name string
		ops  faultstore.Op
		add  func(f *faultstore.Faults, ops faultstore.Op)
		want error
	}{
		{"fail", faultstore.Load | faultstore.WriteHeartbeat, func(f *faultstore.Faults, ops faultstore.Op) { f.Fail(ops, custom) }, custom},
		{"fail without an error", faultstore.All, func(f *faultstore.Faults, ops faultstore.Op) { f.Fail(ops, nil) }, faultstore.ErrInjected},
		{"fail after", faultstore.Apply | faultstore.Watch | faultstore.ReadHeartbeat, func(f *faultstore.Faults, ops faultstore.Op) { f.FailAfter(ops, custom) }, custom},
		{"fail after, all", faultstore.All, func(f *faultstore.Faults, ops faultstore.Op) { f.FailAfter(ops, nil) }, faultstore.ErrInjected},
		{"delay", faultstore.Load | faultstore.Watch, func(f *faultstore.Faults, ops faultstore.Op) { f.Delay(ops, time.Hour) }, context.DeadlineExceeded},
		{"hang", faultstore.Apply | faultstore.ReadHeartbeat | faultstore.Watch, func(f *faultstore.Faults, ops faultstore.Op) { f.Hang(ops) }, context.DeadlineExceeded},
		{"down", faultstore.All, func(f *faultstore.Faults, _ faultstore.Op) { f.Down() }, faultstore.ErrDown},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st, faults := wrapped(t)
				c.add(faults, c.ops)
				for op, err := range calls(st, time.Second) {
					want := c.want
					if c.ops&op == 0 {
						want = nil
					}
					if !errors.Is(err, want) {
						t.Errorf("%v: error %v, want %v", op, err, want)
					}
				}
				faults.Reset()
				for op, err := range calls(st, time.Second) {
					if err != nil {
						t.Errorf("%v after Reset: %v", op, err)
					}
				}
			})
		})
	}
}

func TestDelayIsAsLongAsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, faults := wrapped(t)
		faults.Delay(faultstore.Load, 3*time.Second)
		faults.Delay(faultstore.Load, 2*time.Second)
		began := time.Now()
		if _, err := st.Load(t.Context(), ""); err != nil || time.Since(began) != 5*time.Second {
			t.Errorf("Load returned %v after %v, want nil after 5s", err, time.Since(began))
		}
		if n := faults.Counts(faultstore.All); n != (faultstore.Counts{Calls: 1, Delayed: 2}) {
			t.Errorf("Counts = %+v", n)
		}
	})
}

// What hangs goes on when the fault is removed, and ends with its context and
// with Close.
func TestHangEnds(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(st store.DataStore, faults *faultstore.Faults, r *faultstore.Rule, cancel func())
		want error
	}{
		"removed":   {func(_ store.DataStore, _ *faultstore.Faults, r *faultstore.Rule, _ func()) { r.Remove(); r.Remove() }, nil},
		"reset":     {func(_ store.DataStore, f *faultstore.Faults, _ *faultstore.Rule, _ func()) { f.Reset() }, nil},
		"cancelled": {func(_ store.DataStore, _ *faultstore.Faults, _ *faultstore.Rule, cancel func()) { cancel() }, context.Canceled},
		"closed":    {func(st store.DataStore, _ *faultstore.Faults, _ *faultstore.Rule, _ func()) { st.Close() }, store.ErrClosed},
		"down": {func(_ store.DataStore, f *faultstore.Faults, r *faultstore.Rule, _ func()) {
			f.Down()
			r.Remove()
		}, faultstore.ErrDown},
	} {
		t.Run(name, func(t *testing.T) {
			st, faults := wrapped(t)
			rule := faults.Hang(faultstore.All)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() {
				_, err := st.Apply(ctx, store.Change{Items: []store.Item{item("a", 1)}})
				done <- err
			}()
			until(t, "Apply hangs", func() bool { return faults.Counts(faultstore.Apply).Hanging == 1 })
			c.end(st, faults, rule, cancel)
			if err := <-done; !errors.Is(err, c.want) {
				t.Errorf("Apply returned %v, want %v", err, c.want)
			}
			if n := faults.Counts(faultstore.Apply); n.Hanging != 0 || n.Hung != 1 {
				t.Errorf("Counts = %+v", n)
			}
		})
	}
}

func TestFailAfterCommits(t *testing.T) {
	inner := memory.New()
	st, faults := faultstore.Wrap(inner)
	defer st.Close()
	faults.FailAfter(faultstore.Apply, nil)
	faults.Fail(faultstore.Load, nil)
	if rev, err := st.Apply(t.Context(), store.Change{Items: []store.Item{item("a", 1)}}); rev != "" || !errors.Is(err, faultstore.ErrInjected) {
		t.Errorf("Apply = %q, %v", rev, err)
	}
	if _, err := st.Apply(t.Context(), store.Change{Base: "other"}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("Apply that fails by itself: %v, want ErrConflict", err)
	}
	if snap, err := st.Load(t.Context(), ""); len(snap.Items) != 0 || !errors.Is(err, faultstore.ErrInjected) {
		t.Errorf("Load = %+v, %v", snap, err)
	}
	if snap, err := inner.Load(t.Context(), ""); err != nil || len(snap.Items) != 1 {
		t.Errorf("the store has %+v, %v", snap, err)
	}
	if n := faults.Counts(faultstore.Apply | faultstore.Load); n != (faultstore.Counts{Calls: 3, Failed: 1, FailedAfter: 1}) {
		t.Errorf("Counts = %+v", n)
	}
}

func failures(st store.DataStore, n int) (failed []int) {
	for i := range n {
		if _, err := st.Load(context.Background(), ""); err != nil {
			failed = append(failed, i+1)
		}
	}
	return failed
}

func TestWhen(t *testing.T) {
	for _, c := range []struct {
		when []faultstore.When
		want []int
	}{
		{nil, []int{1, 2, 3, 4, 5, 6, 7, 8, 9}},
		{[]faultstore.When{faultstore.Times(2)}, []int{1, 2}},
		{[]faultstore.When{faultstore.Every(4)}, []int{4, 8}},
		{[]faultstore.When{faultstore.Every(3), faultstore.Times(2)}, []int{3, 6}},
		{[]faultstore.When{faultstore.Chance(0)}, nil},
		{[]faultstore.When{faultstore.Chance(1), faultstore.Every(5)}, []int{5}},
	} {
		st, faults := wrapped(t)
		rule := faults.Fail(faultstore.Load, nil, c.when...)
		if got := failures(st, 9); !slices.Equal(got, c.want) {
			t.Errorf("%+v: calls %v fail, want %v", c.when, got, c.want)
		}
		if rule.Injected() != len(c.want) {
			t.Errorf("%+v: Injected = %d, want %d", c.when, rule.Injected(), len(c.want))
		}
	}
}

func TestSeedDecides(t *testing.T) {
	run := func(seed uint64, other bool) []int {
		faults := faultstore.New(seed)
		st := faults.Wrap(memory.New())
		defer st.Close()
		faults.Fail(faultstore.Load, nil, faultstore.Chance(0.5))
		if other { // calls of others do not disturb the draws
			faults.Delay(faultstore.Apply, 0, faultstore.Chance(0.5))
			for range 10 {
				st.Apply(context.Background(), store.Change{})
			}
		}
		return failures(st, 64)
	}
	first := run(7, false)
	if len(first) < 16 || len(first) > 48 {
		t.Errorf("%d of 64 calls fail with probability a half", len(first))
	}
	if again := run(7, true); !slices.Equal(first, again) {
		t.Errorf("seed 7 fails calls %v and then %v", first, again)
	}
	if other := run(8, false); slices.Equal(first, other) {
		t.Errorf("seeds 7 and 8 fail the same calls %v", first)
	}
}

// Lost wake-ups cost Follow a poll interval, and nothing else.
func TestLostWakes(t *testing.T) {
	st, faults := wrapped(t)
	faults.LoseWakes(true)
	var last atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- store.Follow(ctx, st, store.FollowOptions{Interval: 5 * time.Millisecond}, func(s store.Snapshot, err error) {
			for _, it := range s.Items {
				last.Store(it.Version)
			}
		})
	}()
	for n := range int64(5) {
		if _, err := st.Apply(t.Context(), store.Change{Items: []store.Item{item("a", n+1)}}); err != nil {
			t.Fatal(err)
		}
		until(t, "Follow polls", func() bool { return last.Load() == n+1 })
	}
	until(t, "wakes are lost", func() bool { return faults.Counts(faultstore.Watch).LostWakes > 0 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Follow returned %v", err)
	}
}

// Down ends a Watch that is under way.
func TestDownEndsWatch(t *testing.T) {
	st, faults := wrapped(t)
	done := make(chan error, 1)
	woken := make(chan struct{}, 1)
	go func() { done <- st.(store.Watcher).Watch(context.Background(), func() { woken <- struct{}{} }) }()
	<-woken
	faults.Down()
	if err := <-done; !errors.Is(err, faultstore.ErrDown) {
		t.Errorf("Watch returned %v, want ErrDown", err)
	}
	faults.Up()
	for op, err := range calls(st, patience) {
		if err != nil {
			t.Errorf("%v after Up: %v", op, err)
		}
	}
}

type only struct{ store.DataStore }

// The wrapped store has the optional methods that the store has, and no others.
func TestOptionalMethods(t *testing.T) {
	m := memory.New()
	defer m.Close()
	type (
		watcher interface {
			Watch(context.Context, func()) error
		}
		w  struct{ watcher }
		hw struct{ store.HeartbeatWriter }
		hr struct{ store.HeartbeatReader }
	)
	for _, inner := range []store.DataStore{
		only{m}, m,
		struct {
			only
			w
		}{only{m}, w{m}},
		struct {
			only
			hw
		}{only{m}, hw{m}},
		struct {
			only
			hr
		}{only{m}, hr{m}},
		struct {
			only
			w
			hw
		}{only{m}, w{m}, hw{m}},
		struct {
			only
			w
			hr
		}{only{m}, w{m}, hr{m}},
		struct {
			only
			hw
			hr
		}{only{m}, hw{m}, hr{m}},
	} {
		st, _ := faultstore.Wrap(inner)
		if got, want := optional(st), optional(inner); got != want {
			t.Errorf("a wrapped store has %s, want %s", got, want)
		}
	}
}

func optional(s store.DataStore) string {
	_, w := s.(store.Watcher)
	_, hw := s.(store.HeartbeatWriter)
	_, hr := s.(store.HeartbeatReader)
	return fmt.Sprintf("Watch %v, WriteHeartbeat %v, ReadHeartbeat %v", w, hw, hr)
}

func TestBadArguments(t *testing.T) {
	for name, f := range map[string]func(){
		"no method":      func() { faultstore.New(1).Fail(0, nil) },
		"unknown method": func() { faultstore.New(1).Hang(faultstore.All + 1) },
		"Times":          func() { faultstore.Times(0) },
		"Every":          func() { faultstore.Every(-1) },
		"Chance":         func() { faultstore.Chance(1.1) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}

// Faults may come and go while the store is in use.
func TestScriptedWhileInUse(t *testing.T) {
	st, faults := wrapped(t)
	stop := make(chan struct{})
	var users sync.WaitGroup
	for range 4 {
		users.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					calls(st, 5*time.Millisecond)
				}
			}
		})
	}
	for range 50 {
		faults.Hang(faultstore.Load, faultstore.Chance(0.5))
		faults.Fail(faultstore.All, nil, faultstore.Every(3))
		slow := faults.Delay(faultstore.Apply|faultstore.Watch, time.Millisecond)
		faults.Down()
		faults.LoseWakes(true)
		until(t, "calls go on", func() bool { return faults.Counts(faultstore.All).Refused > 0 })
		faults.Up()
		slow.Remove()
		faults.Reset()
	}
	close(stop)
	users.Wait()
	for op, err := range calls(st, patience) {
		if err != nil {
			t.Errorf("%v at the end: %v", op, err)
		}
	}
}
