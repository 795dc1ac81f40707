package forward

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/spool"
)

const patient = 30 * time.Second

// A featbit takes insights as FeatBit's event server does, or not at all.
type featbit struct {
	*httptest.Server
	answer func(env string, keys []string) (status int, header string) // 0: accept

	mu       sync.Mutex
	got      map[string][]string // keys by environment
	requests int
	most     int // insights in one request
}

func serveFeatBit(t *testing.T, answer func(env string, keys []string) (int, string)) *featbit {
	f := &featbit{answer: answer, got: map[string][]string{}}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *featbit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	env, err := protocol.Secret(r.Header.Get("Authorization")).EnvID()
	var list []protocol.Insight
	if err != nil || r.URL.Path != protocol.InsightPath || json.Unmarshal(body, &list) != nil {
		panic(fmt.Sprint(r.URL.Path, err, string(body)))
	}
	var keys []string
	for _, in := range list {
		keys = append(keys, in.User.KeyID)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests++
	f.most = max(f.most, len(list))
	if f.answer != nil {
		if status, header := f.answer(env, keys); status != 0 {
			if header != "" {
				w.Header().Set("Retry-After", header)
			}
			w.WriteHeader(status)
			return
		}
	}
	f.got[env] = append(f.got[env], keys...)
}

func (f *featbit) of(env string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.got[env])
}

type secrets map[string]protocol.Secret

func (s secrets) get(env string) (protocol.Secret, bool) {
	secret, ok := s[env]
	return secret, ok
}

// newEnvs makes n environments.
func newEnvs(t *testing.T, n int) ([]string, secrets) {
	t.Helper()
	all := secrets{}
	var ids []string
	for range n {
		id := protocol.NewEnvID()
		secret, err := protocol.NewSecret(id)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
		all[id] = secret
	}
	return ids, all
}

func keys(prefix string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%s-%d", prefix, i)
	}
	return list
}

func insights(keys []string) []json.RawMessage {
	list := make([]json.RawMessage, len(keys))
	for i, k := range keys {
		list[i] = json.RawMessage(`{"user":{"keyId":"` + k + `","name":""}}`)
	}
	return list
}

// start runs a forwarder whose pauses are short.
func start(t *testing.T, cfg Config) *Forwarder {
	t.Helper()
	cfg.RetryMin, cfg.RetryMax = time.Millisecond, 20*time.Millisecond
	if cfg.Linger == 0 {
		cfg.Linger = time.Millisecond
	}
	if cfg.Spool == nil {
		sp, err := spool.Open("", spool.Options{})
		if err != nil {
			t.Fatal(err)
		}
		cfg.Spool = sp
	}
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- f.Run(context.Background()) }()
	for !f.started.Load() {
		runtime.Gosched()
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = f.Close(ctx) // what is left does not matter any more
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	return f
}

func accept(t *testing.T, f *Forwarder, env string, keys []string) {
	t.Helper()
	if err := f.Accept(t.Context(), env, insights(keys)); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until f holds nothing, or until until.
func eventually(t *testing.T, f *Forwarder, what string, until func(Stats) bool) {
	t.Helper()
	deadline := time.Now().Add(patient)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		st := f.Stats()
		if st.Recorded != st.Delivered+st.Lost.Total()+st.Pending {
			t.Fatalf("the books do not balance: %+v", st)
		}
		if until(st) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s never came: %+v", what, st)
		}
		<-tick.C
	}
}

func settledAll(st Stats) bool { return st.Pending == 0 }

func sorted(list []string) []string { slices.Sort(list); return list }

func TestDelivers(t *testing.T) {
	fb := serveFeatBit(t, nil)
	ids, secrets := newEnvs(t, 3)
	f := start(t, Config{URL: fb.URL, Secret: secrets.get})
	for i, id := range ids {
		for j := range 20 {
			accept(t, f, id, keys(fmt.Sprint(i, "-", j), 13))
		}
	}
	eventually(t, f, "delivery", settledAll)
	for i, id := range ids {
		var want []string
		for j := range 20 {
			want = append(want, keys(fmt.Sprint(i, "-", j), 13)...)
		}
		if got := fb.of(id); !slices.Equal(sorted(got), sorted(want)) {
			t.Errorf("environment %d got %d insights: %.200v", i, len(got), got)
		}
	}
	if st := f.Stats(); st.Delivered != 780 || st.Lost.Total() != 0 || fb.most > 50 || int(st.Requests) != fb.requests {
		t.Errorf("%+v, %d at a time", st, fb.most)
	}
}

