package fleet

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/flagstead/flagstead/internal/forward"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/syncer"
)

// A Status tells how everything stands.
type Status struct {
	Version      string              `json:"version"`
	Since        time.Time           `json:"since"`
	Readiness    string              `json:"readiness"` // healthy, degraded or unhealthy
	Stopping     bool                `json:"stopping,omitempty"`
	Reloads      int64               `json:"reloads"`
	Environments []EnvironmentStatus `json:"environments"`
	RelayProxy   *ProxyStatus        `json:"relayProxy,omitempty"`
	Relay        *relay.Stats        `json:"relay,omitempty"`
	Events       *forward.Stats      `json:"events,omitempty"`
}

// An EnvironmentStatus tells how one environment stands.
type EnvironmentStatus struct {
	Name      string     `json:"name"`
	ID        string     `json:"id,omitempty"`
	Store     string     `json:"store"`
	Open      bool       `json:"open"`            // the store
	State     string     `json:"state,omitempty"` // the syncer's, if there is one
	Transport string     `json:"transport,omitempty"`
	Confirmed *time.Time `json:"confirmed,omitempty"` // until when the store is known to be equal to its source
	Frozen    bool       `json:"frozen,omitempty"`
	Error     string     `json:"error,omitempty"`
	ready     bool
}

func (e *environment) status() EnvironmentStatus {
	e.mu.Lock()
	p, st, s, err := e.plan, e.store, e.syncer, e.err
	e.mu.Unlock()
	status := EnvironmentStatus{Name: e.name, ID: p.id, Store: redact(p.Store), Open: st != nil, Error: text(err)}
	if s != nil {
		status.syncer(s.Status())
	}
	status.ready = status.Open && (!p.syncs() || status.Confirmed != nil || status.Frozen)
	return status
}

func (e *EnvironmentStatus) syncer(s syncer.Status) {
	e.State = s.State.String()
	e.Transport, e.Frozen = s.Transport, s.Frozen != nil
	if !s.Confirmed.IsZero() {
		e.Confirmed = &s.Confirmed
	}
	if s.Err != nil {
		e.Error = s.Err.Error()
	}
}

// Status returns how everything stands. It does not block.
func (f *Fleet) Status() Status {
	st := Status{Version: f.opts.Version, Since: f.started, Readiness: f.readiness(), Stopping: f.draining.Load(), Reloads: f.reloads.Load(), Environments: []EnvironmentStatus{}}
	for _, e := range f.all() {
		st.Environments = append(st.Environments, e.status())
	}
	if f.proxy != nil {
		st.Environments = append(st.Environments, f.proxy.environments()...)
		st.RelayProxy = f.proxy.status()
	}
	if f.events != nil {
		s := f.events.Stats()
		st.Events = &s
	}
	if f.relay != nil {
		s := f.relay.Stats()
		st.Relay = &s
	}
	return st
}

// The states of readiness.
const (
	healthy   = "healthy"
	degraded  = "degraded"  // some environment has no data
	unhealthy = "unhealthy" // none has, or the process stops
)

// readiness is that of the relay if there is one: what load balancers ask for.
func (f *Fleet) readiness() string {
	if f.draining.Load() {
		return unhealthy
	}
	if f.relay != nil {
		switch f.relay.Readiness() {
		case relay.Healthy:
			return healthy
		case relay.Degraded:
			return degraded
		}
		return unhealthy
	}
	var all []EnvironmentStatus
	for _, e := range f.all() {
		all = append(all, e.status())
	}
	if f.proxy != nil {
		all = append(all, f.proxy.environments()...)
	}
	ready := 0
	for _, e := range all {
		if e.ready {
			ready++
		}
	}
	switch {
	case ready == 0:
		return unhealthy
	case ready < len(all):
		return degraded
	}
	return healthy
}

// adminHandler answers operators and orchestrators. It has no access control: it is
// meant for an address that only they reach.
func (f *Fleet) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", f.numbers.handler())
	mux.HandleFunc("GET /health/liveness", func(w http.ResponseWriter, _ *http.Request) { plainText(w, http.StatusOK, "Healthy\n") })
	mux.HandleFunc("GET /health/readiness", func(w http.ResponseWriter, _ *http.Request) {
		switch f.readiness() {
		case healthy:
			plainText(w, http.StatusOK, "Healthy\n")
		case degraded:
			plainText(w, http.StatusOK, "Degraded\n")
		default:
			plainText(w, http.StatusServiceUnavailable, "Unhealthy\n")
		}
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		body, err := json.MarshalIndent(f.Status(), "", "  ")
		if err != nil {
			plainText(w, http.StatusInternalServerError, "the status cannot be encoded\n")
			return
		}
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = w.Write(append(body, '\n'))
	})
	mux.HandleFunc("POST /reconcile", func(w http.ResponseWriter, req *http.Request) {
		name := req.URL.Query().Get("env")
		if !f.Reconcile(name) {
			plainText(w, http.StatusNotFound, "no such environment is in sync\n")
			return
		}
		plainText(w, http.StatusAccepted, "asked FeatBit for everything\n")
	})
	return mux
}

func plainText(w http.ResponseWriter, code int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(body))
}
