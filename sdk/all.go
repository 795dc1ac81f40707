package sdk

import (
	"iter"

	"github.com/flagstead/flagstead/internal/flags"
)

// AllFlags are the values of all flags for one user at one moment: all of them
// come from the same snapshot, whatever happens to the flags meanwhile.
type AllFlags struct {
	client *Client
	set    *flags.Set // nil: the client was not ready
	user   *User
}

// AllFlags freezes the current flags for u. It records no events and does not
// block.
func (c *Client) AllFlags(u *User) AllFlags {
	return AllFlags{client: c, set: c.set.Load(), user: u}
}

// Err says why there are no values: [ErrNotReady], [ErrBadUser], or nil.
func (a AllFlags) Err() error {
	switch {
	case a.set == nil:
		return ErrNotReady
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
		for _, key := range a.set.Keys() {
			if !yield(key, a.peek(key)) {
				return
			}
		}
	}
}

func (a AllFlags) peek(key string) Detail[any] {
	res := a.set.Evaluate(key, (*flags.User)(a.user))
	var value any
	if !res.Reason.IsError() {
		value = res.Variation.Any()
	}
	return detail(key, value, &res)
}

// Get returns one flag's value, or def if it has none, and records the event of
// an evaluation, as reading a value from the Python SDK's all-flags result does.
func (a AllFlags) Get(key string, def any) Detail[any] {
	res := flags.Result{Reason: flags.ClientNotReady}
	if a.set != nil {
		res = a.set.Evaluate(key, (*flags.User)(a.user))
	}
	if res.Reason.IsError() {
		return detail(key, def, &res)
	}
	a.client.record(a.user, &res)
	return detail(key, res.Variation.Any(), &res)
}
