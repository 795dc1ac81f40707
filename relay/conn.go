package relay

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/flags"
	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/store"
)

const (
	// defaultSilence is how long an SDK may stay silent. The slowest of them
	// pings every 18 seconds, and all answer our pings.
	defaultSilence      = 90 * time.Second
	defaultPingInterval = 30 * time.Second

	retryAfter = "1" // seconds
)

// invalidReason is the text that FeatBit closes with.
const invalidReason = "invalid request, close by server"

// A request is what an SDK asked for.
type request struct {
	kind   string // protocol.TypePing, TypeEcho or TypeDataSync
	data   json.RawMessage
	cursor int64
	user   *flags.User // nil on a server-side SDK's stream
}

// stream answers a request to open a stream. Whatever may be cured by waiting is
// refused before the upgrade, because SDKs back off only then; what is wrong
// for good is told with a close code, because SDKs understand nothing else.
func (r *Relay) stream(w http.ResponseWriter, req *http.Request) {
	if !websocket.IsWebSocketUpgrade(req) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		http.Error(w, "this is a WebSocket endpoint", http.StatusUpgradeRequired)
		return
	}
	if r.closing() {
		r.unavailable(w)
		return
	}
	cred, problem := r.checkStream(req)
	switch {
	case problem == errUnknownSecret && r.pending(), problem == nil && cred.env.view.Load() == nil:
		r.unavailable(w)
		return
	case problem != nil:
	case !r.allowed(w, cred.env.limits.streaming):
		return
	case cred.kind == client && r.foreign(req):
		http.Error(w, "the origin is not allowed", http.StatusForbidden)
		return
	case !cred.env.reserve():
		r.unavailable(w)
		return
	}
	// Clients correct the time in their tokens by the Date, which net/http adds
	// to every answer but this one.
	date := http.Header{"Date": {time.Now().UTC().Format(http.TimeFormat)}}
	ws, err := r.upgrader.Upgrade(w, req, date)
	if err != nil {
		r.log.Debug("relay: upgrade", "remote", req.RemoteAddr, "error", err)
		if problem == nil {
			cred.env.release()
		}
		return
	}
	c := &conn{
		relay: r,
		nc:    ws.NetConn(),
		env:   cred.env,
		cred:  cred,
		whole: req.Header.Get(protocol.PatchesHeader) == protocol.WholePatches,
	}
	c.raw = rawConn(c.nc)
	if problem != nil {
		r.counters.rejected.Add(1)
		r.log.Warn("relay: stream rejected", "remote", req.RemoteAddr, "reason", problem)
		c.reject = true
	} else {
		r.counters.accepted.Add(1)
	}
	if !r.admit(c) {
		if problem == nil {
			cred.env.release()
		}
		_ = c.nc.SetWriteDeadline(time.Now().Add(closeGrace))
		_, _ = c.nc.Write(closeFrame(websocket.CloseGoingAway, ""))
		_ = c.nc.Close()
	}
}

// checkStream says what is permanently wrong with a request, if anything. Its
// errors hold nothing secret.
func (r *Relay) checkStream(req *http.Request) (credential, error) {
	var none credential
	query := req.URL.Query()
	kind := kind(parameter(query, "type"))
	if kind != server && kind != client {
		return none, errors.New("type is neither server nor client")
	}
	switch parameter(query, "version") {
	case "", "1", "2":
	default:
		return none, errors.New("unknown version")
	}
	secret, at, err := protocol.ParseToken(parameter(query, "token"))
	if err != nil {
		return none, err
	}
	if off := time.Since(at).Truncate(time.Millisecond).Abs(); off > r.cfg.TokenWindow {
		return none, errors.New("the token's time is too far off, check the clocks: " + off.String())
	}
	cred, ok := r.authenticate(string(secret))
	switch {
	case !ok:
		return none, errUnknownSecret
	case cred.kind != kind:
		return none, fmt.Errorf("the secret is a %s secret, and the type %s", cred.kind, kind)
	}
	return cred, nil
}

var errUnknownSecret = errors.New("unknown secret")

func (r *Relay) closing() bool {
	select {
	case <-r.stop:
		return true
	default:
		return false
	}
}

