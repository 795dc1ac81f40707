package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrFrozen says that publication is frozen: Apply without Change.Override wrote
// nothing, see [Control].
var ErrFrozen = errors.New("store: publication is frozen")

// A Control is an operator's word on what a store publishes. While it is frozen
// only changes with Override are committed; syncers go on receiving, hold the
// newest state, and write it when the freeze is over.
type Control struct {
	// Frozen says that the content stays as it is.
	Frozen bool `json:"frozen"`

	// At is when the control was written; zero if nobody ever wrote one. A store
	// that has a clock of its own keeps the age.
	At time.Time `json:"at"`

	// By and Reason say who wrote it, and why. Both together have at most
	// [MaxControlText] bytes.
	By     string `json:"by"`
	Reason string `json:"reason"`

	// Pinned is the number of the revision whose content is to be published
	// meanwhile, see [History]. Zero means what was there.
	Pinned uint64 `json:"pinned,omitempty"`
}

// MaxControlText is how many bytes Control.By and Control.Reason have together at
// most.
const MaxControlText = 2048

// Check says what of c no store takes: texts that are too long, or a revision that
// is pinned without a freeze.
func (c Control) Check() error {
	switch n := len(c.By) + len(c.Reason); {
	case n > MaxControlText:
		return fmt.Errorf("store: a control with texts of %d bytes, the limit is %d", n, MaxControlText)
	case c.Pinned != 0 && !c.Frozen:
		return fmt.Errorf("store: a control that pins revision %d without a freeze", c.Pinned)
	case c.Pinned >= 1<<53:
		return fmt.Errorf("store: a control that pins revision %d, beyond 2^53", c.Pinned)
	}
	return nil
}

// A ControlReader is a Reader whose store can be frozen.
type ControlReader interface {
	// ReadControl returns the control that was written last; the zero one if there
	// is none, as in a store that was flushed.
	ReadControl(ctx context.Context) (Control, error)
}

// A Controller is a store that can be frozen. Apply looks at the control and
// commits in one step: once WriteControl has returned, nothing is committed that
// the control forbids, by any handle of the place.
type Controller interface {
	ControlReader

	// WriteControl makes c the store's control, in place of the one that is there.
	// A zero At means now. A control is no commit: it changes no Rev and wakes
	// nobody. It survives a restart like commits do. The error says if c does not
	// pass [Control.Check].
	WriteControl(ctx context.Context, c Control) error
}

// deliberately is for how long after a control was written older versions are taken
// for an operator's doing.
const deliberately = time.Minute

// explains reports whether older versions than before are what c's author meant.
func (c Control) explains(now time.Time) bool {
	return c.Frozen || !c.At.IsZero() && now.Sub(c.At).Abs() < deliberately
}
