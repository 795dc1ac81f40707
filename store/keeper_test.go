package store_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
)

// TestLastGoodOfSeveralReaders: a copy goes on to be kept when the reader that
// knew most is gone.
func TestLastGoodOfSeveralReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		best, copy := holding(t, "a"), memory.New()
		defer copy.Close()
		l := layered(t, store.LayerOptions{}, best, store.LastGood(copy))
		load := func(since store.Rev) store.Rev {
			t.Helper()
			snap, err := l.Load(t.Context(), since)
			if err != nil {
				t.Fatal(err)
			}
			return snap.Rev
		}
		slow := load("")
		quick := slow
		put(t, best, false, "b")
		load(quick)
		put(t, best, false, "c")
		slow = load(slow) // quick is closed
		put(t, best, false, "d")
		load(slow)
		after(time.Millisecond)
		if got := has(t, copy); !slices.Equal(got, []string{"a", "b", "c", "d"}) {
			t.Errorf("the copy has %v", got)
		}
	})
}

// A speechless store takes no heartbeats.
type speechless struct {
	*memory.Store
	mu    sync.Mutex
	fulls int
}

func (s *speechless) WriteHeartbeat(context.Context, store.Heartbeat) error {
	return errors.New("no heartbeats")
}

func (s *speechless) Apply(ctx context.Context, c store.Change) (store.Rev, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.Full {
		s.fulls++
	}
	return s.Store.Apply(ctx, c)
}

// TestLastGoodWithoutHeartbeats: a heartbeat that cannot be written does not make
// the copy be written again.
func TestLastGoodWithoutHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		best, copy := holding(t, "a"), &speechless{Store: memory.New()}
		defer copy.Close()
		if err := best.WriteHeartbeat(t.Context(), store.Heartbeat{Source: "ok", Writer: "w"}); err != nil {
			t.Fatal(err)
		}
		l := layered(t, store.LayerOptions{}, best, store.LastGood(copy))
		follow(t, l, store.FollowOptions{OnHeartbeat: func(store.Heartbeat, error) {}})
		after(10 * time.Second)
		put(t, best, false, "b")
		after(2 * time.Minute)
		if got := has(t, copy); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("the copy has %v", got)
		}
		copy.mu.Lock()
		defer copy.mu.Unlock()
		if copy.fulls != 1 {
			t.Errorf("the copy was written as a whole %d times", copy.fulls)
		}
	})
}
