//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/flagstead/flagstead/internal/flags"
	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/snapshot"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/syncer"
)

// patient bounds what must happen.
const patient = 30 * time.Second

func TestMain(m *testing.M) {
	if err := install(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// TestNodeSDK runs FeatBit's Node SDK and our client against one relay. The
// parts build on each other.
func TestNodeSDK(t *testing.T) {
	ctx := t.Context()
	items, pairs := agreeing(t)
	version := time.Now().UnixMilli() // newer than everything in the cases
	items = append(items, pushed(t, version, "v1"), member(t, version+1), team(t, version+2))

	st := memory.New()
	defer st.Close()
	apply := func(c store.Change) {
		t.Helper()
		if _, err := st.Apply(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	apply(store.Change{Full: true, Items: items})

	// Two secrets tell in the insights which SDK sent them.
	nodeSecret, nodeEnv := newSecret(t)
	ourSecret, ourEnv := newSecret(t)
	got := &inbox{served: map[string]map[served]bool{}}
	cfg := relay.Config{
		Store:        st,
		Secrets:      []relay.Secret{nodeSecret, ourSecret},
		Insights:     got,
		KeepInsights: 1 << 20,
	}
	r := serve(t, "127.0.0.1:0", cfg)
	defer func() { r.stop(t) }()

	node := startNode(t, "http://"+r.addr, string(nodeSecret))
	ours, err := sdk.New(sdk.Config{
		StreamingURL:  "ws://" + r.addr,
		EnvSecret:     ourSecret,
		EventCapacity: 1 << 20,
		Sync:          syncer.Config{BackoffMin: 50 * time.Millisecond, BackoffMax: time.Second},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), patient)
		defer cancel()
		if err := ours.Close(ctx); err != nil {
			t.Errorf("Close() = %v", err)
		}
	}()
	ready, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	if err := ours.WaitReady(ready); err != nil {
		t.Fatal(err)
	}

	ann := user{Key: "ann", Name: "Ann"}
	// both waits until both SDKs have the value.
	both := func(t *testing.T, flag, value string) {
		t.Helper()
		node.await(t, flag, ann, value)
		await(t, ours, flag, ann, value)
	}

	expected := map[served]bool{}
	steps := []struct {
		name string
		run  func(t *testing.T)
	}{
		{"evaluate", func(t *testing.T) {
			evaluate(t, items, pairs, node, ours, expected)
		}},
		{"push", func(t *testing.T) {
			both(t, "e2e-pushed", "v1")
			apply(store.Change{Items: []store.Item{pushed(t, version+10, "v2")}})
			both(t, "e2e-pushed", "v2")

			both(t, "e2e-member", "out")
			apply(store.Change{Items: []store.Item{team(t, version+11, ann.Key)}})
			both(t, "e2e-member", "in")

			if s := r.Stats(); s.Accepted != 2 || s.Connections != 2 {
				t.Errorf("%d connections were opened and %d are open, want 2: updates arrive on the connections that are there", s.Accepted, s.Connections)
			}
		}},
		{"insights", func(t *testing.T) {
			flush(t, node, ours)
			for _, s := range []served{{"e2e-pushed", "ann", "Ann", "v1"}, {"e2e-pushed", "ann", "Ann", "v2"}, {"e2e-member", "ann", "Ann", "out"}, {"e2e-member", "ann", "Ann", "in"}} {
				expected[s] = true
			}
			for name, env := range map[string]string{"the Node SDK": nodeEnv, "our client": ourEnv} {
				eventually(t, "all insights of "+name, func() bool { return got.missing(env, expected) == 0 })
				for s := range got.of(env) {
					if !expected[s] {
						t.Errorf("%s sent an insight that nobody asked for: %+v", name, s)
					}
				}
			}

			all := map[served]bool{}
			for _, in := range r.Insights() {
				for s := range servedBy(in) {
					all[s] = true
				}
			}
			if !maps.Equal(all, expected) {
				t.Errorf("the relay shows %d different evaluations, want %d", len(all), len(expected))
			}
			s := r.Stats()
			if s.Insights == 0 || s.Variations < int64(2*len(expected)) || s.InvalidInsights != 0 {
				t.Errorf("the relay counts %d insights, %d of them invalid, with %d variations; want at least %d variations", s.Insights, s.InvalidInsights, s.Variations, 2*len(expected))
			}
			if s.Rejected != 0 || s.Refused != 0 || s.Dropped != 0 || s.Ignored != 0 || s.InvalidItems != 0 {
				t.Errorf("the relay has trouble with its clients or items: %+v", s)
			}
			t.Logf("%d different evaluations arrived from each SDK", len(expected))
		}},
		{"restart", func(t *testing.T) {
			r.stop(t)
			apply(store.Change{Items: []store.Item{pushed(t, version+20, "v3")}})
			r = serve(t, r.addr, cfg)
			both(t, "e2e-pushed", "v3") // changed while there was no relay
			apply(store.Change{Items: []store.Item{pushed(t, version+21, "v4")}})
			both(t, "e2e-pushed", "v4") // pushed on the new connection

			flush(t, node, ours)
			for name, env := range map[string]string{"the Node SDK": nodeEnv, "our client": ourEnv} {
				last := served{"e2e-pushed", "ann", "Ann", "v4"}
				eventually(t, "the insight of "+name, func() bool { return got.of(env)[last] })
			}
			if s := r.Stats(); s.Accepted != 2 || s.Rejected != 0 || s.Dropped != 0 {
				t.Errorf("after the restart: %+v, want 2 connections accepted", s)
			}
		}},
		{"close", func(t *testing.T) {
			node.close(t)
			eventually(t, "only our client is connected", func() bool { return r.Stats().Connections == 1 })
		}},
	}
	for _, s := range steps {
		if !t.Run(s.name, s.run) {
			return
		}
	}
}

// evaluate compares the Node SDK, our client and the evaluator alone on all
// pairs, and notes in expected what they serve.
func evaluate(t *testing.T, items []store.Item, pairs []pair, node *nodeClient, ours *sdk.Client, expected map[served]bool) {
	set, _ := snapshot.Apply(nil, store.Snapshot{Items: items})
	covered, reasons, typed := map[string]int{}, map[string]int{}, 0
	for batch := range slices.Chunk(pairs, 500) {
		for i, theirs := range node.evaluate(t, batch) {
			p := batch[i]
			where := fmt.Sprintf("flag %q, user %s", p.Flag, p.User.text())

			plain, err := flags.ParseUser(p.User.text())
			if err != nil {
				t.Fatalf("%s: %v", where, err)
			}
			res := set.Evaluate(p.Flag, plain)
			if res.Reason.IsError() {
				t.Errorf("%s: the evaluator says %q (%v)", where, res.Reason, res.Err())
				continue
			}
			u, err := sdk.ParseUser(p.User.text())
			if err != nil {
				t.Fatalf("%s: %v", where, err)
			}
			d := ours.StringDetail(p.Flag, u, "(default)")
			if d.Value != res.Variation.Text() || d.VariationID != res.Variation.ID() || d.Reason.String() != res.Reason.String() {
				t.Errorf("%s: our client gives %q (%s), the evaluator %q (%s)", where, d.Value, d.Reason, res.Variation.Text(), res.Reason)
			}
			if theirs.Value != d.Value || theirs.Kind != nodeKinds[d.Reason] {
				t.Errorf("%s: the Node SDK gives %q (%s), our client %q (%s)", where, theirs.Value, theirs.Kind, d.Value, d.Reason)
			}

			// A value that does not parse as the flag's type has another type
			// in our client, and in the Node SDK the call's default.
			if want := ours.Variation(p.Flag, u, nil); theirs.Typed != nil && wellFormed(p.Type, d.Value) {
				typed++
				if !reflect.DeepEqual(theirs.Typed.Value, want) || theirs.Typed.Kind != theirs.Kind {
					t.Errorf("%s: as %s the Node SDK gives %v (%s), our client %v", where, p.Type, theirs.Typed.Value, theirs.Typed.Kind, want)
				}
			}

			expected[served{p.Flag, p.User.Key, p.User.Name, d.Value}] = true
			reasons[d.Reason.String()]++
			slices.Sort(p.constructs)
			for _, c := range slices.Compact(p.constructs) {
				covered[c]++
			}
		}
	}

	t.Logf("compared %d pairs of flag and user, %d of them also as typed values; reasons: %v", len(pairs), typed, reasons)
	t.Logf("pairs by what their flags are made of: %v", covered)
	if len(pairs) < 2000 || typed < 50 {
		t.Errorf("compared %d pairs, %d typed; want at least 2000 and 50", len(pairs), typed)
	}
	for _, c := range []string{
		"type string", "type boolean", "type number", "type json", "off", "targets",
		"Equal", "NotEqual", "IsOneOf", "NotOneOf", "Contains", "NotContain", "StartsWith", "EndsWith", "IsTrue", "IsFalse",
		"LessThan", "LessEqualThan", "BiggerThan", "BiggerEqualThan",
		"User is in segment", "User is not in segment", "segment rule",
		"rollout by key", "rollout by keyId", "rollout by name", "rollout by custom property",
	} {
		if covered[c] == 0 {
			t.Errorf("no pair covers %q", c)
		}
	}
	for reason := range nodeKinds {
		if reasons[reason.String()] < 10 {
			t.Errorf("%d pairs are for reason %q, want at least 10", reasons[reason.String()], reason)
		}
	}
}

// nodeKinds are the Node SDK's words for our reasons.
var nodeKinds = map[sdk.Reason]string{
	sdk.ReasonOff:         "Off",
	sdk.ReasonTargetMatch: "TargetMatch",
	sdk.ReasonRuleMatch:   "RuleMatch",
	sdk.ReasonFallthrough: "FallThrough",
}

func wellFormed(kind, value string) bool {
	switch kind {
	case "boolean":
		return value == "true" || value == "false"
	case "number":
		return shortNumber.MatchString(value)
	}
	return json.Valid([]byte(value))
}

// await returns once our client announced a change after which the flag has the
// value, or at once if it has.
func await(t *testing.T, c *sdk.Client, key string, u user, value string) {
	t.Helper()
	parsed, err := sdk.ParseUser(u.text())
	if err != nil {
		t.Fatal(err)
	}
	changed := make(chan struct{}, 1)
	defer c.OnFlagChange(func(sdk.FlagChange) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})()
	late := time.NewTimer(patient)
	defer late.Stop()
	for {
		got := c.String(key, parsed, "(default)")
		if got == value {
			return
		}
		select {
		case <-changed:
		case <-late.C:
			t.Fatalf("flag %q is %q for our client, want %q", key, got, value)
		}
	}
}

func flush(t *testing.T, node *nodeClient, ours *sdk.Client) {
	t.Helper()
	node.flush(t)
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	if err := ours.Flush(ctx); err != nil {
		t.Errorf("Flush() = %v", err)
	}
}

// served is an evaluation as insights tell it.
type served struct{ flag, user, name, value string }

func servedBy(in relay.Insight) map[served]bool {
	all := map[served]bool{}
	for _, v := range in.Variations {
		all[served{v.FlagKey, in.User.KeyID, in.User.Name, v.Variation.Value}] = true
	}
	return all
}

// An inbox keeps what insights say, by environment.
type inbox struct {
	mu     sync.Mutex
	served map[string]map[served]bool
}

func (b *inbox) Accept(_ context.Context, env string, insights []json.RawMessage) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.served[env] == nil {
		b.served[env] = map[served]bool{}
	}
	for _, raw := range insights {
		var in relay.Insight
		if err := json.Unmarshal(raw, &in); err != nil {
			return err
		}
		maps.Copy(b.served[env], servedBy(in))
	}
	return nil
}

func (b *inbox) of(env string) map[served]bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.served[env])
}

