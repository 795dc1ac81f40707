package syncer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/syncer"
)

// many returns flags of an environment; an empty one says of none.
func many(env string, n int, version int64) []store.Item {
	items := make([]store.Item, n)
	for i := range items {
		items[i] = flag(fmt.Sprintf("f%03d", i), version)
		if env != "" {
			items[i].Data = bytes.Replace(items[i].Data, []byte("{"), []byte(`{"envId":"`+env+`",`), 1)
		}
	}
	return items
}

// A safeBuffer takes a log that is written while it is read.
type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// restart replaces what the server has while nobody looks: a server that sees its
// flags go sends tombstones.
func (f *featbit) restart(items ...store.Item) {
	f.down()
	f.set(true, items...)
	f.up()
}

// least remembers the smallest number of flags that a store ever had after it
// had the full number.
func least(t *testing.T, st *memory.Store, enough int) func() int {
	t.Helper()
	var mu sync.Mutex
	seen, fewest := false, 0
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		st.Watch(ctx, func() {
			snap, err := st.Load(context.Background(), "")
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if n := len(snap.Items); !seen && n >= enough {
				seen, fewest = true, n
			} else if seen {
				fewest = min(fewest, n)
			}
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return func() int { mu.Lock(); defer mu.Unlock(); return fewest }
}

// TestGuard: a server that suddenly has far fewer flags, or none, costs the
// store nothing until it says so again.
func TestGuard(t *testing.T) {
	for _, tc := range []struct {
		name          string
		before, after []store.Item
		cfg           syncer.Guard
		refuses       bool
		says          string
	}{
		{"nothing is left", many("", 20, 1), nil, syncer.Guard{}, true, "lacks all 20 flags"},
		{"more than half is gone", many("", 20, 1), many("", 9, 1), syncer.Guard{}, true, "lacks 11 of the store's 20 flags"},
		{"half is gone", many("", 20, 1), many("", 10, 1), syncer.Guard{}, false, ""},
		{"all but one of nine are gone", many("", 9, 1), many("", 1, 1), syncer.Guard{}, false, ""},
		{"the only flag is gone", many("", 1, 1), nil, syncer.Guard{}, true, "lacks all 1 flags"},
		{"another share", many("", 20, 1), many("", 17, 1), syncer.Guard{MaxRemoved: 0.1}, true, "lacks 3 of the store's 20"},
		{"another least number", many("", 4, 1), many("", 1, 1), syncer.Guard{MinFlags: 4}, true, "lacks 3 of the store's 4"},
		{"off", many("", 20, 1), nil, syncer.Guard{Off: true}, false, ""},
		{"grown", many("", 5, 1), many("", 30, 1), syncer.Guard{}, false, ""},
		{"the first flags", nil, many("", 1, 1), syncer.Guard{}, false, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFeatbit(t)
			f.set(true, tc.before...)
			f.up()
			st := memory.New()
			defer st.Close()
			var log safeBuffer
			tc.cfg.Wait = 50 * time.Millisecond
			var mu sync.Mutex
			var refusals []*syncer.RefusedError
			s, _ := start(t, syncer.Config{
				URL: f.url, Secret: f.secret, Store: st, Guard: tc.cfg,
				Reconcile: 20 * time.Millisecond,
				Logger:    slog.New(slog.NewTextHandler(&log, nil)),
				OnStatus: func(s syncer.Status) {
					if refused, ok := errors.AsType[*syncer.RefusedError](s.Err); ok {
						mu.Lock()
						refusals = append(refusals, refused)
						mu.Unlock()
						if s.State == syncer.OK {
							t.Error("OK in spite of a refused full state")
						}
					}
				},
			})
			until(t, "first sync", holds(t, st, versions(tc.before)))
			f.restart(tc.after...)
			until(t, "the server's new state", holds(t, st, versions(tc.after)))
			until(t, "OK", func() bool { return s.Status().State == syncer.OK && s.Status().Err == nil })
			mu.Lock()
			defer mu.Unlock()
			if got := len(refusals) > 0; got != tc.refuses || got != (s.Status().Refused > 0) {
				t.Fatalf("refused %v, status %d", refusals, s.Status().Refused)
			}
			if tc.refuses {
				if !strings.Contains(refusals[0].Error(), tc.says) {
					t.Errorf("%q does not say %q", refusals[0], tc.says)
				}
				for _, want := range []string{"level=ERROR", "refused a full state", "accepted a full state that was refused before"} {
					if !strings.Contains(log.String(), want) {
						t.Errorf("the log has no %q:\n%s", want, log.String())
					}
				}
			}
		})
	}
}

func measured(s *syncer.Syncer) map[string]float64 {
	m := map[string]float64{}
	for _, one := range s.Metrics() {
		m[one.Name] = one.Value
	}
	return m
}

func versions(items []store.Item) map[string]int64 {
	m := map[string]int64{}
	for _, it := range items {
		m[it.Key] = it.Version
	}
	return m
}

// TestGuardOutlivesAMistake: a server that comes back with an empty database, and
// then with the right one, costs the store nothing at all, also if the syncer is
// new and knows the flags from the store alone. Pushes go on to arrive.
func TestGuardOutlivesAMistake(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		t.Run(fmt.Sprintf("new syncer %v", restarted), func(t *testing.T) {
			f := newFeatbit(t)
			f.set(true, many("", 20, 1)...)
			st := memory.New()
			defer st.Close()
			if restarted {
				if _, err := st.Apply(t.Context(), store.Change{Full: true, Items: many("", 20, 1)}); err != nil {
					t.Fatal(err)
				}
				f.set(true)
			}
			fewest := least(t, st, 20)
			f.up()
			s, _ := start(t, syncer.Config{
				URL: f.url, Secret: f.secret, Store: st, Reconcile: 10 * time.Millisecond,
				Guard: syncer.Guard{Wait: time.Hour},
			})
			if !restarted {
				until(t, "first sync", holds(t, st, versions(many("", 20, 1))))
				f.restart()
			}
			until(t, "a refusal", func() bool { return s.Status().Refused > 0 })
			confirmed := s.Status().Confirmed
			if m := measured(s); m["flagstead_syncer_guard_refusing"] != 1 || m["flagstead_syncer_refused_total"] != 1 || m["flagstead_syncer_ok"] != 0 {
				t.Errorf("metrics %v", m)
			}
			f.set(false, flag("f000", 7))
			want := versions(many("", 20, 1))
			want["f000"] = 7
			until(t, "a push", holds(t, st, want))
			if got := s.Status(); got.State == syncer.OK || !got.Confirmed.Equal(confirmed) {
				t.Errorf("status %+v while a full state is refused", got)
			}
			f.restart(append(many("", 19, 2), flag("new", 3))...)
			until(t, "OK", func() bool { return s.Status().State == syncer.OK })
			want = versions(many("", 19, 2))
			want["new"] = 3
			until(t, "the restored state", holds(t, st, want))
			if fewest() < 20 {
				t.Errorf("the store had only %d flags", fewest())
			}
			if !s.Status().Confirmed.After(confirmed) {
				t.Error("still not confirmed")
			}
			m := measured(s)
			if _, known := m["flagstead_syncer_data_age_seconds"]; !known || m["flagstead_syncer_guard_refusing"] != 0 || m["flagstead_syncer_ok"] != 1 {
				t.Errorf("metrics %v", m)
			}
		})
	}
}

