package relay_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/store"
)

// A browser is a client-side SDK as FeatBit's JavaScript one is: it keeps what is
// not older than what it has, drops what is for another user, and asks for what is
// newer than the newest that it has seen.
type browser struct {
	ws      *websocket.Conn
	user    string
	flags   map[string]clientFlag
	version int64
	drops   bool // messages for another user, which are an error otherwise
}

type clientFlag struct {
	ID               string  `json:"id"`
	Variation        *string `json:"variation"`
	VariationType    string  `json:"variationType"`
	VariationID      *string `json:"variationId"`
	MatchReason      string  `json:"matchReason"`
	VariationOptions []struct{ ID, Value string }
	SendToExperiment bool  `json:"sendToExperiment"`
	Timestamp        int64 `json:"timestamp"`
}

func (s *server) browse(t testing.TB, secret relay.Secret, user string, header http.Header) *browser {
	t.Helper()
	q := url.Values{"type": {"client"}, "token": {protocol.Token(secret, time.Now())}}
	ws, _, err := s.dialWith(q, header)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.Close() })
	return &browser{ws: ws, user: user, flags: map[string]clientFlag{}}
}

func (b *browser) ask(t testing.TB, properties string) {
	t.Helper()
	text := fmt.Sprintf(`{"messageType":"data-sync","data":{"timestamp":%d,"user":{"keyId":%q,"customizedProperties":[%s]}}}`, b.version, b.user, properties)
	if err := b.ws.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// next reads one message and returns its event type and the keys in it, sorted.
func (b *browser) next(t testing.TB) (string, []string) {
	t.Helper()
	if err := b.ws.SetReadDeadline(time.Now().Add(patient)); err != nil {
		t.Fatal(err)
	}
	_, text, err := b.ws.ReadMessage()
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		MessageType string
		Data        struct {
			EventType, UserKeyID string
			FeatureFlags         []clientFlag
		}
	}
	if err := json.Unmarshal(text, &m); err != nil || m.MessageType != "data-sync" {
		t.Fatalf("got %s", text)
	}
	if m.Data.UserKeyID != b.user {
		if b.drops {
			return b.next(t)
		}
		t.Fatalf("a message for %q, not %q", m.Data.UserKeyID, b.user)
	}
	if m.Data.EventType == wire.Full {
		clear(b.flags)
		b.version = 0
	}
	var keys []string
	newest := b.version
	for _, f := range m.Data.FeatureFlags {
		keys = append(keys, f.ID)
		if old, ok := b.flags[f.ID]; ok && f.Timestamp < old.Timestamp {
			t.Errorf("%s is older (%d) than what was sent before (%d)", f.ID, f.Timestamp, old.Timestamp)
		}
		if m.Data.EventType == wire.Patch && f.Timestamp <= b.version {
			t.Errorf("%s with timestamp %d is not newer than %d", f.ID, f.Timestamp, b.version)
		}
		b.flags[f.ID] = f
		newest = max(newest, f.Timestamp)
	}
	b.version = newest
	slices.Sort(keys)
	return m.Data.EventType, keys
}

func (b *browser) value(key string) string {
	f, ok := b.flags[key]
	switch {
	case !ok:
		return "none"
	case f.Variation == nil:
		return "null " + f.MatchReason
	}
	return *f.Variation + " " + f.MatchReason
}

// toggle returns a boolean flag that is true for a segment, and for who is targeted.
func toggle(key string, version int64, enabled bool, segment string) store.Item {
	rules := "[]"
	if segment != "" {
		rules = fmt.Sprintf(`[{"name":"beta users","conditions":[{"property":"User is in segment","op":"","value":"[\"%s\"]"}],"variations":[{"id":"on","rollout":[0,1],"exptRollout":1}],"includedInExpt":true}]`, segment)
	}
	return store.Item{Kind: store.Flag, Key: key, Version: version, Data: fmt.Appendf(nil,
		`{"key":%q,"variationType":"boolean","isEnabled":%v,"disabledVariationId":"off","tags":["web",%q],
		"variations":[{"id":"on","value":"true"},{"id":"off","value":"false"}],
		"targetUsers":[{"keyIds":["tara"],"variationId":"on"}],"rules":%s,
		"fallthrough":{"variations":[{"id":"off","rollout":[0,1]}]},"updatedAt":%q,"isArchived":false}`,
		key, enabled, "tag-"+key, rules, wire.FormatMillis(version))}
}

