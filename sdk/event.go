package sdk

import (
	"context"
	"time"

	"github.com/flagstead/flagstead/internal/flags"
)

// An EventSink takes a client's events instead of FeatBit's event server, see
// [Config].EventSink. Its methods are called concurrently.
type EventSink interface {
	// Record takes one event. It is called on the evaluation path, so it must
	// not block; it must not call the client.
	Record(Event)

	// Flush delivers what was recorded, for [Client.Flush] and [Client.Close].
	// It returns when that is done, or ctx's error.
	Flush(ctx context.Context) error
}

// An EventKind says what an [Event] tells.
type EventKind uint8

// The kinds of events.
const (
	EvaluationEvent EventKind = iota // a user was served a variation
	IdentifyEvent                    // a user was made known
	MetricEvent                      // custom events of a user
)

// An Event is something that happened to a user.
type Event struct {
	Kind EventKind // which of the members below are set
	Time time.Time // when it happened
	User *User     // to whom; never nil

	// Of an EvaluationEvent.
	FlagKey          string
	VariationID      string
	Value            string // the variation's value, as text
	Reason           Reason
	SendToExperiment bool // whether it counts for the flag's experiment

	// Of a MetricEvent.
	Metrics []Metric
}

// A Metric is one custom event, with a value that counts for experiments.
type Metric struct {
	Name  string  // of the event
	Value float64 // finite
}

// EventStats counts events since the client was made. Recorded is always
// Delivered + Dropped + Failed + Pending.
type EventStats struct {
	Recorded  uint64 // handed over by evaluations, Identify, TrackMetric and TrackMetrics
	Delivered uint64 // acknowledged by the event server
	Dropped   uint64 // lost because the buffers were full, or recorded after Close
	Failed    uint64 // refused by the server, or given up after retries or at Close
	Pending   uint64 // still held
	Retries   uint64 // attempts beyond the first, in requests

	// Refused says that the event server refused the secret (401). No more
	// events are sent.
	Refused bool
}

func evaluationEvent(u *User, f *flags.Flag, v *flags.Variation, how flags.Why) Event {
	return Event{
		Kind:             EvaluationEvent,
		Time:             time.Now(),
		User:             u,
		FlagKey:          f.Key(),
		VariationID:      v.ID(),
		Value:            v.Text(),
		Reason:           Reason(how.Reason()),
		SendToExperiment: how.Experiment(),
	}
}
