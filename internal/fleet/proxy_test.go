package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
)

const relayKey = "rp-MDcwNTEzNDExNzQ3MQtXO7IPcN6U-z5fAktj18CQ"

// A hub is FeatBit as a relay proxy sees it, with one flag per environment, whose key
// is the environment's.
type hub struct {
	*httptest.Server

	mu    sync.Mutex
	envs  map[string]protocol.Secret // by key
	mute  bool
	conns map[*websocket.Conn]bool
}

func newHub(t *testing.T, keys ...string) *hub {
	t.Helper()
	h := &hub{envs: map[string]protocol.Secret{}, conns: map[*websocket.Conn]bool{}}
	for _, key := range keys {
		h.envs[key] = secretOf(t, protocol.NewEnvID())
	}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.stop)
	return h
}

func (h *hub) stop() {
	h.mu.Lock()
	h.mute = true
	for c := range h.conns {
		c.Close()
	}
	h.mu.Unlock()
	h.Close()
}

func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	mute := h.mute
	h.mu.Unlock()
	switch {
	case mute:
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case r.URL.Path == protocol.RegisterPath:
		return
	case r.URL.Path != protocol.StreamingPath || r.URL.Query().Get("token") != relayKey:
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	u := websocket.Upgrader{}
	ws, err := u.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	h.mu.Lock()
	h.conns[ws] = true
	h.mu.Unlock()
	defer ws.Close()
	for {
		_, text, err := ws.ReadMessage()
		if err != nil {
			return
		}
		if strings.Contains(string(text), `"data-sync"`) {
			if ws.WriteMessage(websocket.TextMessage, h.full()) != nil {
				return
			}
		}
	}
}

func (h *hub) full() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	var items []any
	for key, secret := range h.envs {
		id, _ := secret.EnvID()
		items = append(items, map[string]any{
			"envId":        id,
			"secrets":      []any{map[string]string{"type": "server", "projectKey": "p", "envKey": key, "value": string(secret)}},
			"featureFlags": []any{json.RawMessage(flag(key, 5).Data)}, "segments": []any{},
		})
	}
	text, _ := json.Marshal(map[string]any{"messageType": "data-sync", "data": map[string]any{"eventType": "rp_full", "items": items}})
	return text
}

func (h *hub) config(t *testing.T, dir string) *Config {
	t.Helper()
	return complete(t, &Config{
		FeatBit: FeatBit{URL: strings.Replace(h.URL, "http", "ws", 1)}, Relay: Relay{Listen: "127.0.0.1:0"}, Admin: Admin{Listen: "127.0.0.1:0"},
		State:      filepath.Join(dir, "state"),
		RelayProxy: &RelayProxy{Key: relayKey, AgentID: "a", Settings: Settings{Store: "bolt:" + filepath.Join(dir, "{id}.db")}},
	})
}

// TestRelayProxy: all environments of a key are served, also after a restart while
// FeatBit is away; and nobody is sent away for good before the secrets are known.
func TestRelayProxy(t *testing.T) {
	h := newHub(t, "one", "two")
	h.mu.Lock()
	h.mute = true
	h.mu.Unlock()
	dir := t.TempDir()
	f := start(t, h.config(t, dir))
	if _, _, code := f.connect(t, h.envs["one"]); code != http.StatusServiceUnavailable {
		t.Errorf("before anything is known: %d, want 503", code)
	}
	if code, _ := f.get(t, "/health/readiness"); code != http.StatusServiceUnavailable {
		t.Errorf("readiness %d before anything is known", code)
	}
	h.mu.Lock()
	h.mute = false
	h.mu.Unlock()
	served := func(f *running) {
		t.Helper()
		for key, secret := range h.envs {
			eventually(t, key+" is served", func() bool {
				_, keys, code := f.connect(t, secret)
				if code == 4003 {
					t.Fatalf("%s is sent away for good", key)
				}
				return keys == key
			})
		}
	}
	served(f)
	eventually(t, "healthy", func() bool { return f.Status().Readiness == healthy })
	if _, _, code := f.connect(t, secretOf(t, protocol.NewEnvID())); code != 4003 {
		t.Errorf("an unknown secret is closed with %d", code)
	}
	for _, want := range []string{"flagstead_proxy_ok 1", `flagstead_syncer_ok{env="p:one"} 1`, `flagstead_relay_env_flags{env="p:two"} 1`, "flagstead_metrics_left_out 0"} {
		eventually(t, want, func() bool {
			_, numbers := f.get(t, "/metrics")
			return strings.Contains(numbers, want)
		})
	}
	_, status := f.get(t, "/status")
	if !strings.Contains(status, `"name": "p:one"`) || strings.Contains(status, relayKey) || strings.Contains(status, string(h.envs["one"])) {
		t.Errorf("status: %s", status)
	}
	if !f.Reconcile("p:one") || f.Reconcile("nobody") {
		t.Error("Reconcile does not know the environments")
	}
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "state", "relay-proxy.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the state file: %v, %v", info, err)
	}
	config := h.config(t, dir)
	h.stop()
	served(start(t, config))
}

