package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/redistest"
)

// records parses what was logged as JSON, and fails t if a line is something else.
func records(t *testing.T, text string) (all []map[string]any) {
	t.Helper()
	for line := range strings.Lines(text) {
		var r map[string]any
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Errorf("not a JSON object: %q", line)
			continue
		}
		at, _ := r["time"].(string)
		if _, err := time.Parse(time.RFC3339Nano, at); err != nil || r["level"] == nil || r["msg"] == "" {
			t.Errorf("record %q", line)
		}
		all = append(all, r)
	}
	return all
}

// leaks returns what of secrets is in a text: whole, or, as in a token, which is the
// secret with the time written into it, in pieces of 16 characters.
func leaks(text string, secrets ...string) (found []string) {
	const piece = 16
	for _, s := range secrets {
		for i := 0; i == 0 || i+piece <= len(s); i++ {
			if part := s[i:min(i+piece, len(s))]; strings.Contains(text, part) {
				found = append(found, part)
			}
		}
	}
	return found
}

func TestLeaksFindsTokens(t *testing.T) {
	secret, err := protocol.NewSecret(protocol.NewEnvID())
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if len(leaks("ws://h/streaming?token="+protocol.Token(secret, time.Now()), string(secret))) == 0 {
			t.Fatal("a token was not found")
		}
	}
	if got := leaks("nothing", string(secret), "pw"); got != nil {
		t.Error(got)
	}
}