// TestWaits: whatever says that FeatBit cannot at the moment, nothing is lost, and
// what it asks for is granted.
func TestWaits(t *testing.T) {
	for _, c := range []struct {
		status int
		header string
	}{{408, ""}, {429, "1"}, {500, ""}, {502, ""}, {503, "1"}, {404, ""}, {302, ""}} {
		t.Run(fmt.Sprint(c.status), func(t *testing.T) {
			t.Parallel()
			n := 0
			var failed, again time.Time
			fb := serveFeatBit(t, func(string, []string) (int, string) {
				if n++; n <= 3 && c.header == "" || n == 1 {
					failed = time.Now()
					return c.status, c.header
				}
				if again.IsZero() {
					again = time.Now()
				}
				return 0, ""
			})
			ids, secrets := newEnvs(t, 1)
			f := start(t, Config{URL: fb.URL, Secret: secrets.get, Requests: 2})
			accept(t, f, ids[0], keys("k", 130))
			eventually(t, f, "delivery", settledAll)
			if got := fb.of(ids[0]); !slices.Equal(sorted(got), sorted(keys("k", 130))) {
				t.Errorf("got %d insights", len(got))
			}
			if st := f.Stats(); st.Delivered != 130 || st.Retries == 0 || st.Failing != 0 {
				t.Errorf("%+v", st)
			}
			if c.header != "" && again.Sub(failed) < time.Second {
				t.Errorf("tried again after %v, the server asked for a second", again.Sub(failed))
			}
		})
	}
}

// TestFindsBadEntry: what FeatBit cannot digest costs no other entry.
func TestFindsBadEntry(t *testing.T) {
	for _, status := range []int{400, 413, 422} {
		fb := serveFeatBit(t, func(_ string, keys []string) (int, string) {
			if slices.ContainsFunc(keys, func(k string) bool { return strings.HasSuffix(k, "-13") || strings.HasSuffix(k, "-49") }) {
				return status, ""
			}
			return 0, ""
		})
		ids, secrets := newEnvs(t, 1)
		f := start(t, Config{URL: fb.URL, Secret: secrets.get})
		accept(t, f, ids[0], keys("a", 50))
		accept(t, f, ids[0], keys("b", 49))
		eventually(t, f, "the end", settledAll)
		if st := f.Stats(); st.Delivered != 96 || st.Lost != (Lost{Refused: 3}) {
			t.Errorf("%d: %+v", status, st)
		}
		got := fb.of(ids[0])
		if all := slices.Compact(sorted(got)); len(all) != 96 || len(got) != 96 {
			t.Errorf("%d: %d insights, %d different", status, len(got), len(all))
		}
	}
}

// TestPoison: an entry that makes the server fail, while it serves others, is found
// in the end. As long as the server serves nobody, nothing is given up.
func TestPoison(t *testing.T) {
	up := false
	attempts := 0
	fb := serveFeatBit(t, func(_ string, keys []string) (int, string) {
		attempts++
		if !up || slices.Contains(keys, "a-13") {
			return 500, ""
		}
		return 0, ""
	})
	ids, secrets := newEnvs(t, 1)
	f := start(t, Config{URL: fb.URL, Secret: secrets.get})
	accept(t, f, ids[0], keys("a", 50))
	accept(t, f, ids[0], keys("b", 50))
	eventually(t, f, "many attempts", func(st Stats) bool { return st.Requests > 5*maxTrouble })
	if st := f.Stats(); st.Pending != 100 {
		t.Fatalf("%+v while the server is down", st)
	}
	fb.mu.Lock()
	up = true
	fb.mu.Unlock()
	for i := 0; f.Stats().Lost.Refused == 0; i++ {
		if i == 1000 {
			t.Fatalf("%+v", f.Stats())
		}
		accept(t, f, ids[0], []string{fmt.Sprint("c-", i)})
		seen := f.Stats().Delivered
		eventually(t, f, "a delivery", func(st Stats) bool { return st.Delivered > seen || st.Lost.Refused > 0 || st.Pending <= 50 })
	}
	eventually(t, f, "the end", settledAll)
	if st := f.Stats(); st.Lost != (Lost{Refused: 1}) || st.Recorded-1 != st.Delivered {
		t.Errorf("%+v", st)
	}
}