// parameter returns a query parameter as ASP.NET reads it: names regardless of
// case, repeated values joined.
func parameter(query map[string][]string, name string) string {
	var all []string
	for key, values := range query {
		if strings.EqualFold(key, name) {
			all = append(all, values...)
		}
	}
	return strings.Join(all, ",")
}

// parseRequest reads a message as FeatBit does, which drops silently what it
// does not understand.
func parseRequest(text []byte, kind kind) (request, bool) {
	var e protocol.Envelope
	if json.Unmarshal(text, &e) != nil || e.Data == nil {
		return request{}, false
	}
	req := request{kind: strings.ToLower(e.MessageType)}
	switch req.kind {
	case protocol.TypePing:
		return req, true
	case protocol.TypeEcho:
		req.data = e.Data
		return req, true
	case protocol.TypeDataSync:
		var data *struct {
			Timestamp json.RawMessage `json:"timestamp"`
			User      json.RawMessage `json:"user"`
		}
		if json.Unmarshal(e.Data, &data) != nil || data == nil {
			return req, false
		}
		if kind == client {
			var err error
			if req.user, err = parseClientUser(data.User); err != nil {
				return req, false
			}
		}
		if data.Timestamp == nil {
			return req, true
		}
		if first := data.Timestamp[0]; first != '-' && (first < '0' || first > '9') {
			return req, false
		}
		// A number that is no int64 reads as 0, which asks for everything.
		if n, err := strconv.ParseInt(string(data.Timestamp), 10, 64); err == nil {
			req.cursor = n
		}
		return req, true
	}
	return req, false
}

// answer sends what the SDK asked for. The caller is the connection's reader.
func (c *conn) answer(req request) error {
	switch req.kind {
	case protocol.TypePing:
		return c.reply(c.relay.pong)
	case protocol.TypeEcho:
		text, err := json.Marshal(protocol.Envelope{MessageType: protocol.TypeEcho, Data: req.data})
		if err != nil {
			return err
		}
		return c.reply(newFrame(opText, text))
	}
	c.relay.counters.syncs.Add(1)
	// Before the lock, since these may take a while.
	if c.cred.kind == server { // the secrets of clients are public: what they claim changes nothing
		if c.env.claim(req.cursor); req.cursor == 0 {
			c.env.view.Load().full()
		}
	}
	c.lockIdle()
	defer c.mu.Unlock()
	if err := c.sync(req); err != nil {
		return err
	}
	return c.push() // what changed meanwhile, or did not fit
}

// sync answers a request for data. The caller holds mu.
func (c *conn) sync(req request) error {
	if c.cred.kind == client {
		return c.answerClient(req)
	}
	v := c.env.view.Load()
	c.synced, c.sent = true, req.cursor
	switch {
	case req.cursor == 0:
		c.sent = v.hwm
		return c.send(v.full())
	case len(v.after(req.cursor)) == 0:
		c.sent = v.hwm
		return c.send(c.relay.emptyPatch)
	}
	// Several items in one patch are what official SDKs lose items by: they
	// compare each with one version for all. So they get one after the other.
	return nil
}

// enough is how much may wait to be sent before push leaves the rest for later, when
// it may have been replaced.
const enough = 64 << 10

// push sends what the SDK lacks of the current view, unless enough is waiting. The
// caller holds mu.
func (c *conn) push() error {
	if !c.synced || c.closing || c.dead || c.waiting >= enough {
		return nil
	}
	if c.cred.kind == client {
		return c.pushClient()
	}
	v := c.env.view.Load()
	for rest := v.after(c.sent); len(rest) > 0; {
		if c.waiting >= enough {
			return nil // flush goes on
		}
		run := v.run(rest, c.whole)
		if err := c.send(run.frames); err != nil {
			return err
		}
		c.relay.counters.patches.Add(int64(run.patches))
		c.sent = rest[run.entries-1].item.Version
		rest = rest[run.entries:]
	}
	c.sent = max(c.sent, v.hwm)
	return nil
}

func (r *Relay) unavailable(w http.ResponseWriter) {
	r.counters.refused.Add(1)
	w.Header().Set("Retry-After", retryAfter)
	http.Error(w, "no data yet", http.StatusServiceUnavailable)
}

// live counts the items of a kind that are not archived.
func (v *view) live(kind store.Kind) int {
	n := 0
	for _, e := range v.entries {
		if e.item.Kind == kind && !e.item.Archived {
			n++
		}
	}
	return n
}
