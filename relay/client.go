package relay

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"

	"github.com/flagstead/flagstead/internal/flags"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
)

// answerClient evaluates for the user that a client-side SDK sent. Another user than
// before takes its place for the pushes that follow: this is how those SDKs identify.
// They do not clear what they have of the user before, and a push that was on its way
// may have raised the timestamp that they ask with, so another user gets everything.
// The caller holds mu.
func (c *conn) answerClient(req request) error {
	j := c.env.judge()
	if c.user != nil && !c.user.Equal(req.user) {
		req.cursor = 0
	}
	c.user, c.synced, c.sent = req.user, true, j.view.hwm
	eventType := wire.Patch
	if req.cursor == 0 {
		eventType = wire.Full
	}
	return c.sendClient(j, eventType, j.affected(req.cursor))
}

// pushClient sends what may have changed for the user since the last message. The
// caller holds mu.
func (c *conn) pushClient() error {
	j := c.env.judge()
	if c.sent >= j.view.hwm {
		return nil
	}
	news := j.affected(c.sent)
	c.sent = j.view.hwm
	if len(news) == 0 {
		return nil // a segment that no flag names
	}
	c.relay.counters.patches.Add(1)
	return c.sendClient(j, wire.Patch, news)
}

func (c *conn) sendClient(j *judge, eventType string, wanted []candidate) error {
	text, err := j.clientDocument(eventType, c.user, wanted)
	if err != nil {
		return err
	}
	return c.send(newFrame(opText, text))
}

// maxUser bounds the body of a request that carries a user. On the stream it is
// MaxMessage.
const maxUser = 1 << 20

// readBody returns the body of a request of at most limit bytes, or answers why not.
func readBody(w http.ResponseWriter, req *http.Request, limit int64) (body []byte, ok bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, limit))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return nil, false
	}
	if err != nil {
		http.Error(w, "the body cannot be read", http.StatusBadRequest)
		return nil, false
	}
	return body, true
}

// cursorOf returns the timestamp of a latest-all request, or answers why not.
func cursorOf(w http.ResponseWriter, req *http.Request) (cursor int64, ok bool) {
	text := parameter(req.URL.Query(), "timestamp")
	if text == "" {
		return 0, true
	}
	cursor, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		http.Error(w, "timestamp is not an integer", http.StatusBadRequest)
		return 0, false
	}
	return cursor, true
}

// clientLatestAll answers client-side SDKs that poll.
func (r *Relay) clientLatestAll(w http.ResponseWriter, req *http.Request) {
	cred, ok := r.authorized(w, req, client)
	if !ok || !r.allowed(w, cred.env.limits.sdk) {
		return
	}
	cursor, ok := cursorOf(w, req)
	if !ok {
		return
	}
	body, ok := readBody(w, req, maxUser)
	if !ok {
		return
	}
	user, err := parseClientUser(body)
	if err != nil {
		http.Error(w, "invalid end user", http.StatusBadRequest)
		return
	}
	if cred.env.view.Load() == nil {
		r.unavailable(w)
		return
	}
	j := cred.env.judge()
	eventType, wanted := wire.Full, j.affected(cursor)
	if cursor != 0 {
		eventType = wire.Patch
		if len(wanted) == 0 {
			writeJSON(w, nil)
			return
		}
	}
	text, err := j.clientDocument(eventType, user, wanted)
	if err != nil {
		http.Error(w, "cannot encode the flags", http.StatusInternalServerError)
		return
	}
	writeJSON(w, text)
}

// An evaluation is what a request to evaluate asks for.
type evaluation struct {
	User   json.RawMessage `json:"user"`
	Filter *struct {
		TagFilterMode string   `json:"tagFilterMode"`
		Tags          []string `json:"tags"`
		Keys          []string `json:"keys"`
		Timestamp     int64    `json:"timestamp"`
	} `json:"filter"`
}

// An evaluated flag is one of the answer.
type evaluated struct {
	Key       string         `json:"key"`
	Variation evaluatedValue `json:"variation"`
}

type evaluatedValue struct {
	ID               *string `json:"id"`
	Type             string  `json:"type"`
	Value            *string `json:"value"`
	MatchReason      string  `json:"matchReason"`
	SendToExperiment bool    `json:"sendToExperiment"`
}

// parseEvaluation reads the body of a request to evaluate. What is wrong with it is
// said to whoever sent it.
func parseEvaluation(body []byte) (e evaluation, user *flags.User, wrong string) {
	if err := json.Unmarshal(body, &e); err != nil {
		return e, nil, "the body cannot be read: " + wire.InWords(err)
	}
	user, err := parseClientUser(e.User)
	if err != nil {
		return e, nil, "A valid user is required." // FeatBit's words
	}
	if f := e.Filter; f != nil {
		switch f.TagFilterMode {
		case "", "and", "or":
		default:
			return e, nil, "tagFilterMode must be 'and' or 'or'."
		}
	}
	return e, user, ""
}

// evaluate answers with the values that flags have for a user.
func (r *Relay) evaluate(w http.ResponseWriter, req *http.Request) {
	cred, ok := r.authorized(w, req, server, client)
	if !ok || !r.allowed(w, cred.env.limits.evaluate) {
		return
	}
	body, ok := readBody(w, req, maxUser)
	if !ok {
		return
	}
	wanted, user, wrong := parseEvaluation(body)
	if wrong != "" {
		http.Error(w, wrong, http.StatusBadRequest)
		return
	}
	if cred.env.view.Load() == nil {
		r.unavailable(w)
		return
	}
	j := cred.env.judge()
	list := []evaluated{}
	for _, en := range j.view.entries {
		if en.item.Kind != store.Flag || !wanted.includes(en) {
			continue
		}
		c := j.evaluate(en.item.Key, user)
		list = append(list, evaluated{c.Key, evaluatedValue{c.VariationID, c.VariationType, c.Variation, c.MatchReason, c.SendToExperiment}})
	}
	text, err := json.Marshal(list)
	if err != nil {
		http.Error(w, "cannot encode the flags", http.StatusInternalServerError)
		return
	}
	writeJSON(w, text)
}

// includes applies the filter.
func (e *evaluation) includes(en *entry) bool {
	f := e.Filter
	if f == nil {
		return true
	}
	if len(f.Keys) > 0 && !slices.Contains(f.Keys, en.item.Key) || f.Timestamp > 0 && en.item.Version <= f.Timestamp {
		return false
	}
	if len(f.Tags) == 0 {
		return true
	}
	found, tags := 0, en.tagged()
	for _, tag := range f.Tags {
		if slices.Contains(tags, tag) {
			found++
		}
	}
	if f.TagFilterMode == "or" {
		return found > 0
	}
	return found == len(f.Tags)
}

// tagged returns the tags of a flag. Odd ones are none.
func (e *entry) tagged() []string {
	if tags := e.tags.Load(); tags != nil {
		return *tags
	}
	var has struct {
		Tags []string `json:"tags"`
	}
	if json.Unmarshal(e.item.Data, &has) != nil {
		has.Tags = nil
	}
	e.tags.Store(&has.Tags)
	return has.Tags
}

// writeJSON answers with text, which may be empty. It never sends an ETag.
func writeJSON(w http.ResponseWriter, text []byte) {
	if len(text) > 0 {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	_, _ = w.Write(text)
}

// The paths that this relay serves beside those of package protocol.
const (
	clientLatestAllPath = "/api/public/sdk/client/latest-all"
	evaluatePath        = "/api/public/featureflag/evaluate"
)
