package syncer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
)

func hostname() string {
	host, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return host
}

// refusedPause is the time between attempts to register that FeatBit refuses.
const refusedPause = 5 * time.Minute

// register makes the agent known to FeatBit, which shows its status then. It keeps
// nothing from working, so it is tried until it succeeds.
func (p *Proxy) register(ctx context.Context) {
	transport := &http.Transport{Proxy: p.sync.Proxy, DialContext: p.sync.NetDial, DisableKeepAlives: true}
	if p.sync.TLS != nil {
		transport.TLSClientConfig = p.sync.TLS.Clone()
	}
	web := &http.Client{Transport: transport, Timeout: p.sync.DialTimeout}
	for attempt := 0; ; attempt++ {
		final, err := p.registerOnce(ctx, web)
		p.mu.Lock()
		again := text(p.status.RegisterErr) == text(err)
		p.status.Registered, p.status.RegisterErr = err == nil, err
		p.mu.Unlock()
		if err == nil {
			p.log.Info("registered with FeatBit")
			return
		}
		if ctx.Err() != nil {
			return
		}
		if !again {
			p.log.Warn("FeatBit does not register this agent, which only it misses", "error", err)
		}
		wait := jitter(attempt, p.sync.BackoffMin, p.sync.BackoffMax)
		if final {
			wait = refusedPause
		}
		if !pause(ctx, wait) {
			return
		}
	}
}

func (p *Proxy) registerOnce(ctx context.Context, web *http.Client) (final bool, err error) {
	u := *p.base
	u.Scheme = strings.Replace(u.Scheme, "ws", "http", 1)
	u.Path += protocol.RegisterPath
	body, err := json.Marshal(p.cfg.AgentID)
	if err != nil {
		return true, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return true, err
	}
	req.Header.Set("Authorization", string(p.cfg.Key))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", protocol.UserAgent)
	resp, err := web.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 4<<10))
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
		return false, nil
	case code == http.StatusForbidden:
		return true, fmt.Errorf("%s answered %s: the quota of agents is used up", u.Redacted(), resp.Status)
	case code >= 400 && code < 500 && code != http.StatusRequestTimeout && code != http.StatusTooManyRequests:
		return true, fmt.Errorf("%s answered %s", u.Redacted(), resp.Status)
	}
	return false, fmt.Errorf("%s answered %s", u.Redacted(), resp.Status)
}

// report returns the message that tells FeatBit how this agent stands.
func (p *Proxy) report() []byte {
	st := p.Status()
	report := struct {
		Serves       string     `json:"serves"`
		DataVersion  int64      `json:"dataVersion"`
		SyncState    string     `json:"syncState"`
		LastSyncedAt *time.Time `json:"lastSyncedAt"`
		ReportedAt   time.Time  `json:"reportedAt"`
	}{SyncState: "Starting", ReportedAt: time.Now().UTC()}
	var names []string
	stable := st.Connected
	for _, e := range st.Environments {
		names = append(names, e.Name)
		stable = stable && e.Status.State == OK
		if at := e.Status.Confirmed; !at.IsZero() && (report.LastSyncedAt == nil || at.After(*report.LastSyncedAt)) {
			at = at.UTC()
			report.LastSyncedAt = &at
		}
	}
	for _, e := range p.ready() {
		report.DataVersion = max(report.DataVersion, e.manager.newest.Load())
	}
	report.Serves = strings.Join(names, ",")
	switch {
	case stable:
		report.SyncState = "Stable"
	case st.Fulls > 0:
		report.SyncState = "Interrupted"
	}
	return protocol.AgentStatus(p.cfg.AgentID, report)
}
