package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/bolt"
	"github.com/flagstead/flagstead/store/memory"
)

const patient = 10 * time.Second

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patient)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("never: %s", what)
		}
	}
}

func flag(key string, version int64) store.Item {
	return store.Item{Kind: store.Flag, Key: key, Version: version, Data: fmt.Appendf(nil,
		`{"key":%q,"updatedAt":%q,"isArchived":false}`, key, wire.FormatMillis(version))}
}

// A platform is FeatBit with some environments.
type platform struct {
	url    string
	relay  *relay.Relay
	stores map[string]*memory.Store // by name
	server map[string]protocol.Secret
	client map[string]protocol.Secret
	close  func()
}

func newPlatform(t *testing.T, names ...string) *platform {
	t.Helper()
	p := &platform{stores: map[string]*memory.Store{}, server: map[string]protocol.Secret{}, client: map[string]protocol.Secret{}}
	var envs []relay.Environment
	for _, name := range names {
		st, id := memory.New(), protocol.NewEnvID()
		t.Cleanup(func() { st.Close() })
		p.stores[name] = st
		p.server[name], p.client[name] = secretOf(t, id), secretOf(t, id)
		p.push(t, name, flag("of-"+name, 1))
		envs = append(envs, relay.Environment{Name: name, Store: st, Secrets: []relay.Secret{p.server[name]}, ClientSecrets: []relay.Secret{p.client[name]}})
	}
	var err error
	if p.relay, err = relay.New(relay.Config{Environments: envs}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { p.relay.Run(ctx) })
	web := httptest.NewServer(p.relay)
	p.url = strings.Replace(web.URL, "http", "ws", 1)
	p.close = sync.OnceFunc(func() {
		stop()
		running.Wait()
		web.Close()
	})
	t.Cleanup(p.close)
	eventually(t, "the platform is ready", func() bool { return p.relay.Readiness() == relay.Healthy })
	return p
}

func secretOf(t *testing.T, env string) protocol.Secret {
	t.Helper()
	s, err := protocol.NewSecret(env)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (p *platform) push(t *testing.T, name string, items ...store.Item) {
	t.Helper()
	if _, err := p.stores[name].Apply(t.Context(), store.Change{Items: items}); err != nil {
		t.Fatal(err)
	}
}

// config is one with all environments of the platform in bolt files.
func (p *platform) config(t *testing.T, dir string, names ...string) *Config {
	t.Helper()
	c := &Config{
		FeatBit: FeatBit{URL: p.url}, Relay: Relay{Listen: "127.0.0.1:0"}, Admin: Admin{Listen: "127.0.0.1:0"},
		Defaults: Settings{Store: "bolt:" + filepath.Join(dir, "{env}.db")},
	}
	for _, name := range names {
		c.Environments = append(c.Environments, Environment{Name: name, Secret: string(p.server[name]), ClientSecret: string(p.client[name])})
	}
	return complete(t, c)
}

func complete(t *testing.T, c *Config) *Config {
	t.Helper()
	if err := c.Complete(); err != nil {
		t.Fatal(err)
	}
	return c
}

// openStores opens bolt files and memory, and fails for what is called broken.
func openStores(r OpenRequest) (store.DataStore, error) {
	path, ok := strings.CutPrefix(r.URL, "bolt:")
	switch {
	case r.URL == MemoryStore:
		return memory.New(), nil
	case !ok || strings.Contains(path, "broken"):
		return nil, errors.New("there is no such place")
	}
	return bolt.Open(path, &bolt.Options{ReadOnly: r.ReadOnly})
}

// A running fleet.
type running struct {
	*Fleet
	addr Addresses
	stop func() error
}

func start(t *testing.T, c *Config) *running {
	t.Helper()
	return startWith(t, c, openStores)
}

func startWith(t *testing.T, c *Config, open func(OpenRequest) (store.DataStore, error)) *running {
	t.Helper()
	return startLogging(t, c, open, nil)
}

func startLogging(t *testing.T, c *Config, open func(OpenRequest) (store.DataStore, error), log *slog.Logger) *running {
	t.Helper()
	addr := make(chan Addresses, 1)
	f, err := New(c, Options{Open: open, Logger: log, Version: "test", Ready: func(a Addresses) { addr <- a }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	r := &running{Fleet: f}
	r.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(2 * patient):
			return errors.New("Run does not end")
		}
	})
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
	select {
	case r.addr = <-addr:
	case err := <-ended:
		t.Fatalf("Run() = %v", err)
	}
	return r
}

