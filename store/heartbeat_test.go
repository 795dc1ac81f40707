package store_test

import (
	"testing"
	"time"

	"github.com/flagstead/flagstead/store"
)

func TestHeartbeatMerge(t *testing.T) {
	now := time.Now()
	at := func(d time.Duration) time.Time { return now.Add(d) }
	beat := func(writer, source string, confirmed, written time.Duration) store.Heartbeat {
		return store.Heartbeat{Writer: writer, Source: source, Confirmed: at(confirmed), Written: at(written)}
	}
	never := store.Heartbeat{Writer: "b", Source: "initializing"}
	for _, tc := range []struct {
		name      string
		old       store.Heartbeat
		confirmed time.Duration
		writer    string // whose word stands
		want      time.Duration
	}{
		{"the first", store.Heartbeat{}, -5 * time.Second, "b", -5 * time.Second},
		{"a later one", beat("a", "ok", -9*time.Second, -time.Second), -5 * time.Second, "b", -5 * time.Second},
		{"another writer confirmed later", beat("a", "ok", -time.Second, -time.Second), -5 * time.Second, "a", -time.Second},
		{"that writer is gone", beat("a", "ok", -11*time.Second, -11*time.Second), -20 * time.Second, "b", -11 * time.Second},
		{"the same writer is cut off", beat("b", "ok", -time.Second, -time.Second), -5 * time.Second, "b", -time.Second},
		{"the old one is ahead of the clock", beat("a", "ok", time.Hour, -time.Second), -5 * time.Second, "b", -5 * time.Second},
		{"the old one was written ahead of the clock", beat("a", "ok", -time.Second, time.Hour), -5 * time.Second, "b", -time.Second},
		{"the new one is ahead of the clock", beat("a", "ok", -time.Second, -time.Second), time.Hour, "b", 0},
	} {
		got, news := beat("b", "interrupted", tc.confirmed, -time.Hour).Merge(tc.old, now)
		if got.Writer != tc.writer || !got.Confirmed.Equal(at(tc.want)) || news != (tc.writer == "b") {
			t.Errorf("%s: %+v, news %v", tc.name, got, news)
		}
		if news && !got.Written.Equal(now) {
			t.Errorf("%s: written %v", tc.name, got.Written)
		}
	}
	if got, news := never.Merge(beat("a", "ok", -time.Second, -time.Second), now); news || got.Writer != "a" {
		t.Errorf("one that never confirmed took over: %+v", got)
	}
	if got, news := beat("b", "off", 0, 0).Merge(beat("a", "ok", -time.Second, -time.Second), now); news || got.Writer != "a" {
		t.Errorf("one that stops spoke for one that does not: %+v", got)
	}
	if got, news := beat("b", "ok", -5*time.Second, 0).Merge(beat("a", "off", -time.Second, -time.Second), now); !news || got.Source != "ok" || !got.Confirmed.Equal(at(-time.Second)) {
		t.Errorf("one that stopped spoke on: %+v", got)
	}
	if got, news := never.Merge(store.Heartbeat{}, now); !news || !got.Confirmed.IsZero() {
		t.Errorf("nothing was confirmed: %+v", got)
	}
}
