package syncer_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/syncer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// featbit is a relay over a memory store, on an address that outlives it.
type featbit struct {
	t      *testing.T
	store  *memory.Store
	secret syncer.Secret
	url    string

	mu      sync.Mutex
	handler http.Handler
	relay   *relay.Relay
	stop    func()
}

func newFeatbit(t *testing.T) *featbit {
	t.Helper()
	secret, err := protocol.NewSecret(protocol.NewEnvID())
	if err != nil {
		t.Fatal(err)
	}
	f := &featbit{t: t, store: memory.New(), secret: secret}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		h := f.handler
		f.mu.Unlock()
		if h == nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		h.ServeHTTP(w, r)
	}))
	f.url = srv.URL
	t.Cleanup(func() {
		f.down()
		srv.Close()
		f.store.Close()
	})
	return f
}

func (f *featbit) up() {
	f.t.Helper()
	r, err := relay.New(relay.Config{Store: f.store, Secrets: []relay.Secret{f.secret}})
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { r.Run(ctx); close(done) }()
	f.mu.Lock()
	f.handler, f.relay, f.stop = r, r, func() { cancel(); <-done }
	f.mu.Unlock()
}

func (f *featbit) down() {
	f.mu.Lock()
	stop := f.stop
	f.handler, f.stop = nil, nil
	f.mu.Unlock()
	if stop != nil {
		stop()
	}
}

func (f *featbit) set(full bool, items ...store.Item) {
	f.t.Helper()
	if _, err := f.store.Apply(f.t.Context(), store.Change{Full: full, Items: items}); err != nil {
		f.t.Fatal(err)
	}
}

func flag(key string, version int64) store.Item {
	data := fmt.Sprintf(`{"id":"%s","key":"%s","updatedAt":"%s","isArchived":false}`, key, key, wire.FormatMillis(version))
	return store.Item{Kind: store.Flag, Key: key, Version: version, Data: []byte(data)}
}

func fast(cfg syncer.Config) syncer.Config {
	cfg.BackoffMin, cfg.BackoffMax = time.Millisecond, 20*time.Millisecond
	cfg.Check = 5 * time.Millisecond
	return cfg
}

// start runs a syncer until the test ends and returns it and what Run gives.
func start(t *testing.T, cfg syncer.Config) (*syncer.Syncer, <-chan error) {
	t.Helper()
	s, err := syncer.New(fast(cfg))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	done := make(chan struct{})
	go func() { result <- s.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return s, result
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("never happened: %s", what)
		case <-tick.C:
		}
	}
}

// content is key → version of what a store holds.
func content(t *testing.T, r store.Reader) map[string]int64 {
	snap, err := r.Load(context.Background(), "")
	if err != nil {
		return nil
	}
	out := map[string]int64{}
	for _, it := range snap.Items {
		out[it.Key] = it.Version
	}
	return out
}

func holds(t *testing.T, r store.Reader, want map[string]int64) func() bool {
	return func() bool { return maps.Equal(content(t, r), want) }
}

func TestFullAndPatch(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, flag("a", 1000), flag("b", 2000))
	f.up()
	st := memory.New()
	defer st.Close()
	s, _ := start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st})
	until(t, "first state", holds(t, st, map[string]int64{"a": 1000, "b": 2000}))
	until(t, "state ok", func() bool { return s.Status().State == syncer.OK })
	f.set(false, flag("a", 3000), flag("c", 3001))
	until(t, "patch", holds(t, st, map[string]int64{"a": 3000, "b": 2000, "c": 3001}))
	if got := s.Status(); got.Err != nil || got.Fulls != 1 || got.Patches != 1 || got.Confirmed.IsZero() {
		t.Errorf("Status() = %+v", got)
	}
}

