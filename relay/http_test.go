package relay_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/store"
)

const (
	latestAll = "/api/public/sdk/server/latest-all"
	track     = "/api/public/insight/track"
)

// logLines is a log that a test can look into.
type logLines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logLines) count(text string) int { return strings.Count(l.String(), text) }

func (l *logLines) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func TestNewChecksConfig(t *testing.T) {
	for name, cfg := range map[string]relay.Config{
		"no store":   {Secrets: []relay.Secret{secret}},
		"no secret":  {Store: newShelf()},
		"bad secret": {Store: newShelf(), Secrets: []relay.Secret{"hunter2"}},
	} {
		if _, err := relay.New(cfg); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: New() = %v", name, err)
		}
	}
}

func TestRunOnceAndClosedStore(t *testing.T) {
	shelf := newShelf(flag("a", 1, "a"))
	s := ready(t, relay.Config{Store: shelf})
	if err := s.Run(t.Context()); err == nil {
		t.Error("a second Run is accepted")
	}
	c := s.synced(t)
	shelf.fail(fmt.Errorf("shelf: %w", store.ErrClosed))
	eventually(t, "the store fails", func() bool { return s.Stats().StoreFailing })
	c.silent(t)
	if err := s.stop(); err != nil {
		t.Errorf("Run() = %v", err)
	}
	if code, _ := closeCode(t, c.ws); code != 1001 {
		t.Errorf("closed with %d, want 1001", code)
	}
}

func TestRoutes(t *testing.T) {
	s := ready(t, relay.Config{Store: newShelf(flag("a", 1000, "a"))})
	for _, tc := range []struct {
		method, path, auth, body string
		want                     int
	}{
		{"GET", "/", "", "", 200},
		{"GET", "/nothing", "", "", 404},
		{"GET", "/api/public", secret, "", 404},
		{"POST", "/", "", "", 405},
		{"GET", "/streaming", "", "", 426},
		{"POST", "/streaming", "", "", 405},
		{"GET", "/health/liveness", "", "", 200},
		{"HEAD", "/health/liveness", "", "", 200},
		{"GET", "/Health/Readiness/", "", "", 200},
		{"POST", "/health/readiness", "", "", 405},
		{"GET", latestAll, "", "", 401},
		{"GET", latestAll, unknown, "", 401},
		{"GET", latestAll, "Bearer " + secret, "", 401},
		{"GET", latestAll, secret2, "", 200},
		{"GET", strings.ToUpper(latestAll), secret, "", 200},
		{"GET", latestAll + "?timestamp=", secret, "", 200},
		{"GET", latestAll + "?timestamp=x", secret, "", 400},
		{"GET", latestAll + "?timestamp=1.5", secret, "", 400},
		{"GET", latestAll + "?timestamp=1&timestamp=2", secret, "", 400},
		{"POST", latestAll, secret, "", 405},
		{"POST", track, "", "[]", 401},
		{"POST", track, unknown, "[]", 401},
		{"GET", track, secret, "", 405},
		{"POST", track, secret, "[]", 200},
		{"POST", track, secret, "", 400},
		{"POST", track, secret, "null", 400},
		{"POST", track, secret, "{}", 400},
		{"POST", track, secret, "[", 400},
		{"POST", track, secret, "[] []", 400},
		{"GET", relay.ReceivedPath, "", "", 401},
		{"GET", relay.ReceivedPath, secret, "", 200},
	} {
		code, header, body := s.do(t, tc.method, tc.path, tc.auth, tc.body)
		if code != tc.want {
			t.Errorf("%s %s %s = %d, want %d", tc.method, tc.path, tc.body, code, tc.want)
		}
		if header.Get("ETag") != "" || strings.Contains(body, secret) {
			t.Errorf("%s %s: ETag or secret in the answer", tc.method, tc.path)
		}
		if code == http.StatusMethodNotAllowed && header.Get("Allow") == "" {
			t.Errorf("%s %s: 405 without Allow", tc.method, tc.path)
		}
	}
}