func (b *inbox) missing(env string, want map[served]bool) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for s := range want {
		if !b.served[env][s] {
			n++
		}
	}
	return n
}

// A server is a relay behind an HTTP server.
type server struct {
	*relay.Relay
	addr string
	stop func(t *testing.T)
}

// serve starts a relay on addr. It listens only when it has data, so that no
// client is sent away.
func serve(t *testing.T, addr string, cfg relay.Config) *server {
	t.Helper()
	r, err := relay.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	// The parts share the relay, so it outlives the one that starts it.
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- r.Run(ctx) }()
	web := &http.Server{Handler: r}
	var ln net.Listener
	webEnded := make(chan error, 1)
	var once sync.Once
	stop := func(t *testing.T) {
		once.Do(func() {
			cancel()
			if ln != nil {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				defer cancel()
				if web.Shutdown(ctx) != nil {
					web.Close()
				}
				if err := <-webEnded; !errors.Is(err, http.ErrServerClosed) {
					t.Errorf("the HTTP server ended with %v", err)
				}
			}
			select {
			case err := <-ran:
				if err != nil {
					t.Errorf("Run() = %v", err)
				}
			case <-time.After(patient):
				t.Error("Run does not end")
			}
		})
	}
	defer func() {
		if ln == nil {
			stop(t)
		}
	}()
	eventually(t, "the relay has data", r.Ready)
	if ln, err = net.Listen("tcp", addr); err != nil {
		t.Fatal(err)
	}
	go func() { webEnded <- web.Serve(ln) }()
	return &server{Relay: r, addr: ln.Addr().String(), stop: stop}
}

