package syncer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/syncer"
)

const relayKey = "rp-MDcwNTEzNDExNzQ3MQtXO7IPcN6U-z5fAktj18CQ"

// A scripted is FeatBit's evaluation server as a relay proxy sees it.
type scripted struct {
	t   *testing.T
	url string

	mu           sync.Mutex
	envs         map[string]*scriptedEnv // by id
	conns        map[*websocket.Conn]*sync.Mutex
	registration int // the status that is answered; 0: 200
	registered   []string
	asked        []int64 // timestamps of data-sync requests
	reports      []map[string]any
	mute         bool // does not answer data-sync
	reject       bool // 4003
	connects     int
}

type scriptedEnv struct {
	id, key string
	secrets []wire.RelaySecret
	items   map[store.ID]store.Item
}

func newScripted(t *testing.T) *scripted {
	t.Helper()
	s := &scripted{t: t, envs: map[string]*scriptedEnv{}, conns: map[*websocket.Conn]*sync.Mutex{}}
	srv := httptest.NewServer(s)
	s.url = srv.URL
	t.Cleanup(func() {
		s.cut()
		srv.Close()
	})
	return s
}

// env adds an environment with secrets of the given types.
func (s *scripted) env(key string, types ...string) *scriptedEnv {
	e := &scriptedEnv{id: protocol.NewEnvID(), key: key, items: map[store.ID]store.Item{}}
	for _, kind := range types {
		e.secrets = append(e.secrets, s.secret(e, kind))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.envs[e.id] = e
	return e
}

func (s *scripted) secret(e *scriptedEnv, kind string) wire.RelaySecret {
	secret, err := protocol.NewSecret(e.id)
	if err != nil {
		s.t.Fatal(err)
	}
	return wire.RelaySecret{Type: kind, ProjectKey: "webapp", EnvKey: e.key, Value: string(secret)}
}

func (s *scripted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/api/public/agent/register":
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		if r.Header.Get("Authorization") != relayKey {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		var id string
		if json.Unmarshal(body, &id) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		s.registered = append(s.registered, id)
		if s.registration != 0 {
			w.WriteHeader(s.registration)
		}
	case "/streaming":
		s.stream(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (s *scripted) stream(w http.ResponseWriter, r *http.Request) {
	u := websocket.Upgrader{}
	conn, err := u.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	conn.SetReadLimit(8192)
	s.mu.Lock()
	s.connects++
	q := r.URL.Query()
	if q.Get("type") != "relay-proxy" || q.Get("token") != relayKey || s.reject {
		s.mu.Unlock()
		conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4003, "invalid request, close by server"), time.Now().Add(time.Second))
		conn.ReadMessage()
		return
	}
	lock := &sync.Mutex{}
	s.conns[conn] = lock
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
	}()
	for {
		_, text, err := conn.ReadMessage()
		if err != nil {
			return
		}
		var m struct {
			MessageType string
			Data        json.RawMessage
		}
		if err := json.Unmarshal(text, &m); err != nil {
			s.t.Errorf("a message that is no JSON: %s", text)
			return
		}
		var answer []byte
		s.mu.Lock()
		switch m.MessageType {
		case "ping":
			answer = protocol.PongFrame
		case "data-sync":
			var d struct{ Timestamp int64 }
			json.Unmarshal(m.Data, &d)
			s.asked = append(s.asked, d.Timestamp)
			if d.Timestamp != 0 {
				s.t.Errorf("asked for what is newer than %d: secrets and environments come with everything only", d.Timestamp)
			}
			if !s.mute {
				answer = s.full()
			}
		case "rp-agent-status":
			var d struct{ AgentID, Status string }
			var status map[string]any
			if json.Unmarshal(m.Data, &d) != nil || json.Unmarshal([]byte(d.Status), &status) != nil {
				s.t.Errorf("a report of another shape: %s", m.Data)
			}
			status["agentId"] = d.AgentID
			s.reports = append(s.reports, status)
		default:
			s.t.Errorf("a message of type %q", m.MessageType)
		}
		s.mu.Unlock()
		if answer != nil {
			lock.Lock()
			conn.WriteMessage(websocket.TextMessage, answer)
			lock.Unlock()
		}
	}
}

// full returns everything. The caller holds mu.
func (s *scripted) full() []byte {
	type part struct {
		EnvID        string             `json:"envId"`
		Secrets      []wire.RelaySecret `json:"secrets"`
		FeatureFlags []json.RawMessage  `json:"featureFlags"`
		Segments     []json.RawMessage  `json:"segments"`
	}
	parts := []part{}
	for _, e := range s.envs {
		p := part{EnvID: e.id, Secrets: e.secrets, FeatureFlags: []json.RawMessage{}, Segments: []json.RawMessage{}}
		for id, it := range e.items {
			if id.Kind == store.Flag {
				p.FeatureFlags = append(p.FeatureFlags, it.Data)
			} else {
				p.Segments = append(p.Segments, it.Data)
			}
		}
		parts = append(parts, p)
	}
	text, err := json.Marshal(map[string]any{"messageType": "data-sync", "data": map[string]any{"eventType": "rp_full", "items": parts}})
	if err != nil {
		s.t.Fatal(err)
	}
	return text
}

// of returns an item of the environment.
func (e *scriptedEnv) of(kind store.Kind, key string, version int64) store.Item {
	member := "key"
	if kind == store.Segment {
		member = "id"
	}
	it, err := wire.ParseItem(kind, fmt.Appendf(nil, `{%q:%q,"envId":%q,"updatedAt":%q,"isArchived":false}`, member, key, e.id, wire.FormatMillis(version)))
	if err != nil {
		panic(err)
	}
	return it
}

// set changes what the environment has without a word.
func (s *scripted) set(e *scriptedEnv, items ...store.Item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, it := range items {
		e.items[it.ID()] = it
	}
}

// push changes it and tells of each item, once per server secret.
func (s *scripted) push(e *scriptedEnv, items ...store.Item) {
	s.set(e, items...)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, secret := range e.secrets {
		for _, it := range items {
			if secret.Type == "server" {
				s.tell(wire.AppendDataSync(nil, wire.Patch, []store.Item{it}))
			}
		}
	}
}

// tell sends a message to everybody. The caller holds mu.
func (s *scripted) tell(text []byte) {
	for conn, lock := range s.conns {
		lock.Lock()
		conn.WriteMessage(websocket.TextMessage, text)
		lock.Unlock()
	}
}

// cut ends all connections in the middle of whatever they do.
func (s *scripted) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		conn.NetConn().Close()
	}
}

