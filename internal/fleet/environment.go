package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"sync"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/syncer"
)

// A plan is an environment and what it shares with others.
type plan struct {
	Environment
	FeatBit FeatBit
}

func (p plan) secrets() (server, client []protocol.Secret) {
	if p.server != "" {
		server = append(server, p.server)
	}
	if p.client != "" {
		client = append(client, p.client)
	}
	return append(server, p.accept...), append(client, p.acceptClient...)
}

func (p plan) syncs() bool { return p.Sync == nil || *p.Sync }

// An environment is one that the file names, while it runs.
type environment struct {
	fleet   *Fleet
	name    string
	log     *slog.Logger
	stop    context.CancelFunc
	done    chan struct{} // closed when run has returned
	changed chan struct{} // capacity 1: the plan is another one

	mu     sync.Mutex
	plan   plan
	store  store.DataStore // nil until it is open
	source store.DataStore // of from, likewise
	from   string
	pump   *pump          // nil: its outbox is not emptied
	syncer *syncer.Syncer // nil while there is none
	err    error          // why there is no store or no syncer
}

// refusedAgain is how long an environment rests whose secret FeatBit refused. The
// secret may be made valid again, and FeatBit says the same when it has lost its
// database.
const refusedAgain = 5 * time.Minute

// openPatience bounds the pause between attempts to open a store.
const openPatience = 10 * time.Second

// start starts an environment. The caller holds mu.
func (f *Fleet) start(p plan) *environment {
	ctx, stop := context.WithCancel(f.ctx)
	e := &environment{
		fleet: f, name: p.Name, log: f.log.With("name", p.Name), stop: stop, plan: p,
		done: make(chan struct{}), changed: make(chan struct{}, 1),
	}
	f.running.Go(func() {
		defer close(e.done)
		e.run(ctx)
	})
	return e
}

// end stops the environment and closes its store.
func (e *environment) end() {
	e.stop()
	<-e.done
	e.closeStore()
}

func (e *environment) closeStore() {
	e.mu.Lock()
	open, pump := []store.DataStore{e.store, e.source}, e.pump
	e.store, e.source, e.from, e.pump = nil, nil, "", nil
	e.mu.Unlock()
	pump.end()
	for _, st := range open {
		if st == nil {
			continue
		}
		if err := st.Close(); err != nil {
			e.log.Warn("a store could not be closed", "error", err)
		}
	}
}

func (e *environment) spec() plan {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.plan
}

// change gives the environment another plan on the same store.
func (e *environment) change(p plan) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if reflect.DeepEqual(e.plan, p) {
		return
	}
	e.plan = p
	e.log.Info("environment changed")
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

