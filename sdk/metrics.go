package sdk

import (
	"time"

	"github.com/flagstead/flagstead/metrics"
)

// A Measurement is one number for whatever collects such.
type Measurement = metrics.Measurement

// Metrics returns what an operator watches of a client, for a collector that asks
// now and then. What is not known, as the age of flags that nobody confirmed, has
// no measurement. It does not block on anything but other calls.
func (c *Client) Metrics() []Measurement {
	st := c.Status()
	m := []Measurement{
		{Name: "flagstead_client_ready", Help: "Whether there are flags to evaluate.", Value: metrics.Bit(st.Ready)},
		{Name: "flagstead_client_ok", Help: "Whether the flags are as new as the source's.", Value: metrics.Bit(st.State == OK)},
		{Name: "flagstead_client_state", Help: "0 initializing, 1 ok, 2 interrupted, 3 off.", Value: float64(st.State)},
		{Name: "flagstead_client_source_state", Help: "Of what fills the store: 0 initializing, 1 ok, 2 interrupted, 3 off, 4 unknown.", Value: float64(st.Source)},
		{Name: "flagstead_client_flags", Help: "Flags, archived ones included.", Value: float64(st.Flags)},
		{Name: "flagstead_client_segments", Help: "Segments, archived ones included.", Value: float64(st.Segments)},
		{Name: "flagstead_client_too_old", Help: "Whether the flags are older than MaxAge.", Value: metrics.Bit(c.isTooOld())},
	}
	if age, ok := st.DataAge(); ok {
		m = append(m, Measurement{Name: "flagstead_client_data_age_seconds", Help: "Time since the source last confirmed that the flags are current.", Value: age.Seconds()})
	}
	if !st.Updated.IsZero() {
		m = append(m, Measurement{Name: "flagstead_client_updated_seconds", Help: "Time since the flags last changed.", Value: time.Since(st.Updated).Seconds()})
	}
	e := c.EventStats()
	return append(m,
		Measurement{Name: "flagstead_client_events_recorded_total", Help: "Events recorded.", Counter: true, Value: float64(e.Recorded)},
		Measurement{Name: "flagstead_client_events_delivered_total", Help: "Events that the event server took.", Counter: true, Value: float64(e.Delivered)},
		Measurement{Name: "flagstead_client_events_dropped_total", Help: "Events dropped because a buffer was full.", Counter: true, Value: float64(e.Dropped)},
		Measurement{Name: "flagstead_client_events_failed_total", Help: "Events given up after the last attempt.", Counter: true, Value: float64(e.Failed)},
	)
}

func (c *Client) isTooOld() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fresh.tooOld
}