func members(id string, version int64, keys ...string) store.Item {
	list, _ := json.Marshal(keys)
	return store.Item{Kind: store.Segment, Key: id, Version: version, Data: fmt.Appendf(nil,
		`{"id":%q,"included":%s,"excluded":[],"rules":[],"updatedAt":%q,"isArchived":false}`, id, list, wire.FormatMillis(version))}
}

func clientRelay(t testing.TB, shelf *shelf, cfg relay.Config) (*server, relay.Environment) {
	t.Helper()
	e := env(t, "web", shelf)
	cfg.Environments = []relay.Environment{e}
	r, err := relay.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := run(t, r)
	eventually(t, "ready", s.Ready)
	return s, e
}

func TestClientStream(t *testing.T) {
	shelf := newShelf(toggle("plain", 1000, true, ""), toggle("beta", 2000, true, "s1"), members("s1", 3000, "ann"), toggle("off", 4000, false, ""))
	s, e := clientRelay(t, shelf, relay.Config{})
	b := s.browse(t, e.ClientSecrets[0], "ann", nil)
	b.ask(t, "")
	if event, keys := b.next(t); event != wire.Full || !slices.Equal(keys, []string{"beta", "off", "plain"}) {
		t.Fatalf("got %s %v", event, keys)
	}
	check := func(key, want string) {
		t.Helper()
		if got := b.value(key); got != want {
			t.Errorf("%s of %s is %q, want %q", key, b.user, got, want)
		}
	}
	check("beta", "true beta users")
	check("plain", "false default")
	check("off", "false flag disabled")
	if f := b.flags["beta"]; f.Timestamp != 3000 || !f.SendToExperiment || len(f.VariationOptions) != 2 || f.VariationOptions[0].Value != "true" || *f.VariationID != "on" || f.VariationType != "boolean" {
		t.Errorf("beta is %+v", f)
	}

	// A segment's change comes as the flags that name it.
	shelf.put(members("s1", 5000, "bob"))
	if event, keys := b.next(t); event != wire.Patch || !slices.Equal(keys, []string{"beta"}) {
		t.Fatalf("got %s %v", event, keys)
	}
	check("beta", "false default")

	// Another user on the same connection, who keeps no flags of the first.
	b.user, b.version = "bob", 0
	b.ask(t, `{"name":"plan","value":"pro"},{"name":"odd","value":null}`)
	if event, _ := b.next(t); event != wire.Full {
		t.Fatalf("got %s", event)
	}
	check("beta", "true beta users")
	shelf.put(toggle("plain", 6000, false, ""))
	b.next(t)
	check("plain", "false flag disabled")

	// Archived, deleted, and a segment that nobody names, which is not sent.
	shelf.put(members("s2", 7000, "x"))
	archived := toggle("beta", 8000, true, "s1")
	archived.Archived, archived.Data = true, bytes.Replace(archived.Data, []byte(`"isArchived":false`), []byte(`"isArchived":true`), 1)
	shelf.put(archived)
	b.next(t)
	check("beta", "null flag archived")
	shelf.remove(store.ID{Kind: store.Flag, Key: "off"})
	b.next(t)
	check("off", "null flag archived")

	// Coming back with what it has, it gets what it lacks and nothing else.
	b.ws.Close()
	shelf.put(toggle("new", time.Now().Add(time.Second).UnixMilli(), true, ""))
	eventually(t, "the flag is served", func() bool { return s.Stats().Flags == 2 })
	again := s.browse(t, e.ClientSecrets[0], "bob", nil)
	again.version = b.version
	again.ask(t, "")
	if event, keys := again.next(t); event != wire.Patch || !slices.Equal(keys, []string{"new"}) {
		t.Errorf("got %s %v", event, keys)
	}
	again.ask(t, "")
	if event, keys := again.next(t); event != wire.Patch || len(keys) != 0 {
		t.Errorf("got %s %v, want an empty patch", event, keys)
	}
}

