package sdk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
)

func newReader(text []byte) io.Reader { return bytes.NewReader(text) }

// TestLoadJSON: an offline client is ready before anything is loaded, sees what
// is loaded when LoadJSON returns, and keeps its flags when a document is broken.
func TestLoadJSON(t *testing.T) {
	c := newClient(t, sdk.Config{Offline: true})
	ann := newUser(t, "ann")
	if d := c.StringDetail("text", ann, "def"); !c.Ready() || !c.Offline() || d.Reason != sdk.ReasonFlagNotFound || d.Value != "def" {
		t.Errorf("before loading: %+v", d)
	}
	for i := range 50 {
		want := strings.Repeat("x", i)
		load(t, c, flagJSON("text", "string", want, "y", "", int64(100-i)))
		if got := c.String("text", ann, ""); got != want {
			t.Fatalf("after LoadJSON the value is %q, want %q", got, want)
		}
	}
	if err := c.LoadJSON(strings.NewReader("{\n  !")); err == nil || !strings.Contains(err.Error(), "line 2, column 3") {
		t.Errorf("LoadJSON of broken JSON = %v", err)
	}
	if err := c.LoadJSON(failing{}); !errors.Is(err, errRead) {
		t.Errorf("LoadJSON of a failing reader = %v", err)
	}
	if !c.IsFlagKnown("text") {
		t.Error("a broken document cost the flags")
	}
	c.Close(t.Context())
	if err := c.LoadJSON(newReader(document())); !errors.Is(err, sdk.ErrClosed) {
		t.Errorf("LoadJSON after Close = %v", err)
	}
	st := memory.New()
	defer st.Close()
	if err := newClient(t, sdk.Config{Store: st}).LoadJSON(newReader(document())); !errors.Is(err, sdk.ErrNotOffline) {
		t.Errorf("LoadJSON of a reader = %v", err)
	}
}

func TestLoadJSONConcurrently(t *testing.T) {
	c := newClient(t, sdk.Config{Offline: true})
	var wg sync.WaitGroup
	for i := range int64(20) {
		wg.Go(func() { load(t, c, flagJSON("text", "string", "x", "y", "", i)) })
	}
	wg.Wait()
}

var errRead = errors.New("disk on fire")

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errRead }

// TestDefaults: the table wins over the default of the call, if it has a value of
// the type asked for.
func TestDefaults(t *testing.T) {
	c := newClient(t, sdk.Config{
		Offline:   true,
		Bootstrap: document(sampleItems()...),
		Defaults: map[string]any{
			"yes": true, "no": false, "n": 7, "f": 2.5, "s": "table", "j": map[string]any{"size": 9}, "text": "unused",
		},
	})
	ann := newUser(t, "ann")
	if !c.Bool("yes", ann, false) || c.Bool("no", ann, true) || c.Int("n", ann, 1) != 7 || c.Float64("f", ann, 1) != 2.5 ||
		c.Float64("n", ann, 1) != 7 || c.String("s", ann, "call") != "table" ||
		sdk.JSON(c, "j", ann, struct{ Size int }{1}).Size != 9 || c.Variation("no", ann, true) != false {
		t.Error("the table does not win")
	}
	if c.Bool("s", ann, true) != true || c.Int("f", ann, 3) != 3 || c.String("other", ann, "call") != "call" || c.String("text", ann, "call") != "one" {
		t.Error("the table wins where it must not")
	}
	if d := c.BoolDetail("yes", ann, false); d.Reason != sdk.ReasonFlagNotFound || d.VariationID != "" {
		t.Errorf("BoolDetail = %+v", d)
	}
	if d := c.AllFlags(ann).Get("n", 0); d.Value != 7.0 {
		t.Errorf("AllFlags().Get = %+v", d)
	}
}

// sink keeps the events that it gets.
type sink struct {
	mu     sync.Mutex
	events []sdk.Event
	err    error
}

func (s *sink) Record(e sdk.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
}

func (s *sink) Flush(context.Context) error { return s.err }

func (s *sink) all() []sdk.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

