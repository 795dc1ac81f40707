package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/flagstead/flagstead/examples/sample"
	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/syncer"
)

// TestMain makes the test binary act as flagstead when the variable is set, so
// that the demo's processes are real ones.
func TestMain(m *testing.M) {
	if os.Getenv("FLAGSTEAD_TEST_AS_MAIN") != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// buffer is a bytes.Buffer that may be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) { b.mu.Lock(); defer b.mu.Unlock(); return b.b.Write(p) }
func (b *buffer) String() string              { b.mu.Lock(); defer b.mu.Unlock(); return b.b.String() }

// call runs the program to its end.
func call(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var o, e buffer
	code = run(ctx, args, strings.NewReader(""), &o, &e)
	return code, o.String(), e.String()
}

// background runs the program until the test ends.
type background struct {
	out, err *buffer
	done     chan int
	stop     func() int
}

func start(t *testing.T, args ...string) *background {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	b := &background{out: &buffer{}, err: &buffer{}, done: make(chan int, 1)}
	go func() { b.done <- run(ctx, args, strings.NewReader(""), b.out, b.err) }()
	var once sync.Once
	code := 0
	b.stop = func() int {
		once.Do(func() { cancel(); code = <-b.done })
		return code
	}
	t.Cleanup(func() { b.stop() })
	return b
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("never happened: %s", what)
		case <-tick.C:
		}
	}
}

func (b *background) says(t *testing.T, text string) {
	t.Helper()
	until(t, "the program prints "+text+"; it printed "+b.out.String()+b.err.String(), func() bool { return strings.Contains(b.out.String(), text) })
}

