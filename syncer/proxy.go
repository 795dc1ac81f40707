package syncer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/metrics"
	"github.com/flagstead/flagstead/store"
)

// ProxyConfig says what a [Proxy] syncs, and how. URL, Key and Open are required.
type ProxyConfig struct {
	// URL is FeatBit's evaluation server, as in [Config].
	URL string

	// Key is that of a relay proxy in FeatBit, which begins with "rp-". It gives
	// access to all environments in the relay proxy's scope.
	Key Secret

	// AgentID is what this process is called in FeatBit. Empty means the host's
	// name.
	AgentID string

	// NoRegister does without the registration of AgentID, which FeatBit shows and
	// counts against a quota. Without it nothing is lacking but the status there.
	NoRegister bool

	// Open returns the store of an environment. It is called again, with pauses,
	// when it fails; ctx ends when the environment is gone meanwhile. The Proxy
	// does not close what it returns, and no longer uses it once OnEnvironments was
	// called without the environment, or Run has returned.
	Open func(ctx context.Context, env ProxyEnv) (store.DataStore, error)

	// OnEnvironments, if set, is called with all environments when they, or their
	// secrets, are others than before, from one goroutine at a time. It owns the
	// list and must return soon.
	OnEnvironments func([]ProxyEnv)

	// Sync tunes the syncing of each environment. URL, Secret, Store and OnStatus
	// in it are ignored; Name, Logger, TLS, Proxy, NetDial and the times are those
	// of the connection, too.
	Sync Config
}

// A ProxyEnv is an environment that a relay proxy's key gives access to.
type ProxyEnv struct {
	ID         string // a GUID
	ProjectKey string // as in FeatBit's URLs
	EnvKey     string // likewise, unique within the project

	ServerSecrets []Secret // sorted; may be empty
	ClientSecrets []Secret // sorted; may be empty
}

// Name returns "project:environment", as FeatBit calls it, or the ID if those are not
// known.
func (e ProxyEnv) Name() string {
	if e.ProjectKey == "" && e.EnvKey == "" {
		return e.ID
	}
	return e.ProjectKey + ":" + e.EnvKey
}

// ProxyStatus describes a Proxy at one moment.
type ProxyStatus struct {
	Connected bool      // there is a connection, and what was asked for came
	Err       error     // why there is not, or nil
	Heard     time.Time // when FeatBit last sent anything
	Connects  uint64    // connections opened
	Fulls     uint64    // full states of all environments received
	Ignored   uint64    // messages that could not be used

	Registered  bool  // FeatBit knows the AgentID
	RegisterErr error // why it does not, or nil

	Environments []ProxyEnvStatus // by name
}

// ProxyEnvStatus describes one environment.
type ProxyEnvStatus struct {
	ID     string // a GUID
	Name   string // see ProxyEnv.Name
	Open   bool   // the store
	Err    error  // why it is not, or nil
	Status Status // of its syncing; Connects, Heard and ClockSkew are the connection's
}

// A Proxy keeps the stores of all environments of one relay proxy equal to FeatBit,
// over one connection. Each environment is synced like by a [Syncer] of its own, so
// what goes wrong with one store harms no other. Make it with [NewProxy]. All methods
// are safe for concurrent use.
type Proxy struct {
	cfg   ProxyConfig
	sync  Config // of the connection
	base  *url.URL
	log   *slog.Logger
	heard atomic.Int64
	skew  atomic.Int64

	asks       chan struct{} // capacity 1: everything is wanted
	answered   chan struct{} // capacity 1: it came
	reconciles chan struct{} // capacity 1
	doubts     chan struct{} // capacity 1: an environment is missing

	running sync.WaitGroup // of environments; grows only in read

	missing map[string]time.Time // environments that a full state lacked, and since when; only read uses it

	mu     sync.Mutex
	status ProxyStatus
	envs   map[string]*proxied // by id
}

