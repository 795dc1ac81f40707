package forward

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/spool"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
)

// What the child process of TestFlapping is told, and how many events the test
// sends.
const (
	childDir     = "FLAGSTEAD_TEST_EVENTS_DIR"
	childAddr    = "FLAGSTEAD_TEST_EVENTS_ADDR"
	childURL     = "FLAGSTEAD_TEST_EVENTS_URL"
	childSecrets = "FLAGSTEAD_TEST_EVENTS_SECRETS"
	childSpool   = "FLAGSTEAD_TEST_EVENTS_SPOOL"
	eventsVar    = "FLAGSTEAD_EVENTS"
)

const (
	flapRequests = 8
	flapTimeout  = 400 * time.Millisecond
)

// serveInsights is the child process: a relay, a spool in dir, and a forwarder. It
// ends properly on SIGTERM, and with its parent.
func serveInsights(dir string) int {
	if err := runChild(dir); err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1
	}
	return 0
}

func runChild(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	known := secrets{}
	var list []relay.Secret
	for _, text := range strings.Split(os.Getenv(childSecrets), ",") {
		id, err := protocol.Secret(text).EnvID()
		if err != nil {
			return err
		}
		known[id] = protocol.Secret(text)
		list = append(list, protocol.Secret(text))
	}
	size, err := strconv.ParseInt(os.Getenv(childSpool), 10, 64)
	if err != nil {
		return err
	}
	sp, err := spool.Open(dir, spool.Options{MaxBytes: size})
	if err != nil {
		return err
	}
	f, err := New(Config{
		Spool: sp, URL: os.Getenv(childURL), Secret: known.get, Requests: flapRequests,
		Client: &http.Client{Timeout: flapTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: flapRequests}},
		Linger: 50 * time.Millisecond, RetryMin: 10 * time.Millisecond, RetryMax: 200 * time.Millisecond,
	})
	if err != nil {
		return err
	}
	st := memory.New()
	if _, err := st.Apply(ctx, store.Change{Full: true}); err != nil {
		return err
	}
	r, err := relay.New(relay.Config{Store: st, Secrets: list, Insights: relaySink{f}})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", os.Getenv(childAddr))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: r}
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(l) })
	running.Go(func() { _ = r.Run(ctx) })
	running.Go(func() { _ = f.Run(context.Background()) })
	fmt.Println("ready")
	<-ctx.Done()
	closing, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	if err := errors.Join(server.Shutdown(closing), f.Close(closing), sp.Close()); err != nil {
		return err
	}
	running.Wait()
	return json.NewEncoder(os.Stdout).Encode(f.Stats())
}

// A relaySink is how a process hands what a relay takes to a forwarder.
type relaySink struct{ f *Forwarder }

func (s relaySink) Accept(ctx context.Context, env string, insights []json.RawMessage) error {
	err := s.f.Accept(ctx, env, insights)
	if errors.Is(err, spool.ErrFull) {
		return fmt.Errorf("%w: %w", relay.ErrBusy, err)
	}
	return err
}

// A child is the process under test.
type child struct {
	cmd   *exec.Cmd
	out   *bufio.Scanner
	errs  bytes.Buffer
	stdin io.WriteCloser
}

func startChild(t *testing.T, env []string) *child {
	t.Helper()
	c := &child{cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(os.Environ(), env...)
	c.cmd.Stderr = &c.errs
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewScanner(stdout)
	if !c.out.Scan() || c.out.Text() != "ready" {
		_ = c.cmd.Wait()
		t.Fatalf("the child said %q: %s", c.out.Text(), c.errs.String())
	}
	return c
}

// terminate ends the child properly and returns its books.
func (c *child) terminate(t *testing.T) Stats {
	t.Helper()
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var st Stats
	if !c.out.Scan() || json.Unmarshal(c.out.Bytes(), &st) != nil {
		t.Errorf("the child said %q", c.out.Text())
	}
	if err := c.cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, c.errs.String())
	}
	if st.Recorded != st.Delivered+st.Lost.Total()+st.Pending || st.Lost.Total() != 0 {
		t.Errorf("the books: %+v", st)
	}
	return st
}

func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// peak returns the child's largest resident size, in MB; 0 if that is not known.
func (c *child) peak() int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	kb, _ := strconv.Atoi(strings.Fields(rest + " 0")[0])
	return kb >> 10
}

// A flapper is FeatBit's event server on a bad day. What it takes it counts, by the
// number in the user's key.
type flapper struct {
	addr string
	seen []atomic.Uint32

	mode   atomic.Value // string
	served sync.Map     // of modes: *atomic.Int64, requests
	unsure atomic.Int64 // insights that were taken and their answer cut
	bad    atomic.Int64 // requests that no SDK makes
	known  secrets
}

var flapModes = []string{"up", "500", "up", "hang", "up", "cut", "up", "429", "up", "refuse"}

