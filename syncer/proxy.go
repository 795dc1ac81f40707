package syncer

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/metrics"
	"github.com/flagstead/flagstead/store"
)

// A ProxyKey is a FeatBit relay-proxy key. It never prints.
type ProxyKey = protocol.ProxyKey

// ProxyConfig says what a [Proxy] syncs, and how. URL, Key and Open are required.
type ProxyConfig struct {
	// URL is FeatBit's evaluation server, as in Config.URL.
	URL string

	// Key is the relay-proxy key, which begins with "rp-".
	Key ProxyKey

	// AgentID is what FeatBit's portal calls this process. It should outlive a
	// restart: FeatBit counts them. Empty means the host's name.
	AgentID string

	// Register announces AgentID to FeatBit and reports how the syncing stands
	// every minute. A refusal is found in ProxyStatus.RegisterErr and keeps nothing
	// from syncing.
	Register bool

	// Open returns the store of an environment. It is called once for each one that
	// FeatBit names, again after a pause if it fails, and again for an environment
	// that was removed and comes back; from several goroutines at a time. It must
	// return when ctx ends. The proxy does not close the store.
	Open func(ctx context.Context, env ProxyEnv) (store.DataStore, error)

	// OnEnvironments, if set, gets the whole list of environments, sorted by id,
	// whenever it has changed, from one goroutine at a time. It must not block. An
	// environment that is no longer in it is synced no longer; its store keeps its
	// content, and may be closed.
	OnEnvironments func([]ProxyEnv)

	// OnStatus, if set, is called after each change of an environment's Status, for
	// one environment from one goroutine at a time. It must not block.
	OnStatus func(env string, st Status)

	// Config is the template for all environments: Guard, Reconcile, TLS, Logger
	// and so on. URL, Secret, Store and OnStatus must be zero. MaxMessage bounds a
	// message with the flags of all environments and is 256 MiB if zero.
	Config Config

	roundEvery, statusEvery, registerPause time.Duration // only tests set them
}

// A ProxyEnv is an environment in the scope of a relay-proxy key.
type ProxyEnv struct {
	ID            string // GUID in lower case
	ProjectKey    string
	EnvKey        string
	ServerSecrets []Secret // sorted
	ClientSecrets []Secret // sorted
}

// Name returns "project:environment" as FeatBit calls them, or the ID if it does not
// say.
func (e ProxyEnv) Name() string {
	if e.ProjectKey == "" && e.EnvKey == "" {
		return e.ID
	}
	return e.ProjectKey + ":" + e.EnvKey
}

func (e ProxyEnv) equal(f ProxyEnv) bool {
	return e.ID == f.ID && e.ProjectKey == f.ProjectKey && e.EnvKey == f.EnvKey &&
		slices.Equal(e.ServerSecrets, f.ServerSecrets) && slices.Equal(e.ClientSecrets, f.ClientSecrets)
}

func (e ProxyEnv) clone() ProxyEnv {
	e.ServerSecrets, e.ClientSecrets = slices.Clone(e.ServerSecrets), slices.Clone(e.ClientSecrets)
	return e
}

// ProxyStatus describes a [Proxy] at one moment.
type ProxyStatus struct {
	// State is OK while the connection is open and every environment is OK.
	State State
	Err   error     // why there is no connection, or nil
	Heard time.Time // when FeatBit last sent anything

	Registered  bool  // FeatBit knows AgentID
	RegisterErr error // why it does not yet, or nil

	Connects uint64 // connections opened
	Fulls    uint64 // full states of all environments received
	Ignored  uint64 // messages, environments or items that could not be used

	Environments []EnvStatus // sorted by ID
}

// EnvStatus is how one environment of a [Proxy] stands.
type EnvStatus struct {
	ID, ProjectKey, EnvKey string // as in ProxyEnv

	// Status is as a Syncer of the environment alone would have it. Its Err says,
	// too, why the store cannot be opened. Confirmed of an environment without a
	// server secret moves with full states only: FeatBit announces no changes of
	// such.
	Status Status
}

// A Proxy keeps one store per environment equal to FeatBit, for all environments
// in the scope of a relay-proxy key, over one connection. Make it with [NewProxy].
// Each store is written just as a [Syncer] writes its one, and by itself: one that
// is down delays no other.
//
// FeatBit tells of new environments and secrets only in a full state, which is
// asked for per Config.Reconcile. One that lacks an environment must be repeated
// after Guard.Wait before that counts as removed; one without any environment removes
// none.
type Proxy struct {
	cfg  ProxyConfig
	conf Config // the template, with its defaults
	base *url.URL
	link *link

	ctx     context.Context // of Run
	running sync.WaitGroup  // of the environments

	reconciles chan struct{} // capacity 1: everything is wanted at once
	opens      chan struct{} // capacity 1: an environment's store is open now
	wants      chan struct{} // capacity 1: a manager wants everything
	suspects   chan struct{} // capacity 1: a message was lost
	rechecks   chan struct{} // capacity 1: an environment is missing
	answered   chan struct{} // capacity 1: a full state came

	mu      sync.Mutex // guards what follows
	status  ProxyStatus
	envs    map[string]*proxied
	version int64     // newest of an item that was received
	synced  time.Time // when data came last
	live    uint64    // connection that the last full state came on
	lost    uint64    // the last connection that ended
	off     bool
}

