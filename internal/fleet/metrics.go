package fleet

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/flagstead/flagstead/metrics"
	flagstead "github.com/flagstead/flagstead/metrics/prometheus"
)

// numbers are what the fleet measures.
type numbers struct{ registry *prometheus.Registry }

func newNumbers(f *Fleet) (*numbers, error) {
	collector := flagstead.New()
	if _, err := collector.Add(f, nil); err != nil {
		return nil, err
	}
	n := &numbers{registry: prometheus.NewRegistry()}
	for _, c := range []prometheus.Collector{
		collector,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := n.registry.Register(c); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func (n *numbers) handler() http.Handler {
	return promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{Registry: n.registry})
}

// Metrics returns the numbers of the whole process.
func (f *Fleet) Metrics() []metrics.Measurement {
	st := f.Status()
	open := 0
	for _, e := range st.Environments {
		if e.Open {
			open++
		}
	}
	m := []metrics.Measurement{
		{Name: "flagstead_ready", Help: "Whether the process is ready: 1 healthy, 0.5 degraded, 0 unhealthy.", Value: map[string]float64{healthy: 1, degraded: 0.5}[st.Readiness]},
		{Name: "flagstead_environments", Help: "Environments that are configured or that the relay proxy's key gives access to.", Value: float64(len(st.Environments))},
		{Name: "flagstead_environments_open", Help: "Environments whose store is open.", Value: float64(open)},
		{Name: "flagstead_config_reloads_total", Help: "Times that the configuration was read again.", Counter: true, Value: float64(f.reloads.Load())},
		{Name: "flagstead_config_refused_total", Help: "Times that a changed configuration was wrong.", Counter: true, Value: float64(f.refused.Load())},
	}
	if f.relay != nil {
		m = append(m, f.relay.Metrics()...)
	}
	if f.events != nil {
		m = append(m, f.events.Metrics()...)
	}
	if f.proxy != nil {
		m = append(m, f.proxy.metrics()...)
	}
	return m
}

// MetricGroups returns the numbers of each environment, with the label env.
func (f *Fleet) MetricGroups() []metrics.Group {
	var groups []metrics.Group
	for _, e := range f.all() {
		e.mu.Lock()
		s, pump := e.syncer, e.pump
		e.mu.Unlock()
		groups = append(groups, pump.group(e.name)...)
		if s != nil {
			groups = append(groups, metrics.Group{Labels: metrics.Labels{"env": e.name}, Measurements: s.Metrics()})
		}
	}
	if f.relay != nil {
		groups = append(groups, f.relay.MetricGroups()...)
	}
	if f.proxy != nil {
		groups = append(groups, f.proxy.metricGroups()...)
	}
	return groups
}
