package fleet

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/syncer"
)

// agent returns what the relay answers as one of FeatBit's agents.
func (p *proxy) agent() *relay.Agent {
	a := &relay.Agent{Key: relay.Secret(p.plan.key)}
	if p.plan.manual() {
		a.Bootstrap = p.bootstrap
		return a
	}
	a.Status = func() relay.AgentStatus {
		st := relay.AgentStatus{SyncState: relay.SyncStarting}
		s := p.current()
		if s == nil {
			return st
		}
		now := s.Status()
		switch now.State {
		case syncer.OK:
			st.SyncState = relay.SyncStable
		case syncer.Interrupted:
			st.SyncState = relay.SyncInterrupted
		case syncer.Off:
			st.SyncState = relay.SyncStopped
		}
		for _, e := range now.Environments {
			if at := e.Status.Confirmed; at.After(st.LastSynced) {
				st.LastSynced = at
			}
		}
		return st
	}
	return a
}

// bootstrapPatience bounds the writing of a bootstrap to one store.
const bootstrapPatience = 10 * time.Second

// bootstrap takes over what FeatBit's platform sends: all environments that there
// are. Stores are written before the relay serves any of it.
func (p *proxy) bootstrap(ctx context.Context, envs []relay.BootstrapEnv) error {
	p.mu.Lock()
	known := map[string]syncer.ProxyEnv{}
	for _, e := range p.envs {
		known[e.ID] = e
	}
	p.mu.Unlock()
	list := make([]syncer.ProxyEnv, len(envs))
	for i, in := range envs {
		e := syncer.ProxyEnv{ID: in.ID, ServerSecrets: in.Secrets, ClientSecrets: in.ClientSecrets}
		if len(in.Secrets)+len(in.ClientSecrets) == 0 {
			old := known[in.ID]
			e.ServerSecrets, e.ClientSecrets = old.ServerSecrets, old.ClientSecrets
		}
		e.ProjectKey, e.EnvKey = splitName(in.Name, in.ID, known[in.ID])
		list[i] = e
	}
	for i, e := range list {
		st, err := p.open(ctx, e)
		if err != nil {
			return fmt.Errorf("environment %s: %w", e.Name(), err)
		}
		writeCtx, cancel := context.WithTimeout(ctx, bootstrapPatience)
		_, err = st.Apply(writeCtx, store.Change{Full: true, Items: envs[i].Items})
		cancel()
		if err != nil {
			return fmt.Errorf("environment %s: %w", e.Name(), err)
		}
	}
	p.changed(list)
	return nil
}

// splitName returns the keys in a name such as "project:environment", or else those
// that are known.
func splitName(name, id string, known syncer.ProxyEnv) (project, env string) {
	if name == id || name == "" {
		return known.ProjectKey, known.EnvKey
	}
	project, env, ok := strings.Cut(name, ":")
	if !ok {
		return "", name
	}
	return project, env
}
