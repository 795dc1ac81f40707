package sdk

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/flagstead/flagstead/store"
)

// ErrTooOld says that the flags are older than Config.MaxAge. It is found in
// Status.Err, and with ServeDefaults in Detail.Err.
var ErrTooOld = errors.New("sdk: the flags are too old")

// A StalePolicy says what is served when the flags are older than Config.MaxAge.
type StalePolicy uint8

// The policies.
const (
	ServeStale    StalePolicy = iota // the last flags
	ServeDefaults                    // the callers' defaults, with ErrTooOld
)

// DataAge returns how long ago the source last confirmed that the flags are
// current. It is false if nobody ever did, or can: a file that is edited by hand,
// a bootstrap.
func (s Status) DataAge() (time.Duration, bool) {
	if s.Confirmed.IsZero() {
		return 0, false
	}
	return max(0, time.Since(s.Confirmed)), true
}

// freshness is what the client knows of how current its store is. The client's
// mu guards it.
type freshness struct {
	began    time.Time // when the client was made
	beat     store.Heartbeat
	beatErr  error  // why that cannot be read
	layer    string // of the store, that the flags are from
	degraded error  // why they are not from the best layer
	tooOld   bool   // the flags are older than MaxAge
}

// silent is how long nothing may be heard of a writer, or confirmed by one that is
// in trouble, before the flags count as stale.
const silent = 3 * store.HeartbeatLife

// leastMaxAge is how old flags get while all is well: by the syncer's pings, its
// heartbeats and the poll that reads these, with a little for delays.
const leastMaxAge = 20 * time.Second

// firstHeartbeat returns what a reader's store says of its writer, if flags may be
// too old to be served. It asks no longer than a second.
func (c *Client) firstHeartbeat() store.Heartbeat {
	r, ok := c.plan.Store.(store.HeartbeatReader)
	if !ok || c.plan.direct || c.plan.MaxAge <= 0 {
		return store.Heartbeat{}
	}
	ctx, cancel := context.WithTimeout(c.life, time.Second)
	defer cancel()
	h, err := r.ReadHeartbeat(ctx)
	if err != nil {
		c.plan.Logger.Warn("the store's heartbeat cannot be read", "error", err)
	}
	return h
}

// heartbeat takes what the store says of its writer.
func (c *Client) heartbeat(h store.Heartbeat, err error) {
	c.update(func() {
		if err != nil && c.fresh.beatErr == nil {
			c.plan.Logger.Warn("the store's heartbeat cannot be read", "error", err)
		}
		c.fresh.beatErr = err
		if err == nil && !h.Written.IsZero() { // one that got lost is not forgotten
			c.fresh.beat = h
		}
	})
	if own := c.plan.Follow.OnHeartbeat; own != nil {
		own(h, err)
	}
}

// age derives the status again as time goes by, until ctx ends.
func (c *Client) age(ctx context.Context) {
	every := time.Second
	if c.plan.MaxAge > 0 {
		every = min(every, max(c.plan.MaxAge/10, time.Millisecond))
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.update(func() {})
		}
	}
}

// deriveFreshness sets what the status says of the source, and returns why the
// source of a reader is not current, or nil. The caller holds mu.
func (c *Client) deriveFreshness(now time.Time) error {
	st, beat := &c.status, c.fresh.beat
	st.Layer = c.fresh.layer
	confirmed := beat.Confirmed
	switch {
	case c.plan.direct:
		st.Source, confirmed = c.source.state, c.source.heard
		if c.confirmedBy != nil {
			confirmed = c.confirmedBy()
		}
	case beat.Written.IsZero():
		st.Source = Unknown
	case beat.Source == store.SourceFrozen:
		st.Source, st.Writer = Interrupted, beat.Writer
		if now.Sub(confirmed) <= silent {
			st.Source = OK // it says what is published
		}
	default:
		st.Source, st.Writer = sourceState(beat.Source), beat.Writer
	}
	// What the store has is not what is here while it cannot be loaded. A time that
	// is ahead was that of a wrong clock.
	if c.storeErr == nil && (confirmed.After(st.Confirmed) || st.Confirmed.After(now)) {
		st.Confirmed = confirmed
	}
	c.confirmed.Store(unixNano(st.Confirmed))
	c.sourceState.Store(uint32(st.Source))
	if c.plan.direct || beat.Written.IsZero() {
		return nil
	}
	quiet, unconfirmed := now.Sub(beat.Written), now.Sub(st.Confirmed)
	switch {
	case unconfirmed <= silent:
		return nil
	case quiet > silent && c.fresh.beatErr != nil:
		return fmt.Errorf("the store's heartbeat cannot be read: %w", c.fresh.beatErr)
	case quiet > silent:
		return fmt.Errorf("the syncer %s has not been heard of since %s", beat.Writer, clock(beat.Written))
	case beat.Source == store.SourceFrozen:
		return fmt.Errorf("%w; the flags were last confirmed at %s", store.ErrFrozen, clock(st.Confirmed))
	case st.Source == OK:
		return nil
	case st.Confirmed.IsZero():
		return fmt.Errorf("the syncer %s is %s and has not heard from FeatBit yet", beat.Writer, beat.Source)
	}
	return fmt.Errorf("the syncer %s is %s, the flags were last confirmed at %s", beat.Writer, beat.Source, clock(st.Confirmed))
}

// deriveTooOld compares the flags' age with MaxAge. Flags of unknown age are as
// old as the client. The caller holds mu.
func (c *Client) deriveTooOld(now time.Time) error {
	c.fresh.tooOld = false
	if c.plan.MaxAge <= 0 || !c.status.Ready {
		return nil
	}
	if c.frozen(now) {
		return nil // an operator wants these
	}
	at, what := c.status.Confirmed, "last confirmed at "
	if at.IsZero() {
		at, what = c.fresh.began, "not confirmed since the client's start at "
	}
	if now.Sub(at) <= c.plan.MaxAge {
		return nil
	}
	c.fresh.tooOld = true
	return fmt.Errorf("%w: %s%s, more than %v ago", ErrTooOld, what, clock(at), c.plan.MaxAge)
}

// frozen reports whether an operator has frozen the store, as far as its syncer is
// there to say so. The caller holds mu.
func (c *Client) frozen(now time.Time) bool {
	if c.plan.direct {
		return c.source.frozen
	}
	return c.fresh.beat.Source == store.SourceFrozen && now.Sub(c.fresh.beat.Written) <= silent
}

// serve makes the latest flags those that are evaluated, or none if they are too
// old for that. The caller holds mu.
func (c *Client) serve() {
	// In this order one of both is there at any time, see Ready.
	if c.fresh.tooOld && c.plan.WhenTooOld == ServeDefaults {
		c.withheld.Store(true)
		c.set.Store(nil)
		return
	}
	if c.set.Load() != c.latest {
		c.set.Store(c.latest)
	}
	c.withheld.Store(false)
}

func sourceState(text string) State {
	for s := Initializing; s <= Off; s++ {
		if s.String() == text {
			return s
		}
	}
	return Unknown
}

func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromUnixNano(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}

// clock is precise enough for people, and the same at every look.
func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }
