package store

import (
	"context"
	"time"
)

// A Leaser is a store of which one of several writers can hold a lease, so that the
// others need not do its work, too. It is no lock: a writer that was paused may still
// write after another one took over, and the conditions of [Change] sort that out.
type Leaser interface {
	// Acquire takes the store's lease for ttl under a name that no other writer has,
	// or prolongs it, and reports whether name holds it now: it does not while
	// another name's time has not run out. An error that wraps
	// [errors.ErrUnsupported] says that this store has no leases after all.
	Acquire(ctx context.Context, name string, ttl time.Duration) (held bool, err error)

	// Release gives the lease up if name holds it.
	Release(ctx context.Context, name string) error
}
