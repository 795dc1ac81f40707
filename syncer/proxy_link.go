package syncer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
)

// A proxyUser uses a link for all environments of a relay-proxy key.
type proxyUser struct {
	*Proxy

	// Of the connection that full is of. FeatBit pushes what it knew of when the
	// connection was made.
	full   uint64
	pushes map[string]bool // environments that it pushes changes of
}

func (p *Proxy) asLinkUser() linkUser { return &proxyUser{Proxy: p} }

func (p *proxyUser) request(time.Time) (string, http.Header) {
	return protocol.ProxyStreamingURL(p.base, p.cfg.Key), http.Header{
		"User-Agent":           {protocol.UserAgent},
		protocol.PatchesHeader: {protocol.WholePatches},
	}
}

func (p *proxyUser) hint(bool) string {
	return "check that the relay-proxy key exists and that there is a server secret in its scope"
}

// each calls f for the environments whose store is open, outside of the lock.
func (p *Proxy) each(f func(*proxied)) {
	p.mu.Lock()
	var open []*proxied
	for _, e := range p.envs {
		if e.manager != nil {
			open = append(open, e)
		}
	}
	p.mu.Unlock()
	for _, e := range open {
		f(e)
	}
}

func (p *proxyUser) connected(uint64) {
	p.mu.Lock()
	p.status.Connects++
	for _, e := range p.envs {
		e.hears = false
	}
	p.mu.Unlock()
	p.each(func(e *proxied) { e.syncer.update(func(st *Status, _ *health) { st.Connects++ }) })
}

func (p *Proxy) ended(number uint64, err error) {
	p.mu.Lock()
	p.lost, p.status.Err = max(p.lost, number), err
	p.mu.Unlock()
	p.conf.Logger.Warn("no connection for the relay-proxy key", "error", err)
	p.each(func(e *proxied) {
		e.syncer.update(func(_ *Status, h *health) { h.lost, h.linkErr = max(h.lost, number), err })
	})
}

func (p *proxyUser) skewed(by time.Duration) {
	p.each(func(e *proxied) { e.syncer.update(func(st *Status, _ *health) { st.ClockSkew = by }) })
}

func (p *proxyUser) heard(uint64) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status.Heard = now
	for _, e := range p.envs {
		if e.hears && e.syncer != nil {
			e.syncer.heard.Store(now.UnixNano())
		}
	}
}

func (p *proxyUser) ignored(what string, err error) {
	p.mu.Lock()
	p.status.Ignored++
	p.mu.Unlock()
	p.conf.Logger.Warn("ignored "+what, "env", "relay-proxy", "error", err)
}

// roundBurst is how many requests for everything the environments may cause in a
// row. One that keeps asking must not load FeatBit with the flags of all.
const roundBurst = 5

func (p *proxyUser) write(ctx context.Context, conn *websocket.Conn, number uint64) error {
	cfg := &p.conf
	for _, old := range []chan struct{}{p.answered, p.wants, p.suspects, p.reconciles} {
		unsignal(old)
	}
	ping := time.NewTicker(cfg.Ping)
	defer ping.Stop()
	answer := time.NewTimer(time.Hour)
	defer answer.Stop()
	reconcile := time.NewTimer(around(cfg.Reconcile))
	defer reconcile.Stop()
	refill := time.NewTicker(p.cfg.roundEvery)
	defer refill.Stop()
	recheck := time.NewTimer(time.Hour)
	recheck.Stop()
	defer recheck.Stop()
	status := time.NewTimer(time.Hour)
	status.Stop()
	defer status.Stop()
	if p.cfg.Register {
		status.Reset(0)
	}
	wanted, asked, tokens := true, false, roundBurst
	lost := newSuspicion(cfg.suspectEvery)
	defer lost.timer.Stop()
	for {
		if wanted && !asked && tokens > 0 {
			wanted, asked = false, true
			tokens--
			p.beginAll(ctx, number)
			if ctx.Err() != nil {
				return nil
			}
			if err := send(conn, protocol.DataSyncRequest(0)); err != nil {
				return err
			}
			answer.Reset(cfg.answerTimeout)
		}
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-ping.C:
			err = send(conn, protocol.PingFrame)
		case <-status.C:
			err = send(conn, p.agentStatus(time.Now()))
			status.Reset(around(p.cfg.statusEvery))
		case <-p.answered:
			asked = false
			answer.Stop()
		case <-answer.C:
			if p.link.reading.Load() {
				answer.Reset(min(time.Second, cfg.answerTimeout))
				continue
			}
			err = errors.New("the server does not answer data-sync requests")
		case <-reconcile.C:
			wanted = true
			reconcile.Reset(around(cfg.Reconcile))
		case <-p.reconciles:
			wanted, tokens = true, max(tokens, 1)
		case <-p.opens:
			wanted = true
		case <-p.wants:
			wanted = true
		case <-p.suspects:
			lost.arise()
		case <-lost.timer.C:
			lost.acted()
			wanted = true
		case <-p.rechecks:
			recheck.Reset(cfg.Guard.Wait)
		case <-recheck.C:
			wanted, tokens = true, max(tokens, 1)
		case <-refill.C:
			tokens = min(tokens+1, roundBurst)
		}
		if err != nil {
			return err
		}
	}
}

