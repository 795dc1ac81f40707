// Package relay serves FeatBit's wire protocol from any store, so that official
// SDKs of any language can use it in place of a FeatBit installation. Over a
// watched file it is a development server.
//
//	r, err := relay.New(relay.Config{Store: st, Secrets: []relay.Secret{secret}})
//	if err != nil {
//		return err
//	}
//	go http.ListenAndServe("localhost:5100", r)
//	return r.Run(ctx) // follows the store until ctx ends, then closes all connections
//
// It serves server-side SDKs (the stream, latest-all and insights), client-side SDKs
// (the same, evaluated here for their user) and whoever asks for evaluations over HTTP,
// of one environment or of many, which may come and go, see [Relay.Set]. With
// [Config].Agent it takes the place of FeatBit's agent. Nothing is ever written to a
// store.
//
// # What SDKs see
//
// SDKs remember one number, the newest updatedAt they have seen, and ask for,
// or accept, only what is newer. So the relay keeps a served view of the store:
// what changes in the store without a newer updatedAt (a file edited by hand, a
// FeatBit restored from a backup, a late commit) is served with a new one, and
// what disappears is served as an archived item. What does not change keeps its
// bytes and is never sent again.
//
// Every patch on the stream carries one item, newer than all before it on that
// connection, because several official SDKs lose items otherwise. The one
// exception are items that had the same millisecond when the relay started.
//
// # Client-side SDKs
//
// They get results, not flags. A segment's change comes as the flags that name it, and
// the timestamp of a result is the newest of its flag and the segments behind it, so
// that an SDK that comes back asks for what it lacks. Another user on a connection gets
// everything.
//
// A flag evaluates as it does in package sdk, which follows FeatBit's Python SDK, and
// not as in FeatBit's evaluation server where those two disagree: an attribute that the
// user lacks does not equal the empty text, a blank name is such an attribute, numbers
// are compared with five decimals, regular expressions are RE2. So a flag is the same in
// a browser as in the program that serves the page. A flag that cannot be evaluated has
// no value, and does not keep the others from their users. The texts of matchReason are
// the evaluation server's.
//
// A client secret reads no flags or segments, and a server secret no client stream, here
// unlike with FeatBit over HTTP as well.
//
// # Limits
//
// The served view lives in memory. A change without a newer updatedAt, or a
// removal, that happens while no relay is running stays unseen by SDKs that
// keep running meanwhile, as it would with FeatBit. Several relays on one store
// stamp such changes each with a time of its own; an SDK that moves between
// them may get a change twice.
package relay

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/rs/cors"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
)

// A Secret is a FeatBit environment secret. It never prints itself.
type Secret = protocol.Secret

// An Insight is an event as an SDK delivered it.
type Insight = protocol.Insight

// Config says what a Relay serves. The zero value serves nothing until [Relay.Set]
// says what.
type Config struct {
	// Environments are those that are served from the start.
	Environments []Environment

	// Store and Secrets are a short form of one Environment.
	Store   store.Reader
	Secrets []Secret

	// SecretsPending, if set, is asked when an SDK comes with a secret that is not
	// known. While it reports true the SDK is asked to come again (503) instead of
	// being sent away for good (4003): somebody is about to call Set. It must not
	// block.
	SecretsPending func() bool

	// AllowedOrigins are those of the web pages whose SDKs may come, such as
	// "https://app.example" or "https://*.example". None means all: access is by
	// secret, never by cookie.
	AllowedOrigins []string

	// RateLimits bounds the requests of each environment. The zero value does not.
	RateLimits RateLimits

	// MaxConnections is how many streams an environment may have at a time; further
	// ones are answered 503. Zero means no limit.
	MaxConnections int

	// DrainSpread is the time over which the streams are closed when Run ends, so
	// that those who come back do not come all at once. Zero means at once.
	DrainSpread time.Duration

	// Agent, if set, makes the relay answer what FeatBit's platform asks of its agents.
	Agent *Agent

	// TokenWindow is how far the time in a connection token may be off. Zero
	// means 5 minutes; FeatBit itself allows 30 seconds.
	TokenWindow time.Duration

	// Logger gets changes of state. Nil means silence.
	Logger *slog.Logger

	// Insights, if set, takes the insights that SDKs deliver. Without it they are
	// counted and kept for inspection only.
	Insights InsightSink

	// Follow tunes how the store is followed.
	Follow store.FollowOptions

	// WriteTimeout is how long an SDK may take to accept a message, plus one
	// second for each 256 KiB of it. A slower one is dropped. Zero means 10
	// seconds.
	WriteTimeout time.Duration

	// MaxMessage limits what an SDK may send in one message on the stream, in
	// bytes. Zero means 8 KiB, FeatBit's limit.
	MaxMessage int64

	// MaxBody limits the body of an insight request, in bytes. Zero means 30 MB.
	MaxBody int64

	// MaxBodies limits the bodies of all insight requests that are under way, in
	// bytes; their evaluation may take as much again. Further requests wait for 2
	// seconds and are then answered 503 with Retry-After. A quarter is for bodies of
	// up to 1 MiB. Zero means 64 MiB, and it is never less than twice MaxBody or 8 MiB.
	MaxBodies int64

	// KeepInsights is how many of the last insights Insights returns. Zero
	// means 1000, a negative number none. Never more than 16 MiB are kept.
	KeepInsights int
}

