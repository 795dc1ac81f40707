package sdk

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flagstead/flagstead/internal/flags"
	"github.com/flagstead/flagstead/internal/insight"
	"github.com/flagstead/flagstead/internal/snapshot"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/syncer"
)

// Errors to test for with [errors.Is].
var (
	// ErrClosed says that the client was closed.
	ErrClosed = errors.New("sdk: client is closed")

	// ErrUnauthorized says that FeatBit refuses the secret for good.
	ErrUnauthorized = syncer.ErrUnauthorized
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

// A Client evaluates flags. Make it with [New] and close it. All methods are
// safe for concurrent use, also after Close.
type Client struct {
	set    atomic.Pointer[flags.Set] // what is evaluated; nil until ready, and while withheld
	events *insight.Pipeline         // nil: none, or sink
	sink   EventSink                 // nil: none, or events
	stale  atomic.Int64              // Status.StaleSince in Unix nanoseconds, or 0

	confirmed   atomic.Int64  // Status.Confirmed, likewise
	sourceState atomic.Uint32 // Status.Source
	withheld    atomic.Bool   // the flags are too old to be evaluated

	plan     *plan
	own      *memory.Store // nil if Config has a Store
	cancel   context.CancelFunc
	life     context.Context // ends with Close
	running  sync.WaitGroup
	stopped  chan struct{} // closed when all goroutines have ended
	closed   chan struct{} // closed by the first Close
	ready    chan struct{} // closed when set is not nil
	once     sync.Once
	listener listeners
	caughtUp chan struct{} // the source says OK

	notify sync.Mutex // one call of OnStatus at a time

	mu       sync.Mutex // guards what follows
	status   Status
	rev      store.Rev    // of the store, that the flags are at
	storeErr error        // why the store cannot be followed
	source   sourceStatus // of what fills the store, if the client does
	latest   *flags.Set   // what was loaded last; nil until ready
	fresh    freshness

	confirmedBy func() time.Time // of the client's own syncer, or nil
	hopeless    chan struct{}    // closed when the source has given up for good
	changed     chan struct{}    // closed, and replaced, when anything of this changes
}

// sourceStatus is how what feeds the client's store stands.
type sourceStatus struct {
	state State
	err   error
	heard time.Time // when there was last a sign of life; zero if unknown
	skew  time.Duration

	// An OK of the source counts once the flags that it speaks of are those that
	// are evaluated: the store has them a moment earlier.
	gen  int  // counts reports
	seen bool // it counts
}

// New returns a client that has begun to get its flags. It waits for them no
// longer than Config.StartWait, see also [Client.WaitReady]; only a bootstrap is
// there at once. The error says what is wrong with cfg; trouble with networks
// and stores is no error but shows in [Client.Status]. Close the client to stop
// its goroutines.
func New(cfg Config) (*Client, error) {
	p, err := cfg.check()
	if err != nil {
		return nil, err
	}
	items, err := p.bootstrap()
	if err != nil {
		return nil, err
	}
	c := &Client{
		plan:     p,
		stopped:  make(chan struct{}),
		closed:   make(chan struct{}),
		ready:    make(chan struct{}),
		hopeless: make(chan struct{}),
		changed:  make(chan struct{}),
		caughtUp: make(chan struct{}, 1),
		status:   Status{Since: time.Now()},
		fresh:    freshness{began: time.Now()},
	}
	from := p.Store
	if from == nil {
		c.own = memory.New()
		from = c.own
		if items != nil || p.Offline {
			if err := c.begin(items); err != nil {
				return nil, fmt.Errorf("sdk: Bootstrap: %w", err)
			}
		}
	}
	run := p.DataSource
	if p.streaming {
		if run, err = c.stream(from.(store.DataStore)); err != nil {
			return nil, err
		}
	}
	c.start(from, run)
	if p.StartWait > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), p.StartWait)
		defer cancel()
		if err := c.WaitReady(ctx); err != nil {
			p.Logger.Warn("started without flags", "waited", p.StartWait, "error", err)
		}
	}
	return c, nil
}

