package syncer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
)

// An environment uses a link for the one environment of its secret.
type environment struct {
	syncer  *Syncer
	manager *manager
	link    *link
	numbers atomic.Uint64 // of connections, streams and polls

	ctx    context.Context    // of run
	poll   context.CancelFunc // ends polling; nil: it is not polled
	poller sync.WaitGroup
}

func newEnvironment(s *Syncer, m *manager) *environment {
	e := &environment{syncer: s, manager: m}
	e.link = &link{cfg: &s.cfg, base: s.base, name: s.env, user: e, next: e.next}
	return e
}

func (e *environment) request(now time.Time) (string, http.Header) {
	secret := e.syncer.cfg.Secret
	return protocol.StreamingURL(e.syncer.base, protocol.Token(secret, now)), http.Header{
		"User-Agent":    {protocol.UserAgent},
		"Authorization": {string(secret)},

		protocol.PatchesHeader: {protocol.WholePatches},
	}
}

func (e *environment) hint(dated bool) string {
	hint := "check that the secret is a server secret of an existing environment"
	if !dated {
		hint += fmt.Sprintf(", and that this host's clock is less than %d s off", int(protocol.TokenWindow.Seconds()))
	}
	return hint
}

func (e *environment) next() uint64 { return e.numbers.Add(1) }

// run keeps the stream, and polls while it is blocked, as the configuration has it.
func (e *environment) run(ctx context.Context) error {
	e.ctx = ctx
	defer e.poller.Wait()
	if e.syncer.cfg.Poll == PollAlways {
		e.pollUntil(ctx)
		return ctx.Err()
	}
	defer e.stopPolling()
	return e.link.run(ctx)
}

func (e *environment) connected(uint64) {
	e.stopPolling()
	e.syncer.update(func(st *Status, _ *health) { st.Connects++; st.Transport = TransportStream })
}

func (e *environment) ended(number uint64, err error) {
	e.syncer.update(func(_ *Status, h *health) {
		if h.up() && h.live > number {
			return // polls work
		}
		h.lost, h.linkErr = max(h.lost, number), err
	})
	if e.syncer.cfg.Poll == PollFallback && e.link.blocked >= pollAfter && e.poll == nil {
		e.syncer.cfg.Logger.Warn("polling, because the stream does not get through", "env", e.syncer.env, "error", err)
		var ctx context.Context
		ctx, e.poll = context.WithCancel(e.ctx)
		e.poller.Go(func() { e.pollUntil(ctx) })
	}
}

// stopPolling ends polling, if that is under way: what a poll says from now on is
// too late.
func (e *environment) stopPolling() {
	if e.poll != nil {
		e.poll()
		e.poller.Wait()
		e.poll = nil
	}
}

func (e *environment) skewed(by time.Duration) {
	e.syncer.update(func(st *Status, _ *health) { st.ClockSkew = by })
}

func (e *environment) heard(uint64) { e.syncer.heard.Store(time.Now().UnixNano()) }

func (e *environment) ignored(what string, err error) {
	e.syncer.update(func(st *Status, _ *health) { st.Ignored++ })
	e.syncer.cfg.Logger.Warn("ignored "+what, "env", e.syncer.env, "error", err)
}

func send(conn *websocket.Conn, frame []byte) error {
	conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	return conn.WriteMessage(websocket.TextMessage, frame)
}

// write asks for data, then pings, and asks again when the manager wants
// everything.
func (e *environment) write(ctx context.Context, conn *websocket.Conn, number uint64) error {
	cfg := &e.syncer.cfg
	cursor, err := e.manager.begin(ctx, number)
	if err != nil {
		return err
	}
	if err := send(conn, protocol.DataSyncRequest(cursor)); err != nil {
		return err
	}
	ping := time.NewTicker(cfg.Ping)
	defer ping.Stop()
	// The server never says no: an answer that does not come is the only sign
	// of trouble on its side.
	answer := time.NewTimer(cfg.answerTimeout)
	defer answer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ping.C:
			err = send(conn, protocol.PingFrame)
		case <-e.manager.resync:
			err = send(conn, protocol.DataSyncRequest(0))
			answer.Reset(cfg.answerTimeout)
		case <-e.manager.answered:
			answer.Stop()
		case <-answer.C:
			if e.link.reading.Load() {
				// It may be the answer, on a slow line. If the line is dead, the
				// read ends.
				answer.Reset(min(time.Second, cfg.answerTimeout))
				continue
			}
			err = errors.New("the server does not answer data-sync requests")
		}
		if err != nil {
			return err
		}
	}
}

func (e *environment) dataSync(ctx context.Context, data json.RawMessage, number uint64) error {
	doc, err := wire.ParsePayload(data)
	if err != nil {
		e.ignored("data-sync message", err)
		e.manager.suspect()
		return nil
	}
	for _, err := range doc.Skipped {
		e.ignored("item", err)
	}
	return e.manager.receive(ctx, delivery{doc, number})
}
