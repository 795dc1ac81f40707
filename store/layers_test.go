package store_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
)

// hang makes the reader answer nothing, or answer again.
func (r *reader) hang(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.block = on
}

// layered returns layers that are closed with the test.
func layered(t *testing.T, o store.LayerOptions, readers ...store.Reader) *store.Layers {
	t.Helper()
	l := store.NewLayers(o, readers...)
	t.Cleanup(func() { l.Close() })
	return l
}

func holding(t *testing.T, keys ...string) *memory.Store {
	t.Helper()
	st := memory.New()
	t.Cleanup(func() { st.Close() })
	put(t, st, true, keys...)
	return st
}

func put(t *testing.T, st *memory.Store, full bool, keys ...string) {
	t.Helper()
	c := store.Change{Full: full}
	for _, k := range keys {
		c.Items = append(c.Items, store.Item{Kind: store.Flag, Key: k, Version: 1, Data: []byte("{}")})
	}
	if _, err := st.Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

func has(t *testing.T, r store.Reader) []string {
	t.Helper()
	snap, err := r.Load(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return keys(snap)
}

// TestLayersStartWithTheBest: a store that works is not outrun by a worse one that
// is faster, also if it takes a moment.
func TestLayersStartWithTheBest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &slowReader{Reader: holding(t, "best"), by: 60 * time.Millisecond}
		f := follow(t, layered(t, store.LayerOptions{}, slow, holding(t, "worse")), store.FollowOptions{})
		after(time.Second)
		d := f.one(t)
		if d.err != nil || !slices.Equal(keys(d.snap), []string{"best"}) || d.snap.Degraded != nil || !strings.HasPrefix(d.snap.Layer, "1 (*store_test.slowReader") {
			t.Errorf("delivered %+v", d)
		}
	})
}

type slowReader struct {
	store.Reader
	by time.Duration
}

func (s *slowReader) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	after(s.by)
	return s.Reader.Load(ctx, since)
}

// TestLayersStartWithoutTheBest: the first state is that of the best layer that
// answers, whatever keeps the better ones from answering; when they do, theirs
// replaces it, and there is no way back.
func TestLayersStartWithoutTheBest(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil, mend func(*reader)
		within      time.Duration
		why         string
	}{
		"down":  {func(r *reader) { r.fail(errors.New("connection refused")) }, func(r *reader) { r.fail(nil) }, 0, "connection refused"},
		"hangs": {func(r *reader) { r.hang(true) }, func(r *reader) { r.hang(false) }, 100 * time.Millisecond, "no answer yet"},
		"empty": {func(r *reader) {}, func(r *reader) {}, 0, "it is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				best := new(reader)
				tc.spoil(best)
				middle := &reader{err: errors.New("no such file")}
				l := layered(t, store.LayerOptions{}, store.Named("redis", best), middle, store.Named("shipped", holding(t, "old")))
				f := follow(t, l, store.FollowOptions{})
				after(tc.within)
				d := f.one(t)
				if d.err != nil || !slices.Equal(keys(d.snap), []string{"old"}) || d.snap.Layer != "shipped" || d.at > tc.within {
					t.Fatalf("delivered %+v", d)
				}
				if why := d.snap.Degraded; why == nil || !strings.Contains(why.Error(), "redis: "+tc.why) || !strings.Contains(why.Error(), "no such file") {
					t.Errorf("degraded by %v", why)
				}
				// Nothing happens, and that is not reported again and again: a layer
				// that hangs fails once.
				after(time.Minute)
				if d := f.take(); len(d) > 1 {
					t.Errorf("delivered %+v", d)
				}
				best.set("new")
				tc.mend(best)
				after(11 * time.Second)
				all := f.take()
				if len(all) != 1 {
					t.Fatalf("delivered %+v", all)
				}
				d = all[0]
				if d.err != nil || d.snap.Delta || !slices.Equal(keys(d.snap), []string{"new"}) || d.snap.Layer != "redis" || d.snap.Degraded != nil {
					t.Errorf("delivered %+v", d)
				}
				best.set("newer")
				after(time.Second)
				if d := f.one(t); !d.snap.Delta || !slices.Equal(keys(d.snap), []string{"newer"}) {
					t.Errorf("delivered %+v", d)
				}
				best.fail(errors.New("down again"))
				after(5 * time.Second)
				for _, d := range f.take() {
					if d.err == nil || !strings.Contains(d.err.Error(), "redis: down again") {
						t.Errorf("went back: %+v", d)
					}
				}
			})
		})
	}
}

