// Package prometheus hands the numbers of Flagstead's parts to Prometheus.
//
//	collector := prometheus.New()
//	remove, err := collector.Add(syncer, metrics.Labels{"env": "prod"})
//	if err != nil {
//		return err
//	}
//	defer remove()
//	registry.MustRegister(collector)
//	http.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
//
// One collector takes any number of sources, which may come and go: environments of
// one process share a registry and are told apart by their labels.
package prometheus

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"

	"github.com/flagstead/flagstead/metrics"
)

// LeftOut is the name of a gauge of every Collector: how many numbers it left out of
// a collection because their name or labels cannot be used, because of what was
// collected before them by the same name one was a counter and one a gauge, or
// because another source with the same labels had one of that name. It is 0 unless
// there is a mistake in how sources were added.
const LeftOut = "flagstead_metrics_left_out"

// A Collector is a [prometheus.Collector] over sources. It is an unchecked one, since
// what sources measure comes and goes. Make it with New. All methods are safe for
// concurrent use.
type Collector struct {
	leftOut *prometheus.Desc

	mu      sync.Mutex
	sources []*entry
}

type entry struct {
	source metrics.Source
	labels metrics.Labels
}

var _ prometheus.Collector = (*Collector)(nil)

// New returns a Collector without sources.
func New() *Collector {
	return &Collector{leftOut: prometheus.NewDesc(LeftOut, "Numbers that could not be shown in this collection; not 0 is a mistake in the program.", nil, nil)}
}

// Add has the numbers of source collected, with labels, until remove is called, which
// may be done from anywhere and more than once. A collection that is going on then
// may still ask source. Add returns an error that wraps [metrics.ErrLabels] if the
// labels cannot be used. Two sources that measure the same need different labels:
// of two numbers with one name and the same labels only one is collected.
func (c *Collector) Add(source metrics.Source, labels metrics.Labels) (remove func(), err error) {
	if err := labels.Check(); err != nil {
		return nil, err
	}
	e := &entry{source: source, labels: labels.With(nil)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sources = append(c.sources, e)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.sources = slices.DeleteFunc(slices.Clone(c.sources), func(other *entry) bool { return other == e })
	}, nil
}

// Describe sends nothing, which tells a registry that what is collected varies.
func (c *Collector) Describe(chan<- *prometheus.Desc) {}

// Collect asks each source once and sends its numbers.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	c.mu.Lock()
	sources := c.sources
	c.mu.Unlock()
	run := collection{first: map[string]metrics.Measurement{}, seen: map[string]bool{LeftOut: true}, out: out}
	for _, e := range sources {
		for _, g := range metrics.Collect(e.source, e.labels) {
			run.group(g)
		}
	}
	out <- prometheus.MustNewConstMetric(c.leftOut, prometheus.GaugeValue, float64(run.leftOut))
}

// A collection is one call of Collect.
type collection struct {
	first   map[string]metrics.Measurement // by name: its help and type hold for all
	seen    map[string]bool                // names with labels
	leftOut int
	out     chan<- prometheus.Metric
}

func (c *collection) group(g metrics.Group) {
	names := g.Labels.Names()
	values := make([]string, len(names))
	for i, name := range names {
		values[i] = g.Labels[name]
	}
	if g.Labels.Check() != nil {
		c.leftOut += len(g.Measurements)
		return
	}
	place := strings.Join(names, ",") + "\xff" + strings.Join(values, "\xff")
	for _, m := range g.Measurements {
		series := m.Name + "\xff" + place
		first, known := c.first[m.Name]
		if !known {
			first = m
		}
		if !model.LegacyValidation.IsValidMetricName(m.Name) || m.Name == LeftOut || c.seen[series] || first.Counter != m.Counter {
			c.leftOut++
			continue
		}
		c.first[m.Name], c.seen[series] = first, true
		kind := prometheus.GaugeValue
		if m.Counter {
			kind = prometheus.CounterValue
		}
		desc := prometheus.NewDesc(m.Name, cmp.Or(first.Help, m.Name), names, nil)
		metric, err := prometheus.NewConstMetric(desc, kind, m.Value, values...)
		if err != nil {
			c.leftOut++
			continue
		}
		c.out <- metric
	}
}
