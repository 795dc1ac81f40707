package redis

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/store"
)

// onServers has a syncer's and a reader's handle do all that they do.
func onServers(t *testing.T, raw, env string) (w *Store, r *reading) {
	t.Helper()
	join := "?"
	if strings.Contains(raw, "?") {
		join = "&"
	}
	raw += join + "layout=featbit"
	w, r = openURL(t, raw+"&write=true", env, nil), &reading{s: openURL(t, raw, env, nil)}
	_, err := r.s.Load(bounded(t), "")
	wantErr(t, err, ErrNotPopulated)
	seg := segmentDoc(env, "s", 1)
	items := []store.Item{seg.item(env)}
	for i := range 300 { // on every node, and more than go out at once
		d := flagDoc(env, strings.Repeat("k", 1+i), int64(i+1))
		d.uses = seg.id
		items = append(items, d.item(env))
	}
	rev := apply(t, w, true, items...)
	if got := r.load(t); r.rev != rev || !maps.Equal(got, content(items)) {
		t.Fatalf("%d items at %q, want %d at %q", len(got), r.rev, len(items), rev)
	}
	woken := watch(t, r.s)
	drain(woken)
	a := flagDoc(env, "k", 1000)
	apply(t, w, false, a.item(env), seg.edited(1001).item(env))
	waitUntil(t, "a message arrives", func() bool { return len(woken) > 0 })
	if got := r.load(t); len(got) != len(items) || !strings.HasPrefix(got["f:k"], a.version()) {
		t.Fatalf("%d items, %s", len(got), got["f:k"])
	}
	last := apply(t, w, true, a.item(env), seg.edited(1002).item(env))
	if got := r.load(t); len(got) != 2 || r.rev != last {
		t.Fatalf("%d items after a full change", len(got))
	}
	return w, r
}

func TestFeatBitOnCluster(t *testing.T) {
	cluster, env := redistest.StartCluster(t, redistest.Options{}), newGUID()
	w, r := onServers(t, cluster.URL(), env)
	cluster.KillMasterOf(t, flagIndex(env))
	failedOver(t, w, r, env)
}

func TestFeatBitOnSentinel(t *testing.T) {
	sentinels, env := redistest.StartSentinel(t, 1, redistest.Options{}), newGUID()
	w, r := onServers(t, sentinels.URL(), env)
	sentinels.KillMaster(t)
	failedOver(t, w, r, env)
}

// failedOver wants both to work again.
func failedOver(t *testing.T, w *Store, r *reading, env string) {
	t.Helper()
	d := flagDoc(env, "after", 5000)
	began := time.Now()
	waitUntil(t, "a change is written", func() bool {
		_, err := w.Apply(bounded(t), store.Change{Full: true, Items: []store.Item{d.item(env)}})
		return err == nil
	})
	waitUntil(t, "the reader has it", func() bool {
		snap, err := r.s.Load(bounded(t), r.rev)
		if err != nil {
			return false
		}
		r.take(t, snap)
		return len(r.state) == 1 && r.state["f:after"] != ""
	})
	t.Logf("working again %v after the kill", time.Since(began))
}

func TestFeatBitHeartbeat(t *testing.T) {
	srv, c, env := fresh(t)
	beat := store.Heartbeat{Confirmed: time.Now().Add(-time.Minute), Source: "ok", Writer: "w"}
	reader := openFeatBit(t, srv, env, FeatBitOptions{})
	wantErr(t, reader.WriteHeartbeat(bounded(t), beat), store.ErrReadOnly)
	w := openFeatBit(t, srv, strings.ToUpper(env), FeatBitOptions{Write: true})
	if h, err := reader.ReadHeartbeat(bounded(t)); err != nil || h != (store.Heartbeat{}) {
		t.Errorf("where FeatBit writes: %+v, %v", h, err)
	}
	if err := w.WriteHeartbeat(bounded(t), beat); err != nil {
		t.Fatal(err)
	}
	runAll(t, c, raw("HSET", "featbit:secret:"+aSecret, "type", "server", "envId", env))
	bySecret := openFeatBit(t, srv, "", FeatBitOptions{Secret: aSecret})
	for _, s := range []*Store{reader, bySecret} {
		if h, err := s.ReadHeartbeat(bounded(t)); err != nil || h.Writer != "w" || !near(h.Confirmed, beat.Confirmed) {
			t.Errorf("%+v, %v", h, err)
		}
	}
	// It is no part of what FeatBit keeps.
	if keys := c.Keys(bounded(t), "featbit*").Val(); len(keys) != 1 {
		t.Errorf("keys %q", keys)
	}
	setUser(t, c, "reader", featbitReader)
	strict := openAs(t, srv, "reader", env, FeatBitOptions{})
	for range 2 {
		if h, err := strict.ReadHeartbeat(bounded(t)); err != nil || h != (store.Heartbeat{}) {
			t.Errorf("a reader of FeatBit's keys only: %+v, %v", h, err)
		}
	}
	setUser(t, c, "beats", append(append([]string{}, featbitReader...), featbitBeats(env)...))
	if h, err := openAs(t, srv, "beats", env, FeatBitOptions{}).ReadHeartbeat(bounded(t)); err != nil || h.Writer != "w" {
		t.Errorf("a reader of heartbeats: %+v, %v", h, err)
	}
	setUser(t, c, "syncer", append(append([]string{}, featbitWriter...), featbitSyncer(env)...))
	if err := openAs(t, srv, "syncer", env, FeatBitOptions{Write: true}).WriteHeartbeat(bounded(t), beat); err != nil {
		t.Error(err)
	}
	reader.Close()
	wantErr(t, reader.WriteHeartbeat(bounded(t), beat), store.ErrClosed)
	_, err := reader.ReadHeartbeat(bounded(t))
	wantErr(t, err, store.ErrClosed)
}

// featbitBeats and featbitSyncer are what heartbeats take beside the other rights.
func featbitBeats(env string) []string {
	return []string{"%R~{flagstead:" + env + "}:h", "+evalsha_ro", "+eval_ro", "+hmget", "+time"}
}

func featbitSyncer(env string) []string {
	return []string{"~{flagstead:" + env + "}:h", "+evalsha_ro", "+eval_ro", "+evalsha", "+eval", "+hmget", "+time", "+hset", "+pexpire"}
}