// around returns d, give or take a tenth.
func around(d time.Duration) time.Duration { return d - d/10 + rand.N(d/5+1) }

// beginAll tells the managers that everything is about to be asked for, and waits
// until each knows where its store stands; which none takes long for.
func (p *Proxy) beginAll(ctx context.Context, number uint64) {
	var wg sync.WaitGroup
	p.each(func(e *proxied) {
		wg.Go(func() {
			ctx, done := e.with(ctx)
			defer done()
			// It fails if the connection or the environment ends.
			_, _ = e.manager.begin(ctx, number)
		})
	})
	wg.Wait()
}

func (p *proxyUser) dataSync(ctx context.Context, data json.RawMessage, number uint64) error {
	doc, err := wire.ParseProxyPayload(data)
	if err != nil {
		p.ignored("data-sync message", err)
		signal(p.suspects)
		return nil
	}
	for _, err := range doc.Skipped {
		p.ignored("item", err)
	}
	if len(doc.Skipped) > 0 && doc.EventType != wire.ProxyFull {
		signal(p.suspects)
	}
	p.note(doc)
	if doc.EventType == wire.ProxyFull {
		return p.takeFull(ctx, doc, number)
	}
	for _, es := range doc.Envs {
		p.mu.Lock()
		e := p.envs[es.EnvID]
		p.mu.Unlock()
		if e == nil {
			p.ignored("push", fmt.Errorf("it is of environment %.36q, which is not known", es.EnvID))
			signal(p.suspects)
			continue
		}
		if len(es.Items) > 0 {
			p.deliver(ctx, e, wire.DataSync{EventType: wire.Patch, Items: es.Items}, number)
		}
	}
	return ctx.Err()
}

// note remembers what the agent's status tells of data.
func (p *Proxy) note(doc wire.ProxySync) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.synced = time.Now()
	for _, es := range doc.Envs {
		for _, it := range es.Items {
			p.version = max(p.version, it.Version)
		}
	}
}

// deliver hands data to the environment's manager. Until it has one, what comes is
// not missed: everything is asked for then.
func (p *Proxy) deliver(ctx context.Context, e *proxied, doc wire.DataSync, number uint64) {
	p.mu.Lock()
	m := e.manager
	p.mu.Unlock()
	if m == nil {
		return
	}
	ctx, done := e.with(ctx)
	defer done()
	// It fails if the connection or the environment ends.
	_ = m.receive(ctx, delivery{doc, number})
}

