package syncer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
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

const proxyKey = "rp-MDcwNTEzNDExNzQ3MQtXO7IPcN6U-z5fAktj18CQ"

// upstream speaks FeatBit's side of the relay-proxy protocol: full states with the
// secrets of the moment, pushes only for the environments that had a server secret
// when the connection was made, one per server secret, one item each.
type upstream struct {
	t   *testing.T
	url string

	mu       sync.Mutex
	envs     map[string]*upEnv
	conns    map[*upConn]bool
	accepted int
	fulls    int
	register int // status code
	reports  []map[string]any
	agents   []string
	refuse   bool             // 4003
	odd      func(string) any // replaces the entry of an environment in a full
	before   func(c *upConn)  // is called after a full was read and before it is sent
}

type upEnv struct {
	key     string
	secrets []syncer.Secret // of servers
	clients []syncer.Secret
	items   map[store.ID]store.Item
}

type upConn struct {
	conn   *websocket.Conn
	mapped map[string]int // server secrets per environment
	mu     sync.Mutex
}

func (c *upConn) send(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn.WriteMessage(websocket.TextMessage, []byte(text))
}

func newUpstream(t *testing.T) *upstream {
	u := &upstream{t: t, envs: map[string]*upEnv{}, conns: map[*upConn]bool{}, register: http.StatusOK}
	srv := httptest.NewServer(u)
	u.url = srv.URL
	t.Cleanup(func() { u.cut(); srv.Close() })
	return u
}

// add makes an environment and returns its id.
func (u *upstream) add(key string, items ...store.Item) string {
	id := protocol.NewEnvID()
	u.mu.Lock()
	u.envs[id] = &upEnv{key: key, items: map[store.ID]store.Item{}}
	u.mu.Unlock()
	u.secret(id)
	u.do(func() {
		for _, it := range items {
			u.envs[id].items[it.ID()] = it
		}
	})
	return id
}