func flagsFile(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "flags.json")
	if err := os.WriteFile(name, sample.Flags, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// dev starts a dev server and returns its URL and secret.
func dev(t *testing.T, file string) (url, secret string) {
	t.Helper()
	b := start(t, "dev", file, "--addr", "127.0.0.1:0")
	b.says(t, "Point an SDK")
	for _, line := range strings.Split(b.out.String(), "\n") {
		switch fields := strings.Fields(line); {
		case len(fields) == 2 && fields[0] == "streaming":
			url = fields[1]
		case len(fields) == 2 && fields[0] == "secret":
			secret = fields[1]
		}
	}
	if url == "" || secret == "" {
		t.Fatalf("dev printed %q", b.out.String())
	}
	return url, secret
}

// TestBadInput: one clear sentence on stderr, a status that is not 0, and
// nothing is changed.
func TestBadInput(t *testing.T) {
	file := flagsFile(t)
	url, secret := dev(t, file)
	broken := filepath.Join(t.TempDir(), "broken.json")
	if err := os.WriteFile(broken, []byte("{\n  \"messageType\": \"data-sync\",\n  oops\n}"), 0o600); err != nil {
		t.Fatal(err)
	}
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	silent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	defer silent.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	other, err := protocol.NewSecret(protocol.NewEnvID())
	if err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(empty, []byte(" \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(t.TempDir(), "list.json")
	if err := os.WriteFile(list, []byte("[]"), 0o600); err != nil {
		t.Fatal(err)
	}
	oddFlag := filepath.Join(t.TempDir(), "odd.json")
	text := strings.Replace(string(sample.Flags), `"featureFlags": [`, `"featureFlags": [{"id":"1","key":"odd","variations":"none","isEnabled":true},`, 1)
	if err := os.WriteFile(oddFlag, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	mute, _ := muteServer(t)
	host := strings.TrimPrefix(url, "ws://")
	dir := t.TempDir()
	bolt := "bolt://" + filepath.Join(dir, "x.db")

	for name, tc := range map[string]struct {
		args []string
		want string
		code int
	}{
		"sync: wrong secret":        {[]string{"sync", bolt, "--url", url, "--secret", string(other)}, "refused the connection (4003)", 1},
		"sync: secret with hyphen":  {[]string{"sync", bolt, "--url", url, "--secret", "-asoDGpITS0u8o8bKrYI8gNimNX3DiaUWbVQ5tPEycLg"}, "refused the connection (4003)", 1},
		"sync: secret of no form":   {[]string{"sync", bolt, "--url", url, "--secret", "hunter2"}, "environment secret has 7 characters", 1},
		"sync: nobody there":        {[]string{"sync", bolt, "--url", "ws://" + closed.Addr().String(), "--secret", secret}, "connection refused", 1},
		"sync: not FeatBit":         {[]string{"sync", bolt, "--url", web.URL, "--secret", secret}, "not a FeatBit evaluation server: it answered 404", 1},
		"sync: FeatBit not ready":   {[]string{"sync", bolt, "--url", silent.URL, "--secret", secret}, "is not ready: it answered 503", 1},
		"sync: unknown store":       {[]string{"sync", "mysql://u:hunter2@h/db", "--url", url, "--secret", secret}, "unknown kind of store", 1},
		"sync: no URL":              {[]string{"sync", bolt}, "no FeatBit URL", 1},
		"sync: no secret":           {[]string{"sync", bolt, "--url", url}, "no secret", 1},
		"sync: host in a file path": {[]string{"sync", "bolt://tmp/x.db", "--url", url, "--secret", secret}, "three slashes", 1},
		"sync: Redis is down":       {[]string{"sync", "redis://u:hunter2@" + closed.Addr().String(), "--url", url, "--secret", secret}, "store redis://", 1},
		"dev: broken file":          {[]string{"dev", broken}, "line 3, column", 1},
		"dev: missing file":         {[]string{"dev", filepath.Join(dir, "none.json")}, "no such file", 1},
		"dev: port in use":          {[]string{"dev", file, "--addr", busy.Addr().String()}, "is in use by another program", 1},
		"dev: secret of no form":    {[]string{"dev", file, "--secret", "hunter2"}, "environment secret", 1},
		"eval: no user":             {[]string{"eval", "--file", file}, "no user", 1},
		"eval: no flags":            {[]string{"eval", "-u", "ann"}, "give --store, --file or --url", 1},
		"eval: broken file":         {[]string{"eval", "--file", broken, "-u", "ann"}, "line 3, column", 1},
		"eval: unknown flag":        {[]string{"eval", "nope", "--file", file, "-u", "ann"}, `there is no flag "nope"`, 1},
		"eval: unknown store":       {[]string{"eval", "--store", "ftp://x/y", "-u", "ann"}, "unknown kind of store", 1},
		"eval: Redis is down":       {[]string{"eval", "--store", "redis://u:hunter2@" + closed.Addr().String(), "-u", "ann", "--wait", "300ms"}, "within 300ms: redis: ", 1},
		"eval: empty store":         {[]string{"eval", "--store", bolt, "-u", "ann", "--wait", "50ms"}, "has a syncer written to it?", 1},
		"eval: wrong secret":        {[]string{"eval", "--url", url, "--secret", string(other), "-u", "ann"}, "refused the connection (4003)", 1},
		"eval: bad user":            {[]string{"eval", "--file", file, "--user-json", "{"}, "user is not a JSON object", 1},
		"verify: no file":           {[]string{"verify", filepath.Join(dir, "none.json")}, "no such file", 1},
		"verify: broken file":       {[]string{"verify", broken}, "line 3, column", 1},
		"verify: other file":        {[]string{"verify", file}, "not a file of cases", 1},
		"two sources":               {[]string{"eval", "-u", "a", "--store", bolt, "--url", url}, "--store and --url can't be used together", 2},
		"file and URL":              {[]string{"watch", "--file", file, "--url", url}, "--file and --url can't be used together", 2},
		"store and file":            {[]string{"watch", "--file", file, "--store", bolt}, "--store and --file can't be used together", 2},
		"two secrets":               {[]string{"sync", bolt, "--url", url, "--secret", secret, "--secret-file", empty}, "--secret and --secret-file can't be used together", 2},
		"empty secret file":         {[]string{"sync", bolt, "--url", url, "--secret-file", empty}, "secret file " + empty + " is empty", 1},
		"sync: 4003 names the URL":  {[]string{"sync", bolt, "--url", url, "--secret", string(other)}, url + ": FeatBit refused", 1},
		"URL: no scheme":            {[]string{"eval", "-u", "a", "--url", host, "--secret", secret}, "--url: put ws:// or http:// before the address", 1},
		"URL: host alone":           {[]string{"sync", bolt, "--url", "featbit.example", "--secret", secret}, "--url: put ws:// or http:// before the address", 1},
		"URL: other scheme":         {[]string{"eval", "-u", "a", "--url", "redis://" + host, "--secret", secret}, "redis:// is not for FeatBit", 1},
		"URL: query":                {[]string{"sync", bolt, "--url", url + "/?token=" + secret, "--secret", secret}, "must end before the ?", 1},
		"URL: password":             {[]string{"watch", "--url", "ws://u:hunter2@" + host, "--secret", secret}, "must not have a user or a password", 1},
		"URL: port":                 {[]string{"watch", "--url", "ws://u:hunter2@h:port", "--secret", secret}, "the port is not a number", 1},
		"URL: no host":              {[]string{"watch", "--url", "ws://", "--secret", secret}, "has no host", 1},
		"store URL: port":           {[]string{"eval", "-u", "a", "--store", "redis://127.0.0.1:notaport"}, "the port is not a number", 1},
		"store URL: password":       {[]string{"eval", "-u", "a", "--store", "redis://u:hunter2@h:notaport"}, "the port is not a number", 1},
		"eval: missing file":        {[]string{"eval", "-u", "a", "--file", filepath.Join(dir, "none.json")}, "flagstead: open " + filepath.Join(dir, "none.json"), 1},
		"eval: a list":              {[]string{"eval", "-u", "a", "--file", list}, list + ": not a FeatBit data-sync document: it is a JSON array", 1},
		"watch: missing file":       {[]string{"watch", "--file", filepath.Join(dir, "none.json")}, "no such file", 1},
		"watch: a list":             {[]string{"watch", "--file", list}, "it is a JSON array", 1},
		"eval: broken flag":         {[]string{"eval", "odd", "--file", oddFlag, "-u", "a"}, `flagstead: flag "odd" cannot be read: variations is a text, not a list`, 1},
		"eval: nameless attribute":  {[]string{"eval", "--file", file, "-u", "a", "-a", "=x"}, `--attr "=x" has no name`, 1},
		"watch: bad user":           {[]string{"watch", "--file", file, "--user-json", "[]"}, "--user-json: user is not a JSON object: it is a JSON array", 1},
		"sync: file that cannot be": {[]string{"sync", "file:///dev/null/flags.json", "--url", url, "--secret", secret}, "flagstead: store file:///dev/null/flags.json: ", 1},
		"sync: no such directory":   {[]string{"sync", "file:///proc/none/flags.json", "--url", url, "--secret", secret}, "flagstead: store file:///proc/none/flags.json: ", 1},
		"sync: mute FeatBit":        {[]string{"sync", bolt, "--url", "ws://" + mute, "--secret", secret, "--start", "200ms"}, "within 200ms: it accepted the connection and said nothing", 1},
		"eval: mute FeatBit":        {[]string{"eval", "-u", "a", "--url", "ws://" + mute, "--secret", secret, "--wait", "200ms"}, "within 200ms: it accepted the connection and said nothing", 1},
		"watch: mute FeatBit":       {[]string{"watch", "--url", "http://" + mute, "--secret", secret, "--wait", "200ms"}, "within 200ms: it accepted the connection and said nothing", 1},
		"eval: mute Redis":          {[]string{"eval", "-u", "a", "--store", "redis://" + mute, "--wait", "200ms"}, "within 200ms: it does not answer", 1},
		"watch: mute Redis":         {[]string{"watch", "--store", "redis://" + mute, "--wait", "200ms"}, "within 200ms: it does not answer", 1},
		"sync: mute Redis":          {[]string{"sync", "redis://" + mute, "--url", url, "--secret", secret, "--start", "400ms"}, "it does not answer", 1},
		"unknown command":           {[]string{"frobnicate"}, "unexpected argument frobnicate", 2},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			code, out, errOut := call(t, tc.args...)
			if took := time.Since(began); took > 4*time.Second {
				t.Errorf("took %v, which no limit allows", took)
			}
			if code != tc.code || !strings.Contains(errOut, tc.want) {
				t.Errorf("status %d, stderr %q; want %d and %q", code, errOut, tc.code, tc.want)
			}
			all := out + errOut
			for _, hidden := range []string{string(other), secret, "hunter2@", ":hunter2", "token=", "StreamingURL", "BootstrapFile", "Go value"} {
				if strings.Contains(all, hidden) {
					t.Errorf("printed %q: %s", hidden, all)
				}
			}
			if code == exitFailure {
				if lines := strings.Count(strings.TrimSpace(errOut), "\n") + 1; lines != 1 {
					t.Errorf("stderr has %d lines, want one: %s", lines, errOut)
				}
			}
		})
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("something was written: %v (%v)", left, err)
	}
}

// muteServer accepts connections and says nothing on them. accepted tells of each.
func muteServer(t *testing.T) (addr string, accepted <-chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	news := make(chan struct{}, 100)
	var done sync.WaitGroup
	done.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			news <- struct{}{}
		}
	})
	t.Cleanup(func() { l.Close(); done.Wait() })
	return l.Addr().String(), news
}