func (e *environment) fail(err error) {
	e.mu.Lock()
	again := text(e.err) == text(err)
	e.err = err
	e.mu.Unlock()
	if err != nil && !again {
		e.log.Error("environment does not work", "error", err)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// run opens the store and keeps it in sync, until ctx ends.
func (e *environment) run(ctx context.Context) {
	p := e.spec()
	server, client := p.secrets()
	st := e.open(ctx, OpenRequest{URL: p.Store, ReadOnly: !p.syncs(), Server: server, Client: client, Env: p.Name, EnvID: p.id})
	if st == nil {
		return
	}
	e.mu.Lock()
	e.store = st
	e.mu.Unlock()
	e.fail(nil)
	e.fleet.publish()
	pump := e.fleet.outbox.start(st, p.id, p.Name)
	e.mu.Lock()
	e.pump = pump
	e.mu.Unlock()
	for ctx.Err() == nil {
		p := e.spec()
		if !p.syncs() {
			wait(ctx, e.changed, 0)
			continue
		}
		if !e.openSource(ctx, p) {
			return
		}
		e.sync(ctx, p, st)
	}
}

// open returns the store, or nil when ctx ends first.
func (e *environment) open(ctx context.Context, r OpenRequest) store.DataStore {
	for attempt := 1; ctx.Err() == nil; attempt++ {
		st, err := e.fleet.opts.Open(r)
		if err == nil {
			return st
		}
		e.fail(err)
		wait(ctx, nil, store.Backoff(attempt, 100*time.Millisecond, openPatience))
	}
	return nil
}

// openSource opens the store that p copies, if it does. It reports false when ctx ends
// first.
func (e *environment) openSource(ctx context.Context, p plan) bool {
	e.mu.Lock()
	old := e.source
	if p.From == e.from {
		e.mu.Unlock()
		return true
	}
	e.source, e.from = nil, ""
	e.mu.Unlock()
	if old != nil {
		_ = old.Close()
	}
	if p.From == "" {
		return true
	}
	st := e.open(ctx, OpenRequest{URL: p.From, ReadOnly: true, Env: p.Name, EnvID: p.id})
	if st == nil {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.source, e.from = st, p.From
	return true
}

// sync runs one syncer until ctx ends, the plan changes or FeatBit refuses the
// secret, after which it rests.
func (e *environment) sync(ctx context.Context, p plan, st store.DataStore) {
	s, err := e.newSyncer(p, st)
	if err != nil {
		e.fail(err)
		wait(ctx, e.changed, 0)
		return
	}
	e.fail(nil)
	e.mu.Lock()
	e.syncer = s
	e.mu.Unlock()
	runCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-e.changed:
			cancel()
		case <-stop:
		}
	})
	err = s.Run(runCtx)
	close(stop)
	watching.Wait()
	if runCtx.Err() == nil && errors.Is(err, syncer.ErrUnauthorized) {
		e.fail(err)
		wait(ctx, e.changed, refusedAgain/2+rand.N(refusedAgain))
	}
}

// wait waits for ctx, c, or d if that is not zero.
func wait(ctx context.Context, c <-chan struct{}, d time.Duration) {
	var after <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		after = t.C
	}
	select {
	case <-ctx.Done():
	case <-c:
	case <-after:
	}
}

func (e *environment) newSyncer(p plan, st store.DataStore) (*syncer.Syncer, error) {
	cfg, err := syncConfig(p.Settings, p.FeatBit)
	if err != nil {
		return nil, err
	}
	cfg.Store, cfg.Logger = st, e.log
	if p.From != "" {
		e.mu.Lock()
		cfg.From, cfg.Env = e.source, p.id
		e.mu.Unlock()
	} else {
		cfg.URL, cfg.Secret = p.FeatBit.URL, p.server
	}
	return syncer.New(cfg)
}

// syncConfig is what environments of the file and of a relay proxy have in common.
func syncConfig(s Settings, f FeatBit) (syncer.Config, error) {
	cfg := syncer.Config{
		Reconcile: time.Duration(s.Reconcile),
		Guard:     syncer.Guard{Off: s.Guard.Off, MaxRemoved: float64(s.Guard.MaxRemoved), Wait: time.Duration(s.Guard.Wait)},
		History:   defaultHistory,
	}
	if s.History != nil {
		cfg.History = *s.History
	}
	cfg.Lease = s.Lease != nil && *s.Lease
	switch s.Poll {
	case "never":
		cfg.Poll = syncer.PollNever
	case "always":
		cfg.Poll = syncer.PollAlways
	}
	var err error
	cfg.TLS, err = f.TLS.config()
	return cfg, err
}

// defaultHistory is how many revisions are kept unless the file says otherwise.
const defaultHistory = 50

func (t TLS) config() (*tls.Config, error) {
	if t == (TLS{}) {
		return nil, nil
	}
	return sdk.LoadTLS(t.CA, t.Cert, t.Key)
}

func (e *environment) reconcile() bool {
	e.mu.Lock()
	s := e.syncer
	e.mu.Unlock()
	if s == nil {
		return false
	}
	s.Reconcile()
	return true
}
