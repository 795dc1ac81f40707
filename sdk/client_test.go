package sdk_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/syncer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// flagJSON is a flag that serves its first value to everybody, or, if segment
// is given, to the segment's members, and the second one to others.
func flagJSON(key, typ, first, second, segment string, version int64) store.Item {
	rules := "[]"
	serve := "a"
	if segment != "" {
		rules = fmt.Sprintf(`[{"id":"r","name":"r","conditions":[{"property":"User is in segment","op":"","value":"[\"%s\"]"}],"variations":[{"id":"a","rollout":[0,1],"exptRollout":1}]}]`, segment)
		serve = "b"
	}
	data := fmt.Sprintf(`{"id":"%[1]s","key":"%[1]s","name":"Flag %[1]s","variationType":%[2]q,"isEnabled":true,"isArchived":false,"exptIncludeAllTargets":true,
		"variations":[{"id":"a","name":"A","value":%[3]q},{"id":"b","name":"B","value":%[4]q}],"targetUsers":[],"rules":%[5]s,"disabledVariationId":"b",
		"fallthrough":{"variations":[{"id":"%[6]s","rollout":[0,1],"exptRollout":1}]},"updatedAt":"%[7]s"}`,
		key, typ, first, second, rules, serve, wire.FormatMillis(version))
	return store.Item{Kind: store.Flag, Key: key, Version: version, Data: []byte(data)}
}

func segmentJSON(id, member string, version int64) store.Item {
	data := fmt.Sprintf(`{"id":%q,"included":[%q],"excluded":[],"rules":[],"isArchived":false,"updatedAt":"%s"}`, id, member, wire.FormatMillis(version))
	return store.Item{Kind: store.Segment, Key: id, Version: version, Data: []byte(data)}
}

func sampleItems() []store.Item {
	return []store.Item{
		flagJSON("bool", "boolean", "true", "false", "", 1),
		flagJSON("text", "string", "one", "two", "", 1),
		flagJSON("number", "number", "2.5", "3", "", 1),
		flagJSON("whole", "number", "7", "3", "", 1),
		flagJSON("json", "json", `{"size":3}`, `{}`, "", 1),
		flagJSON("member", "boolean", "true", "false", "seg", 1),
		segmentJSON("seg", "ann", 1),
	}
}

func document(items ...store.Item) []byte { return wire.AppendDataSync(nil, wire.Full, items) }

func newUser(t testing.TB, key string, attrs ...sdk.Attr) *sdk.User {
	t.Helper()
	u, err := sdk.NewUser(key, attrs...)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func newClient(t testing.TB, cfg sdk.Config) *sdk.Client {
	t.Helper()
	c, err := sdk.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		c.Close(ctx)
	})
	return c
}

func waitReady(t testing.TB, c *sdk.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
}

func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("never happened: %s", what)
		case <-tick.C:
		}
	}
}

func apply(t testing.TB, st store.DataStore, full bool, items ...store.Item) {
	t.Helper()
	if _, err := st.Apply(context.Background(), store.Change{Full: full, Items: items}); err != nil {
		t.Fatal(err)
	}
}