// TestEventSink: a sink of one's own gets what FeatBit would have got, also
// offline, and only that.
func TestEventSink(t *testing.T) {
	s := &sink{}
	c := newClient(t, sdk.Config{Offline: true, Bootstrap: document(sampleItems()...), EventSink: s})
	ann := newUser(t, "ann")
	c.Bool("bool", ann, false)
	c.Bool("text", ann, false) // wrong type
	c.Bool("nope", ann, false)
	c.Bool("bool", nil, false)
	c.Identify(ann)
	c.Identify(nil)
	c.TrackMetrics(ann, map[string]float64{"b": 2.5, "a": 1, "": 3})
	c.TrackMetric(ann, "", 1)
	c.TrackMetric(nil, "a", 1)
	all := c.AllFlags(ann)
	for range all.All() {
	}
	all.Get("whole", nil)
	got := s.all()
	if len(got) != 4 {
		t.Fatalf("%d events: %+v", len(got), got)
	}
	for i, e := range got {
		if e.User != ann || time.Since(e.Time) > time.Minute {
			t.Errorf("event %d: %+v", i, e)
		}
	}
	if e := got[0]; e.Kind != sdk.EvaluationEvent || e.FlagKey != "bool" || e.VariationID != "a" || e.Value != "true" || e.Reason != sdk.ReasonFallthrough || !e.SendToExperiment {
		t.Errorf("evaluation = %+v", e)
	}
	if got[1].Kind != sdk.IdentifyEvent || got[3].FlagKey != "whole" {
		t.Errorf("events = %+v", got)
	}
	if e := got[2]; e.Kind != sdk.MetricEvent || !slices.Equal(e.Metrics, []sdk.Metric{{Name: "a", Value: 1}, {Name: "b", Value: 2.5}}) {
		t.Errorf("metrics = %+v", e)
	}
	s.err = errRead
	if err := c.Flush(t.Context()); !errors.Is(err, errRead) {
		t.Errorf("Flush = %v", err)
	}
	if err := c.Close(t.Context()); !errors.Is(err, errRead) {
		t.Errorf("Close = %v", err)
	}
	if err := c.Flush(t.Context()); !errors.Is(err, sdk.ErrClosed) {
		t.Errorf("Flush after Close = %v", err)
	}
}

