package syncer_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/syncer"
)

// TestConfirmedIsInTheStore: while the store takes its time with a push, signs of
// life of FeatBit's do not confirm what it has.
func TestConfirmedIsInTheStore(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, flag("a", 1))
	f.up()
	st := newHooked(t)
	var hang atomic.Bool
	entered, release := make(chan time.Time, 1), make(chan struct{})
	st.apply = func(ctx context.Context, _ store.Change) error {
		if !hang.Load() {
			return nil
		}
		entered <- time.Now()
		select {
		case <-release:
		case <-ctx.Done():
		}
		return ctx.Err()
	}
	s, _ := start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st, Ping: 5 * time.Millisecond})
	until(t, "ok", func() bool { return s.Status().State == syncer.OK })
	hang.Store(true)
	f.set(false, flag("a", 2))
	at := <-entered
	until(t, "pongs", func() bool { return s.Status().Heard.After(at.Add(50 * time.Millisecond)) })
	if got := s.Status(); got.Confirmed.After(at) || got.State != syncer.OK {
		t.Errorf("confirmed %v after the push, state %v", got.Confirmed.Sub(at), got.State)
	}
	hang.Store(false)
	close(release)
	until(t, "confirmed", func() bool { return s.Status().Confirmed.After(at) })
}