func (r *running) get(t *testing.T, path string) (int, string) {
	t.Helper()
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patient}
	resp, err := web.Get("http://" + r.addr.Admin + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// connect opens a stream on the relay and returns the keys of what it sends first, or
// the status or close code that it is sent away with.
func (r *running) connect(t *testing.T, secret protocol.Secret) (ws *websocket.Conn, keys string, code int) {
	t.Helper()
	ws, resp, err := websocket.DefaultDialer.Dial("ws://"+r.addr.Relay+"/streaming?type=server&token="+protocol.Token(secret, time.Now()), nil)
	if err != nil {
		if resp == nil {
			t.Fatal(err)
		}
		return nil, "", resp.StatusCode
	}
	open := ws
	t.Cleanup(func() { open.Close() })
	if err := ws.WriteMessage(websocket.TextMessage, protocol.DataSyncRequest(0)); err != nil {
		t.Fatal(err)
	}
	text, err := read(ws)
	if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
		return nil, "", closed.Code
	}
	return ws, strings.Join(keysOf(t, text), " "), 0
}

func read(ws *websocket.Conn) ([]byte, error) {
	ws.SetReadDeadline(time.Now().Add(patient))
	_, text, err := ws.ReadMessage()
	return text, err
}

func keysOf(t *testing.T, text []byte) []string {
	t.Helper()
	doc, err := wire.Parse(text)
	if err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	var keys []string
	for _, it := range doc.Items {
		keys = append(keys, it.Key)
	}
	return keys
}

// TestEnvironmentsOnTheirOwn: each environment gets its own flags, and one whose
// store cannot be opened and one whose secret FeatBit refuses do no harm.
func TestEnvironmentsOnTheirOwn(t *testing.T) {
	p := newPlatform(t, "one", "two", "broken")
	c := p.config(t, t.TempDir(), "one", "two", "broken")
	c.Environments = append(c.Environments, Environment{Name: "refused", Secret: string(secretOf(t, protocol.NewEnvID()))})
	f := start(t, complete(t, c))
	eventually(t, "two environments are in sync", func() bool {
		ok := 0
		for _, e := range f.Status().Environments {
			if e.State == "ok" && e.Confirmed != nil {
				ok++
			}
		}
		return ok == 2
	})
	eventually(t, "the relay has both", func() bool { return f.relay.Stats().Flags == 2 })
	one, keys, _ := f.connect(t, p.server["one"])
	if keys != "of-one" {
		t.Errorf("one has %q", keys)
	}
	if _, keys, _ := f.connect(t, p.server["two"]); keys != "of-two" {
		t.Errorf("two has %q", keys)
	}
	if _, _, code := f.connect(t, p.server["broken"]); code != http.StatusServiceUnavailable {
		t.Errorf("an environment without data is answered %d, want 503", code)
	}
	if _, _, code := f.connect(t, secretOf(t, protocol.NewEnvID())); code != 4003 {
		t.Errorf("an unknown secret is closed with %d, want 4003", code)
	}
	p.push(t, "one", flag("new", 5))
	if text, err := read(one); err != nil || len(keysOf(t, text)) != 1 {
		t.Errorf("a change came as %s, %v", text, err)
	}
	eventually(t, "refused says why", func() bool {
		_, text := f.get(t, "/status")
		var st Status
		if err := json.Unmarshal([]byte(text), &st); err != nil {
			t.Fatal(err)
		}
		errs := map[string]string{}
		for _, e := range st.Environments {
			errs[e.Name] = e.Error
		}
		return strings.Contains(errs["refused"], "4003") && strings.Contains(errs["broken"], "no such place")
	})
	_, metrics := f.get(t, "/metrics")
	for _, want := range []string{
		`flagstead_syncer_ok{env="one"} 1`, `flagstead_syncer_ok{env="refused"} 0`, `flagstead_relay_env_connections{env="one"} 1`,
		"flagstead_environments 4", "flagstead_environments_open 3", "flagstead_metrics_left_out 0", "go_goroutines",
	} {
		if !strings.Contains(metrics, want+"\n") && !strings.Contains(metrics, want+" ") {
			t.Errorf("no %s in the metrics", want)
		}
	}
	if code, _ := f.get(t, "/health/liveness"); code != 200 {
		t.Errorf("liveness %d", code)
	}
	if code, _ := f.get(t, "/nothing"); code != 404 {
		t.Errorf("a path that is not there: %d", code)
	}
}

