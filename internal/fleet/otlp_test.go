package fleet

import (
	"bytes"
	"compress/gzip"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/protobuf/proto"
)

// A collector is what OTLP is sent to.
type collector struct {
	*httptest.Server
	answer atomic.Int32 // if not 200

	mu       sync.Mutex
	paths    map[string]bool
	headers  http.Header
	resource map[string]string
	metrics  map[string]*metricspb.Metric // by name; the newest
	requests int
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{paths: map[string]bool{}, metrics: map[string]*metricspb.Metric{}}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body io.Reader = r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(body)
			if err != nil {
				t.Error(err)
				return
			}
			body = z
		}
		text, err := io.ReadAll(body)
		if err != nil {
			t.Error(err)
			return
		}
		var req collectorpb.ExportMetricsServiceRequest
		if err := proto.Unmarshal(text, &req); err != nil || r.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%s: no OTLP: %v", r.Header.Get("Content-Type"), err)
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.requests++
		if code := c.answer.Load(); code != 0 {
			http.Error(w, "you sent me "+r.Header.Get("Api-Key"), int(code))
			return
		}
		c.paths[r.URL.Path], c.headers = true, r.Header
		for _, rm := range req.ResourceMetrics {
			c.resource = texts(rm.Resource.Attributes)
			for _, scope := range rm.ScopeMetrics {
				for _, m := range scope.Metrics {
					c.metrics[m.Name] = m
				}
			}
		}
	}))
	t.Cleanup(c.Close)
	return c
}

func texts(list []*commonpb.KeyValue) map[string]string {
	m := map[string]string{}
	for _, kv := range list {
		m[kv.Key] = kv.Value.GetStringValue()
	}
	return m
}

// value returns what is known of one series, and of which kind it is.
func (c *collector) value(name, env string) (kind string, value float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.metrics[name]
	var points []*metricspb.NumberDataPoint
	switch {
	case m.GetGauge() != nil:
		kind, points = "gauge", m.GetGauge().DataPoints
	case m.GetSum() != nil:
		kind, points = "sum", m.GetSum().DataPoints
		if m.GetSum().IsMonotonic && m.GetSum().AggregationTemporality == metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE {
			kind = "counter"
		}
	}
	for _, p := range points {
		if texts(p.Attributes)["env"] == env {
			return kind, p.GetAsDouble()
		}
	}
	return "", 0
}

func (c *collector) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.requests
}

// A lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newLog() (*slog.Logger, *lockedBuffer) {
	b := &lockedBuffer{}
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug})), b
}

// noOTel takes away the variables of whoever runs the tests.
func noOTel(t *testing.T) {
	t.Helper()
	for _, name := range []string{
		"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL",
		"OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
		"OTEL_METRICS_EXPORTER", "OTEL_SDK_DISABLED", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES",
		"OTEL_EXPORTER_OTLP_COMPRESSION", "OTEL_EXPORTER_OTLP_CERTIFICATE", "OTEL_METRIC_EXPORT_INTERVAL",
		"OTEL_METRIC_EXPORT_TIMEOUT", "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
	} {
		t.Setenv(name, "")
	}
}

const soon = "20" // ms

func TestOTLP(t *testing.T) {
	noOTel(t)
	t.Setenv("OTEL_METRIC_EXPORT_INTERVAL", soon)
	p, c := newPlatform(t, "prod", "test"), newCollector(t)
	cfg := p.config(t, t.TempDir(), "prod", "test")
	cfg.Metrics = Metrics{OTLP: c.URL, Headers: map[string]string{"api-key": "hush-hush"}}
	log, text := newLog()
	f := startLogging(t, complete(t, cfg), openStores, log)

	for _, want := range []struct {
		name, env, kind string
		value           float64
	}{
		{"flagstead.ready", "", "gauge", 1},
		{"flagstead.environments", "", "gauge", 2},
		{"flagstead.config.reloads", "", "counter", 0},
		{"flagstead.syncer.connects", "prod", "counter", 1},
		{"flagstead.syncer.connects", "test", "counter", 1},
	} {
		eventually(t, want.name+" of "+want.env, func() bool {
			kind, value := c.value(want.name, want.env)
			return kind == want.kind && value == want.value
		})
	}

	// What happened last is sent at the end.
	before := cfg.Clone()
	f.Reload(before)
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	if _, value := c.value("flagstead.config.reloads", ""); value != 1 {
		t.Errorf("after the end %v reloads are known", value)
	}
	// Names are those of OpenTelemetry.
	if len(c.metrics) < 20 {
		t.Errorf("only %v", slices.Sorted(maps.Keys(c.metrics)))
	}
	for name := range c.metrics {
		if !strings.HasPrefix(name, "flagstead.") || strings.HasSuffix(name, "_total") {
			t.Errorf("a metric is called %s", name)
		}
	}
	if !c.paths["/v1/metrics"] || len(c.paths) != 1 {
		t.Errorf("sent to %v", c.paths)
	}
	if c.headers.Get("Api-Key") != "hush-hush" {
		t.Error("the header was not sent")
	}
	if c.resource["service.name"] != "flagstead" || c.resource["service.version"] != "test" || !strings.Contains(c.resource["service.instance.id"], "-") {
		t.Errorf("the resource is %v", c.resource)
	}
	if strings.Contains(text.String(), "hush") {
		t.Error("the log has the header's value")
	}
}

