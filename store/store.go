// Package store defines where flags live between the process that receives
// them and the processes that evaluate them.
//
// A store keeps items: opaque JSON documents as FeatBit sent them, each with a
// key and a version. It knows nothing of flags. One process (a syncer) writes
// with [Writer]; any number of processes read with [Reader] and learn of news
// through [Follow]. Evaluation never asks a store: readers build an immutable
// snapshot from it, so a store that is slow or gone costs freshness and nothing
// else.
//
// # The rules every store keeps
//
//  1. Per key the larger Version wins, whatever the order inside a change or
//     between changes. An item of equal version and equal content changes
//     nothing, and so does one of equal version and other content: the first
//     one stays. A change that changes nothing keeps the Rev.
//  2. A change becomes visible whole or not at all, and a handle never shows an
//     older state after a newer one.
//  3. A full change replaces everything, even with lower versions. Inside it
//     the larger version of a key wins (equal versions: the last one). A full
//     change with the content the store already has keeps the Rev.
//  4. If Base is set and is no longer current ([Uncommitted]: if anything was
//     ever committed), Apply returns [ErrConflict] and writes nothing.
//  5. Load with a Rev that the store does not know (flushed, replaced, foreign,
//     garbage) loads everything. No store ever reaches a Rev twice with
//     different content, also after it lost commits: to a crash, a failover or
//     a backup that was restored.
//  6. After Close every method returns [ErrClosed]. A cancelled context makes a
//     call return promptly with the context's error and leaves the store whole.
//  7. Watch wakes after every commit made through any handle on the same place,
//     or sooner or later; a lost wake-up costs one poll interval in [Follow].
//
// Package storetest checks them; run it on a store of your own.
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Errors that callers may test for with [errors.Is]. Stores wrap them with what
// was tried on what.
var (
	// ErrConflict says that Change.Base is no longer the store's Rev. Nothing
	// was written: load again, work out the change again, apply again.
	ErrConflict = errors.New("store: base revision is no longer current")

	// ErrClosed says that the store was closed.
	ErrClosed = errors.New("store: closed")

	// ErrDamaged says that the place works but what is in it cannot be read as a
	// state: a file that does not parse, a hash that lacks a field. Load wraps it.
	// A full change without a Base puts a whole state there again.
	ErrDamaged = errors.New("store: content is damaged")

	// ErrReadOnly is returned by Apply on a store that was opened for reading.
	ErrReadOnly = errors.New("store: opened read-only")
)

// Kind tells flags from segments.
type Kind uint8

// The kinds of item. The zero Kind is invalid.
const (
	Flag    Kind = 1
	Segment Kind = 2
)

// String returns "flag" or "segment".
func (k Kind) String() string {
	switch k {
	case Flag:
		return "flag"
	case Segment:
		return "segment"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// An Item is one flag or segment as FeatBit sent it. Items are values; their
// Data is shared by everyone who got hold of it and is never modified.
type Item struct {
	// Kind is Flag or Segment.
	Kind Kind

	// Archived marks a tombstone: evaluation does not see the item, and older
	// versions of it cannot come back. Data is kept for relays.
	Archived bool

	// Key is the flag's key, or the segment's id. Never empty.
	Key string

	// Version is the item's updatedAt, floored to milliseconds since the Unix
	// epoch. Below 2^53, so that it survives stores that count in doubles.
	Version int64

	// Data is the item's JSON, with every field that FeatBit sent.
	Data []byte
}

// ID names an item within a store.
type ID struct {
	Kind Kind   // as in Item
	Key  string // as in Item
}

// ID returns the item's kind and key.
func (it Item) ID() ID { return ID{it.Kind, it.Key} }

// A Change is what one call of Apply commits, as a whole or not at all.
type Change struct {
	// Full says that Items become the whole content of the store. Otherwise
	// they are merged, the larger version winning.
	Full bool

	// Base, if not empty, makes the commit conditional: it happens only while
	// the store is at Base, or, if Base is Uncommitted, only while nothing was
	// ever committed; else Apply returns ErrConflict.
	Base Rev

	// Items are what to merge, or everything, in any order. Two of one kind and
	// key are allowed, see rules 1 and 3.
	Items []Item

	// Override commits although publication is frozen, see [Control]: what an
	// operator published by hand.
	Override bool
}

// Conflicts reports whether c's Base keeps it from being committed to a store
// that is at now: what Apply decides under its lock.
func (c Change) Conflicts(now Rev) bool {
	if c.Base == Uncommitted {
		return now != ""
	}
	return c.Base != "" && c.Base != now
}

// A Rev names one committed state of one store. It is opaque: only equality has
// a meaning. The empty Rev means that nothing was ever committed, which is not
// the same as a committed state without items.
type Rev string

// Uncommitted, as the Base of a Change, stands for the empty Rev: an empty Base
// sets no condition. No store gives it to a committed state.
const Uncommitted Rev = "uncommitted"

// A Snapshot is the content of a store at one Rev.
type Snapshot struct {
	// Rev is the state's name, to ask for what comes after it. Empty if nothing
	// was ever committed.
	Rev Rev

	// Delta says that Items holds only what was added or replaced after the Rev
	// that Load was asked for, tombstones included; everything else is as it
	// was. A Delta without items means that the asked Rev is still current.
	Delta bool

	// Items are in no particular order, one per kind and key.
	Items []Item

	// Layer names where the state came from, if the store has several such
	// places.
	Layer string

	// Degraded says why the state is not from the best of those places. It is
	// nil if it is, and for every other store.
	Degraded error
}

// A Reader loads committed states.
type Reader interface {
	// Load returns one committed state: everything, or, if since names a state
	// that the store can count from, the Delta after it. An empty store returns
	// the zero Snapshot and no error. Load does not retry; the context bounds
	// it. The caller may keep the result but must not modify any Data.
	Load(ctx context.Context, since Rev) (Snapshot, error)
}

// A Writer commits changes.
type Writer interface {
	// Apply commits c and returns the store's Rev afterwards. It takes over the
	// Data of c's items, which nobody may modify from then on, but keeps no
	// reference to the slice c.Items. When Apply returns without an error the
	// commit is as durable as the store gets. On an error whose outcome is
	// unknown (a connection lost in the middle), applying c again is safe.
	// [ErrFrozen] is no failure but an operator's will, see [Control].
	Apply(ctx context.Context, c Change) (Rev, error)
}

// A Watcher is a Reader that can tell when to load again.
type Watcher interface {
	// Watch calls wake once when it has started to watch and then after every
	// commit, until ctx ends; it blocks meanwhile and returns ctx's error, or
	// an earlier reason why watching is no longer possible. Several commits may
	// share one wake, and wake may be called without a commit: it is a hint,
	// Load has the truth. wake must not block and may be called from any
	// goroutine, but not after Watch returned.
	Watch(ctx context.Context, wake func()) error
}

// A DataStore is a complete store. Its methods are safe for concurrent use.
type DataStore interface {
	Reader
	Writer
	io.Closer
}
