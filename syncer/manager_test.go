package syncer

import (
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
)

// TestEarlierConnections: neither what came on one nor what was to be asked on
// it counts on the next.
func TestEarlierConnections(t *testing.T) {
	m := newManager(&Syncer{cfg: Config{}.withDefaults()})
	m.openLimit = time.NewTimer(time.Hour)
	defer m.openLimit.Stop()
	signal(m.answered)
	signal(m.resync)
	signal(m.suspects)
	m.open(beginning{2, make(chan int64, 1)})
	for name, c := range map[string]chan struct{}{"answered": m.answered, "resync": m.resync, "suspects": m.suspects} {
		select {
		case <-c:
			t.Errorf("%s still has what was said of an earlier connection", name)
		default:
		}
	}
	item := store.Item{Kind: store.Flag, Key: "a", Version: 1}
	m.take(delivery{wire.DataSync{EventType: wire.Full, Items: []store.Item{item}}, 1})
	if len(m.held) != 0 || m.synced {
		t.Errorf("took %v of an earlier connection", m.held)
	}
	m.take(delivery{wire.DataSync{EventType: wire.Full, Items: []store.Item{item}}, 2})
	if len(m.held) != 1 || !m.synced {
		t.Errorf("did not take what is of the newest connection")
	}
}
