package relay

import (
	"bufio"
	"cmp"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/flagstead/flagstead/store"
)

// An Agent makes a relay answer what FeatBit's platform asks of its own agents, below
// /api/public/proxy: status, bootstrap (its manual synchronization) and backup. These
// requests carry the relay-proxy key in the Authorization header; browsers have no
// business there and are told nothing about origins.
type Agent struct {
	// Key is the relay-proxy key. It opens every environment, and its bearer may
	// replace them. It must not be empty.
	Key Secret

	// Status, if set, tells how the data gets here. Nil stands for an agent whose data
	// comes by bootstrap only. It is called concurrently and must not block.
	Status func() AgentStatus

	// Bootstrap, if set, takes over envs, which from then on are all environments that
	// there are, each with exactly these items. It owns envs. There is one call at a
	// time, and the platform waits for it; ctx ends when the platform has gone. Is its
	// error an ErrBootstrapRefused, the platform is told the text, otherwise only that
	// it failed. Nil refuses all.
	Bootstrap func(ctx context.Context, envs []BootstrapEnv) error

	// MaxBody limits what a bootstrap may send, in bytes. Zero means 64 MiB.
	MaxBody int64
}

// An AgentStatus says how the data of a relay gets there.
type AgentStatus struct {
	SyncState  SyncState // empty is SyncNone
	LastSynced time.Time // when the data last was known to be FeatBit's; zero is never
}

// A SyncState is what agents call the state of their connection to FeatBit.
type SyncState string

// The states that FeatBit's platform knows.
const (
	SyncNone        SyncState = "None" // there is no such connection
	SyncStarting    SyncState = "Starting"
	SyncStable      SyncState = "Stable"
	SyncInterrupted SyncState = "Interrupted"
	SyncStopped     SyncState = "Stopped"
)

// A BootstrapEnv is one environment of a bootstrap.
type BootstrapEnv struct {
	// ID is the environment's id, a GUID in lower case.
	ID string

	// Name is "project:environment" if its secrets tell, or else the name under which
	// the relay serves the environment, or else ID.
	Name string

	// Secrets are the server secrets, ClientSecrets those of browsers and devices. The
	// platform may leave out all of them: those known stay valid then.
	Secrets       []Secret
	ClientSecrets []Secret

	// Items are the flags and segments, archived ones included, one per key.
	Items []store.Item
}

// ErrBootstrapRefused is for Agent.Bootstrap to say, wrapped in an error whose text is
// for the platform's users, that the data was looked at and not taken over. That text
// must hold nothing secret.
var ErrBootstrapRefused = errors.New("the bootstrap is refused")

const (
	agentPath           = "/api/public/proxy/"
	defaultMaxBootstrap = 64 << 20
)

func (a *Agent) check() (*Agent, error) {
	if a == nil {
		return nil, nil
	}
	checked := *a
	if strings.TrimSpace(string(a.Key)) == "" {
		return nil, errors.New("relay: Agent has no Key")
	}
	if checked.MaxBody <= 0 {
		checked.MaxBody = defaultMaxBootstrap
	}
	return &checked, nil
}

// agentHandler returns what answers a path of the agent's API and with which method, or
// nil.
func (r *Relay) agentHandler(path string) (method string, handle http.HandlerFunc) {
	if r.cfg.Agent == nil {
		return "", nil
	}
	switch path {
	case agentPath + "status":
		return http.MethodGet, r.forAgent(r.agentStatus)
	case agentPath + "backup":
		return http.MethodGet, r.forAgent(r.agentBackup)
	case agentPath + "bootstrap":
		return http.MethodPost, r.forAgent(r.agentBootstrap)
	}
	return "", nil
}

// forAgent lets those pass who have the key.
func (r *Relay) forAgent(handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		if subtle.ConstantTimeCompare([]byte(req.Header.Get("Authorization")), []byte(r.cfg.Agent.Key)) != 1 {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		handle(w, req)
	}
}

func (r *Relay) agentStatus(w http.ResponseWriter, _ *http.Request) {
	var now AgentStatus
	if r.cfg.Agent.Status != nil {
		now = r.cfg.Agent.Status()
	}
	answer := struct {
		agentAnswer
		SyncState    SyncState  `json:"syncState"`
		LastSyncedAt *time.Time `json:"lastSyncedAt"`
		ReportedAt   time.Time  `json:"reportedAt"`
	}{SyncState: cmp.Or(now.SyncState, SyncNone), ReportedAt: time.Now().UTC()}
	if !now.LastSynced.IsZero() {
		at := now.LastSynced.UTC()
		answer.LastSyncedAt = &at
	}
	var names []string
	for _, e := range r.served() {
		names = append(names, e.name)
		if v := e.env.view.Load(); v != nil && len(v.entries) > 0 {
			answer.DataVersion = max(answer.DataVersion, v.entries[len(v.entries)-1].item.Version)
		}
	}
	answer.Serves = strings.Join(names, ",")
	writeAnswer(w, answer)
}

type agentAnswer struct {
	Serves      string `json:"serves"`
	DataVersion int64  `json:"dataVersion"`
}

func writeAnswer(w http.ResponseWriter, answer any) {
	text, err := json.Marshal(answer)
	if err != nil {
		http.Error(w, "cannot encode the answer", http.StatusInternalServerError)
		return
	}
	writeJSON(w, text)
}