func TestEmptyEnvironmentIsCommitted(t *testing.T) {
	f := newFeatbit(t)
	f.set(true)
	f.up()
	st := memory.New()
	defer st.Close()
	start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st})
	until(t, "an empty state is committed", func() bool {
		snap, _ := st.Load(t.Context(), "")
		return snap.Rev != ""
	})
}

// TestReconnect: what changed while the connection was down is caught up, and
// the state says so.
func TestReconnect(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, flag("a", 1000))
	f.up()
	st := memory.New()
	defer st.Close()
	s, _ := start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st, Reconcile: 50 * time.Millisecond})
	until(t, "first state", func() bool { return s.Status().State == syncer.OK })
	f.down()
	until(t, "interrupted", func() bool { return s.Status().State == syncer.Interrupted && s.Status().Err != nil })
	f.set(true, flag("b", 2000)) // a is deleted for good, which no patch says
	f.up()
	until(t, "ok again", func() bool { return s.Status().State == syncer.OK })
	until(t, "deletion found", holds(t, st, map[string]int64{"b": 2000}))
}

func TestRefusedForGood(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, flag("a", 1000))
	f.up()
	other, _ := protocol.NewSecret(protocol.NewEnvID())
	st := memory.New()
	defer st.Close()
	s, result := start(t, syncer.Config{URL: f.url, Secret: other, Store: st})
	err := <-result
	if !errors.Is(err, syncer.ErrUnauthorized) || strings.Contains(err.Error(), string(other)) {
		t.Errorf("Run = %v", err)
	}
	if got := s.Status(); got.State != syncer.Off || !errors.Is(got.Err, syncer.ErrUnauthorized) || got.Connects != 1 {
		t.Errorf("Status() = %+v", got)
	}
	if got := content(t, st); len(got) != 0 {
		t.Errorf("the store was written: %v", got)
	}
}

// TestSkewedClock: FeatBit's clock is not this host's. With a Date header the
// second token has FeatBit's time and is accepted; the skew is reported.
func TestSkewedClock(t *testing.T) {
	for _, skew := range []time.Duration{10 * time.Minute, -3 * time.Hour} {
		url := clockedServer(t, skew, true)
		st := memory.New()
		defer st.Close()
		s, _ := start(t, syncer.Config{URL: url, Secret: testSecret(t), Store: st})
		until(t, "connected", func() bool { return s.Status().State == syncer.OK })
		got := s.Status()
		if off := (got.ClockSkew - skew).Abs(); off > 3*time.Second || got.Connects != 2 || got.Heard.IsZero() {
			t.Errorf("skew %v: Status() = %+v", skew, got)
		}
	}
}

// TestSkewedClockAndNoDate: nothing tells a wrong clock from a wrong secret, so
// the error names both.
func TestSkewedClockAndNoDate(t *testing.T) {
	url := clockedServer(t, time.Hour, false)
	st := memory.New()
	defer st.Close()
	_, result := start(t, syncer.Config{URL: url, Secret: testSecret(t), Store: st})
	if err := <-result; !errors.Is(err, syncer.ErrUnauthorized) || !strings.Contains(err.Error(), "clock") {
		t.Errorf("Run = %v", err)
	}
}

// TestWrongSecretAndSkewedClock: the clock is corrected once, and then it is the
// secret.
func TestWrongSecretAndSkewedClock(t *testing.T) {
	up := websocket.Upgrader{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		date := http.Header{"Date": {time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)}}
		if conn, err := up.Upgrade(w, r, date); err == nil {
			defer conn.Close()
			conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4003, ""), time.Now().Add(time.Second))
			drain(conn)
		}
	}))
	defer srv.Close()
	st := memory.New()
	defer st.Close()
	s, result := start(t, syncer.Config{URL: srv.URL, Secret: testSecret(t), Store: st})
	if err := <-result; !errors.Is(err, syncer.ErrUnauthorized) || strings.Contains(err.Error(), "clock") {
		t.Errorf("Run = %v", err)
	}
	if got := s.Status(); got.Connects != 2 {
		t.Errorf("Status() = %+v", got)
	}
}