func TestLatestAll(t *testing.T) {
	old, recent := flag("old", 1000, "x"), segment("new", 2000, "x")
	shelf := newShelf(old, recent)
	s := ready(t, relay.Config{Store: shelf})
	get := func(query string) string {
		t.Helper()
		code, header, body := s.do(t, "GET", latestAll+query, secret, "")
		if code != 200 || (body != "") != strings.HasPrefix(header.Get("Content-Type"), "application/json") {
			t.Fatalf("%s = %d, %v", query, code, header)
		}
		return body
	}
	full := get("")
	if want := string(wire.AppendDataSync(nil, wire.Full, []store.Item{old, recent})); full != want {
		t.Errorf("got %s, want %s", full, want)
	}
	if get("?timestamp=0") != full {
		t.Error("timestamp 0 gives something else")
	}
	if body, want := get("?Timestamp=1000"), string(wire.AppendDataSync(nil, wire.Patch, []store.Item{recent})); body != want {
		t.Errorf("got %s, want %s", body, want)
	}
	if body := get("?timestamp=2000"); body != "" {
		t.Errorf("got %s, want nothing", body)
	}
	// A poller ahead of us is not left behind either.
	if body := get("?timestamp=2001"); body != "" {
		t.Errorf("got %s, want nothing", body)
	}
	shelf.put(flag("old", 2001, "y"))
	eventually(t, "the change", func() bool { return s.Stats().Changes == 1 })
	if got := items(t, get("?timestamp=2001")); len(got) != 1 || description(t, got[0]) != "y" {
		t.Errorf("got %v", got)
	}
	if get("") == full {
		t.Error("the full document is stale")
	}
}

func TestInsights(t *testing.T) {
	batches := make(sink, 10)
	s := ready(t, relay.Config{
		Store:        newShelf(flag("a", 1, "a")),
		KeepInsights: 3,
		Insights:     batches,
	})
	body := `[
	 {"user":{"keyId":"u1","name":"U","customizedProperties":[{"name":"plan","value":"pro"}]},
	  "variations":[{"featureFlagKey":"f","sendToExperiment":true,"timestamp":1795332517983,"variation":{"id":"v","value":"true","reason":"r"}},
	                {"featureFlagKey":"g","sendToExperiment":false,"timestamp":1,"variation":{"id":"v","name":"On","value":"x"}}]},
	 {"user":{"keyId":"u2","customizedProperties":null},"metrics":[{"eventName":"clicked","numericValue":1.5,"route":"index/metric","type":"CustomEvent","appType":"x","timestamp":2}]},
	 {"user":{"keyId":" "}}, {"user":{}}, {}, null, 5, {"user":{"keyId":7}}, {"user":{"keyId":"x"},"variations":5},
	 {"user":{"keyId":"u3","name":"x"}}, {"user":{"keyId":"u4","name":"x"}}]`
	if code, _, answer := s.do(t, "POST", track, secret2, body); code != 200 || answer != "" {
		t.Errorf("track = %d %q, want 200 and an empty body", code, answer)
	}
	n := s.Stats()
	if n.InsightRequests != 1 || n.Insights != 4 || n.InvalidInsights != 7 || n.Variations != 2 || n.Metrics != 1 {
		t.Errorf("stats = %+v", n)
	}
	b := <-batches
	if b.env != "226b9bf8-4af3-4ffa-9b01-162270e4cd40" || len(b.insights) != 4 {
		t.Fatalf("the sink got %q %s", b.env, b.insights)
	}
	for i, in := range b.insights {
		if !strings.Contains(body, string(in)) || !strings.Contains(string(in), fmt.Sprintf(`"keyId":"u%d"`, i+1)) {
			t.Errorf("the sink got %s, which is not what was sent", in)
		}
	}
	kept := s.Insights()
	if len(kept) != 3 || kept[0].User.KeyID != "u2" || kept[0].Metrics[0].Value != 1.5 || kept[2].User.KeyID != "u4" {
		t.Errorf("kept %+v", kept)
	}
	_, _, text := s.do(t, "GET", relay.ReceivedPath, secret, "")
	var shown []relay.Insight
	if err := json.Unmarshal([]byte(text), &shown); err != nil || len(shown) != 3 || shown[1].User.KeyID != "u3" {
		t.Errorf("received = %s, %v", text, err)
	}
}

