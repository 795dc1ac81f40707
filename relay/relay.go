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
// It serves server-side SDKs: the stream, latest-all and insights. All secrets
// of one relay belong to the one environment that its store holds. Nothing is
// ever written to the store.
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
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
)

// A Secret is a FeatBit environment secret. It never prints itself.
type Secret = protocol.Secret

// An Insight is an event as an SDK delivered it.
type Insight = protocol.Insight

// Config says what a Relay serves. Store and Secrets are required.
type Config struct {
	// Store is followed while Run runs, never written and never closed.
	Store store.Reader

	// Secrets are the server secrets that SDKs may use, at least one. They are
	// aliases of each other: all give access to the same data.
	Secrets []Secret

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

	// KeepInsights is how many of the last insights Insights returns. Zero
	// means 1000, a negative number none. Never more than 16 MiB are kept.
	KeepInsights int
}

func (c Config) withDefaults() Config {
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
	secrets  []credential
	upgrader websocket.Upgrader
	counters counters
	insights recorder

	// Messages that are the same for all connections.
	pong, emptyPatch *websocket.PreparedMessage

	silence, pingInterval time.Duration // only tests change them

	started atomic.Bool
	stop    chan struct{} // closed when draining begins

	// view is nil until there is data. It is replaced under viewMu only.
	view   atomic.Pointer[view]
	viewMu sync.Mutex
	table  table
	// failing and flushed say what was logged last about the store.
	failing, flushed bool

	connMu   sync.Mutex
	draining bool
	conns    map[*conn]struct{}
	running  sync.WaitGroup // goroutines of connections; grows only under connMu while not draining
}

// New returns a Relay that does not serve data before Run is called. It opens
// nothing.
func New(cfg Config) (*Relay, error) {
	cfg = cfg.withDefaults()
	if cfg.Store == nil {
		return nil, errors.New("relay: Config.Store is required")
	}
	if len(cfg.Secrets) == 0 {
		return nil, errors.New("relay: Config.Secrets needs at least one secret")
	}
	r := &Relay{
		cfg:   cfg,
		log:   cfg.Logger,
		stop:  make(chan struct{}),
		conns: map[*conn]struct{}{},
		table: newTable(cfg.Logger),

		silence:      defaultSilence,
		pingInterval: defaultPingInterval,
	}
	r.insights.keep = cfg.KeepInsights
	for i, s := range cfg.Secrets {
		env, err := s.EnvID()
		if err != nil {
			return nil, fmt.Errorf("relay: Config.Secrets[%d]: %w", i, err)
		}
		r.secrets = append(r.secrets, credential{secret: []byte(s), env: env})
	}
	r.upgrader = websocket.Upgrader{
		HandshakeTimeout: 5 * time.Second,
		// Small buffers: SDKs send little, and large answers bypass the buffer.
		ReadBufferSize:  1 << 10,
		WriteBufferSize: 1 << 10,
		WriteBufferPool: &sync.Pool{},
		CheckOrigin:     allowOrigin,
	}
	var err error
	if r.pong, err = websocket.NewPreparedMessage(websocket.TextMessage, protocol.PongFrame); err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	empty := wire.AppendDataSync(nil, wire.Patch, nil)
	if r.emptyPatch, err = websocket.NewPreparedMessage(websocket.TextMessage, empty); err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	return r, nil
}

// drainGrace is how long a connection may take to answer the closing handshake
// when Run ends.
const drainGrace = 2 * time.Second

// Run follows the store until ctx ends, then closes all connections with code
// 1001, which makes SDKs reconnect, and returns nil within a few seconds. It
// returns an error if the store was closed first, and if it is called twice.
// Before Run returns it waits for every goroutine of the relay, except those
// that an HTTP server started for requests still being answered.
func (r *Relay) Run(ctx context.Context) error {
	if !r.started.CompareAndSwap(false, true) {
		return errors.New("relay: Run was called before")
	}
	err := store.Follow(ctx, r.cfg.Store, r.cfg.Follow, r.follow)
	r.drain()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("relay: follow the store: %w", err)
}

// Ready reports whether there is data to serve. It stays true while the store
// fails, because the last state is served on, and becomes false when Run ends.
func (r *Relay) Ready() bool {
	select {
	case <-r.stop:
		return false
	default:
		return r.view.Load() != nil
	}
}

// follow takes over what store.Follow delivers.
func (r *Relay) follow(snap store.Snapshot, err error) {
	r.viewMu.Lock()
	defer r.viewMu.Unlock()
	if err != nil {
		if !r.failing {
			r.log.Warn("relay: the store fails, the last state is served on", "error", err)
		}
		r.failing = true
		return
	}
	if r.failing {
		r.log.Info("relay: the store is back")
	}
	r.failing = false
	old := r.view.Load()
	if snap.Rev == "" {
		// Never filled, or flushed: nobody said that all flags were deleted, and
		// whoever fills the store will do so again.
		if old != nil && !r.flushed {
			r.log.Warn("relay: the store was emptied, the last state is served on")
			r.flushed = true
		}
		return
	}
	r.flushed = false
	changed, restamped := r.table.apply(snap, time.Now().UnixMilli())
	r.counters.invalidItems.Store(int64(len(r.table.invalid)))
	if old == nil {
		r.view.Store(firstView(changed, r.table.hwm))
		r.log.Info("relay: ready", "items", len(changed))
		return
	}
	if len(changed) == 0 {
		return
	}
	r.counters.changes.Add(int64(len(changed)))
	r.counters.restamped.Add(int64(restamped))
	r.view.Store(old.with(changed, r.table.hwm))
	close(old.next)
	r.log.Debug("relay: items changed", "items", len(changed), "restamped", restamped)
}

// aheadTolerance is how far an SDK's cursor may be ahead of both our clock and
// the newest item that we served, and still be believed. What SDKs claimed does
// not count, or they could walk it into the future.
const aheadTolerance = time.Minute

// claim returns the current view after making sure that later changes will be
// newer than cursor, if an SDK can honestly have got there (from this relay
// before a restart, from another one, or by rounding up as Python does).
func (r *Relay) claim(cursor int64) *view {
	v := r.view.Load()
	if cursor <= v.hwm {
		return v
	}
	r.viewMu.Lock()
	defer r.viewMu.Unlock()
	v = r.view.Load()
	limit := max(time.Now().UnixMilli(), r.table.newest) + aheadTolerance.Milliseconds()
	if cursor <= v.hwm || cursor > limit {
		return v
	}
	r.table.hwm = cursor
	v = v.raised(cursor)
	r.view.Store(v)
	return v
}

// admit registers a connection, unless the relay is closing.
func (r *Relay) admit(c *conn) bool {
	r.connMu.Lock()
	defer r.connMu.Unlock()
	if r.draining {
		return false
	}
	r.conns[c] = struct{}{}
	r.running.Go(c.read)
	if c.reject == 0 {
		r.running.Go(c.write)
	}
	return true
}

func (r *Relay) forget(c *conn) {
	r.connMu.Lock()
	defer r.connMu.Unlock()
	delete(r.conns, c)
}

// drain closes all connections and waits for them.
func (r *Relay) drain() {
	r.connMu.Lock()
	r.draining = true
	count := len(r.conns)
	r.connMu.Unlock()
	close(r.stop)
	if count > 0 {
		r.log.Info("relay: closing all connections", "connections", count)
	}
	hard := time.AfterFunc(drainGrace, func() {
		r.connMu.Lock()
		defer r.connMu.Unlock()
		for c := range r.conns {
			_ = c.ws.NetConn().Close()
		}
	})
	defer hard.Stop()
	r.running.Wait()
}