// A proxied is one environment of a Proxy.
type proxied struct {
	proxy *Proxy
	stop  context.CancelFunc
	done  chan struct{}

	mu      sync.Mutex
	env     ProxyEnv
	err     error    // why its store is not open
	syncer  *Syncer  // nil until it is
	manager *manager // likewise
	begun   uint64   // the connection that manager was told of last
}

// NewProxy checks cfg and returns a Proxy that has not connected yet. The error says
// what is wrong with cfg, without the key.
func NewProxy(cfg ProxyConfig) (*Proxy, error) {
	base, err := protocol.BaseURL(cfg.URL, "ws")
	switch {
	case err != nil:
		return nil, fmt.Errorf("syncer: %w", err)
	case base.User != nil:
		return nil, fmt.Errorf("syncer: URL %q has a user in it, which FeatBit's stream does not take", base.Redacted())
	case !strings.HasPrefix(string(cfg.Key), "rp-"):
		return nil, errors.New("syncer: the key is not a relay proxy's, which begins with rp-")
	case cfg.Open == nil:
		return nil, errors.New("syncer: no Open")
	}
	c := cfg.Sync.withDefaults()
	cfg.AgentID = cmp.Or(cfg.AgentID, hostname())
	return &Proxy{
		cfg: cfg, sync: c, base: base, log: c.Logger.With("agent", cfg.AgentID),
		asks: make(chan struct{}, 1), answered: make(chan struct{}, 1), reconciles: make(chan struct{}, 1), doubts: make(chan struct{}, 1),
		envs: map[string]*proxied{}, missing: map[string]time.Time{},
	}, nil
}

// Run syncs until ctx ends, and returns its error, or until FeatBit refuses the key
// for good, and returns an error that wraps [ErrUnauthorized]. Nothing else ends it.
// Run may be called once.
func (p *Proxy) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := socket{
		cfg: &p.sync, base: p.base, secret: p.cfg.Key,
		address: func(time.Time) string { return protocol.RelayStreamingURL(p.base, p.cfg.Key) },
		hint:    "check that the key is a relay proxy's, and that the relay proxy has an environment with a server secret",
		skewed:  func(d time.Duration) { p.skew.Store(int64(d)) },
	}
	var wg sync.WaitGroup
	if !p.cfg.NoRegister {
		wg.Go(func() { p.register(ctx) })
	}
	cancel(p.connections(ctx, &s))
	wg.Wait()
	p.mu.Lock()
	for _, e := range p.envs {
		e.stop()
	}
	p.mu.Unlock()
	p.running.Wait()
	return context.Cause(ctx)
}

// connections connects again and again.
func (p *Proxy) connections(ctx context.Context, s *socket) error {
	var number uint64
	for attempt := 0; ; attempt++ {
		began := time.Now()
		err := p.connect(ctx, s, number+1)
		if err != nil && errors.Is(err, errNotOpened) {
			err = errors.Unwrap(err)
		} else {
			number++
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, ErrUnauthorized) {
			p.lost(number, err)
			return err
		}
		if time.Since(began) > goodAfter {
			attempt = 0
		}
		p.lost(number, err)
		p.log.Info("relay proxy connection", "connected", false, "error", err)
		if !pause(ctx, jitter(attempt, p.sync.BackoffMin, p.sync.BackoffMax)) {
			return ctx.Err()
		}
	}
}

// errNotOpened wraps why a connection was not even opened.
var errNotOpened = errors.New("not opened")

type notOpened struct{ error }

func (n notOpened) Unwrap() error        { return n.error }
func (n notOpened) Is(target error) bool { return target == errNotOpened }

// lost notes that the connection with this number is none any more, or that none
// could be opened after it.
func (p *Proxy) lost(number uint64, err error) {
	p.mu.Lock()
	p.status.Connected, p.status.Err = false, err
	p.mu.Unlock()
	for _, e := range p.ready() {
		e.syncer.update(func(_ *Status, h *health) { h.lost, h.linkErr = number, err })
	}
}

