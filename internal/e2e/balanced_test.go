//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/redis"
)

// TestRelaysAreKilled runs official SDKs against one relay, and against two on one
// Redis behind a load balancer, while relays are killed. Nobody may see a value that
// is older than what was seen before, or stay offline.
func TestRelaysAreKilled(t *testing.T) {
	exe := filepath.Join(t.TempDir(), "flagstead")
	if out, err := exec.Command("go", "build", "-o", exe, "../../cmd/flagstead").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, relays := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d relays", relays), func(t *testing.T) { testKilled(t, exe, relays) })
	}
}

func testKilled(t *testing.T, exe string, relays int) {
	srv := redistest.Start(t)
	st, err := redis.Open(srv.URL()+"?env=web", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	version, n := time.Now().UnixMilli(), 0
	count := 0
	// next makes the flag's value one larger, for everybody.
	next := func() string {
		t.Helper()
		n++
		count++
		it := numbered(t, version+int64(n), count)
		if _, err := st.Apply(t.Context(), store.Change{Items: []store.Item{it}}); err != nil {
			t.Fatal(err)
		}
		return strconv.Itoa(count)
	}
	next()
	apply := func(items ...store.Item) {
		t.Helper()
		if _, err := st.Apply(t.Context(), store.Change{Items: items}); err != nil {
			t.Fatal(err)
		}
	}
	// Versions of what follows are beside those of the number.
	later := func() int64 { n += 1000; return version + int64(n) }
	segment := protocol.NewEnvID()
	group := func(keys ...string) store.Item {
		return written(t, store.Segment, later(), false, map[string]any{"id": segment, "name": "group", "included": append([]string{}, keys...), "excluded": []string{}, "rules": []any{}})
	}
	grouped := func(archived bool) store.Item { return boolean(t, "grouped", later(), true, archived, segment) }
	apply(group("bob"), grouped(false))

	var mu sync.Mutex
	insights := map[string]bool{} // "secret flag value"
	featbit := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var batch []protocol.Insight
		if err := json.NewDecoder(r.Body).Decode(&batch); err != nil {
			t.Errorf("insights: %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, in := range batch {
			for _, v := range in.Variations {
				insights[v.FlagKey+" "+v.Variation.Value] = true
			}
		}
	}))
	defer featbit.Close()

	server, envID := newSecret(t)
	client, err := protocol.NewSecret(envID)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "flagstead.yaml")
	text := fmt.Sprintf(`featbit: {events: %q}
relay: {listen: "127.0.0.1:0"}
events: {forward: true, outbox: false}
admin: {listen: "127.0.0.1:0"}
environments:
- {name: web, sync: false, secret: "${SERVER_SECRET}", client-secret: "${CLIENT_SECRET}", store: %q}
`, featbit.URL, srv.URL()+"?env=web")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	secrets := []string{"SERVER_SECRET=" + string(server), "CLIENT_SECRET=" + string(client)}

	lb := newBalancer(t)
	states := t.TempDir() // each relay's, which its successor finds
	start := func(i int) *relayProcess {
		state := filepath.Join(states, fmt.Sprint(i))
		return startRelay(t, exe, config, append(secrets, "FLAGSTEAD_STATE="+state)...)
	}
	running := make([]*relayProcess, relays)
	for i := range running {
		running[i] = start(i)
		lb.add(running[i].addr)
	}
	ann := user{Key: "ann", Name: "Ann"}
	node := startNode(t, "http://"+lb.addr, string(server))
	js := startProgram(t, string(client), "js-client.mjs", "http://"+lb.addr, `{"keyId":"ann","name":"Ann"}`)
	node.call(t, "watch", map[string]any{"flag": "number", "user": ann}, &struct{}{})
	js.call(t, "watch", map[string]any{"flag": "number"}, &struct{}{})
	both := func(value string) {
		t.Helper()
		node.await(t, "number", ann, value)
		want, _ := strconv.Atoi(value)
		js.call(t, "await", map[string]any{"flag": "number", "value": want}, &struct{}{})
	}
	member := func(want bool) {
		t.Helper()
		node.await(t, "grouped", ann, strconv.FormatBool(want))
		js.call(t, "await", map[string]any{"flag": "grouped", "value": want}, &struct{}{})
	}
	both("1")
	member(false)
	both(next())
	for round := range 2 * relays {
		i := round % relays
		running[i].kill(t)
		lb.remove(running[i].addr)
		apply(group([]string{"ann", "bob"}[round%2]))
		value := next() // while fewer relays, or none, are there
		if relays == 1 {
			running[i] = start(i)
			lb.add(running[i].addr)
		}
		both(value)
		member(round%2 == 0)
		both(next())
		if relays > 1 {
			running[i] = start(i)
			lb.add(running[i].addr)
		}
		both(next())
	}
	node.flush(t)
	js.flush(t)
	eventually(t, "insights of both kinds of SDK", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return insights["grouped true"] && insights["grouped false"] && insights["number 1"]
	})
	apply(grouped(true))
	eventually(t, "an archived flag has no value", func() bool {
		var got struct{ Typed any }
		js.call(t, "evaluate", map[string]any{"flag": "grouped"}, &got)
		return got.Typed == nil
	})
	for name, c := range map[string]*nodeClient{"the Node SDK": node, "the JavaScript SDK": js} {
		var got struct{ Values []string }
		c.call(t, "history", map[string]any{"flag": "number"}, &got)
		var numbers []int
		for _, v := range got.Values {
			n, err := strconv.Atoi(v)
			if err != nil {
				t.Errorf("%s had the value %q", name, v)
			}
			numbers = append(numbers, n)
		}
		if !slices.IsSorted(numbers) || len(numbers) < 4 || numbers[len(numbers)-1] != count {
			t.Errorf("%s had the values %v, one after the other up to %d are right", name, numbers, count)
		}
		t.Logf("%s saw %v", name, numbers)
		c.close(t)
	}
}

