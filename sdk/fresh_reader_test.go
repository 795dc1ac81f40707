package sdk_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
)

// A partly readable store fails to load, or to tell its heartbeat.
type partly struct {
	*memory.Store
	mu            sync.Mutex
	load, beatErr error
}

func (p *partly) fail(load, beat error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.load, p.beatErr = load, beat
}

func (p *partly) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	p.mu.Lock()
	err := p.load
	p.mu.Unlock()
	if err != nil {
		return store.Snapshot{}, err
	}
	return p.Store.Load(ctx, since)
}

func (p *partly) ReadHeartbeat(ctx context.Context) (store.Heartbeat, error) {
	p.mu.Lock()
	err := p.beatErr
	p.mu.Unlock()
	if err != nil {
		return store.Heartbeat{}, err
	}
	return p.Store.ReadHeartbeat(ctx)
}

func readingPartly(t *testing.T, cfg sdk.Config) (*sdk.Client, *partly) {
	t.Helper()
	st := &partly{Store: memory.New()}
	return readingFrom(t, cfg, st, st.Store), st
}

// TestConfirmedIsOfTheFlagsHere: a heartbeat confirms what the store has. A client
// that cannot load that grows old.
func TestConfirmedIsOfTheFlagsHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, st := readingPartly(t, sdk.Config{MaxAge: time.Minute, WhenTooOld: sdk.ServeDefaults})
		beat(t, st.Store, "ok", 0)
		at := time.Now()
		after(2 * time.Second)
		st.fail(errors.New("cannot be read"), nil)
		for range 15 {
			after(5 * time.Second)
			beat(t, st.Store, "ok", 0)
		}
		after(2 * time.Second)
		if s := c.Status(); s.Confirmed.Sub(at) > 2*time.Second || !errors.Is(s.Err, sdk.ErrTooOld) {
			t.Errorf("confirmed %v after it could be read, %+v", s.Confirmed.Sub(at), s)
		}
		st.fail(nil, nil)
		after(10 * time.Second)
		if s := c.Status(); s.State != sdk.OK || s.Confirmed.Sub(at) < time.Minute {
			t.Errorf("readable again: %+v", s)
		}
	})
}

// TestCopyIsAsOldAsItIs: flags from an old copy have been stale since they were
// confirmed, not since the client's start.
func TestCopyIsAsOldAsItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		copy := memory.New()
		defer copy.Close()
		apply(t, copy, true, flagJSON("bool", "boolean", "true", "false", "", 1))
		beat(t, copy, "ok", 0)
		confirmed := time.Now()
		after(24 * time.Hour)
		down := &partly{Store: memory.New(), load: errors.New("down")}
		defer down.Close()
		layers := store.Layered(down, store.LastGood(copy))
		defer layers.Close()
		c, err := sdk.New(sdk.Config{Store: layers})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(context.Background())
		after(5 * time.Second)
		if d := c.BoolDetail("bool", newUser(t, "ann"), false); !d.StaleSince.Equal(confirmed) || !d.Confirmed.Equal(confirmed) {
			t.Errorf("stale since %v, confirmed at %v, want %v", d.StaleSince, d.Confirmed, confirmed)
		}
	})
}

// TestHeartbeatThatCannotBeRead: who cannot read it does not say that the syncer
// is gone.
func TestHeartbeatThatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, st := readingPartly(t, sdk.Config{})
		beat(t, st.Store, "ok", 0)
		after(2 * time.Second)
		denied := errors.New("permission denied")
		st.fail(nil, denied)
		after(time.Minute)
		if s := c.Status(); s.State != sdk.Interrupted || !errors.Is(s.Err, denied) || strings.Contains(s.Err.Error(), "not been heard of") {
			t.Errorf("status %+v", s)
		}
	})
}

// TestWritersTakeTurns: several syncers that are well are no news.
func TestWritersTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reports atomic.Int32
		c, st := reading(t, sdk.Config{OnStatus: func(sdk.Status) { reports.Add(1) }})
		said := func(writer string) {
			t.Helper()
			if err := st.WriteHeartbeat(t.Context(), store.Heartbeat{Source: "ok", Writer: writer, Confirmed: time.Now()}); err != nil {
				t.Fatal(err)
			}
			after(2 * time.Second)
			if got := c.Status().Writer; got != writer {
				t.Errorf("writer %q, want %q", got, writer)
			}
		}
		said("one")
		before := reports.Load()
		said("two")
		said("one")
		if n := reports.Load() - before; n != 0 {
			t.Errorf("%d reports", n)
		}
	})
}

// TestReadyStays: a client whose flags are too old, and are not any more, is ready
// all the time.
func TestReadyStays(t *testing.T) {
	st := memory.New()
	defer st.Close()
	apply(t, st, true, flagJSON("bool", "boolean", "true", "false", "", 1))
	beat(t, st, "ok", 0)
	c := newClient(t, sdk.Config{Store: st, MaxAge: 2 * time.Millisecond, WhenTooOld: sdk.ServeDefaults, Follow: store.FollowOptions{Interval: time.Millisecond}})
	waitReady(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			beat(t, st, "ok", 0)
			select {
			case <-time.After(4 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	wg.Go(func() {
		for ctx.Err() == nil {
			if !c.Ready() {
				t.Error("not ready")
				return
			}
		}
	})
	wg.Wait()
}
