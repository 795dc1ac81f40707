// Package syncer keeps a store equal to a FeatBit environment.
//
// A [Syncer] holds one connection to FeatBit's evaluation server, receives the
// environment's flags and every change of them, and writes them into a
// [store.DataStore]. Readers of that store need no connection of their own.
//
//	s, err := syncer.New(syncer.Config{URL: "wss://featbit.example", Secret: secret, Store: st})
//	if err != nil {
//		return err
//	}
//	return s.Run(ctx) // until ctx ends or FeatBit refuses the secret
//
// Any number of syncers may run on one store. Every commit is made on the
// revision that it was worked out on: a full state on the one that the store had
// when FeatBit was asked for it. If somebody else was faster, what that one wrote
// is taken into account first, the larger version of each key winning.
//
// The syncer heals its store, which it looks at once per [Config.Check]: content
// that was flushed or damaged is written again at once; if something is missing,
// FeatBit is asked, which knows whether that is right. While FeatBit is away,
// what is missing is written back once.
package syncer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/store"
)

// A Secret is a FeatBit environment secret. It never prints.
type Secret = protocol.Secret

// Errors to test for with [errors.Is].
var (
	// ErrUnauthorized says that FeatBit closed the connection with 4003: the
	// secret is wrong or revoked, or it is not a server secret. Run returns it;
	// trying again cannot help. FeatBit says the same to a host whose clock is
	// more than 30 s off, which is no reason to give up, see Status.ClockSkew;
	// only where FeatBit's answers have no Date header the two cannot be told
	// apart.
	ErrUnauthorized = errors.New("FeatBit refused the connection (4003)")

	// ErrNotFeatBit says that something answered that is no FeatBit evaluation
	// server. It is found in Status.Err; the syncer goes on trying.
	ErrNotFeatBit = errors.New("not a FeatBit evaluation server")

	// ErrStandby says that another syncer holds the store's lease. It is found in
	// Status.Err.
	ErrStandby = errors.New("standing by: another syncer has the lease")
)

// Config says what to sync, and how. Store is required, and either URL and Secret or
// From.
type Config struct {
	// URL is FeatBit's evaluation server (or a relay), such as
	// wss://featbit.example; http and https mean ws and wss. /streaming is
	// appended.
	URL string

	// Secret is the environment's server secret.
	Secret Secret

	// From, instead of URL and Secret, is a store to copy: for a region of its own,
	// or from a file. As long as nothing was ever committed to it nothing is written.
	// The syncer does not close it.
	From store.Reader

	// Env, with From, is the id of the environment that From must be of; flags of
	// another one are not copied. Empty takes any.
	Env string

	// Poll says when FeatBit is polled over HTTP instead of being listened to.
	Poll Poll

	// PollInterval is the time between two polls; it is jittered by a tenth. Zero
	// means 30 seconds.
	PollInterval time.Duration

	// Store receives the flags. The syncer does not close it.
	Store store.DataStore

	// Logger gets changes of state. Nil is silent.
	Logger *slog.Logger

	// OnStatus, if set, is called after each change of Status, from one
	// goroutine at a time. It must not block.
	OnStatus func(Status)

	// Reconcile is the time between two requests for everything, which find
	// what FeatBit does not announce (deletions, late commits); it is jittered
	// by a tenth. Zero means 10 minutes.
	Reconcile time.Duration

	// Guard says which full states are refused. The zero value refuses those that
	// look like a mistake.
	Guard Guard

	// History is how many revisions the store keeps, for rollbacks; see
	// store.History. Zero keeps none.
	History int

	// Lease has only one of the store's syncers at a time connect to the source: the
	// one that holds the store's lease, see store.Leaser. The others stand by, see
	// ErrStandby, and one takes over within three seconds after the holder died.
	// What is written is right without it, too.
	Lease bool

	// Name is what this syncer calls itself in the store's heartbeats, where no two
	// may have the same. Empty means the host's name and the process id.
	Name string

	// Check is how often the store is compared with what the syncer holds.
	// Zero means one second.
	Check time.Duration

	// StoreTimeout bounds one call of the store. Zero means 10 seconds.
	StoreTimeout time.Duration

	// BackoffMin and BackoffMax bound the pause before a new connection: a
	// random part of BackoffMin, doubled with each attempt up to BackoffMax.
	// Zero means 1 s and 60 s.
	BackoffMin, BackoffMax time.Duration

	// DialTimeout bounds connecting, with all handshakes. Zero means 10 seconds.
	DialTimeout time.Duration

	// Ping is the time between two pings. Zero means 10 seconds.
	Ping time.Duration

	// ReadTimeout is how long nothing at all may arrive before the connection
	// counts as dead. Zero means two and a half times Ping.
	ReadTimeout time.Duration

	// MaxMessage bounds one message of the server, in bytes. Zero means 64 MiB.
	MaxMessage int64

	// TLS configures wss connections; nil means Go's defaults, which verify.
	// It is cloned.
	TLS *tls.Config

	// Proxy chooses a proxy per request; nil means http.ProxyFromEnvironment.
	Proxy func(*http.Request) (*url.URL, error)

	// NetDial opens TCP connections; nil means a net.Dialer.
	NetDial func(ctx context.Context, network, addr string) (net.Conn, error)

	answerTimeout, suspectEvery time.Duration // only tests set them
}

