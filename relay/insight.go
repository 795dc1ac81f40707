package relay

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
)

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
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, r.cfg.MaxBody))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	if err != nil || !json.Valid(body) || bytes.TrimLeft(body, " \t\r\n")[0] != '[' {
		http.Error(w, "the body is not a JSON array", http.StatusBadRequest)
		return
	}
	r.record(body)
	if r.cfg.OnInsight != nil {
		r.cfg.OnInsight(cred.envID, body)
	}
	w.WriteHeader(http.StatusOK)
}

// record counts and keeps the entries of a JSON array. It looks at one after the
// other: a body of 30 MB may hold 15 million of them.
func (r *Relay) record(body []byte) {
	n := &r.counters
	n.insightRequests.Add(1)
	var batch []kept
	entries := json.NewDecoder(bytes.NewReader(body))
	if _, err := entries.Token(); err != nil { // the bracket
		return
	}
	for entries.More() {
		var raw json.RawMessage
		if entries.Decode(&raw) != nil {
			return // not reached: the body is valid
		}
		var in Insight
		if bytes.Equal(raw, []byte("null")) || json.Unmarshal(raw, &in) != nil || strings.TrimSpace(in.User.KeyID) == "" {
			n.invalidInsights.Add(1)
			continue
		}
		n.insights.Add(1)
		n.variations.Add(int64(len(in.Variations)))
		n.metrics.Add(int64(len(in.Metrics)))
		if batch = append(batch, kept{in, len(raw)}); len(batch) == 1000 {
			r.insights.add(batch)
			batch = batch[:0]
		}
	}
	r.insights.add(batch)
}

func (r *Relay) received(w http.ResponseWriter, req *http.Request) {
	if _, ok := r.authorized(w, req, server); !ok {
		return
	}
	body, err := json.Marshal(r.Insights())
	if err != nil {
		http.Error(w, "cannot encode the insights", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(body)
}