// TestIdentify: another user gets everything, whatever timestamp the SDK asks with. The
// JavaScript SDK sets its timestamp to 0 when only attributes change, but what was pushed
// for the user before may raise it again before it asks.
func TestIdentify(t *testing.T) {
	shelf := newShelf(toggle("plain", 1000, true, ""), toggle("beta", 2000, true, "s1"), members("s1", 3000, "ann"))
	s, e := clientRelay(t, shelf, relay.Config{})
	b := s.browse(t, e.ClientSecrets[0], "ann", nil)
	const pro = `{"name":"plan","value":"pro"}`
	for _, step := range []struct{ user, properties, want string }{
		{"ann", pro, wire.Full}, // the first answer, to timestamp 0
		{"ann", pro, wire.Patch},
		{"ann", "", wire.Full},
		{"ann", "", wire.Patch},
		{"bob", "", wire.Full},
		{"bob", pro + `,{"name":"x","value":"y"}`, wire.Full},
		{"bob", pro + `,{"name":"x","value":"y"}`, wire.Patch},
		{"bob", pro + `,{"name":"x","value":"z"}`, wire.Full},
	} {
		b.user = step.user
		b.ask(t, step.properties)
		event, keys := b.next(t)
		if event != step.want || event == wire.Full && len(keys) != 2 || event == wire.Patch && len(keys) != 0 {
			t.Errorf("%s %s got %s %v, want %s", step.user, step.properties, event, keys, step.want)
		}
	}
}

// TestClientStreamsConverge: whatever happens to flags and segments while SDKs come, go
// and identify, each of them ends up with what a new one gets, and is never sent
// anything that it has or that is older.
func TestClientStreamsConverge(t *testing.T) {
	const flags, segments, rounds = 12, 4, 300
	random := rand.New(rand.NewPCG(1, 2))
	users := []string{"ann", "bob", "tara"}
	flagOf := func(version int64) store.Item {
		segment := ""
		if random.IntN(2) == 0 {
			segment = fmt.Sprint("s", random.IntN(segments))
		}
		return toggle(fmt.Sprint("f", random.IntN(flags)), version, random.IntN(3) > 0, segment)
	}
	segmentOf := func(version int64) store.Item {
		return members(fmt.Sprint("s", random.IntN(segments)), version, users[random.IntN(len(users))], users[random.IntN(len(users))])
	}
	shelf := newShelf(flagOf(1000), segmentOf(1001))
	s, e := clientRelay(t, shelf, relay.Config{})
	var all []*browser
	for i := range 6 {
		b := s.browse(t, e.ClientSecrets[0], users[i%len(users)], nil)
		b.drops = true
		b.ask(t, "")
		all = append(all, b)
	}
	for i := range rounds {
		version := 2000 + int64(random.IntN(10*i+1)) // may be older than what is there
		switch random.IntN(8) {
		case 0, 1, 2:
			shelf.put(flagOf(version))
		case 3, 4:
			shelf.put(segmentOf(version))
		case 5:
			shelf.put(segmentOf(version), flagOf(version+1))
		case 6:
			if b := all[random.IntN(len(all))]; random.IntN(2) == 0 {
				// Messages for the user before are still on their way.
				b.user = users[(slices.Index(users, b.user)+1)%len(users)]
				b.ask(t, "")
			} else { // comes back with what it has
				mark := fmt.Sprint("mark", i)
				shelf.put(toggle(mark, version, true, ""))
				for b.value(mark) == "none" {
					b.next(t)
				}
				b.ws.Close()
				b.ws = s.browse(t, e.ClientSecrets[0], b.user, nil).ws
				b.ask(t, "")
			}
		case 7:
			shelf.remove(store.ID{Kind: store.Kind(1 + random.IntN(2)), Key: fmt.Sprint([]string{"f", "s"}[random.IntN(2)], random.IntN(segments))})
		}
	}
	shelf.put(toggle("end", time.Now().Add(time.Hour).UnixMilli(), true, ""))
	for _, b := range all {
		for b.value("end") == "none" {
			b.next(t)
		}
		fresh := s.browse(t, e.ClientSecrets[0], b.user, nil)
		fresh.ask(t, "")
		fresh.next(t)
		for key := range fresh.flags {
			if got, want := b.value(key), fresh.value(key); got != want || b.flags[key].Timestamp != fresh.flags[key].Timestamp {
				t.Errorf("%s of %s is %q at %d, a new one gets %q at %d", key, b.user, got, b.flags[key].Timestamp, want, fresh.flags[key].Timestamp)
			}
		}
		if len(b.flags) != len(fresh.flags) {
			t.Errorf("%s has %d flags, a new one %d", b.user, len(b.flags), len(fresh.flags))
		}
	}
}