// TestInsightsRefused: an SDK hears whether another attempt makes sense, and what
// was not taken is not counted. A body without a valid entry is nobody's business.
func TestInsightsRefused(t *testing.T) {
	var err error
	s := ready(t, relay.Config{Store: newShelf(flag("a", 1, "a")), Insights: sinkFunc(func() error { return err })})
	const body = `[{"user":{"keyId":"u1"}}]`
	err = fmt.Errorf("spool full: %w", relay.ErrBusy)
	if code, h, _ := s.do(t, "POST", track, secret, body); code != 503 || h.Get("Retry-After") != "5" {
		t.Errorf("a busy sink = %d, Retry-After %q", code, h.Get("Retry-After"))
	}
	if code, _, _ := s.do(t, "POST", track, secret, `[{},null]`); code != 200 {
		t.Errorf("no valid insights = %d", code)
	}
	err = errors.New("the disk is gone")
	if code, h, text := s.do(t, "POST", track, secret, body); code != 500 || h.Get("Retry-After") != "" || strings.Contains(text, "disk") {
		t.Errorf("a failing sink = %d %q", code, text)
	}
	if n := s.Stats(); n.Insights != 0 || n.InvalidInsights != 2 || n.RefusedInsights != 2 || len(s.Insights()) != 0 {
		t.Errorf("stats = %+v", n)
	}
	err = nil
	if code, _, _ := s.do(t, "POST", track, secret, body); code != 200 || s.Stats().Insights != 1 {
		t.Errorf("afterwards = %d, %+v", code, s.Stats())
	}
}

type taken struct {
	env      string
	insights []json.RawMessage
}

type sink chan taken

func (s sink) Accept(_ context.Context, env string, insights []json.RawMessage) error {
	s <- taken{env, insights}
	return nil
}

type sinkFunc func() error

func (f sinkFunc) Accept(context.Context, string, []json.RawMessage) error { return f() }

func TestInsightTooLarge(t *testing.T) {
	s := ready(t, relay.Config{Store: newShelf(flag("a", 1, "a")), MaxBody: 100, KeepInsights: -1})
	fits := `[{"user":{"keyId":"` + strings.Repeat("x", 77) + `"}}]`
	if code, _, _ := s.do(t, "POST", track, secret, fits); code != 200 || len(fits) != 100 {
		t.Errorf("%d bytes = %d, want 200", len(fits), code)
	}
	if code, _, _ := s.do(t, "POST", track, secret, fits+" "); code != 413 {
		t.Errorf("101 bytes = %d, want 413", code)
	}
	// Chunked, as Node sends: the length is not known beforehand.
	req, err := http.NewRequest("POST", s.url+track, struct{ *strings.Reader }{strings.NewReader(fits + " ")})
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = -1
	req.Header.Set("Authorization", secret)
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("101 bytes in chunks = %d, want 413", resp.StatusCode)
	}
	if n := s.Stats(); n.Insights != 1 || len(s.Insights()) != 0 {
		t.Errorf("%d insights, %d kept, want 1 and 0", n.Insights, len(s.Insights()))
	}
}

func TestStatusPage(t *testing.T) {
	shelf := newShelf()
	s := start(t, relay.Config{Store: shelf})
	if _, _, body := s.do(t, "GET", "/", "", ""); !strings.Contains(body, "waiting for data") {
		t.Errorf("status: %s", body)
	}
	shelf.put(flag("a", 1, "a"), segment("s", 2, "a"))
	eventually(t, "ready", s.Ready)
	if _, _, body := s.do(t, "GET", "/", "", ""); !strings.Contains(body, "relay: ready") || !strings.Contains(body, "flags         1") {
		t.Errorf("status: %s", body)
	}
}