func (u *upstream) secret(id string) syncer.Secret {
	s, err := protocol.NewSecret(id)
	if err != nil {
		u.t.Fatal(err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.envs[id].secrets = append(u.envs[id].secrets, s)
	return s
}

func (u *upstream) do(f func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	f()
}

// set changes an item and pushes it as FeatBit does.
func (u *upstream) set(id string, it store.Item) {
	u.do(func() { u.envs[id].items[it.ID()] = it })
	u.push(id, it)
}

func (u *upstream) push(id string, it store.Item) {
	text := wire.AppendDataSync(nil, wire.Patch, []store.Item{ofEnv(it, id)})
	u.mu.Lock()
	conns := slices.Collect(maps.Keys(u.conns))
	u.mu.Unlock()
	for _, c := range conns {
		for range c.mapped[id] {
			c.send(string(text))
		}
	}
}

// ofEnv writes the environment's id into an item.
func ofEnv(it store.Item, id string) store.Item {
	var m map[string]any
	json.Unmarshal(it.Data, &m)
	m["envId"] = id
	it.Data, _ = json.Marshal(m)
	return it
}

func segment(id string, version int64) store.Item {
	data := fmt.Sprintf(`{"id":"%s","name":"s","updatedAt":"%s","isArchived":false}`, id, wire.FormatMillis(version))
	return store.Item{Kind: store.Segment, Key: id, Version: version, Data: []byte(data)}
}

func (u *upstream) full() string {
	var list []any
	for id, e := range u.envs {
		if u.odd != nil {
			if entry := u.odd(id); entry != nil {
				list = append(list, entry)
				continue
			}
		}
		secrets := []any{}
		for kind, of := range map[string][]syncer.Secret{"server": e.secrets, "client": e.clients} {
			for _, s := range of {
				secrets = append(secrets, map[string]string{"type": kind, "projectKey": "webapp", "envId": id, "envKey": e.key, "value": string(s)})
			}
		}
		if len(secrets) == 0 {
			continue
		}
		flags, segments := []json.RawMessage{}, []json.RawMessage{}
		for _, it := range e.items {
			if it.Kind == store.Flag {
				flags = append(flags, ofEnv(it, id).Data)
			} else {
				segments = append(segments, ofEnv(it, id).Data)
			}
		}
		list = append(list, map[string]any{"envId": id, "secrets": secrets, "featureFlags": flags, "segments": segments})
	}
	if list == nil {
		list = []any{}
	}
	b, _ := json.Marshal(map[string]any{"messageType": "data-sync", "data": map[string]any{"eventType": "rp_full", "items": list}})
	return string(b)
}

// cut closes all connections without a word.
func (u *upstream) cut() {
	u.do(func() {
		for c := range u.conns {
			c.conn.NetConn().Close()
		}
	})
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/api/public/agent/register" {
		body, _ := io.ReadAll(r.Body)
		var agent string
		u.mu.Lock()
		defer u.mu.Unlock()
		if r.Method != http.MethodPost || r.Header.Get("Authorization") != proxyKey || json.Unmarshal(body, &agent) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if u.register == http.StatusOK {
			u.agents = append(u.agents, agent)
			io.WriteString(w, agent)
			return
		}
		w.WriteHeader(u.register)
		return
	}
	q := r.URL.Query()
	if r.URL.Path != "/streaming" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	conn, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	c := &upConn{conn: conn, mapped: map[string]int{}}
	u.mu.Lock()
	u.accepted++
	refuse := u.refuse || q.Get("token") != proxyKey || q.Get("type") != "relay-proxy"
	for id, e := range u.envs {
		c.mapped[id] = len(e.secrets)
	}
	u.conns[c] = true
	u.mu.Unlock()
	defer u.do(func() { delete(u.conns, c) })
	if refuse {
		conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4003, "invalid request, close by server"), time.Now().Add(time.Second))
		drain(conn)
		return
	}
	for {
		_, text, err := conn.ReadMessage()
		if err != nil {
			return
		}
		var m struct {
			MessageType string
			Data        struct {
				Timestamp       *int64
				AgentID, Status string
			}
		}
		if err := json.Unmarshal(text, &m); err != nil {
			u.t.Errorf("not JSON: %s", text)
		}
		switch m.MessageType {
		case "ping":
			c.send(string(protocol.PongFrame))
		case "data-sync":
			if m.Data.Timestamp == nil || *m.Data.Timestamp != 0 {
				u.t.Errorf("request %s", text)
			}
			u.mu.Lock()
			u.fulls++
			full, before := u.full(), u.before
			if before == nil {
				c.send(full) // as old as what is pushed before it, and no older
				u.mu.Unlock()
				continue
			}
			u.mu.Unlock()
			before(c)
			c.send(full)
		case "rp-agent-status":
			var report map[string]any
			if err := json.Unmarshal([]byte(m.Data.Status), &report); err != nil {
				u.t.Errorf("status %s", text)
			}
			report["agent"] = m.Data.AgentID
			u.do(func() { u.reports = append(u.reports, report) })
		default:
			u.t.Errorf("message %s", text)
		}
	}
}

// stores are the memory stores of environments.
type stores struct {
	mu    sync.Mutex
	all   map[string]store.DataStore
	fail  map[string]error
	lists [][]syncer.ProxyEnv
}

func (s *stores) open(_ context.Context, env syncer.ProxyEnv) (store.DataStore, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail[env.ID]; err != nil {
		return nil, err
	}
	if s.all[env.ID] == nil {
		s.all[env.ID] = memory.New()
	}
	return s.all[env.ID], nil
}

func (s *stores) get(id string) store.DataStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[id]
}

// last returns the ids of the last list of environments.
func (s *stores) last() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := []string{}
	if len(s.lists) > 0 {
		for _, e := range s.lists[len(s.lists)-1] {
			ids = append(ids, e.ID)
		}
	}
	return ids
}

