package store

import (
	"context"
	"time"
)

// A Heartbeat is what a writer last said of the source that it fills a store
// from. It tells readers how current the store's content is, which no Rev can:
// flags that nobody changes look like flags that nobody delivers.
//
// The times are of the reading process's clock. A store that has a clock of its
// own (a server) keeps ages, so that hosts need not agree on the time.
type Heartbeat struct {
	// Confirmed is when the source last confirmed that the content is current.
	// Zero means that nobody ever confirmed it.
	Confirmed time.Time `json:"confirmed"`

	// Source is how the writer and its source stand, as a syncer's State prints:
	// "ok", "initializing", "interrupted" or "off"; or [SourceFrozen].
	Source string `json:"source"`

	// Writer names the writer, as in "host-12345".
	Writer string `json:"writer"`

	// Written is when the heartbeat was written. WriteHeartbeat sets it. A
	// heartbeat that has not been written for several [HeartbeatLife] is that of a
	// writer that is gone.
	Written time.Time `json:"written"`
}

// SourceFrozen is Heartbeat.Source while an operator has frozen the store, see
// [Control].
const SourceFrozen = "frozen"

// HeartbeatLife is how long a heartbeat speaks for its store without being
// written again: a writer writes one at least twice in that time.
const HeartbeatLife = 10 * time.Second

// A HeartbeatWriter is a Writer that takes heartbeats.
type HeartbeatWriter interface {
	// WriteHeartbeat makes h the store's heartbeat, merged with the one that is
	// there by the rule of [Heartbeat.Merge]; which it does if that leaves
	// nothing to write, too. A heartbeat is no commit: it changes no Rev and
	// wakes nobody. It need not survive a crash.
	WriteHeartbeat(ctx context.Context, h Heartbeat) error
}

// A HeartbeatReader is a Reader that knows the store's heartbeat.
type HeartbeatReader interface {
	// ReadHeartbeat returns the last heartbeat; the zero one if the store has
	// none.
	ReadHeartbeat(ctx context.Context) (Heartbeat, error)
}

// Merge returns what a store that has the heartbeat old keeps when a writer
// writes h at now, with Written set, and whether that is anything new. Of several
// writers the one that confirmed last speaks: h is ignored while old is another
// writer's, not "off" and not older than [HeartbeatLife], if old was confirmed
// later or h is "off". Confirmed never goes back, unless it was ahead of now.
func (h Heartbeat) Merge(old Heartbeat, now time.Time) (Heartbeat, bool) {
	h.Written = now
	if h.Confirmed.After(now) {
		h.Confirmed = now
	}
	if old.Confirmed.After(now) {
		return h, true // somebody's clock was wrong
	}
	alive := old.Source != "off" && now.Sub(old.Written) < HeartbeatLife && !old.Written.After(now)
	if alive && old.Writer != h.Writer && (old.Confirmed.After(h.Confirmed) || h.Source == "off") {
		return old, false
	}
	if old.Confirmed.After(h.Confirmed) {
		h.Confirmed = old.Confirmed
	}
	return h, true
}