// TestEventsAreForwarded: what SDKs report arrives at FeatBit under the secret of
// their environment, also what came while FeatBit was away and the process ended.
func TestEventsAreForwarded(t *testing.T) {
	var mu sync.Mutex
	away := true
	got := map[string]int{} // events by secret
	featbit := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if away {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		var batch []json.RawMessage
		if err := json.NewDecoder(r.Body).Decode(&batch); err != nil {
			t.Error(err)
		}
		got[r.Header.Get("Authorization")] += len(batch)
	}))
	defer featbit.Close()
	p := newPlatform(t, "one", "two")
	dir := t.TempDir()
	config := func() *Config {
		c := p.config(t, dir, "one", "two")
		c.FeatBit.Events, c.State = featbit.URL, filepath.Join(dir, "state")
		return complete(t, c)
	}
	report := func(f *running, secret protocol.Secret, n int) {
		t.Helper()
		body := "[" + strings.Repeat(`{"user":{"keyId":"u"},"variations":[]},`, n-1) + `{"user":{"keyId":"u"},"variations":[]}]`
		req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://"+f.addr.Relay+protocol.InsightPath, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", string(secret))
		web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := web.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Fatalf("insights are answered %d", resp.StatusCode)
		}
	}
	f := start(t, config())
	report(f, p.server["one"], 3)
	report(f, p.client["two"], 4)
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	away = false
	mu.Unlock()
	f = start(t, config())
	report(f, p.server["two"], 5)
	want := map[string]int{string(p.server["one"]): 3, string(p.server["two"]): 9}
	eventually(t, "all have arrived", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return fmt.Sprint(got) == fmt.Sprint(want)
	})
	eventually(t, "the status says so", func() bool { s := f.Status().Events; return s.Pending == 0 && s.Delivered == 12 })
}

// TestOutboxIsEmptied: what readers leave in an environment's store is delivered.
func TestOutboxIsEmptied(t *testing.T) {
	var mu sync.Mutex
	got := map[string]int{}
	featbit := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var batch []json.RawMessage
		if err := json.NewDecoder(r.Body).Decode(&batch); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		got[r.Header.Get("Authorization")] += len(batch)
	}))
	defer featbit.Close()
	p := newPlatform(t, "one")
	c := p.config(t, t.TempDir(), "one")
	c.FeatBit.Events, c.Environments[0].Store = featbit.URL, MemoryStore
	opened := make(chan store.DataStore, 1)
	f := startWith(t, complete(t, c), func(r OpenRequest) (store.DataStore, error) {
		st, err := openStores(r)
		opened <- st
		return st, err
	})
	st := <-opened
	var events []store.Event
	for i := range 70 {
		events = append(events, store.Event{ID: fmt.Sprint("e", i), Data: []byte(`{"user":{"keyId":"u"}}`)})
	}
	if err := st.(store.OutboxWriter).AppendEvents(t.Context(), events); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all are delivered", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return got[string(p.server["one"])] == len(events)
	})
	eventually(t, "and counted", func() bool {
		_, numbers := f.get(t, "/metrics")
		return strings.Contains(numbers, `flagstead_outbox_delivered_total{env="one"} 70`)
	})
}

// A lasting store outlives its Close, as Redis does.
type lasting struct{ *memory.Store }

func (lasting) Close() error { return nil }

