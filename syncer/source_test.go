package syncer_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/syncer"
)

func TestOnce(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, flag("a", 1000))
	f.up()
	st := memory.New()
	defer st.Close()
	got, err := syncer.Once(t.Context(), fast(syncer.Config{URL: f.url, Secret: f.secret, Store: st}))
	if err != nil || got.State != syncer.OK || got.Fulls != 1 || got.Confirmed.IsZero() {
		t.Fatalf("Once = %+v, %v", got, err)
	}
	if !holds(t, st, map[string]int64{"a": 1000})() {
		t.Errorf("store: %v", content(t, st))
	}
}

func TestOnceFails(t *testing.T) {
	f := newFeatbit(t)
	f.set(true)
	f.up()
	st := memory.New()
	defer st.Close()
	if _, err := st.Apply(t.Context(), store.Change{Full: true, Items: []store.Item{flag("a", 1000)}}); err != nil {
		t.Fatal(err)
	}
	cfg := fast(syncer.Config{URL: f.url, Secret: f.secret, Store: st})
	if _, err := syncer.Once(t.Context(), cfg); err == nil {
		t.Error("the guard did not refuse")
	} else if refused, ok := errors.AsType[*syncer.RefusedError](err); !ok || refused.Removed != 1 {
		t.Errorf("Once = %v", err)
	}
	if !holds(t, st, map[string]int64{"a": 1000})() {
		t.Errorf("store: %v", content(t, st))
	}
	cfg.Secret = testSecret(t)
	if st, err := syncer.Once(t.Context(), cfg); !errors.Is(err, syncer.ErrUnauthorized) || st.State != syncer.Off {
		t.Errorf("Once = %+v, %v", st, err)
	}
	f.down()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cfg.Poll = syncer.PollNever
	cfg.OnStatus = func(st syncer.Status) {
		if st.Err != nil && strings.Contains(st.Err.Error(), "503") {
			cancel()
		}
	}
	if _, err := syncer.Once(ctx, cfg); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "503") {
		t.Errorf("Once = %v", err)
	}
}

// TestOnceFrozen: a job must not report that it filled a store that takes nothing.
func TestOnceFrozen(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, flag("a", 2000))
	f.up()
	st := memory.New()
	defer st.Close()
	if _, err := st.Apply(t.Context(), store.Change{Full: true, Items: []store.Item{flag("a", 1000)}}); err != nil {
		t.Fatal(err)
	}
	if err := st.WriteControl(t.Context(), store.Control{Frozen: true, Reason: "incident"}); err != nil {
		t.Fatal(err)
	}
	if _, err := syncer.Once(t.Context(), fast(syncer.Config{URL: f.url, Secret: f.secret, Store: st})); !errors.Is(err, store.ErrFrozen) {
		t.Errorf("Once = %v", err)
	}
	if !holds(t, st, map[string]int64{"a": 1000})() {
		t.Errorf("store: %v", content(t, st))
	}
}

// TestReconcileOnDemand: a deletion, which nobody announces, is found when asked.
func TestReconcileOnDemand(t *testing.T) {
	var deleted atomic.Bool
	url := script(t, func(_ int, conn *websocket.Conn) {
		for {
			_, text, err := conn.ReadMessage()
			switch {
			case err != nil:
				return
			case !strings.Contains(string(text), "data-sync"):
			case deleted.Load():
				send(conn, wire.Full, flag("b", 1000))
			default:
				send(conn, wire.Full, flag("a", 1000), flag("b", 1000))
			}
		}
	})
	st := memory.New()
	defer st.Close()
	s, _ := start(t, syncer.Config{URL: url, Secret: testSecret(t), Store: st})
	until(t, "ok", func() bool { return s.Status().State == syncer.OK })
	deleted.Store(true)
	s.Reconcile()
	until(t, "found", holds(t, st, map[string]int64{"b": 1000}))
}

// TestCopy: another store's flags, changes and deletions are copied; what the copy
// loses is healed.
func TestCopy(t *testing.T) {
	from := memory.New()
	defer from.Close()
	to := &swap{st: memory.New()}
	defer to.Close()
	apply := func(full bool, items ...store.Item) {
		t.Helper()
		if _, err := from.Apply(t.Context(), store.Change{Full: full, Items: items}); err != nil {
			t.Fatal(err)
		}
	}
	s, _ := start(t, syncer.Config{From: from, Store: to, Guard: syncer.Guard{Wait: 10 * time.Millisecond}})
	until(t, "says that nothing is there", func() bool {
		err := s.Status().Err
		return err != nil && strings.Contains(err.Error(), "committed")
	})
	if snap, _ := to.Load(t.Context(), ""); snap.Rev != "" {
		t.Error("something was written")
	}
	apply(true, flag("a", 1000), flag("b", 1000))
	until(t, "copied", holds(t, to, map[string]int64{"a": 1000, "b": 1000}))
	until(t, "ok", func() bool { st := s.Status(); return st.State == syncer.OK && st.Transport == syncer.TransportStore })
	apply(false, flag("a", 2000))
	until(t, "patched", holds(t, to, map[string]int64{"a": 2000, "b": 1000}))
	apply(true, flag("a", 2000))
	until(t, "deleted", holds(t, to, map[string]int64{"a": 2000}))
	to.flush()
	until(t, "healed", holds(t, to, map[string]int64{"a": 2000}))
	apply(true)
	until(t, "refused first, and taken when it is repeated", func() bool { return s.Status().Refused > 0 && holds(t, to, map[string]int64{})() })
}