// clockedServer refuses tokens that are more than 30 s from its clock, as
// FeatBit does.
func clockedServer(t *testing.T, skew time.Duration, dated bool) string {
	t.Helper()
	up := websocket.Upgrader{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now := time.Now().Add(skew)
		header := http.Header{}
		if dated {
			header.Set("Date", now.UTC().Format(http.TimeFormat))
		}
		_, at, err := protocol.ParseToken(r.URL.Query().Get("token"))
		conn, upErr := up.Upgrade(w, r, header)
		if upErr != nil {
			return
		}
		defer conn.Close()
		if err != nil || now.Sub(at).Abs() > protocol.TokenWindow {
			conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4003, ""), time.Now().Add(time.Second))
			drain(conn)
			return
		}
		conn.ReadMessage()
		send(conn, wire.Full, flag("a", 1000))
		drain(conn)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// swap is a store that can be replaced by an empty one, and be down.
type swap struct {
	mu   sync.Mutex
	st   *memory.Store
	down atomic.Bool
}

var errDown = errors.New("store is down")

func (s *swap) get() *memory.Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st
}

func (s *swap) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.st.Close()
	s.st = memory.New()
}

func (s *swap) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	if s.down.Load() {
		return store.Snapshot{}, errDown
	}
	return s.get().Load(ctx, since)
}

func (s *swap) Apply(ctx context.Context, c store.Change) (store.Rev, error) {
	if s.down.Load() {
		return "", errDown
	}
	return s.get().Apply(ctx, c)
}

func (s *swap) Close() error { return s.get().Close() }

func TestFlushedStoreIsRefilled(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, flag("a", 1000), flag("b", 1000))
	f.up()
	st := &swap{st: memory.New()}
	defer st.Close()
	s, _ := start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st})
	want := map[string]int64{"a": 1000, "b": 1000}
	until(t, "first state", holds(t, st, want))
	st.flush()
	until(t, "refilled", holds(t, st, want))
	f.down() // heals from what it holds, too
	st.flush()
	until(t, "refilled without FeatBit", holds(t, st, want))
	if s.Status().Heals < 2 {
		t.Errorf("Status() = %+v", s.Status())
	}
}

// TestDamagedStoreIsCorrected: an item is older than it should be, another is
// gone, without the store being empty.
func TestDamagedStoreIsCorrected(t *testing.T) {
	for _, connected := range []bool{true, false} {
		t.Run(fmt.Sprintf("connected=%t", connected), func(t *testing.T) {
			f := newFeatbit(t)
			f.set(true, flag("a", 2000), flag("b", 2000), flag("c", 1000))
			f.up()
			st := memory.New()
			defer st.Close()
			start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st})
			want := map[string]int64{"a": 2000, "b": 2000, "c": 1000}
			until(t, "first state", holds(t, st, want))
			if !connected {
				f.down()
			}
			if _, err := st.Apply(t.Context(), store.Change{Full: true, Items: []store.Item{flag("a", 1000), flag("c", 1000)}}); err != nil {
				t.Fatal(err)
			}
			until(t, "corrected", holds(t, st, want))
		})
	}
}

func TestStoreDownLater(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, flag("a", 1000))
	f.up()
	st := &swap{st: memory.New()}
	defer st.Close()
	s, _ := start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st})
	until(t, "first state", holds(t, st, map[string]int64{"a": 1000}))
	st.down.Store(true)
	f.set(false, flag("a", 2000))
	until(t, "trouble is known", func() bool { return s.Status().State == syncer.Interrupted && errors.Is(s.Status().Err, errDown) })
	f.set(false, flag("a", 3000), flag("b", 3001))
	st.down.Store(false)
	until(t, "written on return", holds(t, st, map[string]int64{"a": 3000, "b": 3001}))
	until(t, "ok", func() bool { return s.Status().State == syncer.OK && s.Status().Err == nil })
}