// all returns the environments in no particular order.
func (p *Proxy) all() []*proxied {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Values(p.envs))
}

// A receiver is an environment whose store is open.
type receiver struct {
	*proxied
	syncer  *Syncer
	manager *manager
}

// ready returns those whose store is open.
func (p *Proxy) ready() []receiver {
	var ready []receiver
	for _, e := range p.all() {
		e.mu.Lock()
		if e.manager != nil {
			ready = append(ready, receiver{e, e.syncer, e.manager})
		}
		e.mu.Unlock()
	}
	return ready
}

// connect opens one connection, serves it until it ends, and says why it did.
func (p *Proxy) connect(ctx context.Context, s *socket, number uint64) error {
	conn, err := s.dial(ctx)
	if err != nil {
		return notOpened{err}
	}
	p.mu.Lock()
	p.status.Connects++
	p.mu.Unlock()
	for _, old := range []chan struct{}{p.asks, p.answered} {
		unsignal(old)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer conn.Close()
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() {
		sendClose(conn, websocket.CloseNormalClosure)
		conn.Close()
	})
	defer stop()
	wg.Go(func() {
		if err := p.write(ctx, conn, number); err != nil {
			cancel(err)
		}
	})
	err = p.read(ctx, conn, number)
	if errors.Is(err, errMalformed) {
		sendClose(conn, websocket.CloseGoingAway)
	}
	if _, ok := errors.AsType[*websocket.CloseError](err); ok {
		return s.explain(err)
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return s.explain(err)
}

const (
	// statusEvery is the time between two reports to FeatBit.
	statusEvery = time.Minute

	// gather is how long a request for everything waits for others to want it, too.
	gather = 200 * time.Millisecond
)

// write asks for everything, pings, and reports. It is the only writer of the
// connection but for the close frame.
func (p *Proxy) write(ctx context.Context, conn *websocket.Conn, number uint64) error {
	send := func(frame []byte) error {
		conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
		return conn.WriteMessage(websocket.TextMessage, frame)
	}
	ask := func() error {
		if err := p.begin(ctx, number); err != nil {
			return err
		}
		unsignal(p.answered)
		return send(protocol.DataSyncRequest(0))
	}
	if err := ask(); err != nil {
		return err
	}
	ping := time.NewTicker(p.sync.Ping)
	defer ping.Stop()
	report := time.NewTimer(0)
	defer report.Stop()
	reconcile := time.NewTimer(p.reconcileIn())
	defer reconcile.Stop()
	answer := time.NewTimer(p.sync.answerTimeout)
	defer answer.Stop()
	asking := time.NewTimer(time.Hour)
	defer asking.Stop()
	doubt := time.NewTimer(time.Hour)
	defer doubt.Stop()
	wanted := false
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-ping.C:
			err = send(protocol.PingFrame)
		case <-report.C:
			err = send(p.report())
			report.Reset(statusEvery - statusEvery/20 + rand.N(statusEvery/10))
		case <-reconcile.C:
			reconcile.Reset(p.reconcileIn())
			p.want()
		case <-p.reconciles:
			p.want()
		case <-p.doubts:
			doubt.Reset(p.sync.Guard.Wait)
		case <-doubt.C:
			p.want()
		case <-p.asks:
			if !wanted {
				wanted = true
				asking.Reset(gather)
			}
		case <-asking.C:
			wanted = false
			err = ask()
			answer.Reset(p.sync.answerTimeout)
		case <-p.answered:
			answer.Stop()
		case <-answer.C:
			err = errors.New("the server does not answer data-sync requests")
		}
		if err != nil {
			return err
		}
	}
}

func (p *Proxy) reconcileIn() time.Duration {
	d := p.sync.Reconcile
	return d - d/20 + rand.N(d/10+1)
}

// want makes every environment note where its store stands, and asks for everything
// a moment later.
func (p *Proxy) want() {
	for _, e := range p.ready() {
		signal(e.syncer.reconciles)
	}
	signal(p.asks)
}

