package store_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flagstead/flagstead/store"
)

// TestFollowTakesAnything: a store that breaks the rules is the caller's to deal
// with.
func TestFollowTakesAnything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &history{}
		h.now = store.Snapshot{Rev: "r1", Delta: true, Items: []store.Item{{Kind: store.Flag, Key: "a", Version: 1}}}
		f := follow(t, h, store.FollowOptions{HoldBack: time.Second})
		if d := f.one(t); d.err != nil || !d.snap.Delta {
			t.Errorf("delivered %+v", d)
		}
	})
}

// TestFollowHoldsBackNoLonger: what is held back is delivered when the time is
// over, also if nothing wakes Follow and it polls seldom.
func TestFollowHoldsBackNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &watched{watches: make(chan watch, 1)}
		h.beat.Written = time.Now()
		h.become("r1", map[string]int64{"a": 5})
		f := follow(t, h, store.FollowOptions{HoldBack: 5 * time.Second, Interval: time.Hour})
		f.one(t)
		h.become("x1", map[string]int64{"a": 4})
		(<-h.watches).wake()
		if d := f.one(t); !errors.Is(d.err, store.ErrHeldBack) {
			t.Errorf("delivered %+v", d)
		}
		after(6 * time.Second)
		if all := f.take(); len(all) == 0 || all[len(all)-1].err != nil {
			t.Errorf("delivered %+v", all)
		}
	})
	// A state that is held back and flushed says nothing about the next one.
	synctest.Test(t, func(t *testing.T) {
		h := &history{}
		h.beat.Written = time.Now()
		h.become("r1", map[string]int64{"a": 5})
		f := follow(t, h, store.FollowOptions{HoldBack: 5 * time.Second})
		f.one(t)
		h.become("x1", map[string]int64{"a": 4})
		after(time.Second + time.Millisecond)
		if d := f.one(t); !errors.Is(d.err, store.ErrHeldBack) {
			t.Errorf("delivered %+v", d)
		}
		h.become("", nil)
		after(time.Minute)
		f.take()
		h.become("y1", map[string]int64{"a": 3})
		after(time.Second)
		if d := f.one(t); !errors.Is(d.err, store.ErrHeldBack) {
			t.Errorf("delivered %+v", d)
		}
	})
}

// A watched history tells of changes when the test says so.
type watched struct {
	history
	watches chan watch
}

func (w *watched) Watch(ctx context.Context, wake func()) error {
	w.watches <- watch{wake: wake}
	wake()
	<-ctx.Done()
	return ctx.Err()
}