func TestStoreDownAtStart(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, flag("a", 1000))
	f.up()
	st := &swap{st: memory.New()}
	defer st.Close()
	st.down.Store(true)
	s, _ := start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st})
	until(t, "data arrived", func() bool { return s.Status().Fulls == 1 })
	if s.Status().State == syncer.OK {
		t.Error("OK while nothing is in the store")
	}
	st.down.Store(false)
	until(t, "written", holds(t, st, map[string]int64{"a": 1000}))
}

// TestSeveralSyncers: three syncers on one store, FeatBit changing all the
// time; no reader ever sees a flag go back, and in the end all is equal.
func TestSeveralSyncers(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, flag("k0", 1000))
	f.up()
	st := memory.New()
	defer st.Close()
	for range 3 {
		start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st, Reconcile: 10 * time.Millisecond})
	}
	until(t, "first state", holds(t, st, map[string]int64{"k0": 1000}))

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		last := map[string]int64{}
		for ctx.Err() == nil {
			now := content(t, st)
			for key, version := range last {
				if now[key] < version {
					t.Errorf("%s went back from %d to %d", key, version, now[key])
				}
			}
			last = now
		}
	})
	want := map[string]int64{"k0": 1000}
	for i := range int64(300) {
		key := fmt.Sprintf("k%d", i%7)
		want[key] = 2000 + i
		f.set(false, flag(key, 2000+i))
	}
	until(t, "all equal", holds(t, st, want))
	cancel()
	wg.Wait()
}

// script is a server that does what it is told, connection by connection.
func script(t *testing.T, serve func(n int, conn *websocket.Conn)) string {
	t.Helper()
	var n atomic.Int32
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		serve(int(n.Add(1)), conn)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func send(conn *websocket.Conn, event string, items ...store.Item) {
	conn.WriteMessage(websocket.TextMessage, wire.AppendDataSync(nil, event, items))
}

func drain(conn *websocket.Conn) {
	for {
		if _, _, err := conn.ReadMessage(); err != nil {
			return
		}
	}
}

func testSecret(t *testing.T) syncer.Secret {
	t.Helper()
	s, err := protocol.NewSecret(protocol.NewEnvID())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestOddMessages: what is not understood is ignored, what is not JSON costs
// the connection, and the state survives both.
func TestOddMessages(t *testing.T) {
	url := script(t, func(n int, conn *websocket.Conn) {
		conn.ReadMessage()
		for _, text := range []string{
			`{"messageType":"DATA-SYNC","data":{}}`, `{"messageType":"data-sync"}`, `{"messageType":"data-sync","data":null}`,
			`{"messageType":"data-sync","data":{"eventType":"weird","featureFlags":[],"segments":[]}}`, `[]`, `"hello"`, `{}`,
		} {
			conn.WriteMessage(websocket.TextMessage, []byte(text))
		}
		send(conn, wire.Full, flag("a", int64(1000*n)))
		if n == 1 {
			conn.WriteMessage(websocket.TextMessage, []byte("no JSON"))
		}
		drain(conn)
	})
	st := memory.New()
	defer st.Close()
	s, _ := start(t, syncer.Config{URL: url, Secret: testSecret(t), Store: st})
	until(t, "second connection", holds(t, st, map[string]int64{"a": 2000}))
	if got := s.Status(); got.Ignored < 12 || got.Connects != 2 {
		t.Errorf("Status() = %+v", got)
	}
}

// TestPushOvertakesFull: FeatBit reads a full state before it sends it.
func TestPushOvertakesFull(t *testing.T) {
	url := script(t, func(_ int, conn *websocket.Conn) {
		conn.ReadMessage()
		send(conn, wire.Patch, flag("a", 3000), flag("new", 2500))
		send(conn, wire.Full, flag("a", 1000), flag("b", 2000))
		drain(conn)
	})
	st := memory.New()
	defer st.Close()
	s, _ := start(t, syncer.Config{URL: url, Secret: testSecret(t), Store: st})
	until(t, "full", func() bool { return s.Status().Fulls == 1 })
	until(t, "merged", holds(t, st, map[string]int64{"a": 3000, "b": 2000, "new": 2500}))
}

// TestRestoredServer: a server that was restored from a backup has older items,
// and they count.
func TestRestoredServer(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, flag("a", 1000))
	f.up()
	st := memory.New()
	defer st.Close()
	if _, err := st.Apply(t.Context(), store.Change{Items: []store.Item{flag("a", 5000), flag("gone", 5000)}}); err != nil {
		t.Fatal(err)
	}
	start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st})
	until(t, "restored", holds(t, st, map[string]int64{"a": 1000}))
}

