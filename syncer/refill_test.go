package syncer_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/syncer"
)

// A swapped store is a swap that notes which versions of flag a it was given.
type swapped struct {
	swap
	seen     sync.Mutex
	versions []int64
}

func (s *swapped) Apply(ctx context.Context, c store.Change) (store.Rev, error) {
	s.seen.Lock()
	for _, it := range c.Items {
		s.versions = append(s.versions, it.Version)
	}
	s.seen.Unlock()
	return s.swap.Apply(ctx, c)
}

// TestRefillIsNotOlder: a flushed store gets what FeatBit says now, since others
// may have had that in it before; but only what is held if FeatBit does not say.
func TestRefillIsNotOlder(t *testing.T) {
	for _, answers := range []bool{true, false} {
		st := &swapped{swap: swap{st: memory.New()}}
		defer st.Close()
		var asked atomic.Int32
		url := script(t, func(_ int, conn *websocket.Conn) {
			answer(conn, func(n int) {
				asked.Store(int32(n))
				if n == 1 || answers {
					send(conn, "full", flag("a", int64(n)))
				}
			})
		})
		s, _ := start(t, syncer.Config{URL: url, Secret: testSecret(t), Store: st, Ping: 50 * time.Millisecond})
		until(t, "first sync", holds(t, st, map[string]int64{"a": 1}))
		until(t, "OK", func() bool { return s.Status().State == syncer.OK })
		st.flush()
		want := int64(1)
		if answers {
			want = 2
		}
		until(t, "the store is whole again", holds(t, st, map[string]int64{"a": want}))
		if asked.Load() != 2 {
			t.Errorf("FeatBit was asked %d times", asked.Load())
		}
		st.seen.Lock()
		for _, v := range st.versions[1:] {
			if v != want {
				t.Errorf("the store was given versions %v", st.versions)
			}
		}
		st.seen.Unlock()
	}
}