// flap serves in one mode after the other until ctx ends. While it refuses
// connections, nobody listens.
func (f *flapper) flap(ctx context.Context, each time.Duration) error {
	for i := 0; ; i++ {
		mode := flapModes[i%len(flapModes)]
		f.mode.Store(mode)
		long := each
		if mode == "up" {
			long *= 4
		}
		phase, cancel := context.WithCancel(ctx)
		go func() {
			defer cancel()
			before := f.met(mode)
			end := time.After(long)
			for late := time.After(3 * time.Second); ; {
				select {
				case <-end:
				case <-late:
					return
				case <-ctx.Done():
					return
				}
				// A bad mode waits for somebody to meet it.
				if mode == "up" || mode == "refuse" || f.met(mode) > before {
					return
				}
				end = time.After(long / 10)
			}
		}()
		if mode == "refuse" {
			<-phase.Done()
			cancel()
			if ctx.Err() != nil {
				return nil
			}
			continue
		}
		l, err := net.Listen("tcp", f.addr)
		if err != nil {
			cancel()
			return err
		}
		server := &http.Server{Handler: f, BaseContext: func(net.Listener) context.Context { return phase }}
		done := make(chan error, 1)
		go func() { done <- server.Serve(l) }()
		<-phase.Done()
		cancel()
		if i%len(flapModes) == len(flapModes)-2 { // the next refuses
			_ = server.Close()
		} else {
			_ = server.Shutdown(context.Background())
		}
		<-done
		if ctx.Err() != nil {
			return nil
		}
	}
}

// met returns how many requests came in a mode.
func (f *flapper) met(mode string) int64 {
	n, ok := f.served.Load(mode)
	if !ok {
		return 0
	}
	return n.(*atomic.Int64).Load()
}

func (f *flapper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	mode := f.mode.Load().(string)
	n, _ := f.served.LoadOrStore(mode, new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
	switch mode {
	case "500":
		w.WriteHeader(http.StatusInternalServerError)
		return
	case "429":
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the sender is gone, nothing was taken
	}
	env, err := protocol.Secret(r.Header.Get("Authorization")).EnvID()
	var list []protocol.Insight
	if err != nil || json.Unmarshal(body, &list) != nil || len(list) > protocol.MaxInsights {
		f.bad.Add(1)
		return
	}
	for _, in := range list {
		number, err := strconv.Atoi(strings.TrimPrefix(in.User.KeyID, env+"-"))
		if err != nil || number >= len(f.seen) || len(in.Variations) != 1 {
			f.bad.Add(1)
			continue
		}
		f.seen[number].Add(1)
	}
	switch mode {
	case "hang":
		f.unsure.Add(int64(len(list)))
		<-r.Context().Done()
	case "cut":
		f.unsure.Add(int64(len(list)))
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 O")
			_ = conn.Close()
		}
	}
}

// unique counts the events that arrived, and how many times too often.
func (f *flapper) unique() (unique, twice int) {
	for i := range f.seen {
		if n := int(f.seen[i].Load()); n > 0 {
			unique++
			twice += n - 1
		}
	}
	return unique, twice
}

// A caller sends events as an SDK does, but never gives up.
type caller struct {
	client *http.Client
	url    string
	ids    []string
	known  secrets

	next   *atomic.Int64 // of all callers
	total  int64
	taken  *atomic.Int64 // acknowledged by the relay
	busy   *atomic.Int64 // batches that the relay had no room for
	unsure *atomic.Int64 // events in requests without an answer
}

func (c *caller) run(ctx context.Context) {
	for {
		from := c.next.Add(protocol.MaxInsights) - protocol.MaxInsights
		if from >= c.total {
			return
		}
		n := min(protocol.MaxInsights, c.total-from)
		env := c.ids[from/protocol.MaxInsights%int64(len(c.ids))]
		var b bytes.Buffer
		for i := range n {
			fmt.Fprintf(&b, `%c{"user":{"keyId":"%s-%d","name":"Ann","customizedProperties":[{"name":"plan","value":"pro"}]},`+
				`"variations":[{"featureFlagKey":"new-checkout","sendToExperiment":true,"timestamp":1735689600123,"variation":`+
				`{"id":"aaaaaaaa-0000-4000-8000-000000000001","value":"true","reason":"rule match"}}]}`, "[,"[min(i, 1)], env, from+i)
		}
		b.WriteByte(']')
		for !c.post(ctx, env, b.Bytes(), n) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
		c.taken.Add(n)
	}
}