// TestDataSource: a source of one's own feeds the client, its state is the
// client's, and its end is the end of news.
func TestDataSource(t *testing.T) {
	step := make(chan func(st sdk.DataStore, report func(sdk.State, error)))
	errEnd := errors.New("source is exhausted")
	c := newClient(t, sdk.Config{DataSource: func(ctx context.Context, st sdk.DataStore, report func(sdk.State, error)) error {
		for {
			select {
			case f := <-step:
				if f == nil {
					return errEnd
				}
				f(st, report)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}})
	ann := newUser(t, "ann")
	if c.Ready() || c.Status().State != sdk.Initializing {
		t.Errorf("Status() = %+v", c.Status())
	}
	items, err := sdk.ParseItems(document(sampleItems()...))
	if err != nil {
		t.Fatal(err)
	}
	step <- func(st sdk.DataStore, report func(sdk.State, error)) {
		if _, err := st.Apply(t.Context(), store.Change{Full: true, Items: items}); err != nil {
			t.Error(err)
		}
		report(sdk.OK, nil)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.WaitFor(ctx, sdk.OK); err != nil {
		t.Fatal(err)
	}
	if !c.Bool("bool", ann, false) || !c.Status().StaleSince.IsZero() {
		t.Errorf("Status() = %+v", c.Status())
	}
	before := time.Now()
	step <- func(_ sdk.DataStore, report func(sdk.State, error)) { report(sdk.Interrupted, errRead) }
	if err := c.WaitFor(ctx, sdk.Interrupted); err != nil {
		t.Fatal(err)
	}
	s := c.Status()
	d := c.BoolDetail("bool", ann, false)
	if !errors.Is(s.Err, errRead) || s.StaleSince.After(before) || s.StaleSince.IsZero() || !d.StaleSince.Equal(s.StaleSince) || d.Age() <= 0 || !d.Value {
		t.Errorf("Status() = %+v, detail %+v", s, d)
	}
	step <- func(_ sdk.DataStore, report func(sdk.State, error)) { report(sdk.OK, nil) }
	if err := c.WaitFor(ctx, sdk.OK); err != nil {
		t.Fatal(err)
	}
	if d := c.BoolDetail("bool", ann, false); !d.StaleSince.IsZero() || d.Age() != 0 {
		t.Errorf("detail after recovery: %+v", d)
	}
	step <- nil
	if err := c.WaitFor(ctx, sdk.Off); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitFor(ctx, sdk.OK); !errors.Is(err, errEnd) {
		t.Errorf("WaitFor(OK) of a client that is off = %v", err)
	}
	if !c.Bool("bool", ann, false) {
		t.Error("the flags are gone with the source")
	}
}

// TestSourceThatFailsFirst: nobody waits for what will not come.
func TestSourceThatFailsFirst(t *testing.T) {
	c := newClient(t, sdk.Config{
		StartWait:  time.Minute,
		DataSource: func(context.Context, sdk.DataStore, func(sdk.State, error)) error { return errRead },
	})
	if err := c.WaitReady(t.Context()); !errors.Is(err, errRead) {
		t.Errorf("WaitReady = %v", err)
	}
}

// TestStartWait: New returns when the first flags are there, or when it has
// waited, and says so in the log.
func TestStartWait(t *testing.T) {
	st := memory.New()
	defer st.Close()
	var out logged
	c := newClient(t, sdk.Config{Store: st, StartWait: 10 * time.Millisecond, Logger: out.logger()})
	if c.Ready() || !strings.Contains(out.String(), "started without flags") {
		t.Errorf("ready %t, logged %q", c.Ready(), out.String())
	}
	apply(t, st, true, sampleItems()...)
	if c := newClient(t, sdk.Config{Store: st, StartWait: time.Minute}); !c.Ready() {
		t.Error("not ready after New")
	}
}

func TestWaitForEnds(t *testing.T) {
	st := memory.New()
	defer st.Close()
	c := newClient(t, sdk.Config{Store: st})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if err := c.WaitFor(ctx, sdk.OK); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("WaitFor = %v", err)
	}
	result := make(chan error, 2)
	go func() { result <- c.WaitFor(context.Background(), sdk.OK) }()
	go func() { result <- c.WaitReady(context.Background()) }()
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-result; !errors.Is(err, sdk.ErrClosed) {
			t.Errorf("a waiter got %v", err)
		}
	}
}

// TestStaleWhileInterrupted: a direct client says since when it has not heard of
// FeatBit, and that ends when it does again.
func TestStaleWhileInterrupted(t *testing.T) {
	st := &failable{Store: memory.New()}
	defer st.Store.Close()
	apply(t, st.Store, true, sampleItems()...)
	c := newClient(t, sdk.Config{Store: st, Follow: store.FollowOptions{Interval: 5 * time.Millisecond, MaxBackoff: 5 * time.Millisecond}})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.WaitFor(ctx, sdk.OK); err != nil {
		t.Fatal(err)
	}
	st.fail(errRead)
	if err := c.WaitFor(ctx, sdk.Interrupted); err != nil {
		t.Fatal(err)
	}
	if s := c.Status(); s.StaleSince.IsZero() || !errors.Is(s.Err, errRead) {
		t.Errorf("Status() = %+v", s)
	}
	st.fail(nil)
	if err := c.WaitFor(ctx, sdk.OK); err != nil {
		t.Fatal(err)
	}
	if s := c.Status(); !s.StaleSince.IsZero() || s.Err != nil {
		t.Errorf("Status() = %+v", s)
	}
}

// failable is a store whose reads can fail.
type failable struct {
	*memory.Store
	mu  sync.Mutex
	err error
}

func (f *failable) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *failable) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	f.mu.Lock()
	err := f.err
	f.mu.Unlock()
	if err != nil {
		return store.Snapshot{}, err
	}
	return f.Store.Load(ctx, since)
}

// TestSnapshot: a snapshot stays as it was, its evaluations agree, and they are
// recorded.
func TestSnapshot(t *testing.T) {
	st := memory.New()
	defer st.Close()
	apply(t, st, true, sampleItems()...)
	s := &sink{}
	c := newClient(t, sdk.Config{Store: st, EventSink: s})
	waitReady(t, c)
	ann := newUser(t, "ann")
	frozen := c.Snapshot()
	apply(t, st, true, flagJSON("text", "string", "new", "x", "", 2))
	until(t, "new flags", func() bool { return !c.IsFlagKnown("bool") })
	if !frozen.Ready() || frozen.String("text", ann, "") != "one" || !frozen.Bool("bool", ann, false) || !frozen.Bool("member", ann, false) ||
		frozen.Int("whole", ann, 0) != 7 || frozen.Float64("number", ann, 0) != 2.5 || !frozen.IsFlagKnown("json") ||
		sdk.JSON(frozen, "json", ann, struct{ Size int }{}).Size != 3 || frozen.Variation("text", ann, "") != "one" {
		t.Error("a snapshot changed")
	}
	if d := frozen.AllFlags(ann).Get("text", ""); d.Value != "one" {
		t.Errorf("AllFlags of a snapshot: %+v", d)
	}
	if n := len(s.all()); n != 8 {
		t.Errorf("%d events, want 8", n)
	}
	var none sdk.Snapshot
	if d := none.BoolDetail("bool", ann, true); none.Ready() || !d.Value || d.Reason != sdk.ReasonNotReady || none.IsFlagKnown("bool") || none.AllFlags(ann).Err() == nil {
		t.Errorf("zero Snapshot: %+v", d)
	}
}

