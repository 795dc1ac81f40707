package redis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/store"
)

const aSecret = "eWaefCV03kCUS-B_wfkK5wW62PD8vZn0ahZXCGdyiVDg"

func TestFeatBitOptions(t *testing.T) {
	env := newGUID()
	for _, c := range []struct{ query, want string }{
		{"layout=featbit", "needs env"},
		{"layout=featbit&env=prod", `"prod" is not the id of a FeatBit environment`},
		{"layout=featbit&env=" + env + "&prefix=x", "has no prefix"},
		{"layout=other", "layout must be native or featbit"},
		{"layout=featbit&write=perhaps&env=" + env, "write must be true or false"},
		{"write=true", "the layout is not featbit"},
	} {
		s, err := Open("redis://localhost?"+c.query, nil)
		if err == nil {
			s.Close()
		}
		wantErr(t, err, nil, "redis: ", c.want)
	}
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Layout: 7, Env: env}, "unknown layout(7)"},
		{Options{FeatBit: FeatBitOptions{Secret: aSecret}}, "the layout is not featbit"},
		{Options{Layout: LayoutFeatBit, Env: env, FeatBit: FeatBitOptions{Secrets: []FeatBitSecret{{aSecret, "server", "", "", "", "", ""}}}}, "permission to write"},
		{Options{Layout: LayoutFeatBit, Env: env, FeatBit: FeatBitOptions{Write: true, Secrets: []FeatBitSecret{{Value: aSecret, Type: "x"}}}}, `type "x"`},
	} {
		_, err := Open("redis://localhost", &c.o)
		wantErr(t, err, nil, "redis: ", c.want)
		if strings.Contains(err.Error(), aSecret) {
			t.Errorf("the secret is in %q", err)
		}
		// New has no error to return, so the calls have it.
		s := New(rawClient(t, server), &c.o)
		_, err = s.Load(bounded(t), "")
		wantErr(t, err, nil, c.want)
		_, err = s.Apply(bounded(t), store.Change{})
		wantErr(t, err, nil, c.want)
		wantErr(t, s.Watch(bounded(t), func() {}), nil, c.want)
		s.Close()
	}
	s, err := Open("redis://localhost?layout=featbit&write=true&env="+strings.ToUpper(env), nil)
	if err != nil || s.featbit.envID() != env || !s.featbit.opts.Write {
		t.Errorf("%v, %v", s, err)
	}
	s.Close()
	o := Options{Layout: LayoutFeatBit, FeatBit: FeatBitOptions{Secret: aSecret, Secrets: []FeatBitSecret{{Value: aSecret}}}}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "options", o, "secret", o.FeatBit.Secret)
	if text := fmt.Sprintf("%v %+v %#v %s", o, o, o, o.FeatBit.Secrets) + log.String(); strings.Contains(text, aSecret) {
		t.Errorf("the secret is in %s", text)
	}
}

// fresh is a server of a test's own, since the marker is of a whole database.
func fresh(t *testing.T) (*redistest.Server, *goredis.Client, string) {
	srv := redistest.Start(t)
	return srv, rawClient(t, srv), newGUID()
}

func TestNotPopulated(t *testing.T) {
	srv, c, env := fresh(t)
	s := openFeatBit(t, srv, env, FeatBitOptions{})
	a, b := flagDoc(env, "a", 1), flagDoc(env, "b", 1)
	// Until the last step there is no state, however much there is.
	steps := populate(a, b)
	for _, one := range steps[:len(steps)-2] {
		_, err := s.Load(bounded(t), "")
		wantErr(t, err, ErrNotPopulated, env)
		runAll(t, c, one)
	}
	runAll(t, c, steps[len(steps)-2:]...)
	r := reading{s: s}
	if len(r.load(t)) != 2 {
		t.Fatalf("got %q", r.state)
	}
	// Flushed: whoever has flags keeps them. Populated again without changes, it
	// is the same state.
	c.FlushAll(bounded(t))
	for _, one := range steps[:len(steps)-2] {
		_, err := s.Load(bounded(t), r.rev)
		wantErr(t, err, ErrNotPopulated)
		runAll(t, c, one)
	}
	runAll(t, c, steps[len(steps)-2:]...)
	if snap := load(t, s, r.rev); snap.Rev != r.rev || !snap.Delta {
		t.Errorf("populated again with the same: %+v", snap)
	}
	// An environment without anything is one, where FeatBit has populated.
	if snap := load(t, openFeatBit(t, srv, newGUID(), FeatBitOptions{}), ""); snap.Rev == "" || len(snap.Items) != 0 {
		t.Errorf("an environment without flags: %+v", snap)
	}
}