// TestReload: environments come, go and change while an SDK of another one is
// connected, which notices nothing.
func TestReload(t *testing.T) {
	p := newPlatform(t, "one", "two", "three")
	dir := t.TempDir()
	f := start(t, p.config(t, dir, "one", "two"))
	ready := func(names ...string) {
		t.Helper()
		eventually(t, fmt.Sprint(names, " are in sync"), func() bool {
			st := f.Status()
			for _, e := range st.Environments {
				if e.Confirmed == nil {
					return false
				}
			}
			return len(st.Environments) == len(names) && st.Readiness == healthy
		})
	}
	ready("one", "two")
	one, _, _ := f.connect(t, p.server["one"])
	two, _, _ := f.connect(t, p.server["two"])

	if restart := f.Reload(p.config(t, dir, "one", "three")); restart != nil {
		t.Errorf("%v need a restart", restart)
	}
	ready("one", "three")
	if _, err := read(two); !websocket.IsCloseError(err, protocol.CloseInvalid) {
		t.Errorf("the SDK of a removed environment got %v", err)
	}
	if _, keys, _ := f.connect(t, p.server["three"]); keys != "of-three" {
		t.Errorf("three has %q", keys)
	}

	// The client secret is another one, and one has another name and store file.
	c := p.config(t, dir, "one", "three")
	c.Environments[1].ClientSecret = string(secretOf(t, c.Environments[1].id))
	c.Relay.Drain = Duration(time.Second)
	if restart := f.Reload(complete(t, c)); len(restart) != 1 || restart[0] != "relay" {
		t.Errorf("%v need a restart, want relay", restart)
	}
	p.push(t, "one", flag("new", 5))
	if text, err := read(one); err != nil || keysOf(t, text)[0] != "new" {
		t.Errorf("the first SDK got %s, %v", text, err)
	}
	p.push(t, "three", flag("new", 6))
	eventually(t, "three goes on", func() bool {
		_, keys, _ := f.connect(t, p.server["three"])
		return keys == "of-three new"
	})

	// A file that was one's is three's now: it is closed before it is opened again.
	// What was in it is archived.
	c = p.config(t, dir, "one", "three")
	c.Environments[0].Store, c.Environments[1].Store = c.Environments[1].Store, c.Environments[0].Store
	c.Environments[0].Guard.Off, c.Environments[1].Guard.Off = true, true
	f.Reload(complete(t, c))
	eventually(t, "the stores are swapped", func() bool {
		_, a, _ := f.connect(t, p.server["one"])
		_, b, _ := f.connect(t, p.server["three"])
		return strings.Contains(a, "of-one") && strings.Contains(b, "of-three")
	})
	if f.reloads.Load() != 3 {
		t.Errorf("%d reloads", f.reloads.Load())
	}
}

// TestStopping: the process says that it is not ready, sends SDKs elsewhere, and
// ends.
func TestStopping(t *testing.T) {
	p := newPlatform(t, "one")
	c := p.config(t, t.TempDir(), "one")
	c.Relay.Drain = Duration(200 * time.Millisecond)
	f := start(t, c)
	eventually(t, "ready", func() bool { return f.Status().Readiness == healthy })
	var conns []*websocket.Conn
	for range 5 {
		ws, _, _ := f.connect(t, p.server["one"])
		conns = append(conns, ws)
	}
	ended := make(chan error, 1)
	go func() { ended <- f.stop() }()
	eventually(t, "not ready", func() bool { return f.readiness() == unhealthy })
	for _, ws := range conns {
		if _, err := read(ws); !websocket.IsCloseError(err, websocket.CloseGoingAway) {
			t.Errorf("ended with %v, want 1001", err)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	// Its bolt file is free again.
	st, err := bolt.Open(filepath.Join(filepath.Dir(strings.TrimPrefix(c.Environments[0].Store, "bolt:")), "one.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	st.Close()
}

// TestAddressInUse: Run does not start by half.
func TestAddressInUse(t *testing.T) {
	p := newPlatform(t, "one")
	first := start(t, p.config(t, t.TempDir(), "one"))
	for _, part := range []string{"relay", "admin"} {
		c := p.config(t, t.TempDir(), "one")
		if part == "relay" {
			c.Relay.Listen = first.addr.Relay
		} else {
			c.Admin.Listen = first.addr.Admin
		}
		f, err := New(c, Options{Open: openStores})
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Run(t.Context()); err == nil || !strings.Contains(err.Error(), part+".listen") {
			t.Errorf("Run() = %v, want one about %s.listen", err, part)
		}
	}
}
