package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/redistest"
)

// TestFailureTable goes through rows of the table in docs/operations.md with real
// parts, and looks at what it says that operators see.
func TestFailureTable(t *testing.T) {
	file := flagsFile(t)
	secret, err := protocol.NewSecret(protocol.NewEnvID())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	featbit := func(secret protocol.Secret) *background {
		b := start(t, "dev", file, "--addr", addr, "--secret", string(secret))
		b.says(t, "Point an SDK")
		return b
	}
	f := featbit(secret)
	srv := redistest.Start(t)
	config := filepath.Join(t.TempDir(), "flagstead.yaml")
	text := `{featbit: {url: "ws://` + addr + `"}, relay: {listen: "127.0.0.1:0"}, admin: {listen: "127.0.0.1:0"},
environments: [{name: prod, secret: ` + string(secret) + `, store: "` + srv.URL() + `"}]}`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b := start(t, "--log-format=json", "serve", "--config", config)
	admin := ""
	until(t, "serve says where it serves", func() bool {
		for line := range strings.Lines(b.err.String()) {
			var r struct{ Msg, Admin string }
			if json.Unmarshal([]byte(line), &r) == nil && r.Msg == "serving" {
				admin = "http://" + r.Admin
			}
		}
		return admin != ""
	})
	get := func(path string) (int, string) {
		resp, err := http.Get(admin + path)
		if err != nil {
			return 0, ""
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body)
	}
	// sees waits until all of what is wanted is measured, and looks at readiness.
	sees := func(row, ready string, want ...string) {
		t.Helper()
		until(t, row+": "+strings.Join(want, ", "), func() bool {
			_, text := get("/metrics")
			for _, w := range want {
				name, value, _ := strings.Cut(w, " ")
				if !regexp.MustCompile(`(?m)^` + name + `(\{env="prod"\})? ` + value + `$`).MatchString(text) {
					return false
				}
			}
			code, body := get("/health/readiness")
			return code == http.StatusOK && strings.TrimSpace(body) == ready
		})
	}
	sees("all is well", "Healthy", "flagstead_syncer_ok 1", "flagstead_relay_env_ready 1")
	srv.FlushAll(t)
	sees("Redis is flushed", "Healthy", "flagstead_syncer_heals_total 1", "flagstead_syncer_ok 1")
	srv.Stop(t)
	sees("Redis is down", "Degraded", "flagstead_relay_env_store_failing 1", "flagstead_relay_env_ready 1", "flagstead_syncer_ok 0")
	srv.Restart(t)
	sees("Redis is back", "Healthy", "flagstead_relay_env_store_failing 0", "flagstead_syncer_ok 1")
	f.stop()
	sees("FeatBit is down", "Healthy", "flagstead_syncer_ok 0", "flagstead_relay_env_ready 1", "flagstead_syncer_state 2")
	f = featbit(secret)
	sees("FeatBit is back", "Healthy", "flagstead_syncer_ok 1")
	if err := os.WriteFile(config, []byte(text+"nonsense: ["), 0o600); err != nil {
		t.Fatal(err)
	}
	sees("the configuration is broken", "Healthy", "flagstead_config_refused_total 1", "flagstead_syncer_ok 1")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f.stop()
	other, err := protocol.NewSecret(protocol.NewEnvID())
	if err != nil {
		t.Fatal(err)
	}
	featbit(other)
	sees("the secret is revoked", "Healthy", "flagstead_syncer_state 3", "flagstead_relay_env_ready 1")
	until(t, "the refusal is logged", func() bool { return strings.Contains(b.err.String(), "4003") })
	if code := b.stop(); code != exitOK {
		t.Errorf("status %d", code)
	}
}
