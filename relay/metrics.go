package relay

import (
	"time"

	"github.com/flagstead/flagstead/metrics"
)

// A Measurement is one number for whatever collects such.
type Measurement = metrics.Measurement

// Metrics returns what an operator watches of a relay, for a collector that asks now
// and then. It does not block on anything but other calls.
func (r *Relay) Metrics() []Measurement { return measure(r.Stats()) }

// MetricGroups returns what an operator watches of each environment, with the label
// env, which is its name. It does not block on anything but other calls.
func (r *Relay) MetricGroups() []metrics.Group {
	var groups []metrics.Group
	for _, e := range r.Stats().Environments {
		gauge := func(name, help string, value float64) Measurement {
			return Measurement{Name: "flagstead_relay_env_" + name, Help: help, Value: value}
		}
		m := []Measurement{
			gauge("ready", "Whether the environment has data to serve.", metrics.Bit(e.Ready)),
			gauge("store_failing", "Whether the last attempt to load from its store, or to watch it, failed.", metrics.Bit(e.StoreFailing)),
			gauge("flags", "Its flags that are not archived.", float64(e.Flags)),
			gauge("segments", "Its segments that are not archived.", float64(e.Segments)),
			gauge("invalid_items", "Items in its store that cannot be served.", float64(e.InvalidItems)),
			gauge("connections", "Its streams open now.", float64(e.Connections)),
			{Name: "flagstead_relay_env_changes_total", Help: "Items of its store that changed after the first load.", Counter: true, Value: float64(e.Changes)},
		}
		if !e.Confirmed.IsZero() {
			m = append(m, gauge("data_age_seconds", "Time since its store was last known to be equal to its source.", time.Since(e.Confirmed).Seconds()))
		}
		groups = append(groups, metrics.Group{Labels: metrics.Labels{"env": e.Name}, Measurements: m})
	}
	return groups
}

// measure puts the numbers of a Relay as a whole in the form of measurements.
func measure(s Stats) []Measurement {
	gauge := func(name, help string, value float64) Measurement {
		return Measurement{Name: "flagstead_relay_" + name, Help: help, Value: value}
	}
	counter := func(name, help string, value int64) Measurement {
		return Measurement{Name: "flagstead_relay_" + name + "_total", Help: help, Counter: true, Value: float64(value)}
	}
	return []Measurement{
		gauge("ready", "Whether there is data to serve.", metrics.Bit(s.Ready)),
		gauge("store_failing", "Whether the last attempt to load from the store, or to watch it, failed.", metrics.Bit(s.StoreFailing)),
		gauge("flags", "Flags served that are not archived.", float64(s.Flags)),
		gauge("segments", "Segments served that are not archived.", float64(s.Segments)),
		gauge("invalid_items", "Items in the store that cannot be served.", float64(s.InvalidItems)),
		gauge("connections", "Streams open now.", float64(s.Connections)),
		counter("accepted", "Streams opened.", s.Accepted),
		counter("rejected", "Streams closed with 4003, for a wrong token or secret.", s.Rejected),
		counter("refused", "Requests answered 503 for lack of data or room.", s.Refused),
		counter("limited", "Requests answered 429.", s.Limited),
		counter("dropped", "Streams given up because the SDK did not accept data.", s.Dropped),
		counter("ignored", "Messages from SDKs that were not understood.", s.Ignored),
		counter("syncs", "Data-sync messages answered.", s.Syncs),
		counter("changes", "Items of the store that changed after the first load.", s.Changes),
		counter("restamped", "Changes that needed a time of the relay's own.", s.Restamped),
		counter("patches", "Patches with items sent to streams.", s.Patches),
		counter("requests", "HTTP requests, upgrades included.", s.Requests),
		counter("insight_requests", "Accepted requests with insights.", s.InsightRequests),
		counter("insights", "Valid entries of insight requests.", s.Insights),
		counter("invalid_insights", "Entries of insight requests that were skipped.", s.InvalidInsights),
		counter("refused_insights", "Requests with insights that could not be taken, which SDKs try again.", s.RefusedInsights),
		counter("variations", "Evaluations reported by insights.", s.Variations),
		counter("custom_metrics", "Custom metrics reported by insights.", s.Metrics),
	}
}
