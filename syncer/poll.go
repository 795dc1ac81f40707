package syncer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
)

// A Poll says when FeatBit is polled over HTTP instead of being listened to.
type Poll uint8

// The ways to poll. FeatBit's HTTP side takes a revoked secret, too, so a syncer
// that polls is never refused for good.
const (
	PollFallback Poll = iota // while streams do not get through, though somebody answers; streams are tried all the time
	PollNever                // never
	PollAlways               // always; no stream is tried
)

// The values of Status.Transport.
const (
	TransportStream = "stream"
	TransportPoll   = "poll"
	TransportStore  = "store"
)

// pollAfter is how many attempts in a row must have reached somebody without
// opening a stream.
const pollAfter = 3

// pollUntil polls until ctx ends.
func (e *environment) pollUntil(ctx context.Context) {
	cfg := &e.syncer.cfg
	client := cfg.httpClient()
	var number uint64 // of the series of polls without an error; 0: none
	failures := 0
	everything := false // was asked for by the manager
	for {
		if number == 0 {
			number = e.next()
		}
		wait, err := e.pollOnce(ctx, client, number, everything)
		everything = false
		if ctx.Err() != nil {
			return
		}
		pauseFor := around(cfg.PollInterval)
		if err != nil {
			failures++
			e.syncer.update(func(_ *Status, h *health) { h.lost, h.linkErr = max(h.lost, number), err })
			number = 0
			pauseFor = max(wait, min(pauseFor, jitter(failures-1, cfg.BackoffMin, cfg.BackoffMax)))
		} else {
			failures = 0
		}
		t := time.NewTimer(pauseFor)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-e.manager.resync:
			everything = err == nil
		case <-t.C:
		}
		t.Stop()
	}
}

// pollOnce asks for what is new. With an error it returns what pause the server
// wants, if it says so.
func (e *environment) pollOnce(ctx context.Context, client *http.Client, number uint64, everything bool) (time.Duration, error) {
	cfg := &e.syncer.cfg
	cursor := int64(0)
	if !everything {
		var err error
		if cursor, err = e.manager.begin(ctx, number); err != nil {
			return 0, err
		}
	}
	callCtx, cancel := context.WithTimeout(ctx, cfg.DialTimeout+cfg.ReadTimeout)
	defer cancel()
	where := httpURL(e.syncer.base.String(), protocol.LatestAllPath)
	req, err := http.NewRequestWithContext(callCtx, http.MethodGet, fmt.Sprintf("%s?timestamp=%d", where, cursor), nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", string(cfg.Secret))
	req.Header.Set("User-Agent", protocol.UserAgent)
	asked := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("cannot poll: %w", err)
	}
	defer resp.Body.Close()
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return 0, fmt.Errorf("%s refused the secret: it answered %s", where, resp.Status)
	case code == http.StatusTooManyRequests, code >= 500:
		return retryAfter(resp), fmt.Errorf("%s is not ready: it answered %s", where, resp.Status)
	default:
		return 0, fmt.Errorf("%s: %w: it answered %s", where, ErrNotFeatBit, resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, cfg.MaxMessage+1))
	switch {
	case err != nil:
		return 0, fmt.Errorf("cannot poll: %w", err)
	case int64(len(body)) > cfg.MaxMessage:
		return 0, fmt.Errorf("%s answered with more than %d bytes", where, cfg.MaxMessage)
	}
	doc := wire.DataSync{EventType: wire.Patch} // nothing is new
	switch empty := len(bytes.TrimSpace(body)) == 0; {
	case empty && cursor == 0:
		return 0, fmt.Errorf("%s: %w: it answered nothing", where, ErrNotFeatBit)
	case !empty:
		if doc, err = wire.Parse(body); err != nil {
			e.ignored("answer to a poll", err)
			return 0, fmt.Errorf("%s: %w: %w", where, ErrNotFeatBit, err)
		}
		if cursor == 0 && doc.EventType != wire.Full {
			return 0, errors.New("a poll for everything was answered with a patch")
		}
	}
	for _, err := range doc.Skipped {
		e.ignored("item", err)
	}
	if err := e.manager.receive(ctx, delivery{doc, number}); err != nil {
		return 0, err
	}
	e.syncer.heard.Store(asked.UnixNano())
	e.syncer.update(func(st *Status, _ *health) { st.Transport = TransportPoll })
	return 0, nil
}
