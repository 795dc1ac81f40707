package prometheus_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	prom "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/metrics"
	"github.com/flagstead/flagstead/metrics/prometheus"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/syncer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scrape asks as Prometheus does and returns the families by name, and the text.
func scrape(t *testing.T, c prom.Collector) (map[string]*dto.MetricFamily, string) {
	t.Helper()
	registry := prom.NewPedanticRegistry()
	registry.MustRegister(c)
	srv := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	defer srv.Close()
	resp, err := http.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d, %v: %s", resp.StatusCode, err, body)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(body)))
	if err != nil {
		t.Fatalf("%v in:\n%s", err, body)
	}
	return families, string(body)
}

// value returns one number by its name and labels.
func value(t *testing.T, families map[string]*dto.MetricFamily, name string, labels metrics.Labels) (float64, bool) {
	t.Helper()
	for _, m := range families[name].GetMetric() {
		same := len(m.GetLabel()) == len(labels)
		for _, l := range m.GetLabel() {
			same = same && labels[l.GetName()] == l.GetValue()
		}
		if same {
			return m.GetCounter().GetValue() + m.GetGauge().GetValue(), true
		}
	}
	return 0, false
}

func secret(t *testing.T) syncer.Secret {
	t.Helper()
	s, err := protocol.NewSecret(protocol.NewEnvID())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// parts returns one of each part of Flagstead that measures.
func parts(t *testing.T) (*syncer.Syncer, *relay.Relay, *sdk.Client) {
	t.Helper()
	st := memory.New()
	t.Cleanup(func() { st.Close() })
	key := secret(t)
	s, err := syncer.New(syncer.Config{URL: "ws://127.0.0.1:1", Secret: key, Store: st})
	if err != nil {
		t.Fatal(err)
	}
	r, err := relay.New(relay.Config{Store: st, Secrets: []relay.Secret{key}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := sdk.New(sdk.Config{Store: st, DisableEvents: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(t.Context()) })
	return s, r, c
}

// TestScrape scrapes many environments and everything that measures from one
// registry, by HTTP, and has the answer checked by Prometheus' own rules.
func TestScrape(t *testing.T) {
	c := prometheus.New()
	for _, env := range []string{"prod", "test"} {
		s, r, client := parts(t)
		for _, source := range []metrics.Source{s, r, client} {
			if _, err := c.Add(source, metrics.Labels{"env": env, "store": "memory"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	families, text := scrape(t, c)
	for name, family := range families {
		want := 2
		if name == prometheus.LeftOut {
			want = 1
		}
		if len(family.GetMetric()) != want || family.GetHelp() == "" {
			t.Errorf("%s: %d series, help %q", name, len(family.GetMetric()), family.GetHelp())
		}
		for _, line := range []string{"# HELP " + name + " ", "# TYPE " + name + " "} {
			if n := strings.Count(text, line); n != 1 {
				t.Errorf("%q is there %d times", line, n)
			}
		}
		if counter := family.GetType() == dto.MetricType_COUNTER; counter != strings.HasSuffix(name, "_total") {
			t.Errorf("%s is a %v", name, family.GetType())
		}
	}
	for _, name := range []string{"flagstead_syncer_connects_total", "flagstead_relay_connections", "flagstead_client_flags"} {
		if _, ok := value(t, families, name, metrics.Labels{"env": "test", "store": "memory"}); !ok {
			t.Errorf("no %s for test", name)
		}
	}
	if n, ok := value(t, families, prometheus.LeftOut, nil); !ok || n != 0 {
		t.Errorf("%v numbers were left out", n)
	}
	registry := prom.NewPedanticRegistry()
	registry.MustRegister(c)
	problems, err := testutil.GatherAndLint(registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v %v", problems, err)
	}
}

// counts is a source whose number a test sets.
type counts struct {
	name    string
	counter bool
	value   float64
	groups  []metrics.Group
}

func (c *counts) Metrics() []metrics.Measurement {
	return []metrics.Measurement{{Name: c.name, Help: "Of " + c.name + ".", Counter: c.counter, Value: c.value}}
}

func (c *counts) MetricGroups() []metrics.Group { return c.groups }

func TestAddAndRemove(t *testing.T) {
	c := prometheus.New()
	a, b := &counts{name: "a_total", counter: true, value: 3}, &counts{name: "a_total", counter: true, value: 4}
	removeA, err := c.Add(a, metrics.Labels{"env": "a"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Add(b, metrics.Labels{"env": "b"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Add(b, metrics.Labels{"Env": "b"}); !errors.Is(err, metrics.ErrLabels) {
		t.Errorf("bad labels: %v", err)
	}
	families, _ := scrape(t, c)
	va, _ := value(t, families, "a_total", metrics.Labels{"env": "a"})
	vb, _ := value(t, families, "a_total", metrics.Labels{"env": "b"})
	if va != 3 || vb != 4 {
		t.Errorf("%v and %v", va, vb)
	}
	removeA()
	removeA()
	families, _ = scrape(t, c)
	if _, ok := value(t, families, "a_total", metrics.Labels{"env": "a"}); ok || len(families["a_total"].GetMetric()) != 1 {
		t.Errorf("after remove: %v", families["a_total"])
	}
	// The one that was removed comes back, as after a reload.
	if _, err := c.Add(a, metrics.Labels{"env": "a"}); err != nil {
		t.Fatal(err)
	}
	if families, _ = scrape(t, c); len(families["a_total"].GetMetric()) != 2 {
		t.Errorf("after adding again: %v", families["a_total"])
	}
}

// A mistake costs the number that it is about, not the scrape, and is told.
func TestLeftOut(t *testing.T) {
	c := prometheus.New()
	for _, add := range []struct {
		source *counts
		labels metrics.Labels
	}{
		{&counts{name: "twice", value: 1}, nil},
		{&counts{name: "twice", value: 2}, nil},                                     // the same series
		{&counts{name: "twice", value: 3, counter: true}, metrics.Labels{"x": "y"}}, // another type
		{&counts{name: "bad name", value: 4}, nil},
		{&counts{name: "fine", value: 5, groups: []metrics.Group{
			{Labels: metrics.Labels{"env": "g"}, Measurements: []metrics.Measurement{{Name: "of_group", Help: "x.", Value: 6}}},
			{Labels: metrics.Labels{"BAD": "g"}, Measurements: []metrics.Measurement{{Name: "of_bad_group", Help: "x.", Value: 7}}},
		}}, metrics.Labels{"host": "h"}},
		{&counts{name: prometheus.LeftOut, value: 8}, nil},
	} {
		if _, err := c.Add(add.source, add.labels); err != nil {
			t.Fatal(err)
		}
	}
	families, _ := scrape(t, c)
	if n, _ := value(t, families, prometheus.LeftOut, nil); n != 5 {
		t.Errorf("%v were left out, want 5", n)
	}
	for name, want := range map[string]float64{"twice": 1, "fine": 5, "of_group": 6} {
		labels := map[string]metrics.Labels{"fine": {"host": "h"}, "of_group": {"host": "h", "env": "g"}}[name]
		if got, ok := value(t, families, name, labels); !ok || got != want {
			t.Errorf("%s = %v (%v), want %v", name, got, ok, want)
		}
	}
}

func TestConcurrentAddRemoveScrape(t *testing.T) {
	c := prometheus.New()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 50 {
				remove, err := c.Add(&counts{name: "n", value: 1}, metrics.Labels{"env": fmt.Sprint(i)})
				if err != nil {
					t.Error(err)
					return
				}
				if n := testutil.CollectAndCount(c, "n"); n < 1 || n > 4 {
					t.Errorf("%d series", n)
				}
				remove()
			}
		})
	}
	wg.Wait()
	if n := testutil.CollectAndCount(c, "n"); n != 0 {
		t.Errorf("%d series are left", n)
	}
}

func Example() {
	st := memory.New()
	defer st.Close()
	key, err := protocol.NewSecret(protocol.NewEnvID())
	if err != nil {
		fmt.Println(err)
		return
	}
	r, err := relay.New(relay.Config{Store: st, Secrets: []relay.Secret{key}})
	if err != nil {
		fmt.Println(err)
		return
	}
	collector := prometheus.New()
	remove, err := collector.Add(r, metrics.Labels{"env": "prod"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer remove()
	registry := prom.NewRegistry()
	registry.MustRegister(collector)
	srv := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	defer srv.Close()

	resp, err := http.Get(srv.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	for line := range strings.Lines(string(body)) {
		if strings.Contains(line, "flagstead_relay_ready") {
			fmt.Print(line)
		}
	}
	// Output:
	// # HELP flagstead_relay_ready Whether there is data to serve.
	// # TYPE flagstead_relay_ready gauge
	// flagstead_relay_ready{env="prod"} 0
}
