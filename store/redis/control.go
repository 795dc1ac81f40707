package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/flagstead/flagstead/store"
)

var _ store.Controller = (*Store)(nil)

// errNoControl is what FeatBit's layout answers with.
var errNoControl = fmt.Errorf("FeatBit's layout cannot be frozen: %w", errors.ErrUnsupported)

// WriteControl implements [store.Controller]. In LayoutFeatBit, where others write
// as they please, the error wraps [errors.ErrUnsupported].
func (s *Store) WriteControl(ctx context.Context, c store.Control) error {
	if s.featbit != nil {
		return s.featbit.wrap("write control of", errNoControl)
	}
	err := s.usable(ctx)
	if err == nil {
		err = c.Check()
	}
	if err == nil {
		now := time.Now()
		if c.At.IsZero() {
			c.At = now
		}
		_, err = s.run(ctx, s.command(controlScript), []string{s.control}, age(c.At, now), flagOf(c.Frozen), c.By, c.Reason, c.Pinned)
	}
	if err != nil {
		return s.wrap("write control of", err)
	}
	return nil
}

// ReadControl implements [store.Controller]. Its time is of this host's clock, as
// old as it is by the server's. In LayoutFeatBit there is never one.
func (s *Store) ReadControl(ctx context.Context) (store.Control, error) {
	if s.featbit != nil {
		if err := s.usable(ctx); err != nil {
			return store.Control{}, s.featbit.wrap("read control of", err)
		}
		return store.Control{}, nil
	}
	reply, err := s.run(ctx, s.query(controlsScript), []string{s.control})
	if err != nil {
		return store.Control{}, s.wrap("read control of", err)
	}
	c, err := controlOf(reply, time.Now())
	if err != nil {
		return store.Control{}, s.wrap("read control of", err)
	}
	return c, nil
}

// controlOf reads the answer of controls.lua that came at now.
func controlOf(reply []string, now time.Time) (c store.Control, err error) {
	if reply[0] == "none" {
		return c, nil
	}
	if len(reply) != 6 {
		return c, fmt.Errorf("unexpected answer %.80q of a script", reply)
	}
	c = store.Control{Frozen: reply[2] == "1", By: reply[3], Reason: reply[4]}
	if c.At, err = before(now, reply[1]); err != nil {
		return store.Control{}, err
	}
	if c.Pinned, err = strconv.ParseUint(reply[5], 10, 64); err != nil {
		return store.Control{}, fmt.Errorf("%w: a control that pins revision %.20q", ErrDamaged, reply[5])
	}
	return c, nil
}

func flagOf(b bool) string {
	if b {
		return "1"
	}
	return "0"
}