// begin tells the environments of the connection, each of which notes where its store
// stands before everything is asked for.
func (p *Proxy) begin(ctx context.Context, number uint64) error {
	var wg sync.WaitGroup
	for _, e := range p.ready() {
		e.mu.Lock()
		begun := e.begun == number
		e.begun = number
		e.mu.Unlock()
		if begun {
			continue
		}
		e.syncer.update(func(st *Status, _ *health) { st.Connects++ })
		wg.Go(func() { e.manager.begin(ctx, number) }) // all ask for everything, whatever they have
	}
	wg.Wait()
	return ctx.Err()
}

func (p *Proxy) read(ctx context.Context, conn *websocket.Conn, number uint64) error {
	for {
		_, r, err := conn.NextReader()
		if err != nil {
			return err
		}
		text, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		now := time.Now().UnixNano()
		p.heard.Store(now)
		for _, e := range p.ready() {
			e.syncer.heard.Store(now)
		}
		var env protocol.Envelope
		if err := json.Unmarshal(text, &env); err != nil {
			if _, ok := errors.AsType[*json.SyntaxError](err); ok {
				return fmt.Errorf("%w of %d bytes", errMalformed, len(text))
			}
			p.ignore("message of unknown shape", err)
			continue
		}
		switch env.MessageType {
		case protocol.TypeDataSync:
			if err := p.take(ctx, env.Data, number); err != nil {
				return err
			}
		case protocol.TypePong:
		default:
			p.ignore("message of unknown type", nil)
		}
	}
}

// take hands what came to the environments that it is about. The error is ctx's.
func (p *Proxy) take(ctx context.Context, payload []byte, number uint64) error {
	var parts []wire.RelayEnvironment
	var err error
	kind := wire.EventType(payload)
	switch kind {
	case wire.RelayFull, wire.RelayPatch:
		parts, err = wire.ParseRelay(payload, kind == wire.RelayFull)
	default:
		var doc wire.DataSync
		if doc, err = wire.ParsePayload(payload); err == nil && doc.EventType != wire.Patch {
			err = fmt.Errorf("a relay proxy got an event of type %q", doc.EventType)
		}
		parts = route(doc)
	}
	if err != nil {
		p.ignore("data-sync message", err)
		for _, e := range p.ready() {
			e.manager.suspect()
		}
		return ctx.Err()
	}
	if kind == wire.RelayFull {
		signal(p.answered)
		p.mu.Lock()
		p.status.Fulls++
		p.status.Connected, p.status.Err = true, nil
		p.mu.Unlock()
		p.change(ctx, parts)
	}
	for _, part := range parts {
		p.mu.Lock()
		e := p.envs[part.EnvID]
		p.mu.Unlock()
		if e == nil {
			if part.EnvID == "" {
				p.ignore("item without an environment", nil)
			} else {
				signal(p.asks) // a new one: its secrets come with everything
			}
			continue
		}
		e.mu.Lock()
		m, s, begun := e.manager, e.syncer, e.begun == number
		e.mu.Unlock()
		if m == nil || !begun {
			continue // it asks for everything when its store is open
		}
		for _, err := range part.Data.Skipped {
			s.update(func(st *Status, _ *health) { st.Ignored++ })
			p.log.Warn("ignored item", "env", e.env.ID, "error", err)
		}
		if err := m.receive(ctx, delivery{part.Data, number}); err != nil {
			return err
		}
	}
	return nil
}

// route splits a patch by the environments that its items name.
func route(doc wire.DataSync) []wire.RelayEnvironment {
	var parts []wire.RelayEnvironment
	at := map[string]int{}
	for _, it := range doc.Items {
		id := wire.EnvID(it.Data)
		n, known := at[id]
		if !known {
			n = len(parts)
			at[id] = n
			parts = append(parts, wire.RelayEnvironment{EnvID: id, Data: wire.DataSync{EventType: wire.Patch}})
		}
		parts[n].Data.Items = append(parts[n].Data.Items, it)
	}
	return parts
}