// TestSuspends: an environment whose secret FeatBit refuses waits alone, and goes on
// when FeatBit knows it.
func TestSuspends(t *testing.T) {
	ids, secrets := newEnvs(t, 2)
	bad := true
	n := 0
	fb := serveFeatBit(t, func(env string, _ []string) (int, string) {
		if env == ids[0] {
			n++
			if bad {
				return 401, ""
			}
		}
		return 0, ""
	})
	f := start(t, Config{URL: fb.URL, Secret: secrets.get, Requests: 4, SuspendFor: 300 * time.Millisecond})
	accept(t, f, ids[0], keys("a", 500))
	eventually(t, f, "the suspension", func(st Stats) bool { return st.Suspended == 1 })
	accept(t, f, ids[1], keys("b", 500))
	eventually(t, f, "the other environment's delivery", func(st Stats) bool { return st.Delivered == 500 })
	if got := fb.of(ids[1]); len(got) != 500 {
		t.Errorf("the other environment got %d", len(got))
	}
	fb.mu.Lock()
	if n > 4 {
		t.Errorf("%d attempts with a refused secret", n)
	}
	bad = false
	fb.mu.Unlock()
	eventually(t, f, "the end", settledAll)
	if st := f.Stats(); st.Delivered != 1000 || st.Suspended != 0 {
		t.Errorf("%+v", st)
	}
}

// TestUnknownEnvironment: it may come back, but not for ever.
func TestUnknownEnvironment(t *testing.T) {
	ids, secrets := newEnvs(t, 2)
	var mu sync.Mutex
	known := map[string]bool{}
	fb := serveFeatBit(t, nil)
	f := start(t, Config{URL: fb.URL, UnknownFor: 2 * time.Second, Secret: func(env string) (protocol.Secret, bool) {
		mu.Lock()
		defer mu.Unlock()
		return secrets[env], known[env]
	}})
	accept(t, f, ids[0], keys("a", 60))
	accept(t, f, ids[1], keys("b", 60))
	mu.Lock()
	known[ids[0]] = true
	mu.Unlock()
	eventually(t, f, "the end", settledAll)
	if st := f.Stats(); st.Delivered != 60 || st.Lost != (Lost{Unknown: 60}) {
		t.Errorf("%+v", st)
	}
}

// TestClose: what is on disk stays there, what is in memory is delivered as long as
// there is time, and then counted.
func TestClose(t *testing.T) {
	down := true
	fb := serveFeatBit(t, func(string, []string) (int, string) {
		if down {
			return 503, ""
		}
		return 0, ""
	})
	ids, secrets := newEnvs(t, 1)
	dir := t.TempDir()
	for i, where := range []string{dir, ""} {
		sp, err := spool.Open(where, spool.Options{})
		if err != nil {
			t.Fatal(err)
		}
		f := start(t, Config{Spool: sp, URL: fb.URL, Secret: secrets.get})
		accept(t, f, ids[0], keys("k", 70))
		eventually(t, f, "attempts", func(st Stats) bool { return st.Requests > 3 })
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		err = f.Close(ctx)
		st := f.Stats()
		if i == 0 && (err != nil || st.Pending != 70) {
			t.Errorf("on disk: Close = %v, %+v", err, st)
		}
		if i == 1 && (!errors.Is(err, context.DeadlineExceeded) || st.Lost != (Lost{Closed: 70})) {
			t.Errorf("in memory: Close = %v, %+v", err, st)
		}
		if err := sp.Close(); err != nil {
			t.Error(err)
		}
	}
	fb.mu.Lock()
	down = false
	fb.mu.Unlock()
	for _, where := range []string{dir, ""} {
		sp, err := spool.Open(where, spool.Options{})
		if err != nil {
			t.Fatal(err)
		}
		f := start(t, Config{Spool: sp, URL: fb.URL, Secret: secrets.get, Linger: time.Hour})
		if where == "" {
			accept(t, f, ids[0], keys("m", 70))
		} else {
			eventually(t, f, "a full batch", func(st Stats) bool { return st.Delivered >= 50 })
		}
		if err := f.Close(t.Context()); err != nil {
			t.Errorf("Close = %v", err)
		}
		if st := f.Stats(); where == "" && st.Delivered != 70 || where != "" && st.Recorded != 70 {
			t.Errorf("%+v", st)
		}
		if err := sp.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestBadConfig(t *testing.T) {
	sp, err := spool.Open("", spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	secret := func(string) (protocol.Secret, bool) { return "", false }
	for want, cfg := range map[string]Config{
		"Spool":  {URL: "http://h", Secret: secret},
		"Secret": {URL: "http://h", Spool: sp},
		"URL":    {URL: "ftp://user:hunter2@h", Spool: sp, Secret: secret},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("New without a useful %s = %v", want, err)
		}
	}
}
