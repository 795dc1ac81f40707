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
	own      *memory.Store // nil if Config has a Store, or is Offline
	cancel   context.CancelFunc
	life     context.Context // ends with Close
	running  sync.WaitGroup
	stopped  chan struct{} // closed when all goroutines have ended
	closed   chan struct{} // closed by the first Close
	ready    chan struct{} // closed when set is not nil
	once     sync.Once
	listener listeners
	caughtUp chan struct{} // the source says OK
	applied  chan struct{} // capacity 1: rev moved

	notify sync.Mutex // one call of OnStatus at a time

	loading sync.Mutex // one load at a time, and guards loads
	loads   int        // of an offline client without a Store

	mu       sync.Mutex // guards what follows
	status   Status
	rev      store.Rev    // of the store, that the flags are at
	revAt    time.Time    // since when
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

	frozen bool // an operator has frozen the store

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
		applied:  make(chan struct{}, 1),
		status:   Status{Since: time.Now()},
		fresh:    freshness{began: time.Now()},
	}
	from := p.Store
	switch {
	case from != nil:
	case p.Offline:
		if err := c.load(items); err != nil {
			return nil, err
		}
	default:
		c.own = memory.New()
		from = c.own
		if items != nil {
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
		report := sourceStatus{state: State(s.State), err: s.Err, heard: s.Heard, skew: s.ClockSkew, frozen: s.Frozen != nil}
		if report.frozen && s.State == syncer.OK {
			report.state, report.err = Interrupted, fmt.Errorf("%w: %s", store.ErrFrozen, s.Frozen.Reason)
		}
		c.report(report)
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

// start starts the client's goroutines, all of which Close waits for. They follow from,
// if that is not nil, and run, which fills it, likewise.
func (c *Client) start(from store.Reader, run DataSource) {
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel, c.life = cancel, ctx
	switch {
	case c.plan.sink != nil:
		c.sink = c.plan.sink
	case c.plan.endpoint != "" || c.plan.outbox:
		c.events = c.plan.pipeline()
	}
	if from != nil {
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
	}
	if run != nil || c.plan.Store != nil {
		c.running.Go(func() { c.age(ctx) })
	}
	if w, ok := from.(store.ReportWriter); ok && c.plan.Report {
		c.running.Go(func() { c.reportTo(ctx, w) })
	}
	if run != nil {
		c.running.Go(func() { c.catchUp(ctx, from) })
		c.running.Go(func() { c.feed(ctx, from.(store.DataStore), run) })
	}
	go func() {
		<-c.closed
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

// follow takes over what the store holds. It runs on one goroutine at a time.
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
	if old != nil {
		c.listener.notify(old, next, changes)
	}
	c.update(func() {
		if c.rev != snap.Rev {
			c.revAt = time.Now()
		}
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
		// The first flags are served now, which is what listeners compare with what
		// they had. It is not announced yet that they are there: to a listener that was
		// added afterwards they are no change.
		c.listener.notify(old, next, changes)
		close(c.ready)
	}
	select {
	case c.applied <- struct{}{}:
	default:
	}
}

// newest returns what was loaded last, or nil.
func (c *Client) newest() *flags.Set {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.latest
}

func (c *Client) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
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
		if c.plan.HTTPClient == nil && c.plan.http != nil {
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