// TestLayersWakeForTheBest: a layer that answers late is taken at once, not with
// the next poll, and what it pushes arrives as fast as without layers.
func TestLayersWakeForTheBest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := holding(t, "a")
		slow := &slowReader{Reader: st, by: 300 * time.Millisecond}
		f := follow(t, layered(t, store.LayerOptions{}, slow, holding(t, "old")), store.FollowOptions{Interval: time.Hour})
		after(200 * time.Millisecond)
		if d := f.one(t); !slices.Equal(keys(d.snap), []string{"old"}) || d.at != 100*time.Millisecond {
			t.Errorf("delivered %+v", d)
		}
		after(101 * time.Millisecond)
		if d := f.one(t); !slices.Equal(keys(d.snap), []string{"a"}) || d.at != 300*time.Millisecond {
			t.Errorf("delivered %+v", d)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		st := holding(t, "a")
		f := follow(t, layered(t, store.LayerOptions{}, st, holding(t, "old")), store.FollowOptions{Interval: time.Hour})
		f.one(t)
		begin := time.Now()
		put(t, st, false, "b")
		if d := f.one(t); !slices.Equal(keys(d.snap), []string{"b"}) || time.Since(begin) != 0 {
			t.Errorf("delivered %+v", d)
		}
	})
}

// TestLayersAllEmptyOrDown: without any state there is none, and no error only if
// nothing is wrong.
func TestLayersAllEmptyOrDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := layered(t, store.LayerOptions{}, new(reader), new(reader))
		if snap, err := l.Load(t.Context(), ""); err != nil || snap.Rev != "" || snap.Degraded != nil {
			t.Errorf("all empty: %+v, %v", snap, err)
		}
		one, two := errors.New("one"), errors.New("two")
		l = layered(t, store.LayerOptions{}, &reader{err: one}, &reader{err: two})
		if _, err := l.Load(t.Context(), ""); !errors.Is(err, one) || !errors.Is(err, two) {
			t.Errorf("all down: %v", err)
		}
		hung := &reader{block: true}
		l = layered(t, store.LayerOptions{}, hung)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.Load(ctx, ""); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("hangs: %v", err)
		}
		l.Close()
		if _, err := l.Load(t.Context(), ""); !errors.Is(err, store.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
		if err := l.Watch(t.Context(), func() {}); !errors.Is(err, store.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
		if _, err := l.ReadHeartbeat(t.Context()); !errors.Is(err, store.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
	})
}

// TestLayersAreNotBusy: with nothing to do nothing is done but to poll.
func TestLayersAreNotBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		best, worse := new(reader), new(reader)
		best.set("a")
		worse.set("b")
		follow(t, layered(t, store.LayerOptions{}, best, worse), store.FollowOptions{})
		after(10*time.Second + time.Millisecond)
		if n := best.loaded(); n > 12 {
			t.Errorf("%d loads of the best in ten seconds", n)
		}
		if n := worse.loaded(); n != 1 {
			t.Errorf("%d loads of the worse", n)
		}
	})
}

// TestLastGood: a copy follows the best layer and is what the next start finds.
func TestLastGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		best, copy := holding(t, "a", "b"), memory.New()
		defer copy.Close()
		beat := store.Heartbeat{Confirmed: time.Now(), Source: "ok", Writer: "w"}
		if err := best.WriteHeartbeat(t.Context(), beat); err != nil {
			t.Fatal(err)
		}
		l := layered(t, store.LayerOptions{}, best, store.LastGood(copy))
		f := follow(t, l, store.FollowOptions{OnHeartbeat: func(store.Heartbeat, error) {}})
		after(2 * time.Second)
		f.one(t)
		if got := has(t, copy); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("the copy has %v", got)
		}
		put(t, best, false, "c")
		put(t, best, false, "d")
		after(time.Millisecond)
		if got := has(t, copy); !slices.Equal(got, []string{"a", "b", "c", "d"}) {
			t.Errorf("the copy has %v", got)
		}
		put(t, best, true, "e")
		after(time.Millisecond)
		if got := has(t, copy); !slices.Equal(got, []string{"e"}) {
			t.Errorf("the copy has %v", got)
		}
		f.cancel()
		l.Close()

		// The next start, while the store is down.
		l = layered(t, store.LayerOptions{}, &reader{err: errors.New("down")}, store.Named("copy", store.LastGood(copy)))
		snap, err := l.Load(t.Context(), "")
		if err != nil || !slices.Equal(keys(snap), []string{"e"}) || snap.Layer != "copy" {
			t.Errorf("loaded %+v, %v", snap, err)
		}
		if h, err := l.ReadHeartbeat(t.Context()); err != nil || !h.Confirmed.Equal(beat.Confirmed) || h.Writer != "w" {
			t.Errorf("heartbeat %+v, %v", h, err)
		}
	})
}

