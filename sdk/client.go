package sdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
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
)

// String returns the state's name in lower case.
func (s State) String() string {
	return [...]string{"initializing", "ok", "interrupted", "off"}[s&3]
}

// Status describes a client at one moment.
type Status struct {
	State State
	Since time.Time // when State was entered
	Err   error     // what keeps the client from being OK, or nil

	Ready    bool      // there are flags to evaluate
	Flags    int       // how many, archived ones included
	Segments int       //
	Updated  time.Time // when the flags last changed in this process
}

// A Client evaluates flags. Make it with [New] and close it. All methods are
// safe for concurrent use, also after Close.
type Client struct {
	set    atomic.Pointer[flags.Set] // nil until ready
	events *insight.Pipeline         // nil: none

	plan     *plan
	cancel   context.CancelFunc
	running  sync.WaitGroup
	stopped  chan struct{} // closed when all goroutines have ended
	closed   chan struct{} // closed by the first Close
	ready    chan struct{} // closed when set is not nil
	once     sync.Once
	listener listeners

	notify sync.Mutex // one call of OnStatus at a time

	mu       sync.Mutex // guards what follows
	status   Status
	storeErr error          // why the store cannot be followed
	source   *syncer.Status // of the client's own syncer
	hopeless chan struct{}  // closed when FeatBit refused the secret
}

// New returns a client that has begun to get its flags. It does not wait for
// them, see [Client.WaitReady]; only the Bootstrap is there at once. The error
// says what is wrong with cfg; trouble with networks and stores is no error but
// shows in [Client.Status]. Close the client to stop its goroutines.
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
		status:   Status{Since: time.Now()},
	}
	source := p.Store
	var own *memory.Store
	if source == nil {
		own = memory.New()
		source = own
		if items != nil {
			if _, err := own.Apply(context.Background(), store.Change{Full: true, Items: items}); err != nil {
				return nil, fmt.Errorf("sdk: Bootstrap: %w", err)
			}
			snap, err := own.Load(context.Background(), "")
			if err != nil {
				return nil, fmt.Errorf("sdk: Bootstrap: %w", err)
			}
			c.follow(snap, nil)
		}
	}
	var sync *syncer.Syncer
	if p.direct {
		if sync, err = c.syncer(source.(store.DataStore)); err != nil {
			return nil, err
		}
	}
	c.start(source, own, sync)
	return c, nil
}

func (c *Client) syncer(st store.DataStore) (*syncer.Syncer, error) {
	sc := c.plan.Sync
	sc.URL, sc.Secret, sc.Store = c.plan.StreamingURL, c.plan.EnvSecret, st
	sc.Logger, sc.TLS, sc.Proxy = c.plan.Logger, c.plan.TLS, c.plan.Proxy
	sc.OnStatus = func(s syncer.Status) { c.update(func() { c.source = &s }) }
	if sc.Check <= 0 && c.plan.Store == nil {
		sc.Check = time.Minute // nobody else can touch the client's own memory
	}
	s, err := syncer.New(sc)
	if err != nil {
		return nil, fmt.Errorf("sdk: %w", err)
	}
	return s, nil
}

// start starts the client's goroutines, all of which Close waits for.
func (c *Client) start(source store.Reader, own *memory.Store, s *syncer.Syncer) {
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	if c.plan.endpoint != "" {
		c.events = c.plan.pipeline()
	}
	c.running.Go(func() {
		err := store.Follow(ctx, source, c.plan.Follow, c.follow)
		if ctx.Err() == nil {
			c.update(func() { c.storeErr = err })
		}
	})
	if s != nil {
		c.running.Go(func() {
			if err := s.Run(ctx); errors.Is(err, ErrUnauthorized) {
				close(c.hopeless)
			}
		})
	}
	go func() {
		c.running.Wait()
		c.listener.close()
		if own != nil {
			own.Close()
		}
		close(c.stopped)
	}()
}

// errFlushed says that a store that had flags is empty.
var errFlushed = errors.New("the store is empty")

// follow takes over what the store holds. It runs on one goroutine.
func (c *Client) follow(snap store.Snapshot, err error) {
	old := c.set.Load()
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
	c.set.Store(next)
	// Before ready is announced: to a listener that was added afterwards the
	// first flags are no change.
	c.listener.notify(old, next, changes)
	nFlags, nSegments := next.Len()
	c.update(func() {
		c.storeErr = nil
		c.status.Flags, c.status.Segments = nFlags, nSegments
		if old == nil || len(changes.Flags)+len(changes.Segments) > 0 {
			c.status.Updated = time.Now()
		}
		if old == nil {
			c.status.Ready = true
			close(c.ready)
		}
	})
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
	return s == t
}

