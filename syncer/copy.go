package syncer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
)

// errUncommitted says that there is nothing to copy yet.
var errUncommitted = errors.New("nothing was ever committed to the store that is copied")

func newCopying(cfg Config) (*Syncer, error) {
	env := "copy"
	switch {
	case cfg.URL != "" || cfg.Secret != "":
		return nil, errors.New("syncer: From and URL or Secret")
	case cfg.Store == nil:
		return nil, errors.New("syncer: no store")
	case cfg.From == store.Reader(cfg.Store):
		return nil, errors.New("syncer: From and Store are the same")
	case cfg.Env != "":
		var err error
		if env, err = protocol.CheckEnvID(cfg.Env); err != nil {
			return nil, fmt.Errorf("syncer: Env: %w", err)
		}
		cfg.Env = env
	}
	return newSyncer(cfg.withDefaults(), nil, env), nil
}

// A copier hands the states of another store to the manager.
type copier struct {
	syncer  *Syncer
	manager *manager
	number  uint64 // of the series of states without an error
	failed  bool   // there was one in this series

	mu     sync.Mutex // guards what follows
	silent bool       // the store has no heartbeats, for sure
	said   time.Time  // what its heartbeat says
}

// run copies until ctx ends or the store is closed.
func (c *copier) run(ctx context.Context) error {
	cfg := &c.syncer.cfg
	_, beats := cfg.From.(store.HeartbeatReader)
	c.silent = !beats
	reconcile := time.NewTimer(around(cfg.Reconcile))
	defer reconcile.Stop()
	fresh := true
	for {
		if fresh {
			c.number++
			c.failed = false
			c.syncer.update(func(st *Status, _ *health) { st.Connects++; st.Transport = TransportStore })
		}
		// It fails if ctx ends.
		if _, err := c.manager.begin(ctx, c.number); err != nil {
			return err
		}
		series, again := context.WithCancelCause(ctx)
		stop := make(chan struct{})
		var asking sync.WaitGroup
		asking.Go(func() {
			select {
			case <-c.manager.resync:
				again(errRepeat)
			case <-reconcile.C:
				reconcile.Reset(around(cfg.Reconcile))
				again(errRepeat)
			case <-stop:
			}
		})
		err := c.follow(series, again)
		close(stop)
		asking.Wait()
		cause := context.Cause(series)
		again(nil)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(cause, errRepeat):
			fresh = c.failed
		case errors.Is(cause, errRenew):
			fresh = true
		default:
			return fmt.Errorf("the store that is copied: %w", err)
		}
	}
}

// errRepeat ends a series of states because everything is wanted.
var errRepeat = errors.New("everything is wanted")

// follow delivers states until series ends: again ends it when one comes after an
// error, since what is held has to be compared with all of it.
func (c *copier) follow(series context.Context, again context.CancelCauseFunc) error {
	cfg := &c.syncer.cfg
	fail := func(err error) {
		c.failed = true
		err = fmt.Errorf("the store that is copied: %w", err)
		c.syncer.update(func(_ *Status, h *health) { h.lost, h.linkErr = c.number, err })
	}
	o := store.FollowOptions{
		Timeout:     cfg.StoreTimeout,
		HoldBack:    copyHoldBack,
		OnHeartbeat: c.beat,
	}
	number := c.number
	var rev store.Rev
	known := false
	tap := c.tap(func(snap store.Snapshot, said time.Time) {
		// What Follow does not deliver confirms what was delivered.
		if known && !c.failed && snap.Rev == rev {
			c.confirm(said)
		}
	})
	return store.Follow(series, tap, o, func(snap store.Snapshot, err error) {
		switch {
		case err != nil:
			fail(err)
		case snap.Rev == "":
			fail(errUncommitted)
		case c.failed:
			again(errRenew)
		default:
			doc := wire.DataSync{EventType: wire.Full, Items: snap.Items}
			if snap.Delta {
				doc.EventType = wire.Patch
			} else if env := envOf(slices.Values(snap.Items)); cfg.Env != "" && env != "" && env != cfg.Env {
				fail(fmt.Errorf("it has flags of environment %s, want %s", env, cfg.Env))
				return
			}
			if c.manager.receive(series, delivery{doc, number}) == nil {
				rev, known = snap.Rev, true
			}
		}
	})
}

// copyHoldBack is how long a state with older versions is held back: the time in
// which the writer of a store that was flushed puts it right.
const copyHoldBack = 5 * time.Second

func (c *copier) beat(h store.Heartbeat, err error) {
	if err != nil {
		return // what it said last stands
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.silent = h.Written.IsZero()
	c.said = h.Confirmed
}

// saying returns what a load that begins now confirms.
func (c *copier) saying() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.silent {
		return time.Now()
	}
	return c.said
}

func (c *copier) confirm(at time.Time) {
	if !at.IsZero() {
		c.syncer.heard.Store(at.UnixNano())
	}
}

// tap returns the store, which calls loaded after each load with what the store's
// heartbeat said before it. It keeps the store's other abilities.
func (c *copier) tap(loaded func(store.Snapshot, time.Time)) store.Reader {
	from := c.syncer.cfg.From
	t := tapped{from, c, loaded}
	w, watches := from.(store.Watcher)
	h, beats := from.(store.HeartbeatReader)
	switch {
	case watches && beats:
		return struct {
			tapped
			store.Watcher
			store.HeartbeatReader
		}{t, onlyWatcher{w}, onlyHeartbeats{h}}
	case watches:
		return struct {
			tapped
			store.Watcher
		}{t, onlyWatcher{w}}
	case beats:
		return struct {
			tapped
			store.HeartbeatReader
		}{t, onlyHeartbeats{h}}
	}
	return t
}

type tapped struct {
	from   store.Reader
	copier *copier
	loaded func(store.Snapshot, time.Time)
}

func (t tapped) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	said := t.copier.saying()
	snap, err := t.from.Load(ctx, since)
	if err == nil {
		t.loaded(snap, said)
	}
	return snap, err
}

type onlyWatcher struct{ w store.Watcher }

func (o onlyWatcher) Watch(ctx context.Context, wake func()) error { return o.w.Watch(ctx, wake) }

type onlyHeartbeats struct{ h store.HeartbeatReader }

func (o onlyHeartbeats) ReadHeartbeat(ctx context.Context) (store.Heartbeat, error) {
	return o.h.ReadHeartbeat(ctx)
}
