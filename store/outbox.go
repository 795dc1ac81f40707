package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// An Event is one insight for FeatBit that waits in an outbox.
type Event struct {
	// ID tells the event from all others, for ever. Its producer makes it, and
	// uses it again if it repeats an AppendEvents whose outcome it does not know.
	ID string

	// Data is one insight as FeatBit takes it: a JSON object with a user.
	Data []byte

	// Receipt is set by ReadEvents: what AckEvents takes. AppendEvents ignores it.
	Receipt string
}

// Limits of an outbox.
const (
	// MaxEventBytes is the size of an Event's ID and Data together at most.
	MaxEventBytes = 64 << 10

	// MaxEventID is the size of an Event's ID at most. Ids are remembered, see
	// OutboxWindow.
	MaxEventID = 128

	// OutboxClaim is for how long an event belongs to the consumer that read it
	// last. Who does not acknowledge it, or read it again, in that time is taken
	// for dead.
	OutboxClaim = time.Minute

	// OutboxWindow is for how long at least the ids of the last events are
	// remembered, delivered or not: an event that comes again is ignored.
	OutboxWindow = 10 * time.Minute
)

// ErrEvent says that an event is too large or lacks its ID or Data.
var ErrEvent = errors.New("bad event")

// Check returns an error that wraps ErrEvent if no outbox may take e.
func (e Event) Check() error {
	switch n := len(e.ID) + len(e.Data); {
	case e.ID == "":
		return fmt.Errorf("%w: no ID", ErrEvent)
	case len(e.Data) == 0:
		return fmt.Errorf("%w: no data", ErrEvent)
	case len(e.ID) > MaxEventID:
		return fmt.Errorf("%w: an ID of %d bytes, want at most %d", ErrEvent, len(e.ID), MaxEventID)
	case n > MaxEventBytes:
		return fmt.Errorf("%w: %d bytes, want at most %d", ErrEvent, n, MaxEventBytes)
	}
	return nil
}

// An OutboxWriter takes the events of readers that have no way to FeatBit.
type OutboxWriter interface {
	// AppendEvents adds events, all or none of each thousand, in order. Those
	// whose ID was seen within OutboxWindow are ignored. An outbox is bounded: for
	// a new event the oldest goes, delivered or not, which OutboxStats counts. The
	// error wraps ErrEvent if an event is one that no outbox takes; then none is
	// added. After any other error some may have been added: repeat the call with
	// the same events.
	AppendEvents(ctx context.Context, events []Event) error
}

// An OutboxReader gives out what is in an outbox. Any number of consumers may
// share it.
type OutboxReader interface {
	// ReadEvents returns up to max events for consumer, a name that no other
	// process uses: first those that it read and did not acknowledge, then those of
	// consumers that are taken for dead, then new ones. They are consumer's for
	// OutboxClaim. It does not wait for events; without any it returns none.
	ReadEvents(ctx context.Context, consumer string, max int) ([]Event, error)

	// AckEvents removes events by their receipts. It ignores receipts of events
	// that are gone.
	AckEvents(ctx context.Context, receipts []string) error

	// OutboxStats returns what the outbox counts.
	OutboxStats(ctx context.Context) (OutboxStats, error)
}

// OutboxStats counts the events of an outbox since it was made, by all its writers
// and consumers. Added is always Acknowledged + Trimmed + Pending.
type OutboxStats struct {
	Added        uint64 // by AppendEvents
	Acknowledged uint64 // by AckEvents
	Trimmed      uint64 // removed to make room; lost unless a consumer had read them
	Pending      uint64 // held now, read or not
	Ignored      uint64 // not added: the ID was known

	Bytes  int64     // of what is pending
	Oldest time.Time // when the oldest pending event was added, by the store's clock; zero without one
}
