package syncer_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/syncer"
)

// mortal is a store whose lease one syncer can no longer prolong or release: it died.
type mortal struct {
	*memory.Store
	dead atomic.Bool
}

func (m *mortal) Acquire(ctx context.Context, name string, ttl time.Duration) (bool, error) {
	if m.dead.Load() {
		return false, errDown
	}
	return m.Store.Acquire(ctx, name, ttl)
}

func (m *mortal) Release(ctx context.Context, name string) error {
	if m.dead.Load() {
		return errDown
	}
	return m.Store.Release(ctx, name)
}

// TestLease: one of two syncers is connected. When it ends, or dies, the other one
// takes over, with what the store has then.
func TestLease(t *testing.T) {
	for name, dies := range map[string]bool{"ends": false, "dies": true} {
		t.Run(name, func(t *testing.T) {
			var open, opened atomic.Int32
			var items atomic.Pointer[[]store.Item]
			items.Store(&[]store.Item{flag("a", 1000), flag("gone", 1000)})
			url := script(t, func(_ int, conn *websocket.Conn) {
				opened.Add(1)
				for began := time.Now(); !open.CompareAndSwap(0, 1); {
					if time.Since(began) > 2*time.Second { // the end of the other one is on its way
						t.Error("two are connected")
						return
					}
				}
				defer open.Store(0)
				for {
					_, text, err := conn.ReadMessage()
					if err != nil {
						return
					}
					if string(text) != "" {
						send(conn, wire.Full, *items.Load()...)
					}
				}
			})
			shared := memory.New()
			defer shared.Close()
			first := &mortal{Store: shared}
			secret := testSecret(t)
			cfg := syncer.Config{URL: url, Secret: secret, Store: first, Lease: true, Name: "one"}
			one, err := syncer.New(fast(cfg))
			if err != nil {
				t.Fatal(err)
			}
			ctx, end := context.WithCancel(t.Context())
			defer end()
			done := make(chan struct{})
			go func() { one.Run(ctx); close(done) }()
			until(t, "one is ok", func() bool { return one.Status().State == syncer.OK })
			cfg.Store, cfg.Name = shared, "two"
			two, _ := start(t, cfg)
			until(t, "two stands by", func() bool { return errors.Is(two.Status().Err, syncer.ErrStandby) })
			items.Store(&[]store.Item{flag("a", 1000)})
			one.Reconcile()
			until(t, "a deletion", holds(t, shared, map[string]int64{"a": 1000}))
			first.dead.Store(dies)
			end()
			<-done
			began := time.Now()
			items.Store(&[]store.Item{flag("a", 2000)})
			until(t, "two takes over", func() bool { return two.Status().State == syncer.OK })
			until(t, "and writes", holds(t, shared, map[string]int64{"a": 2000}))
			t.Logf("taken over after %v", time.Since(began))
			if n := opened.Load(); n != 2 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

// TestLeaseLost: a syncer that was paused, and lost the lease meanwhile, leaves.
func TestLeaseLost(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, flag("a", 1000))
	f.up()
	st := memory.New()
	defer st.Close()
	s, _ := start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st, Lease: true, Name: "one"})
	until(t, "ok", func() bool { return s.Status().State == syncer.OK })
	if err := st.Release(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	until(t, "another one has it", func() bool {
		held, err := st.Acquire(t.Context(), "other", time.Minute)
		if err == nil && !held {
			st.Release(t.Context(), "one")
		}
		return held
	})
	until(t, "standing by", func() bool { return errors.Is(s.Status().Err, syncer.ErrStandby) })
	if err := st.Release(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	until(t, "ok again", func() bool { return s.Status().State == syncer.OK })
}

func TestLeaseNeedsAStoreWithOne(t *testing.T) {
	st := struct{ store.DataStore }{memory.New()}
	defer st.Close()
	if _, err := syncer.New(syncer.Config{URL: "ws://x", Secret: testSecret(t), Store: st, Lease: true}); err == nil {
		t.Error("no error")
	}
}