func (c *caller) post(ctx context.Context, env string, body []byte, n int64) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+protocol.InsightPath, bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	req.Header.Set("Authorization", string(c.known[env]))
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.client.Do(req)
	if err != nil {
		if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "dial" {
			c.unsure.Add(n)
		}
		return false
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	if resp.StatusCode == http.StatusServiceUnavailable {
		c.busy.Add(1)
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
	return resp.StatusCode == http.StatusOK
}

// freeAddr returns an address that nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestFlapping: SDKs hand events to a relay while FeatBit refuses connections,
// fails, asks to be left alone, hangs, and cuts its answers, and while the relay's
// process is restarted and killed. Every event whose request the relay answered
// arrives, and more than once only those that somebody could not know to have
// arrived. The number of events is that of FLAGSTEAD_EVENTS, or 50,000.
func TestFlapping(t *testing.T) {
	total, size := 50_000, 10<<20 // less than the events need: SDKs hear of it
	if text := os.Getenv(eventsVar); text != "" {
		var err error
		if total, err = strconv.Atoi(text); err != nil || total < 1000 {
			t.Fatalf("%s=%q, want a number from 1000 on", eventsVar, text)
		}
		size = 256 << 20
	}
	ids, known := newEnvs(t, 2)
	fb := &flapper{addr: freeAddr(t), seen: make([]atomic.Uint32, total), known: known}
	addr := freeAddr(t)
	env := []string{
		childDir + "=" + t.TempDir(), childAddr + "=" + addr, childURL + "=http://" + fb.addr,
		childSecrets + "=" + string(known[ids[0]]) + "," + string(known[ids[1]]), childSpool + "=" + strconv.Itoa(size),
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	flapping := make(chan error, 1)
	go func() { flapping <- fb.flap(ctx, 150*time.Millisecond) }()

	began := time.Now()
	c := startChild(t, env)
	var next, taken, busy, unsure atomic.Int64
	var callers sync.WaitGroup
	transport := &http.Transport{MaxIdleConnsPerHost: 8}
	defer transport.CloseIdleConnections()
	for range 8 {
		callers.Go(func() {
			(&caller{
				client: &http.Client{Timeout: 10 * time.Second, Transport: transport}, url: "http://" + addr, ids: ids, known: known,
				next: &next, total: int64(total), taken: &taken, busy: &busy, unsure: &unsure,
			}).run(ctx)
		})
	}
	defer callers.Wait()
	defer cancel()

	// await waits as long as something happens.
	await := func(what string, until func() bool) {
		t.Helper()
		var last [2]int64
		since := time.Now()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for !until() {
			u, _ := fb.unique()
			if now := [2]int64{taken.Load(), int64(u)}; now != last {
				last, since = now, time.Now()
			}
			if time.Since(since) > patient {
				c.kill()
				t.Fatalf("%s never came: %d events were taken, %d have arrived: %s", what, taken.Load(), last[1], c.errs.String())
			}
			<-tick.C
		}
	}
	peak := 0
	await("a third", func() bool { return taken.Load() >= int64(total)/3 })
	peak = max(peak, c.peak())
	first := c.terminate(t)
	c = startChild(t, env)
	await("two thirds", func() bool { return taken.Load() >= 2*int64(total)/3 })
	peak = max(peak, c.peak())
	c.kill()
	c = startChild(t, env)
	await("the last request", func() bool { return taken.Load() == int64(total) })
	sent := time.Since(began)
	await("the last event", func() bool { n, _ := fb.unique(); return n == total })
	arrived := time.Since(began)
	peak = max(peak, c.peak())
	last := c.terminate(t)
	cancel()
	if err := <-flapping; err != nil {
		t.Error(err)
	}

	unique, twice := fb.unique()
	answered := flapRequests * protocol.MaxInsights // under way when the process was killed
	if unique != total || fb.bad.Load() != 0 {
		t.Errorf("%d of %d events arrived, %d bad requests", unique, total, fb.bad.Load())
	}
	if limit := int(fb.unsure.Load()+unsure.Load()) + answered; twice > limit {
		t.Errorf("%d events arrived too often, want at most %d", twice, limit)
	}
	// All have arrived. What is pending all the same is what FeatBit's answer was lost
	// for.
	if int64(last.Pending) > fb.unsure.Load() {
		t.Errorf("%d are pending, and the answers for %d were lost", last.Pending, fb.unsure.Load())
	}
	lost := first.Lost.Total() + last.Lost.Total()
	for name, st := range map[string]Stats{"first": first, "last": last} {
		if st.Recorded != st.Delivered+st.Lost.Total()+st.Pending || st.Lost.Total() != 0 {
			t.Errorf("the books of the %s process: %+v", name, st)
		}
	}
	modes := map[string]int64{}
	fb.served.Range(func(mode, n any) bool { modes[mode.(string)] = n.(*atomic.Int64).Load(); return true })
	for _, mode := range []string{"up", "500", "429", "hang", "cut"} {
		if modes[mode] == 0 {
			t.Errorf("no request came while FeatBit was in mode %s: %v", mode, modes)
		}
	}
	t.Logf("%d events from 8 callers in %v (%.0f/s), at FeatBit after %v (%.0f/s); requests by FeatBit's mode: %v",
		total, sent.Round(time.Millisecond), float64(total)/sent.Seconds(), arrived.Round(time.Millisecond), float64(total)/arrived.Seconds(), modes)
	t.Logf("missing %d, lost %d; %d arrived more than once (answers lost: %d events at FeatBit's side, %d at the callers'); %d requests answered 503 because the spool was full",
		total-unique, lost, twice, fb.unsure.Load(), unsure.Load(), busy.Load())
	t.Logf("books of the first process: %+v", first)
	t.Logf("books of the last process: %+v", last)
	t.Logf("peak resident memory %d MB, %s, %d processors", peak, runtime.Version(), runtime.NumCPU())
}
