// Package insight records what was evaluated and delivers it to FeatBit.
//
// Recording appends to a bounded buffer that a processor (a core, not a thread)
// has to itself, so it neither allocates nor waits for another caller.
// Encoding happens in one goroutine of the Pipeline, delivery and retries in a
// few others. Every event is accounted for: recorded = delivered + dropped +
// failed + pending.
package insight

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flagstead/flagstead/internal/delivery"
	"github.com/flagstead/flagstead/internal/flags"
	"github.com/flagstead/flagstead/internal/protocol"
)

// Config says where and how to deliver. All fields may be zero but Endpoint and
// Secret, or Send.
type Config struct {
	Endpoint string // complete URL to post to
	Secret   protocol.Secret
	Client   *http.Client // nil: one with a 10 s timeout per attempt
	Logger   *slog.Logger

	Capacity int           // events recorded and not yet collected at most; as many may be collected. Zero: 10,000
	Interval time.Duration // between flushes; zero: 1 s

	// RetryMin and RetryMax bound the pause between attempts at one batch.
	// Zero: 100 ms and 30 s. Attempts is after how many a batch is given up, so
	// that one which the server cannot digest does not block the others for
	// ever. Zero: 10, which is half a minute and more, depending on how long
	// the server takes to fail.
	RetryMin, RetryMax time.Duration
	Attempts           int

	// Send, if set, takes encoded events in place of the server at Endpoint. It is
	// called by up to MaxSenders goroutines, with up to 50 events, and again with the
	// same ones after an error. Events larger than MaxEntry bytes, ID and all, are not
	// sent; zero means that none is too large.
	Send     func(ctx context.Context, entries []Entry) error
	MaxEntry int

	// Gzip compresses bodies. FeatBit's own servers take plain ones only.
	Gzip bool
}

// An Entry is one event as FeatBit takes it, in JSON, with an id that no other event
// has.
type Entry struct {
	ID   string
	Data []byte
}

// Stats counts events since the pipeline was made.
type Stats struct {
	Recorded  uint64 // handed over by callers
	Delivered uint64 // acknowledged by the server
	Dropped   uint64 // lost because the buffer was full, or recorded after the end
	Failed    uint64 // refused by the server, or given up after retries or at Close
	Pending   uint64 // still held
	Retries   uint64 // attempts beyond the first, in batches

	// Refused says that the server refused the secret (401). No more events
	// are sent.
	Refused bool
}

// A Metric is one custom event.
type Metric struct {
	Name  string
	Value float64
}

type event struct {
	user      *flags.User
	flag      *flags.Flag // with variation: an evaluation
	variation *flags.Variation
	metrics   *[]Metric // metrics; neither: an identify
	millis    int64
	how       flags.Why
}

// A shard is a buffer for the callers on one processor. busy is a lock that is
// held for a few instructions: callers reach a shard through a sync.Pool, so
// that only the flusher, which swaps the buffer once per flush, competes. Now and then a
// pool gives one shard to two processors; one of them then moves on.
type shard struct {
	busy     atomic.Bool
	next     *shard // the others, in a ring
	closed   bool
	dense    int      // how many events in a row had the time of the one before
	last     int64    // that time
	events   []event  // up to its capacity, size
	size     int      // never changes
	spare    []event  // the other buffer, empty
	recorded uint64   // all of these fields but spare and size are guarded by busy
	dropped  uint64   //
	_        [64]byte // keeps neighbours off this cache line
}

// take locks the caller's shard, or another one, which is the caller's from then on, if
// somebody else has it.
func (s *shard) take() *shard {
	if s.busy.CompareAndSwap(false, true) {
		return s
	}
	s = s.next
	s.lock()
	return s
}

func (s *shard) lock() {
	for !s.busy.CompareAndSwap(false, true) {
		runtime.Gosched()
	}
}

func (s *shard) unlock() { s.busy.Store(false) }

