package fleet

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	serverSecret = "eWaefCV03kCUS-B_wfkK5wW62PD8vZn0ahZXCGdyiVDg"
	otherSecret  = "gpnOV3wI3kKAO9q9viC0wQWdKZrVAf2U6gAnxl4lSH3w"
)

func vars(m map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := m[name]; return v, ok }
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "prod.secret", serverSecret+"\n")
	path := write(t, dir, "flagstead.yaml", `
featbit: {url: "wss://featbit.example"}
relay: {listen: "${HOST:-127.0.0.1}:6100", drain: 20s, max-connections: "${MAX}"}
events: {spool: spool, max-size: 64MB}
metrics: {otlp: "https://collector.example", interval: 30s, headers: {api-key: "${KEY}", tenant: 7}}
defaults:
  store: "redis://${REDIS}/0?env={env}"
  reconcile: 10m
  history: 50
  guard: {max-removed: 40%, wait: 5s}
environments:
  - name: web & app
    secret-file: prod.secret
  - name: other
    secret: ${OTHER}
    store: bolt:///var/lib/{env}/{id}.db
    history: 0
    lease: true
`)
	c, err := Read(path, vars(map[string]string{"OTHER": otherSecret, "KEY": "1234", "REDIS": "localhost:6379", "MAX": "100", "HOST": ""}))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Complete(); err != nil {
		t.Fatal(err)
	}
	web, other := c.Environments[0], c.Environments[1]
	for _, check := range []struct {
		what      string
		got, want any
	}{
		{"listen", c.Relay.Listen, "127.0.0.1:6100"},
		{"connections", c.Relay.MaxConnections, 100},
		{"drain", time.Duration(c.Relay.Drain), 20 * time.Second},
		{"spool", c.Events.Spool, filepath.Join(dir, "spool")},
		{"size", int64(c.Events.MaxSize), int64(64 << 20)},
		{"admin", c.Admin.Listen, "127.0.0.1:6101"},
		{"collector", c.Metrics.OTLP, "https://collector.example"},
		{"interval", time.Duration(c.Metrics.Interval), 30 * time.Second},
		{"header", c.Metrics.Headers["api-key"], "1234"},
		{"plain header", c.Metrics.Headers["tenant"], "7"},
		{"web's id", web.id, "0f8fad5b-d9cb-469f-a165-70867728950e"},
		{"web's store", web.Store, "redis://localhost:6379/0?env=web+%26+app"},
		{"web's history", *web.History, 50},
		{"web's guard", float64(web.Guard.MaxRemoved), 0.4},
		{"web's poll", web.Poll, "fallback"},
		{"other's store", other.Store, "bolt:///var/lib/other/ad99d259-1f50-4ed9-a002-7c65e25487df.db"},
		{"other's history", *other.History, 0},
		{"other's lease", *other.Lease, true},
		{"other's reconcile", time.Duration(other.Reconcile), 10 * time.Minute},
	} {
		if check.got != check.want {
			t.Errorf("%s: got %v, want %v", check.what, check.got, check.want)
		}
	}
}