func (c Config) withDefaults() Config {
	if len(c.AllowedOrigins) == 0 {
		c.AllowedOrigins = []string{"*"}
	}
	if c.TokenWindow <= 0 {
		c.TokenWindow = 5 * time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.WriteTimeout <= 0 {
		c.WriteTimeout = 10 * time.Second
	}
	if c.MaxMessage <= 0 {
		c.MaxMessage = 8 << 10
	}
	if c.MaxBody <= 0 {
		c.MaxBody = 30_000_000
	}
	if c.MaxBodies <= 0 {
		c.MaxBodies = defaultIntake
	}
	c.MaxBodies = max(c.MaxBodies, 2*c.MaxBody, 8*smallBody)
	if c.KeepInsights == 0 {
		c.KeepInsights = 1000
	}
	return c
}

// A Relay is an [http.Handler] that speaks FeatBit's protocol. Make one with
// New. It has data to serve only while and after Run runs.
type Relay struct {
	cfg      Config
	log      *slog.Logger
	secrets  atomic.Pointer[[]credential]
	upgrader websocket.Upgrader
	handler  http.Handler // with what browsers ask for
	counters counters
	open     atomic.Int64 // streams that were not rejected
	insights recorder
	intake   *intake // of insights

	// Messages that are the same for all connections.
	pong, emptyPatch, ping frame

	silence, pingInterval time.Duration // only tests change them

	started     atomic.Bool
	healthyOnce atomic.Bool
	stop        chan struct{} // closed when draining begins

	setMu sync.Mutex // one Set at a time, so that the last one's list says whose connections are closed
	envMu sync.Mutex
	envs  map[string]*environment // by id
	begun []*environment          // that nobody has started yet
	ctx   context.Context         // of their followers; nil before Run

	bootstrapping chan struct{} // holds a token while one is under way

	following sync.WaitGroup // grows only under envMu while ctx lives

	connMu   sync.Mutex
	draining bool
	joined   uint32
	wheel    wheel
	running  sync.WaitGroup // connections, and the goroutines that write to one
}

// New returns a Relay that does not serve data before Run is called. It opens
// nothing.
func New(cfg Config) (*Relay, error) {
	cfg = cfg.withDefaults()
	var err error
	if cfg.Agent, err = cfg.Agent.check(); err != nil {
		return nil, err
	}
	r := &Relay{
		cfg:  cfg,
		log:  cfg.Logger,
		stop: make(chan struct{}),
		envs: map[string]*environment{},

		intake:        newIntake(cfg.MaxBodies),
		bootstrapping: make(chan struct{}, 1),

		silence:      defaultSilence,
		pingInterval: defaultPingInterval,
	}
	r.wheel.init()
	r.insights.keep = cfg.KeepInsights
	envs := slices.Clone(cfg.Environments)
	if cfg.Store != nil || len(cfg.Secrets) > 0 {
		envs = append(envs, Environment{Store: cfg.Store, Secrets: cfg.Secrets})
	}
	if err := r.Set(envs); err != nil {
		return nil, err
	}
	r.upgrader = websocket.Upgrader{
		HandshakeTimeout: 5 * time.Second,
		// Only the handshake is left to the Upgrader.
		ReadBufferSize:  256,
		WriteBufferSize: 1 << 10,
		WriteBufferPool: &sync.Pool{},
		CheckOrigin:     allowOrigin,
	}
	r.handler = cors.New(cors.Options{
		AllowedOrigins: cfg.AllowedOrigins,
		AllowedMethods: []string{http.MethodHead, http.MethodGet, http.MethodPost},
		AllowedHeaders: []string{"*"},
		MaxAge:         600,
	}).Handler(http.HandlerFunc(r.route))
	r.pong = newFrame(opText, protocol.PongFrame)
	r.ping = newFrame(opPing, nil)
	r.emptyPatch = encode(wire.Patch, nil)
	return r, nil
}

// drainGrace is how long a connection may take to answer the closing handshake
// when Run ends.
const drainGrace = 2 * time.Second

// Run follows the stores until ctx ends, then refuses new connections, closes all of
// them with code 1001, which makes SDKs reconnect, over Config.DrainSpread, and
// returns nil a few seconds later at most. It
// returns an error if it is called twice. Before Run returns it waits for every
// goroutine of the relay, except those that an HTTP server started for requests
// still being answered. A store that was closed is served from memory.
func (r *Relay) Run(ctx context.Context) error {
	if !r.started.CompareAndSwap(false, true) {
		return errors.New("relay: Run was called before")
	}
	// While connections are closed one after the other, the others get changes still.
	followCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	r.envMu.Lock()
	r.ctx = followCtx
	for _, env := range r.begun {
		if r.envs[env.id] == env {
			env.start(followCtx)
		}
	}
	r.begun = nil
	r.envMu.Unlock()
	drained := make(chan struct{})
	var turning sync.WaitGroup
	turning.Go(func() { r.wheel.turn(r.pingInterval, drained) })
	<-ctx.Done()
	r.drain()
	close(drained)
	turning.Wait()
	r.envMu.Lock()
	r.ctx = nil // no follower starts any more
	r.envMu.Unlock()
	stop()
	r.following.Wait()
	return nil
}

// A Readiness says whether SDKs are better served here than elsewhere.
type Readiness int

// The states of readiness.
const (
	Unhealthy Readiness = iota // some store has not answered yet, no environment has data, or Run has ended
	Degraded                   // some environment has no data, or its store fails
	Healthy
)

// String returns the word that FeatBit's health checks answer with.
func (h Readiness) String() string { return [...]string{"Unhealthy", "Degraded", "Healthy"}[h] }

// Readiness tells how ready the relay is. One environment that has no data does not
// keep the others from being served.
func (r *Relay) Readiness() Readiness {
	select {
	case <-r.stop:
		return Unhealthy
	default:
	}
	ready, all, asked := 0, 0, true
	for _, e := range r.list() {
		all++
		e.mu.Lock()
		asked = asked && e.asked
		if e.view.Load() != nil && !e.failing {
			ready++
		}
		e.mu.Unlock()
	}
	if asked && ready > 0 {
		r.healthyOnce.Store(true) // an environment that is added later takes nobody away
	}
	switch {
	case !asked && !r.healthyOnce.Load(), !r.Ready():
		return Unhealthy
	case ready < all:
		return Degraded
	}
	return Healthy
}

// Ready reports whether there is data to serve, of one environment at least. It
// stays true while a store fails, because the last state is served on, and becomes
// false when Run ends.
func (r *Relay) Ready() bool {
	select {
	case <-r.stop:
		return false
	default:
	}
	for _, e := range r.list() {
		if e.view.Load() != nil {
			return true
		}
	}
	return false
}

// admit registers a connection, unless the relay is closing.
func (r *Relay) admit(c *conn) bool {
	r.connMu.Lock()
	defer r.connMu.Unlock()
	if r.draining {
		return false
	}
	if !c.reject {
		// The secret may have gone since it was looked at.
		if now, ok := r.authenticate(string(c.cred.secret)); !ok || now.env != c.env {
			return false
		}
		c.env.conns.Add(1)
		r.open.Add(1)
		c.shard = &c.env.shards[c.env.joined.Add(1)%uint32(len(c.env.shards))]
		c.shard.add(c)
	}
	r.joined++
	c.slot = &r.wheel[r.joined%uint32(len(r.wheel))]
	c.slot.add(c)
	c.heard.Store(time.Now().UnixNano())
	r.running.Add(1)
	c.start()
	return true
}

// forget is called by a connection that has ended.
func (r *Relay) forget(c *conn) {
	c.slot.remove(c)
	if !c.reject {
		c.shard.remove(c)
		c.env.conns.Add(-1)
		c.env.release()
		r.open.Add(-1)
	}
	r.running.Done()
}

// drain closes all connections, spread over the time that was granted, and waits for
// them.
func (r *Relay) drain() {
	r.connMu.Lock()
	r.draining = true
	conns := r.wheel.all()
	r.connMu.Unlock()
	close(r.stop)
	if len(conns) > 0 {
		r.log.Info("relay: closing all connections", "connections", len(conns), "over", r.cfg.DrainSpread)
	}
	tick := time.NewTicker(drainStep)
	defer tick.Stop()
	began := time.Now()
	for closed := 0; closed < len(conns); {
		due := len(conns)
		if passed := time.Since(began); passed < r.cfg.DrainSpread {
			due = int(float64(len(conns)) * float64(passed) / float64(r.cfg.DrainSpread))
		}
		for ; closed < due; closed++ {
			conns[closed].leave(websocket.CloseGoingAway, "restarting")
		}
		if closed < len(conns) {
			<-tick.C
		}
	}
	hard := time.AfterFunc(drainGrace, func() {
		for _, c := range conns {
			c.cut()
		}
	})
	defer hard.Stop()
	r.running.Wait()
}

// drainStep is how often some of the connections are closed.
const drainStep = 20 * time.Millisecond