// A servedEnv is an environment and the secrets that open it.
type servedEnv struct {
	env     *environment
	name    string
	secrets []agentSecret
}

// An agentSecret is a secret as agents get it.
type agentSecret struct {
	Type       string `json:"type"`
	ProjectKey string `json:"projectKey"`
	EnvID      string `json:"envId"`
	EnvKey     string `json:"envKey"`
	Value      string `json:"value"`
}

// served returns the environments by name.
func (r *Relay) served() []servedEnv {
	r.envMu.Lock()
	defer r.envMu.Unlock()
	all := make([]servedEnv, 0, len(r.envs))
	for _, env := range r.envs {
		e := servedEnv{env: env, name: *env.name.Load(), secrets: []agentSecret{}}
		project, key, ok := strings.Cut(e.name, ":")
		if !ok {
			project, key = "", e.name
		}
		for _, c := range *r.secrets.Load() {
			if c.env == env {
				e.secrets = append(e.secrets, agentSecret{string(c.kind), project, env.id, key, string(c.secret)})
			}
		}
		slices.SortFunc(e.secrets, func(a, b agentSecret) int {
			return cmp.Or(-cmp.Compare(a.Type, b.Type), cmp.Compare(a.Value, b.Value))
		})
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b servedEnv) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.env.id, b.env.id))
	})
	return all
}

// agentBackup sends everything that is served, archived items included, or nothing: a
// backup that lacks an environment would delete it when it is restored.
func (r *Relay) agentBackup(w http.ResponseWriter, _ *http.Request) {
	envs := r.served()
	views := make([]*view, len(envs))
	for i, e := range envs {
		if views[i] = e.env.view.Load(); views[i] == nil {
			r.counters.refused.Add(1)
			w.Header().Set("Retry-After", retryAfter)
			http.Error(w, fmt.Sprintf("there is no data yet of the environment %q", e.name), http.StatusServiceUnavailable)
			return
		}
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	out := bufio.NewWriterSize(w, 64<<10)
	sep := `{"eventType":"rp_full","items":[`
	for i, e := range envs {
		secrets, err := json.Marshal(e.secrets)
		if err != nil {
			panic(http.ErrAbortHandler) // half a document must not look like a whole one
		}
		id, _ := json.Marshal(e.env.id)
		fmt.Fprintf(out, `%s{"envId":%s,"secrets":%s,"featureFlags":[`, sep, id, secrets)
		views[i].writeItems(out, store.Flag)
		_, _ = out.WriteString(`],"segments":[`)
		views[i].writeItems(out, store.Segment)
		_, _ = out.WriteString(`]}`)
		sep = ","
	}
	if len(envs) == 0 {
		_, _ = out.WriteString(sep)
	}
	_, _ = out.WriteString(`]}`)
	_ = out.Flush() // its error is that of any write: the platform has gone
}

func (v *view) writeItems(out *bufio.Writer, kind store.Kind) {
	first := true
	for _, e := range v.entries {
		if e.item.Kind != kind {
			continue
		}
		if !first {
			_ = out.WriteByte(',')
		}
		first = false
		_, _ = out.Write(e.item.Data)
	}
}

// agentBootstrap hands on what the platform sends. Only one document is read at a time:
// each may be as large as MaxBody.
func (r *Relay) agentBootstrap(w http.ResponseWriter, req *http.Request) {
	agent := r.cfg.Agent
	if agent.Bootstrap == nil {
		http.Error(w, "this relay takes its data from stores that are filled otherwise; bootstrap is off", http.StatusConflict)
		return
	}
	if req.ContentLength > agent.MaxBody {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	select {
	case r.bootstrapping <- struct{}{}:
		defer func() { <-r.bootstrapping }()
	case <-req.Context().Done():
		return
	case <-r.stop:
		r.unavailable(w)
		return
	}
	body, ok := readBody(w, req, agent.MaxBody)
	if !ok {
		return
	}
	envs, err := parseBootstrap(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer := r.nameBootstrap(envs)
	switch err := agent.Bootstrap(req.Context(), envs); {
	case err == nil:
		r.log.Info("relay: bootstrap taken over", "environments", len(envs), "version", answer.DataVersion)
		writeAnswer(w, answer)
	case errors.Is(err, ErrBootstrapRefused):
		r.log.Warn("relay: bootstrap refused", "environments", len(envs), "error", err)
		http.Error(w, err.Error(), http.StatusConflict)
	default:
		r.log.Error("relay: bootstrap failed", "environments", len(envs), "error", err)
		http.Error(w, "the data could not be taken over", http.StatusInternalServerError)
	}
}

// nameBootstrap gives names to those environments whose secrets tell none, and returns
// what the platform is answered.
func (r *Relay) nameBootstrap(envs []BootstrapEnv) agentAnswer {
	known := map[string]string{}
	for _, e := range r.served() {
		known[e.env.id] = e.name
	}
	var answer agentAnswer
	names := make([]string, len(envs))
	for i := range envs {
		e := &envs[i]
		e.Name = cmp.Or(e.Name, known[e.ID], e.ID)
		names[i] = e.Name
		for _, it := range e.Items {
			answer.DataVersion = max(answer.DataVersion, it.Version)
		}
	}
	slices.Sort(names)
	answer.Serves = strings.Join(names, ",")
	return answer
}
