package redis

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/store"
)

// hinted is a store whose messages are hints without content.
type hinted struct{ *Store }

func (h hinted) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	h.history.mu.Lock()
	h.history.empty()
	h.history.mu.Unlock()
	return h.Store.Load(ctx, since)
}

// pushed measures from the start of a commit until a Follow in another handle has
// it, n times.
func pushed(t testing.TB, srv *redistest.Server, mailbox bool, n int) []time.Duration {
	t.Helper()
	env := newEnv()
	writer, reader := open(t, srv, env), open(t, srv, env)
	var follow store.Reader = reader
	if !mailbox {
		follow = hinted{reader}
	}
	items := make([]store.Item, 1000)
	for i := range items {
		items[i] = flag(fmt.Sprint(i), 1, strings.Repeat("x", 2048))
	}
	apply(t, writer, true, items...)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	visible := make(chan time.Time, 10)
	done := make(chan error, 1)
	began := make(chan struct{}, 1)
	go func() {
		done <- store.Follow(ctx, follow, store.FollowOptions{}, func(s store.Snapshot, err error) {
			switch {
			case err != nil:
				t.Error(err)
			case s.Delta:
				visible <- time.Now()
			default:
				began <- struct{}{}
			}
		})
	}()
	<-began
	eventually(t, "the subscription", func() bool { return srv.Must(t, "PUBSUB", "NUMSUB", reader.topic) == reader.topic+"\n1" })
	took := make([]time.Duration, n)
	for i := range took {
		from := time.Now()
		apply(t, writer, false, flag(fmt.Sprint(i%1000), int64(i+2), strings.Repeat("y", 2048)))
		took[i] = (<-visible).Sub(from)
	}
	cancel()
	<-done
	slices.Sort(took)
	return took
}

func TestPushLatency(t *testing.T) {
	for _, mailbox := range []bool{false, true} {
		took := pushed(t, server, mailbox, 500)
		t.Logf("commit to visible, mailbox %t: p50 %v, p99 %v, max %v", mailbox, took[250], took[495], took[499])
		if took[250] > time.Second/2 {
			t.Error("that is polling")
		}
	}
}