// numbered returns the flag "number" with the value n.
func numbered(t *testing.T, version int64, n int) store.Item {
	t.Helper()
	return item(t, store.Flag, fmt.Sprintf(`{
		"id":"0d6f3d52-3c26-43d5-9e0a-7d6e3c1f0a29","updatedAt":%q,"name":"number","key":"number","variationType":"number",
		"variations":[{"id":%q,"name":"served","value":"%d"}],"targetUsers":[],"rules":[],"isEnabled":true,"disabledVariationId":%[2]q,
		"fallthrough":{"dispatchKey":null,"includedInExpt":false,"variations":[{"id":%[2]q,"rollout":[0,1],"exptRollout":1}]},
		"exptIncludeAllTargets":true,"tags":[],"isArchived":false}`, wire.FormatMillis(version), firstID, n))
}

// A relayProcess is flagstead serve.
type relayProcess struct {
	cmd  *exec.Cmd
	addr string
	end  func()
}

// startRelay returns when the relay is ready.
func startRelay(t *testing.T, exe, config string, env ...string) *relayProcess {
	t.Helper()
	r := &relayProcess{cmd: exec.Command(exe, "serve", "-c", config, "--log-format=json")}
	r.cmd.Env = append(os.Environ(), env...)
	stderr, err := r.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	type serving struct{ Msg, Relay, Admin string }
	listens := make(chan serving, 1)
	read := make(chan struct{})
	log := &lockedBuffer{}
	go func() {
		defer close(read)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			fmt.Fprintln(log, lines.Text())
			var l serving
			if json.Unmarshal(lines.Bytes(), &l) == nil && l.Msg == "serving" {
				listens <- l
			}
		}
	}()
	r.end = sync.OnceFunc(func() {
		r.cmd.Process.Signal(syscall.SIGKILL)
		<-read
		r.cmd.Wait()
	})
	t.Cleanup(func() {
		r.end()
		if t.Failed() {
			t.Logf("log of a relay:\n%s", log)
		}
	})
	select {
	case l := <-listens:
		r.addr = l.Relay
		eventually(t, "the relay is ready", func() bool {
			resp, err := http.Get("http://" + l.Admin + "/health/readiness")
			if err != nil {
				return false
			}
			resp.Body.Close()
			return resp.StatusCode == http.StatusOK
		})
		http.DefaultClient.CloseIdleConnections()
	case <-read:
		t.Fatalf("the relay has ended:\n%s", log)
	case <-time.After(patient):
		t.Fatal("the relay does not listen")
	}
	return r
}

func (r *relayProcess) kill(t *testing.T) {
	t.Helper()
	r.end()
}

// A balancer passes TCP connections on, to one backend after the other.
type balancer struct {
	addr string

	mu       sync.Mutex
	backends []string
	turn     int
}

func newBalancer(t *testing.T) *balancer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{addr: ln.Addr().String()}
	var running sync.WaitGroup
	open := map[net.Conn]bool{}
	running.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			open[in] = true
			b.mu.Unlock()
			running.Go(func() {
				defer in.Close()
				out, err := b.dial()
				if err != nil {
					return
				}
				defer out.Close()
				var both sync.WaitGroup
				both.Go(func() { io.Copy(out, in); out.Close() })
				both.Go(func() { io.Copy(in, out); in.Close() })
				both.Wait()
				b.mu.Lock()
				delete(open, in)
				b.mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		b.mu.Lock()
		for c := range open {
			c.Close()
		}
		b.mu.Unlock()
		running.Wait()
	})
	return b
}

func (b *balancer) dial() (net.Conn, error) {
	b.mu.Lock()
	if len(b.backends) == 0 {
		b.mu.Unlock()
		return nil, io.EOF
	}
	b.turn++
	to := b.backends[b.turn%len(b.backends)]
	b.mu.Unlock()
	return net.Dial("tcp", to)
}

func (b *balancer) add(addr string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.backends = append(b.backends, addr)
}

func (b *balancer) remove(addr string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.backends = slices.DeleteFunc(b.backends, func(a string) bool { return a == addr })
}