func (s *scripted) with(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// places are the stores of environments, which a test may break.
type places struct {
	mu     sync.Mutex
	stores map[string]*memory.Store
	broken map[string]bool
	told   [][]syncer.ProxyEnv
}

func newPlaces(t *testing.T) *places {
	p := &places{stores: map[string]*memory.Store{}, broken: map[string]bool{}}
	t.Cleanup(func() {
		for _, st := range p.stores {
			st.Close()
		}
	})
	return p
}

func (p *places) open(_ context.Context, e syncer.ProxyEnv) (store.DataStore, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken[e.ID] {
		return nil, errors.New("there is no such place")
	}
	return p.of(e.ID), nil
}

func (p *places) of(id string) *memory.Store {
	if p.stores[id] == nil {
		p.stores[id] = memory.New()
	}
	return p.stores[id]
}

func (p *places) note(envs []syncer.ProxyEnv) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = append(p.told, envs)
}

func (p *places) last() []syncer.ProxyEnv {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.told) == 0 {
		return nil
	}
	return p.told[len(p.told)-1]
}

// holds reports whether the environment's store has exactly these versions.
func (p *places) holds(t *testing.T, e *scriptedEnv, want map[string]int64) func() bool {
	return func() bool {
		p.mu.Lock()
		st := p.of(e.id)
		p.mu.Unlock()
		got := map[string]int64{}
		snap, err := st.Load(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range snap.Items {
			if got[it.Key] = it.Version; wire.EnvID(it.Data) != e.id {
				t.Fatalf("%s has an item of %s: %s", e.id, wire.EnvID(it.Data), it.Data)
			}
		}
		if len(got) != len(want) {
			return false
		}
		for key, v := range want {
			if got[key] != v {
				return false
			}
		}
		return true
	}
}

func startProxy(t *testing.T, s *scripted, p *places, edit func(*syncer.ProxyConfig)) *syncer.Proxy {
	t.Helper()
	cfg := syncer.ProxyConfig{
		URL: s.url, Key: relayKey, AgentID: "agent-1", Open: p.open, OnEnvironments: p.note,
		Sync: syncer.Config{BackoffMin: time.Millisecond, BackoffMax: 20 * time.Millisecond, Check: 20 * time.Millisecond,
			Guard: syncer.Guard{Wait: 50 * time.Millisecond}},
	}
	if edit != nil {
		edit(&cfg)
	}
	proxy, err := syncer.NewProxy(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := proxy.Run(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, syncer.ErrUnauthorized) {
			t.Errorf("Run() = %v", err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return proxy
}

func allOK(p *syncer.Proxy, n int) func() bool {
	return func() bool {
		st := p.Status()
		ok := 0
		for _, e := range st.Environments {
			if e.Open && e.Status.State == syncer.OK && !e.Status.Confirmed.IsZero() {
				ok++
			}
		}
		return st.Connected && len(st.Environments) == n && ok == n
	}
}

// TestProxy: one connection, several environments, everything that FeatBit sends.
func TestProxy(t *testing.T) {
	s, p := newScripted(t), newPlaces(t)
	a, b := s.env("a", "server", "client", "server"), s.env("b", "server")
	quiet := s.env("quiet", "client") // in rp_full, but never pushed
	s.set(a, a.of(store.Flag, "f", 1), a.of(store.Segment, "shared", 2))
	s.set(b, b.of(store.Flag, "f", 7), b.of(store.Segment, "shared", 3))
	s.set(quiet, quiet.of(store.Flag, "q", 1))
	proxy := startProxy(t, s, p, nil)
	until(t, "all are in sync", allOK(proxy, 3))
	until(t, "a", p.holds(t, a, map[string]int64{"f": 1, "shared": 2}))
	until(t, "b", p.holds(t, b, map[string]int64{"f": 7, "shared": 3}))
	until(t, "quiet", p.holds(t, quiet, map[string]int64{"q": 1}))

	envs := p.last()
	if len(envs) != 3 || envs[0].Name() != "webapp:a" || len(envs[0].ServerSecrets) != 2 || len(envs[0].ClientSecrets) != 1 || len(envs[2].ServerSecrets) != 0 {
		t.Errorf("told of %+v", envs)
	}
	if text := fmt.Sprintf("%v %+v", envs, proxy.Status()); strings.Contains(text, a.secrets[0].Value) || strings.Contains(text, relayKey) {
		t.Errorf("a secret is printed: %s", text)
	}

	// Patches go where their items belong, however often they come.
	s.push(a, a.of(store.Flag, "f", 10), a.of(store.Segment, "shared", 11))
	s.push(b, b.of(store.Segment, "shared", 12))
	until(t, "a's patch", p.holds(t, a, map[string]int64{"f": 10, "shared": 11}))
	until(t, "b's patch", p.holds(t, b, map[string]int64{"f": 7, "shared": 12}))

	// What cannot be used is counted, and nothing else suffers.
	before := proxy.Status().Ignored
	s.with(func() {
		for _, text := range []string{
			`{"messageType":"news","data":{}}`,
			`{"messageType":"data-sync","data":{"eventType":"full","featureFlags":[],"segments":[]}}`,
			`{"messageType":"data-sync","data":{"eventType":"rp_patch","items":[{"featureFlags":[]}]}}`,
			`{"messageType":"data-sync","data":{"eventType":"patch","featureFlags":[{"key":"nobody's"}],"segments":[]}}`,
		} {
			s.tell([]byte(text))
		}
	})
	until(t, "four messages are ignored", func() bool { return proxy.Status().Ignored == before+4 })
	s.with(func() {
		s.tell(fmt.Appendf(nil, `{"messageType":"data-sync","data":{"eventType":"rp_patch","items":[{"envId":%q,"secrets":[],"featureFlags":[%s,{"key":5}],"segments":[]}]}}`,
			a.id, a.of(store.Flag, "g", 20).Data))
	})
	s.set(a, a.of(store.Flag, "g", 20))
	until(t, "an rp_patch", p.holds(t, a, map[string]int64{"f": 10, "g": 20, "shared": 11}))

	// An environment and a secret more, one less. FeatBit says nothing of it.
	c := s.env("c", "server")
	s.set(c, c.of(store.Flag, "c", 1))
	revoked := a.secrets[0].Value
	s.with(func() { a.secrets = append(a.secrets[1:], s.secret(a, "client")) })
	proxy.Reconcile()
	until(t, "the new environment", p.holds(t, c, map[string]int64{"c": 1}))
	until(t, "told of it", func() bool {
		envs := p.last()
		return len(envs) == 4 && len(envs[0].ServerSecrets) == 1 && len(envs[0].ClientSecrets) == 2 && !slices.Contains(envs[0].ServerSecrets, syncer.Secret(revoked))
	})
	// Pushes for one that is not known yet lead to it.
	d := s.env("d", "server")
	s.push(d, d.of(store.Flag, "d", 1))
	until(t, "pushed before it was known", p.holds(t, d, map[string]int64{"d": 1}))
	until(t, "five", allOK(proxy, 5))

	// One goes. It is asked for again before that is believed, and its store stays.
	s.with(func() { delete(s.envs, b.id) })
	proxy.Reconcile()
	until(t, "b is gone", allOK(proxy, 4))
	until(t, "b's content stays", p.holds(t, b, map[string]int64{"f": 7, "shared": 12}))
	until(t, "told of it", func() bool {
		envs := p.last()
		return len(envs) == 4 && !slices.ContainsFunc(envs, func(e syncer.ProxyEnv) bool { return e.ID == b.id })
	})

	// All go: that is a mistake of FeatBit's.
	var kept map[string]*scriptedEnv
	s.with(func() { kept, s.envs = s.envs, map[string]*scriptedEnv{} })
	fulls := proxy.Status().Fulls
	proxy.Reconcile()
	until(t, "asked several times", func() bool { return proxy.Status().Fulls >= fulls+2 })
	if n := len(proxy.Status().Environments); n != 4 {
		t.Errorf("%d environments are left, want 4", n)
	}
	s.with(func() { s.envs = kept })

	// A deletion that nobody told of.
	s.with(func() { delete(a.items, store.ID{Kind: store.Flag, Key: "g"}) })
	proxy.Reconcile()
	until(t, "the deletion is found", p.holds(t, a, map[string]int64{"f": 10, "shared": 11}))

	until(t, "registered and reported", func() (ok bool) {
		s.with(func() {
			ok = slices.Equal(s.registered, []string{"agent-1"}) && len(s.reports) > 0 && s.reports[0]["agentId"] == "agent-1"
		})
		return ok && proxy.Status().Registered
	})
}

// TestProxyReport: what FeatBit is told is true.
func TestProxyReport(t *testing.T) {
	s, p := newScripted(t), newPlaces(t)
	a := s.env("a", "server")
	s.set(a, a.of(store.Flag, "f", 1234567890123))
	proxy := startProxy(t, s, p, nil)
	until(t, "in sync", allOK(proxy, 1))
	s.cut() // the next connection reports at once
	until(t, "a report that all is well", func() (ok bool) {
		s.with(func() {
			for _, r := range s.reports {
				ok = ok || r["serves"] == "webapp:a" && r["dataVersion"] == 1234567890123. && r["lastSyncedAt"] != nil && r["reportedAt"] != nil
			}
		})
		return ok
	})
}

// TestProxyConnection: what can happen to it.
func TestProxyConnection(t *testing.T) {
	s, p := newScripted(t), newPlaces(t)
	a := s.env("a", "server")
	s.set(a, a.of(store.Flag, "f", 1))
	proxy := startProxy(t, s, p, func(c *syncer.ProxyConfig) { c.Sync = syncer.AnswerWithin(c.Sync, 100*time.Millisecond) })
	until(t, "in sync", allOK(proxy, 1))

	s.cut()
	s.set(a, a.of(store.Flag, "f", 2))
	until(t, "what changed meanwhile", p.holds(t, a, map[string]int64{"f": 2}))

	// A server that does not answer, and pushes that overtake the answer.
	s.with(func() { s.mute = true })
	s.cut()
	until(t, "it is given up", func() bool { return !proxy.Status().Connected && proxy.Status().Connects >= 4 })
	s.push(a, a.of(store.Flag, "f", 3))
	s.with(func() { s.mute = false })
	until(t, "after silence", p.holds(t, a, map[string]int64{"f": 3}))
	until(t, "in sync", allOK(proxy, 1))
	s.with(func() {
		stale := s.full()
		it := a.of(store.Flag, "f", 4)
		a.items[it.ID()] = it
		s.tell(wire.AppendDataSync(nil, wire.Patch, []store.Item{it}))
		s.tell(stale) // read before the change, sent after it
	})
	proxy.Reconcile()
	until(t, "the push counts", p.holds(t, a, map[string]int64{"f": 4}))

	// Broken JSON ends the connection, and nothing else.
	connects := proxy.Status().Connects
	s.with(func() { s.tell([]byte(`{"messageType":`)) })
	until(t, "connected again", func() bool { return proxy.Status().Connects > connects && allOK(proxy, 1)() })

	// A refused key is final.
	s.with(func() { s.reject = true })
	s.cut()
	until(t, "refused", func() bool { return errors.Is(proxy.Status().Err, syncer.ErrUnauthorized) })
}

// TestProxyStores: an environment whose store is broken harms no other, and gets
// everything when it works.
func TestProxyStores(t *testing.T) {
	s, p := newScripted(t), newPlaces(t)
	a, b := s.env("a", "server"), s.env("b", "server")
	s.set(a, a.of(store.Flag, "f", 1))
	s.set(b, b.of(store.Flag, "f", 1))
	p.broken[b.id] = true
	proxy := startProxy(t, s, p, nil)
	until(t, "a", p.holds(t, a, map[string]int64{"f": 1}))
	s.push(a, a.of(store.Flag, "f", 2))
	s.push(b, b.of(store.Flag, "f", 2))
	until(t, "a's patch", p.holds(t, a, map[string]int64{"f": 2}))
	until(t, "b says why", func() bool {
		for _, e := range proxy.Status().Environments {
			if e.ID == b.id && !e.Open && e.Err != nil {
				return true
			}
		}
		return false
	})
	p.mu.Lock()
	delete(p.broken, b.id)
	p.mu.Unlock()
	until(t, "b", p.holds(t, b, map[string]int64{"f": 2}))

	// A store that loses everything is filled again.
	p.mu.Lock()
	st := p.of(a.id)
	p.mu.Unlock()
	if _, err := st.Apply(t.Context(), store.Change{Full: true}); err != nil {
		t.Fatal(err)
	}
	until(t, "a is healed", p.holds(t, a, map[string]int64{"f": 2}))
	until(t, "both", allOK(proxy, 2))
}

// TestProxyRegistration: what FeatBit says to it keeps nothing from working.
func TestProxyRegistration(t *testing.T) {
	for _, tc := range []struct {
		code int
		says string
	}{{403, "quota"}, {401, "401"}, {500, "500"}} {
		t.Run(fmt.Sprint(tc.code), func(t *testing.T) {
			s, p := newScripted(t), newPlaces(t)
			s.registration = tc.code
			a := s.env("a", "server")
			s.set(a, a.of(store.Flag, "f", 1))
			var log logged
			proxy := startProxy(t, s, p, func(c *syncer.ProxyConfig) { c.Sync.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
			until(t, "in sync", allOK(proxy, 1))
			until(t, "it is said", func() bool {
				st := proxy.Status()
				return !st.Registered && st.RegisterErr != nil && strings.Contains(st.RegisterErr.Error(), tc.says)
			})
			if tc.code == 500 {
				s.with(func() { s.registration = 0 })
				until(t, "registered after all", func() bool { return proxy.Status().Registered })
			}
			for _, secret := range []string{relayKey, a.secrets[0].Value} {
				if strings.Contains(log.String(), secret) {
					t.Error("a secret is in the log")
				}
			}
		})
	}
}

// logged is a log that a test can read while it is written.
type logged struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestNewProxyChecks(t *testing.T) {
	open := func(context.Context, syncer.ProxyEnv) (store.DataStore, error) { return memory.New(), nil }
	for name, cfg := range map[string]syncer.ProxyConfig{
		"url":   {URL: "nowhere", Key: relayKey, Open: open},
		"user":  {URL: "ws://u:hunter2@h", Key: relayKey, Open: open},
		"key":   {URL: "ws://h", Key: "hunter2", Open: open},
		"store": {URL: "ws://h", Key: relayKey},
	} {
		if _, err := syncer.NewProxy(cfg); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: NewProxy() = %v", name, err)
		}
	}
}
