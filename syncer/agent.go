package syncer

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
)

// httpClient returns a client with cfg's ways to connect. It follows no redirect,
// which would take a secret elsewhere, and keeps no connection.
func (c *Config) httpClient() *http.Client {
	t := &http.Transport{Proxy: c.Proxy, DialContext: c.NetDial, DisableKeepAlives: true, ForceAttemptHTTP2: false}
	if c.TLS != nil {
		t.TLSClientConfig = c.TLS.Clone()
	} else {
		t.TLSClientConfig = &tls.Config{}
	}
	return &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// httpURL is the address of a path on FeatBit's HTTP side.
func httpURL(wsURL, path string) string {
	return "http" + strings.TrimPrefix(wsURL, "ws") + path
}

// maxRegisterPause is the longest time between two attempts to register. A quota
// that is used up may be raised.
const maxRegisterPause = 5 * time.Minute

// register announces the agent until FeatBit takes it or ctx ends.
func (p *Proxy) register(ctx context.Context) {
	client := p.conf.httpClient()
	for attempt := 0; ; attempt++ {
		wait, err := p.registerOnce(ctx, client)
		if ctx.Err() != nil {
			return
		}
		p.mu.Lock()
		said := text(p.status.RegisterErr)
		p.status.Registered, p.status.RegisterErr = err == nil, err
		p.mu.Unlock()
		if err == nil {
			p.conf.Logger.Info("registered with FeatBit", "agent", p.cfg.AgentID)
			return
		}
		if text(err) != said {
			p.conf.Logger.Warn("not registered with FeatBit; trying again", "agent", p.cfg.AgentID, "error", err)
		}
		if !pause(ctx, max(wait, jitter(attempt, p.cfg.registerPause, maxRegisterPause))) {
			return
		}
	}
}

// registerOnce returns, with an error, what pause the server wants, if it says so.
func (p *Proxy) registerOnce(ctx context.Context, client *http.Client) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, p.conf.DialTimeout)
	defer cancel()
	where := httpURL(p.base.String(), protocol.RegisterPath)
	body, err := json.Marshal(p.cfg.AgentID)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, where, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", string(p.cfg.Key))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", protocol.UserAgent)
	resp, err := client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("cannot register: %w", err)
	}
	defer resp.Body.Close()
	// The answer is the id, which is known.
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 4096))
	switch resp.StatusCode {
	case http.StatusOK:
		return 0, nil
	case http.StatusUnauthorized:
		return 0, errors.New("cannot register: FeatBit does not know the relay-proxy key (401)")
	case http.StatusForbidden:
		return 0, errors.New("cannot register: the workspace has as many agents as its license allows (403)")
	}
	return retryAfter(resp), fmt.Errorf("cannot register: %s answered %s", where, resp.Status)
}

// retryAfter is the pause that an answer asks for, within bounds.
func retryAfter(resp *http.Response) time.Duration {
	seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0
	}
	return min(time.Duration(min(seconds, 3600))*time.Second, maxRegisterPause)
}

// maxStatus bounds an agent's status, by cutting its list of environments: FeatBit's
// server loses messages above 8 KiB or of several frames, which ours have above the
// 4 KiB of the connection's buffer.
const maxStatus = 4000

// agentStatus returns the message that tells FeatBit how the agent stands.
func (p *Proxy) agentStatus(now time.Time) []byte {
	p.mu.Lock()
	st, version, synced := p.statusLocked(), p.version, p.synced
	p.mu.Unlock()
	state := map[State]string{Initializing: "Starting", OK: "Stable", Interrupted: "Interrupted", Off: "Stopped"}[st.State]
	var names []string
	for _, e := range st.Environments {
		if e.ProjectKey != "" && e.EnvKey != "" {
			names = append(names, e.ProjectKey+":"+e.EnvKey)
		} else {
			names = append(names, e.ID)
		}
	}
	type report struct {
		Serves      string  `json:"serves"`
		DataVersion *int64  `json:"dataVersion"`
		SyncState   string  `json:"syncState"`
		LastSynced  *string `json:"lastSyncedAt"`
		Reported    string  `json:"reportedAt"`
	}
	r := report{SyncState: state, Reported: now.UTC().Format(time.RFC3339)}
	if version > 0 {
		r.DataVersion = &version
	}
	if !synced.IsZero() {
		at := synced.UTC().Format(time.RFC3339)
		r.LastSynced = &at
	}
	type data struct {
		AgentID string `json:"agentId"`
		Status  string `json:"status"`
	}
	for n := len(names); ; n /= 2 {
		r.Serves = strings.Join(names[:n], ",")
		if n < len(names) {
			r.Serves += fmt.Sprintf(",and %d more", len(names)-n)
		}
		inner, _ := json.Marshal(r) // strings and numbers only
		b, _ := json.Marshal(map[string]any{
			"messageType": protocol.TypeAgentStatus,
			"data":        data{p.cfg.AgentID, string(inner)},
		})
		if len(b) <= maxStatus || n == 0 {
			return b
		}
	}
}