// TestCopyConfirms: a copy is as current as the store that it is of.
func TestCopyConfirms(t *testing.T) {
	from, to := memory.New(), memory.New()
	defer from.Close()
	defer to.Close()
	if _, err := from.Apply(t.Context(), store.Change{Full: true, Items: []store.Item{flag("a", 1000)}}); err != nil {
		t.Fatal(err)
	}
	confirmed := time.Now().Add(-time.Hour)
	if err := from.WriteHeartbeat(t.Context(), store.Heartbeat{Confirmed: confirmed, Source: "interrupted", Writer: "w"}); err != nil {
		t.Fatal(err)
	}
	s, _ := start(t, syncer.Config{From: from, Store: to})
	until(t, "the source's own", func() bool { return s.Status().Confirmed.Equal(confirmed.Round(0)) })
	if err := from.WriteHeartbeat(t.Context(), store.Heartbeat{Confirmed: time.Now(), Source: "ok", Writer: "w"}); err != nil {
		t.Fatal(err)
	}
	until(t, "it moves", func() bool { return time.Since(s.Status().Confirmed) < time.Minute })
}

// TestCopySourceFails: while the source cannot be read the copy stays, and says so.
func TestCopySourceFails(t *testing.T) {
	from := &swap{st: memory.New()}
	defer from.Close()
	to := memory.New()
	defer to.Close()
	if _, err := from.Apply(t.Context(), store.Change{Full: true, Items: []store.Item{flag("a", 1000)}}); err != nil {
		t.Fatal(err)
	}
	s, _ := start(t, syncer.Config{From: from, Store: to, Reconcile: 10 * time.Millisecond})
	until(t, "ok", func() bool { return s.Status().State == syncer.OK })
	from.down.Store(true)
	until(t, "interrupted", func() bool { st := s.Status(); return st.State == syncer.Interrupted && errors.Is(st.Err, errDown) })
	from.down.Store(false)
	if _, err := from.Apply(t.Context(), store.Change{Items: []store.Item{flag("b", 2000)}}); err != nil {
		t.Fatal(err)
	}
	until(t, "caught up", holds(t, to, map[string]int64{"a": 1000, "b": 2000}))
	until(t, "ok", func() bool { st := s.Status(); return st.State == syncer.OK && st.Err == nil })
}

func TestCopyOfAnotherEnvironment(t *testing.T) {
	from, to := memory.New(), memory.New()
	defer from.Close()
	defer to.Close()
	is, want := protocol.NewEnvID(), protocol.NewEnvID()
	if _, err := from.Apply(t.Context(), store.Change{Full: true, Items: []store.Item{ofEnv(flag("a", 1000), is)}}); err != nil {
		t.Fatal(err)
	}
	s, _ := start(t, syncer.Config{From: from, Env: want, Store: to})
	until(t, "refused", func() bool { err := s.Status().Err; return err != nil && strings.Contains(err.Error(), is) })
	if snap, _ := to.Load(t.Context(), ""); snap.Rev != "" {
		t.Error("something was written")
	}
	for name, cfg := range map[string]syncer.Config{
		"both":         {From: from, Store: to, URL: "ws://x"},
		"no store":     {From: from},
		"itself":       {From: from, Store: from},
		"odd env":      {From: from, Store: to, Env: "x"},
		"env and URL":  {Env: is, Store: to, URL: "ws://x", Secret: testSecret(t)},
		"no such poll": {URL: "ws://x", Secret: testSecret(t), Store: to, Poll: 9},
	} {
		if _, err := syncer.New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// polled is a FeatBit behind something that lets no stream through while blocked.
type polled struct {
	url     string
	secret  syncer.Secret
	blocked atomic.Bool
	status  atomic.Int32 // of polls, if not 0
	streams atomic.Int32 // that were tried

	mu    sync.Mutex
	items []store.Item
	asked []int64
}

func newPolled(t *testing.T, items ...store.Item) *polled {
	p := &polled{secret: testSecret(t), items: items}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/streaming" {
			p.streams.Add(1)
			if p.blocked.Load() {
				w.WriteHeader(http.StatusOK)
				io.WriteString(w, "<html>this web page is not for you</html>")
				return
			}
			conn, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
			if err != nil {
				return
			}
			defer conn.Close()
			for {
				_, text, err := conn.ReadMessage()
				if err != nil {
					return
				}
				if strings.Contains(string(text), "data-sync") {
					send(conn, wire.Full, p.newer(0)...)
				}
			}
		}
		since, err := strconv.ParseInt(r.URL.Query().Get("timestamp"), 10, 64)
		switch {
		case r.URL.Path != "/api/public/sdk/server/latest-all" || err != nil:
			w.WriteHeader(http.StatusNotFound)
			return
		case r.Header.Get("Authorization") != string(p.secret):
			w.WriteHeader(http.StatusUnauthorized)
			return
		case p.status.Load() != 0:
			w.WriteHeader(int(p.status.Load()))
			return
		}
		p.mu.Lock()
		p.asked = append(p.asked, since)
		p.mu.Unlock()
		items, event := p.newer(since), wire.Patch
		if since == 0 {
			event = wire.Full
		} else if len(items) == 0 {
			return // an empty body
		}
		w.Write(wire.AppendDataSync(nil, event, items))
	}))
	t.Cleanup(srv.Close)
	p.url = srv.URL
	return p
}

