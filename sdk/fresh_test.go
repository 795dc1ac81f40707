package sdk_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
)

// after lets d pass, and what happens by then settle.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func beat(t *testing.T, st *memory.Store, source string, age time.Duration) {
	t.Helper()
	err := st.WriteHeartbeat(t.Context(), store.Heartbeat{Source: source, Writer: "w", Confirmed: time.Now().Add(-age)})
	if err != nil {
		t.Fatal(err)
	}
}

// reading returns a client on a store with a flag, in a synctest bubble.
func reading(t *testing.T, cfg sdk.Config) (*sdk.Client, *memory.Store) {
	t.Helper()
	st := memory.New()
	return readingFrom(t, cfg, st, st), st
}

// readingFrom returns a client on r, which reads st.
func readingFrom(t *testing.T, cfg sdk.Config, r store.Reader, st *memory.Store) *sdk.Client {
	t.Helper()
	apply(t, st, true, flagJSON("bool", "boolean", "true", "false", "", 1))
	cfg.Store = r
	c, err := sdk.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close(context.Background())
		st.Close()
	})
	after(time.Millisecond)
	return c
}

// TestReaderKnowsItsSource: a reader says how current the flags are by what the
// store says of its writer, and tells a writer in trouble from one that is gone.
func TestReaderKnowsItsSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, st := reading(t, sdk.Config{})
		ann := newUser(t, "ann")
		if s := c.Status(); s.State != sdk.OK || s.Source != sdk.Unknown || !s.Confirmed.IsZero() {
			t.Errorf("without a heartbeat: %+v", s)
		}
		if age, ok := c.Status().DataAge(); ok {
			t.Errorf("age %v of a store without a heartbeat", age)
		}
		beat(t, st, "ok", 0)
		confirmed := time.Now()
		after(2 * time.Second)
		s := c.Status()
		if age, ok := s.DataAge(); s.State != sdk.OK || s.Source != sdk.OK || s.Writer != "w" || !ok || age < 2*time.Second || age > 3*time.Second {
			t.Errorf("after a heartbeat: %+v, age %v", s, age)
		}
		if d := c.BoolDetail("bool", ann, false); !d.Confirmed.Equal(confirmed) || d.Source != sdk.OK || !d.StaleSince.IsZero() {
			t.Errorf("detail %+v", d)
		}

		// A connection that is lost for a moment is no news.
		beat(t, st, "interrupted", 2*time.Second)
		after(10 * time.Second)
		if s := c.Status(); s.State != sdk.OK || s.Source != sdk.Interrupted {
			t.Errorf("just interrupted: %+v", s)
		}
		for range 6 {
			beat(t, st, "interrupted", time.Since(confirmed))
			after(5 * time.Second)
		}
		s = c.Status()
		if s.State != sdk.Interrupted || !s.StaleSince.Equal(confirmed) || s.Err == nil || !strings.Contains(s.Err.Error(), "the syncer w is interrupted") {
			t.Errorf("interrupted for long: %+v", s)
		}
		if d := c.BoolDetail("bool", ann, false); !d.Value || !d.StaleSince.Equal(confirmed) || d.Age() < 40*time.Second {
			t.Errorf("detail %+v", d)
		}
		beat(t, st, "ok", 0)
		after(2 * time.Second)
		if s := c.Status(); s.State != sdk.OK || s.Err != nil {
			t.Errorf("the syncer is back: %+v", s)
		}
		after(31 * time.Second)
		if s := c.Status(); s.State != sdk.Interrupted || s.Err == nil || !strings.Contains(s.Err.Error(), "has not been heard of since") {
			t.Errorf("the syncer is gone: %+v", s)
		}
	})
}

// TestMaxAge: flags that nobody confirmed for long are reported, and withheld if
// that is asked for; a flush takes nothing of what is known about them.
func TestMaxAge(t *testing.T) {
	for _, policy := range []sdk.StalePolicy{sdk.ServeStale, sdk.ServeDefaults} {
		synctest.Test(t, func(t *testing.T) {
			var states []sdk.State
			c, st := reading(t, sdk.Config{
				MaxAge: time.Minute, WhenTooOld: policy,
				OnStatus: func(s sdk.Status) { states = append(states, s.State) },
			})
			ann := newUser(t, "ann")
			frozen := c.Snapshot()
			beat(t, st, "ok", 10*time.Second)
			after(49 * time.Second)
			if s := c.Status(); errors.Is(s.Err, sdk.ErrTooOld) {
				t.Errorf("a second before: %+v", s)
			}
			after(3 * time.Second)
			s := c.Status()
			if s.State != sdk.Interrupted || !errors.Is(s.Err, sdk.ErrTooOld) || !s.Ready || !c.Ready() {
				t.Errorf("too old: %+v", s)
			}
			if !s.StaleSince.Equal(s.Confirmed) {
				t.Errorf("stale since %v, confirmed %v", s.StaleSince, s.Confirmed)
			}
			d := c.BoolDetail("bool", ann, false)
			if policy == sdk.ServeStale {
				if !d.Value || d.Err != nil {
					t.Errorf("detail %+v, want the last flag", d)
				}
			} else if d.Value || !errors.Is(d.Err, sdk.ErrTooOld) || !errors.Is(c.AllFlags(ann).Err(), sdk.ErrTooOld) {
				t.Errorf("detail %+v, want the default", d)
			}
			if !frozen.Bool("bool", ann, false) {
				t.Error("a frozen snapshot lost its flags")
			}
			reports := len(states)
			apply(t, st, false, flagJSON("bool", "boolean", "true", "false", "", 2))
			after(5 * time.Second)
			if d := c.BoolDetail("bool", ann, false); policy == sdk.ServeDefaults && !errors.Is(d.Err, sdk.ErrTooOld) {
				t.Errorf("a push that nobody confirmed is served: %+v", d)
			}
			if n := len(states) - reports; n > 1 {
				t.Errorf("%d reports of nothing new", n)
			}
			beat(t, st, "ok", 0)
			after(2 * time.Second)
			if s := c.Status(); s.State != sdk.OK || s.Err != nil || !c.Bool("bool", ann, false) || c.BoolDetail("bool", ann, false).Version != 2 {
				t.Errorf("confirmed again: %+v", s)
			}
		})
	}
}

