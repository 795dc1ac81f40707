package relay_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
)

const (
	agentKey   = "rp-MDcwNTEzNDExNzQ3MQtXO7IPcN6U-z5fAktj18CQ"
	statusPath = "/api/public/proxy/status"
	backupPath = "/api/public/proxy/backup"
	bootPath   = "/api/public/proxy/bootstrap"
)

func newSecrets(t testing.TB, env string) (server, client relay.Secret) {
	t.Helper()
	var both [2]relay.Secret
	for i := range both {
		var err error
		if both[i], err = protocol.NewSecret(env); err != nil {
			t.Fatal(err)
		}
	}
	return both[0], both[1]
}

// A platformSecret is a secret as FeatBit's platform sends it.
type platformSecret struct {
	Type       string `json:"type"`
	ProjectKey string `json:"projectKey"`
	EnvID      string `json:"envId"`
	EnvKey     string `json:"envKey"`
	Value      string `json:"value"`
}

type platformEnv struct {
	EnvID        string            `json:"envId"`
	Secrets      []platformSecret  `json:"secrets"`
	FeatureFlags []json.RawMessage `json:"featureFlags"`
	Segments     []json.RawMessage `json:"segments"`
}

type platformDocument struct {
	EventType string        `json:"eventType"`
	Items     []platformEnv `json:"items"`
}

// A fleet does with a bootstrap what a process with a store per environment does.
type fleet struct {
	t      *testing.T
	relay  *relay.Relay
	stores map[string]*memory.Store
	err    error // of the next bootstrap
}

func (f *fleet) bootstrap(ctx context.Context, envs []relay.BootstrapEnv) error {
	if f.err != nil {
		return f.err
	}
	var served []relay.Environment
	for _, e := range envs {
		st := f.stores[e.ID]
		if st == nil {
			st = memory.New()
			f.t.Cleanup(func() { st.Close() })
			f.stores[e.ID] = st
		}
		if _, err := st.Apply(ctx, store.Change{Full: true, Items: e.Items}); err != nil {
			return err
		}
		served = append(served, relay.Environment{ID: e.ID, Name: e.Name, Store: st, Secrets: e.Secrets, ClientSecrets: e.ClientSecrets})
	}
	return f.relay.Set(served)
}

