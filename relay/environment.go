package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/store"
)

// An Environment is one FeatBit environment that a relay serves, from a store of
// its own.
type Environment struct {
	// ID is the environment's id. Empty means the one that its secrets tell.
	ID string

	// Name is for people, such as "webapp:prod". Empty means ID.
	Name string

	// Store is followed while the environment is served, never written and never
	// closed. Two environments may not have the same.
	Store store.Reader

	// Secrets are the server secrets that SDKs may use, ClientSecrets those of
	// browsers and devices. At least one of them all is needed; those of one
	// kind are aliases of each other. No other environment may have the same.
	Secrets       []Secret
	ClientSecrets []Secret
}

// check returns a copy of e with what may be left out, or what is wrong with it.
func (e Environment) check() (Environment, error) {
	if e.Store == nil {
		return e, errors.New("no Store")
	}
	if len(e.Secrets)+len(e.ClientSecrets) == 0 {
		return e, errors.New("no secrets: at least one is needed")
	}
	for _, list := range [][]Secret{e.Secrets, e.ClientSecrets} {
		for i, s := range list {
			env, err := s.EnvID()
			if err != nil {
				return e, fmt.Errorf("secret number %d: %w", i+1, err)
			}
			if e.ID == "" {
				e.ID = env
			}
		}
	}
	if e.Name == "" {
		e.Name = e.ID
	}
	return e, nil
}

// An environment is one that is served.
type environment struct {
	relay *Relay
	id    string
	store store.Reader
	log   *slog.Logger
	stop  context.CancelFunc
	done  chan struct{} // closed when following has ended; nil if it never began

	name atomic.Pointer[string]

	// view is nil until there is data. It is replaced under mu only.
	view atomic.Pointer[view]

	mu    sync.Mutex
	table table
	// asked is set once the store has answered, if only with an error. failing
	// and flushed say what was logged last about it.
	asked, failing, flushed bool
	rev                     store.Rev
	heartbeat               store.Heartbeat

	judging sync.Mutex
	judged  atomic.Pointer[judge] // nil until somebody wants evaluations
	limits  limits

	changes, invalid atomic.Int64
	conns            atomic.Int64 // open now
	reserved         atomic.Int64 // open now, or about to be

	shards []shard // of the connections that are open
	joined atomic.Uint32
}

func (r *Relay) newEnvironment(e Environment) *environment {
	env := &environment{relay: r, id: e.ID, store: e.Store, log: r.log.With("env", e.Name), limits: r.cfg.RateLimits.limiters()}
	env.shards = newShards(runtime.GOMAXPROCS(0))
	env.table = newTable(env.log)
	env.name.Store(&e.Name)
	return env
}

// reserve makes room for a connection, if there may be another one, until release.
func (e *environment) reserve() bool {
	limit := int64(e.relay.cfg.MaxConnections)
	if n := e.reserved.Add(1); limit > 0 && n > limit {
		e.reserved.Add(-1)
		return false
	}
	return true
}

func (e *environment) release() { e.reserved.Add(-1) }

// start begins to follow the store. The caller holds the relay's envMu.
func (e *environment) start(ctx context.Context) {
	ctx, e.stop = context.WithCancel(ctx)
	e.done = make(chan struct{})
	o := e.relay.cfg.Follow
	callers := o.OnHeartbeat
	o.OnHeartbeat = func(h store.Heartbeat, err error) {
		if err == nil {
			e.mu.Lock()
			e.heartbeat = h
			e.mu.Unlock()
		}
		if callers != nil {
			callers(h, err)
		}
	}
	e.relay.following.Go(func() {
		defer close(e.done)
		if err := store.Follow(ctx, e.store, o, e.follow); ctx.Err() == nil {
			e.follow(store.Snapshot{}, err) // it was closed
		}
	})
}

// follow takes over what store.Follow delivers.
func (e *environment) follow(snap store.Snapshot, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked = true
	if err != nil {
		if !e.failing {
			e.log.Warn("relay: the store fails, the last state is served on", "error", err)
		}
		e.failing = true
		return
	}
	if e.failing {
		e.log.Info("relay: the store is back")
	}
	e.failing = false
	e.rev = snap.Rev
	old := e.view.Load()
	if snap.Rev == "" {
		// Never filled, or flushed: nobody said that all flags were deleted, and
		// whoever fills the store will do so again.
		if old != nil && !e.flushed {
			e.log.Warn("relay: the store was emptied, the last state is served on")
			e.flushed = true
		}
		return
	}
	e.flushed = false
	changed, restamped := e.table.apply(snap, time.Now().UnixMilli())
	e.invalid.Store(int64(len(e.table.invalid)))
	if old == nil {
		e.view.Store(firstView(changed, e.table.hwm))
		e.log.Info("relay: ready", "items", len(changed))
		return
	}
	if len(changed) == 0 {
		return
	}
	e.changes.Add(int64(len(changed)))
	e.relay.counters.changes.Add(int64(len(changed)))
	e.relay.counters.restamped.Add(int64(restamped))
	e.view.Store(old.with(changed, e.table.hwm))
	e.announce()
	e.log.Debug("relay: items changed", "items", len(changed), "restamped", restamped)
}