// TestOTLPLastNumbers: a process that ends before its first interval does so with its
// numbers sent.
func TestOTLPLastNumbers(t *testing.T) {
	noOTel(t)
	p, c := newPlatform(t, "prod"), newCollector(t)
	cfg := p.config(t, t.TempDir(), "prod")
	cfg.Metrics = Metrics{OTLP: c.URL + "/v1/metrics/", Interval: Duration(time.Hour)}
	f := start(t, complete(t, cfg))
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	if kind, value := c.value("flagstead.environments", ""); kind != "gauge" || value != 1 || c.count() != 1 {
		t.Errorf("%s %v in %d requests", kind, value, c.count())
	}
}

func TestOTLPByVariables(t *testing.T) {
	for name, tc := range map[string]struct {
		vars    map[string]string // URL stands for the collector's
		otlp    string            // of the file
		path    string            // "": nothing is sent
		service string
		header  string
		says    string
	}{
		"nothing": {},
		"a base": {
			vars: map[string]string{
				"OTEL_EXPORTER_OTLP_ENDPOINT": "URL/base", "OTEL_SERVICE_NAME": "ours",
				"OTEL_EXPORTER_OTLP_HEADERS": "api-key=hush%20hush", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
			},
			path: "/base/v1/metrics", service: "ours", header: "hush hush",
		},
		"an own one": {
			vars: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "URL/own"},
			path: "/own", service: "flagstead",
		},
		"the file first": {
			vars: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
			otlp: "URL", path: "/v1/metrics", service: "flagstead",
		},
		"off":          {vars: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "URL"}, otlp: "off"},
		"disabled":     {vars: map[string]string{"OTEL_SDK_DISABLED": "true"}, otlp: "URL"},
		"another":      {vars: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "URL", "OTEL_METRICS_EXPORTER": "none"}},
		"gRPC":         {vars: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "URL", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, says: "not http/protobuf"},
		"no URL":       {vars: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://me:hush@here"}, says: "OTEL_EXPORTER_OTLP_ENDPOINT: a user"},
		"a bad header": {vars: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "URL", "OTEL_EXPORTER_OTLP_HEADERS": "hush"}, path: "/v1/metrics", service: "flagstead", says: "parse headers"},
	} {
		t.Run(name, func(t *testing.T) {
			noOTel(t)
			c := newCollector(t)
			for name, value := range tc.vars {
				t.Setenv(name, strings.Replace(value, "URL", c.URL, 1))
			}
			log, text := newLog()
			cfg := &Config{
				Admin: Admin{Listen: "127.0.0.1:0"}, Metrics: Metrics{OTLP: strings.Replace(tc.otlp, "URL", c.URL, 1)},
				Environments: []Environment{{Name: "a", Sync: new(bool), Settings: Settings{Store: MemoryStore}}},
			}
			f := startLogging(t, complete(t, cfg), openStores, log)
			if err := f.stop(); err != nil { // which sends
				t.Fatal(err)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			if tc.path == "" && c.requests != 0 {
				t.Errorf("sent to %v", c.paths)
			}
			if tc.path != "" && !c.paths[tc.path] {
				t.Errorf("sent to %v\n%s", c.paths, text)
			}
			if c.resource["service.name"] != tc.service || c.headers.Get("Api-Key") != tc.header {
				t.Errorf("of %v with %q", c.resource, c.headers.Get("Api-Key"))
			}
			if tc.says != "" && !strings.Contains(text.String(), tc.says) || strings.Contains(text.String(), "hush") {
				t.Errorf("the log is\n%s", text)
			}
		})
	}
}

