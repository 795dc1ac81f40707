package store

import (
	"context"
	"errors"
	"time"
)

// Errors of histories to test for with [errors.Is].
var (
	// ErrNoRevision says that a history has no revision of that number, or not any
	// more.
	ErrNoRevision = errors.New("store: no such revision")

	// ErrNotNext says that a record does not follow the last revision of the
	// history: somebody else wrote one, or a commit was never recorded.
	ErrNotNext = errors.New("store: record does not follow the last revision")

	// ErrWholeWanted says that a history wants a whole state, since it has none yet
	// or too many deltas follow the last one.
	ErrWholeWanted = errors.New("store: the history wants a whole state")
)

// A Revision is one entry of a history.
type Revision struct {
	// N numbers the revisions of a store, upwards from 1. A store that was flushed
	// begins again.
	N uint64 `json:"n"`

	// Rev is the state's name in the store, and Prev that of the state before.
	Rev  Rev `json:"rev"`
	Prev Rev `json:"prev,omitempty"`

	// At is when the revision was recorded, moments after its commit, by the clock
	// of Writer, who made both.
	At     time.Time `json:"at"`
	Writer string    `json:"writer"`

	// Flags and Segments count what the state has, archived ones included.
	Flags    int `json:"flags"`
	Segments int `json:"segments"`

	// Changed are the items that this revision added or replaced, the first of
	// them by key, and More how many others. A Whole says nothing of what changed.
	Changed []ID `json:"changed,omitempty"`
	More    int  `json:"more,omitempty"`
	Whole   bool `json:"whole,omitempty"`

	// Restores is the number of the revision whose content this one published
	// again; zero for all others.
	Restores uint64 `json:"restores,omitempty"`

	// Size is how many bytes the history keeps of it.
	Size int64 `json:"size"`
}

// A Record is what a writer adds to a history after a commit.
type Record struct {
	// Rev is what Apply returned.
	Rev Rev

	// Prev is the state that Rev was committed on. Unless the record is a Whole, it
	// has to be the Rev of the last revision.
	Prev Rev

	// After is the number of the last revision that the writer knows of; zero if
	// there is none.
	After uint64

	// Whole says that Items are the whole state; otherwise they are what was merged
	// into the state before. A record that is not Whole and has no Items gives the
	// last revision another Rev: the same content has a new name in the store.
	Whole bool
	Items []Item

	// As in Revision.
	Writer          string
	Flags, Segments int
	Restores        uint64
}

// A Keep says how much a history keeps. What is older than that is dropped by the
// next AppendRevision, but never the last whole state with what follows it.
type Keep struct {
	Revisions int   // at least so many, as far as Bytes allows; zero means 50
	Bytes     int64 // compressed; zero means 64 MiB
}

// A History is a Reader that keeps the last revisions. They are no part of what
// Load loads.
type History interface {
	// Revisions returns what the history has, oldest first.
	Revisions(ctx context.Context) ([]Revision, error)

	// At returns the whole state of revision n. The error is [ErrNoRevision] if
	// the history has none of that number. A state that cannot be put together
	// again exactly is an error that wraps [ErrDamaged].
	At(ctx context.Context, n uint64) (Snapshot, error)
}

// A HistoryWriter is a Writer that keeps the last revisions.
type HistoryWriter interface {
	// AppendRevision adds r to the history and returns what became of it; the last
	// revision, if that has r's Rev already. The error is [ErrNotNext] if
	// r does not follow the last revision, and [ErrWholeWanted] if a Whole is
	// needed; nothing was written then. It is no commit: it changes no Rev, wakes
	// nobody, and no Apply and no Load waits for it. It works while publication is
	// frozen. The Data of r's items is not kept.
	AppendRevision(ctx context.Context, r Record, k Keep) (Revision, error)
}