// An index that lost all its flags was evicted, or flushed while others still
// write it; if not, it is believed after a while.
func TestLostIndex(t *testing.T) {
	srv, c, env := fresh(t)
	s := openFeatBit(t, srv, env, FeatBitOptions{})
	a := flagDoc(env, "a", 1)
	runAll(t, c, populate(a)...)
	r := reading{s: s}
	r.load(t)
	c.Del(bounded(t), a.indexKey(env))
	for range 2 {
		_, err := s.Load(bounded(t), r.rev)
		wantErr(t, err, ErrNotPopulated, a.indexKey(env), "1 flags")
	}
	runAll(t, c, zadd(a, env))
	if snap := load(t, s, r.rev); snap.Rev != r.rev {
		t.Errorf("after it came back: %+v", snap)
	}
	c.Del(bounded(t), a.indexKey(env))
	_, err := s.Load(bounded(t), r.rev)
	wantErr(t, err, ErrNotPopulated)
	s.featbit.emptyGrace = 0
	if got := r.load(t); len(got) != 0 {
		t.Errorf("after the grace: %q", got)
	}
	// Archived flags may go.
	s.featbit.emptyGrace = time.Hour
	a.archived = true
	runAll(t, c, saveFlag(a.edited(2), false)...)
	r.load(t)
	runAll(t, c, remove(a, false, env)...)
	if got := r.load(t); len(got) != 0 {
		t.Errorf("after the delete: %q", got)
	}
}

