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
)

// A gated reader holds its answers back while the gate is shut.
type gated struct {
	store.Reader
	mu   sync.Mutex
	gate chan struct{} // nil: open
}

func (g *gated) shut() (open func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	gate := make(chan struct{})
	g.gate = gate
	return func() {
		g.mu.Lock()
		g.gate = nil
		g.mu.Unlock()
		close(gate)
	}
}

func (g *gated) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	g.mu.Lock()
	gate := g.gate
	g.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return store.Snapshot{}, ctx.Err()
		}
	}
	return g.Reader.Load(ctx, since)
}

// TestLayersAnswerWhatWasAsked: what one caller asked and did not wait for is no
// answer to another one, who knows less or more.
func TestLayersAnswerWhatWasAsked(t *testing.T) {
	abandon := func(t *testing.T, l *store.Layers, since store.Rev) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.Load(ctx, since); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("the load that was to be given up: %v", err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		st := holding(t, "a")
		g := &gated{Reader: st}
		l := layered(t, store.LayerOptions{}, g)
		first, err := l.Load(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		open := g.shut()
		abandon(t, l, first.Rev)
		put(t, st, false, "b")
		after(time.Millisecond)
		go func() {
			after(time.Second)
			open()
		}()
		snap, err := l.Load(t.Context(), "")
		if err != nil || snap.Delta || !slices.Equal(keys(snap), []string{"a", "b"}) {
			t.Errorf("who knew nothing got %+v, %v", snap, err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		st := holding(t, "a")
		g := &gated{Reader: st}
		l := layered(t, store.LayerOptions{}, g)
		open := g.shut()
		abandon(t, l, "")
		open()
		after(time.Millisecond)
		// That answer came, and nobody took it. Others have come further since.
		put(t, st, false, "b")
		r, err := st.Load(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		snap, err := l.Load(t.Context(), "0:"+r.Rev)
		if err != nil || snap.Rev != "0:"+r.Rev {
			t.Errorf("went back from %s to %+v, %v", r.Rev, snap, err)
		}
	})
}

// TestLayersCloseWhileLoading: nothing of the layers runs once they are closed.
func TestLayersCloseWhileLoading(t *testing.T) {
	st := holding(t, "a")
	for range 200 {
		l := store.Layered(st)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if _, err := l.Load(t.Context(), ""); err != nil && !errors.Is(err, store.ErrClosed) && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
		}
		l.Close()
		wg.Wait()
	}
}