func (s *stores) env(id string) (syncer.ProxyEnv, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.lists[len(s.lists)-1] {
		if e.ID == id {
			return e, true
		}
	}
	return syncer.ProxyEnv{}, false
}

// holds reports whether an environment's store has exactly these.
func (s *stores) holds(t *testing.T, id string, want map[string]int64) func() bool {
	return func() bool {
		st := s.get(id)
		return st != nil && maps.Equal(content(t, st), want)
	}
}

// startProxy runs a proxy until the test ends.
func startProxy(t *testing.T, u *upstream, change func(*syncer.ProxyConfig)) (*syncer.Proxy, *stores, <-chan error) {
	t.Helper()
	ss := &stores{all: map[string]store.DataStore{}, fail: map[string]error{}}
	cfg := syncer.HastyProxy(syncer.ProxyConfig{
		URL: u.url, Key: proxyKey, AgentID: "agent-1", Open: ss.open,
		OnEnvironments: func(list []syncer.ProxyEnv) {
			ss.mu.Lock()
			defer ss.mu.Unlock()
			ss.lists = append(ss.lists, list)
		},
		Config: fast(syncer.Config{Guard: syncer.Guard{Wait: 20 * time.Millisecond}}),
	})
	if change != nil {
		change(&cfg)
	}
	p, err := syncer.NewProxy(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	done := make(chan struct{})
	go func() { result <- p.Run(ctx); close(done) }()
	t.Cleanup(func() {
		cancel()
		<-done
		for _, st := range ss.all {
			st.Close()
		}
	})
	return p, ss, result
}

func proxyOK(p *syncer.Proxy, envs int) func() bool {
	return func() bool { st := p.Status(); return st.State == syncer.OK && len(st.Environments) == envs }
}

// TestProxy: full states and pushes reach each environment's own store, also when
// two environments have a segment in common or one has two secrets.
func TestProxy(t *testing.T) {
	u := newUpstream(t)
	a := u.add("prod", flag("x", 1000), segment("shared", 1000))
	b := u.add("dev", flag("x", 2000), segment("shared", 2000))
	u.secret(b)
	p, ss, _ := startProxy(t, u, nil)
	until(t, "both in sync", proxyOK(p, 2))
	until(t, "a", ss.holds(t, a, map[string]int64{"x": 1000, "shared": 1000}))
	until(t, "b", ss.holds(t, b, map[string]int64{"x": 2000, "shared": 2000}))

	u.set(a, flag("x", 3000))
	u.set(b, flag("y", 3000))
	u.set(a, segment("shared", 4000))
	u.set(b, segment("shared", 5000))
	u.push(b, flag("x", 500)) // a repeated, old one
	u.set(b, flag("last", 6000))
	until(t, "pushes of a", ss.holds(t, a, map[string]int64{"x": 3000, "shared": 4000}))
	until(t, "pushes of b", ss.holds(t, b, map[string]int64{"x": 2000, "y": 3000, "shared": 5000, "last": 6000}))

	env, _ := ss.env(b)
	if env.EnvKey != "dev" || env.ProjectKey != "webapp" || len(env.ServerSecrets) != 2 {
		t.Errorf("environment %+v", env)
	}
	st := p.Status()
	if st.Connects != 1 || st.Ignored != 0 || st.Err != nil {
		t.Errorf("Status() = %+v", st)
	}
	for _, e := range st.Environments {
		if e.Status.Confirmed.IsZero() || e.Status.Patches == 0 {
			t.Errorf("environment %+v", e)
		}
	}
	if text := fmt.Sprintf("%v %+v %#v", st, env, env); strings.Contains(text, string(env.ServerSecrets[0])) {
		t.Error("a secret prints")
	}
	if m := p.MetricGroups(); len(m) != 2 || len(m[0].Measurements) == 0 || len(p.Metrics()) == 0 {
		t.Errorf("metrics of %d environments", len(m))
	}
}

// TestProxyPushOvertakesFull: a push that was sent after the full state was read
// and before that was sent is not undone.
func TestProxyPushOvertakesFull(t *testing.T) {
	u := newUpstream(t)
	a := u.add("prod", flag("x", 1000))
	var n atomic.Int32
	u.before = func(*upConn) {
		if n.Add(1) == 2 { // the environment's store is open
			u.set(a, flag("x", 9000))
			u.set(a, flag("new", 9500))
		}
	}
	p, ss, _ := startProxy(t, u, nil)
	until(t, "in sync", proxyOK(p, 1))
	until(t, "merged", ss.holds(t, a, map[string]int64{"x": 9000, "new": 9500}))
	if got := p.Status().Fulls; got != 2 {
		t.Errorf("%d full states, so the last one had the pushes", got)
	}
}

// TestProxyPushOfUnknown: a push of an environment that no full state had yet is
// not lost.
func TestProxyPushOfUnknown(t *testing.T) {
	u := newUpstream(t)
	a := u.add("prod", flag("x", 1000))
	var once sync.Once
	u.before = func(*upConn) { once.Do(func() { u.set(a, flag("early", 5000)) }) }
	p, ss, _ := startProxy(t, u, nil)
	until(t, "in sync", proxyOK(p, 1))
	until(t, "all", ss.holds(t, a, map[string]int64{"x": 1000, "early": 5000}))
}

// TestProxyScopeChanges: environments and secrets come and go. A new environment's
// pushes need a new connection.
func TestProxyScopeChanges(t *testing.T) {
	u := newUpstream(t)
	a := u.add("prod", flag("x", 1000))
	p, ss, _ := startProxy(t, u, nil)
	until(t, "one", proxyOK(p, 1))

	b := u.add("later", flag("y", 1000))
	p.Reconcile()
	until(t, "two", proxyOK(p, 2))
	until(t, "b", ss.holds(t, b, map[string]int64{"y": 1000}))
	until(t, "a new connection", func() bool { return p.Status().Connects == 2 && proxyOK(p, 2)() })
	until(t, "pushes for b", func() bool {
		u.set(b, flag("y", 2000))
		return ss.holds(t, b, map[string]int64{"y": 2000})()
	})

	more := u.secret(a)
	p.Reconcile()
	until(t, "a second secret", func() bool { env, _ := ss.env(a); return slices.Contains(env.ServerSecrets, more) })
	u.do(func() { u.envs[a].secrets = u.envs[a].secrets[:1] })
	p.Reconcile()
	until(t, "revoked", func() bool { env, _ := ss.env(a); return len(env.ServerSecrets) == 1 })

	u.do(func() { u.envs[b].secrets = nil })
	p.Reconcile()
	until(t, "b is gone", func() bool { return slices.Equal(ss.last(), []string{a}) })
	if got := content(t, ss.get(b)); !maps.Equal(got, map[string]int64{"y": 2000}) {
		t.Errorf("what is left of b: %v", got)
	}
	back := u.secret(b)
	p.Reconcile()
	until(t, "b is back", func() bool {
		if !proxyOK(p, 2)() {
			return false
		}
		env, ok := ss.env(b)
		return ok && slices.Contains(env.ServerSecrets, back)
	})
	u.set(a, flag("x", 5000))
	until(t, "a was served all along", ss.holds(t, a, map[string]int64{"x": 5000}))
}

// TestProxyDoubts: a list that lacks environments once removes none, and an
// environment whose flags vanish is guarded.
func TestProxyDoubts(t *testing.T) {
	u := newUpstream(t)
	a := u.add("prod", flag("x", 1000))
	b := u.add("dev", flag("y", 1000))
	p, ss, _ := startProxy(t, u, func(c *syncer.ProxyConfig) { c.Config.Guard.Wait = time.Hour })
	until(t, "both", proxyOK(p, 2))
	lists := len(ss.last())
	kept := u.envs
	u.do(func() { u.envs = map[string]*upEnv{} })
	fulls := p.Status().Fulls
	p.Reconcile()
	until(t, "an empty full", func() bool { return p.Status().Fulls > fulls })
	u.do(func() { u.envs = kept; u.envs[a].items = map[store.ID]store.Item{} })
	p.Reconcile()
	until(t, "refused", func() bool {
		for _, e := range p.Status().Environments {
			if _, ok := errors.AsType[*syncer.RefusedError](e.Status.Err); ok {
				return e.ID == a
			}
		}
		return false
	})
	if got := ss.last(); len(got) != lists || len(got) != 2 {
		t.Errorf("environments %v", got)
	}
	if !ss.holds(t, a, map[string]int64{"x": 1000})() || !ss.holds(t, b, map[string]int64{"y": 1000})() {
		t.Error("flags were lost")
	}
	if p.Accept("nonsense") || !p.Accept(a) {
		t.Error("Accept")
	}
	until(t, "accepted", ss.holds(t, a, map[string]int64{}))
}

// TestProxyKeepsAll: that the last environments are gone is never believed.
func TestProxyKeepsAll(t *testing.T) {
	u := newUpstream(t)
	u.add("prod", flag("x", 1000))
	u.add("dev", flag("y", 1000))
	p, ss, _ := startProxy(t, u, func(c *syncer.ProxyConfig) { c.Config.Guard.Wait = time.Millisecond })
	until(t, "both", proxyOK(p, 2))
	u.do(func() { u.envs = map[string]*upEnv{} })
	for range 3 {
		fulls := p.Status().Fulls
		p.Reconcile()
		until(t, "an empty full", func() bool { return p.Status().Fulls > fulls })
	}
	if n, told := len(p.Status().Environments), ss.last(); n != 2 || len(told) != 2 {
		t.Errorf("%d environments, told of %v", n, told)
	}
}

// TestProxyReconnects: what happened meanwhile, deletions too, is caught up.
func TestProxyReconnects(t *testing.T) {
	u := newUpstream(t)
	a := u.add("prod", flag("x", 1000), flag("gone", 1000))
	p, ss, _ := startProxy(t, u, nil)
	until(t, "in sync", proxyOK(p, 1))
	u.do(func() {
		delete(u.envs[a].items, flag("gone", 0).ID())
		u.envs[a].items[flag("new", 0).ID()] = flag("new", 2000)
	})
	u.cut()
	until(t, "caught up", ss.holds(t, a, map[string]int64{"x": 1000, "new": 2000}))
	until(t, "again in sync", proxyOK(p, 1))
	if st := p.Status(); st.Connects < 2 || st.Err != nil {
		t.Errorf("Status() = %+v", st)
	}
}

// TestProxyCutInTheMiddle: half a full state is none.
func TestProxyCutInTheMiddle(t *testing.T) {
	u := newUpstream(t)
	a := u.add("prod", flag("x", 1000))
	var once sync.Once
	u.before = func(c *upConn) {
		once.Do(func() {
			w, err := c.conn.NextWriter(websocket.TextMessage)
			if err == nil {
				text := u.full()
				io.WriteString(w, text[:len(text)/2]+strings.Repeat(" ", 8192))
			}
			c.conn.NetConn().Close()
		})
	}
	p, ss, _ := startProxy(t, u, nil)
	until(t, "in sync", proxyOK(p, 1))
	until(t, "whole", ss.holds(t, a, map[string]int64{"x": 1000}))
	if st := p.Status(); st.Connects < 2 {
		t.Errorf("Status() = %+v", st)
	}
}

// TestProxyOneStoreDown: an environment that cannot be opened, or written, harms no
// other, and catches up when it can.
func TestProxyOneStoreDown(t *testing.T) {
	u := newUpstream(t)
	a := u.add("prod", flag("x", 1000))
	b := u.add("broken", flag("x", 1000))
	c := u.add("flaky", flag("x", 1000))
	flaky := &swap{st: memory.New()}
	flaky.down.Store(true)
	p, ss, _ := startProxy(t, u, func(cfg *syncer.ProxyConfig) {
		open := cfg.Open
		cfg.Open = func(ctx context.Context, env syncer.ProxyEnv) (store.DataStore, error) {
			if env.ID == c {
				return flaky, nil
			}
			return open(ctx, env)
		}
	})
	ss.mu.Lock()
	ss.fail[b] = errors.New("no rights")
	ss.mu.Unlock()
	until(t, "a", ss.holds(t, a, map[string]int64{"x": 1000}))
	u.set(a, flag("x", 2000))
	u.set(b, flag("x", 2000))
	u.set(c, flag("x", 2000))
	until(t, "a goes on", ss.holds(t, a, map[string]int64{"x": 2000}))
	until(t, "both say why", func() bool {
		why := map[string]string{}
		for _, e := range p.Status().Environments {
			if e.Status.Err != nil {
				why[e.ID] = e.Status.Err.Error()
			}
		}
		return why[a] == "" && strings.Contains(why[b], "no rights") && strings.Contains(why[c], "store is down")
	})
	ss.mu.Lock()
	delete(ss.fail, b)
	ss.mu.Unlock()
	flaky.down.Store(false)
	until(t, "b", ss.holds(t, b, map[string]int64{"x": 2000}))
	until(t, "c", func() bool { return maps.Equal(content(t, flaky), map[string]int64{"x": 2000}) })
	until(t, "all", proxyOK(p, 3))
	flaky.flush()
	until(t, "c is healed", func() bool { return maps.Equal(content(t, flaky), map[string]int64{"x": 2000}) })
}

// TestProxyOddMessages: what is malformed costs itself and nothing else.
func TestProxyOddMessages(t *testing.T) {
	u := newUpstream(t)
	a := u.add("prod", flag("x", 1000))
	b := u.add("dev", flag("y", 1000))
	p, ss, _ := startProxy(t, u, nil)
	until(t, "both", proxyOK(p, 2))
	u.do(func() {
		u.odd = func(id string) any {
			if id == b {
				return map[string]any{"envId": b, "secrets": 1, "featureFlags": "none"}
			}
			return nil
		}
	})
	fulls := p.Status().Fulls
	for range 2 {
		p.Reconcile()
		until(t, "a full", func() bool { return p.Status().Fulls > fulls })
		fulls = p.Status().Fulls
	}
	// The proxy asks for everything after messages that it cannot read, and the answer
	// would take the good one away again.
	held := make(chan struct{})
	defer close(held)
	u.mu.Lock()
	u.before = func(*upConn) { <-held }
	for c := range u.conns {
		for _, data := range []string{
			`null`, `{}`, `[]`, `{"eventType":"rp_full"}`, `{"eventType":"rp_full","items":{}}`, `{"eventType":"weird","items":[]}`,
			`{"eventType":"full","featureFlags":[],"segments":[]}`,
			`{"eventType":"patch","featureFlags":[{"key":"no-env","updatedAt":"2025-01-01T00:00:00Z"}],"segments":[]}`,
			`{"eventType":"patch","featureFlags":[{"key":"k","envId":7}],"segments":[1]}`,
			`{"eventType":"patch","featureFlags":[{"key":"k","envId":"../../etc"}],"segments":[]}`,
			`{"eventType":"rp_patch","items":[7,{"envId":"` + a + `","secrets":[],"featureFlags":[{"key":"z","updatedAt":"2025-01-01T00:00:00Z"}],"segments":[]}]}`,
		} {
			c.send(`{"messageType":"data-sync","data":` + data + `}`)
		}
	}
	u.mu.Unlock()
	until(t, "the good one of them", func() bool { _, ok := content(t, ss.get(a))["z"]; return ok })
	if !ss.holds(t, b, map[string]int64{"y": 1000})() || len(ss.last()) != 2 {
		t.Error("b was harmed")
	}
	if st := p.Status(); st.Ignored < 12 || st.Connects != 1 {
		t.Errorf("Status() = %+v", st)
	}
}

// TestProxyLostMessages: each message that cannot be read is made up for, also the
// one that comes soon after another.
func TestProxyLostMessages(t *testing.T) {
	u := newUpstream(t)
	a := u.add("prod", flag("x", 1000))
	p, ss, _ := startProxy(t, u, func(c *syncer.ProxyConfig) {
		c.Config = syncer.SuspectEvery(c.Config, 200*time.Millisecond)
		c.Config.Reconcile = time.Hour
	})
	until(t, "in sync", proxyOK(p, 1))
	for version := range int64(3) {
		version = 2000 + 1000*version
		u.mu.Lock()
		u.envs[a].items[flag("x", 0).ID()] = flag("x", version)
		for c := range u.conns {
			c.send(`{"messageType":"data-sync","data":{"eventType":"patch","featureFlags":[],"segments":7}}`)
		}
		u.mu.Unlock()
		until(t, "made up for", ss.holds(t, a, map[string]int64{"x": version}))
	}
	if st := p.Status(); st.Connects != 1 || st.Ignored != 3 {
		t.Errorf("Status() = %+v", st)
	}
}

// TestProxyClientOnly: an environment without a server secret gets no pushes, so
// only full states confirm it.
func TestProxyClientOnly(t *testing.T) {
	u := newUpstream(t)
	u.add("prod", flag("x", 1000))
	b := u.add("web", flag("y", 1000))
	u.do(func() { u.envs[b].clients, u.envs[b].secrets = u.envs[b].secrets, nil })
	p, ss, _ := startProxy(t, u, func(c *syncer.ProxyConfig) { c.Config.Ping = 5 * time.Millisecond })
	until(t, "both", proxyOK(p, 2))
	status := func(id string) syncer.Status {
		for _, e := range p.Status().Environments {
			if e.ID == id {
				return e.Status
			}
		}
		return syncer.Status{}
	}
	if env, _ := ss.env(b); len(env.ClientSecrets) != 1 || len(env.ServerSecrets) != 0 {
		t.Errorf("environment %+v", env)
	}
	fulls, heard := p.Status().Fulls, status(b).Heard
	until(t, "pongs", func() bool { return p.Status().Heard.Sub(heard) > 20*time.Millisecond })
	if p.Status().Fulls == fulls && !status(b).Heard.Equal(heard) {
		t.Error("pongs confirm what no push would tell of")
	}
	p.Reconcile()
	until(t, "a full confirms", func() bool { return status(b).Confirmed.After(heard) })
}

// TestProxyRegisters: the agent is announced however often it takes, and reports
// how it stands.
func TestProxyRegisters(t *testing.T) {
	for _, refusal := range []int{200, 403, 401, 500} {
		u := newUpstream(t)
		u.register = refusal
		u.add("prod", flag("x", 1735689600123))
		p, _, _ := startProxy(t, u, func(c *syncer.ProxyConfig) { c.Register = true })
		until(t, "in sync", proxyOK(p, 1))
		if refusal != 200 {
			until(t, "refused", func() bool {
				st := p.Status()
				return !st.Registered && st.RegisterErr != nil && strings.Contains(st.RegisterErr.Error(), fmt.Sprint(refusal))
			})
			if strings.Contains(p.Status().RegisterErr.Error(), proxyKey) {
				t.Error("the key is in the error")
			}
			u.do(func() { u.register = 200 })
		}
		until(t, "registered", func() bool { st := p.Status(); return st.Registered && st.RegisterErr == nil })
		until(t, "a report", func() bool {
			u.mu.Lock()
			defer u.mu.Unlock()
			if len(u.reports) == 0 || !slices.Equal(u.agents, []string{"agent-1"}) {
				return false
			}
			r := u.reports[len(u.reports)-1]
			return r["agent"] == "agent-1" && r["serves"] == "webapp:prod" && r["syncState"] == "Stable" &&
				r["dataVersion"] == float64(1735689600123) && r["lastSyncedAt"] != nil && r["reportedAt"] != nil
		})
	}
}

// TestProxyReportsTrouble: the report is true when a store is down.
func TestProxyReportsTrouble(t *testing.T) {
	u := newUpstream(t)
	u.add("prod", flag("x", 1000))
	st := &swap{st: memory.New()}
	p, _, _ := startProxy(t, u, func(c *syncer.ProxyConfig) {
		c.Register = true
		c.Open = func(context.Context, syncer.ProxyEnv) (store.DataStore, error) { return st, nil }
	})
	until(t, "in sync", proxyOK(p, 1))
	st.down.Store(true)
	until(t, "reported", func() bool {
		u.mu.Lock()
		defer u.mu.Unlock()
		return len(u.reports) > 0 && u.reports[len(u.reports)-1]["syncState"] == "Interrupted"
	})
}

func TestProxyManyEnvironmentsReport(t *testing.T) {
	u := newUpstream(t)
	for i := range 200 {
		u.add(strings.Repeat("<long>", 10) + fmt.Sprint(i))
	}
	p, _, _ := startProxy(t, u, func(c *syncer.ProxyConfig) { c.Register = true })
	until(t, "in sync", proxyOK(p, 200))
	until(t, "a report", func() bool {
		u.mu.Lock()
		defer u.mu.Unlock()
		return len(u.reports) > 0 && strings.Contains(fmt.Sprint(u.reports[len(u.reports)-1]["serves"]), "more")
	})
}

func TestProxyRefusedForGood(t *testing.T) {
	u := newUpstream(t)
	a := u.add("prod", flag("x", 1000))
	p, ss, result := startProxy(t, u, nil)
	until(t, "in sync", proxyOK(p, 1))
	u.do(func() { u.refuse = true })
	u.cut()
	err := <-result
	if !errors.Is(err, syncer.ErrUnauthorized) || strings.Contains(err.Error(), proxyKey) || !strings.Contains(err.Error(), "relay-proxy key") {
		t.Errorf("Run = %v", err)
	}
	st := p.Status()
	if st.State != syncer.Off || len(st.Environments) != 1 || st.Environments[0].Status.State != syncer.Off || !errors.Is(st.Environments[0].Status.Err, syncer.ErrUnauthorized) {
		t.Errorf("Status() = %+v", st)
	}
	if !ss.holds(t, a, map[string]int64{"x": 1000})() {
		t.Error("the store was touched")
	}
}

func TestNewProxyRejects(t *testing.T) {
	open := func(context.Context, syncer.ProxyEnv) (store.DataStore, error) { return memory.New(), nil }
	for name, cfg := range map[string]syncer.ProxyConfig{
		"no URL":      {Key: proxyKey, Open: open},
		"no key":      {URL: "ws://x", Open: open},
		"no such key": {URL: "ws://x", Key: "hunter2", Open: open},
		"odd key":     {URL: "ws://x", Key: "rp-hunter2 x", Open: open},
		"no Open":     {URL: "ws://x", Key: proxyKey},
		"a user":      {URL: "ws://u:hunter2@x", Key: proxyKey, Open: open},
		"a secret":    {URL: "ws://x", Key: proxyKey, Open: open, Config: syncer.Config{Secret: "hunter2"}},
	} {
		if _, err := syncer.NewProxy(cfg); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: NewProxy = %v", name, err)
		}
	}
}
