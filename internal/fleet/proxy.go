package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/metrics"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/syncer"
)

// A proxy serves all environments that a relay proxy's key gives access to.
type proxy struct {
	fleet *Fleet
	log   *slog.Logger
	plan  RelayProxy
	sync  syncer.Config
	url   string
	state string // file; empty: none

	mu     sync.Mutex
	envs   []syncer.ProxyEnv
	known  bool // that these are all: FeatBit has told in this life
	places map[string]*place
	run    *syncer.Proxy // nil before it runs
	err    error         // why it does not
}

// A place is the store of one environment.
type place struct {
	store store.DataStore // nil until it is open
	url   string
	err   error
	pump  *pump // nil: its outbox is not emptied
}

// close lets go of the store, if it is open.
func (pl *place) close() error {
	pl.pump.end()
	if pl.store == nil {
		return nil
	}
	return pl.store.Close()
}

func newProxy(f *Fleet, cfg *Config) (*proxy, error) {
	p := &proxy{fleet: f, log: f.log, plan: *cfg.RelayProxy, url: cfg.FeatBit.URL, places: map[string]*place{}}
	var err error
	if p.sync, err = syncConfig(p.plan.Settings, cfg.FeatBit); err != nil {
		return nil, fmt.Errorf("featbit.tls: %w", err)
	}
	p.sync.Logger = f.log
	if cfg.State != "" {
		p.state = filepath.Join(cfg.State, "relay-proxy.json")
		if err := p.recall(); err != nil {
			return nil, fmt.Errorf("state: %w", err)
		}
	}
	return p, nil
}

// A remembered environment is one in the state file, which has secrets in it: SDKs
// are served after a restart although FeatBit is away.
type remembered struct {
	ID         string   `json:"id"`
	ProjectKey string   `json:"projectKey"`
	EnvKey     string   `json:"envKey"`
	Server     []string `json:"serverSecrets"`
	Client     []string `json:"clientSecrets"`
}

// recall reads the state file, if there is one.
func (p *proxy) recall() error {
	text, err := readFile(p.state)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var list []remembered
	if err := json.Unmarshal(text, &list); err != nil {
		// FeatBit tells again; what cannot be read must not keep it from that.
		p.log.Error("the state of the relay proxy cannot be read; until FeatBit answers nobody is served", "file", p.state, "error", err)
		return nil
	}
	for _, r := range list {
		e := syncer.ProxyEnv{ID: r.ID, ProjectKey: r.ProjectKey, EnvKey: r.EnvKey}
		for _, s := range r.Server {
			e.ServerSecrets = append(e.ServerSecrets, syncer.Secret(s))
		}
		for _, s := range r.Client {
			e.ClientSecrets = append(e.ClientSecrets, syncer.Secret(s))
		}
		p.envs = append(p.envs, e)
	}
	p.known = p.plan.manual() // otherwise FeatBit may have more to tell
	return nil
}

// remember writes the state file, by rename and for its owner only.
func (p *proxy) remember(envs []syncer.ProxyEnv) error {
	if p.state == "" {
		return nil
	}
	list := []remembered{}
	for _, e := range envs {
		r := remembered{ID: e.ID, ProjectKey: e.ProjectKey, EnvKey: e.EnvKey, Server: []string{}, Client: []string{}}
		for _, s := range e.ServerSecrets {
			r.Server = append(r.Server, string(s))
		}
		for _, s := range e.ClientSecrets {
			r.Client = append(r.Client, string(s))
		}
		list = append(list, r)
	}
	text, err := json.Marshal(list)
	if err != nil {
		return err
	}
	dir := filepath.Dir(p.state)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".relay-proxy-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(text)
	err = cmp.Or(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), p.state)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}

// pending reports whether the secrets are still to come.
func (p *proxy) pending() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.known
}