// TestReadSaysWhatIsWrong: every mistake has words of its own, and no secret is in
// any of them.
func TestReadSaysWhatIsWrong(t *testing.T) {
	const url = "featbit: {url: wss://featbit.example}\n"
	const store = "defaults: {store: 'redis://localhost/0?env={env}'}\n"
	for _, tc := range []struct{ name, text, says string }{
		{"nothing", "", "nothing to do"},
		{"a typo", url + "envrionments: []", "line 2: there is no setting envrionments here"},
		{"a typo inside", url + store + "environments:\n- name: a\n  secrets: " + serverSecret, "line 5: there is no setting secrets here"},
		{"wrong kind", "relay: {max-connections: many}", "line 1: a value of the wrong kind"},
		{"no YAML", "relay: [", "did not find"},
		{"twice", "relay: {}\nrelay: {}", "already defined"},
		{"a time", "relay: {drain: soon}", `"soon" is not a time`},
		{"a share", "defaults: {guard: {max-removed: 120%}}", `"120%" is not a share`},
		{"a size", "events: {max-size: big}", `"big" is not a size`},
		{"a variable", "featbit: {url: '${NOWHERE}'}", "line 1: the environment variable NOWHERE is not set"},
		{"no name", url + store + "environments: [{secret: " + serverSecret + "}]", "environments[0]: no name"},
		{"no secret", url + store + "environments: [{name: a}]", `environment "a": no secret`},
		{"bad secret", url + store + "environments: [{name: a, secret: very-secret-x}]", `environment "a": `},
		{"no file", url + store + "environments: [{name: a, secret-file: /nowhere/x}]", "secret-file: open /nowhere/x"},
		{"both", url + store + "environments: [{name: a, secret: " + serverSecret + ", secret-file: x}]", "secret and secret-file are both set"},
		{"no store", url + "environments: [{name: a, secret: " + serverSecret + "}]", "no store"},
		{"no source", store + "environments: [{name: a, secret: " + serverSecret + "}]", "no source"},
		{"same name", url + store + "environments: [{name: a, secret: " + serverSecret + "}, {name: a, secret: " + otherSecret + "}]", "two of this name"},
		{"same secret", url + store + "environments: [{name: a, secret: " + serverSecret + "}, {name: b, secret: " + serverSecret + "}]", `environment "b": environment "a" has the same secret`},
		{"same store", url + "defaults: {store: 'redis://:pass-word@localhost/0'}\nenvironments: [{name: a, secret: " + serverSecret + "}, {name: b, secret: " + otherSecret + "}]", "has the same store"},
		{"two environments", url + store + "environments: [{name: a, secret: " + serverSecret + ", client-secret: " + otherSecret + "}]", "its secrets are of different environments"},
		{"poll", url + store + "environments: [{name: a, poll: often, secret: " + serverSecret + "}]", `"often" is none of`},
		{"log format", "log: {format: xml}", `log.format: "xml"`},
		{"log level", "log: {level: loud}", `log.level: "loud"`},
		{"collector", "metrics: {otlp: collector}", "metrics.otlp: want http://HOST:PORT"},
		{"collector's port", "metrics: {otlp: 'collector:4318'}", "metrics.otlp: want http://HOST:PORT"},
		{"collector's user", "metrics: {otlp: 'http://me:pass-word@collector'}", "metrics.otlp: a user, a password"},
		{"collector's token", "metrics: {otlp: 'http://collector?token=pass-word'}", "metrics.otlp: a user, a password or a query"},
		{"interval", "metrics: {interval: 10ms}", "metrics.interval: 10ms is below 1s"},
		{"header", "metrics: {headers: {'api key': pass-word}}", `metrics.headers: "api key" is no name`},
		{"header's value", "metrics: {headers: {api-key: \"pass-word\\n\"}}", `metrics.headers: the value of "api-key" cannot`},
		{"headers", "metrics: {headers: pass-word}", "line 1: a value of the wrong kind"},
		{"headers' kind", "metrics: {headers: {api-key: [pass-word]}}", "line 1: a value of the wrong kind"},
		{"URL", "featbit: {url: featbit.example}\n" + store + "environments: [{name: a, secret: " + serverSecret + "}]", "featbit.url"},
		{"key", url + store + "relay-proxy: {key: " + serverSecret + "}", `begins with "rp-"`},
		{"mode", url + store + "relay-proxy: {key: rp-x, mode: magic}", `"magic" is neither auto nor manual`},
		{"manual", store + "relay-proxy: {key: rp-x, mode: manual}", "mode: manual needs relay.listen"},
		{"from itself", store + "environments: [{name: a, from: 'redis://localhost/0?env=a', secret: " + serverSecret + "}]", "from is its own store"},
		{"from and not", store + "environments: [{name: a, from: 'file:///x', sync: false}]", "contradict each other"},
		{"no key", url + store + "relay-proxy: {agent-id: a}", "relay-proxy: no key"},
		{"one store", url + "relay-proxy: {key: rp-x, store: 'redis://localhost/0'}", "one place for all"},
		{"relay without secret", "relay: {listen: ':1'}\n" + store + "environments: [{name: a, sync: false}]", "no secret that SDKs could use"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := Read(write(t, t.TempDir(), "c.yaml", tc.text), vars(nil))
			if err == nil {
				err = c.Complete()
			}
			if err == nil {
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%q does not say %q", err, tc.says)
			}
			for _, s := range []string{serverSecret, otherSecret, "very-secret-x", "pass-word"} {
				if strings.Contains(err.Error(), s) {
					t.Errorf("%q has a secret in it", err)
				}
			}
		})
	}
}
