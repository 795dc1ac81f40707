package fleet

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	otelapi "go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	"golang.org/x/net/http/httpguts"

	"github.com/flagstead/flagstead/metrics/otel"
)

// Metrics says where the numbers are sent to, besides being shown to Prometheus.
// What is not set is what OpenTelemetry's environment variables say.
type Metrics struct {
	OTLP     string            `yaml:"otlp"`     // http(s) URL of a collector; empty: that of OTEL_EXPORTER_OTLP_ENDPOINT; "off": nowhere
	Interval Duration          `yaml:"interval"` // unset: OTEL_METRIC_EXPORT_INTERVAL, or 60s
	Headers  map[string]string `yaml:"headers"`  // of each request; secret
}

const (
	// minInterval keeps an interval that was written in the wrong unit from becoming
	// a load.
	minInterval = time.Second

	// flushPatience is how long the last numbers may delay the end.
	flushPatience = 3 * time.Second

	metricsPath = "/v1/metrics"
)

func (m Metrics) check() error {
	if m.OTLP != "" && m.OTLP != "off" {
		if _, err := collectorURL(m.OTLP, true); err != nil {
			return fmt.Errorf("otlp: %w", err)
		}
	}
	if m.Interval != 0 && time.Duration(m.Interval) < minInterval {
		return fmt.Errorf("interval: %v is below %v", time.Duration(m.Interval), minInterval)
	}
	for name, value := range m.Headers {
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			return fmt.Errorf("headers: %q is no name of a header", name)
		case !httpguts.ValidHeaderFieldValue(value):
			return fmt.Errorf("headers: the value of %q cannot be sent", name)
		}
	}
	return nil
}

// collectorURL reads a collector's address. For a base, as OpenTelemetry calls what
// is one for all signals, it has the path for metrics added.
func collectorURL(text string, base bool) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, errors.New("it is not a URL")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, errors.New("want http://HOST:PORT or https://HOST:PORT")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("a user, a password or a query in the URL is not sent; use headers")
	}
	if base && !strings.HasSuffix(strings.TrimSuffix(u.Path, "/"), metricsPath) {
		u.Path = path.Join("/", u.Path, metricsPath)
	}
	return u, nil
}

// An export sends the numbers to a collector of OpenTelemetry. A nil export sends
// nothing. It is an exporter itself, so as to hear how that goes.
type export struct {
	sdkmetric.Exporter

	log       *slog.Logger
	collector string // without what may be secret
	interval  time.Duration
	resource  *resource.Resource
	version   string

	provider *sdkmetric.MeterProvider // after start
	numbers  *otel.Exporter

	mu   sync.Mutex
	down bool // and the log says so
}

// newExport returns nil if nothing is to be sent. What is wrong in the file is an
// error; what is wrong in the environment, which is often that of a whole cluster, is
// logged.
func newExport(f *Fleet, cfg *Config) (*export, error) {
	u := cfg.Metrics.collector(f.log)
	if u == nil {
		return nil, nil
	}
	x := &export{
		log: f.log, version: f.opts.Version, interval: time.Duration(cfg.Metrics.Interval),
		collector: (&url.URL{Scheme: u.Scheme, Host: u.Host}).String(),
	}
	// OpenTelemetry's own log would have values of variables in it.
	otelapi.SetLogger(logr.New(quiet{x.log}))
	otelapi.SetErrorHandler(otelapi.ErrorHandlerFunc(func(err error) { x.note(err) }))

	o := []otlpmetrichttp.Option{otlpmetrichttp.WithEndpointURL(u.String())}
	if len(cfg.Metrics.Headers) > 0 {
		o = append(o, otlpmetrichttp.WithHeaders(cfg.Metrics.Headers))
	}
	var err error
	if x.Exporter, err = otlpmetrichttp.New(context.Background(), o...); err != nil { // does not connect
		if cfg.Metrics.OTLP == "" {
			f.log.Warn("metrics are not exported", "error", "OTEL_EXPORTER_OTLP_ENDPOINT and the variables with it contradict each other")
			return nil, nil
		}
		return nil, fmt.Errorf("metrics.otlp: %w", err)
	}
	x.resource = f.resource()
	return x, nil
}