// open returns the store of an environment, which is opened once.
func (p *proxy) open(_ context.Context, e syncer.ProxyEnv) (store.DataStore, error) {
	p.mu.Lock()
	pl := p.places[e.ID]
	if pl == nil {
		pl = &place{}
		p.places[e.ID] = pl
	}
	if pl.store != nil {
		defer p.mu.Unlock()
		return pl.store, nil
	}
	p.mu.Unlock()
	pattern := p.plan.Store
	url := pattern
	if pattern != MemoryStore {
		url = locate(pattern, e.Name(), e.ID)
	}
	st, err := p.fleet.opts.Open(OpenRequest{URL: url, Server: e.ServerSecrets, Client: e.ClientSecrets, Env: e.Name(), EnvID: e.ID})
	p.mu.Lock()
	pl.url, pl.err = url, err
	var extra store.DataStore
	switch {
	case err != nil:
	case p.places[e.ID] != pl:
		extra, err = st, errors.New("the environment is gone")
	case pl.store != nil: // somebody else was faster
		extra, st = st, pl.store
	default:
		pl.store = st
	}
	p.mu.Unlock()
	if extra != nil {
		_ = extra.Close()
	}
	if err != nil {
		return nil, err
	}
	p.fleet.publish()
	pump := p.fleet.outbox.start(st, e.ID, e.Name())
	p.mu.Lock()
	if p.places[e.ID] == pl && pl.pump == nil {
		pl.pump, pump = pump, nil
	}
	p.mu.Unlock()
	pump.end()
	return st, nil
}

// environments takes over what FeatBit says that there is.
func (p *proxy) changed(envs []syncer.ProxyEnv) {
	told := envs
	p.mu.Lock()
	if !p.known && !p.plan.manual() {
		// The first word after a start has nothing to be compared with but the state
		// file. What it lacks is served on until the next start.
		for _, e := range p.envs {
			if !slices.ContainsFunc(envs, func(o syncer.ProxyEnv) bool { return o.ID == e.ID }) {
				p.log.Error("FeatBit no longer has an environment of the key; its flags are served until the next start", "id", e.ID, "name", e.Name())
				envs = append(slices.Clone(envs), e)
			}
		}
	}
	p.envs = envs
	var gone []*place
	for id, pl := range p.places {
		if !slices.ContainsFunc(envs, func(e syncer.ProxyEnv) bool { return e.ID == id }) {
			delete(p.places, id)
			gone = append(gone, pl)
		}
	}
	p.mu.Unlock()
	if err := p.remember(told); err != nil {
		p.log.Error("the environments of the relay proxy cannot be kept for a restart", "file", p.state, "error", err)
	}
	taken := p.fleet.publish()
	p.mu.Lock()
	p.known = p.known || taken // to the relay, too
	p.mu.Unlock()
	for _, pl := range gone {
		_ = pl.close()
	}
}

// runs syncs until ctx ends.
func (p *proxy) runs(ctx context.Context) {
	// What is known from before is served while FeatBit does not answer.
	p.mu.Lock()
	before := slices.Clone(p.envs)
	p.mu.Unlock()
	var opening sync.WaitGroup
	defer opening.Wait()
	for _, e := range before {
		opening.Go(func() {
			for attempt := 1; ctx.Err() == nil; attempt++ {
				if _, err := p.open(ctx, e); err == nil || !p.has(e.ID) {
					return
				}
				wait(ctx, nil, store.Backoff(attempt, 100*time.Millisecond, openPatience))
			}
		})
	}
	if p.plan.manual() {
		return // the platform brings it
	}
	for ctx.Err() == nil {
		s, err := syncer.NewProxy(syncer.ProxyConfig{
			URL: p.url, Key: p.plan.key, AgentID: p.plan.AgentID, Register: p.plan.Register == nil || *p.plan.Register,
			Open: p.open, OnEnvironments: p.changed, Config: p.sync,
		})
		if err != nil {
			p.fail(err)
			return
		}
		p.mu.Lock()
		p.run, p.err = s, nil
		p.mu.Unlock()
		if err = s.Run(ctx); ctx.Err() == nil {
			p.fail(err)
			wait(ctx, nil, refusedAgain/2+rand.N(refusedAgain))
		}
	}
}

func (p *proxy) has(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.envs, func(e syncer.ProxyEnv) bool { return e.ID == id })
}

