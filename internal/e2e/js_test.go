//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
)

// A jsClient is FeatBit's JavaScript client SDK somewhere else.
type jsClient interface {
	call(t *testing.T, op string, args map[string]any, answer any)
	close(t *testing.T)
}

// TestJSClientSDK runs FeatBit's JavaScript client SDK against a relay, in Node.js
// and on a page in a browser, where it also polls.
func TestJSClientSDK(t *testing.T) {
	t.Run("node", func(t *testing.T) {
		testJSClient(t, false, func(t *testing.T, url, secret string, user map[string]any) jsClient {
			text, err := json.Marshal(user)
			if err != nil {
				t.Fatal(err)
			}
			return startProgram(t, secret, "js-client.mjs", url, string(text))
		})
	})
	for name, polling := range map[string]bool{"browser": false, "browser, polling": true} {
		t.Run(name, func(t *testing.T) {
			testJSClient(t, polling, func(t *testing.T, url, secret string, user map[string]any) jsClient {
				return startBrowser(t, url, secret, user, polling)
			})
		})
	}
}

// boolean returns a flag that is true for the members of a segment.
func boolean(t *testing.T, key string, version int64, enabled, archived bool, segment string) store.Item {
	t.Helper()
	rules := []any{}
	if segment != "" {
		rules = append(rules, map[string]any{
			"id": protocol.NewEnvID(), "name": "members", "includedInExpt": true,
			"conditions": []any{map[string]any{"id": "c", "property": "User is in segment", "op": "", "value": `["` + segment + `"]`}},
			"variations": []any{map[string]any{"id": "on", "rollout": []float64{0, 1}, "exptRollout": 1}},
		})
	}
	return written(t, store.Flag, version, archived, map[string]any{
		"id": protocol.NewEnvID(), "key": key, "name": key, "variationType": "boolean", "isEnabled": enabled,
		"variations":          []any{map[string]any{"id": "on", "value": "true"}, map[string]any{"id": "off", "value": "false"}},
		"disabledVariationId": "off", "targetUsers": []any{}, "rules": rules,
		"fallthrough": map[string]any{"variations": []any{map[string]any{"id": "off", "rollout": []float64{0, 1}}}},
	})
}

// written returns the item that has these members.
func written(t *testing.T, kind store.Kind, version int64, archived bool, members map[string]any) store.Item {
	t.Helper()
	members["updatedAt"], members["isArchived"] = wire.FormatMillis(version), archived
	text, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	return item(t, kind, string(text))
}

func testJSClient(t *testing.T, polling bool, start func(t *testing.T, url, secret string, user map[string]any) jsClient) {
	ctx := t.Context()
	st := memory.New()
	defer st.Close()
	apply := func(items ...store.Item) {
		t.Helper()
		if _, err := st.Apply(ctx, store.Change{Items: items}); err != nil {
			t.Fatal(err)
		}
	}
	v := time.Now().UnixMilli()
	segment := protocol.NewEnvID()
	group := func(version int64, keys ...string) store.Item {
		return written(t, store.Segment, version, false, map[string]any{
			"id": segment, "name": "group", "included": keys, "excluded": []string{}, "rules": []any{},
		})
	}
	apply(boolean(t, "plain", v, true, false, ""), boolean(t, "grouped", v+1, true, false, segment), group(v+2, "bob"))

	serverSecret, envID := newSecret(t)
	clientSecret, err := protocol.NewSecret(envID)
	if err != nil {
		t.Fatal(err)
	}
	cfg := relay.Config{
		Environments: []relay.Environment{{Store: st, Secrets: []relay.Secret{serverSecret}, ClientSecrets: []relay.Secret{clientSecret}}},
		KeepInsights: 1 << 20,
	}
	r := serve(t, "127.0.0.1:0", cfg)
	defer func() { r.stop(t) }()

	js := start(t, "http://"+r.addr, string(clientSecret), map[string]any{"keyId": "ann", "name": "Ann", "custom": map[string]string{"plan": "pro"}})
	await := func(flag string, value any) {
		t.Helper()
		js.call(t, "await", map[string]any{"flag": flag, "value": value}, &struct{}{})
	}
	await("plain", false)
	await("grouped", false)
	apply(boolean(t, "new", v+5, false, false, ""))
	await("new", false)
	apply(group(v+10, "ann", "bob")) // the flag itself does not change
	await("grouped", true)
	apply(group(v+11, "bob"))
	await("grouped", false)
	js.call(t, "identify", map[string]any{"user": map[string]any{"keyId": "bob", "name": "Bob"}}, &struct{}{})
	await("grouped", true)
	apply(boolean(t, "grouped", v+20, false, false, segment))
	await("grouped", false)
	apply(boolean(t, "plain", v+21, true, true, ""))
	var got struct{ Value, Typed any }
	eventually(t, "an archived flag has no value", func() bool {
		js.call(t, "evaluate", map[string]any{"flag": "plain"}, &got)
		return got.Typed == nil
	})

	// What changes while there is no relay, and what is pushed after.
	r.stop(t)
	apply(boolean(t, "grouped", v+30, true, false, segment))
	insights := r.Insights()
	r = serve(t, r.addr, cfg)
	await("grouped", true)
	apply(group(v + 40))
	await("grouped", false)
	streams := int64(1)
	if polling {
		streams = 0
	}
	if s := r.Stats(); s.Accepted != streams || s.Rejected+s.Ignored+s.Dropped != 0 {
		t.Errorf("after the restart: %+v", s)
	}

	js.call(t, "track", map[string]any{"event": "bought", "value": 2.5}, &struct{}{})
	var flushed struct{ Flushed bool }
	js.call(t, "flush", nil, &flushed)
	if !flushed.Flushed {
		t.Error("the SDK could not flush its events")
	}
	insights = append(insights, r.Insights()...)
	var seen []string
	for _, in := range insights {
		for _, v := range in.Variations {
			seen = append(seen, in.User.KeyID+" "+v.FlagKey+" "+v.Variation.Value)
		}
		for _, m := range in.Metrics {
			seen = append(seen, fmt.Sprint(in.User.KeyID, " ", m.EventName, " ", m.Value))
		}
	}
	for _, want := range []string{"ann grouped true", "bob grouped true", "bob grouped false", "bob bought 2.5"} {
		if !slices.Contains(seen, want) {
			t.Errorf("no insight %q among %q", want, seen)
		}
	}
	js.close(t)
	eventually(t, "nobody is connected", func() bool { return r.Stats().Connections == 0 })
}