// TestLastGoodOfADeadWriter: a heartbeat that is not written any more does not look
// young in a copy.
func TestLastGoodOfADeadWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		best, copy := holding(t, "a"), memory.New()
		defer copy.Close()
		began := time.Now()
		if err := best.WriteHeartbeat(t.Context(), store.Heartbeat{Confirmed: began, Source: "ok", Writer: "w"}); err != nil {
			t.Fatal(err)
		}
		l := layered(t, store.LayerOptions{}, best, store.LastGood(copy))
		f := follow(t, l, store.FollowOptions{OnHeartbeat: func(store.Heartbeat, error) {}})
		after(time.Minute)
		f.take()
		h, err := copy.ReadHeartbeat(t.Context())
		if err != nil || h.Writer != "w" || h.Written.Sub(began) > 2*time.Second {
			t.Errorf("heartbeat %+v, %v; it was written at %v", h, err, began)
		}
	})
}

// TestLastGoodHoldsBack: a copy does not get what a writer that is behind put into
// a store, unless it stays.
func TestLastGoodHoldsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		best, copy := memory.New(), memory.New()
		defer best.Close()
		defer copy.Close()
		become := func(version int64) {
			t.Helper()
			_, err := best.Apply(t.Context(), store.Change{Full: true, Items: []store.Item{{Kind: store.Flag, Key: "a", Version: version, Data: []byte("{}")}}})
			if err != nil {
				t.Fatal(err)
			}
		}
		keeps := func(want int64) {
			t.Helper()
			synctest.Wait()
			snap, err := copy.Load(t.Context(), "")
			if err != nil || len(snap.Items) != 1 || snap.Items[0].Version != want {
				t.Errorf("the copy has %+v, %v; want version %d", snap, err, want)
			}
		}
		become(5)
		follow(t, layered(t, store.LayerOptions{}, best, store.LastGood(copy)), store.FollowOptions{})
		keeps(5)
		become(4)
		after(4 * time.Second)
		keeps(5)
		become(6)
		keeps(6)
		become(3)
		after(4 * time.Second)
		keeps(6)
		after(2 * time.Second)
		keeps(3)
	})
}

// A flaky store fails to apply as often as is said.
type flaky struct {
	*memory.Store
	fail    int
	err     error
	applies []store.Change
}

func (f *flaky) Apply(ctx context.Context, c store.Change) (store.Rev, error) {
	f.applies = append(f.applies, c)
	if f.fail > 0 {
		f.fail--
		return "", f.err
	}
	return f.Store.Apply(ctx, c)
}

// TestLastGoodRecovers: a copy that cannot be written is reported, costs nobody
// anything, and is whole once it can be.
func TestLastGoodRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		best := holding(t, "a")
		copy := &flaky{Store: memory.New(), err: errors.New("disk full")}
		defer copy.Close()
		var log bytes.Buffer
		l := layered(t, store.LayerOptions{Logger: slog.New(slog.NewTextHandler(&log, nil))}, best, store.LastGood(copy))
		f := follow(t, l, store.FollowOptions{})
		f.one(t)
		copy.fail = 3
		put(t, best, false, "b")
		after(time.Millisecond)
		put(t, best, false, "c")
		if d := f.take(); len(d) != 2 || d[0].err != nil || d[1].err != nil {
			t.Errorf("delivered %+v", d)
		}
		after(5 * time.Second)
		if got := has(t, copy); !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Errorf("the copy has %v", got)
		}
		if got := strings.Count(log.String(), "disk full"); got != 1 || !strings.Contains(log.String(), "copy in *store_test.flaky") {
			t.Errorf("logged %d times:\n%s", got, log.String())
		}
		if last := copy.applies[len(copy.applies)-1]; !last.Full {
			t.Error("after an unknown outcome a patch was written")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		best := holding(t, "a")
		copy := &flaky{Store: memory.New(), err: store.ErrReadOnly, fail: 1}
		defer copy.Close()
		var log bytes.Buffer
		l := layered(t, store.LayerOptions{Logger: slog.New(slog.NewTextHandler(&log, nil))}, best, store.LastGood(copy))
		f := follow(t, l, store.FollowOptions{})
		f.one(t)
		put(t, best, false, "b")
		after(time.Minute)
		if len(copy.applies) != 1 || log.Len() != 0 {
			t.Errorf("a copy that others keep was written %d times, and logged %s", len(copy.applies), log.String())
		}
	})
}

// TestLastGoodIsFinished: Close completes a copy.
func TestLastGoodIsFinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		copy := memory.New()
		defer copy.Close()
		l := store.Layered(holding(t, "a"), store.LastGood(copy))
		if _, err := l.Load(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		l.Close()
		if got := has(t, copy); !slices.Equal(got, []string{"a"}) {
			t.Errorf("the copy has %v", got)
		}
	})
}