func (c *Client) derive() {
	var state State
	err := c.storeErr
	isClosed := false
	select {
	case <-c.closed:
		isClosed = true
	default:
	}
	sourceOK := true
	if c.source != nil {
		sourceOK = c.source.State == syncer.OK
		if err == nil {
			err = c.source.Err
		}
	} else if c.plan.direct {
		sourceOK = false
	}
	switch {
	case isClosed:
		state, err = Off, ErrClosed
	case c.source != nil && c.source.State == syncer.Off:
		state = Off
	case !c.status.Ready:
		state = Initializing
	case c.storeErr == nil && sourceOK:
		state = OK
	default:
		state = Interrupted
	}
	if state != c.status.State {
		c.status.State, c.status.Since = state, time.Now()
	}
	c.status.Err = err
}

// Status returns the current status. It does not block.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// Ready reports whether the client has flags to evaluate.
func (c *Client) Ready() bool { return c.set.Load() != nil }

// WaitReady blocks until the client has flags to evaluate, from wherever, and
// returns nil; or until ctx ends, the client is closed, or FeatBit refused the
// secret for good, and returns an error that says what is missing and wraps
// ctx's error, [ErrClosed] or [ErrUnauthorized].
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
		err = ErrUnauthorized
	}
	if why := c.Status().Err; why != nil {
		if errors.Is(why, err) {
			return fmt.Errorf("sdk: not ready: %w", why)
		}
		return fmt.Errorf("sdk: not ready: %w (%w)", err, why)
	}
	return fmt.Errorf("sdk: not ready: %w: the store has no flags yet", err)
}

// Identify sends u to FeatBit, so that it can be found and targeted there. A
// nil user is ignored, and so is the call if events are not sent.
func (c *Client) Identify(u *User) {
	if c.events != nil && u != nil {
		c.events.Identify((*flags.User)(u))
	}
}

// TrackMetric sends a custom event of u, with a value that counts for
// experiments with this metric; use 1 for an occurrence. A nil user, an empty
// name or a value that is not finite is ignored. For an experiment, evaluate
// its flag first.
func (c *Client) TrackMetric(u *User, event string, value float64) {
	c.TrackMetrics(u, map[string]float64{event: value})
}

// TrackMetrics is [Client.TrackMetric] for several events at once.
func (c *Client) TrackMetrics(u *User, values map[string]float64) {
	if c.events == nil || u == nil {
		return
	}
	list := make([]insight.Metric, 0, len(values))
	for name, value := range values {
		if name != "" && !math.IsNaN(value) && !math.IsInf(value, 0) {
			list = append(list, insight.Metric{Name: name, Value: value})
		}
	}
	if len(list) > 0 {
		c.events.Metrics((*flags.User)(u), list)
	}
}

// Flush sends the events recorded so far and returns when each was delivered or
// refused, or with ctx's error. Sending goes on in that case. After Close it
// returns [ErrClosed].
func (c *Client) Flush(ctx context.Context) error {
	if c.events == nil {
		return nil
	}
	err := c.events.Flush(ctx)
	if errors.Is(err, insight.ErrClosed) {
		return ErrClosed
	}
	return err
}

// EventStats counts events since the client was made. Recorded is always
// Delivered + Dropped + Failed + Pending.
type EventStats = insight.Stats

// EventStats returns the counters; all are zero if events are not sent.
func (c *Client) EventStats() EventStats {
	if c.events == nil {
		return EventStats{}
	}
	return c.events.Stats()
}

// Close stops the client: it leaves FeatBit and the store, delivers the events
// that are left until ctx ends, and waits for the client's goroutines. It
// returns ctx's error if events were given up. Evaluations go on to work on the
// last flags. Close may be called more than once and at any time.
func (c *Client) Close(ctx context.Context) error {
	c.once.Do(func() {
		close(c.closed)
		c.cancel()
		c.update(func() {})
	})
	var err error
	if c.events != nil {
		err = c.events.Close(ctx)
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

// maxBootstrap bounds a bootstrap file.
const maxBootstrap = 256 << 20

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxBootstrap+1))
	if err == nil && len(text) > maxBootstrap {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxBootstrap)
	}
	return text, err
}
