package sdk

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A State says how a client and its source of flags stand.
type State uint8

// The states, in FeatBit's terms.
const (
	Initializing State = iota // no flags yet: calls give their defaults
	OK                        // the flags are as new as the source's
	Interrupted               // the last flags are served; newer ones may exist
	Off                       // closed, or refused by FeatBit for good
	Unknown                   // only of a source: the store does not say
)

// String returns the state's name in lower case.
func (s State) String() string {
	if s > Unknown {
		return fmt.Sprintf("state(%d)", uint8(s))
	}
	return [...]string{"initializing", "ok", "interrupted", "off", "unknown"}[s]
}

// Status describes a client at one moment.
type Status struct {
	State State     // how the client and its source stand
	Since time.Time // when State was entered
	Err   error     // what keeps the client from being OK, or nil

	Ready    bool      // there are flags to evaluate
	Flags    int       // how many, archived ones included
	Segments int       //
	Updated  time.Time // when the flags last changed in this process

	// StaleSince is since when newer flags may exist that this client has not
	// seen: when FeatBit was last heard of, or when the store failed. It is
	// zero while State is OK and before Ready.
	StaleSince time.Time

	// Confirmed is when the source last confirmed that the flags are current: for
	// a reader, what the store's heartbeat says of its writer and FeatBit. Zero if
	// nobody did. OnStatus is not called for it alone.
	Confirmed time.Time

	// Source is how the source stands that fills the store: this client's own
	// connection, or the syncer that wrote the store's heartbeat, which is called
	// Writer. Unknown if the store has no heartbeat. Several syncers of one store
	// take turns with it, so OnStatus is not called for Writer alone.
	Source State
	Writer string

	// Layer names the part of a [store.Layers] that the flags are from.
	Layer string

	// ClockSkew is FeatBit's clock minus this host's, to about a second; zero
	// if unknown or without a connection of the client's own. Connecting works
	// in spite of it, but the times of events are this host's.
	ClockSkew time.Duration
}

// Status returns the current status. It does not block.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// Ready reports whether the client has flags to evaluate. It stays true when they
// become old, see Config.MaxAge.
func (c *Client) Ready() bool {
	// The flags may come back between the first two looks.
	return c.set.Load() != nil || c.withheld.Load() || c.set.Load() != nil
}

// WaitReady blocks until the client has flags to evaluate, from wherever, and
// returns nil; or until ctx ends, the client is closed, or its source gave up
// for good, and returns an error that says what is missing and wraps ctx's
// error, [ErrClosed], or the source's, which is [ErrUnauthorized] when FeatBit
// refused the secret.
func (c *Client) WaitReady(ctx context.Context) error {
	select {
	case <-c.ready:
		return nil
	default:
	}
	var err error
	select {
	case <-c.ready:
		return nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-c.closed:
		return ErrClosed
	case <-c.hopeless:
		err = c.Status().Err
	}
	return c.missing("not ready", err)
}

// missing says that something is not there yet, because of err, and what the
// client knows about the reason.
func (c *Client) missing(what string, err error) error {
	why := c.Status().Err
	switch {
	case why == nil && c.Ready():
		return fmt.Errorf("sdk: %s: %w", what, err)
	case why == nil:
		return fmt.Errorf("sdk: %s: %w: the store has no flags yet", what, err)
	case err == nil || errors.Is(why, err):
		return fmt.Errorf("sdk: %s: %w", what, why)
	}
	return fmt.Errorf("sdk: %s: %w (%w)", what, err, why)
}

// WaitFor blocks until the client's state is want, and returns nil; or until
// ctx ends, or the state is Off, which is final, and returns an error that wraps
// ctx's error, [ErrClosed] or the source's.
func (c *Client) WaitFor(ctx context.Context, want State) error {
	for {
		c.mu.Lock()
		st, changed := c.status, c.changed
		c.mu.Unlock()
		switch {
		case st.State == want:
			return nil
		case st.State == Off:
			return c.missing("not "+want.String(), st.Err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return c.missing("not "+want.String(), ctx.Err())
		}
	}
}

// update changes what the status is derived from and reports a new status.
func (c *Client) update(change func()) {
	c.notify.Lock()
	defer c.notify.Unlock()
	c.mu.Lock()
	before := c.status
	change()
	c.derive()
	after := c.status
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
	if after.State != before.State {
		c.plan.Logger.Info("client state", "state", after.State.String(), "error", after.Err)
	}
	if c.plan.OnStatus != nil && !after.same(before) {
		c.plan.OnStatus(after)
	}
}

// same compares errors by their text, since errors of a store need not be
// comparable.
func (s Status) same(t Status) bool {
	if (s.Err == nil) != (t.Err == nil) || s.Err != nil && s.Err.Error() != t.Err.Error() {
		return false
	}
	s.Err, t.Err = nil, nil
	s.Confirmed, t.Confirmed = time.Time{}, time.Time{}
	s.Writer, t.Writer = "", "" // several take turns
	return s == t
}

func (c *Client) derive() {
	st := &c.status
	before := st.State
	now := time.Now()
	sourceErr := c.deriveFreshness(now)
	if c.plan.direct {
		sourceErr = c.source.err
	}
	sourceOK := !c.plan.direct && sourceErr == nil || c.source.state == OK && c.source.seen
	err := c.storeErr
	if err == nil {
		err = c.fresh.degraded
	}
	if err == nil || c.source.state == Off && c.source.err != nil {
		err = sourceErr
	}
	if old := c.deriveTooOld(now); old != nil {
		err = errors.Join(old, err)
	}
	c.serve()
	switch {
	case c.isClosed():
		st.State, err = Off, ErrClosed
	case c.plan.direct && c.source.state == Off:
		st.State = Off
	case !st.Ready:
		st.State = Initializing
	case c.storeErr == nil && c.fresh.degraded == nil && sourceOK && !c.fresh.tooOld:
		st.State = OK
	default:
		st.State = Interrupted
	}
	if st.State != before {
		st.Since = now
	}
	st.Err, st.ClockSkew = err, c.source.skew
	c.deriveStale(sourceOK)
}

func (c *Client) deriveStale(sourceOK bool) {
	st := &c.status
	switch {
	case st.State == OK || !st.Ready:
		st.StaleSince = time.Time{}
		c.stale.Store(0)
	default:
		since := st.StaleSince
		if since.IsZero() {
			since = st.Since
		}
		heard := c.source.heard
		if !c.plan.direct {
			heard = st.Confirmed
		}
		// That flags are old may turn out after they were loaded.
		if (!sourceOK || c.fresh.degraded != nil || c.fresh.tooOld) && !heard.IsZero() && heard.Before(since) {
			since = heard
		}
		st.StaleSince = since
		c.stale.Store(since.UnixNano())
	}
}