// TestNothingSecretIsPrinted runs the commands that run for long, and doctor,
// through failures, at the most talkative, and looks for what must not be printed.
func TestNothingSecretIsPrinted(t *testing.T) {
	const user, password = "user-4711@example.com", "correct-horse-battery"
	file := flagsFile(t)
	secret, err := protocol.NewSecret(protocol.NewEnvID())
	if err != nil {
		t.Fatal(err)
	}
	other, err := protocol.NewSecret(protocol.NewEnvID())
	if err != nil {
		t.Fatal(err)
	}
	hidden := []string{string(secret), string(other), user, password}
	talk := []string{"--log-format=json", "--log-level=debug"}
	check := func(name, out, errOut string) {
		t.Helper()
		if found := leaks(out+errOut, hidden...); found != nil {
			t.Errorf("%s printed %q:\n%s%s", name, found, out, errOut)
		}
	}

	// A relay, with clients that do everything wrong.
	d := start(t, append(talk, "dev", file, "--addr", "127.0.0.1:0", "--secret", string(secret))...)
	d.says(t, "Point an SDK")
	u := ""
	for line := range strings.Lines(d.out.String()) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "streaming" {
			u = f[1]
		}
	}
	web := strings.Replace(u, "ws://", "http://", 1)
	for _, token := range []string{protocol.Token(other, time.Now()), protocol.Token(secret, time.Now().Add(-time.Hour)), protocol.Token(secret, time.Now()), string(secret)} {
		conn, _, err := websocket.DefaultDialer.Dial(u+"/streaming?type=server&token="+token, nil)
		if err != nil {
			continue
		}
		conn.WriteMessage(websocket.TextMessage, []byte(`{"messageType":"data-sync","data":{"user":{"keyId":"`+user+`"},"timestamp":0}}`))
		conn.WriteMessage(websocket.TextMessage, []byte(`no JSON `+user+string(secret)))
		conn.SetReadDeadline(time.Now().Add(time.Second))
		conn.ReadMessage()
		conn.Close()
	}
	for _, body := range []string{`[{"user":{"keyId":"` + user + `"},"variations":[]}]`, `[{"user":"` + user + `"}]`, user} {
		for _, key := range []string{string(secret), string(other)} {
			req, err := http.NewRequest(http.MethodPost, web+protocol.InsightPath, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", key)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
	}
	if err := os.WriteFile(file, []byte("{\n nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "the broken file is logged", func() bool { return strings.Contains(d.err.String(), "line 2, column") })

	// A syncer that works, whose store and whose FeatBit fail.
	srv := redistest.StartWith(t, redistest.Options{Password: password})
	place := strings.Replace(srv.URL(), "redis://", "redis://:"+password+"@", 1)
	good := start(t, append(talk, "sync", place, "--wait", "--url", u, "--secret", string(secret))...)
	good.says(t, "in sync")
	srv.Stop(t)
	until(t, "the store's failure is printed", func() bool { return strings.Contains(good.out.String(), "interrupted") })
	d.stop()
	until(t, "the loss of FeatBit is logged", func() bool {
		return strings.Contains(good.err.String(), "connection") || strings.Contains(good.err.String(), "cannot connect")
	})
	good.stop()
	for name, b := range map[string]*background{"dev": d, "sync": good} {
		check(name, b.out.String(), b.err.String())
		if len(records(t, b.err.String())) == 0 {
			t.Errorf("%s logged nothing at debug", name)
		}
	}

	// Commands that end because of something.
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	fine := flagsFile(t)
	again := start(t, "dev", fine, "--addr", "127.0.0.1:0", "--secret", string(secret))
	again.says(t, "Point an SDK")
	for line := range strings.Lines(again.out.String()) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "streaming" {
			u = f[1]
		}
	}
	host := strings.TrimPrefix(u, "ws://")
	bolt := "bolt://" + filepath.Join(t.TempDir(), "x.db")
	serveQuietly(t, hidden, u, closed.Addr().String(), secret, other, password, user)
	for name, args := range map[string][]string{
		"wrong secret":            {"sync", bolt, "--url", u, "--secret", string(other)},
		"refused":                 {"sync", bolt, "--url", "ws://" + closed.Addr().String(), "--secret", string(secret)},
		"password in the URL":     {"sync", bolt, "--url", "ws://me:" + password + "@" + host, "--secret", string(secret)},
		"token in the URL":        {"sync", bolt, "--url", u + "/?token=" + string(secret), "--secret", string(secret)},
		"secret as the URL":       {"sync", bolt, "--url", string(secret), "--secret", string(secret)},
		"URL that does not parse": {"sync", bolt, "--url", "ws://me:" + password + "@h:port", "--secret", string(secret)},
		"store is down":           {"sync", "redis://:" + password + "@" + closed.Addr().String(), "--url", u, "--secret", string(secret)},
		"store does not parse":    {"sync", "redis://:" + password + "/x@" + closed.Addr().String(), "--url", u, "--secret", string(secret)},
		"unknown store":           {"sync", "mysql://me:" + password + "@h/db", "--url", u, "--secret", string(secret)},
		"secret cut off":          {"sync", bolt, "--url", u, "--secret", string(secret)[:30]},
		"sentinel password":       {"sync", "redis+sentinel://" + closed.Addr().String() + "?master=m&sentinel_password=" + password, "--url", u, "--secret", string(secret), "--start", "2s"},
		"dev with a bad secret":   {"dev", fine, "--addr", "127.0.0.1:0", "--secret", string(secret)[:30]},
		"doctor, wrong secret":    {"doctor", "redis://:" + password + "@" + closed.Addr().String(), "--url", u, "--secret", string(other)},
		"doctor, sentinel":        {"doctor", "redis+sentinel://" + closed.Addr().String() + "?master=m&sentinel_password=" + password, "--timeout", "1s"},
		"doctor, bad URLs":        {"doctor", "redis://:" + password + "/x@h", "--url", "ws://me:" + password + "@h:port", "--secret", string(secret)[:30]},
	} {
		code, out, errOut := call(t, append(talk, args...)...)
		if code == 0 {
			t.Errorf("%s: status 0", name)
		}
		check(name, out, errOut)
		if all := records(t, errOut); args[0] != "doctor" && (len(all) == 0 || all[len(all)-1]["error"] == nil || all[len(all)-1]["level"] != "ERROR") {
			t.Errorf("%s: the last record is no error: %s", name, errOut)
		}
	}
}

// serveQuietly runs serve with an environment that works, one whose secret is wrong
// and one whose store is down, and looks at all that it shows.
func serveQuietly(t *testing.T, hidden []string, u, closed string, secret, other protocol.Secret, password, user string) {
	t.Helper()
	t.Setenv("DOCTOR_TEST_SECRET", string(other))
	third, err := protocol.NewSecret(protocol.NewEnvID())
	if err != nil {
		t.Fatal(err)
	}
	hidden = append(hidden, string(third))
	config := filepath.Join(t.TempDir(), "flagstead.yaml")
	text := `featbit: {url: ` + u + `}
relay: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
metrics: {otlp: "http://` + closed + `", interval: 1s, headers: {api-key: ` + password + `}}
environments:
  - {name: good, secret: ` + string(secret) + `, store: "memory:"}
  - {name: wrong, secret: "${DOCTOR_TEST_SECRET}", store: "memory:"}
  - {name: down, secret: ` + string(third) + `, store: "redis://me:` + password + `@` + closed + `"}
`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b := start(t, "--log-format=json", "--log-level=debug", "serve", "--config", config)
	front, admin := "", ""
	until(t, "serve says where it serves", func() bool {
		for line := range strings.Lines(b.err.String()) {
			var r struct{ Msg, Relay, Admin string }
			if json.Unmarshal([]byte(line), &r) == nil && r.Msg == "serving" {
				front, admin = r.Relay, r.Admin
			}
		}
		return front != "" && strings.Contains(b.err.String(), "4003") && strings.Contains(b.err.String(), "items")
	})
	for _, token := range []string{protocol.Token(other, time.Now()), protocol.Token(secret, time.Now()), "junk" + user} {
		conn, _, err := websocket.DefaultDialer.Dial("ws://"+front+"/streaming?type=client&token="+token, nil)
		if err != nil {
			continue
		}
		conn.WriteMessage(websocket.TextMessage, []byte(`{"messageType":"data-sync","data":{"user":{"keyId":"`+user+`"},"timestamp":0}}`))
		conn.SetReadDeadline(time.Now().Add(time.Second))
		conn.ReadMessage()
		conn.Close()
	}
	shown := ""
	for _, path := range []string{"/status", "/metrics", "/health/readiness"} {
		resp, err := http.Get("http://" + admin + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || len(body) == 0 {
			t.Errorf("%s: %v", path, err)
		}
		shown += string(body)
	}
	if err := os.WriteFile(config, []byte(text+"  - {name: bad, secret: "+string(secret)[:20]+", store: x}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "the bad configuration is logged", func() bool { return strings.Contains(b.err.String(), "configuration is wrong") })
	b.stop()
	shown += b.out.String() + b.err.String()
	if found := leaks(shown, hidden...); found != nil {
		t.Errorf("serve showed %q:\n%s", found, shown)
	}
	records(t, b.err.String())
}

// TestLogOptions: what is logged without a wish, and with each.
func TestLogOptions(t *testing.T) {
	u, _ := dev(t, flagsFile(t))
	other, err := protocol.NewSecret(protocol.NewEnvID())
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"sync", "bolt://" + filepath.Join(t.TempDir(), "x.db"), "--url", u, "--secret", string(other)}
	for _, tc := range []struct {
		options   []string
		info, end string // in stderr; info is not if it is empty
	}{
		{nil, "", "flagstead: ws://"},
		{[]string{"-v"}, "level=INFO msg=\"syncer state\"", "flagstead: ws://"},
		{[]string{"--log-level=info"}, "level=INFO msg=\"syncer state\"", "flagstead: ws://"},
		{[]string{"--log-level=error", "-v"}, "", "flagstead: ws://"},
		{[]string{"--log-format=json"}, `"level":"INFO","msg":"syncer state"`, `"msg":"flagstead ends","error":"ws://`},
		{[]string{"--log-format=json", "--log-level=warn"}, "", `"msg":"flagstead ends"`},
	} {
		_, _, errOut := call(t, append(tc.options, args...)...)
		if strings.Contains(errOut, "syncer state") != (tc.info != "") || !strings.Contains(errOut, tc.info) || !strings.Contains(errOut, tc.end) {
			t.Errorf("%v: %s", tc.options, errOut)
		}
	}
	for _, bad := range []string{"--log-level=loud", "--log-format=xml"} {
		if code, _, errOut := call(t, append([]string{bad}, args...)...); code != exitUsage || !strings.Contains(errOut, "must be one of") {
			t.Errorf("%s: status %d, %s", bad, code, errOut)
		}
	}
	t.Setenv("FLAGSTEAD_LOG_FORMAT", "json")
	t.Setenv("FLAGSTEAD_LOG_LEVEL", "error")
	_, _, errOut := call(t, args...)
	if all := records(t, errOut); len(all) != 1 {
		t.Errorf("by the environment: %s", errOut)
	}
}

func TestRedact(t *testing.T) {
	for text, want := range map[string]string{
		"redis://u:pw@h:1/0?env=a":                             "redis://u:xxxxx@h:1/0?env=a",
		"redis+sentinel://h:1?master=m&sentinel_password=pw":   "redis+sentinel://h:1?master=m&sentinel_password=xxxxx",
		"redis+sentinel://h:1?sentinel%5Fpassword=pw&master=m": "redis+sentinel://h:1?sentinel%5Fpassword=xxxxx&master=m",
		"redis+sentinel://:pw@h1:26379,h2:26379/0?master=m":    "redis+sentinel://:xxxxx@h1:26379,h2:26379/0?master=m",
		"ws://h?TOKEN=pw":          "ws://h?TOKEN=xxxxx",
		"bolt:///var/lib/flags.db": "bolt:///var/lib/flags.db",
		"redis://u:pw@h:notaport":  "(not a URL)",
	} {
		if got := redact(text); got != want {
			t.Errorf("redact(%q) = %q, want %q", text, got, want)
		}
	}
}