// change starts and stops environments, so that those in parts run.
func (p *Proxy) change(ctx context.Context, parts []wire.RelayEnvironment) {
	wanted := map[string]ProxyEnv{}
	for _, part := range parts {
		e := ProxyEnv{ID: part.EnvID}
		for _, s := range part.Secrets {
			e.ProjectKey, e.EnvKey = cmp.Or(e.ProjectKey, s.ProjectKey), cmp.Or(e.EnvKey, s.EnvKey)
			if _, err := Secret(s.Value).EnvID(); err != nil {
				p.ignore("secret of "+e.ID, err)
				continue
			}
			list := &e.ServerSecrets
			if s.Type == "client" {
				list = &e.ClientSecrets
			}
			if !slices.Contains(*list, Secret(s.Value)) {
				*list = append(*list, Secret(s.Value))
			}
		}
		slices.Sort(e.ServerSecrets)
		slices.Sort(e.ClientSecrets)
		wanted[e.ID] = e
	}
	p.keep(wanted)
	changed := false
	p.mu.Lock()
	var gone []*proxied
	for id, e := range p.envs {
		if _, ok := wanted[id]; !ok {
			delete(p.envs, id)
			gone = append(gone, e)
		}
	}
	var added []*proxied
	for id, env := range wanted {
		e := p.envs[id]
		if e == nil {
			e = &proxied{proxy: p, env: env, done: make(chan struct{})}
			p.envs[id] = e
			added = append(added, e)
			continue
		}
		e.mu.Lock()
		changed = changed || !e.env.equal(env)
		e.env = env
		e.mu.Unlock()
	}
	p.mu.Unlock()
	for _, e := range gone {
		p.log.Warn("the key no longer gives access to an environment", "env", e.env.ID, "name", e.env.Name())
		e.stop()
		<-e.done
	}
	if changed || len(gone)+len(added) > 0 {
		p.told(wanted)
	}
	for _, e := range added {
		p.log.Info("the key gives access to an environment", "env", e.env.ID, "name", e.env.Name())
		var own context.Context
		own, e.stop = context.WithCancel(context.WithoutCancel(ctx))
		p.running.Go(func() {
			defer close(e.done)
			e.run(own)
		})
	}
}

// keep adds to wanted the environments that are missing there but stay for now. A
// FeatBit that was started on an empty or half restored database must not make relays
// send SDKs away for good: an environment goes when it is missing again in what is
// asked for after Guard.Wait, and the last ones never do.
func (p *Proxy) keep(wanted map[string]ProxyEnv) {
	for id := range p.missing {
		if _, ok := wanted[id]; ok {
			delete(p.missing, id)
		}
	}
	none := len(wanted) == 0
	for _, e := range p.all() {
		e.mu.Lock()
		env := e.env
		e.mu.Unlock()
		if _, ok := wanted[env.ID]; ok {
			continue
		}
		since, known := p.missing[env.ID]
		switch {
		case !known:
			p.missing[env.ID] = time.Now()
			p.log.Error("FeatBit no longer has an environment of the key; asking again", "env", env.ID, "name", env.Name(), "all", none)
			signal(p.doubts)
		case !none && time.Since(since) >= p.sync.Guard.Wait:
			delete(p.missing, env.ID)
			continue
		}
		wanted[env.ID] = env
	}
}

func (p *Proxy) told(envs map[string]ProxyEnv) {
	if p.cfg.OnEnvironments == nil {
		return
	}
	list := slices.Collect(maps.Values(envs))
	slices.SortFunc(list, func(a, b ProxyEnv) int {
		return cmp.Or(cmp.Compare(a.Name(), b.Name()), cmp.Compare(a.ID, b.ID))
	})
	p.cfg.OnEnvironments(list)
}

