// Package fleet runs what a configuration file says: any number of environments,
// each kept equal to FeatBit in a store of its own, the relay that serves them to
// SDKs, the delivery of their events, and an address where operators look.
//
// Environments do not share anything that one of them could break for another:
// each has its own store handle, its own syncer and its own retries.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/store"
)

// Options are what a Fleet does not find in a Config.
type Options struct {
	// Logger gets what happens. Nil is silent.
	Logger *slog.Logger

	// Open opens the store that a URL names. It is called again, with pauses, when
	// it fails.
	Open func(OpenRequest) (store.DataStore, error)

	// Version is reported as a metric.
	Version string

	// Ready, if set, is called once, with the addresses that are listened on.
	Ready func(Addresses)
}

// An OpenRequest says which store to open.
type OpenRequest struct {
	URL            string
	ReadOnly       bool
	Server, Client []protocol.Secret // of the environment, for stores that keep them
	Env            string            // its name
	EnvID          string            // if it is known
}

// Addresses are those that are listened on; empty for none.
type Addresses struct{ Relay, Admin string }

// A Fleet runs. Make one with New.
type Fleet struct {
	opts Options
	log  *slog.Logger

	relay   *relay.Relay // nil: none
	events  *events      // nil: they are not forwarded
	outbox  *outboxes    // nil: they are not emptied
	proxy   *proxy       // nil: none
	numbers *numbers
	export  *export // nil: they are not sent anywhere

	reload sync.Mutex // one Reload at a time; guards cfg
	cfg    *Config

	publishing sync.Mutex // one word to the relay at a time

	mu   sync.Mutex
	envs map[string]*environment // by name
	next map[string]plan         // those that are about to start
	ctx  context.Context         // of the environments; nil before Run

	running  sync.WaitGroup // environments
	draining atomic.Bool
	started  time.Time
	reloads  atomic.Int64
	refused  atomic.Int64 // reloads that failed
}

// New returns a Fleet that does what cfg says, which must be complete and belongs
// to the Fleet from then on. It opens the spool of the events, if there is one, and
// nothing else.
func New(cfg *Config, o Options) (*Fleet, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	f := &Fleet{opts: o, log: o.Logger, cfg: cfg, envs: map[string]*environment{}, next: map[string]plan{}, started: time.Now()}
	var err error
	if f.numbers, err = newNumbers(f); err != nil {
		return nil, err
	}
	if f.export, err = newExport(f, cfg); err != nil {
		return nil, err
	}
	if cfg.RelayProxy != nil {
		if f.proxy, err = newProxy(f, cfg); err != nil {
			return nil, err
		}
	}
	if f.outbox, err = newOutboxes(f, cfg); err != nil {
		return nil, err
	}
	if f.events, err = newEvents(f, cfg); err != nil {
		return nil, err
	}
	if cfg.Relay.Listen != "" {
		if f.relay, err = f.newRelay(cfg); err != nil {
			f.events.abandon()
			return nil, err
		}
	}
	return f, nil
}

// shutdownPatience bounds each step of the end.
const shutdownPatience = 10 * time.Second

// Run runs until ctx ends. Then it refuses new connections, lets the relay's go in
// the time that the configuration grants, stops the syncers, delivers what events it
// can in 10 seconds, sends the last numbers to a collector if it takes them in 3, and
// closes the stores. It returns nil then, or an error if it could not even start: an
// address is in use, say. It may be called once.
func (f *Fleet) Run(ctx context.Context) (err error) {
	admin, err := listen("admin.listen", f.cfg.Admin.Listen)
	if err != nil {
		f.events.abandon()
		return err
	}
	front, err := listen("relay.listen", f.cfg.Relay.Listen)
	if err != nil {
		closeListener(admin)
		f.events.abandon()
		return err
	}
	var servers sync.WaitGroup
	defer servers.Wait()
	stopAdmin := f.serve(&servers, admin, f.adminHandler(), TLS{})
	defer stopAdmin()

	// The relay is told of the environments before it listens: a relay that
	// knows no secret would send SDKs away for good.
	envCtx, stopEnvs := context.WithCancel(context.WithoutCancel(ctx))
	defer stopEnvs()
	f.mu.Lock()
	f.ctx = envCtx
	f.mu.Unlock()
	f.apply(f.cfg)

	var running sync.WaitGroup
	relayCtx, stopRelay := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRelay()
	stopFront := func() {}
	if f.relay != nil {
		running.Go(func() { _ = f.relay.Run(relayCtx) })
		stopFront = f.serve(&servers, front, f.relay, f.cfg.Relay.TLS)
	}
	defer stopFront()
	if f.proxy != nil {
		f.running.Go(func() { f.proxy.runs(envCtx) }) // or waits for bootstraps
	}
	f.events.start()
	f.export.start(f)
	if f.opts.Ready != nil {
		f.opts.Ready(Addresses{Relay: address(front), Admin: address(admin)})
	}
	<-ctx.Done()

	f.draining.Store(true)
	f.log.Info("stopping")
	stopRelay() // it drains, while its listener answers 503
	running.Wait()
	stopFront()
	stopEnvs()
	f.mu.Lock()
	f.ctx = nil // no environment starts any more
	f.mu.Unlock()
	f.running.Wait()
	f.events.stop()
	f.export.stop() // while there is still what it measures
	f.closeStores()
	return nil
}

