package sdk

import (
	"iter"

	"github.com/flagstead/flagstead/internal/flags"
)

// AllFlags are the values of all flags for one user at one moment: all of them
// come from the same snapshot, whatever happens to the flags meanwhile.
type AllFlags struct {
	snap Snapshot
	user *User
}

// AllFlags freezes the current flags for u. It records no events and does not
// block.
func (c *Client) AllFlags(u *User) AllFlags { return c.Snapshot().AllFlags(u) }

// AllFlags is [Client.AllFlags] on frozen flags.
func (s Snapshot) AllFlags(u *User) AllFlags { return AllFlags{snap: s, user: u} }

// Err says why there are no values: [ErrNotReady], [ErrTooOld], [ErrBadUser], or nil. An
// environment without flags is no error.
func (a AllFlags) Err() error {
	switch {
	case a.snap.set == nil:
		return a.snap.missing()
	case a.user == nil:
		return ErrBadUser
	}
	return nil
}

// All iterates over the flags that are not archived, ordered by key, without
// recording events. A flag that cannot be evaluated is there too, with
// a nil Value and a Reason; it does not affect the others.
func (a AllFlags) All() iter.Seq2[string, Detail[any]] {
	return func(yield func(string, Detail[any]) bool) {
		if a.Err() != nil {
			return
		}
		frame := frame[any](a.snap)
		for f, res := range a.snap.set.All((*flags.User)(a.user)) {
			var value any
			if !res.Reason.IsError() {
				value = res.Variation.Any()
			}
			d := frame
			d.fill(f.Key(), value, &res)
			if !yield(f.Key(), d) {
				return
			}
		}
	}
}

// Get returns one flag's value, or def if it has none, and records the event of
// an evaluation, as reading a value from the Python SDK's all-flags result does.
func (a AllFlags) Get(key string, def any) Detail[any] {
	v, res := typed(a.snap, key, a.user, def, toAny)
	return detail(a.snap, key, v, &res)
}

var _, _ Evaluator = (*Client)(nil), Snapshot{}

// record hands a successful evaluation to whom events go to.
func (c *Client) record(u *User, f *flags.Flag, v *flags.Variation, how flags.Why) {
	switch {
	case c == nil:
	case c.events != nil:
		c.events.Evaluation((*flags.User)(u), f, v, how)
	case c.sink != nil:
		c.recordTo(u, f, v, how)
	}
}

func (c *Client) recordTo(u *User, f *flags.Flag, v *flags.Variation, how flags.Why) {
	if !c.isClosed() {
		c.sink.Record(evaluationEvent(u, f, v, how))
	}
}