// TestGuardAndNewFlags: flags that come while a full state is in doubt do not keep
// FeatBit from repeating it.
func TestGuardAndNewFlags(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, many("", 20, 1)...)
	f.up()
	st := memory.New()
	defer st.Close()
	s, _ := start(t, syncer.Config{
		URL: f.url, Secret: f.secret, Store: st, Reconcile: 10 * time.Millisecond,
		Guard: syncer.Guard{Wait: 30 * time.Millisecond},
	})
	until(t, "first sync", holds(t, st, versions(many("", 20, 1))))
	f.restart(many("", 2, 1)...)
	n := int64(0)
	until(t, "the repeated state is taken", func() bool {
		n++
		f.set(false, flag(fmt.Sprint("new", n), 100+n)) // between any two answers
		_, old := content(t, st)["f015"]
		return s.Status().Refused > 0 && !old
	})
}

// TestGuardKnowsEnvironments: a syncer that was given the store of another
// environment leaves it alone, unless somebody says so.
func TestGuardKnowsEnvironments(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, many("bbb", 3, 2)...)
	f.up()
	st := memory.New()
	defer st.Close()
	if _, err := st.Apply(t.Context(), store.Change{Full: true, Items: many("aaa", 3, 1)}); err != nil {
		t.Fatal(err)
	}
	s, _ := start(t, syncer.Config{
		URL: f.url, Secret: f.secret, Store: st, Reconcile: 10 * time.Millisecond,
		Guard: syncer.Guard{Wait: time.Millisecond},
	})
	until(t, "many refusals", func() bool { return s.Status().Refused > 3 })
	if got := content(t, st); got["f000"] != 1 {
		t.Errorf("the store has %v", got)
	}
	refused, ok := errors.AsType[*syncer.RefusedError](s.Status().Err)
	if !ok || refused.Env != "bbb" || refused.Want != "aaa" || !strings.Contains(refused.Error(), "of environment bbb") {
		t.Errorf("status has %v", s.Status().Err)
	}
	s.Accept()
	until(t, "the accepted state", holds(t, st, versions(many("bbb", 3, 2))))
	until(t, "OK", func() bool { return s.Status().State == syncer.OK })

	// The word was for one state.
	if _, err := st.Apply(t.Context(), store.Change{Full: true, Items: many("aaa", 3, 1)}); err != nil {
		t.Fatal(err)
	}
	until(t, "another refusal", func() bool { return s.Status().State != syncer.OK })
	if refused, ok := errors.AsType[*syncer.RefusedError](s.Status().Err); !ok || refused.Env != "bbb" {
		t.Errorf("status has %v", s.Status().Err)
	}
}