func listen(what, addr string) (net.Listener, error) {
	if addr == "" || addr == "off" {
		return nil, nil
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return l, nil
}

func closeListener(l net.Listener) {
	if l != nil {
		_ = l.Close()
	}
}

func address(l net.Listener) string {
	if l == nil {
		return ""
	}
	return l.Addr().String()
}

// serve serves h on l until the result is called, which may be more than once.
func (f *Fleet) serve(wg *sync.WaitGroup, l net.Listener, h http.Handler, t TLS) (stop func()) {
	if l == nil {
		return func() {}
	}
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute, // of a body; a stream has its own limits
		WriteTimeout:      5 * time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(f.log.Handler(), slog.LevelDebug),
	}
	wg.Go(func() {
		var err error
		if t.Cert != "" {
			err = srv.ServeTLS(l, t.Cert, t.Key)
		} else {
			err = srv.Serve(l)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			f.log.Error("an address is no longer served", "address", l.Addr().String(), "error", err)
		}
	})
	return sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), shutdownPatience)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			_ = srv.Close()
		}
	})
}

// Reload makes the Fleet do what cfg says, which must be complete, while it runs.
// Environments that are the same go on undisturbed. It returns which settings need
// a restart to count, of those that differ.
func (f *Fleet) Reload(cfg *Config) (restart []string) {
	f.reload.Lock()
	defer f.reload.Unlock()
	old := f.cfg
	for _, part := range []struct {
		name string
		a, b any
	}{
		{"relay", old.Relay, cfg.Relay},
		{"admin", old.Admin, cfg.Admin},
		{"events", old.Events, cfg.Events},
		{"relay-proxy", old.RelayProxy, cfg.RelayProxy},
		{"metrics", old.Metrics, cfg.Metrics},
		{"log", old.Log, cfg.Log},
		{"state", old.State, cfg.State},
	} {
		if !reflect.DeepEqual(part.a, part.b) {
			restart = append(restart, part.name)
		}
	}
	if !reflect.DeepEqual(old.FeatBit, cfg.FeatBit) && (f.events != nil || f.outbox != nil || f.proxy != nil) {
		restart = append(restart, "featbit, as far as events and the relay-proxy are concerned")
	}
	kept := *old
	kept.FeatBit, kept.Environments = cfg.FeatBit, cfg.Environments
	f.cfg = &kept
	f.apply(&kept)
	f.reloads.Add(1)
	return restart
}

// apply starts, changes and stops environments.
func (f *Fleet) apply(cfg *Config) {
	f.mu.Lock()
	gone := map[string]*environment{}
	for name, e := range f.envs {
		gone[name] = e
	}
	var replaced []*environment
	for _, spec := range cfg.Environments {
		full := plan{Environment: spec, FeatBit: cfg.FeatBit}
		e := gone[spec.Name]
		delete(gone, spec.Name)
		if e != nil && reopens(e.spec(), full) {
			replaced = append(replaced, e)
			e = nil
		}
		if e != nil {
			e.change(full)
			continue
		}
		// Its store may be that of one which has to end first. SDKs are told to come
		// again meanwhile.
		delete(f.envs, spec.Name)
		f.next[spec.Name] = full
	}
	for name, e := range gone {
		delete(f.envs, name)
		replaced = append(replaced, e)
		f.log.Info("environment removed", "name", name)
	}
	f.mu.Unlock()

	// SDKs first, then the syncer, then the store.
	if len(replaced) > 0 {
		f.publish()
	}
	for _, e := range replaced {
		e.end()
	}
	f.mu.Lock()
	for name, p := range f.next {
		if f.ctx != nil {
			f.envs[name] = f.start(p)
		}
	}
	f.next = map[string]plan{}
	f.mu.Unlock()
	f.publish()
}

// reopens reports whether the store of a plan has to be opened anew for another one.
// Another id is another environment, in whose name the store and its outbox are used.
func reopens(old, new plan) bool {
	if old.Store != new.Store || old.syncs() != new.syncs() || old.id != new.id {
		return true
	}
	// FeatBit's layout has the secrets in it.
	return strings.Contains(new.Store, "layout=featbit") && !reflect.DeepEqual(old.Environment.secrets(), new.Environment.secrets())
}

// Refused notes that a changed configuration was wrong.
func (f *Fleet) Refused() { f.refused.Add(1) }

// all returns the environments by name.
func (f *Fleet) all() []*environment {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []*environment
	for _, e := range f.envs {
		if e != nil {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b *environment) int { return strings.Compare(a.name, b.name) })
	return all
}

func (f *Fleet) closeStores() {
	for _, e := range f.all() {
		e.closeStore()
	}
	if f.proxy != nil {
		f.proxy.closeStores()
	}
	f.outbox.close()
}

// Reconcile asks FeatBit for everything, for one environment or, with "", for all.
// It reports whether there is such an environment.
func (f *Fleet) Reconcile(name string) bool {
	found := false
	for _, e := range f.all() {
		if name == "" || name == e.name {
			found = e.reconcile() || found
		}
	}
	if f.proxy != nil && f.proxy.reconcile(name) {
		found = true
	}
	return found
}