// TestOutboxOfAnotherEnvironment: after a reload that says that a name and its store
// are another environment, the events are that one's.
func TestOutboxOfAnotherEnvironment(t *testing.T) {
	authors := make(chan string, 10)
	featbit := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		authors <- r.Header.Get("Authorization")
	}))
	defer featbit.Close()
	p := newPlatform(t, "one", "two")
	c := func(name string) *Config {
		c := p.config(t, t.TempDir(), "one", "two")
		c.FeatBit.Events = featbit.URL
		c.Environments = []Environment{{Name: "it", Secret: string(p.server[name]), Settings: Settings{Store: "shared:"}}}
		return complete(t, c)
	}
	st := lasting{memory.New()}
	defer st.Store.Close()
	f := startWith(t, c("one"), func(OpenRequest) (store.DataStore, error) { return st, nil })
	for i, name := range []string{"one", "two", "one"} {
		if i > 0 {
			f.Reload(c(name))
		}
		if err := st.AppendEvents(t.Context(), []store.Event{{ID: fmt.Sprint(i), Data: []byte(`{"user":{"keyId":"u"}}`)}}); err != nil {
			t.Fatal(err)
		}
		select {
		case author := <-authors:
			if author != string(p.server[name]) {
				t.Errorf("an event of %s came with another one's secret", name)
			}
		case <-time.After(patient):
			t.Fatalf("an event of %s never came", name)
		}
		eventually(t, "it has left the outbox", func() bool {
			left, err := st.OutboxStats(t.Context())
			return err == nil && left.Pending == 0
		})
	}
}

// TestManualProxy: FeatBit's platform brings the environments, which are served also
// after a restart.
func TestManualProxy(t *testing.T) {
	dir := t.TempDir()
	config := func() *Config {
		return complete(t, &Config{
			Relay: Relay{Listen: "127.0.0.1:0"}, Admin: Admin{Listen: "127.0.0.1:0"}, State: filepath.Join(dir, "state"),
			RelayProxy: &RelayProxy{Key: relayKey, Mode: "manual", Settings: Settings{Store: "bolt:" + filepath.Join(dir, "{id}.db")}},
		})
	}
	f := start(t, config())
	secret := secretOf(t, protocol.NewEnvID())
	id, _ := secret.EnvID()
	if _, _, code := f.connect(t, secret); code != http.StatusServiceUnavailable {
		t.Errorf("before the first bootstrap: %d, want 503", code)
	}
	post := func(key, secrets string, version int64) int {
		t.Helper()
		body := fmt.Sprintf(`{"eventType":"rp_full","items":[{"envId":%q,"secrets":[%s],"featureFlags":[%s],"segments":[]}]}`, id, secrets,
			strings.Replace(string(flag("brought", version).Data), "{", fmt.Sprintf(`{"envId":%q,"id":%q,`, id, protocol.NewEnvID()), 1))
		req, err := http.NewRequest(http.MethodPost, "http://"+f.addr.Relay+"/api/public/proxy/bootstrap", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", key)
		web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := web.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if code := post("rp-wrong", "", 5); code != http.StatusUnauthorized {
		t.Errorf("a wrong key is answered %d", code)
	}
	mine := fmt.Sprintf(`{"type":"server","projectKey":"p","envKey":"e","value":%q}`, string(secret))
	if code := post(relayKey, mine, 5); code != 200 {
		t.Fatalf("a bootstrap is answered %d", code)
	}
	served := func(f *running) {
		t.Helper()
		eventually(t, "it is served", func() bool { _, keys, _ := f.connect(t, secret); return keys == "brought" })
	}
	served(f)
	if code := post(relayKey, "", 6); code != 200 { // the secrets stay
		t.Fatalf("a second bootstrap is answered %d", code)
	}
	served(f)
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	served(start(t, config()))
}

// TestFromAnotherStore: an environment may copy another store.
func TestFromAnotherStore(t *testing.T) {
	dir := t.TempDir()
	src, err := openStores(OpenRequest{URL: "bolt:" + filepath.Join(dir, "src.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	secret := secretOf(t, protocol.NewEnvID())
	f := start(t, complete(t, &Config{
		Relay: Relay{Listen: "127.0.0.1:0"}, Admin: Admin{Listen: "127.0.0.1:0"},
		Environments: []Environment{{Name: "copy", Secret: string(secret), From: "bolt:" + filepath.Join(dir, "src.db"), Settings: Settings{Store: "memory:"}}},
	}))
	if _, err := src.Apply(t.Context(), store.Change{Full: true, Items: []store.Item{flag("copied", 1)}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the copy is served", func() bool { _, keys, _ := f.connect(t, secret); return keys == "copied" })
	if _, err := src.Apply(t.Context(), store.Change{Items: []store.Item{flag("more", 2)}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the change is served", func() bool { _, keys, _ := f.connect(t, secret); return keys == "copied more" })
}