func TestFeatBitSecret(t *testing.T) {
	srv, c, env := fresh(t)
	a := flagDoc(env, "a", 1)
	runAll(t, c, populate(a)...)
	hash := func(kind, env string) command {
		return raw("HSET", "featbit:secret:"+aSecret, "type", kind, "organizationId", "o", "organizationKey", "o",
			"projectId", "p", "projectKey", "p", "envId", env, "envKey", "e")
	}
	check := func(o *Options, is error, text string) {
		t.Helper()
		s, err := Open(srv.URL(), o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		_, err = s.Load(bounded(t), "")
		if is == nil && text == "" {
			if err != nil {
				t.Error(err)
			}
			return
		}
		wantErr(t, err, is, text)
		if strings.Contains(err.Error(), aSecret) {
			t.Errorf("the secret is in %q", err)
		}
	}
	with := &Options{Layout: LayoutFeatBit, FeatBit: FeatBitOptions{Secret: aSecret}}
	both := &Options{Layout: LayoutFeatBit, Env: env, FeatBit: FeatBitOptions{Secret: aSecret}}
	check(with, ErrUnknownSecret, "load the environment of FeatBit's secret")
	check(both, ErrUnknownSecret, env)
	runAll(t, c, hash("client", env))
	check(with, ErrUnknownSecret, `its type is "client"`)
	check(both, ErrUnknownSecret, `its type is "client"`)
	runAll(t, c, hash("server", "nonsense"))
	check(with, nil, `"nonsense"`)
	runAll(t, c, hash("server", newGUID()))
	check(both, nil, "another environment")
	runAll(t, c, raw("DEL", "featbit:secret:"+aSecret), raw("SET", "featbit:secret:"+aSecret, "x"))
	check(with, nil, "WRONGTYPE")
	runAll(t, c, raw("DEL", "featbit:secret:"+aSecret), hash("server", env))
	check(with, nil, "")
	check(both, nil, "")

	// A secret that is removed, or whose environment is deleted, ends the news.
	s, err := Open(srv.URL(), with)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r := reading{s: s}
	r.load(t)
	runAll(t, c, raw("DEL", "featbit:secret:"+aSecret))
	runAll(t, c, saveFlag(a.edited(2), false)...)
	_, err = s.Load(bounded(t), r.rev)
	wantErr(t, err, ErrUnknownSecret)
	runAll(t, c, hash("server", env))
	if got := r.load(t); len(got) != 1 || r.whole != 1 {
		t.Errorf("after it came back: %q", got)
	}
}

func TestSharedSegmentIsFilledIn(t *testing.T) {
	srv, c, env := fresh(t)
	seg := segmentDoc("", "s", 5)
	text := strings.Replace(seg.json(), `"envId":""`, `"novel":{"envId":"","x":[1.0,1e400]} , "envId" : ""`, 1)
	runAll(t, c, populate()...)
	runAll(t, c, raw("SET", seg.valueKey(), text), zadd(seg, env))
	it := load(t, openFeatBit(t, srv, env, FeatBitOptions{}), "").Items[0]
	if want := strings.Replace(text, `"envId" : ""`, `"envId" : "`+env+`"`, 1); string(it.Data) != want {
		t.Errorf("got  %s\nwant %s", it.Data, want)
	}
	if it.Kind != store.Segment || it.Key != seg.id || it.Version != epoch+5 {
		t.Errorf("got %+v", it)
	}
}

// What is in an index but is another environment's, as after a segment's scope was
// narrowed, is not this one's.
func TestForeignValues(t *testing.T) {
	srv, c, env := fresh(t)
	other := newGUID()
	runAll(t, c, populate()...)
	seg, flag := segmentDoc("", "s", 5), flagDoc(other, "f", 5)
	runAll(t, c, saveSegment(seg, []string{env, other}, false)...)
	runAll(t, c, set(flag), zadd(flag, env))
	r := reading{s: openFeatBit(t, srv, env, FeatBitOptions{})}
	if got := r.load(t); len(got) != 1 || got["s:"+seg.id] == "" {
		t.Fatalf("got %q", got)
	}
	narrow := seg.edited(6)
	narrow.env = other
	runAll(t, c, set(narrow), zadd(narrow, other)) // FeatBit leaves the member of env
	s := openFeatBit(t, srv, env, FeatBitOptions{})
	if got := load(t, s, ""); len(got.Items) != 0 {
		t.Errorf("got %+v", got)
	}
	r.s.featbit.sweepEvery = time.Millisecond
	waitUntil(t, "the sweep finds it", func() bool { return len(r.load(t)) == 0 })
}

// lockedBuffer is a buffer that a logger writes to from wherever.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func openLogging(t *testing.T, srv *redistest.Server, env string, log *lockedBuffer) *Store {
	t.Helper()
	s, err := Open(srv.URL(), &Options{Layout: LayoutFeatBit, Env: env, Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestValueThatCannotBeUsed(t *testing.T) {
	srv, c, env := fresh(t)
	a, b := flagDoc(env, "a", 1), flagDoc(env, "b", 1)
	runAll(t, c, populate(a, b)...)
	var log lockedBuffer
	r := reading{s: openLogging(t, srv, env, &log)}
	good := maps.Clone(r.load(t))
	for n, harm := range []command{
		raw("SET", a.valueKey(), `{"envId":"`+env+`","key":"a","updatedAt":`),
		raw("SET", a.valueKey(), `[]`), raw("SET", a.valueKey(), ``), raw("SET", a.valueKey(), `{"envId":"`+env+`"}`),
		raw("LPUSH", a.valueKey(), "x"),
	} {
		if harm[0] == "LPUSH" {
			runAll(t, c, raw("DEL", a.valueKey()))
		}
		runAll(t, c, harm, zadd(a.edited(int64(n+2)), env))
		// The others are unaffected, and of this one the last good value stays.
		runAll(t, c, saveFlag(b.edited(int64(n+2)), false)...)
		got := r.load(t)
		if got["f:a"] != good["f:a"] || got["f:b"] == good["f:b"] {
			t.Errorf("%v: got %q", harm, got)
		}
		if !strings.Contains(log.String(), a.id) {
			t.Errorf("%v: not reported", harm)
		}
		before := log.String()
		if r.load(t); log.String() != before {
			t.Errorf("%v: reported twice", harm)
		}
		if got := load(t, openFeatBit(t, srv, env, FeatBitOptions{}), ""); len(got.Items) != 1 {
			t.Errorf("%v: a new reader has %d items", harm, len(got.Items))
		}
	}
	runAll(t, c, raw("DEL", a.valueKey()))
	runAll(t, c, saveFlag(a.edited(9), false)...)
	if got, _ := expected(t, c, env); !maps.Equal(r.load(t), got) {
		t.Errorf("mended: got %q", r.state)
	}
}

func TestOrphans(t *testing.T) {
	srv, c, env := fresh(t)
	a, b := flagDoc(env, "a", 1), flagDoc(env, "b", 1)
	runAll(t, c, populate(a, b)...)
	text := c.Get(bounded(t), a.valueKey()).Val()
	runAll(t, c, raw("DEL", a.valueKey())) // evicted, say
	var log lockedBuffer
	r := reading{s: openLogging(t, srv, env, &log)}
	for range 3 {
		if got := r.load(t); len(got) != 1 || got["f:b"] == "" {
			t.Fatalf("got %q", got)
		}
	}
	if n := strings.Count(log.String(), a.valueKey()); n != 1 {
		t.Errorf("reported %d times", n)
	}
	// Back without a new score: an orphan is looked at each time.
	runAll(t, c, raw("SET", a.valueKey(), text))
	if got := r.load(t); len(got) != 2 || r.whole != 1 {
		t.Errorf("got %q in %d loads of everything", got, r.whole)
	}
	// One that was evicted later is found by the sweep, and so is its return.
	runAll(t, c, raw("DEL", a.valueKey()))
	r.s.featbit.sweepEvery = time.Millisecond
	waitUntil(t, "the sweep finds it", func() bool { return len(r.load(t)) == 1 })
	runAll(t, c, raw("SET", a.valueKey(), text))
	if got := r.load(t); len(got) != 2 {
		t.Errorf("got %q", got)
	}
}

// Deltas hold what changed; deletions and older versions cannot be told in one.
func TestFeatBitDeltas(t *testing.T) {
	srv, c, env := fresh(t)
	a, b := flagDoc(env, "a", 1), flagDoc(env, "b", 1)
	runAll(t, c, populate(a, b)...)
	s := openFeatBit(t, srv, env, FeatBitOptions{})
	first := load(t, s, "").Rev
	runAll(t, c, saveFlag(a.edited(2), false)...)
	if snap := load(t, s, first); !snap.Delta || len(snap.Items) != 1 || snap.Items[0].Key != "a" {
		t.Errorf("an edit: %+v", snap)
	}
	runAll(t, c, saveFlag(b.edited(3), false)...)
	second := load(t, s, "").Rev
	if snap := load(t, s, first); !snap.Delta || len(snap.Items) != 2 {
		t.Errorf("two edits: %+v", snap)
	}
	runAll(t, c, saveFlag(a.edited(1), false)...) // a database that was restored
	if snap := load(t, s, second); snap.Delta || len(snap.Items) != 2 {
		t.Errorf("an older version: %+v", snap)
	}
	third := load(t, s, "").Rev
	runAll(t, c, remove(b, false, env)...)
	if snap := load(t, s, third); snap.Delta || len(snap.Items) != 1 {
		t.Errorf("a delete: %+v", snap)
	}
	for range maxSteps + 1 {
		a = a.edited(a.at + 1)
		runAll(t, c, saveFlag(a, false)...)
		load(t, s, "")
	}
	last := load(t, s, "").Rev
	for _, rev := range []store.Rev{first, "", "garbage", last + "0"} {
		if snap := load(t, s, rev); snap.Delta || snap.Rev != last {
			t.Errorf("after %q: %+v", rev, snap)
		}
	}
	if snap := load(t, openFeatBit(t, srv, env, FeatBitOptions{}), last); !snap.Delta || len(snap.Items) != 0 {
		t.Errorf("another handle, asked for what it has: %+v", snap)
	}
}

// Two edits within a millisecond leave the score as it is. The message tells.
func TestWatchHearsWhatScoresDoNotShow(t *testing.T) {
	c, env := rawClient(t, server), newGUID()
	a, seg := flagDoc(env, "a", 1), segmentDoc("", "s", 1)
	runAll(t, c, populate(a)...)
	runAll(t, c, saveSegment(seg, []string{env}, false)...)
	r := reading{s: openFeatBit(t, server, env, FeatBitOptions{})}
	woken := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.s.Watch(ctx, func() { woken <- struct{}{} }) }()
	<-woken
	r.load(t)
	same := func(want bool) {
		t.Helper()
		got, _ := expected(t, c, env)
		if maps.Equal(r.load(t), got) != want {
			t.Fatalf("got %q, want %q (%t)", r.state, got, want)
		}
	}
	runAll(t, c, saveFlag(a.edited(1), false)...)
	same(false)
	// Messages of other environments wake nobody, so the next one is of this.
	runAll(t, c, saveFlag(flagDoc(newGUID(), "x", 1), true)...)
	runAll(t, c, saveSegment(segmentDoc(newGUID(), "x", 1), []string{newGUID()}, true)...)
	began := time.Now()
	runAll(t, c, saveFlag(a.edited(1), true)...)
	waitUntil(t, "a flag's message wakes", func() bool { return len(woken) > 0 })
	t.Logf("woken %v after the first command", time.Since(began))
	// The second channel's subscription wakes, too, and may be what woke.
	waitUntil(t, "a flag's message is heard", func() bool {
		got, _ := expected(t, c, env)
		return maps.Equal(r.load(t), got)
	})
	drain(woken)
	runAll(t, c, saveSegment(seg.edited(1), []string{env}, true, a.edited(1))...)
	waitUntil(t, "a segment's message wakes", func() bool { return len(woken) > 0 })
	same(true)
	drain(woken)
	for _, odd := range []string{"", "garbage", "{}", "[]"} {
		runAll(t, c, raw("PUBLISH", "featbit-feature-flag-change", odd), raw("PUBLISH", "featbit-segment-change", odd))
		waitUntil(t, "an odd message wakes", func() bool { return len(woken) > 0 })
		same(true)
		drain(woken)
	}
	cancel()
	wantErr(t, <-done, context.Canceled)
}

func drain(c <-chan struct{}) {
	for len(c) > 0 {
		<-c
	}
}

func TestFeatBitFollowSurvivesARestart(t *testing.T) {
	srv, c, env := fresh(t)
	a := flagDoc(env, "a", 1)
	runAll(t, c, populate(a)...)
	s := openFeatBit(t, srv, env, FeatBitOptions{})
	var mu sync.Mutex
	r, errs := reading{s: s}, 0
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		o := store.FollowOptions{Interval: 50 * time.Millisecond, MaxBackoff: 100 * time.Millisecond}
		store.Follow(ctx, s, o, func(snap store.Snapshot, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs++
				return
			}
			r.take(t, snap)
		})
	})
	until := func(what string, ok func() bool) {
		t.Helper()
		waitUntil(t, what, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return ok()
		})
	}
	until("the first state", func() bool { return len(r.state) == 1 })
	srv.Stop(t)
	until("an error", func() bool { return errs > 0 })
	srv.Restart(t)
	mu.Lock()
	before := errs
	mu.Unlock()
	until("an empty Redis is an error", func() bool { return errs > before && len(r.state) == 1 })
	b := flagDoc(env, "b", 2)
	runAll(t, c, populate(a.edited(2), b)...)
	until("the new state", func() bool { return len(r.state) == 2 })
	runAll(t, c, saveFlag(b.edited(3), true)...)
	until("an edit", func() bool { return strings.HasPrefix(r.state["f:b"], fmt.Sprint(epoch+3)) })
}

func TestFeatBitHungServer(t *testing.T) {
	addr, asked := hung(t)
	s, err := Open(addr+"?layout=featbit&write=true&env="+newGUID(), &Options{Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 4)
	go func() { _, err := s.Load(ctx, ""); errs <- err }()
	go func() { _, err := s.Load(ctx, "x"); errs <- err }() // waits for the other one
	go func() { _, err := s.Apply(ctx, store.Change{Full: true}); errs <- err }()
	go func() { errs <- s.Watch(ctx, func() {}) }()
	<-asked
	<-asked // one of the three, and Watch
	cancel()
	for range cap(errs) {
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}
