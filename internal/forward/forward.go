// Package forward delivers insights to FeatBit: what a spool holds, and what
// readers left in a store's outbox.
//
// As long as FeatBit is away, or answers that it cannot, nothing is lost and
// attempts go on for ever, ever more slowly. What FeatBit takes for malformed is
// looked for within its batch and counted as lost. An environment whose secret
// FeatBit does not know waits by itself.
package forward

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/spool"
)

// Config says what a Forwarder delivers, and where to. Spool, URL and Secret are
// required.
type Config struct {
	// Spool is where the insights are. The Forwarder is its only consumer and does
	// not close it.
	Spool *spool.Spool

	// URL is FeatBit's event server, such as https://featbit.example.
	URL string

	// Secret returns the secret of the environment with the id env, and false if
	// there is none (any more). It is called before every batch, must not block
	// and must not call the Spool or the Forwarder.
	Secret func(env string) (protocol.Secret, bool)

	// Client makes the requests. Nil means one that times out after 10 seconds.
	Client *http.Client

	// Logger gets changes of state and what was lost. Nil means silence.
	Logger *slog.Logger

	// Requests is how many may be under way at a time, at most half of them, but
	// one at least, for one environment. Zero means 8.
	Requests int

	// Linger is how long insights wait for others to share a request with. Zero
	// means 1 second.
	Linger time.Duration

	// RetryMin and RetryMax bound the pause after a failure: each is random up to
	// a limit that doubles. Zero means 200 ms and 30 seconds.
	RetryMin, RetryMax time.Duration

	// SuspendFor is how long an environment pauses after FeatBit refused its
	// secret. Zero means 1 minute.
	SuspendFor time.Duration

	// UnknownFor is how long insights of an environment without a secret are held
	// back before they count as lost. Zero means 10 minutes.
	UnknownFor time.Duration
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	set(&c.Linger, time.Second)
	set(&c.RetryMin, 200*time.Millisecond)
	set(&c.RetryMax, 30*time.Second)
	set(&c.SuspendFor, time.Minute)
	set(&c.UnknownFor, 10*time.Minute)
	if c.Requests <= 0 {
		c.Requests = 8
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Stats counts insights since New. Recorded is always Delivered + Lost + Pending.
type Stats struct {
	Recorded  uint64 // by the spool, including what it found when it was opened
	Delivered uint64 // acknowledged by FeatBit
	Lost      Lost
	Pending   uint64 // held

	Refused   uint64 // never recorded: the spool had no room, and whoever brought them was told so
	Requests  uint64 // attempts
	Retries   uint64 // batches that have to be tried again
	Suspended int    // environments whose secret FeatBit refused
	Failing   int    // environments that wait for FeatBit to answer again
}

// Lost counts insights that will not be delivered, by reason.
type Lost struct {
	Refused uint64 // by FeatBit, as malformed or too large
	Unknown uint64 // of an environment without a secret
	Damaged uint64 // on disk
	Closed  uint64 // in a memory that ended
}

// Total returns the sum.
func (l Lost) Total() uint64 { return l.Refused + l.Unknown + l.Damaged + l.Closed }

// A Forwarder delivers what is in a spool. Its methods are safe for concurrent use.
type Forwarder struct {
	cfg    Config
	pace   pace
	sender *sender
	owned  bool // the sender's client is ours

	mu        sync.Mutex
	lanes     map[string]*lane
	delivered uint64
	lost      Lost
	requests  uint64
	retries   uint64
	ended     bool // Run has returned after Close

	started atomic.Bool
	wake    chan struct{} // a lane may go on
	closing chan struct{}
	once    sync.Once
	ctx     context.Context // of requests
	cancel  context.CancelFunc
	done    chan struct{} // closed when Run has returned
}

// A lane is how delivery goes for one environment. A lane without trouble and
// without a batch under way is not kept.
type lane struct {
	underway  int
	failures  int       // in a row
	changed   time.Time // when the last of them was noticed
	until     time.Time // nothing is sent before
	suspended bool
	unknown   time.Time // since when there is no secret; zero: there is one
	successes uint64
	stubborn  map[*spool.Batch]*trouble
}

// A trouble is a batch that fails while others of its environment succeed.
type trouble struct {
	seen  uint64 // successes at its last failure
	count int
}

// maxTrouble is how often a batch may fail that way before the server is taken for
// unable to digest it.
const maxTrouble = 8

// New returns a Forwarder, which does nothing before Run. The error says what in cfg
// makes no sense.
func New(cfg Config) (*Forwarder, error) {
	switch {
	case cfg.Spool == nil:
		return nil, errors.New("forward: Config has no Spool")
	case cfg.Secret == nil:
		return nil, errors.New("forward: Config has no Secret")
	}
	cfg = cfg.withDefaults()
	f := &Forwarder{
		cfg: cfg, pace: pace{cfg.RetryMin, cfg.RetryMax}, owned: cfg.Client == nil,
		lanes: map[string]*lane{},
		wake:  make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{}),
	}
	var err error
	f.sender, err = newSender(cfg.URL, cfg.Client, cfg.Requests, func(err error) {
		cfg.Logger.Warn("FeatBit refused an insight", "error", err)
	})
	if err != nil {
		return nil, err
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f, nil
}

// Accept puts insights of an environment into the spool. Its errors are those of
// [spool.Spool.Append].
func (f *Forwarder) Accept(ctx context.Context, env string, insights []json.RawMessage) error {
	return f.cfg.Spool.Append(ctx, env, insights)
}

// Run delivers until ctx ends, which cuts requests that are under way, or until
// Close. It returns nil after Close, else ctx's error. It may be called once.
func (f *Forwarder) Run(ctx context.Context) error {
	if f.started.Swap(true) {
		select {
		case <-f.closing:
			return nil
		default:
			return errors.New("forward: Run was called before")
		}
	}
	stop := context.AfterFunc(ctx, f.cancel)
	defer stop()
	var sending sync.WaitGroup
	defer func() {
		sending.Wait()
		f.cancel()
		if f.owned {
			f.sender.client.CloseIdleConnections()
		}
		f.mu.Lock()
		f.ended = true
		f.mu.Unlock()
		close(f.done)
	}()
	slots := make(chan struct{}, f.cfg.Requests)
	closing, draining := f.closing, false
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case slots <- struct{}{}:
		case <-f.ctx.Done():
			return ctx.Err()
		}
		b, secret, wait := f.next(draining)
		if b != nil {
			sending.Go(func() {
				f.deliver(b, secret)
				<-slots
				f.poke()
			})
			continue
		}
		<-slots
		if draining && f.cfg.Spool.Stats().Pending == 0 {
			return nil
		}
		timer.Reset(wait)
		select {
		case <-f.cfg.Spool.Ready():
		case <-f.wake:
		case <-timer.C:
		case <-closing:
			if f.cfg.Spool.Durable() {
				return nil
			}
			closing, draining = nil, true
		case <-f.ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *Forwarder) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// next takes a batch that may be sent now. Without one, it says how long nothing
// will change by itself.
func (f *Forwarder) next(draining bool) (*spool.Batch, protocol.Secret, time.Duration) {
	select {
	case <-f.closing:
		if f.cfg.Spool.Durable() {
			return nil, "", 0
		}
	default:
	}
	for {
		var secret protocol.Secret
		known := false
		wait := time.Minute
		now := time.Now()
		b := f.cfg.Spool.Take(func(w spool.Waiting) bool {
			secret, known = f.cfg.Secret(w.Env)
			left := f.ready(w, known, draining, now)
			if left > 0 {
				wait = min(wait, left)
			}
			return left == 0
		})
		if b == nil {
			return nil, "", wait
		}
		f.mu.Lock()
		l := f.lanes[b.Env]
		if l == nil {
			l = &lane{}
			f.lanes[b.Env] = l
		}
		l.underway++
		f.mu.Unlock()
		if known {
			return b, secret, 0
		}
		n := uint64(len(b.Insights))
		f.mu.Lock()
		f.lost.Unknown += n
		l.underway--
		f.mu.Unlock()
		f.cfg.Logger.Warn("insights of an environment without a secret are lost", "env", b.Env, "insights", n)
		f.cfg.Spool.Ack(b)
	}
}

// ready returns how long the environment of w has to wait. What it is given is booked
// by next, since there may be nothing left to give.
func (f *Forwarder) ready(w spool.Waiting, known, draining bool, now time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.lanes[w.Env]
	if l == nil {
		l = &lane{}
		f.lanes[w.Env] = l
	}
	switch {
	case known:
		l.unknown = time.Time{}
	case l.unknown.IsZero():
		l.unknown = now
		f.cfg.Logger.Warn("insights of an environment without a secret are held back", "env", w.Env, "for", f.cfg.UnknownFor)
		fallthrough
	case now.Sub(l.unknown) < f.cfg.UnknownFor:
		return min(time.Second, f.cfg.UnknownFor)
	}
	if left := l.until.Sub(now); left > 0 {
		return left
	}
	limit := max(f.cfg.Requests/2, 1)
	if l.failures > 0 {
		limit = 1 // one tries whether it is over
	}
	if l.underway >= limit {
		return time.Minute // its end wakes
	}
	if w.Returned == 0 && w.Insights < spool.MaxInsights && !draining {
		if left := f.cfg.Linger - now.Sub(w.Since); left > 0 {
			return left
		}
	}
	return 0
}

// deliver makes one attempt at a batch.
func (f *Forwarder) deliver(b *spool.Batch, secret protocol.Secret) {
	began := time.Now()
	r := f.sender.send(f.ctx, secret, b.Insights, f.isStubborn(b))
	b.Insights = b.Insights[r.settled:]
	f.book(b, r, began)
	if r.verdict == settled {
		f.cfg.Spool.Ack(b)
		return
	}
	f.cfg.Spool.Return(b)
}

func (f *Forwarder) isStubborn(b *spool.Batch) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.lanes[b.Env].stubborn[b]
	return t != nil && t.count >= maxTrouble
}

// book counts what became of b and says when its environment goes on.
func (f *Forwarder) book(b *spool.Batch, r result, began time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.lanes[b.Env]
	l.underway--
	f.requests += uint64(r.requests)
	f.delivered += uint64(r.settled - r.refused)
	f.lost.Refused += uint64(r.refused)
	now := time.Now()
	if r.verdict == settled {
		delete(l.stubborn, b)
		l.successes++
		if l.failures > 0 {
			f.cfg.Logger.Info("insights are delivered again", "env", b.Env)
		}
		l.failures, l.until, l.suspended = 0, time.Time{}, false
		if l.underway == 0 && len(l.stubborn) == 0 {
			delete(f.lanes, b.Env)
		}
		return
	}
	f.retries++
	if f.ctx.Err() != nil {
		return // cut, which says nothing about FeatBit
	}
	if r.status >= 500 && r.verdict == again {
		l.noteTrouble(b)
	}
	if began.Before(l.changed) {
		return // sent before the failure that is known already
	}
	l.failures++
	l.changed = now
	if l.failures == 1 || r.verdict == unauthorized && !l.suspended {
		text := "insights are not delivered, they wait"
		if r.verdict == unauthorized {
			text = "FeatBit refuses the secret of an environment, its insights wait"
		}
		f.cfg.Logger.Warn(text, "env", b.Env, "error", r.err)
	}
	l.suspended = r.verdict == unauthorized
	pause := max(r.after, f.pace.after(l.failures))
	if l.suspended {
		pause = f.cfg.SuspendFor
	}
	l.until = now.Add(pause)
}

func (l *lane) noteTrouble(b *spool.Batch) {
	t := l.stubborn[b]
	if t == nil {
		if l.stubborn == nil {
			l.stubborn = map[*spool.Batch]*trouble{}
		}
		l.stubborn[b] = &trouble{seen: l.successes}
		return
	}
	if l.successes > t.seen {
		t.count++
		t.seen = l.successes
	}
}

// Close stops delivery: requests that are under way may finish until ctx ends, what
// is left stays in the spool. Out of a memory, which nothing outlives, delivery goes
// on until all is delivered or ctx ends, and then counts the rest as lost. It
// returns when Run has, with ctx's error if that cut something. It may be called
// more than once, and without Run.
func (f *Forwarder) Close(ctx context.Context) error {
	f.once.Do(func() { close(f.closing) })
	if !f.started.Swap(true) {
		f.mu.Lock()
		f.ended = true
		f.mu.Unlock()
		f.cancel()
		close(f.done)
	}
	stop := context.AfterFunc(ctx, f.cancel)
	defer stop()
	<-f.done
	if !stop() {
		return ctx.Err()
	}
	return nil
}

// Stats returns the counters.
func (f *Forwarder) Stats() Stats {
	f.mu.Lock()
	st := Stats{Delivered: f.delivered, Lost: f.lost, Requests: f.requests, Retries: f.retries}
	for _, l := range f.lanes {
		switch {
		case l.suspended:
			st.Suspended++
		case l.failures > 0:
			st.Failing++
		}
	}
	ended := f.ended && !f.cfg.Spool.Durable()
	f.mu.Unlock()
	// The spool after the rest: an insight is recorded before it is settled.
	sp := f.cfg.Spool.Stats()
	st.Recorded, st.Lost.Damaged, st.Refused = sp.Recorded, sp.Damaged, sp.Refused
	st.Pending = st.Recorded - st.Delivered - st.Lost.Total()
	if ended {
		st.Lost.Closed, st.Pending = st.Pending, 0
	}
	return st
}
