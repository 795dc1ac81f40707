package sdk_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
)

// An outbox is a memory store's, whose answers get lost at times.
type outbox struct {
	*memory.Store
	lose, refuse atomic.Int32 // answers to lose, calls to refuse
	calls        atomic.Int32
}

var errLost = errors.New("the answer is lost")

func (o *outbox) AppendEvents(ctx context.Context, events []store.Event) error {
	o.calls.Add(1)
	if o.refuse.Add(-1) >= 0 {
		return errLost
	}
	err := o.Store.AppendEvents(ctx, events)
	if err == nil && o.lose.Add(-1) >= 0 {
		err = errLost
	}
	return err
}

func (o *outbox) insights(t *testing.T) []protocol.Insight {
	t.Helper()
	events, err := o.ReadEvents(t.Context(), "c", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var list []protocol.Insight
	for _, e := range events {
		var in protocol.Insight
		if err := json.Unmarshal(e.Data, &in); err != nil {
			t.Fatalf("%s: %v", e.Data, err)
		}
		list = append(list, in)
	}
	return list
}

func filled(t *testing.T) *memory.Store {
	t.Helper()
	st := memory.New()
	t.Cleanup(func() { st.Close() })
	if _, err := st.Apply(t.Context(), store.Change{Full: true, Items: sampleItems()}); err != nil {
		t.Fatal(err)
	}
	return st
}

// happen makes an event of each kind.
func happen(t *testing.T, c *sdk.Client) {
	t.Helper()
	ann := newUser(t, "ann")
	c.Bool("bool", ann, false)
	c.Identify(ann)
	c.TrackMetrics(ann, map[string]float64{"b": 2.5, "a": 1})
}

// TestOutboxEvents: an outbox gets what FeatBit would have got, each event once,
// also if answers are lost.
func TestOutboxEvents(t *testing.T) {
	var got []protocol.Insight
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var list []protocol.Insight
		if err := json.Unmarshal(body, &list); err != nil {
			t.Error(err)
		}
		got = append(got, list...)
	}))
	defer server.Close()
	secret, err := protocol.NewSecret(protocol.NewEnvID())
	if err != nil {
		t.Fatal(err)
	}
	direct := newClient(t, sdk.Config{Store: filled(t), StartWait: time.Minute, EventURL: server.URL, EnvSecret: secret})
	happen(t, direct)
	if err := direct.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}

	o := &outbox{Store: filled(t)}
	o.lose.Store(2)
	o.refuse.Store(1)
	c := newClient(t, sdk.Config{Store: o.Store, StartWait: time.Minute, Outbox: o, EventRetryInterval: time.Millisecond})
	happen(t, c)
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	handed := o.insights(t)
	for _, list := range [][]protocol.Insight{got, handed} {
		slices.SortFunc(list, func(a, b protocol.Insight) int { // each processor has a buffer of its own
			return cmp.Or(cmp.Compare(len(a.Variations), len(b.Variations)), cmp.Compare(len(a.Metrics), len(b.Metrics)))
		})
		for i := range list {
			for j := range list[i].Variations {
				list[i].Variations[j].Timestamp = 0
			}
			for j := range list[i].Metrics {
				list[i].Metrics[j].Timestamp = 0
			}
		}
	}
	if len(handed) != 3 || !reflect.DeepEqual(got, handed) {
		t.Errorf("the outbox has\n%+v\nFeatBit got\n%+v", handed, got)
	}
	if st := c.EventStats(); st.Recorded != 3 || st.Delivered != 3 || st.Retries != 3 || o.calls.Load() != 4 {
		t.Errorf("%+v after %d calls", st, o.calls.Load())
	}
}

// TestOutboxCounts: what an outbox does not take is counted.
func TestOutboxCounts(t *testing.T) {
	o := &outbox{Store: filled(t)}
	c := newClient(t, sdk.Config{Store: o.Store, StartWait: time.Minute, Outbox: o, EventRetryInterval: time.Millisecond, EventAttempts: 3})
	large, err := sdk.NewUser("large", sdk.String("x", strings.Repeat("x", store.MaxEventBytes)))
	if err != nil {
		t.Fatal(err)
	}
	c.Identify(large)
	happen(t, c)
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := c.EventStats(); st.Recorded != 4 || st.Delivered != 3 || st.Failed != 1 {
		t.Errorf("with an event that is too large: %+v", st)
	}
	o.refuse.Store(1000)
	happen(t, c)
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := c.EventStats(); st.Recorded != 7 || st.Delivered != 3 || st.Failed != 4 || st.Pending != 0 {
		t.Errorf("with an outbox that is away: %+v", st)
	}
	if n := len(o.insights(t)); n != 3 {
		t.Errorf("%d events are in the outbox", n)
	}
}

func TestOutboxConfig(t *testing.T) {
	st := filled(t)
	for want, cfg := range map[string]sdk.Config{
		"both Outbox and EventSink": {Store: st, Outbox: st, EventSink: &sink{}},
		"both Outbox and EventURL":  {Store: st, Outbox: st, EventURL: "https://featbit.example"},
	} {
		if _, err := sdk.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New = %v, want %q", err, want)
		}
	}
	for _, cfg := range []sdk.Config{
		{Store: st, Outbox: st, DisableEvents: true}, {Store: st, Outbox: st, Offline: true},
	} {
		c := newClient(t, cfg)
		happen(t, c)
		if st := c.EventStats(); st.Recorded != 0 {
			t.Errorf("%+v", st)
		}
	}
}
