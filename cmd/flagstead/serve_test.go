package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
)

// A serving is a serve process.
type serving struct {
	cmd   *exec.Cmd
	relay string // address
	admin string
	log   *buffer
	wait  func() error
}

// serveProcess starts flagstead serve in a process of its own and waits until it
// listens.
func serveProcess(t *testing.T, config string, env ...string) *serving {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &serving{cmd: exec.Command(exe, "serve", "--config", config, "--log-format", "json"), log: &buffer{}}
	s.cmd.Env = append(append(os.Environ(), "FLAGSTEAD_TEST_AS_MAIN=1"), env...)
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	listens := make(chan [2]string, 1)
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			fmt.Fprintln(s.log, lines.Text())
			var l struct{ Msg, Relay, Admin string }
			if json.Unmarshal(lines.Bytes(), &l) == nil && l.Msg == "serving" {
				listens <- [2]string{l.Relay, l.Admin}
			}
		}
	}()
	s.wait = sync.OnceValue(func() error {
		<-read
		return s.cmd.Wait()
	})
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		s.wait()
		if t.Failed() {
			t.Logf("log of serve:\n%s", s.log)
		}
	})
	select {
	case a := <-listens:
		s.relay, s.admin = a[0], a[1]
	case <-read:
		t.Fatalf("serve has ended: %v\n%s", s.wait(), s.log)
	case <-time.After(20 * time.Second):
		t.Fatalf("serve does not listen\n%s", s.log)
	}
	return s
}

// full returns the items that the relay gives to an SDK, or why it does not.
func (s *serving) full(secret relay.Secret) ([]store.Item, error) {
	ws, _, err := websocket.DefaultDialer.Dial("ws://"+s.relay+"/streaming?type=server&token="+protocol.Token(secret, time.Now()), nil)
	if err != nil {
		return nil, err
	}
	defer ws.Close()
	if err := ws.WriteMessage(websocket.TextMessage, protocol.DataSyncRequest(0)); err != nil {
		return nil, err
	}
	ws.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, text, err := ws.ReadMessage()
	if err != nil {
		return nil, err
	}
	doc, err := wire.Parse(text)
	return doc.Items, err
}

// platform is FeatBit with n flags of size bytes each.
func platform(t *testing.T, n, size int) (url string, secret relay.Secret, st *memory.Store, stop func()) {
	t.Helper()
	st = memory.New()
	t.Cleanup(func() { st.Close() })
	items := make([]store.Item, n)
	for i := range items {
		key := fmt.Sprintf("flag-%05d", i)
		items[i] = store.Item{Kind: store.Flag, Key: key, Version: int64(i + 1), Data: fmt.Appendf(nil,
			`{"key":%q,"updatedAt":%q,"isArchived":false,"description":%q}`, key, wire.FormatMillis(int64(i+1)), strings.Repeat("x", size))}
	}
	if _, err := st.Apply(t.Context(), store.Change{Full: true, Items: items}); err != nil {
		t.Fatal(err)
	}
	secret, err := protocol.NewSecret(protocol.NewEnvID())
	if err != nil {
		t.Fatal(err)
	}
	r, err := relay.New(relay.Config{Store: st, Secrets: []relay.Secret{secret}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	web := httptest.NewServer(r)
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		web.Close()
	})
	t.Cleanup(stop)
	until(t, "the platform is ready", r.Ready)
	return strings.Replace(web.URL, "http", "ws", 1), secret, st, stop
}

