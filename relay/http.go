package relay

import (
	"crypto/subtle"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
)

// ReceivedPath is where a relay shows the last insights it received, as a JSON
// array, to whoever sends a secret in the Authorization header.
const ReceivedPath = "/api/public/insight/received"

// A kind is that of a secret.
type kind string

const (
	server kind = "server"
	client kind = "client"
)

// A credential is one accepted secret.
type credential struct {
	secret []byte
	kind   kind
	env    *environment
	envID  string // that the secret tells, which need not be env's
}

// authenticate returns what an accepted secret gives access to. It takes equally
// long for every secret of the right length.
func (r *Relay) authenticate(secret string) (cred credential, ok bool) {
	for _, c := range *r.secrets.Load() {
		if subtle.ConstantTimeCompare(c.secret, []byte(secret)) == 1 {
			cred, ok = c, true
		}
	}
	return cred, ok
}

// pending reports whether secrets may become known that are not yet.
func (r *Relay) pending() bool { return r.cfg.SecretsPending != nil && r.cfg.SecretsPending() }

// allowOrigin accepts every origin: access is by token, never by cookie, and
// Python sends the origin of the URL that it was given, whatever proxy is
// between.
func allowOrigin(*http.Request) bool { return true }

// ServeHTTP answers FeatBit's paths, which are matched regardless of case, and
// a status page at the root.
func (r *Relay) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.counters.requests.Add(1)
	if len(req.URL.Path) > len(agentPath) && strings.EqualFold(req.URL.Path[:len(agentPath)], agentPath) {
		r.route(w, req) // not for browsers
		return
	}
	r.handler.ServeHTTP(w, req)
}

func (r *Relay) route(w http.ResponseWriter, req *http.Request) {
	path := strings.ToLower(req.URL.Path)
	if path != "/" {
		path = strings.TrimSuffix(path, "/")
	}
	if strings.HasPrefix(path, protocol.StreamingPath+"/") {
		path = protocol.StreamingPath // FeatBit looks at the first segment only
	}
	method, handle := http.MethodGet, http.HandlerFunc(nil)
	switch path {
	case protocol.StreamingPath:
		handle = r.stream
	case protocol.LatestAllPath:
		handle = r.latestAll
	case clientLatestAllPath:
		method, handle = http.MethodPost, r.clientLatestAll
	case evaluatePath:
		method, handle = http.MethodPost, r.evaluate
	case protocol.InsightPath:
		method, handle = http.MethodPost, r.track
	case ReceivedPath:
		handle = r.received
	case "/health/liveness":
		handle = liveness
	case "/health/readiness":
		handle = r.readiness
	case "/":
		handle = r.status
	default:
		if method, handle = r.agentHandler(path); handle == nil {
			http.NotFound(w, req)
			return
		}
	}
	if req.Method != method && !(req.Method == http.MethodHead && method == http.MethodGet) {
		w.Header().Set("Allow", method)
		http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
		return
	}
	handle(w, req)
}

// authorized checks the Authorization header, which holds the secret and
// nothing else, and answers 401 if it is not one of the given kinds.
func (r *Relay) authorized(w http.ResponseWriter, req *http.Request, kinds ...kind) (cred credential, ok bool) {
	cred, ok = r.authenticate(req.Header.Get("Authorization"))
	switch {
	case !ok && r.pending():
		r.unavailable(w)
	case !ok || !slices.Contains(kinds, cred.kind):
		w.WriteHeader(http.StatusUnauthorized)
		return cred, false
	}
	return cred, ok
}

// latestAll never sends an ETag: with one, Node's poller would lose its
// Authorization header.
func (r *Relay) latestAll(w http.ResponseWriter, req *http.Request) {
	cred, ok := r.authorized(w, req, server)
	if !ok || !r.allowed(w, cred.env.limits.sdk) {
		return
	}
	cursor, ok := cursorOf(w, req)
	if !ok {
		return
	}
	env := cred.env
	if env.view.Load() == nil {
		r.unavailable(w)
		return
	}
	var body []byte
	if cursor == 0 {
		v := env.view.Load()
		w.Header().Add("Vary", "Accept-Encoding")
		if body = v.full().payload(); acceptsGzip(req.Header) {
			if zip := v.zipped(); zip != nil {
				w.Header().Set("Content-Encoding", "gzip")
				body = zip
			}
		}
	} else if items := env.claim(cursor).after(cursor); len(items) > 0 {
		body = encode(wire.Patch, items).payload()
	}
	writeJSON(w, body)
}

// acceptsGzip reports whether the client asked for gzip by name.
func acceptsGzip(h http.Header) bool {
	for _, one := range strings.Split(strings.Join(h.Values("Accept-Encoding"), ","), ",") {
		coding, params, _ := strings.Cut(one, ";")
		if !strings.EqualFold(strings.TrimSpace(coding), "gzip") {
			continue
		}
		name, value, has := strings.Cut(strings.TrimSpace(params), "=")
		if !has || !strings.EqualFold(strings.TrimSpace(name), "q") {
			return true
		}
		q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		return err == nil && q > 0
	}
	return false
}

func liveness(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "Healthy") }

func (r *Relay) readiness(w http.ResponseWriter, _ *http.Request) {
	code := http.StatusOK
	ready := r.Readiness()
	if ready == Unhealthy {
		code = http.StatusServiceUnavailable
	}
	text(w, code, ready.String())
}

func (r *Relay) status(w http.ResponseWriter, _ *http.Request) {
	s := r.Stats()
	state := "waiting for data"
	if s.Ready {
		state = "ready"
	}
	if s.StoreFailing {
		state += ", the store fails"
	}
	text(w, http.StatusOK, fmt.Sprintf(`Flagstead relay: %s

flags         %d
segments      %d
invalid items %d
connections   %d
changes       %d
insights      %d
`, state, s.Flags, s.Segments, s.InvalidItems, s.Connections, s.Changes, s.Insights))
}

func text(w http.ResponseWriter, code int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(body))
}