// collector returns where the numbers go, or nil.
func (m Metrics) collector(log *slog.Logger) *url.URL {
	if m.OTLP == "off" || strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return nil
	}
	if m.OTLP != "" {
		u, _ := collectorURL(m.OTLP, true) // check has looked at it
		return u
	}
	name, base := "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", false
	if os.Getenv(name) == "" {
		name, base = "OTEL_EXPORTER_OTLP_ENDPOINT", true
	}
	text := os.Getenv(name)
	if text == "" || cmp.Or(os.Getenv("OTEL_METRICS_EXPORTER"), "otlp") != "otlp" {
		return nil
	}
	kind := cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"), os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL"), "http/protobuf")
	if kind != "http/protobuf" {
		log.Warn("metrics are not exported", "error", "OTEL_EXPORTER_OTLP_PROTOCOL is not http/protobuf; set metrics.otlp to the collector's address for that")
		return nil
	}
	u, err := collectorURL(text, base)
	if err != nil {
		log.Warn("metrics are not exported", "error", name+": "+err.Error())
		return nil
	}
	return u
}

// resource says who sends: what the environment says, or else this process.
func (f *Fleet) resource() *resource.Resource {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	attributes := []attribute.KeyValue{
		attribute.String("service.name", "flagstead"),
		attribute.String("service.instance.id", fmt.Sprintf("%s-%d", host, os.Getpid())),
	}
	if f.opts.Version != "" {
		attributes = append(attributes, attribute.String("service.version", f.opts.Version))
	}
	r, err := resource.New(context.Background(), resource.WithTelemetrySDK(), resource.WithAttributes(attributes...), resource.WithFromEnv())
	if err != nil {
		f.log.Warn("OpenTelemetry complains", "error", "OTEL_RESOURCE_ATTRIBUTES is not understood")
	}
	return r
}

// start begins to send.
func (x *export) start(f *Fleet) {
	if x == nil {
		return
	}
	var o []sdkmetric.PeriodicReaderOption
	if x.interval != 0 {
		o = append(o, sdkmetric.WithInterval(x.interval))
	}
	x.provider = sdkmetric.NewMeterProvider(
		sdkmetric.WithReader(sdkmetric.NewPeriodicReader(x, o...)),
		sdkmetric.WithResource(x.resource),
		sdkmetric.WithCardinalityLimit(0), // as many as there are environments
	)
	x.numbers = otel.New(x.provider.Meter("github.com/flagstead/flagstead", metric.WithInstrumentationVersion(x.version)))
	if _, err := x.numbers.Add(f, nil); err != nil {
		x.log.Error("metrics are not exported", "error", err)
		return
	}
	x.log.Info("metrics are exported", "collector", x.collector)
}

// stop sends the last numbers, if that can be done in time, and waits until nothing
// of it runs any more.
func (x *export) stop() {
	if x == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushPatience)
	defer cancel()
	_ = x.provider.Shutdown(ctx) // note has heard why
	if err := errors.Join(x.numbers.Err(), x.numbers.Close()); err != nil {
		x.log.Warn("some metrics were not exported", "error", err)
	}
}

// Export sends rm. It returns nil always: errors are noted.
func (x *export) Export(ctx context.Context, rm *metricdata.ResourceMetrics) error {
	err := x.Exporter.Export(ctx, rm)
	if err == nil || !errors.Is(ctx.Err(), context.Canceled) { // which stop does
		x.note(err)
	}
	return nil
}

// note logs the beginning and the end of an outage.
func (x *export) note(err error) {
	x.mu.Lock()
	was := x.down
	x.down = err != nil
	x.mu.Unlock()
	switch {
	case err != nil && !was:
		x.log.Warn("metrics cannot be exported", "collector", x.collector, "error", reason(err))
	case err == nil && was:
		x.log.Info("metrics are exported again", "collector", x.collector)
	}
}

var answered = regexp.MustCompile(`failed to send metrics to \S+: (\d{3})`)

// reason says why something was not sent, without the URL, which may have a token in
// its path, and without what the collector said, which may be what it was sent.
func reason(err error) string {
	if code := answered.FindStringSubmatch(err.Error()); code != nil {
		return "it answers " + code[1]
	}
	if strings.Contains(err.Error(), "retry-able request failure: body: ") {
		return "it answers 429, 502, 503 or 504"
	}
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return "no answer in time"
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return e.Error()
	}
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return e.Error()
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it closed the connection"
	case strings.Contains(err.Error(), "partial success"):
		return "it took only a part"
	}
	return "the request failed"
}

// quiet logs what OpenTelemetry complains about, without the values that it adds.
type quiet struct{ log *slog.Logger }

func (quiet) Init(logr.RuntimeInfo)                 {}
func (quiet) Enabled(level int) bool                { return level <= 1 } // warnings
func (q quiet) Info(_ int, msg string, _ ...any)    { q.say(msg) }
func (q quiet) Error(_ error, msg string, _ ...any) { q.say(msg) }
func (q quiet) WithValues(...any) logr.LogSink      { return q }
func (q quiet) WithName(string) logr.LogSink        { return q }
func (q quiet) say(msg string) {
	q.log.Warn("OpenTelemetry complains", "error", msg)
}