func (c Config) withDefaults() Config {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.Reconcile, 10 * time.Minute},
		{&c.PollInterval, 30 * time.Second},
		{&c.Check, time.Second},
		{&c.StoreTimeout, 10 * time.Second},
		{&c.BackoffMin, time.Second},
		{&c.BackoffMax, time.Minute},
		{&c.DialTimeout, 10 * time.Second},
		{&c.Ping, 10 * time.Second},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if c.ReadTimeout <= 0 {
		c.ReadTimeout = c.Ping * 5 / 2
	}
	if c.answerTimeout <= 0 {
		c.answerTimeout = max(c.ReadTimeout, 15*time.Second)
	}
	if c.suspectEvery <= 0 {
		c.suspectEvery = 30 * time.Second
	}
	c.Guard = c.Guard.withDefaults()
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "unknown"
		}
		c.Name = fmt.Sprintf("%s-%d", host, os.Getpid())
	}
	if c.MaxMessage <= 0 {
		c.MaxMessage = 64 << 20
	}
	if c.Proxy == nil {
		c.Proxy = http.ProxyFromEnvironment
	}
	if c.NetDial == nil {
		c.NetDial = (&net.Dialer{}).DialContext
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// A State says how a syncer and its source stand.
type State uint8

// The states, in FeatBit's terms.
const (
	Initializing State = iota // never was OK yet
	OK                        // the stream is open (or polls work), and what was asked for when it opened is in the store
	Interrupted               // was OK; the syncer is trying to be so again
	Off                       // Run has returned
)

// String returns the state's name in lower case.
func (s State) String() string {
	return [...]string{"initializing", "ok", "interrupted", "off"}[s&3]
}

// Status describes a syncer at one moment.
type Status struct {
	State State     // how the syncer and its source stand
	Since time.Time // when State was entered
	Err   error     // what keeps the syncer from being OK, or nil

	// Transport is how the flags come: TransportStream, TransportPoll or
	// TransportStore; empty before the first connection.
	Transport string

	// Confirmed is until when the store is known to be equal to FeatBit: when the
	// stream, with all that came on it in the store, last gave a sign of life, or
	// when the last poll was made. With Config.From it is what that store's heartbeat
	// says, if it has one, or when it was last read.
	Confirmed time.Time
	Heard     time.Time // when FeatBit last sent anything on the stream

	// Frozen is why nothing is written to the store: an operator's word, see
	// store.Control; nil while there is none. Meanwhile State says whether what
	// was asked of FeatBit is held, and Confirmed stands still while the store has
	// something else. It must not be modified.
	Frozen *store.Control

	// ClockSkew is FeatBit's clock minus this host's, to about a second, by the
	// Date header of FeatBit's last answer; zero if that had none. Connections
	// are opened with the corrected time.
	ClockSkew time.Duration

	Connects uint64 // connections opened
	Fulls    uint64 // full states received
	Patches  uint64 // patches received that were not empty
	Ignored  uint64 // messages or items that could not be used
	Heals    uint64 // times that the store had lost content and was refilled
	Refused  uint64 // full states that the guard kept from the store
}

// A Syncer keeps one store equal to one environment. Make it with [New].
type Syncer struct {
	cfg   Config
	base  *url.URL
	env   string
	heard atomic.Int64 // Status.Heard in Unix nanoseconds, or 0

	retained atomic.Pointer[retained] // what the store's history has; nil: none is kept

	mu     sync.Mutex // guards what follows
	status Status
	health health

	accepts    chan struct{} // capacity 1: an operator's word, see Accept
	reconciles chan struct{} // capacity 1: see Reconcile
	beats      chan struct{} // capacity 1: the heartbeat has news

	notify sync.Mutex // one call of OnStatus at a time
}

// health is what the state is derived from. Connections are numbered from 1.
type health struct {
	live     uint64 // the last connection whose data is in the store
	lost     uint64 // the last connection that ended
	linkErr  error  // why it ended, or why none can be opened
	storeErr error  // why the store cannot be read or written
	guardErr error  // why the last full state was refused
	pending  bool   // something that was received is not in the store yet
	off      bool
}

func (h health) up() bool { return h.live > h.lost }

// current reports whether the store is equal to FeatBit.
func (h health) current() bool { return h.up() && h.storeErr == nil && h.guardErr == nil && !h.off }

// New checks cfg and returns a syncer that has not connected yet. The error
// says what is wrong with cfg, without the secret.
func New(cfg Config) (*Syncer, error) {
	if cfg.Poll > PollAlways {
		return nil, fmt.Errorf("syncer: no such Poll: %d", cfg.Poll)
	}
	if _, ok := cfg.Store.(store.Leaser); cfg.Lease && cfg.Store != nil && !ok {
		return nil, errors.New("syncer: Lease, but the store has none")
	}
	if cfg.From != nil {
		return newCopying(cfg)
	}
	if cfg.Env != "" {
		return nil, errors.New("syncer: Env without From; the secret names the environment")
	}
	base, err := protocol.BaseURL(cfg.URL, "ws")
	if err != nil {
		return nil, fmt.Errorf("syncer: %w", err)
	}
	if base.User != nil {
		return nil, fmt.Errorf("syncer: URL %q has a user in it, which FeatBit's stream does not take", base.Redacted())
	}
	env, err := cfg.Secret.EnvID()
	if err != nil {
		return nil, fmt.Errorf("syncer: %w", err)
	}
	if cfg.Store == nil {
		return nil, errors.New("syncer: no store")
	}
	return newSyncer(cfg.withDefaults(), base, env), nil
}

func newSyncer(cfg Config, base *url.URL, env string) *Syncer {
	return &Syncer{
		cfg:        cfg,
		base:       base,
		env:        env,
		status:     Status{Since: time.Now()},
		accepts:    make(chan struct{}, 1),
		reconciles: make(chan struct{}, 1),
		beats:      make(chan struct{}, 1),
	}
}

// Status returns the current status. It does not block.
func (s *Syncer) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.confirm()
	st := s.status
	st.Heard = s.lastHeard()
	return st
}