// TestOTLPOutage: whatever a collector does is logged once, does not show what it was
// sent, and ends when it is well again.
func TestOTLPOutage(t *testing.T) {
	noOTel(t)
	t.Setenv("OTEL_METRIC_EXPORT_INTERVAL", soon)
	c := newCollector(t)
	c.answer.Store(http.StatusUnauthorized)
	log, text := newLog()
	cfg := &Config{
		Admin: Admin{Listen: "127.0.0.1:0"}, Metrics: Metrics{OTLP: c.URL + "/token-hush", Headers: map[string]string{"Api-Key": "hush-hush"}},
		Environments: []Environment{{Name: "a", Sync: new(bool), Settings: Settings{Store: MemoryStore}}},
	}
	startLogging(t, complete(t, cfg), openStores, log)
	const down, up = "metrics cannot be exported", "metrics are exported again"
	eventually(t, "some requests", func() bool { return c.count() >= 3 })
	eventually(t, "a warning", func() bool { return strings.Contains(text.String(), "it answers 401") })
	c.answer.Store(0)
	eventually(t, "the end of the outage", func() bool { return strings.Contains(text.String(), up) })
	if n := strings.Count(text.String(), down); n != 1 {
		t.Errorf("%d warnings", n)
	}
	c.answer.Store(http.StatusForbidden)
	eventually(t, "another outage", func() bool { return strings.Contains(text.String(), "it answers 403") })
	if strings.Count(text.String(), "level=WARN") != 2 || strings.Contains(text.String(), "hush") {
		t.Errorf("the log is\n%s", text)
	}
}

// TestOTLPDelaysNothing: nobody waits for a collector that is down or does not answer.
func TestOTLPDelaysNothing(t *testing.T) {
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	asked := make(chan struct{}, 100)
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	defer slow.Close()
	busy := newCollector(t)
	busy.answer.Store(http.StatusServiceUnavailable)
	for name, tc := range map[string]struct{ url, says string }{
		"down": {"http://" + nobody.Addr().String(), "refused"},
		"slow": {slow.URL, "no answer in time"},
		"busy": {busy.URL, "it answers 429, 502, 503 or 504"},
	} {
		t.Run(name, func(t *testing.T) {
			noOTel(t)
			t.Setenv("OTEL_METRIC_EXPORT_INTERVAL", soon)
			log, text := newLog()
			cfg := &Config{
				Admin: Admin{Listen: "127.0.0.1:0"}, Metrics: Metrics{OTLP: tc.url},
				Environments: []Environment{{Name: "a", Sync: new(bool), Settings: Settings{Store: MemoryStore}}},
			}
			begin := time.Now()
			f := startLogging(t, complete(t, cfg), openStores, log)
			if took := time.Since(begin); took > flushPatience {
				t.Errorf("started after %v", took)
			}
			switch name {
			case "down":
				eventually(t, "a warning", func() bool { return strings.Contains(text.String(), tc.says) })
			case "slow":
				<-asked // and is in the middle of it
			case "busy":
				eventually(t, "a request", func() bool { return busy.count() > 0 })
			}
			if code, _ := f.get(t, "/health/readiness"); code != http.StatusOK {
				t.Errorf("readiness is %d", code)
			}
			begin = time.Now()
			if err := f.stop(); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begin); took > 2*flushPatience {
				t.Errorf("ended after %v", took)
			}
			if strings.Count(text.String(), "level=WARN") != 1 || !strings.Contains(text.String(), tc.says) {
				t.Errorf("the log is\n%s", text)
			}
		})
	}
}

func TestOTLPReload(t *testing.T) {
	noOTel(t)
	p, c := newPlatform(t, "prod"), newCollector(t)
	dir := t.TempDir()
	f := start(t, p.config(t, dir, "prod"))
	changed := p.config(t, dir, "prod")
	changed.Metrics = Metrics{OTLP: c.URL}
	if restart := f.Reload(complete(t, changed)); !slices.Equal(restart, []string{"metrics"}) {
		t.Errorf("a restart is needed for %q", restart)
	}
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	if c.count() != 0 {
		t.Error("metrics were sent without a restart")
	}
}
