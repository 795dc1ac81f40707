package otel_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/goleak"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/metrics"
	"github.com/flagstead/flagstead/metrics/otel"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/syncer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T) (*otel.Exporter, *sdkmetric.ManualReader) {
	t.Helper()
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	e := otel.New(provider.Meter("flagstead"))
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		if err := provider.Shutdown(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	return e, reader
}

// collect returns what was observed by name, and within that by attributes.
func collect(t *testing.T, reader *sdkmetric.ManualReader) (map[string]metricdata.Metrics, map[string]map[attribute.Distinct]float64) {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	kinds, values := map[string]metricdata.Metrics{}, map[string]map[attribute.Distinct]float64{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			kinds[m.Name] = m
			points := map[attribute.Distinct]float64{}
			switch data := m.Data.(type) {
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					points[p.Attributes.Equivalent()] = p.Value
				}
			case metricdata.Sum[float64]:
				if !data.IsMonotonic || data.Temporality != metricdata.CumulativeTemporality {
					t.Errorf("%s is no counter", m.Name)
				}
				for _, p := range data.DataPoints {
					points[p.Attributes.Equivalent()] = p.Value
				}
			default:
				t.Errorf("%s is a %T", m.Name, m.Data)
			}
			values[m.Name] = points
		}
	}
	return kinds, values
}

func key(labels metrics.Labels) attribute.Distinct {
	var list []attribute.KeyValue
	for name, value := range labels {
		list = append(list, attribute.String(name, value))
	}
	set := attribute.NewSet(list...)
	return set.Equivalent()
}

func TestEverythingThatMeasures(t *testing.T) {
	e, reader := start(t)
	for _, env := range []string{"prod", "test"} {
		st := memory.New()
		defer st.Close()
		secret, err := protocol.NewSecret(protocol.NewEnvID())
		if err != nil {
			t.Fatal(err)
		}
		s, err := syncer.New(syncer.Config{URL: "ws://127.0.0.1:1", Secret: secret, Store: st})
		if err != nil {
			t.Fatal(err)
		}
		r, err := relay.New(relay.Config{Store: st, Secrets: []relay.Secret{secret}})
		if err != nil {
			t.Fatal(err)
		}
		c, err := sdk.New(sdk.Config{Store: st, DisableEvents: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(t.Context())
		for _, source := range []metrics.Source{s, r, c} {
			if _, err := e.Add(source, metrics.Labels{"env": env}); err != nil {
				t.Fatal(err)
			}
		}
	}
	kinds, values := collect(t, reader)
	for name, unit := range map[string]string{"flagstead.syncer.connects": "", "flagstead.syncer.clock_skew": "s", "flagstead.relay.insight_requests": "", "flagstead.client.events_recorded": ""} {
		m, ok := kinds[name]
		if !ok || m.Unit != unit || m.Description == "" {
			t.Errorf("%s: %+v", name, m)
		}
		for _, env := range []string{"prod", "test"} {
			if _, ok := values[name][key(metrics.Labels{"env": env})]; !ok || len(values[name]) != 2 {
				t.Errorf("%s of %s: %v", name, env, values[name])
			}
		}
	}
	if _, sum := kinds["flagstead.syncer.connects"].Data.(metricdata.Sum[float64]); !sum {
		t.Error("a counter is no sum")
	}
	if _, gauge := kinds["flagstead.syncer.state"].Data.(metricdata.Gauge[float64]); !gauge {
		t.Error("a gauge is none")
	}
}

// list is a source that a test changes.
type list struct {
	mu     sync.Mutex
	all    []metrics.Measurement
	groups []metrics.Group
}

func (l *list) Metrics() []metrics.Measurement { l.mu.Lock(); defer l.mu.Unlock(); return l.all }
func (l *list) MetricGroups() []metrics.Group  { l.mu.Lock(); defer l.mu.Unlock(); return l.groups }
func (l *list) add(m metrics.Measurement) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all[:len(l.all):len(l.all)], m)
}