// A Pipeline records and delivers. Its methods are safe for concurrent use.
type Pipeline struct {
	cfg    Config
	shards []*shard
	pool   sync.Pool // of *shard; a processor gets its own back
	next   atomic.Uint32
	clock  clock

	full    chan struct{}      // a shard is nearly full
	flushes chan chan struct{} // answered when everything recorded before is settled
	ctx     context.Context    // ends delivery
	cancel  context.CancelFunc
	closing chan struct{} // closed by the first Close
	once    sync.Once
	done    chan struct{} // closed when all goroutines have ended

	senders chan []byte // idle senders' buffers; as many as may send at a time
	batch   *generation // of the batches that are sent now; run's
	waiters sync.WaitGroup
	refused atomic.Bool

	id  string // what all ids of this pipeline start with
	ids uint64 // how many there are; run's

	collected atomic.Uint64 // how often the shards were emptied
	jammed    atomic.Uint64 // the collected at which all shards were full, plus 1

	delivered, failed, retries atomic.Uint64
}

// A generation are the batches between two flushes.
type generation struct {
	sending sync.WaitGroup
	before  <-chan struct{} // closed when all earlier generations are settled
}

// MaxSenders is how many batches are on their way at a time, as in the
// reference SDKs.
const MaxSenders = 5

// New starts a pipeline. It must be closed.
func New(cfg Config) *Pipeline {
	if cfg.Capacity <= 0 {
		cfg.Capacity = 10_000
	}
	if cfg.Interval <= 0 {
		cfg.Interval = time.Second
	}
	if cfg.RetryMin <= 0 {
		cfg.RetryMin = 100 * time.Millisecond
	}
	if cfg.RetryMax <= 0 {
		cfg.RetryMax = 30 * time.Second
	}
	if cfg.Attempts <= 0 {
		cfg.Attempts = 10
	}
	cfg.Client = delivery.WithoutGet(cfg.Client)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Pipeline{
		cfg:     cfg,
		full:    make(chan struct{}, 1),
		flushes: make(chan chan struct{}),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
		clock:   clock{asked: make(chan struct{}, 1)},
		senders: make(chan []byte, MaxSenders),
	}
	for range MaxSenders {
		p.senders <- nil
	}
	var id [12]byte
	rand.Read(id[:])
	p.id = hex.EncodeToString(id[:])
	settled := make(chan struct{})
	close(settled)
	p.batch = &generation{before: settled}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	n := runtime.GOMAXPROCS(0)
	for range n {
		size := max(cfg.Capacity/n, 1)
		p.shards = append(p.shards, &shard{events: make([]event, 0, size), size: size})
	}
	for i, s := range p.shards {
		s.next = p.shards[(i+1)%n]
	}
	p.pool.New = func() any { return p.shards[int(p.next.Add(1))%len(p.shards)] }
	go p.run()
	return p
}

// Evaluation records that u was served v of f, and how that came. It does not
// allocate and does not block.
func (p *Pipeline) Evaluation(u *flags.User, f *flags.Flag, v *flags.Variation, how flags.Why) {
	now := p.clock.coarse()
	s := p.pool.Get().(*shard).take()
	if now == 0 {
		now = s.time(&p.clock)
	}
	s.recorded++
	n := len(s.events)
	kept := n < s.size && !s.closed
	lost := false
	if kept {
		s.events = s.events[:n+1]
		e := &s.events[n] // empty: collect cleared it
		e.user, e.flag, e.variation, e.millis, e.how = u, f, v, now, how
	} else if lost = p.isJammed(); lost {
		s.dropped++
	}
	s.unlock()
	p.pool.Put(s)
	switch {
	case lost:
	case !kept:
		p.spill(event{user: u, flag: f, variation: v, millis: now, how: how}, s)
	case n == s.size/2:
		p.wake()
	}
}

// Identify records a user.
func (p *Pipeline) Identify(u *flags.User) { p.record(event{user: u}) }

