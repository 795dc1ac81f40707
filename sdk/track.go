package sdk

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/flagstead/flagstead/internal/flags"
	"github.com/flagstead/flagstead/internal/insight"
)

// Identify sends u to FeatBit, so that it can be found and targeted there. A
// nil user is ignored, and so is the call if events are not sent.
func (c *Client) Identify(u *User) {
	switch {
	case u == nil || u.Key() == "":
	case c.events != nil:
		c.events.Identify((*flags.User)(u))
	case c.sink != nil && !c.isClosed():
		c.sink.Record(Event{Kind: IdentifyEvent, Time: time.Now(), User: u})
	}
}

// TrackMetric sends a custom event of u, with a value that counts for
// experiments with this metric; use 1 for an occurrence. A nil user, an empty
// name or a value that is not finite is ignored. For an experiment, evaluate
// its flag first.
func (c *Client) TrackMetric(u *User, event string, value float64) {
	c.TrackMetrics(u, map[string]float64{event: value})
}

// TrackMetrics is [Client.TrackMetric] for several events at once, which are
// sent together, ordered by name.
func (c *Client) TrackMetrics(u *User, values map[string]float64) {
	if u == nil || u.Key() == "" || c.events == nil && (c.sink == nil || c.isClosed()) {
		return
	}
	list := make([]insight.Metric, 0, len(values))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value := values[name]
		if name != "" && !math.IsNaN(value) && !math.IsInf(value, 0) {
			list = append(list, insight.Metric{Name: name, Value: value})
		}
	}
	switch {
	case len(list) == 0:
	case c.events != nil:
		c.events.Metrics((*flags.User)(u), list)
	default:
		metrics := make([]Metric, len(list))
		for i, m := range list {
			metrics[i] = Metric(m)
		}
		c.sink.Record(Event{Kind: MetricEvent, Time: time.Now(), User: u, Metrics: metrics})
	}
}

// Flush sends the events recorded so far and returns when each was delivered or
// refused, or with ctx's error. Sending goes on in that case; to flush without
// waiting, call it in a goroutine, or not at all: events leave by themselves
// after Config.FlushInterval. After Close it returns [ErrClosed].
func (c *Client) Flush(ctx context.Context) error {
	switch {
	case c.sink != nil && c.isClosed():
		return ErrClosed
	case c.sink != nil:
		return c.sink.Flush(ctx)
	case c.events == nil:
		return nil
	}
	err := c.events.Flush(ctx)
	if errors.Is(err, insight.ErrClosed) {
		return ErrClosed
	}
	return err
}

// EventStats returns the counters; all are zero if events are not sent, or go to
// an EventSink.
func (c *Client) EventStats() EventStats {
	if c.events == nil {
		return EventStats{}
	}
	return EventStats(c.events.Stats())
}