// TestServeAfterKill: a process that was killed serves again from its store although
// FeatBit is away.
func TestServeAfterKill(t *testing.T) {
	const flags = 10000
	url, secret, _, stop := platform(t, flags, 1800)
	dir := t.TempDir()
	config := filepath.Join(dir, "flagstead.yaml")
	text := fmt.Sprintf("featbit: {url: %q}\nrelay: {listen: '127.0.0.1:0'}\nadmin: {listen: '127.0.0.1:0'}\nstate: state\nenvironments:\n- name: web\n  secret: ${SECRET}\n  store: bolt:%s/web.db\n", url, dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serveProcess(t, config, "SECRET="+string(secret))
	until(t, "all flags are served", func() bool {
		items, err := s.full(secret)
		return err == nil && len(items) == flags
	})
	until(t, "in sync", func() bool { return strings.Contains(s.log.String(), `"state":"ok"`) })
	if err := s.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.wait()
	stop()
	began := time.Now()
	s = serveProcess(t, config, "SECRET="+string(secret))
	attempts := 0
	until(t, "served again", func() bool {
		attempts++
		items, err := s.full(secret)
		if websocket.IsCloseError(err, protocol.CloseInvalid) {
			t.Fatal("an SDK was sent away for good")
		}
		return err == nil && len(items) == flags
	})
	t.Logf("an SDK had all %d flags %v after the process was started (%d attempts)", flags, time.Since(began).Round(time.Millisecond), attempts)
}

// TestServe: reloading, the end, and what is in the log.
func TestServe(t *testing.T) {
	url, secret, st, _ := platform(t, 3, 10)
	dir := t.TempDir()
	config := filepath.Join(dir, "flagstead.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const head = "featbit: {url: '${URL}'}\nrelay: {listen: '127.0.0.1:0', drain: 50ms}\nadmin: {listen: '127.0.0.1:0'}\n"
	write(head + "environments: [{name: web, secret: '${SECRET}', store: 'memory:'}]\n")
	t.Setenv("URL", url)
	t.Setenv("SECRET", string(secret))
	if code, out, _ := call(t, "serve", "--config", config, "--check"); code != exitOK || !strings.Contains(out, "is right: 1 environment, a relay on 127.0.0.1:0") {
		t.Errorf("--check: %d %s", code, out)
	}
	s := serveProcess(t, config)
	until(t, "served", func() bool { items, err := s.full(secret); return err == nil && len(items) == 3 })

	write("environments: [}")
	s.cmd.Process.Signal(syscall.SIGHUP)
	until(t, "a wrong configuration is refused", func() bool { return strings.Contains(s.log.String(), "the configuration is wrong") })
	if items, err := s.full(secret); err != nil || len(items) != 3 {
		t.Errorf("with a wrong configuration: %d items, %v", len(items), err)
	}
	write(head + "environments: [{name: other, secret: '${SECRET}', store: 'bolt:" + dir + "/other.db'}]\n")
	s.cmd.Process.Signal(syscall.SIGHUP)
	until(t, "the configuration is read again", func() bool { return strings.Contains(s.log.String(), "the configuration was read again") })
	until(t, "served from another store", func() bool {
		_, err := os.Stat(filepath.Join(dir, "other.db"))
		items, failed := s.full(secret)
		return err == nil && failed == nil && len(items) == 3
	})
	// A deletion that FeatBit does not tell of is found on request.
	if _, err := st.Apply(t.Context(), store.Change{Full: true, Items: []store.Item{{Kind: store.Flag, Key: "only", Version: time.Now().UnixMilli(), Data: []byte(`{"key":"only"}`)}}}); err != nil {
		t.Fatal(err)
	}
	s.cmd.Process.Signal(syscall.SIGUSR1)
	until(t, "asked for everything", func() bool { return strings.Contains(s.log.String(), "asked FeatBit for everything") })
	s.cmd.Process.Signal(syscall.SIGTERM)
	if err := s.wait(); err != nil {
		t.Errorf("serve ended with %v", err)
	}
	log := s.log.String()
	for line := range strings.Lines(log) {
		if !json.Valid([]byte(line)) {
			t.Errorf("a line that is no JSON: %s", line)
		}
	}
	if strings.Contains(log, string(secret)) {
		t.Error("the secret is in the log")
	}
}

// TestServeSaysWhatIsWrong: a mistake in the file ends the program before it does
// anything, and names the place.
func TestServeSaysWhatIsWrong(t *testing.T) {
	config := filepath.Join(t.TempDir(), "c.yaml")
	for text, says := range map[string]string{
		"environments: []\n":        "there is nothing to do",
		"relays: {}\n":              "line 1: there is no setting relays here",
		"featbit: {url: '${NO}'}\n": "the environment variable NO is not set",
	} {
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		code, _, errOut := call(t, "serve", "--config", config)
		if code != exitFailure || !strings.Contains(errOut, says) || !strings.Contains(errOut, config) {
			t.Errorf("%q: %d %s, want %q", text, code, errOut, says)
		}
	}
	if code, _, errOut := call(t, "serve", "--config", "/nowhere/c.yaml"); code != exitFailure || !strings.Contains(errOut, "/nowhere/c.yaml") {
		t.Errorf("no file: %d %s", code, errOut)
	}
	if code, _, _ := call(t, "serve"); code != exitUsage {
		t.Errorf("no configuration: %d", code)
	}
}
