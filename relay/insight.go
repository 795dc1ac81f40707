package relay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
)

// An InsightSink takes insights off a relay's hands, see [Config].Insights. It is
// called concurrently.
type InsightSink interface {
	// Accept takes responsibility for the insights of one request, each a JSON
	// object with a user's key, and of the environment with the id env. The SDK
	// waits for it: ctx ends when the SDK is gone, or the relay. The slice and what
	// it holds are Accept's to keep. If it fails the SDK is told so and the relay
	// does not count the insights: by a 503 with Retry-After if the error is
	// ErrBusy, which SDKs answer with another attempt, by a 500 otherwise.
	Accept(ctx context.Context, env string, insights []json.RawMessage) error
}

// ErrBusy is for an InsightSink to say that it has no room at the moment.
var ErrBusy = errors.New("relay: no room for insights")

// insightRetryAfter is what a busy relay asks SDKs to wait, in seconds.
const insightRetryAfter = "5"

// keepInsightBytes bounds the JSON of the insights kept for inspection.
const keepInsightBytes = 16 << 20

// A recorder keeps the last insights.
type recorder struct {
	keep int // how many at most

	mu   sync.Mutex
	last []kept
	size int
}

type kept struct {
	insight Insight
	size    int
	env     *environment // whose secret came with it
}

func (k *recorder) add(batch []kept) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last = append(k.last, batch...)
	for _, b := range batch {
		k.size += b.size
	}
	drop := 0
	for len(k.last)-drop > max(k.keep, 0) || k.size > keepInsightBytes {
		k.size -= k.last[drop].size
		k.last[drop] = kept{}
		drop++
	}
	k.last = k.last[drop:]
}

func (k *recorder) all() []Insight {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := make([]Insight, len(k.last))
	for i, l := range k.last {
		all[i] = l.insight
	}
	return all
}

// of returns the last insights of one environment.
func (k *recorder) of(env *environment) []Insight {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := []Insight{}
	for _, l := range k.last {
		if l.env == env {
			all = append(all, l.insight)
		}
	}
	return all
}

// Insights returns the last insights that SDKs delivered, the newest last.
func (r *Relay) Insights() []Insight { return r.insights.all() }

// track takes insights. Like FeatBit it answers 200 also if no entry was valid.
func (r *Relay) track(w http.ResponseWriter, req *http.Request) {
	cred, ok := r.authorized(w, req, server, client)
	if !ok || !r.allowed(w, cred.env.limits.insight) {
		return
	}
	if req.ContentLength > r.cfg.MaxBody {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	room := reservation{in: r.intake}
	defer room.release()
	body, err := room.read(req.Context(), http.MaxBytesReader(w, req.Body, r.cfg.MaxBody), req.ContentLength, r.cfg.MaxBody)
	if errors.Is(err, ErrBusy) {
		r.refuseInsights(w, cred.envID, err)
		return
	}
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	if err != nil || !json.Valid(body) || bytes.TrimLeft(body, " \t\r\n")[0] != '[' {
		http.Error(w, "the body is not a JSON array", http.StatusBadRequest)
		return
	}
	found := take(body, r.cfg.KeepInsights)
	if r.cfg.Insights != nil && len(found.valid) > 0 {
		if err := r.cfg.Insights.Accept(req.Context(), cred.envID, found.valid); err != nil {
			r.refuseInsights(w, cred.envID, err)
			return
		}
	}
	for i := range found.last {
		found.last[i].env = cred.env
	}
	r.record(found)
	w.WriteHeader(http.StatusOK)
}

func (r *Relay) refuseInsights(w http.ResponseWriter, env string, err error) {
	r.counters.refusedInsights.Add(1)
	if errors.Is(err, ErrBusy) {
		w.Header().Set("Retry-After", insightRetryAfter)
		http.Error(w, "no room for insights, try again later", http.StatusServiceUnavailable)
		return
	}
	r.log.Error("insights cannot be taken", "env", env, "error", err)
	http.Error(w, "insights cannot be taken", http.StatusInternalServerError)
}

// A harvest are the insights of one request.
type harvest struct {
	valid               []json.RawMessage // parts of the body
	last                []kept            // of these the last, decoded
	invalid             int64
	variations, metrics int64
}

// take returns the entries of a JSON array that have a user, and decodes the last
// of them. It looks at one after the other: a body of 30 MB may hold 15 million.
func take(body []byte, keep int) harvest {
	var h harvest
	entries := json.NewDecoder(bytes.NewReader(body))
	if _, err := entries.Token(); err != nil { // the bracket
		return h
	}
	var raw json.RawMessage
	for entries.More() {
		if entries.Decode(&raw) != nil {
			return h // not reached: the body is valid
		}
		var in Insight
		if bytes.Equal(raw, []byte("null")) || json.Unmarshal(raw, &in) != nil || strings.TrimSpace(in.User.KeyID) == "" {
			h.invalid++
			continue
		}
		end := entries.InputOffset()
		h.valid = append(h.valid, body[end-int64(len(raw)):end:end])
		h.variations += int64(len(in.Variations))
		h.metrics += int64(len(in.Metrics))
		if keep > 0 {
			if h.last = append(h.last, kept{insight: in, size: len(raw)}); len(h.last) >= 2*keep {
				h.last = append(h.last[:0], h.last[len(h.last)-keep:]...)
			}
		}
	}
	return h
}

// record counts insights and keeps the last.
func (r *Relay) record(h harvest) {
	n := &r.counters
	n.insightRequests.Add(1)
	n.invalidInsights.Add(h.invalid)
	n.insights.Add(int64(len(h.valid)))
	n.variations.Add(h.variations)
	n.metrics.Add(h.metrics)
	r.insights.add(h.last)
}

func (r *Relay) received(w http.ResponseWriter, req *http.Request) {
	cred, ok := r.authorized(w, req, server)
	if !ok {
		return
	}
	body, err := json.Marshal(r.insights.of(cred.env))
	if err != nil {
		http.Error(w, "cannot encode the insights", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(body)
}
