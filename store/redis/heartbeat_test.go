package redis

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/flagstead/flagstead/store"
)

// near reports whether two times are the same but for the time that a test takes.
func near(a, b time.Time) bool {
	return a.IsZero() == b.IsZero() && a.Sub(b).Abs() < 2*time.Second
}

// The script follows the rule that package store states in Go.
func TestHeartbeatMergesLikeTheRule(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	c := rawClient(t, server)
	for range 300 {
		s := open(t, server, newEnv())
		var want store.Heartbeat
		for range 4 {
			h := store.Heartbeat{Source: []string{"ok", "off"}[rnd.IntN(2)], Writer: []string{"a", "b", "c"}[rnd.IntN(3)]}
			if rnd.IntN(5) > 0 {
				h.Confirmed = time.Now().Add(-time.Duration(rnd.IntN(8)-1) * 5 * time.Second)
			}
			if err := s.WriteHeartbeat(bounded(t), h); err != nil {
				t.Fatal(err)
			}
			want, _ = h.Merge(want, time.Now())
			// Some of them get old.
			if shift := time.Duration(rnd.IntN(3)) * 7 * time.Second; shift > 0 {
				want.Written = want.Written.Add(-shift)
				at, _ := strconv.ParseInt(c.HGet(bounded(t), s.beat, "written").Val(), 10, 64)
				c.HSet(bounded(t), s.beat, "written", at-shift.Milliseconds())
			}
			got, err := s.ReadHeartbeat(bounded(t))
			if err != nil {
				t.Fatal(err)
			}
			if got.Source != want.Source || got.Writer != want.Writer || !near(got.Confirmed, want.Confirmed) || !near(got.Written, want.Written) {
				t.Fatalf("after %+v: %+v, want %+v", h, got, want)
			}
		}
		s.Close()
	}
}

func TestHeartbeat(t *testing.T) {
	env := newEnv()
	s, other, c := open(t, server, env), open(t, server, env), rawClient(t, server)
	if h, err := other.ReadHeartbeat(bounded(t)); err != nil || h != (store.Heartbeat{}) {
		t.Errorf("nothing was written: %+v, %v", h, err)
	}
	rev := apply(t, s, true, flag("a", 1, "1"))
	woken := watch(t, other)
	if err := s.WriteHeartbeat(bounded(t), store.Heartbeat{Confirmed: time.Now().Add(-time.Minute), Source: "ok", Writer: "w"}); err != nil {
		t.Fatal(err)
	}
	h, err := other.ReadHeartbeat(bounded(t))
	if err != nil || h.Source != "ok" || h.Writer != "w" || !near(h.Confirmed, time.Now().Add(-time.Minute)) || !near(h.Written, time.Now()) {
		t.Errorf("%+v, %v", h, err)
	}
	if got := load(t, other, "").Rev; got != rev || len(woken) != 0 {
		t.Errorf("a heartbeat made Rev %q of %q, or woke somebody: %d", got, rev, len(woken))
	}
	if ttl := c.TTL(bounded(t), s.beat).Val(); ttl < time.Hour {
		t.Errorf("expires in %v", ttl)
	}
	// The server's clock runs ahead by an hour from now on, or did so far.
	for _, shift := range []int64{3600_000, -3600_000} {
		at, _ := strconv.ParseInt(c.HGet(bounded(t), s.beat, "confirmed").Val(), 10, 64)
		c.HSet(bounded(t), s.beat, "confirmed", at+shift, "written", at+shift)
		h, err := other.ReadHeartbeat(bounded(t))
		if err != nil || h.Confirmed.After(time.Now()) || h.Written.After(time.Now()) {
			t.Errorf("in the future: %+v, %v", h, err)
		}
	}
	for name, harm := range map[string]func() error{
		"a field gone":    func() error { return c.HDel(bounded(t), s.beat, "writer").Err() },
		"another content": func() error { return c.HSet(bounded(t), s.beat, "written", "soon").Err() },
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		_, err := other.ReadHeartbeat(bounded(t))
		wantErr(t, err, store.ErrDamaged, `redis: read heartbeat of environment "`)
		if err := s.WriteHeartbeat(bounded(t), store.Heartbeat{Source: "off", Writer: "w2"}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if h, err := other.ReadHeartbeat(bounded(t)); err != nil || h.Writer != "w2" {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
	c.Set(bounded(t), s.beat, "text", 0)
	_, err = other.ReadHeartbeat(bounded(t))
	wantErr(t, err, nil, s.beat, "wrong type")
	s.Close()
	_, err = s.ReadHeartbeat(bounded(t))
	wantErr(t, err, store.ErrClosed)
	wantErr(t, s.WriteHeartbeat(bounded(t), h), store.ErrClosed)
}

// Hosts whose clocks differ exchange ages, not times.
func TestHeartbeatOfHostsWithOtherClocks(t *testing.T) {
	there := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC) // what the writer calls now
	here := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	ms := age(there.Add(-3*time.Second), there)
	h, err := heartbeat([]string{"ok", ms, "ok", "w", "500"}, here)
	if err != nil || !h.Confirmed.Equal(here.Add(-3*time.Second)) || !h.Written.Equal(here.Add(-time.Second/2)) {
		t.Errorf("%+v, %v", h, err)
	}
	if ms := age(there.Add(time.Hour), there); ms != "0" {
		t.Errorf("what will be is %s ms old", ms)
	}
	for _, bad := range [][]string{{"ok"}, {"ok", "x", "ok", "w", "1"}, {"ok", "1", "ok", "w", ""}, {"?"}} {
		if h, err := heartbeat(bad, here); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %+v, %v", bad, h, err)
		}
	}
}