// TestMuteFeatBitEndsAtOnce: a syncer that waits for a server that says nothing
// is stopped like any other.
func TestMuteFeatBitEndsAtOnce(t *testing.T) {
	_, secret := dev(t, flagsFile(t))
	addr, accepted := muteServer(t)
	s := start(t, "sync", "bolt://"+filepath.Join(t.TempDir(), "x.db"), "--wait", "--url", "ws://"+addr, "--secret", secret)
	<-accepted
	began := time.Now()
	if code := s.stop(); code != 0 {
		t.Errorf("status %d: %s", code, s.err.String())
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("stopping took %v", took)
	}
}

// fullStore takes nothing, for a reason that may pass.
type fullStore struct{ *memory.Store }

func (fullStore) Apply(context.Context, store.Change) (store.Rev, error) {
	return "", errors.New("disk is full")
}

// TestStoreThatTakesNothing: sync does not wait longer than --start for a store
// that can be read but not written, and prints nothing but why it ended.
func TestStoreThatTakesNothing(t *testing.T) {
	url, secret := dev(t, flagsFile(t))
	st := fullStore{memory.New()}
	defer st.Close()
	var out buffer
	con := &console{out: &out, log: slog.New(slog.DiscardHandler)}
	startCtx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	c := &syncCmd{Store: "file:///full.json", Start: 300 * time.Millisecond}
	err := c.run(t.Context(), startCtx, con, syncer.Config{URL: url, Secret: syncer.Secret(secret), Store: st})
	if err == nil || err.Error() != "store file:///full.json: disk is full" || out.String() != "" {
		t.Errorf("run = %v, printed %q", err, out.String())
	}
}