func newSecret(t *testing.T) (secret relay.Secret, env string) {
	t.Helper()
	env = protocol.NewEnvID()
	secret, err := protocol.NewSecret(env)
	if err != nil {
		t.Fatal(err)
	}
	return secret, env
}

// eventually waits for something that nobody announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.NewTimer(patient)
	defer late.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late.C:
			t.Fatalf("never: %s", what)
		}
	}
}

const (
	teamID  = "5b0c3c0e-7a4e-4b39-9d0e-0c7d1f2a9e11"
	firstID = "8f5f1f8a-2f63-4a53-8c63-3d1f6f0a1b01"
	otherID = "8f5f1f8a-2f63-4a53-8c63-3d1f6f0a1b02"
)

// pushed is a flag that serves value to everybody.
func pushed(t *testing.T, version int64, value string) store.Item {
	return item(t, store.Flag, fmt.Sprintf(`{
		"id":"0d6f3d52-3c26-43d5-9e0a-7d6e3c1f0a21","updatedAt":%q,"name":"pushed","key":"e2e-pushed","variationType":"string",
		"variations":[{"id":%q,"name":"served","value":%q},{"id":%q,"name":"off","value":"off"}],
		"targetUsers":[],"rules":[],"isEnabled":true,"disabledVariationId":%[4]q,
		"fallthrough":{"dispatchKey":null,"includedInExpt":false,"variations":[{"id":%[2]q,"rollout":[0,1],"exptRollout":1}]},
		"exptIncludeAllTargets":true,"tags":[],"isArchived":false}`, wire.FormatMillis(version), firstID, value, otherID))
}

