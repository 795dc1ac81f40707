package syncer

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/flagstead/flagstead/store"
)

// Once syncs until one full state of the source is in the store, and returns the
// status of that moment: for jobs that fill a store and end. It blocks until then,
// until ctx ends, or until nothing is to be hoped for: the guard refused the state,
// see [RefusedError], which Once does not ask for again, or FeatBit the secret, see
// [ErrUnauthorized], or an operator froze the store, see [store.ErrFrozen]. An error
// when ctx ends says, too, what was in the way last.
func Once(ctx context.Context, cfg Config) (Status, error) {
	runCtx, stop := context.WithCancel(ctx)
	defer stop()
	var mu sync.Mutex
	var last Status
	var result error
	ended := false
	end := func(err error) {
		if !ended {
			ended, result = true, err
			stop()
		}
	}
	notify := cfg.OnStatus
	cfg.OnStatus = func(st Status) {
		mu.Lock()
		if !ended {
			last = st
		}
		if st.Frozen != nil {
			end(frozen(*st.Frozen))
		} else if st.State == OK {
			end(nil)
		} else if refused, ok := errors.AsType[*RefusedError](st.Err); ok {
			end(refused)
		}
		mu.Unlock()
		if notify != nil {
			notify(st)
		}
	}
	s, err := New(cfg)
	if err != nil {
		return Status{}, err
	}
	err = s.Run(runCtx)
	mu.Lock()
	defer mu.Unlock()
	switch {
	case ended:
		return last, result
	case ctx.Err() != nil && last.Err != nil:
		return last, fmt.Errorf("%w: %w", ctx.Err(), last.Err)
	}
	return s.Status(), err
}

func frozen(c store.Control) error {
	switch {
	case c.By == "" && c.Reason == "":
		return store.ErrFrozen
	case c.Reason == "":
		return fmt.Errorf("%w by %s", store.ErrFrozen, c.By)
	}
	return fmt.Errorf("%w by %s: %s", store.ErrFrozen, c.By, c.Reason)
}