// TestClientStreamIgnores: like FeatBit, the relay does not answer a request without
// a valid user, and answers the next.
func TestClientStreamIgnores(t *testing.T) {
	s, e := clientRelay(t, newShelf(toggle("a", 1000, true, "")), relay.Config{})
	b := s.browse(t, e.ClientSecrets[0], "ann", nil)
	bad := []string{`{}`, `{"timestamp":0}`, `{"timestamp":0,"user":null}`, `{"timestamp":0,"user":{"keyId":" "}}`,
		`{"timestamp":0,"user":{"keyId":"x","customizedProperties":[{"name":"n","value":5}]}}`}
	for _, data := range bad {
		if err := b.ws.WriteMessage(websocket.TextMessage, []byte(`{"messageType":"data-sync","data":`+data+`}`)); err != nil {
			t.Fatal(err)
		}
	}
	b.ask(t, "")
	if event, keys := b.next(t); event != wire.Full || len(keys) != 1 {
		t.Errorf("got %s %v", event, keys)
	}
	if n := s.Stats().Ignored; n != int64(len(bad)) {
		t.Errorf("%d ignored, want %d", n, len(bad))
	}
	ws, _, err := s.dialWith(url.Values{"type": {"client"}, "token": {protocol.Token(e.Secrets[0], time.Now())}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	if code, _ := closeCode(t, ws); code != 4003 {
		t.Errorf("a server secret with type=client is closed with %d", code)
	}
}

func TestClientLatestAllAndEvaluate(t *testing.T) {
	s, e := clientRelay(t, newShelf(toggle("plain", 1000, true, ""), toggle("beta", 2000, true, "s1"), members("s1", 3000, "ann")), relay.Config{})
	key, serverKey := string(e.ClientSecrets[0]), string(e.Secrets[0])
	const latest, evaluate = "/api/public/sdk/client/latest-all", "/api/public/FeatureFlag/evaluate"
	for _, tc := range []struct {
		name, path, auth, body string
		code                   int
		want                   string // a part of the answer; "-" for an empty one
	}{
		{"all", latest, key, `{"keyId":"ann"}`, 200, `"eventType":"full","userKeyId":"ann","featureFlags":[{"id":"plain","variation":"false"`},
		{"newer", latest + "?timestamp=2500", key, `{"KeyId":"ann"}`, 200, `"eventType":"patch","userKeyId":"ann","featureFlags":[{"id":"beta","variation":"true"`},
		{"nothing newer", latest + "?timestamp=3000", key, `{"keyId":"ann"}`, 200, "-"},
		{"no user", latest, key, `{}`, 400, "invalid end user"},
		{"no JSON", latest, key, `{`, 400, "invalid end user"},
		{"timestamp", latest + "?timestamp=x", key, `{"keyId":"ann"}`, 400, "timestamp"},
		{"a server's secret", latest, serverKey, `{"keyId":"ann"}`, 401, "-"},
		{"no secret", latest, "", `{"keyId":"ann"}`, 401, "-"},

		{"evaluate", evaluate, serverKey, `{"user":{"keyId":"ann"}}`, 200, `{"key":"beta","variation":{"id":"on","type":"boolean","value":"true","matchReason":"beta users","sendToExperiment":true}}`},
		{"by key", evaluate, key, `{"user":{"keyId":"tara"},"filter":{"keys":["plain"]}}`, 200, `[{"key":"plain","variation":{"id":"on","type":"boolean","value":"true","matchReason":"targeted","sendToExperiment":false}}]`},
		{"all tags", evaluate, key, `{"user":{"keyId":"x"},"filter":{"tags":["web","tag-beta"]}}`, 200, `[{"key":"beta",`},
		{"any tag", evaluate, key, `{"user":{"keyId":"x"},"filter":{"tagFilterMode":"or","tags":["nope","tag-plain"]}}`, 200, `[{"key":"plain",`},
		{"no such tag", evaluate, key, `{"user":{"keyId":"x"},"filter":{"tags":["web","nope"]}}`, 200, `[]`},
		{"since", evaluate, key, `{"user":{"keyId":"x"},"filter":{"timestamp":1500}}`, 200, `[{"key":"beta",`},
		{"no user", evaluate, key, `{"filter":{}}`, 400, "A valid user is required."},
		{"mode", evaluate, key, `{"user":{"keyId":"x"},"filter":{"tagFilterMode":"xor"}}`, 400, "tagFilterMode"},
		{"no JSON", evaluate, key, `[`, 400, "cannot be read"},
		{"no secret", evaluate, unknown, `{"user":{"keyId":"ann"}}`, 401, "-"},
		{"too large", evaluate, key, `{"user":{"keyId":"` + strings.Repeat("x", 2<<20) + `"}}`, 413, "-"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			do := func(method, path, auth, body string) (int, http.Header, string) {
				return s.do(t, method, path, auth, body)
			}
			if tc.code == http.StatusRequestEntityTooLarge {
				do = s.handle
			}
			code, header, body := do("POST", tc.path, tc.auth, tc.body)
			if code != tc.code || tc.want == "-" && body != "" || tc.want != "-" && !strings.Contains(body, tc.want) {
				t.Errorf("got %d %s", code, body)
			}
			if header.Get("ETag") != "" {
				t.Error("there is an ETag")
			}
		})
	}
}

// TestBrowsersAreLetIn: preflights, origins and limits.
func TestBrowsersAreLetIn(t *testing.T) {
	s, e := clientRelay(t, newShelf(toggle("a", 1000, true, "")), relay.Config{
		AllowedOrigins: []string{"https://*.example"}, MaxConnections: 1,
		RateLimits: relay.RateLimits{Evaluate: 0.1, Streaming: 0.3},
	})
	preflight := func(origin string) http.Header {
		t.Helper()
		req, err := http.NewRequest(http.MethodOptions, s.url+"/api/public/insight/track", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Origin", origin)
		req.Header.Set("Access-Control-Request-Method", "POST")
		req.Header.Set("Access-Control-Request-Headers", "authorization,content-type")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer http.DefaultClient.CloseIdleConnections()
		resp.Body.Close()
		if resp.StatusCode != http.StatusNoContent {
			t.Errorf("preflight answered %d", resp.StatusCode)
		}
		return resp.Header
	}
	if h := preflight("https://app.example"); h.Get("Access-Control-Allow-Origin") != "https://app.example" || h.Get("Access-Control-Allow-Headers") == "" {
		t.Errorf("preflight of an allowed origin: %v", h)
	}
	if h := preflight("https://evil.test"); h.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("preflight of a foreign origin: %v", h)
	}
	q := func() url.Values {
		return url.Values{"type": {"client"}, "token": {protocol.Token(e.ClientSecrets[0], time.Now())}}
	}
	origin := func(o string) http.Header { return http.Header{"Origin": {o}} }
	if _, resp, err := s.dialWith(q(), origin("https://evil.test")); err == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("a stream from a foreign origin: %v, want 403", resp)
	}
	s.browse(t, e.ClientSecrets[0], "ann", origin("https://app.example"))
	if _, resp, err := s.dialWith(q(), nil); err == nil || resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("one stream too many: %v, want 503", resp)
	}
	if _, resp, err := s.dialWith(q(), nil); err == nil || resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") != "4" {
		t.Errorf("one stream too soon: %v, want 429", resp)
	}
	evaluate := func() (int, string) {
		code, _, body := s.do(t, "POST", "/api/public/featureflag/evaluate", string(e.ClientSecrets[0]), `{"user":{"keyId":"x"}}`)
		return code, body
	}
	evaluate()
	if code, body := evaluate(); code != 429 || body != `{"error":"Rate limit exceeded. Please try again later."}` {
		t.Errorf("too many requests: %d %s", code, body)
	}
	if n := s.Stats().Limited; n != 2 {
		t.Errorf("%d limited, want 2", n)
	}
}