// aheadTolerance is how far an SDK's cursor may be ahead of both our clock and
// the newest item that we served, and still be believed. What SDKs claimed does
// not count, or they could walk it into the future.
const aheadTolerance = time.Minute

// claim returns the current view after making sure that later changes will be
// newer than cursor, if an SDK can honestly have got there (from this relay
// before a restart, from another one, or by rounding up as Python does).
func (e *environment) claim(cursor int64) *view {
	v := e.view.Load()
	if cursor <= v.hwm {
		return v
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	v = e.view.Load()
	limit := max(time.Now().UnixMilli(), e.table.newest) + aheadTolerance.Milliseconds()
	if cursor <= v.hwm || cursor > limit {
		return v
	}
	e.table.hwm = cursor
	v = v.raised(cursor)
	e.view.Store(v)
	return v
}

// Set replaces the environments that are served, also while Run runs. One that has
// the ID and the Store of one before goes on undisturbed. Connections of those that
// are gone, and those opened with a secret that is no longer listed, are closed with
// 4003, which makes SDKs stop. The error names what is wrong with envs, which then
// changes nothing. Set returns when the stores of those that are gone are no longer
// used. It may be called by several goroutines.
func (r *Relay) Set(envs []Environment) error {
	creds, ids := map[string]credential{}, map[string]bool{}
	var list []credential
	checked := make([]Environment, len(envs))
	for i, e := range envs {
		e, err := e.check()
		if err != nil {
			return fmt.Errorf("relay: environment %q (number %d): %w", e.Name, i+1, err)
		}
		if ids[e.ID] {
			return fmt.Errorf("relay: environment %q (number %d): there is another one with the id %s", e.Name, i+1, e.ID)
		}
		ids[e.ID] = true
		checked[i] = e
	}
	r.setMu.Lock()
	defer r.setMu.Unlock()
	var gone []*environment
	err := func() error {
		r.envMu.Lock()
		defer r.envMu.Unlock()
		next := map[string]*environment{}
		var begun []*environment
		for i, e := range checked {
			env := r.envs[e.ID]
			if env == nil || env.store != e.Store {
				env = r.newEnvironment(e)
				begun = append(begun, env)
			}
			next[e.ID] = env
			for kind, secrets := range map[kind][]Secret{server: e.Secrets, client: e.ClientSecrets} {
				for _, s := range secrets {
					if c, ok := creds[string(s)]; ok && (c.env.id != e.ID || c.kind != kind) {
						return fmt.Errorf("relay: environment %q (number %d) has a secret that is already listed", e.Name, i+1)
					}
					id, _ := s.EnvID() // checked before
					c := credential{secret: []byte(s), kind: kind, env: env, envID: id}
					creds[string(s)] = c
					list = append(list, c)
				}
			}
		}
		for id, env := range r.envs {
			if next[id] != env {
				gone = append(gone, env)
			}
		}
		for _, e := range checked {
			next[e.ID].name.Store(&e.Name)
		}
		r.envs, r.begun = next, append(r.begun, begun...)
		r.secrets.Store(&list)
		if r.ctx != nil {
			for _, env := range begun {
				env.start(r.ctx)
			}
		}
		return nil
	}()
	if err != nil {
		return err
	}
	r.expel(creds)
	for _, env := range gone {
		if env.stop != nil {
			env.stop()
			<-env.done
		}
	}
	return nil
}

// expel closes the streams whose secret is not among creds.
func (r *Relay) expel(creds map[string]credential) {
	r.connMu.Lock()
	conns := r.wheel.all()
	r.connMu.Unlock()
	for _, c := range conns {
		if c.reject {
			continue
		}
		switch now, ok := creds[string(c.cred.secret)]; {
		case !ok:
			r.log.Info("relay: stream closed, its secret is no longer accepted", "env", *c.env.name.Load(), "remote", c.remote())
			c.leave(protocol.CloseInvalid, invalidReason)
		case now.env != c.env:
			c.leave(websocket.CloseGoingAway, "restarting")
		}
	}
}

// list returns the environments that are served.
func (r *Relay) list() []*environment {
	r.envMu.Lock()
	defer r.envMu.Unlock()
	all := make([]*environment, 0, len(r.envs))
	for _, e := range r.envs {
		all = append(all, e)
	}
	return all
}