func TestOffline(t *testing.T) {
	name := filepath.Join(t.TempDir(), "flags.json")
	if err := os.WriteFile(name, document(sampleItems()...), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, cfg := range map[string]sdk.Config{
		"JSON": {Offline: true, Bootstrap: document(sampleItems()...)},
		"file": {Offline: true, BootstrapFile: name},
	} {
		t.Run(what, func(t *testing.T) {
			c := newClient(t, cfg)
			if !c.Ready() || c.WaitReady(t.Context()) != nil {
				t.Fatal("not ready")
			}
			until(t, "ok", func() bool { return c.Status().State == sdk.OK })
			ann := newUser(t, "ann")
			if !c.Bool("bool", ann, false) || c.String("text", ann, "") != "one" || c.Float64("number", ann, 0) != 2.5 || c.Int("whole", ann, 0) != 7 {
				t.Error("wrong values")
			}
			if got := sdk.JSON(c, "json", ann, struct{ Size int }{}); got.Size != 3 {
				t.Errorf("JSON = %+v", got)
			}
			if !c.Bool("member", ann, false) || c.Bool("member", newUser(t, "bob"), true) {
				t.Error("segment is wrong")
			}
		})
	}
}

func TestDetails(t *testing.T) {
	c := newClient(t, sdk.Config{Offline: true, Bootstrap: document(append(sampleItems(),
		store.Item{Kind: store.Flag, Key: "broken", Version: 5, Data: []byte(`{"key":"broken","isEnabled":true,"updatedAt":"1970-01-01T00:00:00.005Z"}`)})...)})
	ann := newUser(t, "ann")
	for _, tc := range []struct {
		key    string
		user   *sdk.User
		reason sdk.Reason
		err    error
		text   string
	}{
		{"text", ann, sdk.ReasonWrongType, sdk.ErrWrongType, "wrong type"},
		{"json", ann, sdk.ReasonWrongType, sdk.ErrWrongType, "wrong type"},
		{"nope", ann, sdk.ReasonFlagNotFound, sdk.ErrFlagNotFound, "flag not found"},
		{"", ann, sdk.ReasonFlagNotFound, sdk.ErrFlagNotFound, "flag not found"},
		{"bool", nil, sdk.ReasonBadUser, sdk.ErrBadUser, "user not specified"},
		{"nope", nil, sdk.ReasonFlagNotFound, sdk.ErrFlagNotFound, "flag not found"},
		{"broken", ann, sdk.ReasonError, sdk.ErrFlagBroken, "error in evaluation"},
	} {
		d := c.BoolDetail(tc.key, tc.user, true)
		if !d.Value || d.Reason != tc.reason || !errors.Is(d.Err, tc.err) || d.Reason.String() != tc.text || d.VariationID != "" || d.FlagKey != tc.key || !d.Reason.IsDefault() {
			t.Errorf("BoolDetail(%q) = %+v, want %v", tc.key, d, tc.reason)
		}
	}
	want := sdk.Detail[int]{Value: 7, Reason: sdk.ReasonFallthrough, VariationID: "a", FlagKey: "whole", FlagName: "Flag whole", Version: 1, Source: sdk.Unknown}
	if d := c.IntDetail("whole", ann, 0); d != want {
		t.Errorf("IntDetail = %+v, want %+v", d, want)
	}
	if d := c.IntDetail("number", ann, -1); d.Value != -1 || !errors.Is(d.Err, sdk.ErrWrongType) {
		t.Errorf("IntDetail of 2.5 = %+v", d)
	}
	if d := sdk.JSONDetail(c, "json", ann, []int{1}); len(d.Value) != 1 || !errors.Is(d.Err, sdk.ErrWrongType) {
		t.Errorf("JSONDetail into a slice = %+v", d)
	}
	for key, want := range map[string]any{"bool": true, "text": "one", "number": 2.5, "json": map[string]any{"size": 3.0}} {
		if got := c.Variation(key, ann, nil); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("Variation(%q) = %v, want %v", key, got, want)
		}
	}
	if !c.IsFlagKnown("bool") || c.IsFlagKnown("nope") {
		t.Error("IsFlagKnown is wrong")
	}
}

func TestAllFlags(t *testing.T) {
	broken := store.Item{Kind: store.Flag, Key: "broken", Version: 5, Data: []byte(`{"key":"broken","isEnabled":true}`)}
	c := newClient(t, sdk.Config{Offline: true, Bootstrap: document(append(sampleItems(), broken)...)})
	all := c.AllFlags(newUser(t, "ann"))
	var got []string
	for key, d := range all.All() {
		got = append(got, fmt.Sprintf("%s=%v", key, d.Value))
	}
	want := []string{"bool=true", "broken=<nil>", "json=map[size:3]", "member=true", "number=2.5", "text=one", "whole=7"}
	if !slices.Equal(got, want) || all.Err() != nil {
		t.Errorf("All() = %v (%v), want %v", got, all.Err(), want)
	}
	if d := all.Get("broken", "def"); d.Value != "def" || d.Reason != sdk.ReasonError {
		t.Errorf("Get = %+v", d)
	}
	if err := c.AllFlags(nil).Err(); !errors.Is(err, sdk.ErrBadUser) {
		t.Errorf("Err() of a nil user = %v", err)
	}
}

