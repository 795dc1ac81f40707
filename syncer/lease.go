package syncer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/flagstead/flagstead/store"
)

const (
	leaseTime  = 2 * time.Second        // that a holder who died keeps the lease
	leaseEvery = 400 * time.Millisecond // prolonged, or asked for
)

// errLeaseLost ends the work of a syncer that another one does from now on.
var errLeaseLost = errors.New("another syncer took the lease")

// takeTurns syncs while this syncer holds the lease, until ctx or the source ends.
// Each time it starts from what the store has then: what it held when it lost the
// lease may be too old.
func (s *Syncer) takeTurns(ctx context.Context, l store.Leaser) error {
	defer s.release(l)
	for {
		held, err := s.acquire(ctx, l)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errors.ErrUnsupported):
			s.cfg.Logger.Warn("the store has no leases; syncing without one", "env", s.env, "error", err)
			return s.serve(ctx)
		case held:
			s.cfg.Logger.Info("got the lease", "env", s.env, "name", s.cfg.Name)
			s.update(func(_ *Status, h *health) { *h = health{} })
			if err := s.turn(ctx, l); !errors.Is(err, errLeaseLost) {
				return err
			}
			s.cfg.Logger.Warn("lost the lease", "env", s.env, "name", s.cfg.Name)
		}
		why := ErrStandby
		if err != nil {
			why = fmt.Errorf("store: %w", err)
		}
		s.update(func(_ *Status, h *health) { *h = health{linkErr: why} })
		if !pause(ctx, around(leaseEvery)) {
			return ctx.Err()
		}
	}
}

// turn syncs until the lease is lost, or ctx or the source ends. A store that does
// not answer takes no lease away: nobody can write to it.
func (s *Syncer) turn(ctx context.Context, l store.Leaser) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var prolonging sync.WaitGroup
	prolonging.Go(func() {
		for pause(ctx, around(leaseEvery)) {
			if held, err := s.acquire(ctx, l); err == nil && !held {
				cancel(errLeaseLost)
				return
			}
		}
	})
	err := s.serve(ctx)
	cancel(nil)
	prolonging.Wait()
	return err
}

func (s *Syncer) acquire(ctx context.Context, l store.Leaser) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, min(s.cfg.StoreTimeout, leaseTime))
	defer cancel()
	return l.Acquire(ctx, s.cfg.Name, leaseTime)
}

// release lets another syncer take over at once.
func (s *Syncer) release(l store.Leaser) {
	ctx, cancel := context.WithTimeout(context.Background(), min(time.Second, s.cfg.StoreTimeout))
	defer cancel()
	if err := l.Release(ctx, s.cfg.Name); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		s.cfg.Logger.Info("the lease runs out by itself", "env", s.env, "error", err)
	}
}
