package fleet

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/store"
)

func (f *Fleet) newRelay(cfg *Config) (*relay.Relay, error) {
	rc := relay.Config{
		Logger:         f.log,
		TokenWindow:    time.Duration(cfg.Relay.TokenWindow),
		MaxConnections: cfg.Relay.MaxConnections,
		DrainSpread:    time.Duration(cfg.Relay.Drain),
		AllowedOrigins: cfg.Relay.AllowedOrigins,
		KeepInsights:   -1,
		RateLimits: relay.RateLimits{
			Streaming: cfg.Relay.RateLimits.Streaming,
			SDK:       cfg.Relay.RateLimits.SDK,
			Insight:   cfg.Relay.RateLimits.Insight,
			Evaluate:  cfg.Relay.RateLimits.Evaluate,
		},
	}
	if f.events != nil {
		rc.Insights = sink{f.events}
	}
	if f.proxy != nil {
		rc.SecretsPending = f.proxy.pending
		rc.Agent = f.proxy.agent()
	}
	return relay.New(rc)
}

// publish tells the relay which environments there are, and reports whether it took
// them.
func (f *Fleet) publish() bool {
	if f.relay == nil {
		return true
	}
	f.publishing.Lock() // the last one to look is the last one to tell
	defer f.publishing.Unlock()
	var served []relay.Environment
	ids, secrets := map[string]bool{}, map[relay.Secret]bool{}
	add := func(e relay.Environment) {
		all := slices.Concat(e.Secrets, e.ClientSecrets)
		taken := ids[e.ID] || slices.ContainsFunc(all, func(s relay.Secret) bool { return secrets[s] })
		if len(all) == 0 || taken {
			if taken {
				f.log.Error("an environment is there twice; the second is not served", "name", e.Name, "id", e.ID)
			}
			return
		}
		ids[e.ID] = true
		for _, s := range all {
			secrets[s] = true
		}
		served = append(served, e)
	}
	for _, e := range f.all() {
		p := e.spec()
		server, client := p.secrets()
		add(relay.Environment{ID: p.id, Name: p.Name, Store: e.reader(), Secrets: server, ClientSecrets: client})
	}
	f.mu.Lock()
	next := slices.Collect(maps.Values(f.next))
	f.mu.Unlock()
	for _, p := range next {
		server, client := p.secrets()
		add(relay.Environment{ID: p.id, Name: p.Name, Store: unopened{p.Name}, Secrets: server, ClientSecrets: client})
	}
	if f.proxy != nil {
		for _, e := range f.proxy.served() {
			add(e)
		}
	}
	if err := f.relay.Set(served); err != nil {
		f.log.Error("the relay does not take the environments", "error", err)
		return false
	}
	return true
}

// reader returns what the relay reads: SDKs of an environment whose store is not
// open yet are asked to come again, and not sent away.
func (e *environment) reader() store.Reader {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.store == nil {
		return unopened{e.name}
	}
	return e.store
}

type unopened struct{ name string }

// Load waits for ctx: who asks is given the store itself once it is open.
func (unopened) Load(ctx context.Context, _ store.Rev) (store.Snapshot, error) {
	<-ctx.Done()
	return store.Snapshot{}, fmt.Errorf("the store is not open yet: %w", ctx.Err())
}