// TestDrainTakesItsTime: streams go one after the other, and nobody new is let in.
func TestDrainTakesItsTime(t *testing.T) {
	s := ready(t, relay.Config{Store: newShelf(flag("a", 1, "a")), DrainSpread: 300 * time.Millisecond})
	const n = 6
	ended := make(chan time.Time, n)
	for range n {
		c := s.synced(t)
		go func() {
			for {
				if _, _, err := c.ws.ReadMessage(); err != nil {
					if !websocket.IsCloseError(err, websocket.CloseGoingAway) {
						t.Errorf("ended with %v, want 1001", err)
					}
					ended <- time.Now()
					return
				}
			}
		}()
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	var times []time.Time
	for range n {
		times = append(times, <-ended)
	}
	if spread := times[n-1].Sub(times[0]); spread < 100*time.Millisecond {
		t.Errorf("all were closed within %v", spread)
	}
	if _, resp, err := s.dial(query()); err == nil || resp.StatusCode != 503 {
		t.Errorf("dial after Run = %v, %v, want 503", resp, err)
	}
}

func FuzzClientRequest(f *testing.F) {
	shelf := newShelf(toggle("a", 1000, true, "s1"), members("s1", 3000, "ann"))
	s, e := clientRelay(f, shelf, relay.Config{})
	f.Add([]byte(`{"user":{"keyId":"ann","name":"x","customizedProperties":[{"name":"p","value":"v"}]},"filter":{"tagFilterMode":"or","tags":["web"],"keys":["a"],"timestamp":5}}`))
	f.Add([]byte(`{"user":{"keyId":1}}`))
	f.Add([]byte(`{"user":null,"filter":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := http.NewRequest("POST", "/api/public/featureflag/evaluate", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", string(e.ClientSecrets[0]))
		w := httptest.NewRecorder()
		s.ServeHTTP(w, req)
		if w.Code != 200 && w.Code != 400 || w.Code == 200 && !json.Valid(w.Body.Bytes()) {
			t.Errorf("answered %d %s", w.Code, w.Body)
		}
	})
}

// BenchmarkClientPush is one change of a segment that 20 of 500 flags name, for each of
// many client-side streams.
func BenchmarkClientPush(b *testing.B) {
	var items []store.Item
	for i := range 500 {
		segment := ""
		if i < 20 {
			segment = "s1"
		}
		items = append(items, toggle(fmt.Sprint("flag-", i), int64(1000+i), true, segment))
	}
	shelf := newShelf(append(items, members("s1", 3000, "ann"))...)
	s, e := clientRelay(b, shelf, relay.Config{})
	const streams = 200
	all := make([]*browser, streams)
	for i := range all {
		all[i] = s.browse(b, e.ClientSecrets[0], "ann", nil)
		all[i].ask(b, "")
		all[i].next(b)
	}
	version := int64(4000)
	for b.Loop() {
		version++
		shelf.put(members("s1", version, "ann", fmt.Sprint(version)))
		for _, one := range all {
			if _, _, err := one.ws.ReadMessage(); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/streams, "µs/stream")
}