// TestReader: a client that reads a store needs no connection, is ready when
// somebody fills it, and keeps its flags whatever happens to it.
func TestReader(t *testing.T) {
	st := memory.New()
	c := newClient(t, sdk.Config{Store: st})
	ann := newUser(t, "ann")
	if d := c.BoolDetail("bool", ann, true); d.Reason != sdk.ReasonNotReady || !errors.Is(d.Err, sdk.ErrNotReady) || !d.Value {
		t.Errorf("before data: %+v", d)
	}
	if err := c.AllFlags(ann).Err(); !errors.Is(err, sdk.ErrNotReady) {
		t.Errorf("AllFlags before data: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := c.WaitReady(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("WaitReady before data = %v", err)
	}
	apply(t, st, true, sampleItems()...)
	waitReady(t, c)
	until(t, "ok", func() bool { return c.Status().State == sdk.OK })
	apply(t, st, false, flagJSON("text", "string", "new", "x", "", 2))
	until(t, "new value", func() bool { return c.String("text", ann, "") == "new" })
	if s := c.Status(); s.Flags != 6 || s.Segments != 1 || s.Updated.IsZero() || s.Err != nil {
		t.Errorf("Status() = %+v", s)
	}
	st.Close()
	until(t, "interrupted", func() bool { return c.Status().State == sdk.Interrupted })
	if c.String("text", ann, "") != "new" {
		t.Error("the flags are gone with the store")
	}
}

func TestFlagChange(t *testing.T) {
	st := memory.New()
	defer st.Close()
	apply(t, st, true, sampleItems()...)
	c := newClient(t, sdk.Config{Store: st})
	waitReady(t, c)
	got := make(chan sdk.FlagChange, 100)
	remove := c.OnFlagChange(func(ch sdk.FlagChange) { got <- ch })
	expect := func(want ...sdk.FlagChange) {
		t.Helper()
		for _, w := range want {
			select {
			case ch := <-got:
				if ch != w {
					t.Errorf("got %+v, want %+v", ch, w)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("no change, want %+v", w)
			}
		}
	}
	apply(t, st, false, flagJSON("text", "string", "x", "y", "", 2))
	expect(sdk.FlagChange{Key: "text"})
	apply(t, st, false, segmentJSON("seg", "bob", 2))
	expect(sdk.FlagChange{Key: "member"})
	if c.Bool("member", newUser(t, "ann"), true) {
		t.Error("the change was announced before it was in effect")
	}
	gone := flagJSON("bool", "boolean", "true", "false", "", 3)
	gone.Archived = true
	apply(t, st, false, gone)
	expect(sdk.FlagChange{Key: "bool", Removed: true})
	apply(t, st, true, sampleItems()[1:]...)
	expect(sdk.FlagChange{Key: "bool", Removed: true}, sdk.FlagChange{Key: "member"}, sdk.FlagChange{Key: "text"})
	remove()
	remove()
	again := make(chan sdk.FlagChange, 1)
	c.OnFlagChange(func(ch sdk.FlagChange) { again <- ch })
	apply(t, st, false, flagJSON("text", "string", "x", "y", "", 9))
	<-again
	if len(got) != 0 {
		t.Errorf("a removed listener got %v", <-got)
	}
}

type server struct {
	url    string
	secret sdk.Secret
	store  *memory.Store
	relay  *relay.Relay
}

func serve(t *testing.T) *server {
	t.Helper()
	secret, err := protocol.NewSecret(protocol.NewEnvID())
	if err != nil {
		t.Fatal(err)
	}
	s := &server{secret: secret, store: memory.New()}
	if s.relay, err = relay.New(relay.Config{Store: s.store, Secrets: []relay.Secret{secret}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { s.relay.Run(ctx); close(done) }()
	srv := httptest.NewServer(s.relay)
	s.url = srv.URL
	t.Cleanup(func() {
		cancel()
		<-done
		srv.Close()
		s.store.Close()
	})
	return s
}

// TestDirect: flags come over the stream, changes arrive, and events go back.
func TestDirect(t *testing.T) {
	srv := serve(t)
	apply(t, srv.store, true, sampleItems()...)
	until(t, "server is ready", srv.relay.Ready)
	var mu sync.Mutex
	var states []sdk.State
	c := newClient(t, sdk.Config{
		StreamingURL: srv.url, EnvSecret: srv.secret,
		OnStatus: func(s sdk.Status) { mu.Lock(); defer mu.Unlock(); states = append(states, s.State) },
	})
	waitReady(t, c)
	until(t, "ok", func() bool { return c.Status().State == sdk.OK })
	ann := newUser(t, "ann", sdk.Name("Ann"), sdk.String("plan", "pro"))
	if c.String("text", ann, "") != "one" || c.Bool("nope", ann, false) {
		t.Error("wrong values")
	}
	apply(t, srv.store, false, flagJSON("text", "string", "pushed", "x", "", time.Now().UnixMilli()))
	until(t, "pushed change", func() bool { return c.AllFlags(ann).Get("text", "").Value == "pushed" })
	c.Identify(ann)
	c.TrackMetric(ann, "bought", 2)
	c.TrackMetrics(ann, map[string]float64{"": 1})
	c.Identify(nil)
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	st := c.EventStats()
	if st.Delivered != st.Recorded || st.Delivered < 4 {
		t.Errorf("EventStats() = %+v", st)
	}
	if got := srv.relay.Stats(); got.Variations+got.Metrics == 0 || got.Metrics != 1 {
		t.Errorf("the server got %+v", got)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Errorf("Close = %v", err)
	}
	if s := c.Status(); s.State != sdk.Off || !errors.Is(s.Err, sdk.ErrClosed) {
		t.Errorf("Status() after Close = %+v", s)
	}
	if c.String("text", ann, "") != "pushed" {
		t.Error("evaluation after Close lost the flags")
	}
	if err := c.Flush(t.Context()); !errors.Is(err, sdk.ErrClosed) {
		t.Errorf("Flush after Close = %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if states[len(states)-1] != sdk.Off || !slices.Contains(states, sdk.OK) {
		t.Errorf("reported states = %v", states)
	}
}

func TestDirectWithBootstrapAndWrongSecret(t *testing.T) {
	srv := serve(t)
	apply(t, srv.store, true, sampleItems()...)
	until(t, "server is ready", srv.relay.Ready)
	other, _ := protocol.NewSecret(protocol.NewEnvID())

	c := newClient(t, sdk.Config{StreamingURL: srv.url, EnvSecret: other, DisableEvents: true})
	if err := c.WaitReady(t.Context()); !errors.Is(err, sdk.ErrUnauthorized) || strings.Contains(err.Error(), string(other)) {
		t.Errorf("WaitReady = %v", err)
	}
	if s := c.Status(); s.State != sdk.Off || !errors.Is(s.Err, sdk.ErrUnauthorized) {
		t.Errorf("Status() = %+v", s)
	}
	c = newClient(t, sdk.Config{StreamingURL: srv.url, EnvSecret: other, Bootstrap: document(sampleItems()...), DisableEvents: true})
	if !c.Ready() || !c.Bool("bool", newUser(t, "ann"), false) {
		t.Error("the bootstrap does not serve")
	}
}

// TestDirectIntoStore: the client's own syncer fills a given store, and another
// client reads it.
func TestDirectIntoStore(t *testing.T) {
	srv := serve(t)
	apply(t, srv.store, true, sampleItems()...)
	until(t, "server is ready", srv.relay.Ready)
	shared := memory.New()
	defer shared.Close()
	newClient(t, sdk.Config{StreamingURL: srv.url, EnvSecret: srv.secret, Store: shared, DisableEvents: true})
	reader := newClient(t, sdk.Config{Store: shared})
	waitReady(t, reader)
	if !reader.Bool("bool", newUser(t, "ann"), false) {
		t.Error("wrong value")
	}
}

func noSource(context.Context, sdk.DataStore, func(sdk.State, error)) error { return nil }

func TestNewRejects(t *testing.T) {
	secret, _ := protocol.NewSecret(protocol.NewEnvID())
	st := memory.New()
	defer st.Close()
	for what, tc := range map[string]struct {
		cfg  sdk.Config
		want string
	}{
		"nothing":              {sdk.Config{}, "needs a Store"},
		"two sources":          {sdk.Config{StreamingURL: "ws://h", EnvSecret: secret, DataSource: noSource}, "both"},
		"a default of no kind": {sdk.Config{Offline: true, Defaults: map[string]any{"f": make(chan int)}}, `flag "f"`},
		"bootstrap alone":      {sdk.Config{Bootstrap: []byte("{}")}, "set Offline"},
		"two bootstraps":       {sdk.Config{Offline: true, Bootstrap: []byte("{}"), BootstrapFile: "x"}, "both"},
		"store and bootstrap":  {sdk.Config{Store: st, Bootstrap: []byte("{}")}, "both"},
		"bad URL":              {sdk.Config{StreamingURL: "redis://u:hunter2@h", EnvSecret: secret}, "StreamingURL"},
		"no secret":            {sdk.Config{StreamingURL: "ws://h"}, "EnvSecret"},
		"bad secret":           {sdk.Config{StreamingURL: "ws://h", EnvSecret: "hunter2"}, "EnvSecret"},
		"secret without URL":   {sdk.Config{Store: st, EnvSecret: secret}, "no EventURL"},
		"bad event URL":        {sdk.Config{Store: st, EnvSecret: secret, EventURL: "hunter2"}, "EventURL"},
		"broken bootstrap":     {sdk.Config{Offline: true, Bootstrap: []byte("{\n!")}, "line 2, column 1"},
		"missing file":         {sdk.Config{Offline: true, BootstrapFile: "/does/not/exist"}, "/does/not/exist"},
		"bootstrap of no kind": {sdk.Config{Offline: true, Bootstrap: []byte("{}")}, "not a FeatBit data-sync document"},
	} {
		c, err := sdk.New(tc.cfg)
		if err == nil || c != nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(strings.ReplaceAll(err.Error(), `"hunter2"`, ""), "hunter2") {
			t.Errorf("%s: New = %v, want an error with %q", what, err, tc.want)
		}
	}
}

// TestEverythingAtOnce runs under the race detector: 64 goroutines evaluate,
// listen, track and flush while flags change and the client closes.
func TestEverythingAtOnce(t *testing.T) {
	srv := serve(t)
	apply(t, srv.store, true, sampleItems()...)
	until(t, "server is ready", srv.relay.Ready)
	c, err := sdk.New(sdk.Config{
		StreamingURL: srv.url, EnvSecret: srv.secret, Sync: syncer.Config{Reconcile: 5 * time.Millisecond},
		OnStatus: func(sdk.Status) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	waitReady(t, c)
	ann := newUser(t, "ann")
	closed := make(chan struct{})
	var calls atomic.Int32
	var wg sync.WaitGroup
	jobs := []func(){
		func() {
			frozen := c.Snapshot()
			if a, b := frozen.String("text", ann, ""), frozen.String("text", ann, ""); a != b {
				t.Errorf("a snapshot gave %q and %q", a, b)
			}
			c.Bool("member", ann, false)
			sdk.JSON(c, "json", ann, struct{ Size int }{})
		},
		func() { c.OnFlagChange(func(ch sdk.FlagChange) { c.String(ch.Key, ann, "") })() },
		func() {
			remove := sdk.OnValueChanged(c, "text", ann, "", func(_, now string) { c.Bool("member", ann, false) })
			c.ListenerStats()
			remove()
		},
		func() { c.TrackMetric(ann, "m", 1); c.Identify(ann); c.EventStats() },
		func() {
			for range c.AllFlags(ann).All() {
			}
			c.AllFlags(ann).Get("text", "")
		},
		func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			defer cancel()
			if err := c.Flush(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, sdk.ErrClosed) {
				t.Errorf("Flush = %v", err)
			}
		},
		func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			defer cancel()
			c.WaitFor(ctx, sdk.Interrupted) // whatever comes of it
			c.Status()
		},
		func() {
			v := c.VariationDetail("whole", newUser(t, "bob", sdk.Int("n", 1)), nil)
			if v.Value != 7.0 {
				t.Errorf("whole = %+v", v)
			}
		},
	}
	for i := range 64 {
		wg.Go(func() {
			// Bounded, so that the events of a slow machine can be delivered; and
			// once more after Close.
			for n := 0; n < 100; n++ {
				select {
				case <-closed:
					n = 99
				default:
				}
				jobs[i%len(jobs)]()
				calls.Add(1)
			}
		})
	}
	for i := range int64(100) {
		apply(t, srv.store, false, flagJSON("text", "string", fmt.Sprint(i), "y", "", i+2), segmentJSON("seg", "ann", i+2))
	}
	until(t, "all have begun", func() bool { return calls.Load() >= 640 })
	if err := c.Flush(t.Context()); err != nil {
		t.Errorf("Flush = %v", err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Errorf("Close = %v", err)
	}
	close(closed)
	if err := c.Close(t.Context()); err != nil {
		t.Errorf("second Close = %v", err)
	}
	wg.Wait()
	if st := c.EventStats(); st.Recorded != st.Delivered+st.Dropped+st.Failed+st.Pending || st.Pending != 0 || st.Delivered == 0 {
		t.Errorf("EventStats() = %+v do not add up", st)
	}
}

func BenchmarkBool(b *testing.B) {
	c := newClient(b, sdk.Config{Offline: true, Bootstrap: document(sampleItems()...)})
	ann := newUser(b, "ann")
	b.ReportAllocs()
	for b.Loop() {
		c.Bool("bool", ann, false)
	}
}
