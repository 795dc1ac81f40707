package relay

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/flags"
	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
)

const (
	// defaultSilence is how long an SDK may stay silent. The slowest of them
	// pings every 18 seconds, and all answer our pings.
	defaultSilence      = 90 * time.Second
	defaultPingInterval = 30 * time.Second

	// closeGrace is how long we wait for the answer to a close frame.
	closeGrace = time.Second

	// slowestRate is what a connection must carry of a large message, in bytes
	// per second; smaller ones have the WriteTimeout.
	slowestRate = 256 << 10

	retryAfter = "1" // seconds
)

// invalidReason is the text that FeatBit closes with.
const invalidReason = "invalid request, close by server"

// A conn is one stream. One goroutine reads from it, one writes data to it;
// nothing is queued but a few requests of the SDK itself.
type conn struct {
	relay    *Relay
	ws       *websocket.Conn
	reject   int           // if not 0, the code to close with at once
	requests chan request  // from read to write
	done     chan struct{} // closed when read has ended
	gone     chan struct{} // closed when write has ended
	closing  atomic.Bool   // a close frame of ours is out

	env       *environment // nil if it is rejected
	cred      credential
	leaving   chan struct{} // closed when it is to end
	leaveWith atomic.Int32  // the code, by then

	whole bool // a change of several items goes out as one patch

	// For write only.
	user   *flags.User // of a client-side SDK
	synced bool        // the SDK has asked for data
	sent   int64       // everything served up to this version was sent
}

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
	case r.cfg.MaxConnections > 0 && cred.env.conns.Load() >= int64(r.cfg.MaxConnections):
		r.unavailable(w)
		return
	case cred.kind == client && r.foreign(req):
		http.Error(w, "the origin is not allowed", http.StatusForbidden)
		return
	}
	// Clients correct the time in their tokens by the Date, which net/http adds
	// to every answer but this one.
	date := http.Header{"Date": {time.Now().UTC().Format(http.TimeFormat)}}
	ws, err := r.upgrader.Upgrade(w, req, date)
	if err != nil {
		r.log.Debug("relay: upgrade", "remote", req.RemoteAddr, "error", err)
		return
	}
	ws.SetReadLimit(r.cfg.MaxMessage)
	c := &conn{
		relay:    r,
		ws:       ws,
		requests: make(chan request, 4),
		done:     make(chan struct{}),
		gone:     make(chan struct{}),
		env:      cred.env,
		cred:     cred,
		leaving:  make(chan struct{}),
		whole:    req.Header.Get(protocol.PatchesHeader) == protocol.WholePatches,
	}
	if problem != nil {
		r.counters.rejected.Add(1)
		r.log.Warn("relay: stream rejected", "remote", req.RemoteAddr, "reason", problem)
		c.reject = protocol.CloseInvalid
		close(c.gone) // there is no writer
	} else {
		r.counters.accepted.Add(1)
	}
	if !r.admit(c) {
		c.sendClose(websocket.CloseGoingAway, "")
		_ = ws.Close()
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

// read runs until the connection ends.
func (c *conn) read() {
	defer c.relay.forget(c)
	defer func() { <-c.gone }()
	defer func() { _ = c.ws.Close() }()
	defer close(c.done)
	if c.reject != 0 {
		c.sendClose(c.reject, invalidReason)
		for {
			if _, _, err := c.ws.NextReader(); err != nil {
				return
			}
		}
	}
	c.alive()
	c.ws.SetPongHandler(func(string) error { c.alive(); return nil })
	for {
		_, text, err := c.ws.ReadMessage()
		if err != nil {
			return
		}
		c.alive()
		req, ok := parseRequest(text, c.cred.kind)
		if !ok {
			c.relay.counters.ignored.Add(1)
			continue
		}
		select {
		case c.requests <- req:
		case <-c.gone:
			return
		}
	}
}

// alive grants the SDK another span of silence.
func (c *conn) alive() {
	if !c.closing.Load() {
		_ = c.ws.SetReadDeadline(time.Now().Add(c.relay.silence))
	}
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

var errLeaving = errors.New("leaving")

var leaveReasons = map[int32]string{websocket.CloseGoingAway: "restarting", protocol.CloseInvalid: invalidReason}

// leave makes the connection end with a close code. Only the first call counts.
func (c *conn) leave(code int) {
	if c.leaveWith.CompareAndSwap(0, int32(code)) {
		close(c.leaving)
	}
}

// write sends answers and changes until the connection ends.
func (c *conn) write() {
	defer close(c.gone)
	ping := time.NewTicker(c.relay.pingInterval)
	defer ping.Stop()
	v := c.env.view.Load()
	for {
		var next <-chan struct{}
		if c.synced {
			next = v.next
		}
		var err error
		select {
		case <-c.done:
			return
		case <-c.leaving:
			err = errLeaving
		case <-ping.C:
			err = c.ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(c.relay.cfg.WriteTimeout))
		case req := <-c.requests:
			v, err = c.answer(v, req)
		case <-next:
			if c.cred.kind == client {
				v, err = c.pushClient()
				break
			}
			v = c.env.view.Load()
			err = c.push(v)
		}
		if errors.Is(err, errLeaving) {
			c.sendClose(int(c.leaveWith.Load()), leaveReasons[c.leaveWith.Load()])
			c.awaitClose()
			return
		}
		if err != nil {
			c.dropped(err)
			return
		}
	}
}

// awaitClose waits for read to end, which must not wait for write meanwhile.
func (c *conn) awaitClose() {
	for {
		select {
		case <-c.done:
			return
		case <-c.requests:
		}
	}
}

// dropped gives up a connection that cannot be written to.
func (c *conn) dropped(err error) {
	select {
	case <-c.done: // it was closed by the SDK
	default:
		if !errors.Is(err, websocket.ErrCloseSent) {
			c.relay.counters.dropped.Add(1)
			c.relay.log.Info("relay: stream dropped", "remote", c.ws.RemoteAddr().String(), "error", err)
		}
	}
	_ = c.ws.Close()
}

// answer sends what the SDK asked for and returns the view that it now knows.
func (c *conn) answer(v *view, req request) (*view, error) {
	switch req.kind {
	case protocol.TypePing:
		return v, c.send(c.relay.pong, len(protocol.PongFrame))
	case protocol.TypeEcho:
		text, err := json.Marshal(protocol.Envelope{MessageType: protocol.TypeEcho, Data: req.data})
		if err != nil {
			return v, err
		}
		return v, c.sendText(text)
	}
	c.relay.counters.syncs.Add(1)
	if c.cred.kind == client {
		return c.answerClient(req)
	}
	if req.cursor == 0 {
		v = c.env.view.Load()
		c.synced, c.sent = true, v.hwm
		frame, err := v.full()
		if err != nil {
			return v, err
		}
		return v, c.send(frame, v.size())
	}
	v = c.env.claim(req.cursor)
	c.synced, c.sent = true, req.cursor
	if len(v.after(req.cursor)) == 0 {
		c.sent = v.hwm
		return v, c.send(c.relay.emptyPatch, 0)
	}
	// Several items in one patch are what official SDKs lose items by: they
	// compare each with one version for all. So they get one after the other.
	return v, c.push(v)
}

// push sends everything of v that the SDK has not got yet. Entries of equal
// version travel together; the second would look old if it came later. An SDK
// that asked for whole patches gets all of it in one message.
func (c *conn) push(v *view) error {
	for rest := v.after(c.sent); len(rest) > 0; {
		select {
		case <-c.leaving:
			return errLeaving
		case <-c.done:
			return nil
		default:
		}
		n := 1
		if c.whole {
			n = len(rest)
		}
		for n < len(rest) && rest[n].item.Version == rest[0].item.Version {
			n++
		}
		if err := c.sendEntries(rest[:n]); err != nil {
			return err
		}
		c.relay.counters.patches.Add(1)
		c.sent = rest[n-1].item.Version
		rest = rest[n:]
	}
	c.sent = v.hwm
	return nil
}

func (c *conn) sendEntries(entries []*entry) error {
	if len(entries) > 1 {
		return c.sendText(encode(wire.Patch, entries))
	}
	m, err := entries[0].message()
	if err != nil {
		return err
	}
	return c.send(m, len(entries[0].item.Data))
}

func (c *conn) send(m *websocket.PreparedMessage, size int) error {
	c.expectWrite(size)
	return c.ws.WritePreparedMessage(m)
}

func (c *conn) sendText(text []byte) error {
	c.expectWrite(len(text))
	return c.ws.WriteMessage(websocket.TextMessage, text)
}

func (c *conn) expectWrite(size int) {
	_ = c.ws.SetWriteDeadline(time.Now().Add(c.relay.cfg.WriteTimeout + time.Duration(size)*time.Second/slowestRate))
}

// sendClose starts the closing handshake. The SDK's answer, or its silence,
// ends read.
func (c *conn) sendClose(code int, reason string) {
	c.closing.Store(true)
	deadline := time.Now().Add(closeGrace)
	_ = c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason), deadline)
	_ = c.ws.SetReadDeadline(deadline)
}

func (r *Relay) unavailable(w http.ResponseWriter) {
	r.counters.refused.Add(1)
	w.Header().Set("Retry-After", retryAfter)
	http.Error(w, "no data yet", http.StatusServiceUnavailable)
}

// size is roughly the length of the full document.
func (v *view) size() int {
	n := 0
	for _, e := range v.entries {
		n += len(e.item.Data)
	}
	return n
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