// TestGuardAndFlush: a store that is flushed while a full state is refused gets
// back what it had.
func TestGuardAndFlush(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, many("", 20, 1)...)
	f.up()
	st := &swap{st: memory.New()}
	defer st.Close()
	s, _ := start(t, syncer.Config{
		URL: f.url, Secret: f.secret, Store: st, Reconcile: 10 * time.Millisecond,
		Guard: syncer.Guard{Wait: time.Hour},
	})
	until(t, "first sync", holds(t, st, versions(many("", 20, 1))))
	f.restart(many("", 2, 1)...)
	until(t, "a refusal", func() bool { return s.Status().Refused > 0 })
	st.flush()
	until(t, "the old state", holds(t, st, versions(many("", 20, 1))))
	if s.Status().State == syncer.OK {
		t.Error("OK in spite of a refused full state")
	}
}

// TestHeartbeat: readers of the store learn when it was last confirmed and how
// the syncer stands, also when it stops.
func TestHeartbeat(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, flag("a", 1))
	f.up()
	st := memory.New()
	defer st.Close()
	began := time.Now()
	s, err := syncer.New(fast(syncer.Config{URL: f.url, Secret: f.secret, Store: st, Name: "me"}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	says := func(source string) func() bool {
		return func() bool {
			h, err := st.ReadHeartbeat(t.Context())
			return err == nil && h.Source == source && h.Writer == "me"
		}
	}
	until(t, "ok", says("ok"))
	h, _ := st.ReadHeartbeat(t.Context())
	if h.Confirmed.Before(began) || h.Confirmed.After(time.Now()) || h.Confirmed.After(s.Status().Confirmed) {
		t.Errorf("heartbeat %+v, status %+v", h, s.Status())
	}
	f.down()
	until(t, "interrupted", says("interrupted"))
	cancel()
	<-done
	if !says("off")() {
		h, err := st.ReadHeartbeat(t.Context())
		t.Errorf("heartbeat of a syncer that ended: %+v, %v", h, err)
	}
}