// TestAgent: the platform fills a relay that knew nothing, SDKs are served, and a
// backup of it fills another one.
func TestAgent(t *testing.T) {
	log := new(bytes.Buffer)
	logger := slog.New(slog.NewTextHandler(log, nil))
	synced := time.Date(2025, 1, 2, 3, 4, 5, 0, time.UTC)
	newFleet := func() (*fleet, *server) {
		f := &fleet{t: t, stores: map[string]*memory.Store{}}
		r, err := relay.New(relay.Config{
			Logger: logger,
			Agent: &relay.Agent{
				Key: agentKey, Bootstrap: f.bootstrap, MaxBody: 1 << 16,
				Status: func() relay.AgentStatus {
					return relay.AgentStatus{SyncState: relay.SyncStable, LastSynced: synced}
				},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		f.relay = r
		return f, run(t, r)
	}
	f, s := newFleet()

	prod, dev := protocol.NewEnvID(), protocol.NewEnvID()
	prodServer, prodClient := newSecrets(t, prod)
	devServer, _ := newSecrets(t, dev)
	raw := func(items ...store.Item) []json.RawMessage {
		list := []json.RawMessage{}
		for _, it := range items {
			list = append(list, it.Data)
		}
		return list
	}
	archived := flag("old", 1500, "x")
	archived.Data = bytes.Replace(archived.Data, []byte(`"isArchived":false`), []byte(`"isArchived":true`), 1)
	document := func(items ...platformEnv) string {
		text, err := json.Marshal(platformDocument{"rp_full", items})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	prodEnv := platformEnv{
		EnvID: strings.ToUpper(prod),
		Secrets: []platformSecret{
			{"server", "webapp", prod, "prod", string(prodServer)},
			{"client", "webapp", prod, "prod", string(prodClient)},
		},
		FeatureFlags: raw(toggle("beta", 2000, true, "s1"), archived), Segments: raw(members("s1", 3000, "ann")),
	}
	devEnv := platformEnv{
		EnvID: dev, Secrets: []platformSecret{{"server", "webapp", dev, "dev", string(devServer)}},
		FeatureFlags: raw(toggle("beta", 2500, true, "")), Segments: raw(),
	}

	code, header, body := s.do(t, "POST", bootPath, agentKey, document(prodEnv, devEnv))
	if code != 200 || body != `{"serves":"webapp:dev,webapp:prod","dataVersion":3000}` || header.Get("Content-Type") != "application/json; charset=utf-8" {
		t.Fatalf("bootstrap: %d %s", code, body)
	}
	eventually(t, "both are served", func() bool { return s.Readiness() == relay.Healthy })
	_, _, body = s.do(t, "GET", protocol.LatestAllPath, string(prodServer), "")
	if d, err := wire.Parse([]byte(body)); err != nil || len(d.Items) != 3 {
		t.Errorf("a server-side SDK gets %s (%v)", body, err)
	}
	b := s.browse(t, prodClient, "ann", nil)
	b.ask(t, "")
	b.next(t)
	if got := b.value("beta"); got != "true beta users" {
		t.Errorf("ann gets %s", got)
	}

	_, _, body = s.do(t, "GET", strings.ToUpper(statusPath), agentKey, "")
	var status struct {
		Serves, SyncState, LastSyncedAt string
		DataVersion                     int64
		ReportedAt                      time.Time
	}
	if err := json.Unmarshal([]byte(body), &status); err != nil || status.Serves != "webapp:dev,webapp:prod" ||
		status.DataVersion != 3000 || status.SyncState != "Stable" || status.LastSyncedAt != "2025-01-02T03:04:05Z" || time.Since(status.ReportedAt).Abs() > time.Minute {
		t.Errorf("status is %s (%v)", body, err)
	}

	// What the platform sends again reaches those who are connected.
	prodEnv.Segments = raw(members("s1", 4000, "bob"))
	if code, _, body := s.do(t, "POST", bootPath, agentKey, document(prodEnv, devEnv)); code != 200 {
		t.Fatalf("bootstrap: %d %s", code, body)
	}
	b.next(t)
	if got := b.value("beta"); got != "false default" {
		t.Errorf("ann gets %s", got)
	}

	// A backup fills another relay, and the backup of that is the same.
	code, _, backup := s.do(t, "GET", backupPath, agentKey, "")
	if code != 200 || !json.Valid([]byte(backup)) {
		t.Fatalf("backup: %d %s", code, backup)
	}
	var got platformDocument
	if err := json.Unmarshal([]byte(backup), &got); err != nil {
		t.Fatal(err)
	}
	if got.EventType != "rp_full" || len(got.Items) != 2 || got.Items[1].EnvID != prod || !slices.Equal(got.Items[1].Secrets, prodEnv.Secrets) ||
		len(got.Items[1].FeatureFlags) != 2 || len(got.Items[1].Segments) != 1 || len(got.Items[0].Segments) != 0 {
		t.Errorf("backup is %s", backup)
	}
	_, other := newFleet()
	if code, _, body := other.do(t, "GET", backupPath, agentKey, ""); code != 200 || body != `{"eventType":"rp_full","items":[]}` {
		t.Errorf("a backup of nothing: %d %s", code, body)
	}
	if code, _, body := other.do(t, "POST", bootPath, agentKey, backup); code != 200 || body != `{"serves":"webapp:dev,webapp:prod","dataVersion":4000}` {
		t.Fatalf("bootstrap from a backup: %d %s", code, body)
	}
	eventually(t, "the other one is ready", func() bool { return other.Readiness() == relay.Healthy })
	if _, _, again := other.do(t, "GET", backupPath, agentKey, ""); again != backup {
		t.Errorf("the backup of the other is\n%s\nwant\n%s", again, backup)
	}

	// Without secrets the names are those that are known.
	prodEnv.Secrets = nil
	f.err = fmt.Errorf("%w: 9 of 10 flags would go", relay.ErrBootstrapRefused)
	if code, _, body := s.do(t, "POST", bootPath, agentKey, document(prodEnv)); code != 409 || !strings.Contains(body, "9 of 10") {
		t.Errorf("a refused bootstrap: %d %s", code, body)
	}
	f.err = errors.New("the disk at /srv is full")
	if code, _, body := s.do(t, "POST", bootPath, agentKey, document(prodEnv)); code != 500 || strings.Contains(body, "disk") {
		t.Errorf("a failed bootstrap: %d %s", code, body)
	}
	for _, auth := range []string{"", "rp-", agentKey + "x", string(prodServer)} {
		for path, method := range map[string]string{statusPath: "GET", backupPath: "GET", bootPath: "POST"} {
			if code, _, body := s.do(t, method, path, auth, ""); code != 401 || body != "" {
				t.Errorf("%s with another key: %d %s", path, code, body)
			}
		}
	}
	if code, header, _ := s.do(t, "GET", bootPath, agentKey, ""); code != 405 || header.Get("Allow") != "POST" {
		t.Errorf("GET bootstrap: %d", code)
	}
	if code, _, _ := s.do(t, "GET", "/api/public/proxy/register", agentKey, ""); code != 404 {
		t.Errorf("another path: %d", code)
	}
	if code, _, _ := s.handle("POST", bootPath, agentKey, strings.Repeat(" ", 1<<16+1)); code != 413 {
		t.Errorf("a large bootstrap: %d", code)
	}
	for _, s := range []*server{s, other} {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	}
	for _, secret := range []string{agentKey, string(prodServer), string(prodClient), string(devServer)} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log has a secret: %s", log)
		}
	}
}

// TestBackupIsWhole: a backup without an environment would delete it.
func TestBackupIsWhole(t *testing.T) {
	env := protocol.NewEnvID()
	other, _ := newSecrets(t, env)
	s := ready(t, relay.Config{
		Agent: &relay.Agent{Key: agentKey},
		Environments: []relay.Environment{
			{Name: "full", Store: newShelf(flag("a", 1000, "x")), Secrets: []relay.Secret{unknown}},
			{Name: "empty", Store: newShelf(), Secrets: []relay.Secret{other}},
		},
		Secrets: []relay.Secret{}, // no default
	})
	if code, header, body := s.do(t, "GET", backupPath, agentKey, ""); code != 503 || !strings.Contains(body, `"empty"`) || header.Get("Retry-After") == "" {
		t.Errorf("backup: %d %s", code, body)
	}
	if code, _, body := s.do(t, "GET", statusPath, agentKey, ""); code != 200 || !strings.Contains(body, `"serves":"empty,full","dataVersion":1000,"syncState":"None","lastSyncedAt":null`) {
		t.Errorf("status: %d %s", code, body)
	}
	if code, _, body := s.do(t, "POST", bootPath, agentKey, `{"eventType":"rp_full","items":[]}`); code != 409 || !strings.Contains(body, "bootstrap is off") {
		t.Errorf("bootstrap: %d %s", code, body)
	}
	req, err := http.NewRequest(http.MethodOptions, s.url+statusPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Origin", "https://app.example")
	req.Header.Set("Access-Control-Request-Method", "GET")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	resp.Body.Close()
	if resp.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("browsers are let in")
	}

	plain := ready(t, relay.Config{Store: newShelf(flag("a", 1000, "x"))})
	if code, _, _ := plain.do(t, "GET", statusPath, agentKey, ""); code != 404 {
		t.Errorf("status of a relay that is no agent: %d", code)
	}
	if _, err := relay.New(relay.Config{Agent: &relay.Agent{Key: " "}}); err == nil {
		t.Error("an agent without a key")
	}
}

// TestBootstrapRejects: a document that is odd in one place replaces nothing.
func TestBootstrapRejects(t *testing.T) {
	env := protocol.NewEnvID()
	serverSecret, _ := newSecrets(t, env)
	s := start(t, relay.Config{
		Secrets: []relay.Secret{}, // none
		Agent: &relay.Agent{Key: agentKey, Bootstrap: func(context.Context, []relay.BootstrapEnv) error {
			t.Error("it was handed on")
			return nil
		}},
	})
	item := func(members string) string {
		return `{"eventType":"rp_full","items":[{"envId":"` + env + `",` + members + `}]}`
	}
	const none = `"featureFlags":[],"segments":[]`
	for _, tc := range []struct{ name, body, want string }{
		{"empty", ``, "line 1"},
		{"broken", `{"eventType":"rp_full",}`, "line 1, column"},
		{"a list", `[]`, "JSON array"},
		{"no event type", `{"items":[]}`, "no eventType"},
		{"no items", `{"eventType":"rp_full"}`, "no items"},
		{"no id", `{"eventType":"rp_full","items":[{` + none + `}]}`, `items[0]: envId: "" is not a GUID`},
		{"twice", `{"eventType":"rp_full","items":[{"envId":"` + env + `",` + none + `},{"envId":"` + strings.ToUpper(env) + `",` + none + `}]}`, "items[1]: the environment " + env + " is there twice"},
		{"no flags", item(`"segments":[]`), "items[0]: want featureFlags and segments"},
		{"null segments", item(`"featureFlags":[],"segments":null`), "items[0]: want featureFlags and segments"},
		{"no key", item(`"featureFlags":[{"id":"x"}],"segments":[]`), `items[0]: featureFlags[0]: "key" is missing`},
		{"no flag", item(`"featureFlags":[1],"segments":[]`), `items[0]: featureFlags[0]: it is a JSON number`},
		{"a flag twice", item(`"featureFlags":[{"key":"x"},{"key":"x"}],"segments":[]`), `items[0]: featureFlags[1]: "x" is there twice`},
		{"another's segment", item(`"featureFlags":[],"segments":[{"id":"s","envId":"0F8FAD5B-d9cb-469f-a165-70867728950e"}]`), `items[0]: segments[0]: "s" is of the environment 0f8fad5b-d9cb-469f-a165-70867728950e`},
		{"secret", item(`"secrets":[{"type":"server","value":"short"}],` + none), "items[0]: secrets[0]: environment secret has 5 characters"},
		{"secret's type", item(`"secrets":[{"type":"rp","value":"` + string(serverSecret) + `"}],` + none), `items[0]: secrets[0]: type is "rp"`},
		{"secret twice", item(`"secrets":[{"type":"server","value":"` + string(serverSecret) + `"},{"type":"client","value":"` + string(serverSecret) + `"}],` + none), "items[0]: secrets[1]: it is there twice"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, _, body := s.do(t, "POST", bootPath, agentKey, tc.body)
			if code != 400 || !strings.Contains(body, tc.want) || strings.Contains(body, string(serverSecret)) {
				t.Errorf("got %d %s, want %q", code, body, tc.want)
			}
		})
	}
}

// TestBootstrapsOneByOne: a second one waits for the first.
func TestBootstrapsOneByOne(t *testing.T) {
	entered, leave := make(chan struct{}, 2), make(chan struct{})
	s := start(t, relay.Config{
		Secrets: []relay.Secret{},
		Agent: &relay.Agent{Key: agentKey, Bootstrap: func(context.Context, []relay.BootstrapEnv) error {
			entered <- struct{}{}
			<-leave
			return nil
		}},
	})
	answers := make(chan int, 2)
	post := func() {
		code, _, _ := s.do(t, "POST", bootPath, agentKey, `{"eventType":"rp_full","items":[]}`)
		answers <- code
	}
	go post()
	<-entered
	go post()
	eventually(t, "the second has arrived", func() bool { return s.Stats().Requests == 2 })
	select {
	case <-entered:
		t.Error("there are two at a time")
	default:
	}
	close(leave)
	<-entered
	for range 2 {
		if code := <-answers; code != 200 {
			t.Errorf("answered %d", code)
		}
	}
}

func FuzzBootstrap(f *testing.F) {
	r, err := relay.New(relay.Config{Agent: &relay.Agent{Key: agentKey, Bootstrap: func(_ context.Context, envs []relay.BootstrapEnv) error {
		for _, e := range envs {
			if id, err := protocol.EnvID(e.ID); err != nil || id != e.ID || e.Name == "" {
				f.Errorf("environment %q %q", e.ID, e.Name)
			}
			for _, s := range slices.Concat(e.Secrets, e.ClientSecrets) {
				if _, err := s.EnvID(); err != nil {
					f.Error(err)
				}
			}
			for _, it := range e.Items {
				if it.Key == "" || !json.Valid(it.Data) {
					f.Errorf("item %q %s", it.Key, it.Data)
				}
			}
		}
		return nil
	}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"eventType":"rp_full","items":[{"envId":"0f8fad5b-d9cb-469f-a165-70867728950e","secrets":[{"type":"server","projectKey":"a","envKey":"b","value":"` + secret + `"}],"featureFlags":[{"key":"a","envId":"0F8fad5b-d9cb-469f-a165-70867728950e"}],"segments":[{"id":"x"}]}]}`))
	f.Add([]byte(`{"eventType":null,"items":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		req := httptest.NewRequest("POST", bootPath, bytes.NewReader(body))
		req.Header.Set("Authorization", agentKey)
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		if w.Code != 200 && w.Code != 400 || strings.Contains(w.Body.String(), secret) {
			t.Errorf("answered %d %s", w.Code, w.Body)
		}
	})
}
