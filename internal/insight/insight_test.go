package insight

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/flagstead/flagstead/internal/flags"
	"github.com/flagstead/flagstead/internal/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const flagJSON = `{"key":"f","name":"F","isEnabled":true,"variationType":"string","exptIncludeAllTargets":true,
 "variations":[{"id":"v1","value":"one"}],"fallthrough":{"variations":[{"id":"v1","rollout":[0,1]}]}}`

func evaluation(t testing.TB) (*flags.User, flags.Result) {
	t.Helper()
	u, err := flags.NewUser("ann", "Ann", []flags.Attr{flags.TextAttr("plan", "pro"), flags.IntAttr("age", 42)})
	if err != nil {
		t.Fatal(err)
	}
	set, _ := new(flags.Set).Apply(true, []flags.Source{{Key: "f", Version: 1, Data: []byte(flagJSON)}})
	return u, set.Evaluate("f", u)
}

// collector is an event server.
type collector struct {
	mu       sync.Mutex
	insights []protocol.Insight
	sizes    []int
	answer   func(n int, w http.ResponseWriter, r *http.Request) bool // true: the request is settled
	calls    int
	gzipped  int
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	c.mu.Lock()
	c.calls++
	n := c.calls
	c.mu.Unlock()
	if c.answer != nil && c.answer(n, w, r) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err == nil {
			body, err = io.ReadAll(z)
		}
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		c.gzipped++
	}
	var list []protocol.Insight
	if err := json.Unmarshal(body, &list); err != nil || r.Header.Get("Authorization") != "secret" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.insights = append(c.insights, list...)
	c.sizes = append(c.sizes, len(list))
}

func serve(t *testing.T, c *collector) Config {
	t.Helper()
	srv := httptest.NewServer(c)
	t.Cleanup(srv.Close)
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	return Config{Endpoint: srv.URL, Secret: "secret", Client: client, RetryMin: time.Millisecond, RetryMax: 5 * time.Millisecond}
}

func check(t *testing.T, p *Pipeline, want Stats) {
	t.Helper()
	got := p.Stats()
	want.Retries = got.Retries
	if got != want {
		t.Errorf("Stats() = %+v, want %+v", got, want)
	}
}

func TestBodies(t *testing.T) {
	c := &collector{}
	p := New(serve(t, c))
	u, res := evaluation(t)
	p.Evaluation(u, res.Flag, res.Variation, res.Why())
	p.Identify(u)
	p.Metrics(u, []Metric{{"clicked", 1}, {"paid", 2.5}})
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(t, p, Stats{Recorded: 3, Delivered: 3})
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(c.insights) != 3 {
		t.Fatalf("the server got %d insights, want 3", len(c.insights))
	}
	for _, in := range c.insights {
		if in.User.KeyID != "ann" || in.User.Name != "Ann" || len(in.User.Properties) != 2 || in.User.Properties[1].Value != "42" {
			t.Errorf("user = %+v", in.User)
		}
		for _, v := range in.Variations {
			want := protocol.InsightVariation{FlagKey: "f", SendToExperiment: true, Timestamp: v.Timestamp,
				Variation: protocol.ServedValue{ID: "v1", Value: "one", Reason: "fall through all rules"}}
			if v != want || time.Since(time.UnixMilli(v.Timestamp)) > time.Minute {
				t.Errorf("variation = %+v, want %+v", v, want)
			}
		}
		for _, m := range in.Metrics {
			if m.Route != "index/metric" || m.Type != "CustomEvent" || m.Value == 0 || m.EventName == "" {
				t.Errorf("metric = %+v", m)
			}
		}
	}
}

func TestBatchesHoldAtMost50(t *testing.T) {
	c := &collector{}
	p := New(serve(t, c))
	u, res := evaluation(t)
	for range 1234 {
		p.Evaluation(u, res.Flag, res.Variation, res.Why())
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(t, p, Stats{Recorded: 1234, Delivered: 1234})
	for _, n := range c.sizes {
		if n > 50 {
			t.Errorf("a request has %d insights", n)
		}
	}
}

// TestHostileServer: slow answers, errors, resets, hangs, refusals, and more
// events than fit; whatever happens, every event is accounted for, and the
// server got what counts as delivered.
func TestHostileServer(t *testing.T) {
	c := &collector{answer: func(n int, w http.ResponseWriter, r *http.Request) bool {
		switch n % 9 {
		case 1:
			w.WriteHeader(http.StatusInternalServerError)
		case 2:
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
		case 3:
			conn, _, _ := w.(http.Hijacker).Hijack()
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		case 4:
			w.WriteHeader(http.StatusBadRequest)
		case 5: // half an answer
			conn, buf, _ := w.(http.Hijacker).Hijack()
			buf.WriteString("HTTP/1.1 200 OK\r\nContent-Len")
			buf.Flush()
			conn.Close()
		case 6:
			if n%135 != 6 {
				return false
			}
			<-r.Context().Done() // hangs until the client gives up
		case 7:
			w.(http.Flusher).Flush() // slow: the headers first
			return false
		default:
			return false
		}
		return true
	}}
	cfg := serve(t, c)
	cfg.Client.Timeout = 300 * time.Millisecond
	p := New(cfg)
	u, res := evaluation(t)
	const callers, each = 8, 12_500
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for i := range each {
				if i%5000 == 0 { // lets some of it be delivered
					if err := p.Flush(t.Context()); err != nil {
						t.Error(err)
					}
				}
				p.Evaluation(u, res.Flag, res.Variation, res.Why())
			}
		})
	}
	wg.Wait()
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	st := p.Stats()
	if st.Recorded != callers*each || st.Delivered+st.Dropped+st.Failed != st.Recorded || st.Pending != 0 {
		t.Errorf("Stats() = %+v do not add up", st)
	}
	// An answer that comes too late is one that was lost: the server may have
	// more, never less.
	if got := uint64(len(c.insights)); got < st.Delivered {
		t.Errorf("the server got %d, delivered says %d", got, st.Delivered)
	}
	if st.Failed == 0 || st.Retries == 0 || st.Delivered < 1000 {
		t.Errorf("Stats() = %+v: the server was not hostile, or nothing came through", st)
	}
	t.Logf("%+v", st)
}

// TestUnauthorized: a 401 ends the sending for good.
func TestUnauthorized(t *testing.T) {
	c := &collector{answer: func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}}
	p := New(serve(t, c))
	u, res := evaluation(t)
	p.Evaluation(u, res.Flag, res.Variation, res.Why())
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(t, p, Stats{Recorded: 1, Failed: 1, Refused: true})
	for range 3 {
		p.Evaluation(u, res.Flag, res.Variation, res.Why())
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The first of the three came before the buffers were shut.
	check(t, p, Stats{Recorded: 4, Failed: 2, Dropped: 2, Refused: true})
	if c.calls != 1 {
		t.Errorf("%d requests, want 1", c.calls)
	}
}

func TestGivesUpABatch(t *testing.T) {
	c := &collector{answer: func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusBadGateway)
		return true
	}}
	cfg := serve(t, c)
	cfg.Attempts = 3
	p := New(cfg)
	u, res := evaluation(t)
	p.Evaluation(u, res.Flag, res.Variation, res.Why())
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(t, p, Stats{Recorded: 1, Failed: 1})
	if c.calls != 3 {
		t.Errorf("%d attempts, want 3", c.calls)
	}
}

// TestRedirects: one that keeps the method is followed, one that would make a
// GET of the events counts as refused.
func TestRedirects(t *testing.T) {
	for code, want := range map[int]Stats{
		http.StatusTemporaryRedirect: {Recorded: 1, Delivered: 1},
		http.StatusFound:             {Recorded: 1, Failed: 1},
	} {
		c := &collector{answer: func(_ int, w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/there" {
				return false
			}
			http.Redirect(w, r, "/there", code)
			return true
		}}
		p := New(serve(t, c))
		u, res := evaluation(t)
		p.Evaluation(u, res.Flag, res.Variation, res.Why())
		if err := p.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		check(t, p, want)
		if uint64(len(c.insights)) != want.Delivered {
			t.Errorf("%d: the server got %d", code, len(c.insights))
		}
	}
}

// TestRedirectToAnotherHost: the secret does not go there, so what it answers is
// no word on the secret; nor may a caller's client follow with a GET.
func TestRedirectToAnotherHost(t *testing.T) {
	for code, to := range map[int]string{http.StatusPermanentRedirect: "localhost", http.StatusFound: "127.0.0.1"} {
		c := &collector{}
		c.answer = func(_ int, w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/there" {
				return r.Method == http.MethodGet // 200
			}
			_, port, _ := net.SplitHostPort(r.Host)
			http.Redirect(w, r, "http://"+to+":"+port+"/there", code)
			return true
		}
		cfg := serve(t, c)
		cfg.Client.CheckRedirect = func(*http.Request, []*http.Request) error { return nil }
		p := New(cfg)
		u, res := evaluation(t)
		p.Evaluation(u, res.Flag, res.Variation, res.Why())
		if err := p.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		check(t, p, Stats{Recorded: 1, Failed: 1})
	}
}

func TestGzip(t *testing.T) {
	c := &collector{}
	cfg := serve(t, c)
	for _, compress := range []bool{false, true} {
		cfg.Gzip = compress
		p := New(cfg)
		u, res := evaluation(t)
		for range 60 {
			p.Evaluation(u, res.Flag, res.Variation, res.Why())
		}
		if err := p.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		check(t, p, Stats{Recorded: 60, Delivered: 60})
		if compress != (c.gzipped > 0) {
			t.Errorf("with Gzip %t %d bodies were compressed", compress, c.gzipped)
		}
	}
}

// TestFlushDelaysNobody: while a flush waits for a batch that the server put off,
// later events are delivered.
func TestFlushDelaysNobody(t *testing.T) {
	c := &collector{answer: func(n int, w http.ResponseWriter, _ *http.Request) bool {
		if n > 1 {
			return false
		}
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}}
	p := New(serve(t, c))
	u, res := evaluation(t)
	p.Evaluation(u, res.Flag, res.Variation, res.Why())
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := p.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Flush = %v", err)
	}
	for range 100 {
		p.Evaluation(u, res.Flag, res.Variation, res.Why())
	}
	p.wake()
	deadline := time.Now().Add(10 * time.Second)
	for p.Stats().Delivered < 100 {
		if time.Now().After(deadline) {
			t.Fatalf("Stats() = %+v", p.Stats())
		}
		runtime.Gosched()
	}
	// Close cuts the pause.
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(t, p, Stats{Recorded: 101, Delivered: 101})
}

// TestEarlyCollectionsHaveAPause: what fills the buffers again at once has to wait.
func TestEarlyCollectionsHaveAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Config{Capacity: 100, Interval: time.Hour, Send: func(context.Context, []Entry) error { return nil }})
		u, res := evaluation(t)
		record := func(delivered uint64) {
			t.Helper()
			for range 80 {
				p.Evaluation(u, res.Flag, res.Variation, res.Why())
			}
			synctest.Wait()
			if st := p.Stats(); st.Delivered != delivered || st.Dropped != 0 {
				t.Errorf("Stats() = %+v, want %d delivered", st, delivered)
			}
		}
		synctest.Wait()
		record(80)
		record(80)
		time.Sleep(earlyPause - 1)
		synctest.Wait()
		if st := p.Stats(); st.Delivered != 80 {
			t.Errorf("Stats() = %+v, want the second 80 to wait", st)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if st := p.Stats(); st.Delivered != 160 {
			t.Errorf("Stats() = %+v, want all 160", st)
		}
		if err := p.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// TestOneCallerUsesAllOfTheCapacity: on a machine of many processors, too.
func TestOneCallerUsesAllOfTheCapacity(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(64))
	cfg := serve(t, &collector{})
	cfg.Capacity, cfg.Interval = 640, time.Hour
	p := New(cfg)
	u, res := evaluation(t)
	for range 600 {
		p.Evaluation(u, res.Flag, res.Variation, res.Why())
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(t, p, Stats{Recorded: 600, Delivered: 600})
}

// TestUnencodable: a batch that cannot be encoded counts as failed, and does not
// take the next one with it.
// TestABusyShardIsLeft: a caller whose shard somebody else has records in another one at
// once, and stays there, so that two processors do not go on sharing one.
func TestABusyShardIsLeft(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	cfg := serve(t, &collector{})
	cfg.Capacity, cfg.Interval = 100, time.Hour
	p := New(cfg)
	defer p.Close(t.Context())
	if len(p.shards) != 2 {
		t.Fatalf("%d shards", len(p.shards))
	}
	u, res := evaluation(t)
	busy, free := p.shards[0], p.shards[1]
	busy.lock()
	p.pool.Put(busy)
	for range 10 { // would wait for ever for the busy one
		p.Evaluation(u, res.Flag, res.Variation, res.Why())
		p.Identify(u)
	}
	busy.unlock()
	if busy.recorded != 0 || free.recorded != 20 {
		t.Errorf("recorded %d and %d", busy.recorded, free.recorded)
	}
}

func TestUnencodable(t *testing.T) {
	p := New(serve(t, &collector{}))
	u, res := evaluation(t)
	p.Metrics(u, []Metric{{"m", math.Inf(1)}})
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.Evaluation(u, res.Flag, res.Variation, res.Why())
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(t, p, Stats{Recorded: 2, Delivered: 1, Failed: 1})
}

func TestFullBufferDropsAndCounts(t *testing.T) {
	release := make(chan struct{})
	var entered atomic.Int32
	c := &collector{answer: func(int, http.ResponseWriter, *http.Request) bool { entered.Add(1); <-release; return false }}
	cfg := serve(t, c)
	cfg.Capacity = 100
	p := New(cfg)
	u, res := evaluation(t)
	// At most 100 in the shards, as many collected, and five requests of 50.
	const n = 100_000
	for range n {
		p.Evaluation(u, res.Flag, res.Variation, res.Why())
	}
	if st := p.Stats(); st.Dropped == 0 || st.Recorded != n || st.Pending > 450 {
		t.Errorf("Stats() = %+v with a hanging server", st)
	}
	close(release)
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := p.Stats(); st.Delivered+st.Dropped != n || st.Delivered == 0 {
		t.Errorf("Stats() = %+v", st)
	}
}

func TestCloseIsBounded(t *testing.T) {
	hang := make(chan struct{})
	c := &collector{answer: func(int, http.ResponseWriter, *http.Request) bool { <-hang; return true }}
	p := New(serve(t, c))
	defer close(hang)
	u, res := evaluation(t)
	for range 70 {
		p.Evaluation(u, res.Flag, res.Variation, res.Why())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := p.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close = %v", err)
	}
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("Close took %v", d)
	}
	check(t, p, Stats{Recorded: 70, Failed: 70})
	p.Evaluation(u, res.Flag, res.Variation, res.Why())
	check(t, p, Stats{Recorded: 71, Failed: 70, Dropped: 1})
	if err := p.Close(t.Context()); err != nil {
		t.Errorf("second Close = %v", err)
	}
	if err := p.Flush(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Flush after Close = %v", err)
	}
}

func TestEvaluationAllocs(t *testing.T) {
	p := New(Config{Endpoint: "http://127.0.0.1:1", Interval: time.Hour})
	u, res := evaluation(t)
	if n := testing.AllocsPerRun(500, func() { p.Evaluation(u, res.Flag, res.Variation, res.Why()) }); n != 0 {
		t.Errorf("%v allocations per recorded evaluation, want 0", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Close = %v", err)
	}
}

func BenchmarkEvaluation(b *testing.B) {
	p := New(Config{Endpoint: "http://127.0.0.1:1", Interval: time.Hour})
	u, res := evaluation(b)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			p.Evaluation(u, res.Flag, res.Variation, res.Why())
		}
	})
	ctx, cancel := context.WithCancel(b.Context())
	cancel()
	p.Close(ctx)
}