// static is a source of items that never change.
func static(items ...store.Item) sdk.DataSource {
	return func(ctx context.Context, st sdk.DataStore, report func(sdk.State, error)) error {
		if _, err := st.Apply(ctx, store.Change{Full: true, Items: items}); err != nil {
			return err
		}
		report(sdk.OK, nil)
		<-ctx.Done()
		return ctx.Err()
	}
}

// TestOKMeansVisible: when the state is OK the source's flags are those that are
// evaluated, although the store had them a moment earlier.
func TestOKMeansVisible(t *testing.T) {
	for range 20 {
		old := flagJSON("text", "string", "old", "x", "", 1)
		items := []store.Item{flagJSON("text", "string", "new", "x", "", 2)}
		for i := range 2000 {
			items = append(items, flagJSON(fmt.Sprint("f", i), "string", "a", "b", "", 1))
		}
		c := newClient(t, sdk.Config{Bootstrap: document(old), DataSource: static(items...)})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if err := c.WaitFor(ctx, sdk.OK); err != nil {
			t.Fatal(err)
		}
		cancel()
		if got := c.String("text", newUser(t, "ann"), ""); got != "new" {
			t.Fatalf("OK, and the value is %q", got)
		}
	}
}

// TestOffIsFinalAndHasItsReason, whatever the store says, and whatever the source
// says afterwards.
func TestOffIsFinalAndHasItsReason(t *testing.T) {
	st := &failable{Store: memory.New(), err: errors.New("the store is down")}
	defer st.Store.Close()
	c := newClient(t, sdk.Config{Store: st, DataSource: func(ctx context.Context, _ sdk.DataStore, report func(sdk.State, error)) error {
		report(sdk.Off, errRead)
		report(sdk.OK, nil)
		<-ctx.Done()
		return ctx.Err()
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := c.WaitFor(ctx, sdk.OK); !errors.Is(err, errRead) {
		t.Errorf("WaitFor = %v", err)
	}
	if err := c.WaitReady(ctx); !errors.Is(err, errRead) {
		t.Errorf("WaitReady = %v", err)
	}
	if s := c.Status(); s.State != sdk.Off || !errors.Is(s.Err, errRead) {
		t.Errorf("Status() = %+v", s)
	}
}

// TestSinkIsLeftAloneAfterClose: its owner may have closed it.
func TestSinkIsLeftAloneAfterClose(t *testing.T) {
	s := &sink{}
	c := newClient(t, sdk.Config{Offline: true, Bootstrap: document(sampleItems()...), EventSink: s})
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.err = errRead
	ann := newUser(t, "ann")
	if !c.Bool("bool", ann, false) {
		t.Error("the flags are gone")
	}
	c.Identify(ann)
	c.TrackMetric(ann, "m", 1)
	if err := c.Close(t.Context()); err != nil || len(s.all()) != 0 {
		t.Errorf("Close = %v, %d events", err, len(s.all()))
	}
}

// TestZeroUser is as bad as none.
func TestZeroUser(t *testing.T) {
	s := &sink{}
	c := newClient(t, sdk.Config{Offline: true, Bootstrap: document(sampleItems()...), EventSink: s})
	if d := c.BoolDetail("bool", new(sdk.User), false); d.Reason != sdk.ReasonBadUser {
		t.Errorf("%+v", d)
	}
	c.Identify(new(sdk.User))
	c.TrackMetric(new(sdk.User), "m", 1)
	if len(s.all()) != 0 {
		t.Errorf("events %+v", s.all())
	}
}
