package forward

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/redis"
)

// TestReadersToFeatBit: clients that know nothing but Redis, and two pumps of which
// one stops while it has events: all events come to FeatBit, also those that were
// recorded while Redis was frozen.
func TestReadersToFeatBit(t *testing.T) {
	srv := redistest.Start(t)
	open := func() *redis.Store {
		s, err := redis.Open(srv.URL()+"/0?env=prod", &redis.Options{Timeout: 500 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	if _, err := open().Apply(t.Context(), store.Change{Full: true, Items: []store.Item{flagItem(t)}}); err != nil {
		t.Fatal(err)
	}
	ids, secrets := newEnvs(t, 1)
	fb := serveFeatBit(t, nil)
	var clients []*sdk.Client
	for range 2 {
		st := open()
		c, err := sdk.New(sdk.Config{Store: st, Outbox: st, StartWait: patient, FlushInterval: 20 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	var want []string
	record := func(phase string) {
		for i, c := range clients {
			for j := range 200 {
				key := fmt.Sprintf("%s-%d-%d", phase, i, j)
				u, err := sdk.NewUser(key)
				if err != nil {
					t.Fatal(err)
				}
				if !c.Bool("on", u, false) {
					t.Fatal("the flag is off")
				}
				want = append(want, key)
			}
		}
	}
	record("up")
	ctx, stop := context.WithCancel(t.Context())
	first, err := NewPump(PumpConfig{Outbox: open(), Env: ids[0], URL: fb.URL, Secret: secrets.get, Consumer: "first", Interval: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- first.Run(ctx) }()
	deadline := time.Now().Add(patient)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for first.Stats().Delivered == 0 {
		if time.Now().After(deadline) {
			t.Fatalf("nothing is delivered: %+v", first.Stats())
		}
		<-tick.C
	}
	stop()
	<-done
	srv.Freeze(t)
	record("frozen")
	srv.Thaw(t)
	second := runPump(t, PumpConfig{Outbox: open(), Env: ids[0], URL: fb.URL, Secret: secrets.get, Consumer: "first"})
	for _, c := range clients {
		if err := c.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if st := c.EventStats(); st.Recorded != 400 || st.Delivered != 400 {
			t.Errorf("a client counts %+v", st)
		}
	}
	counter := open()
	var st store.OutboxStats
	for {
		if st, err = counter.OutboxStats(t.Context()); err != nil {
			t.Fatal(err)
		}
		if st.Pending == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v, %+v", st, second.Stats())
		}
		<-tick.C
	}
	got := fb.of(ids[0])
	twice := len(got) - 800
	if got = slices.Compact(sorted(got)); !slices.Equal(got, sorted(want)) {
		t.Errorf("FeatBit got %d different events, want %d", len(got), len(want))
	}
	if twice < 0 || twice > 50 { // the request that was cut
		t.Errorf("%d events came too often", twice)
	}
	if st.Added != 800 || st.Acknowledged != 800 || st.Trimmed != 0 {
		t.Errorf("%+v", st)
	}
}

func flagItem(t *testing.T) store.Item {
	t.Helper()
	text, err := json.Marshal(map[string]any{
		"id": "1", "key": "on", "isEnabled": true, "variationType": "boolean", "disabledVariationId": "f", "updatedAt": "2026-01-01T00:00:00Z",
		"variations":  []map[string]string{{"id": "t", "value": "true"}, {"id": "f", "value": "false"}},
		"fallthrough": map[string]any{"includedInExpt": true, "variations": []map[string]any{{"id": "t", "rollout": []float64{0, 1}, "exptRollout": 1}}},
		"targetUsers": []any{}, "rules": []any{},
	})
	if err != nil {
		t.Fatal(err)
	}
	return store.Item{Kind: store.Flag, Key: "on", Version: 1, Data: text}
}