// TestAcceptAndClose: a server that accepts and closes at once must not be
// hammered.
func TestAcceptAndClose(t *testing.T) {
	var connections atomic.Int32
	url := script(t, func(n int, conn *websocket.Conn) {
		connections.Store(int32(n))
		conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1011, ""), time.Now().Add(time.Second))
	})
	st := memory.New()
	defer st.Close()
	s, err := syncer.New(syncer.Config{URL: url, Secret: testSecret(t), Store: st, BackoffMin: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Run = %v", err)
	}
	if n := connections.Load(); n < 1 || n > 20 {
		t.Errorf("%d connections in 300 ms", n)
	}
}

// TestDeadConnection: a peer that falls silent without closing is noticed.
func TestDeadConnection(t *testing.T) {
	silent := make(chan struct{})
	defer close(silent)
	url := script(t, func(n int, conn *websocket.Conn) {
		conn.ReadMessage()
		send(conn, wire.Full, flag("a", int64(1000*n)))
		if n == 1 {
			<-silent // neither reads nor answers
			return
		}
		for {
			if _, _, err := conn.ReadMessage(); err != nil {
				return
			}
			conn.WriteMessage(websocket.TextMessage, protocol.PongFrame)
		}
	})
	st := memory.New()
	defer st.Close()
	s, _ := start(t, syncer.Config{URL: url, Secret: testSecret(t), Store: st, Ping: 20 * time.Millisecond})
	until(t, "reconnected", holds(t, st, map[string]int64{"a": 2000}))
	if got := s.Status(); got.Connects != 2 {
		t.Errorf("Status() = %+v", got)
	}
}

// TestWhatIsWrong: an address where no FeatBit is gives words, not codes.
func TestWhatIsWrong(t *testing.T) {
	none := httptest.NewServer(http.NotFoundHandler())
	defer none.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + l.Addr().String()
	l.Close()
	secret := testSecret(t)
	for _, tc := range []struct{ url, want string }{
		{none.URL, "not a FeatBit evaluation server: it answered 404"},
		{closed, "cannot connect to ws://"},
	} {
		st := memory.New()
		s, _ := start(t, syncer.Config{URL: tc.url, Secret: secret, Store: st})
		until(t, "trouble", func() bool { return s.Status().Err != nil })
		if got := s.Status().Err.Error(); !strings.Contains(got, tc.want) || strings.Contains(got, "token=") {
			t.Errorf("Err = %q, want %q in it and no token", got, tc.want)
		}
		st.Close()
	}
}

func TestNewRejects(t *testing.T) {
	st := memory.New()
	defer st.Close()
	good := testSecret(t)
	for name, cfg := range map[string]syncer.Config{
		"no URL":     {Secret: good, Store: st},
		"bad scheme": {URL: "redis://x", Secret: good, Store: st},
		"user":       {URL: "ws://u:hunter2@x", Secret: good, Store: st},
		"bad secret": {URL: "ws://x", Secret: "hunter2", Store: st},
		"no store":   {URL: "ws://x", Secret: good},
	} {
		if _, err := syncer.New(cfg); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: New = %v", name, err)
		}
	}
}