// confirm moves Status.Confirmed on. The caller holds mu.
func (s *Syncer) confirm() {
	if at := s.lastHeard(); s.health.current() && !s.health.pending && at.After(s.status.Confirmed) {
		s.status.Confirmed = at
	}
}

func (s *Syncer) lastHeard() time.Time {
	if at := s.heard.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// update changes the status or what it is derived from, and reports it if it
// looks different from outside.
func (s *Syncer) update(change func(*Status, *health)) {
	s.notify.Lock()
	defer s.notify.Unlock()
	s.mu.Lock()
	s.confirm()
	before := s.status
	change(&s.status, &s.health)
	s.confirm()
	s.derive()
	s.status.Heard = s.lastHeard()
	after := s.status
	s.mu.Unlock()
	if after.State != before.State {
		signal(s.beats)
		s.cfg.Logger.Info("syncer state", "env", s.env, "state", after.State.String(), "error", after.Err)
	}
	if s.cfg.OnStatus != nil && (after.State != before.State || text(after.Err) != text(before.Err) || after.Fulls != before.Fulls || after.Frozen != before.Frozen || after.Transport != before.Transport || after.ClockSkew != before.ClockSkew) {
		s.cfg.OnStatus(after)
	}
}

// text makes errors comparable: those of a store need not be.
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (s *Syncer) derive() {
	st, h := &s.status, &s.health
	state := st.State
	switch {
	case h.off:
		state = Off
	case h.current():
		state = OK
	case state == OK:
		state = Interrupted
	}
	if state != st.State {
		st.State, st.Since = state, time.Now()
	}
	st.Err = h.linkErr
	if h.up() || st.Err == nil {
		st.Err = h.storeErr
		if st.Err == nil {
			st.Err = h.guardErr
		}
	}
}

func (s *Syncer) linkUp() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.health.up()
}

// Reconcile asks the source for everything now. It does not block.
func (s *Syncer) Reconcile() { signal(s.reconciles) }

// Run syncs until ctx ends, and returns its error, or until FeatBit refuses the
// secret for good, and returns an error that wraps [ErrUnauthorized]. Nothing
// else ends it: it reconnects after every loss of the connection and holds the
// newest state while the store is down. Run may be called once.
func (s *Syncer) Run(ctx context.Context) error {
	if s.cfg.Lease {
		return s.stop(s.takeTurns(ctx, s.cfg.Store.(store.Leaser)))
	}
	return s.stop(s.serve(ctx))
}

// serve syncs until ctx ends or the source does.
func (s *Syncer) serve(ctx context.Context) error {
	m := newManager(s)
	if s.cfg.From != nil {
		m.whole = true
		return s.run(ctx, m, (&copier{syncer: s, manager: m}).run)
	}
	return s.run(ctx, m, newEnvironment(s, m).run)
}

// run runs m, and its source beside it.
func (s *Syncer) run(ctx context.Context, m *manager, source func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	wg.Go(func() { cancel(source(ctx)) })
	wg.Go(func() { s.pulse(ctx) })
	if m.recorder != nil {
		wg.Go(func() { m.recorder.run(ctx) })
	}
	m.run(ctx)
	wg.Wait()
	if m.recorder != nil {
		m.recorder.finish()
	}
	return context.Cause(ctx)
}

// stop says that err was the end.
func (s *Syncer) stop(err error) error {
	s.update(func(_ *Status, h *health) {
		h.off = true
		if errors.Is(err, ErrUnauthorized) {
			h.lost, h.linkErr = h.live, err
		}
	})
	s.lastBeat()
	return err
}