// Metrics records custom events of a user as one insight. The slice is kept.
func (p *Pipeline) Metrics(u *flags.User, m []Metric) {
	p.record(event{user: u, metrics: &m, millis: time.Now().UnixMilli()})
}

func (p *Pipeline) record(e event) {
	s := p.pool.Get().(*shard).take()
	s.recorded++
	n, kept := s.keep(e)
	s.unlock()
	p.pool.Put(s)
	switch {
	case !kept:
		p.spill(e, s)
	case n == s.size/2:
		p.wake()
	}
}

// keep appends e if there is room, and says how many events were there before.
func (s *shard) keep(e event) (n int, kept bool) {
	if n = len(s.events); s.closed || n == s.size {
		return n, false
	}
	s.events = append(s.events, e)
	return n, true
}

// wake asks for a collection before its time.
func (p *Pipeline) wake() {
	select {
	case p.full <- struct{}{}:
	default:
	}
}

// isJammed reports whether all shards were found full since they were last emptied.
func (p *Pipeline) isJammed() bool { return p.jammed.Load() == p.collected.Load()+1 }

// spill puts e where there is room, since few goroutines on a large machine must
// be able to use all of the capacity, or drops it. Once all shards are found
// full, nobody looks again before they are emptied.
func (p *Pipeline) spill(e event, home *shard) {
	if now := p.collected.Load() + 1; p.jammed.Load() != now {
		for _, s := range p.shards {
			s.lock()
			_, kept := s.keep(e)
			s.unlock()
			if kept {
				p.wake()
				return
			}
		}
		p.jammed.Store(now)
	}
	home.lock()
	home.dropped++
	home.unlock()
}

// Stats returns the counters.
func (p *Pipeline) Stats() Stats {
	// Settled before recorded: an event is recorded first, so Pending cannot go
	// below zero.
	st := Stats{Delivered: p.delivered.Load(), Failed: p.failed.Load(), Retries: p.retries.Load(), Refused: p.refused.Load()}
	st.Recorded, st.Dropped = p.counts()
	st.Pending = st.Recorded - st.Delivered - st.Failed - st.Dropped
	return st
}

func (p *Pipeline) counts() (recorded, dropped uint64) {
	for _, s := range p.shards {
		s.lock()
		recorded += s.recorded
		dropped += s.dropped
		s.unlock()
	}
	return recorded, dropped
}

// ErrClosed is returned by Flush after Close.
var ErrClosed = errors.New("insight: closed")

// Flush delivers what was recorded so far and returns when all of it is
// delivered or failed, or with ctx's error. Delivery goes on in the latter case.
func (p *Pipeline) Flush(ctx context.Context) error {
	answer := make(chan struct{})
	select {
	case p.flushes <- answer:
	case <-p.done:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-answer:
		return nil
	case <-p.done:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close stops recording, delivers what is left until ctx ends, counts the rest
// as failed, and returns when the pipeline's goroutines have ended: ctx's error
// if that ended delivery, else nil. It may be called more than once.
func (p *Pipeline) Close(ctx context.Context) error {
	p.once.Do(func() { close(p.closing) })
	stop := context.AfterFunc(ctx, p.cancel)
	defer stop()
	<-p.done
	if p.ctx.Err() != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return nil
}

// collect takes all recorded events out of the shards. After last, or once the
// server refused the secret, what is recorded is dropped.
func (p *Pipeline) collect(into []event, last bool) []event {
	last = last || p.refused.Load()
	for _, s := range p.shards {
		spare := s.spare // only this goroutine touches it
		if spare == nil {
			spare = make([]event, 0, s.size)
		}
		s.lock()
		taken := s.events
		s.events = spare
		s.closed = s.closed || last
		s.unlock()
		into = append(into, taken...)
		clear(taken) // lets go of users and flags
		s.spare = taken[:0]
	}
	p.collected.Add(1)
	return into
}
