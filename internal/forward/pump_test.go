package forward

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
)

// A moody outbox fails at times, before or after it did what it was told.
type moody struct {
	*memory.Store
	bad atomic.Bool
}

var errMood = errors.New("not in the mood")

func (m *moody) mood(f func() error) error {
	if m.bad.Load() && rand.N(3) == 0 {
		return errMood
	}
	if err := f(); err != nil {
		return err
	}
	if m.bad.Load() && rand.N(3) == 0 {
		return errMood
	}
	return nil
}

func (m *moody) ReadEvents(ctx context.Context, consumer string, limit int) (events []store.Event, err error) {
	err = m.mood(func() error { events, err = m.Store.ReadEvents(ctx, consumer, limit); return err })
	return events, err
}

func (m *moody) AckEvents(ctx context.Context, receipts []string) error {
	return m.mood(func() error { return m.Store.AckEvents(ctx, receipts) })
}

func runPump(t *testing.T, cfg PumpConfig) *Pump {
	t.Helper()
	cfg.RetryMin, cfg.RetryMax, cfg.Interval = time.Millisecond, 10*time.Millisecond, 5*time.Millisecond
	if cfg.SuspendFor == 0 {
		cfg.SuspendFor = 20 * time.Millisecond
	}
	p, err := NewPump(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v", err)
		}
	})
	return p
}

func events(keys []string) []store.Event {
	var list []store.Event
	for i, in := range insights(keys) {
		list = append(list, store.Event{ID: "id-" + keys[i], Data: in})
	}
	return list
}

// emptied waits until the outbox of st is empty, and returns its counters.
func emptied(t *testing.T, st *memory.Store) store.OutboxStats {
	t.Helper()
	deadline := time.Now().Add(patient)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		s, err := st.OutboxStats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s.Pending == 0 {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("the outbox is never empty: %+v", s)
		}
		<-tick.C
	}
}

// TestPumps: two processes share an outbox that fails at times, while FeatBit has
// bad answers of all kinds, and each event arrives once: no answer of FeatBit got
// lost.
func TestPumps(t *testing.T) {
	ids, secrets := newEnvs(t, 1)
	fb := serveFeatBit(t, func(_ string, keys []string) (int, string) {
		if slices.Contains(keys, "w1-13") {
			return 400, ""
		}
		return []int{0, 0, 0, 500, 429, 401}[rand.N(6)], ""
	})
	o := &moody{Store: memory.New()}
	defer o.Close()
	o.bad.Store(true)
	var pumps []*Pump
	for i := range 2 {
		pumps = append(pumps, runPump(t, PumpConfig{Outbox: o, Env: ids[0], URL: fb.URL, Secret: secrets.get, Consumer: fmt.Sprint("c", i)}))
	}
	var want []string
	for i := range 3 {
		list := keys(fmt.Sprint("w", i), 300)
		want = append(want, list...)
		for range 2 { // repeated, as after an unknown outcome
			if err := o.AppendEvents(t.Context(), events(list)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := o.AppendEvents(t.Context(), []store.Event{{ID: "no json", Data: []byte("x")}, {ID: "no object", Data: []byte(" [1]")}}); err != nil {
		t.Fatal(err)
	}
	st := emptied(t, o.Store)
	want = slices.DeleteFunc(want, func(k string) bool { return k == "w1-13" })
	if got := fb.of(ids[0]); !slices.Equal(sorted(got), sorted(want)) {
		t.Errorf("FeatBit got %d events, want %d", len(got), len(want))
	}
	if st.Added != 902 || st.Acknowledged != 902 || st.Ignored != 900 {
		t.Errorf("%+v", st)
	}
	a, b := pumps[0].Stats(), pumps[1].Stats()
	if a.Delivered+b.Delivered != 899 || a.Refused+b.Refused != 3 || a.Errors+b.Errors == 0 {
		t.Errorf("%+v, %+v", a, b)
	}
}

// TestPumpWithoutSecret: events stay in the outbox until there is one.
func TestPumpWithoutSecret(t *testing.T) {
	ids, secrets := newEnvs(t, 1)
	fb := serveFeatBit(t, nil)
	st := memory.New()
	defer st.Close()
	if err := st.AppendEvents(t.Context(), events(keys("k", 70))); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	asked, known := 0, false
	runPump(t, PumpConfig{Outbox: st, Env: ids[0], URL: fb.URL, Consumer: "c", Secret: func(env string) (protocol.Secret, bool) {
		mu.Lock()
		defer mu.Unlock()
		if asked++; asked == 3 {
			if got := len(fb.of(ids[0])); got != 0 {
				t.Errorf("%d events were delivered without a secret", got)
			}
			known = true
		}
		return secrets[env], known
	}})
	emptied(t, st)
	if got := fb.of(ids[0]); !slices.Equal(sorted(got), sorted(keys("k", 70))) {
		t.Errorf("FeatBit got %d events", len(got))
	}
}