// TestMaxAgeWithoutHeartbeat: what nobody can confirm is as old as the client.
func TestMaxAgeWithoutHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := reading(t, sdk.Config{MaxAge: time.Minute})
		after(50 * time.Second)
		if s := c.Status(); s.State != sdk.OK {
			t.Errorf("early: %+v", s)
		}
		after(20 * time.Second)
		if s := c.Status(); !errors.Is(s.Err, sdk.ErrTooOld) || !strings.Contains(s.Err.Error(), "not confirmed since") {
			t.Errorf("late: %+v", s)
		}
	})
}

// TestDirectIsConfirmed: a client with a connection of its own knows that the
// flags are current as long as FeatBit answers its pings.
func TestDirectIsConfirmed(t *testing.T) {
	srv := serve(t)
	apply(t, srv.store, true, sampleItems()...)
	cfg := sdk.Config{StreamingURL: srv.url, EnvSecret: srv.secret}
	cfg.Sync.Ping, cfg.Sync.ReadTimeout = 10*time.Millisecond, 10*time.Second
	c := newClient(t, cfg)
	waitReady(t, c)
	first := time.Time{}
	until(t, "a first confirmation", func() bool { first = c.Status().Confirmed; return !first.IsZero() })
	if s := c.Status(); s.Source != sdk.OK {
		t.Errorf("status %+v", s)
	}
	until(t, "a later one", func() bool { return c.Status().Confirmed.After(first) })
	if d := c.BoolDetail("nope", newUser(t, "ann"), false); d.Confirmed.IsZero() || d.Source != sdk.OK {
		t.Errorf("detail %+v", d)
	}
}

func TestMaxAgeRejects(t *testing.T) {
	st := memory.New()
	defer st.Close()
	for _, cfg := range []sdk.Config{
		{Store: st, MaxAge: -1},
		{Offline: true, MaxAge: time.Minute},
		{Store: st, WhenTooOld: 2},
	} {
		if _, err := sdk.New(cfg); err == nil {
			t.Errorf("New took %+v", cfg)
		}
	}
}

// A downReader is a store that cannot be read.
type downReader struct{}

func (downReader) Load(context.Context, store.Rev) (store.Snapshot, error) {
	return store.Snapshot{}, errors.New("down")
}

// TestTooOldFromTheStart: flags that are too old are not served for the moment
// until the client knows that they are.
func TestTooOldFromTheStart(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			kept := memory.New()
			defer kept.Close()
			apply(t, kept, true, flagJSON("bool", "boolean", "true", "false", "", 1))
			beat(t, kept, "ok", time.Hour)
			layers := store.Layered(downReader{}, kept)
			defer layers.Close()
			c, err := sdk.New(sdk.Config{Store: layers, MaxAge: time.Minute, WhenTooOld: sdk.ServeDefaults, StartWait: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(context.Background())
			if !c.Ready() {
				t.Fatal("not ready")
			}
			if d := c.BoolDetail("bool", newUser(t, "ann"), false); d.Value || !errors.Is(d.Err, sdk.ErrTooOld) {
				t.Fatalf("served %+v", d)
			}
			if age, ok := c.Status().DataAge(); !ok || age < time.Hour {
				t.Errorf("age %v, %v", age, ok)
			}
		})
	}
}

// TestAgeOfALayer: the age of flags from another layer is known with them, and not
// an interval later.
func TestAgeOfALayer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := memory.New()
		defer kept.Close()
		apply(t, kept, true, flagJSON("bool", "boolean", "true", "false", "", 1))
		beat(t, kept, "ok", time.Hour)
		layers := store.Layered(downReader{}, kept)
		defer layers.Close()
		c, err := sdk.New(sdk.Config{Store: layers, StartWait: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(context.Background())
		synctest.Wait()
		if age, ok := c.Status().DataAge(); !ok || age < time.Hour {
			t.Errorf("age %v, %v", age, ok)
		}
	})
}