func (e ProxyEnv) equal(o ProxyEnv) bool {
	return e.ID == o.ID && e.ProjectKey == o.ProjectKey && e.EnvKey == o.EnvKey &&
		slices.Equal(e.ServerSecrets, o.ServerSecrets) && slices.Equal(e.ClientSecrets, o.ClientSecrets)
}

func (p *Proxy) ignore(what string, err error) {
	p.mu.Lock()
	p.status.Ignored++
	p.mu.Unlock()
	p.log.Warn("ignored "+what, "error", err)
}

// run opens the environment's store and writes into it what comes, until ctx ends.
func (e *proxied) run(ctx context.Context) {
	p := e.proxy
	st := e.open(ctx)
	if st == nil {
		return
	}
	cfg := p.cfg.Sync
	cfg.Store, cfg.OnStatus = st, nil
	s := newSyncer(cfg, e.env.ID)
	s.shared = true
	m := newManager(s)
	var wg sync.WaitGroup
	wg.Go(func() { m.run(ctx) })
	wg.Go(func() { s.pulse(ctx) })
	e.mu.Lock()
	e.syncer, e.manager, e.err = s, m, nil
	e.mu.Unlock()
	signal(p.asks)
	for ctx.Err() == nil {
		select {
		case <-m.resync:
			signal(p.asks)
		case <-ctx.Done():
		}
	}
	wg.Wait()
	s.update(func(_ *Status, h *health) { h.off = true })
	s.lastBeat()
}

// open returns the store, or nil when ctx ends first.
func (e *proxied) open(ctx context.Context) store.DataStore {
	for attempt := 1; ctx.Err() == nil; attempt++ {
		e.mu.Lock()
		env := e.env
		e.mu.Unlock()
		st, err := e.proxy.cfg.Open(ctx, env)
		if err == nil {
			return st
		}
		e.mu.Lock()
		again := text(e.err) == text(err)
		e.err = err
		e.mu.Unlock()
		if !again {
			e.proxy.log.Error("the store of an environment cannot be opened", "env", env.ID, "name", env.Name(), "error", err)
		}
		pause(ctx, store.Backoff(attempt, 100*time.Millisecond, 10*time.Second))
	}
	return nil
}

// Reconcile asks FeatBit for everything now, if there is a connection. It does not
// block.
func (p *Proxy) Reconcile() { signal(p.reconciles) }

// Accept makes the next full state of the environment with this id pass the guard,
// see [Syncer.Accept], and reports whether there is one whose store is open.
func (p *Proxy) Accept(id string) bool {
	for _, e := range p.ready() {
		if e.syncer.env == id {
			e.syncer.Accept()
			return true
		}
	}
	return false
}

// Status returns the current status. It does not block.
func (p *Proxy) Status() ProxyStatus {
	p.mu.Lock()
	st := p.status
	p.mu.Unlock()
	if at := p.heard.Load(); at != 0 {
		st.Heard = time.Unix(0, at)
	}
	for _, e := range p.all() {
		e.mu.Lock()
		one := ProxyEnvStatus{ID: e.env.ID, Name: e.env.Name(), Open: e.manager != nil, Err: e.err}
		s := e.syncer
		e.mu.Unlock()
		if s != nil {
			one.Status = s.Status()
			one.Status.ClockSkew = time.Duration(p.skew.Load())
		}
		st.Environments = append(st.Environments, one)
	}
	slices.SortFunc(st.Environments, func(a, b ProxyEnvStatus) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return st
}

// MetricGroups returns the numbers of each environment whose store is open, with the
// label env, which is its name. It does not block.
func (p *Proxy) MetricGroups() []metrics.Group {
	var groups []metrics.Group
	for _, e := range p.ready() {
		e.mu.Lock()
		name := e.env.Name()
		e.mu.Unlock()
		groups = append(groups, metrics.Group{Labels: metrics.Labels{"env": name}, Measurements: e.syncer.Metrics()})
	}
	return groups
}