func (p *proxy) fail(err error) {
	p.mu.Lock()
	p.err = err
	p.mu.Unlock()
	p.log.Error("the relay proxy does not work", "error", err)
}

// served returns the environments for the relay.
func (p *proxy) served() []relay.Environment {
	p.mu.Lock()
	defer p.mu.Unlock()
	var served []relay.Environment
	for _, e := range p.envs {
		if len(e.ServerSecrets)+len(e.ClientSecrets) == 0 {
			continue
		}
		one := relay.Environment{ID: e.ID, Name: e.Name(), Store: unopened{e.ID}, Secrets: e.ServerSecrets, ClientSecrets: e.ClientSecrets}
		if pl := p.places[e.ID]; pl != nil && pl.store != nil {
			one.Store = pl.store
		}
		served = append(served, one)
	}
	return served
}

func (p *proxy) secretOf(id string) (protocol.Secret, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.envs {
		if e.ID == id {
			for _, s := range slices.Concat(e.ServerSecrets, e.ClientSecrets) {
				return s, true
			}
		}
	}
	return "", false
}

func (p *proxy) current() *syncer.Proxy {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.run
}

func (p *proxy) reconcile(name string) bool {
	s := p.current()
	if s == nil {
		return false
	}
	p.mu.Lock()
	found := name == "" || slices.ContainsFunc(p.envs, func(e syncer.ProxyEnv) bool { return e.Name() == name })
	p.mu.Unlock()
	if found {
		s.Reconcile()
	}
	return found
}

func (p *proxy) closeStores() {
	p.mu.Lock()
	places := p.places
	p.places = map[string]*place{}
	p.mu.Unlock()
	for _, pl := range places {
		if err := pl.close(); err != nil {
			p.log.Warn("the store could not be closed", "store", redact(pl.url), "error", err)
		}
	}
}

// A ProxyStatus tells how the connection of a relay proxy stands.
type ProxyStatus struct {
	State      string `json:"state"` // ok if all environments are
	Registered bool   `json:"registered"`
	Error      string `json:"error,omitempty"`
	Refused    string `json:"registrationError,omitempty"`
	Connects   uint64 `json:"connects"`
	Fulls      uint64 `json:"fulls"`
	Ignored    uint64 `json:"ignored"`
}

func (p *proxy) status() *ProxyStatus {
	p.mu.Lock()
	s, err := p.run, p.err
	p.mu.Unlock()
	st := &ProxyStatus{Error: text(err)}
	if s != nil {
		now := s.Status()
		st.State, st.Registered, st.Connects, st.Fulls, st.Ignored = now.State.String(), now.Registered, now.Connects, now.Fulls, now.Ignored
		st.Error, st.Refused = cmp.Or(st.Error, text(now.Err)), text(now.RegisterErr)
	}
	return st
}

func (p *proxy) environments() []EnvironmentStatus {
	syncing := map[string]syncer.EnvStatus{}
	if s := p.current(); s != nil {
		for _, e := range s.Status().Environments {
			syncing[e.ID] = e
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []EnvironmentStatus
	for _, e := range p.envs {
		st := EnvironmentStatus{Name: e.Name(), ID: e.ID}
		if pl := p.places[e.ID]; pl != nil {
			st.Store, st.Open, st.Error = redact(pl.url), pl.store != nil, text(pl.err)
		}
		if s, ok := syncing[e.ID]; ok {
			st.syncer(s.Status)
		}
		st.ready = st.Open
		all = append(all, st)
	}
	return all
}

func (p *proxy) metrics() []metrics.Measurement {
	s := p.current()
	if s == nil {
		return nil
	}
	return s.Metrics()
}

func (p *proxy) metricGroups() []metrics.Group {
	var groups []metrics.Group
	p.mu.Lock()
	for _, e := range p.envs {
		if pl := p.places[e.ID]; pl != nil {
			groups = append(groups, pl.pump.group(e.Name())...)
		}
	}
	p.mu.Unlock()
	s := p.current()
	if s == nil {
		return groups
	}
	return append(groups, s.MetricGroups()...)
}