// begin makes items the client's first flags.
func (c *Client) begin(items []store.Item) error {
	if _, err := c.own.Apply(context.Background(), store.Change{Full: true, Items: items}); err != nil {
		return err
	}
	snap, err := c.own.Load(context.Background(), "")
	if err != nil {
		return err
	}
	c.follow(snap, nil)
	return nil
}

// stream returns the source that is FeatBit's stream into st.
func (c *Client) stream(st store.DataStore) (DataSource, error) {
	sc := c.plan.Sync
	sc.URL, sc.Secret, sc.Store = c.plan.StreamingURL, c.plan.EnvSecret, st
	sc.Logger, sc.TLS, sc.Proxy = c.plan.Logger, c.plan.TLS, c.plan.Proxy
	if sc.DialTimeout <= 0 {
		sc.DialTimeout = c.plan.ConnectTimeout
	}
	sc.OnStatus = func(s syncer.Status) {
		c.report(sourceStatus{state: State(s.State), err: s.Err, heard: s.Heard, skew: s.ClockSkew})
	}
	if sc.Check <= 0 && c.plan.Store == nil {
		sc.Check = time.Minute // nobody else can touch the client's own memory
	}
	s, err := syncer.New(sc)
	if err != nil {
		return nil, fmt.Errorf("sdk: %w", err)
	}
	c.confirmedBy = func() time.Time { return s.Status().Confirmed }
	if c.own != nil {
		s.Accept() // a bootstrap may have other flags; it is no store to guard
	}
	return func(ctx context.Context, _ DataStore, _ func(State, error)) error { return s.Run(ctx) }, nil
}

// start starts the client's goroutines, all of which Close waits for.
func (c *Client) start(from store.Reader, run DataSource) {
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel, c.life = cancel, ctx
	switch {
	case c.plan.sink != nil:
		c.sink = c.plan.sink
	case c.plan.endpoint != "":
		c.events = c.plan.pipeline()
	}
	c.running.Go(func() {
		opts := c.plan.Follow
		if run == nil {
			opts.OnHeartbeat = c.heartbeat
			if opts.HoldBack == 0 {
				opts.HoldBack = 5 * time.Second
			}
		}
		err := store.Follow(ctx, from, opts, c.follow)
		if ctx.Err() == nil {
			c.update(func() { c.storeErr = err })
		}
	})
	if run != nil || c.plan.Store != nil {
		c.running.Go(func() { c.age(ctx) })
	}
	if run != nil {
		c.running.Go(func() { c.catchUp(ctx, from) })
		c.running.Go(func() { c.feed(ctx, from.(store.DataStore), run) })
	}
	go func() {
		c.running.Wait()
		c.listener.close()
		if c.own != nil {
			c.own.Close()
		}
		close(c.stopped)
	}()
}

// feed runs what fills the client's store, until that ends.
func (c *Client) feed(ctx context.Context, st store.DataStore, run DataSource) {
	heard := time.Time{}
	err := run(ctx, st, func(state State, err error) {
		if state == OK {
			heard = time.Now()
		}
		c.report(sourceStatus{state: state, err: err, heard: heard})
	})
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		err = errors.New("the data source ended")
	}
	c.report(sourceStatus{state: Off, err: err, heard: heard})
}

// report takes what the source says of itself. After Off it has nothing to say.
func (c *Client) report(s sourceStatus) {
	c.update(func() {
		if c.source.state == Off {
			return
		}
		s.gen = c.source.gen + 1
		s.seen = s.state == OK && c.source.state == OK && c.source.seen
		if s.heard.IsZero() {
			s.heard = c.source.heard
		}
		c.source = s
		if s.state == Off {
			close(c.hopeless)
		}
	})
	if s.state == OK {
		select {
		case c.caughtUp <- struct{}{}:
		default:
		}
	}
}

