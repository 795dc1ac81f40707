package redis

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/store"
)

// TestOldReports: what nobody writes again is not listed, and goes away; what is no
// report is ignored.
func TestOldReports(t *testing.T) {
	srv := redistest.Start(t)
	s, c := open(t, srv, "old"), rawClient(t, srv)
	if err := s.WriteReport(bounded(t), store.Report{Reader: "alive", State: "ok"}); err != nil {
		t.Fatal(err)
	}
	now := time.Now().UnixMilli()
	body := `{"reader":%q,"state":"ok"}`
	for name, value := range map[string]string{
		"r:young":   fmt.Sprintf("%d||"+body, now-store.ReportLife.Milliseconds()/2, "young"),
		"r:old":     fmt.Sprintf("%d|%d|"+body, now-store.ReportLife.Milliseconds()-1, now-99999, "old"),
		"r:garbage": "garbage",
		"r:text":    fmt.Sprintf("%d||no JSON", now),
		"r:nobody":  fmt.Sprintf("%d||{}", now),
	} {
		if err := c.HSet(bounded(t), s.reports, name, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
	names := func() (out []string) {
		all, err := s.ReadReports(bounded(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range all {
			out = append(out, r.Reader)
		}
		return out
	}
	if got := fmt.Sprint(names()); got != "[alive young]" {
		t.Errorf("reports of %s", got)
	}
	// It is swept once in a while.
	if err := c.HSet(bounded(t), s.reports, "$swept", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if err := s.WriteReport(bounded(t), store.Report{Reader: "alive", State: "ok"}); err != nil {
		t.Fatal(err)
	}
	left := c.HKeys(bounded(t), s.reports).Val()
	for _, gone := range []string{"r:old", "r:garbage"} {
		if strings.Contains(fmt.Sprint(left), gone) {
			t.Errorf("%s is still there: %v", gone, left)
		}
	}
	if ttl := c.PTTL(bounded(t), s.reports).Val(); ttl <= 0 || ttl > 2*store.ReportLife {
		t.Errorf("the key expires after %v", ttl)
	}
	// More readers than anybody has are refused, those that are known are not.
	if _, err := c.Eval(bounded(t), `for i = 1, 10001 do redis.call('HSET', KEYS[1], 'r:x' .. i, ARGV[1]) end`, []string{s.reports}, fmt.Sprintf("%d||{}", now)).Result(); err != nil && !strings.Contains(err.Error(), "nil") {
		t.Fatal(err)
	}
	wantErr(t, s.WriteReport(bounded(t), store.Report{Reader: "one more", State: "ok"}), nil, "readers already")
	if err := s.WriteReport(bounded(t), store.Report{Reader: "alive", State: "ok"}); err != nil {
		t.Error(err)
	}
}

// TestDamagedHistory: what somebody removed or overwrote costs the revisions that
// need it, and no more; the next whole state goes on.
func TestDamagedHistory(t *testing.T) {
	srv := redistest.Start(t)
	for name, spoil := range map[string]func(s *Store) error{
		"a body is gone":     func(s *Store) error { return s.client.HDel(bounded(t), s.bodies, "2").Err() },
		"a body is garbage":  func(s *Store) error { return s.client.HSet(bounded(t), s.bodies, "2", "x").Err() },
		"an entry is gone":   func(s *Store) error { return s.client.HDel(bounded(t), s.past, "2").Err() },
		"an entry is wrong":  func(s *Store) error { return s.client.HSet(bounded(t), s.past, "2", `{"n":7}`).Err() },
		"the last is gone":   func(s *Store) error { return s.client.HDel(bounded(t), s.past, "3").Err() },
		"all bodies are":     func(s *Store) error { return s.client.Del(bounded(t), s.bodies).Err() },
		"somebody's own key": func(s *Store) error { return s.client.HSet(bounded(t), s.past, "note", "hello").Err() },
	} {
		s := openURL(t, srv.URL(), newEnv(), nil)
		for n := range uint64(3) {
			r := store.Record{Rev: store.Rev(fmt.Sprint("r", n+1)), Prev: store.Rev(fmt.Sprint("r", n)), After: n, Whole: n == 0, Items: []store.Item{flag("a", int64(n+1), "x")}}
			if _, err := s.AppendRevision(bounded(t), r, store.Keep{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := spoil(s); err != nil {
			t.Fatal(err)
		}
		all, err := s.Revisions(bounded(t))
		if err != nil || len(all) < 2 {
			t.Errorf("%s: %+v, %v", name, all, err)
		}
		for n := uint64(1); n <= 3; n++ {
			if snap, err := s.At(bounded(t), n); err == nil && (len(snap.Items) != 1 || snap.Items[0].Version != int64(n)) {
				t.Errorf("%s: revision %d is %+v", name, n, snap)
			}
		}
		r := store.Record{Rev: "next", After: all[len(all)-1].N, Whole: true, Items: []store.Item{flag("a", 9, "x")}}
		rev, err := s.AppendRevision(bounded(t), r, store.Keep{})
		if err != nil || rev.N != 4 {
			t.Errorf("%s: the next one: %+v, %v", name, rev, err)
			continue
		}
		if snap, err := s.At(bounded(t), rev.N); err != nil || snap.Items[0].Version != 9 {
			t.Errorf("%s: the next one is %+v, %v", name, snap, err)
		}
	}
}

// TestFeatBitLayoutIsNotFrozen: it says so, and readers of it are not disturbed.
func TestFeatBitLayoutIsNotFrozen(t *testing.T) {
	srv := redistest.Start(t)
	s, err := Open(srv.URL()+"?layout=featbit&write=true&env=6f1d5c3e-0b7a-4f0e-9a55-2f3a1c9b7d10", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	wantErr(t, s.WriteControl(bounded(t), store.Control{Frozen: true}), nil, "cannot be frozen")
	if c, err := s.ReadControl(bounded(t)); err != nil || c.Frozen {
		t.Errorf("%+v, %v", c, err)
	}
	_, err = s.Revisions(bounded(t))
	wantErr(t, err, nil, "keeps no revisions")
	_, err = s.AppendRevision(bounded(t), store.Record{Rev: "x", Whole: true}, store.Keep{})
	wantErr(t, err, nil, "keeps no revisions")
	if err := s.WriteReport(bounded(t), store.Report{Reader: "r", State: "ok"}); err != nil {
		t.Error(err)
	}
	if all, err := s.ReadReports(bounded(t)); err != nil || len(all) != 1 {
		t.Errorf("%+v, %v", all, err)
	}
}