// A proxied is one environment of a Proxy.
type proxied struct {
	ctx    context.Context
	cancel context.CancelFunc

	// The mutex of the Proxy guards what follows.
	env     ProxyEnv
	syncer  *Syncer // nil until the store is open
	manager *manager
	openErr error
	hears   bool      // pushes of it come on the connection
	missing time.Time // since when full states lack it; zero: they have it
}

// NewProxy checks cfg and returns a proxy that has not connected yet. The error
// says what is wrong with cfg, without the key.
func NewProxy(cfg ProxyConfig) (*Proxy, error) {
	base, err := protocol.BaseURL(cfg.URL, "ws")
	if err != nil {
		return nil, fmt.Errorf("syncer: %w", err)
	}
	if base.User != nil {
		return nil, fmt.Errorf("syncer: URL %q has a user in it, which FeatBit's stream does not take", base.Redacted())
	}
	if err := cfg.Key.Check(); err != nil {
		return nil, fmt.Errorf("syncer: %w", err)
	}
	if cfg.Open == nil {
		return nil, errors.New("syncer: no Open, which gives each environment its store")
	}
	if c := cfg.Config; c.URL != "" || c.Secret != "" || c.Store != nil || c.OnStatus != nil {
		return nil, errors.New("syncer: URL, Secret, Store and OnStatus of a proxy's template must be zero")
	}
	if c := cfg.Config; c.Lease || c.From != nil || c.Env != "" || c.Poll != PollFallback {
		return nil, errors.New("syncer: a proxy's template has Lease, From, Env or Poll, which one environment alone can have")
	}
	if cfg.AgentID == "" {
		if cfg.AgentID, err = os.Hostname(); err != nil && cfg.Register {
			return nil, fmt.Errorf("syncer: no AgentID, and this host has no name: %w", err)
		}
	}
	if len(cfg.AgentID) > 200 {
		return nil, fmt.Errorf("syncer: AgentID has %d bytes, at most 200 are allowed", len(cfg.AgentID))
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&cfg.roundEvery, 5 * time.Second}, {&cfg.statusEvery, time.Minute}, {&cfg.registerPause, time.Second}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if cfg.Config.MaxMessage <= 0 {
		cfg.Config.MaxMessage = 256 << 20
	}
	p := &Proxy{
		cfg:        cfg,
		conf:       cfg.Config.withDefaults(),
		base:       base,
		reconciles: make(chan struct{}, 1),
		opens:      make(chan struct{}, 1),
		wants:      make(chan struct{}, 1),
		suspects:   make(chan struct{}, 1),
		rechecks:   make(chan struct{}, 1),
		answered:   make(chan struct{}, 1),
		envs:       map[string]*proxied{},
	}
	p.link = &link{cfg: &p.conf, base: base, name: "relay-proxy", user: p.asLinkUser()}
	var numbers uint64
	p.link.next = func() uint64 { numbers++; return numbers }
	return p, nil
}

// Run syncs until ctx ends, and returns its error, or until FeatBit refuses the
// key for good, and returns an error that wraps [ErrUnauthorized]. When it returns
// no environment is synced any more. Run may be called once.
func (p *Proxy) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	p.ctx = ctx
	var registering sync.WaitGroup
	if p.cfg.Register {
		registering.Go(func() { p.register(ctx) })
	}
	err := p.link.run(ctx)
	if errors.Is(err, ErrUnauthorized) {
		p.ended(p.link.number, err)
	}
	cancel()
	registering.Wait()
	p.running.Wait()
	p.mu.Lock()
	p.off = true
	p.mu.Unlock()
	return err
}

// Reconcile asks FeatBit for everything now. It does not block.
func (p *Proxy) Reconcile() { signal(p.reconciles) }

// Accept is [Syncer.Accept] for the environment with this id. It reports whether
// there is one.
func (p *Proxy) Accept(env string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	e, ok := p.envs[strings.ToLower(env)]
	if !ok || e.syncer == nil {
		return false
	}
	e.syncer.Accept()
	return true
}

// Status returns the current status. It does not block.
func (p *Proxy) Status() ProxyStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.statusLocked()
}