// catchUp lets each OK of the source count once its flags are evaluated.
func (c *Client) catchUp(ctx context.Context, from store.Reader) {
	for {
		select {
		case <-c.caughtUp:
		case <-ctx.Done():
			return
		}
		for seen := false; !seen; {
			c.mu.Lock()
			at, changed, gen := c.rev, c.changed, c.source.gen
			c.mu.Unlock()
			loadCtx, cancel := context.WithTimeout(ctx, 10*time.Second)
			snap, err := from.Load(loadCtx, at)
			cancel()
			if seen = err == nil && snap.Rev == at; seen {
				c.update(func() {
					if c.source.gen == gen {
						c.source.seen = c.source.state == OK
					}
				})
				continue
			}
			select {
			case <-changed: // the follower moved, or says what is wrong
			case <-time.After(time.Second):
			case <-ctx.Done():
				return
			}
		}
	}
}

// errFlushed says that a store that had flags is empty.
var errFlushed = errors.New("the store is empty")

// follow takes over what the store holds. It runs on one goroutine.
func (c *Client) follow(snap store.Snapshot, err error) {
	old := c.newest()
	switch {
	case err != nil:
		c.update(func() { c.storeErr = err })
		return
	case snap.Rev == "" && old != nil:
		// Flushed. The last flags are worth more than none.
		c.update(func() { c.storeErr = errFlushed })
		return
	case snap.Rev == "":
		c.update(func() { c.storeErr = nil })
		return
	}
	if snap.Delta && old == nil {
		// Follow delivers a full state first; this cannot be evaluated.
		c.update(func() { c.storeErr = errors.New("the store gave changes without a state to apply them to") })
		return
	}
	next, changes := snapshot.Apply(old, snap)
	nFlags, nSegments := next.Len()
	var beat store.Heartbeat
	if old == nil {
		beat = c.firstHeartbeat() // whether they may be served is known before they are
	} else {
		c.mu.Lock()
		c.latest = next
		c.serve()
		c.mu.Unlock()
	}
	// Before ready is announced: to a listener that was added afterwards the
	// first flags are no change.
	c.listener.notify(old, next, changes)
	c.update(func() {
		c.storeErr, c.rev = nil, snap.Rev
		c.fresh.layer, c.fresh.degraded = snap.Layer, snap.Degraded
		c.status.Flags, c.status.Segments = nFlags, nSegments
		if old == nil || len(changes.Flags)+len(changes.Segments) > 0 {
			c.status.Updated = time.Now()
		}
		if old == nil {
			c.latest, c.status.Ready = next, true
			if !beat.Written.IsZero() {
				c.fresh.beat = beat
			}
		}
	})
	if old == nil {
		close(c.ready)
	}
}

// newest returns what was loaded last, or nil.
func (c *Client) newest() *flags.Set {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.latest
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

func (c *Client) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
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

// Offline reports whether the client was made to use no network.
func (c *Client) Offline() bool { return c.plan.Offline }

// Close stops the client: it leaves FeatBit and the store, delivers the events
// that are left until ctx ends, and waits for the client's goroutines, calls of
// listeners included, which therefore must not call it. It returns ctx's error if
// that cut it short; what became of the events says [Client.EventStats].
// Evaluations go on to work on the last flags. Close may be called more than once
// and at any time. Give it a context with a deadline: while the event server does
// not answer, it waits and tries as often as Config.EventAttempts says.
func (c *Client) Close(ctx context.Context) error {
	first := false
	c.once.Do(func() {
		first = true
		close(c.closed)
		c.cancel()
		c.update(func() {})
	})
	var err error
	switch {
	case c.events != nil:
		err = c.events.Close(ctx)
		if c.plan.HTTPClient == nil {
			c.plan.http.CloseIdleConnections()
		}
	case c.sink != nil && first:
		err = c.sink.Flush(ctx)
	}
	select {
	case <-c.stopped:
		return err
	default:
	}
	select {
	case <-c.stopped:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