// TestInterruptedBeforeData: who interrupts a command that waits is told so.
func TestInterruptedBeforeData(t *testing.T) {
	_, secret := dev(t, flagsFile(t))
	addr, accepted := muteServer(t)
	for _, args := range [][]string{
		{"sync", "bolt://" + filepath.Join(t.TempDir(), "x.db"), "--start", "20s"},
		{"eval", "-u", "a", "--wait", "20s"},
		{"watch", "--wait", "20s"},
	} {
		b := start(t, append(args, "--url", "ws://"+addr, "--secret", secret)...)
		<-accepted
		if code := b.stop(); code != exitInterrupted || b.err.String() != "flagstead: interrupted\n" {
			t.Errorf("%v: status %d, %q", args, code, b.err.String())
		}
	}
}

// TestArgumentsBeatEnvironment: what somebody typed goes before what their
// environment has.
func TestArgumentsBeatEnvironment(t *testing.T) {
	file := flagsFile(t)
	url, secret := dev(t, file)
	closed := filepath.Join(t.TempDir(), "none.db")
	t.Setenv("FLAGSTEAD_STORE", "bolt://"+closed)
	t.Setenv("FLAGSTEAD_URL", "ws://127.0.0.1:1")
	t.Setenv("FLAGSTEAD_SECRET_FILE", closed)
	for _, args := range [][]string{{"--file", file}, {"--url", url, "--secret", secret}} {
		if code, out, errOut := call(t, append([]string{"eval", "dark-mode", "-u", "a"}, args...)...); code != 0 || !strings.Contains(out, "dark-mode") {
			t.Errorf("%v: status %d, %s%s", args, code, out, errOut)
		}
	}
	if code, _, errOut := call(t, "eval", "-u", "a", "--wait", "50ms"); code != 1 || !strings.Contains(errOut, "none.db") {
		t.Errorf("the environment's store was not read: status %d, %s", code, errOut)
	}
	if code, _, errOut := call(t, "eval", "-u", "a", "--url", "redis://x"); code != 1 || !strings.Contains(errOut, "--url: ") {
		t.Errorf("status %d, %s", code, errOut)
	}
	t.Setenv("FLAGSTEAD_STORE", "")
	t.Setenv("FLAGSTEAD_URL", "redis://x")
	if code, _, errOut := call(t, "eval", "-u", "a"); code != 1 || !strings.Contains(errOut, "FLAGSTEAD_URL: ") {
		t.Errorf("status %d, %s", code, errOut)
	}
}