func (p *polled) newer(since int64) []store.Item {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []store.Item
	for _, it := range p.items {
		if it.Version > since {
			out = append(out, it)
		}
	}
	return out
}

func (p *polled) set(items ...store.Item) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.items = items
}

// TestPollFallback: polling begins when streams are blocked, keeps the store
// current, and ends when a stream gets through.
func TestPollFallback(t *testing.T) {
	f := newPolled(t, flag("a", 1000))
	f.blocked.Store(true)
	st := memory.New()
	defer st.Close()
	s, _ := start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st, PollInterval: 5 * time.Millisecond})
	polling := func() bool {
		st := s.Status()
		return st.State == syncer.OK && st.Transport == syncer.TransportPoll && st.Err == nil
	}
	until(t, "polling", polling)
	until(t, "first state", holds(t, st, map[string]int64{"a": 1000}))
	if n := f.streams.Load(); n < 3 {
		t.Errorf("polling began after %d attempts", n)
	}
	f.set(flag("a", 1000), flag("b", 2000))
	until(t, "patch", holds(t, st, map[string]int64{"a": 1000, "b": 2000}))
	before, streams := s.Status().Confirmed, f.streams.Load()
	until(t, "polls confirm", func() bool { return s.Status().Confirmed.After(before) })
	until(t, "streams are tried", func() bool { return f.streams.Load() > streams })
	if !polling() {
		t.Errorf("Status() = %+v", s.Status())
	}
	f.set(flag("b", 2000)) // a deletion, which only everything shows
	s.Reconcile()
	until(t, "deletion", holds(t, st, map[string]int64{"b": 2000}))

	f.status.Store(http.StatusInternalServerError)
	until(t, "interrupted", func() bool { st := s.Status(); return st.State == syncer.Interrupted && st.Err != nil })
	f.status.Store(0)
	until(t, "again", polling)

	f.set(flag("c", 3000))
	f.blocked.Store(false)
	until(t, "the stream", func() bool { st := s.Status(); return st.State == syncer.OK && st.Transport == syncer.TransportStream })
	until(t, "what it says", holds(t, st, map[string]int64{"c": 3000}))
}

func TestPollAlwaysAndNever(t *testing.T) {
	f := newPolled(t, flag("a", 1000))
	st := memory.New()
	defer st.Close()
	got, err := syncer.Once(t.Context(), fast(syncer.Config{URL: f.url, Secret: f.secret, Store: st, Poll: syncer.PollAlways}))
	if err != nil || f.streams.Load() != 0 || !maps.Equal(content(t, st), map[string]int64{"a": 1000}) {
		t.Errorf("Once = %+v, %v; %d streams", got, err, f.streams.Load())
	}
	f.blocked.Store(true)
	other := memory.New()
	defer other.Close()
	s, _ := start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: other, Poll: syncer.PollNever})
	until(t, "attempts", func() bool { return f.streams.Load() > 6 })
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.asked) != 1 || s.Status().State != syncer.Initializing || !errors.Is(s.Status().Err, syncer.ErrNotFeatBit) {
		t.Errorf("%d polls, Status() = %+v", len(f.asked), s.Status())
	}
}

// TestPollOddAnswers: what is no answer changes nothing and is named.
func TestPollOddAnswers(t *testing.T) {
	for body, want := range map[string]string{
		"":                        "it answered nothing",
		"<html>":                  "not a FeatBit evaluation server",
		`{"messageType":"pong"}`:  "not a FeatBit evaluation server",
		strings.Repeat(" ", 5000): "more than 4096 bytes",
		string(wire.AppendDataSync(nil, wire.Patch, []store.Item{flag("a", 1000)})): "with a patch",
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, body) }))
		st := memory.New()
		secret := testSecret(t)
		s, _ := start(t, syncer.Config{URL: srv.URL, Secret: secret, Store: st, Poll: syncer.PollAlways, MaxMessage: 4096})
		until(t, "trouble", func() bool { return s.Status().Err != nil })
		if got := s.Status().Err.Error(); !strings.Contains(got, want) || strings.Contains(got, string(secret)) {
			t.Errorf("%.20q: Err = %q, want %q", body, got, want)
		}
		if snap, _ := st.Load(t.Context(), ""); snap.Rev != "" {
			t.Errorf("%.20q was written", body)
		}
		srv.Close()
		st.Close()
	}
}