// TestManyInsightsInOneBody: a large body costs little more memory than itself.
func TestManyInsightsInOneBody(t *testing.T) {
	s := ready(t, relay.Config{Store: newShelf(flag("a", 1, "1")), Secrets: []relay.Secret{secret}, KeepInsights: 10})
	const n = 500_000
	body := "[" + strings.Repeat("0,", n-1) + `{"user":{"keyId":"ann"}}]`
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if code, _, _ := s.do(t, http.MethodPost, track, secret, body); code != http.StatusOK {
		t.Fatalf("status %d", code)
	}
	runtime.ReadMemStats(&after)
	if grown := after.Sys - before.Sys; grown > 40*uint64(len(body)) {
		t.Errorf("a body of %d bytes took %d of memory", len(body), grown)
	}
	if st := s.Stats(); st.Insights != 1 || st.InvalidInsights != n-1 {
		t.Errorf("Stats() = %+v", st)
	}
}

// TestLatestAllCompressed: only who asks for it gets a compressed document, which says
// the same, and only of all items.
func TestLatestAllCompressed(t *testing.T) {
	var items []store.Item
	for i := range 100 {
		items = append(items, flag(fmt.Sprint("flag-", i), int64(1000+i), "a text"))
	}
	shelf := newShelf(items...)
	s := ready(t, relay.Config{Store: shelf})
	web := &http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}, Timeout: patient}
	get := func(path string, accept ...string) (*http.Response, []byte) {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, s.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header["Authorization"], req.Header["Accept-Encoding"] = []string{secret}, accept
		resp, err := web.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.ContentLength != int64(len(body)) {
			t.Fatalf("%d bytes of %d, %v", len(body), resp.ContentLength, err)
		}
		return resp, body
	}
	_, plain := get(latestAll)
	check := func(compressed bool, path string, want []byte, accept ...string) {
		t.Helper()
		resp, body := get(path, accept...)
		if resp.Header.Get("Vary") == "" && path == latestAll || resp.Header.Get("ETag") != "" {
			t.Errorf("%q: headers %v", accept, resp.Header)
		}
		if (resp.Header.Get("Content-Encoding") == "gzip") != compressed {
			t.Fatalf("%q: Content-Encoding is %q", accept, resp.Header.Get("Content-Encoding"))
		}
		if compressed {
			if len(body)*2 > len(want) {
				t.Errorf("%d of %d bytes", len(body), len(want))
			}
			z, err := gzip.NewReader(bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if body, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(body, want) {
			t.Errorf("%q: another document", accept)
		}
	}
	check(true, latestAll, plain, "deflate, gzip;q=1.0, *;q=0.5")
	check(true, latestAll, plain, "br", "GZIP")
	check(true, latestAll, plain, "gzip")
	check(false, latestAll, plain, "gzip;q=0")
	check(false, latestAll, plain, "gzip; q=0.0, br")
	check(false, latestAll, plain, "gzip;q=x")
	check(false, latestAll, plain, "*")
	check(false, latestAll, plain)

	shelf.put(flag("flag-0", 5000, "another text"))
	eventually(t, "the change is served", func() bool { return s.Stats().Changes == 1 })
	_, changed := get(latestAll)
	if bytes.Equal(plain, changed) {
		t.Fatal("nothing changed")
	}
	check(true, latestAll, changed, "gzip")
	_, patch := get(latestAll + "?timestamp=1000")
	check(false, latestAll+"?timestamp=1000", patch, "gzip")

	small := ready(t, relay.Config{Store: newShelf(flag("a", 1, "a"))})
	s = small
	_, plain = get(latestAll)
	check(false, latestAll, plain, "gzip")
}