// The same flags give the same answers in each form that a file can have.
func TestEvalReadsYAMLAndGzip(t *testing.T) {
	_, want, _ := call(t, "eval", "--file", flagsFile(t), "-u", "u-1", "-a", "plan=pro")
	dir := t.TempDir()
	for _, name := range []string{"flags.yaml", "flags.json.gz", "flags.YML.gz"} {
		name = filepath.Join(dir, name)
		text := bytes.NewBuffer(nil)
		var w io.Writer = text
		if strings.HasSuffix(name, ".gz") {
			z := gzip.NewWriter(text)
			w = z
		}
		if _, err := w.Write(sample.Flags); err != nil { // JSON is YAML
			t.Fatal(err)
		}
		if z, ok := w.(*gzip.Writer); ok {
			z.Close()
		}
		if err := os.WriteFile(name, text.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if code, out, errOut := call(t, "eval", "--file", name, "-u", "u-1", "-a", "plan=pro"); code != 0 || out != want {
			t.Errorf("%s: status %d, %s%s, want\n%s", name, code, out, errOut, want)
		}
	}
	broken := filepath.Join(dir, "broken.yaml")
	if err := os.WriteFile(broken, []byte("messageType: data-sync\ndata: [\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errOut := call(t, "eval", "--file", broken, "-u", "u-1"); code != 1 || !strings.Contains(errOut, broken) || !strings.Contains(errOut, "line 3, column 1") {
		t.Errorf("broken YAML: status %d, %s", code, errOut)
	}
}

func TestEval(t *testing.T) {
	file := flagsFile(t)
	code, out, _ := call(t, "eval", "--file", file, "-u", "u-1", "-a", "plan=pro", "-a", "age=42")
	if code != 0 || !strings.Contains(out, "dark-mode") || !strings.Contains(out, "12.5") || strings.Count(out, "\n") != 16 {
		t.Errorf("status %d, %s", code, out)
	}
	if code, _, errOut := call(t, "eval", "--file", file, "-u", "u-1", "-a", "plan=a;b"); code != 0 {
		t.Errorf("a semicolon in an attribute: %s", errOut)
	}
	code, out, _ = call(t, "eval", "limits", "--file", file, "--json", "--user-json", `{"key":"x","name":"X","plan":"enterprise"}`)
	var r row
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
		t.Fatalf("status %d, %s (%v)", code, out, err)
	}
	if limits, ok := r.Value.(map[string]any); !ok || limits["burst"] != 100.0 || r.Reason != "rule match" || r.Flag != "limits" || r.VariationID == "" {
		t.Errorf("row = %+v", r)
	}
	code, out, _ = call(t, "eval", "--file", file, "--json", "-u", "x")
	var rows []row
	if err := json.Unmarshal([]byte(out), &rows); err != nil || len(rows) != 15 || code != 0 {
		t.Errorf("status %d, %d rows (%v)", code, len(rows), err)
	}
}

func TestVerify(t *testing.T) {
	conformance, err := filepath.Glob("../../internal/flags/testdata/eval-*.json")
	if err != nil || len(conformance) != 10 {
		t.Fatalf("%d files, %v", len(conformance), err)
	}
	for _, via := range []string{"engine", "client"} {
		code, out, _ := call(t, append([]string{"verify", "--via", via}, conformance...)...)
		if lines := strings.Split(strings.TrimSpace(out), "\n"); code != 0 || lines[len(lines)-1] != "10824 passed, 0 failed" {
			t.Errorf("via %s: status %d, last line %q", via, code, lines[len(lines)-1])
		}
	}
	own := filepath.Join(t.TempDir(), "cases.json")
	text := `{"bootstrap":` + string(sample.Flags) + `,"cases":[
		{"flagKey":"maintenance","user":{"key":"a","name":"A"},"default":true,"expect":{"value":false,"reason":"flag off"}},
		{"flagKey":"maintenance","user":{"key":"a","name":"A"},"default":true,"expect":{"value":true}},
		{"flagKey":"nope","user":{"key":"a","name":"A"},"default":1,"expect":{"value":1,"reason":"flag not found","variationId":null}}]}`
	if err := os.WriteFile(own, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, _ := call(t, "verify", "--via", "client", own)
	if code != 1 || !strings.Contains(out, `case 2, flag "maintenance"`) || !strings.Contains(out, "value is false, want true") || !strings.HasSuffix(out, "\n2 passed, 1 failed\n") {
		t.Errorf("status %d, %s", code, out)
	}
	// A broken file hides neither the others nor itself.
	typo := filepath.Join(t.TempDir(), "typo.json")
	if err := os.WriteFile(typo, []byte(strings.Replace(text, `"expect":{"value":true}`, `"expect":{"valeu":true}`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errOut := call(t, "verify", typo, filepath.Join(t.TempDir(), "none.json"), conformance[0])
	if code != 1 || !strings.HasSuffix(out, "432 passed, 0 failed\n432 passed, 0 failed\n") ||
		!strings.Contains(errOut, `typo.json: case 2, flag "maintenance": expect has the unknown member "valeu"`) || !strings.Contains(errOut, "none.json: no such file") {
		t.Errorf("status %d, %s%s", code, out, errOut)
	}
	if code, out, _ := call(t, "verify", conformance[0]); code != 0 || strings.Contains(out, "difference") {
		t.Errorf("status %d, %s", code, out)
	}
	// With files, --differences is no way to leave them out.
	if code, out, _ := call(t, "verify", "--differences", own); code != 1 || !strings.Contains(out, "regexp-syntax") || !strings.HasSuffix(out, "\n2 passed, 1 failed\n") {
		t.Errorf("status %d, %s", code, out)
	}
	if code, out, _ := call(t, "verify", "--differences"); code != 0 || !strings.Contains(out, "regexp-syntax") {
		t.Errorf("status %d, %s", code, out)
	}
}

// TestSyncAndWatch goes the whole path: dev server, syncer, store, and a reader
// that prints a change.
func TestSyncAndWatch(t *testing.T) {
	redis := redistest.Start(t)
	for _, kind := range []string{"bolt", "file", "redis"} {
		t.Run(kind, func(t *testing.T) {
			file := flagsFile(t)
			url, secret := dev(t, file)
			st := kind + "://" + filepath.Join(t.TempDir(), "store")
			if kind == "redis" {
				st = redis.URL()
			}
			t.Setenv("FLAGSTEAD_SECRET", secret)
			s := start(t, "sync", st, "--url", url)
			s.says(t, "in sync")
			w := start(t, "watch", "--store", st)
			w.says(t, "watching 15 flags")
			// Somebody edits the file by hand and leaves updatedAt as it was.
			text := strings.Replace(string(sample.Flags), "2024-10-01", "2020-02-02", 1)
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			w.says(t, "api-version")
			code, out, errOut := call(t, "eval", "api-version", "--store", st, "-u", "x", "-a", "client=legacy-7")
			if code != 0 || !strings.Contains(out, `"2020-02-02"`) {
				t.Errorf("status %d, %s%s", code, out, errOut)
			}
			if code := s.stop(); code != 0 {
				t.Errorf("sync ended with %d: %s", code, s.err.String())
			}
			if code := w.stop(); code != 0 {
				t.Errorf("watch ended with %d: %s", code, w.err.String())
			}
			// The store serves on without a syncer.
			if code, _, errOut := call(t, "eval", "api-version", "--store", st, "-u", "x"); code != 0 {
				t.Errorf("eval without a syncer: %d, %s", code, errOut)
			}
		})
	}
}

// TestSyncGuard: a store that has another environment's flags is left alone unless
// somebody says that it is meant.
func TestSyncGuard(t *testing.T) {
	url, secret := dev(t, flagsFile(t))
	t.Setenv("FLAGSTEAD_SECRET", secret)
	other := flagsFile(t)
	env := regexp.MustCompile(`"envId": *"[^"]+"`)
	text := env.ReplaceAllString(string(sample.Flags), `"envId":"00000000-0000-4000-8000-000000000000"`)
	if text == string(sample.Flags) {
		t.Fatal("the sample names no environment")
	}
	if err := os.WriteFile(other, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errOut := call(t, "sync", "file://"+other, "--url", url, "--start", "1s")
	if code == 0 || !strings.Contains(errOut, "refused a full state of environment") || !strings.Contains(errOut, "--accept takes it") {
		t.Errorf("status %d, %s%s", code, out, errOut)
	}
	if now, err := os.ReadFile(other); err != nil || string(now) != text {
		t.Errorf("the store was changed, %v", err)
	}
	s := start(t, "sync", "file://"+other, "--url", url, "--accept")
	s.says(t, "in sync")
	for _, bad := range []string{"0", "101", "-1", "x"} {
		if code, _, errOut := call(t, "sync", "file://"+other, "--url", url, "--max-removed="+bad); code == 0 || !strings.Contains(errOut, "--max-removed") {
			t.Errorf("--max-removed=%s: status %d, %s", bad, code, errOut)
		}
	}
}

// TestYAMLSample: the sample in YAML is what its comment says.
func TestYAMLSample(t *testing.T) {
	for user, want := range map[string]string{"ann -a plan=pro": "true", "robot": "false"} {
		args := append([]string{"eval", "new-search", "--file", "../../examples/sample/flags.yaml", "-u"}, strings.Fields(user)...)
		code, out, errOut := call(t, args...)
		if code != 0 || !strings.Contains(out, want) || errOut != "" {
			t.Errorf("%s: status %d, %s%s", user, code, out, errOut)
		}
	}
}

// TestSyncGuardIsLoud: who runs a syncer sees a refusal, and that it was repeated,
// without asking for logs.
func TestSyncGuardIsLoud(t *testing.T) {
	file := flagsFile(t)
	url, secret := dev(t, file)
	t.Setenv("FLAGSTEAD_SECRET", secret)
	st := filepath.Join(t.TempDir(), "store.json")
	var doc map[string]any
	if err := json.Unmarshal(sample.Flags, &doc); err != nil {
		t.Fatal(err)
	}
	data := doc["data"].(map[string]any)
	first := data["featureFlags"].([]any)[0].(map[string]any)
	var many []any
	for i := range 12 {
		flag := maps.Clone(first)
		flag["key"], flag["id"] = fmt.Sprint("old-", i), fmt.Sprint("old-", i)
		many = append(many, flag)
	}
	data["featureFlags"] = many
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(st, text, 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, "sync", "file://"+st, "--url", url, "--guard-wait", "50ms")
	s.complains(t, "refused a full state")
	s.says(t, "in sync")
	s.complains(t, "accepted a full state that was refused before")
}

// TestSyncFeatBitLayout: a syncer feeds a Redis in FeatBit's layout, with its own
// secret among those that an evaluation server lets in, and readers read it.
func TestSyncFeatBitLayout(t *testing.T) {
	srv := redistest.Start(t)
	url, secret := dev(t, flagsFile(t))
	t.Setenv("FLAGSTEAD_SECRET", secret)
	env := regexp.MustCompile(`"envId": *"([^"]+)"`).FindSubmatch(sample.Flags)
	if env == nil {
		t.Fatal("the sample names no environment")
	}
	st := srv.URL() + "/0?layout=featbit&env=" + string(env[1])
	if code, _, errOut := call(t, "sync", st, "--url", url); code == 0 || !strings.Contains(errOut, "has write=true") {
		t.Errorf("without write=true: status %d, %s", code, errOut)
	}
	s := start(t, "sync", st+"&write=true", "--url", url)
	s.says(t, "in sync")
	code, out, errOut := call(t, "eval", "api-version", "--store", st, "-u", "x", "-a", "client=legacy-7")
	if code != 0 || !strings.Contains(out, "api-version") {
		t.Errorf("status %d, %s%s", code, out, errOut)
	}
	if got := srv.Must(t, "HGET", "featbit:secret:"+secret, "type"); got != "server" {
		t.Errorf("the secret's hash has type %q", got)
	}
}

func rewrite(t *testing.T, file, old, now string) {
	t.Helper()
	text := strings.Replace(string(sample.Flags), old, now, 1)
	if text == string(sample.Flags) && old != now {
		t.Fatalf("the sample has no %q", old)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (b *background) complains(t *testing.T, text string) {
	t.Helper()
	until(t, text+" on stderr", func() bool { return strings.Contains(b.err.String(), text) })
}

// TestWatchFile: the file is followed, also through a time in which it is broken.
func TestWatchFile(t *testing.T) {
	file := flagsFile(t)
	w := start(t, "watch", "api-version", "--file", file, "-a", "client=legacy-7")
	w.says(t, "watching flag api-version")
	if strings.Contains(w.err.String(), "no flag") {
		t.Errorf("stderr: %s", w.err.String())
	}
	rewrite(t, file, "2024-10-01", "2020-02-02")
	w.says(t, "2020-02-02") // which users with that attribute get
	if err := os.WriteFile(file, []byte("{\n nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.complains(t, "interrupted: ")
	w.complains(t, "line 2, column")
	rewrite(t, file, "2024-10-01", "2021-03-03")
	w.complains(t, "ok again")
	w.says(t, "2021-03-03")
	if code := w.stop(); code != 0 {
		t.Errorf("status %d", code)
	}
}

func TestWatchUnknownFlag(t *testing.T) {
	file := flagsFile(t)
	w := start(t, "watch", "nope", "--file", file, "--user-json", `{"key":"ann","name":"Ann"}`)
	w.says(t, "watching flag nope for user ann")
	w.complains(t, `there is no flag "nope" yet`)
	rewrite(t, file, `"key": "api-version"`, `"key": "nope"`)
	w.says(t, "  nope  ")
	if code := w.stop(); code != 0 {
		t.Errorf("status %d", code)
	}
}

// TestWatchSaysWhatBecomesOfItsSource: FeatBit goes, comes back, goes, and comes
// back as one that does not know the secret.
func TestWatchSaysWhatBecomesOfItsSource(t *testing.T) {
	file := flagsFile(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	serve := func() (*background, string) {
		secret, err := protocol.NewSecret(protocol.NewEnvID())
		if err != nil {
			t.Fatal(err)
		}
		b := start(t, "dev", file, "--addr", addr, "--secret", string(secret))
		b.says(t, "Point an SDK")
		return b, string(secret)
	}
	d, secret := serve()
	w := start(t, "watch", "--url", "ws://"+addr, "--secret", secret)
	w.says(t, "watching 15 flags for user watch")
	if w.err.String() != "" {
		t.Errorf("stderr at the start: %s", w.err.String())
	}
	d.stop()
	w.complains(t, "interrupted: ")
	again := start(t, "dev", file, "--addr", addr, "--secret", secret)
	w.complains(t, "ok again")
	again.stop()
	serve()
	if code := <-w.done; code != 1 || !strings.HasSuffix(strings.TrimSpace(w.err.String()), "check that the secret is a server secret of an existing environment") ||
		!strings.Contains(w.err.String(), "flagstead: ws://"+addr+": FeatBit refused the connection (4003)") {
		t.Errorf("status %d, %s", code, w.err.String())
	}
	w.done <- 1 // for stop
}

// TestDevReportsBrokenFile: a file that breaks later changes nothing but is
// reported.
func TestDevReportsBrokenFile(t *testing.T) {
	file := flagsFile(t)
	b := start(t, "dev", file, "--addr", "127.0.0.1:0")
	b.says(t, "serving")
	if err := os.WriteFile(file, []byte("{\n nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "the error is reported", func() bool { return strings.Contains(b.err.String(), "line 2, column") })
	if err := os.WriteFile(file, sample.Flags, 0o600); err != nil {
		t.Fatal(err)
	}
	b.says(t, "readable again")
}

func TestHelpAndVersion(t *testing.T) {
	for _, args := range [][]string{nil, {"--help"}, {"sync", "--help"}, {"--version"}} {
		if code, out, errOut := call(t, args...); code != 0 || out == "" || errOut != "" {
			t.Errorf("%v: status %d, %q, %q", args, code, out, errOut)
		}
	}
}

func TestHelpShowsDefaults(t *testing.T) {
	for command, want := range map[string]string{"sync": "(default 10s)", "eval": "(default 5s)", "watch": "(default 5s)", "verify": "docs/verify.md"} {
		if _, out, _ := call(t, command, "--help"); !strings.Contains(out, want) {
			t.Errorf("%s --help has no %q: %s", command, want, out)
		}
	}
}

func TestDemoInterrupted(t *testing.T) {
	t.Setenv("FLAGSTEAD_TEST_AS_MAIN", "1")
	b := start(t, "demo")
	b.says(t, "flip  1")
	if code := b.stop(); code != exitInterrupted || b.err.String() != "flagstead: interrupted\n" {
		t.Errorf("status %d, %q", code, b.err.String())
	}
}

// TestDemo runs the demo with real processes on every store.
func TestDemo(t *testing.T) {
	t.Setenv("FLAGSTEAD_TEST_AS_MAIN", "1")
	for _, kind := range []string{"bolt", "file", "redis"} {
		t.Run(kind, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var out, errOut buffer
			code := run(ctx, []string{"demo", "--store", kind}, strings.NewReader(""), &out, &errOut)
			if code != 0 || strings.Count(out.String(), "20 of 20") != demoWorkers || !strings.Contains(out.String(), "received 80") {
				t.Errorf("status %d\n%s\n%s", code, out.String(), errOut.String())
			}
		})
	}
}
