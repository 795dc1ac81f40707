package relay

import (
	"crypto/subtle"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
)

// ReceivedPath is where a relay shows the last insights it received, as a JSON
// array, to whoever sends a secret in the Authorization header.
const ReceivedPath = "/api/public/insight/received"

// A credential is one accepted secret.
type credential struct {
	secret []byte
	env    string
}

// authenticate returns the environment of an accepted secret. It takes equally
// long for every secret of the right length.
func (r *Relay) authenticate(secret string) (env string, ok bool) {
	for _, c := range r.secrets {
		if subtle.ConstantTimeCompare(c.secret, []byte(secret)) == 1 {
			env, ok = c.env, true
		}
	}
	return env, ok
}

// allowOrigin accepts every origin: access is by token, never by cookie, and
// Python sends the origin of the URL that it was given, whatever proxy is
// between.
func allowOrigin(*http.Request) bool { return true }

// ServeHTTP answers FeatBit's paths, which are matched regardless of case, and
// a status page at the root.
func (r *Relay) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.counters.requests.Add(1)
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
		http.NotFound(w, req)
		return
	}
	if req.Method != method && !(req.Method == http.MethodHead && method == http.MethodGet) {
		w.Header().Set("Allow", method)
		http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
		return
	}
	handle(w, req)
}

// authorized checks the Authorization header, which holds the secret and
// nothing else, and answers 401 if it is wrong.
func (r *Relay) authorized(w http.ResponseWriter, req *http.Request) (env string, ok bool) {
	env, ok = r.authenticate(req.Header.Get("Authorization"))
	if !ok {
		w.WriteHeader(http.StatusUnauthorized)
	}
	return env, ok
}

// latestAll never sends an ETag: with one, Node's poller would lose its
// Authorization header.
func (r *Relay) latestAll(w http.ResponseWriter, req *http.Request) {
	if _, ok := r.authorized(w, req); !ok {
		return
	}
	cursor := int64(0)
	if text := parameter(req.URL.Query(), "timestamp"); text != "" {
		var err error
		if cursor, err = strconv.ParseInt(text, 10, 64); err != nil {
			http.Error(w, "timestamp is not an integer", http.StatusBadRequest)
			return
		}
	}
	if r.view.Load() == nil {
		r.unavailable(w)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	var body []byte
	if cursor == 0 {
		body = r.view.Load().fullBytes()
	} else if items := r.claim(cursor).after(cursor); len(items) > 0 {
		body = encode(wire.Patch, items)
	}
	if len(body) > 0 {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body)
}

func liveness(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "Healthy") }

func (r *Relay) readiness(w http.ResponseWriter, _ *http.Request) {
	if !r.Ready() {
		text(w, http.StatusServiceUnavailable, "Unhealthy")
		return
	}
	text(w, http.StatusOK, "Healthy")
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
