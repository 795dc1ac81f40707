package sdk_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
)

// recorder is an event server that keeps the bodies and answers 200.
type recorder struct {
	mu     sync.Mutex
	bodies [][]any
	heads  []http.Header
	odd    []string // requests that no event server expects
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	var list []any
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil || req.Method != http.MethodPost || req.URL.Path != protocol.InsightPath || json.Unmarshal(body, &list) != nil {
		r.odd = append(r.odd, fmt.Sprintf("%s %s %.100q", req.Method, req.URL, body))
	}
	r.bodies = append(r.bodies, list)
	r.heads = append(r.heads, req.Header)
}

func (r *recorder) take() (bodies [][]any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	bodies, r.bodies = r.bodies, nil
	return bodies
}

// A post is one request that an official SDK sent.
type post struct {
	What   string `json:"what"`
	Events int    `json:"events"`
	Body   []any  `json:"body"`
}

// posts returns the requests in a capture, in the order of the calls that made
// them.
func posts(t *testing.T, name string) [][]post {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var out [][]post
	fresh := true
	for line := range bytes.Lines(text) {
		var p post
		if err := json.Unmarshal(line, &p); err != nil {
			t.Fatal(err)
		}
		switch p.What {
		case "call":
			fresh = true
		case "POST":
			if fresh {
				out, fresh = append(out, nil), false
			}
			out[len(out)-1] = append(out[len(out)-1], p)
		}
	}
	return out
}

// plain removes what differs from call to call and from SDK to SDK: times and
// appType, the order of a user's properties, which Go's official SDK leaves to
// chance, and the empty ones that it sends by mistake.
func plain(v any) any {
	switch v := v.(type) {
	case []any:
		out := make([]any, 0, len(v))
		for _, x := range v {
			if m, ok := x.(map[string]any); ok && m["name"] == "" && m["value"] == "" {
				continue
			}
			out = append(out, plain(x))
		}
		if len(out) > 0 {
			if m, ok := out[0].(map[string]any); ok && m["name"] != nil {
				slices.SortFunc(out, func(a, b any) int { return strings.Compare(show(a), show(b)) })
			}
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for key, x := range v {
			if key != "timestamp" && key != "appType" {
				out[key] = plain(x)
			}
		}
		return out
	}
	return v
}

func show(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// TestInsightBodies makes the calls of the captures of FeatBit's own SDKs and
// expects their bodies.
func TestInsightBodies(t *testing.T) {
	const greeting = `{"id":"g","key":"greeting","name":"Greeting","variationType":"string","isEnabled":true,"isArchived":false,
		"exptIncludeAllTargets":true,"variations":[{"id":"aaaaaaaa-0000-4000-8000-000000000001","name":"1","value":"v1"}],
		"targetUsers":[],"rules":[],"disabledVariationId":"aaaaaaaa-0000-4000-8000-000000000001",
		"fallthrough":{"includedInExpt":true,"variations":[{"id":"aaaaaaaa-0000-4000-8000-000000000001","rollout":[0,1],"exptRollout":1}]},
		"updatedAt":"1970-01-01T00:00:01Z"}`
	item := store.Item{Kind: store.Flag, Key: "greeting", Version: 1000, Data: []byte(greeting)}

	for _, tc := range []struct {
		capture string
		attrs   []sdk.Attr
	}{
		// Python writes a truth value as "True", which Flagstead does not, see
		// the intended difference boolean-attributes; a text is the same in both.
		{"python-insight.jsonl", []sdk.Attr{sdk.String("plan", "pro"), sdk.Int("age", 42), sdk.String("member", "True"), sdk.Float64("ratio", 1.5)}},
		{"go-insight.jsonl", []sdk.Attr{sdk.String("plan", "pro"), sdk.Int("age", 42), sdk.Bool("member", true)}},
	} {
		t.Run(tc.capture, func(t *testing.T) {
			want := posts(t, tc.capture)
			rec := &recorder{}
			srv := httptest.NewServer(rec)
			defer srv.Close()
			secret, err := protocol.NewSecret(protocol.NewEnvID())
			if err != nil {
				t.Fatal(err)
			}
			c := newClient(t, sdk.Config{
				DataSource: static(item), EventURL: srv.URL, EnvSecret: secret, FlushInterval: time.Hour,
			})
			waitReady(t, c)
			u := newUser(t, "user-1", append(tc.attrs, sdk.Name("User One"))...)
			steps := []struct {
				name string
				call func()
			}{
				{"variation", func() { c.Variation("greeting", u, "d"); c.Variation("missing", u, "d") }},
				{"identify", func() { c.Identify(u) }},
				{"one metric", func() { c.TrackMetric(u, "clicked", 1); c.TrackMetric(u, "spent", 2.5) }},
				{"several metrics", func() { c.TrackMetrics(u, map[string]float64{"a": 1, "b": 2.5, "": 3}) }},
				{"the same three times", func() {
					for range 3 {
						c.Variation("greeting", u, "d")
					}
				}},
				{"120 users", func() {
					for i := range 120 {
						c.Variation("greeting", newUser(t, fmt.Sprintf("u%d", i), sdk.Name("n")), "d")
					}
				}},
				{"all flags", func() { c.AllFlags(u).Get("greeting", "d") }},
				{"right before Close", func() { c.Variation("greeting", u, "d") }},
			}
			if len(steps) != len(want) {
				t.Fatalf("the capture has %d calls that sent something, want %d", len(want), len(steps))
			}
			for i, step := range steps {
				step.call()
				deliver := c.Flush
				if i == len(steps)-1 {
					deliver = c.Close
				}
				if err := deliver(t.Context()); err != nil {
					t.Fatal(err)
				}
				compare(t, step.name, rec.take(), want[i])
			}
			if len(rec.odd) > 0 {
				t.Errorf("odd requests: %q", rec.odd)
			}
			for _, h := range rec.heads {
				if h.Get("Authorization") != string(secret) || h.Get("Content-Type") != "application/json" || h.Get("Content-Encoding") != "" || h.Get("User-Agent") == "" {
					t.Errorf("headers %v", h)
				}
			}
		})
	}
}

// compare compares events and how many there are in how many requests. In which
// order requests, and events of different buffers, come is not part of the
// protocol.
func compare(t *testing.T, step string, got [][]any, want []post) {
	t.Helper()
	var g, w []string
	events := 0
	for _, body := range got {
		if len(body) > protocol.MaxInsights {
			t.Errorf("%s: a request of %d events", step, len(body))
		}
		for _, e := range body {
			g = append(g, show(plain(e)))
		}
	}
	for _, p := range want {
		events += p.Events
		for _, e := range p.Body {
			if _, cut := e.(string); !cut { // "... 49 more"
				w = append(w, show(plain(e)))
			}
		}
	}
	if len(got) != len(want) || len(g) != events {
		t.Errorf("%s: %d requests of %d events, want %d of %d", step, len(got), len(g), len(want), events)
	}
	if len(w) == events {
		slices.Sort(g)
		slices.Sort(w)
		if !slices.Equal(g, w) {
			t.Errorf("%s:\n got %s\nwant %s", step, strings.Join(g, "\n     "), strings.Join(w, "\n     "))
		}
		return
	}
	for _, e := range w {
		if !slices.Contains(g, e) {
			t.Errorf("%s: no event %s", step, e)
		}
	}
}