// A browserClient is the SDK on a page.
type browserClient struct {
	requests chan map[string]any
	answers  chan json.RawMessage
}

// startBrowser opens the page in a headless browser.
func startBrowser(t *testing.T, url, secret string, user map[string]any, polling bool) *browserClient {
	t.Helper()
	program := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if path, err := exec.LookPath(name); err == nil {
			program = path
			break
		}
	}
	if program == "" {
		t.Fatal("the end-to-end test needs Chromium or Google Chrome in PATH; scripts/need-chromium.sh installs it")
	}
	b := &browserClient{requests: make(chan map[string]any), answers: make(chan json.RawMessage, 1)}
	ended := make(chan struct{})
	mux := http.NewServeMux()
	for path, name := range map[string]string{
		"/":           "node/page.html",
		"/driver.mjs": "node/driver.mjs",
		"/sdk.js":     "node/node_modules/@featbit/js-client-sdk/dist/umd/featbit-js-client-sdk.js",
	} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			text, err := os.ReadFile(name)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			if path != "/" {
				w.Header().Set("Content-Type", "text/javascript")
			}
			w.Write(text)
		})
	}
	mux.HandleFunc("GET /config", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(map[string]any{"url": url, "secret": secret, "user": user, "polling": polling})
	})
	mux.HandleFunc("POST /exchange", func(w http.ResponseWriter, req *http.Request) {
		var answer json.RawMessage
		if err := json.NewDecoder(req.Body).Decode(&answer); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		select {
		case b.answers <- answer:
		case <-ended:
			return
		}
		select {
		case request := <-b.requests:
			json.NewEncoder(w).Encode(request)
		case <-ended:
		}
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: mux}
	served := make(chan error, 1)
	go func() { served <- web.Serve(ln) }()

	ctx, kill := context.WithCancel(context.Background())
	log := new(lockedBuffer)
	cmd := exec.CommandContext(ctx, program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--no-first-run", "--disable-extensions", "--enable-logging=stderr", "--user-data-dir="+t.TempDir(), "http://"+ln.Addr().String()+"/")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.WaitDelay = 5 * time.Second
	inOwnGroup(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(ended)
		kill()
		cmd.Wait()
		web.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("the page's server ended with %v", err)
		}
		if t.Failed() {
			t.Logf("log of the browser:\n%s", log)
		}
	})
	b.answer(t, "the page", &struct{}{})
	return b
}

func (b *browserClient) answer(t *testing.T, what string, answer any) {
	t.Helper()
	select {
	case text := <-b.answers:
		var failure struct{ Error string }
		if json.Unmarshal(text, &failure) == nil && failure.Error != "" {
			t.Fatalf("%s: %s", what, failure.Error)
		}
		if err := json.Unmarshal(text, answer); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	case <-time.After(2 * patient):
		t.Fatalf("%s does not answer", what)
	}
}

func (b *browserClient) call(t *testing.T, op string, args map[string]any, answer any) {
	t.Helper()
	request := map[string]any{"op": op}
	for name, value := range args {
		request[name] = value
	}
	select {
	case b.requests <- request:
	case <-time.After(patient):
		t.Fatal("the page does not ask for the next request")
	}
	b.answer(t, op, answer)
}

func (b *browserClient) close(t *testing.T) {
	t.Helper()
	b.call(t, "close", nil, &struct{}{})
}