// member is a flag that serves "in" to the team and "out" to others.
func member(t *testing.T, version int64) store.Item {
	return item(t, store.Flag, fmt.Sprintf(`{
		"id":"0d6f3d52-3c26-43d5-9e0a-7d6e3c1f0a22","updatedAt":%q,"name":"member","key":"e2e-member","variationType":"string",
		"variations":[{"id":%q,"name":"in","value":"in"},{"id":%q,"name":"out","value":"out"}],
		"targetUsers":[],"isEnabled":true,"disabledVariationId":%[3]q,
		"rules":[{"id":"0d6f3d52-3c26-43d5-9e0a-7d6e3c1f0a23","name":"team","dispatchKey":null,"includedInExpt":false,
			"conditions":[{"property":"User is in segment","op":"","value":"[\"%[4]s\"]"}],
			"variations":[{"id":%[2]q,"rollout":[0,1],"exptRollout":1}]}],
		"fallthrough":{"dispatchKey":null,"includedInExpt":false,"variations":[{"id":%[3]q,"rollout":[0,1],"exptRollout":1}]},
		"exptIncludeAllTargets":true,"tags":[],"isArchived":false}`, wire.FormatMillis(version), firstID, otherID, teamID))
}

// team is the segment that includes the keys.
func team(t *testing.T, version int64, keys ...string) store.Item {
	included := "[]"
	if len(keys) > 0 {
		included = `["` + strings.Join(keys, `","`) + `"]`
	}
	return item(t, store.Segment, fmt.Sprintf(`{"id":%q,"updatedAt":%q,"name":"team","included":%s,"excluded":[],"rules":[],"isArchived":false}`,
		teamID, wire.FormatMillis(version), included))
}

func item(t *testing.T, kind store.Kind, text string) store.Item {
	t.Helper()
	it, err := wire.ParseItem(kind, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return it
}