// TestComesAndGoes: a number that is known later is observed later, and one of a
// source that was removed no more.
func TestComesAndGoes(t *testing.T) {
	e, reader := start(t)
	a, b := &list{}, &list{}
	a.add(metrics.Measurement{Name: "flagstead_x_events_total", Help: "Events.", Counter: true, Value: 7})
	b.add(metrics.Measurement{Name: "flagstead_x_events_total", Help: "Events.", Counter: true, Value: 9})
	b.groups = []metrics.Group{{Labels: metrics.Labels{"env": "g"}, Measurements: []metrics.Measurement{{Name: "flagstead_x_of_group", Help: "G.", Value: 2}}}}
	if _, err := e.Add(a, metrics.Labels{"env": "a"}); err != nil {
		t.Fatal(err)
	}
	remove, err := e.Add(b, metrics.Labels{"env": "b"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Add(&list{all: a.all}, metrics.Labels{"env": "a"}); err != nil { // the same series once more
		t.Fatal(err)
	}
	_, values := collect(t, reader)
	events := values["flagstead.x.events"]
	if len(events) != 2 || events[key(metrics.Labels{"env": "a"})] != 7 || events[key(metrics.Labels{"env": "b"})] != 9 {
		t.Errorf("events: %v", events)
	}
	if g := values["flagstead.x.of_group"]; len(g) != 1 || g[key(metrics.Labels{"env": "g"})] != 2 {
		t.Errorf("of a group: %v", g)
	}
	remove()
	remove()
	a.add(metrics.Measurement{Name: "flagstead_x_age_seconds", Help: "Age.", Value: 1.5})
	deadline := time.Now().Add(20 * time.Second)
	for {
		_, values = collect(t, reader)
		if age := values["flagstead.x.age"]; age[key(metrics.Labels{"env": "a"})] == 1.5 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("never observed: %v (%v)", values, e.Err())
		}
	}
	if events := values["flagstead.x.events"]; len(events) != 1 {
		t.Errorf("after remove: %v", events)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if _, values = collect(t, reader); len(values) != 0 {
		t.Errorf("after Close: %v", values)
	}
	if _, err := e.Add(a, nil); !errors.Is(err, otel.ErrClosed) {
		t.Errorf("Add after Close: %v", err)
	}
	if _, err := e.Add(a, metrics.Labels{"BAD": ""}); !errors.Is(err, metrics.ErrLabels) {
		t.Errorf("bad labels: %v", err)
	}
}

// A name that the meter refuses is an error of Add if it is known then, of Err if
// it comes later, and harms no other number.
func TestNameThatCannotBe(t *testing.T) {
	e, reader := start(t)
	bad := &list{all: []metrics.Measurement{{Name: "9lives", Help: "x"}}}
	if _, err := e.Add(bad, nil); err == nil {
		t.Error("Add took it")
	}
	good := &list{}
	good.add(metrics.Measurement{Name: "flagstead_x_fine", Help: "x", Value: 1})
	if _, err := e.Add(good, nil); err != nil {
		t.Fatal(err)
	}
	good.add(metrics.Measurement{Name: "9lives", Help: "x"})
	deadline := time.Now().Add(20 * time.Second)
	for e.Err() == nil {
		if time.Now().After(deadline) {
			t.Fatal("Err says nothing")
		}
		if _, values := collect(t, reader); len(values) != 1 {
			t.Fatalf("%v", values)
		}
	}
}

func TestConcurrent(t *testing.T) {
	e, reader := start(t)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 30 {
				l := &list{}
				l.add(metrics.Measurement{Name: fmt.Sprintf("flagstead_x_n%d", j%5), Help: "N.", Value: 1})
				remove, err := e.Add(l, metrics.Labels{"env": fmt.Sprint(i)})
				if err != nil {
					t.Error(err)
					return
				}
				collect(t, reader)
				remove()
			}
		})
	}
	wg.Wait()
}

func TestName(t *testing.T) {
	for name, want := range map[string][2]string{
		"flagstead_syncer_connects_total":   {"flagstead.syncer.connects", ""},
		"flagstead_client_data_age_seconds": {"flagstead.client.data_age", "s"},
		"flagstead_spool_size_bytes":        {"flagstead.spool.size", "By"},
		"flagstead_relay_sent_bytes_total":  {"flagstead.relay.sent", "By"},
		"plain":                             {"plain", ""},
	} {
		if dotted, unit := otel.Name(name); dotted != want[0] || unit != want[1] {
			t.Errorf("%s: %s, %s", name, dotted, unit)
		}
	}
}