// takeFull takes the list of environments, and hands each its full state.
func (p *proxyUser) takeFull(ctx context.Context, doc wire.ProxySync, number uint64) error {
	envs := p.listed(&doc)
	first := p.full != number
	if first {
		p.full, p.pushes = number, map[string]bool{}
	}
	renew := false
	now := time.Now()
	p.mu.Lock()
	changed := p.dropMissing(envs, doc.Unusable, now)
	for id, env := range envs {
		e := p.envs[id]
		if e == nil {
			e = p.start(env)
			changed = true
		}
		if !e.env.equal(env) {
			e.env, changed = env, true
		}
		e.missing = time.Time{}
		if len(env.ServerSecrets) > 0 && !p.pushes[id] {
			p.pushes[id] = first
			renew = renew || !first
		}
		e.hears = p.pushes[id] && len(env.ServerSecrets) > 0
		if e.syncer != nil {
			e.syncer.heard.Store(now.UnixNano())
		}
	}
	for _, id := range doc.Unusable {
		if e := p.envs[id]; e != nil {
			e.hears = false // nothing confirms what it has until it can be read
		}
	}
	p.status.Fulls++
	p.live = number
	if p.live > p.lost {
		p.status.Err = nil
	}
	var list []ProxyEnv
	if changed {
		for _, id := range slices.Sorted(maps.Keys(p.envs)) {
			list = append(list, p.envs[id].env.clone())
		}
	}
	p.mu.Unlock()
	for _, es := range doc.Envs {
		p.mu.Lock()
		e := p.envs[es.EnvID]
		p.mu.Unlock()
		if e != nil {
			p.deliver(ctx, e, wire.DataSync{EventType: wire.Full, Items: es.Items}, number)
		}
	}
	signal(p.answered)
	if changed {
		p.conf.Logger.Info("environments of the relay-proxy key", "count", len(list))
		if p.cfg.OnEnvironments != nil {
			p.cfg.OnEnvironments(list)
		}
	}
	if renew {
		p.conf.Logger.Info("connecting again for the pushes of a new environment", "env", "relay-proxy")
		return errRenew
	}
	return ctx.Err()
}

// listed returns the environments of a full state, and drops from doc what is none.
func (p *proxyUser) listed(doc *wire.ProxySync) map[string]ProxyEnv {
	envs := make(map[string]ProxyEnv, len(doc.Envs))
	doc.Envs = slices.DeleteFunc(doc.Envs, func(es wire.EnvSync) bool {
		id, err := protocol.CheckEnvID(es.EnvID)
		if err != nil {
			p.ignored("environment", errors.New("its id is not a GUID"))
			return true
		}
		env := ProxyEnv{ID: id}
		for _, s := range es.Secrets {
			secret := Secret(s.Value)
			of, err := secret.EnvID()
			if err == nil && of != id {
				err = fmt.Errorf("it is of environment %s", of)
			}
			switch kind := strings.ToLower(s.Type); {
			case err != nil:
				p.ignored("secret of environment "+id, err)
				continue
			case kind == "server":
				env.ServerSecrets = append(env.ServerSecrets, secret)
			case kind == "client":
				env.ClientSecrets = append(env.ClientSecrets, secret)
			default:
				p.ignored("secret of environment "+id, fmt.Errorf("its type is %.20q", s.Type))
				continue
			}
			env.ProjectKey, env.EnvKey = cmp.Or(env.ProjectKey, s.ProjectKey), cmp.Or(env.EnvKey, s.EnvKey)
		}
		for _, list := range []*[]Secret{&env.ServerSecrets, &env.ClientSecrets} {
			slices.Sort(*list)
			*list = slices.Compact(*list)
		}
		envs[id] = env
		return false
	})
	return envs
}

// dropMissing stops syncing the environments that are not in envs, if that is
// certain, which it never is of all of them, and reports whether there were such. The
// caller holds mu.
func (p *proxyUser) dropMissing(envs map[string]ProxyEnv, unusable []string, now time.Time) (dropped bool) {
	if len(unusable) > 0 {
		signal(p.suspects)
	}
	if slices.Contains(unusable, "") {
		return false // it may be any
	}
	for id, e := range p.envs {
		_, listed := envs[id]
		switch guard := p.conf.Guard; {
		case listed || slices.Contains(unusable, id):
		case len(envs) == 0 && !guard.Off:
			// FeatBit was started without its database. All SDKs would be sent away for
			// good.
			if e.missing.IsZero() {
				e.missing, e.hears = now, false
				p.conf.Logger.Error("FeatBit has none of the key's environments any more; they are kept", "env", id)
			}
		case e.missing.IsZero() && !guard.Off:
			e.missing, e.hears = now, false
			signal(p.rechecks)
			p.conf.Logger.Warn("a full state lacks an environment; it is removed if FeatBit repeats that", "env", id)
		case guard.Off || now.Sub(e.missing) >= guard.Wait:
			e.cancel()
			delete(p.envs, id)
			dropped = true
			p.conf.Logger.Warn("an environment was removed; its store keeps what it has", "env", id)
		default:
			signal(p.rechecks) // asked too soon, for another reason
		}
	}
	return dropped
}
