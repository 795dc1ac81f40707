package store

import (
	"context"
	"fmt"
	"time"
)

// A Report is what a reader says of itself, for operators.
type Report struct {
	// Reader names the reader. No two of a store may have the same name.
	Reader string `json:"reader"`

	// Rev is the state that the reader works on; empty if it has none.
	Rev Rev `json:"rev"`

	// Applied is when it took that over, and At when the report was written, which
	// WriteReport sets. Both are of the reading process's clock, as those of a
	// [Heartbeat] are.
	Applied time.Time `json:"applied"`
	At      time.Time `json:"at"`

	// Version is that of the reader's program, and State how it stands, as a
	// client's State prints. A report with the State "off" is the reader's last: it
	// removes those before.
	Version string `json:"version"`
	State   string `json:"state"`
}

// ReportLife is how long a report counts. A reader that is alive writes one at
// least twice in that time.
const ReportLife = 15 * time.Second

// The limits of reports.
const (
	MaxReporter = 256    // bytes of Reader, Version, State and Rev, each
	MaxReports  = 10_000 // readers of one store
)

// Check says what of r no store takes.
func (r Report) Check() error {
	for _, f := range []struct{ name, text string }{
		{"reader", r.Reader}, {"revision", string(r.Rev)}, {"version", r.Version}, {"state", r.State},
	} {
		if len(f.text) > MaxReporter {
			return fmt.Errorf("store: a report whose %s has %d bytes, the limit is %d", f.name, len(f.text), MaxReporter)
		}
	}
	if r.Reader == "" {
		return fmt.Errorf("store: a report without the reader's name")
	}
	return nil
}

// A ReportWriter is a store that takes reports, also through a handle that was
// opened for reading.
type ReportWriter interface {
	// WriteReport puts r in the place of the reader's report before. It is no
	// commit: it changes no Rev and wakes nobody. It need not survive a crash.
	WriteReport(ctx context.Context, r Report) error
}

// A ReportReader is a store that knows its readers.
type ReportReader interface {
	// ReadReports returns the reports that are younger than [ReportLife], ordered
	// by Reader.
	ReadReports(ctx context.Context) ([]Report, error)
}