func (p *Proxy) statusLocked() ProxyStatus {
	st := p.status
	st.Environments = make([]EnvStatus, 0, len(p.envs))
	ok := p.live > p.lost
	for _, e := range p.envs {
		es := EnvStatus{ID: e.env.ID, ProjectKey: e.env.ProjectKey, EnvKey: e.env.EnvKey}
		if e.syncer != nil {
			es.Status = e.syncer.Status()
		} else {
			es.Status.Err = e.openErr
		}
		ok = ok && es.Status.State == OK
		st.Environments = append(st.Environments, es)
	}
	slices.SortFunc(st.Environments, func(a, b EnvStatus) int { return strings.Compare(a.ID, b.ID) })
	switch {
	case p.off:
		st.State = Off
	case ok:
		st.State = OK
	case p.live > 0:
		st.State = Interrupted
	}
	return st
}

// Metrics returns what an operator watches of the connection. It does not block.
func (p *Proxy) Metrics() []Measurement {
	st := p.Status()
	up := 0.0
	if st.State == OK {
		up = 1
	}
	ok := 0
	for _, e := range st.Environments {
		if e.Status.State == OK {
			ok++
		}
	}
	return []Measurement{
		{Name: "flagstead_proxy_ok", Help: "Whether every environment's store is equal to FeatBit.", Counter: false, Value: up},
		{Name: "flagstead_proxy_state", Help: "0 initializing, 1 ok, 2 interrupted, 3 off.", Counter: false, Value: float64(st.State)},
		{Name: "flagstead_proxy_environments", Help: "Environments in the scope of the relay-proxy key.", Counter: false, Value: float64(len(st.Environments))},
		{Name: "flagstead_proxy_environments_ok", Help: "Environments whose store is equal to FeatBit.", Counter: false, Value: float64(ok)},
		{Name: "flagstead_proxy_connects_total", Help: "Connections opened to FeatBit.", Counter: true, Value: float64(st.Connects)},
		{Name: "flagstead_proxy_fulls_total", Help: "Full states of all environments received.", Counter: true, Value: float64(st.Fulls)},
		{Name: "flagstead_proxy_ignored_total", Help: "Messages, environments and items that could not be used.", Counter: true, Value: float64(st.Ignored)},
	}
}

// MetricGroups returns [Syncer.Metrics] of each environment whose store is open, with
// the label env, which is its name. It does not block.
func (p *Proxy) MetricGroups() []metrics.Group {
	p.mu.Lock()
	defer p.mu.Unlock()
	var groups []metrics.Group
	for _, e := range p.envs {
		if e.syncer != nil {
			groups = append(groups, metrics.Group{Labels: metrics.Labels{"env": e.env.Name()}, Measurements: e.syncer.Metrics()})
		}
	}
	return groups
}

// start begins to sync an environment. The caller holds mu.
func (p *Proxy) start(env ProxyEnv) *proxied {
	e := &proxied{env: env}
	e.ctx, e.cancel = context.WithCancel(p.ctx)
	p.envs[env.ID] = e
	p.running.Go(func() {
		defer e.cancel()
		p.runEnv(e, env.clone())
	})
	return e
}

// runEnv opens the environment's store and writes it until the environment is
// removed.
func (p *Proxy) runEnv(e *proxied, env ProxyEnv) {
	var st store.DataStore
	for n := 1; st == nil; n++ {
		var err error
		st, err = p.cfg.Open(e.ctx, env)
		if err == nil && st == nil {
			err = errors.New("none was returned")
		}
		if err == nil {
			break
		}
		err = fmt.Errorf("store: cannot open: %w", err)
		p.mu.Lock()
		e.openErr = err
		p.mu.Unlock()
		if n == 1 && e.ctx.Err() == nil {
			p.conf.Logger.Error("an environment has no store", "env", env.ID, "error", err)
		}
		if !pause(e.ctx, store.Backoff(n, 100*time.Millisecond, 10*time.Second)) {
			return
		}
	}
	cfg := p.conf
	cfg.Store = st
	if notify := p.cfg.OnStatus; notify != nil {
		cfg.OnStatus = func(st Status) { notify(env.ID, st) }
	}
	s := newSyncer(cfg, p.base, env.ID)
	m := newManager(s)
	m.whole, m.resync = true, p.wants
	s.status.Transport = TransportStream
	p.mu.Lock()
	s.health.lost, s.health.linkErr = p.lost, p.status.Err
	e.syncer, e.manager, e.openErr = s, m, nil
	p.mu.Unlock()
	// What came before was not asked for with the store in view.
	signal(p.opens)
	s.stop(s.run(e.ctx, m, func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}))
}

// with returns a context that ends with ctx or with the environment.
func (e *proxied) with(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(e.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}
