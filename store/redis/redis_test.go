package redis

import (
	"context"
	"fmt"
	"maps"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/store"
)

func TestRefilledServerHasOtherRevs(t *testing.T) {
	s := open(t, server, newEnv())
	c := rawClient(t, server)
	first := apply(t, s, false, flag("a", 1, "1"))
	for _, full := range []bool{false, true} {
		c.Del(bounded(t), s.data, s.sorted)
		if snap := load(t, s, first); snap.Rev != "" || snap.Delta {
			t.Fatalf("empty place: %+v", snap)
		}
		again := apply(t, s, full, flag("b", 1, "2"))
		if again == first {
			t.Fatalf("Rev %q came again with other content", again)
		}
		if snap := load(t, s, first); snap.Delta || len(snap.Items) != 1 || snap.Rev != again {
			t.Fatalf("after a refill: %+v", snap)
		}
	}
}

// A server that comes back without its last commits (a power cut, a failover to
// a replica that lagged) must not reach revisions again that readers saw with
// other content, also if whoever writes next never saw them.
func TestServerThatFellBackReachesNoRevTwice(t *testing.T) {
	for _, c := range []struct {
		name      string
		full, saw bool // what the next change is, whether its writer knows the lost ones
	}{
		{"patch", false, false}, {"full", true, false}, {"patch of who saw", false, true}, {"full of who saw", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			env := newEnv()
			s, reader, raw := open(t, server, env), open(t, server, env), rawClient(t, server)
			apply(t, s, true, flag("a", 1, "1"), flag("b", 1, "1"))
			kept := apply(t, s, false, flag("a", 2, "2"))
			hash, sorted := raw.Dump(bounded(t), s.data).Val(), raw.Dump(bounded(t), s.sorted).Val()
			lost := map[store.Rev]bool{}
			for n := range int64(3) {
				lost[apply(t, s, false, flag("a", 3+n, "lost"))] = true
			}
			load(t, reader, "")
			raw.RestoreReplace(bounded(t), s.data, 0, hash)
			raw.RestoreReplace(bounded(t), s.sorted, 0, sorted)

			if !c.saw {
				s = open(t, server, env)
			}
			state := []store.Item{flag("a", 2, "2"), flag("b", 9, "9")}
			changed := state[1:]
			if c.full {
				changed = state
			}
			for range 6 { // below the lost revisions, among them and past them
				rev := apply(t, s, c.full && len(state) == 2, changed...)
				for old := range lost {
					if old == rev {
						t.Fatalf("Rev %q names two states", rev)
					}
					if snap := load(t, reader, old); snap.Delta || snap.Rev != rev || !maps.Equal(content(snap.Items), content(state)) {
						t.Fatalf("at %q, after the lost %q: %+v", rev, old, snap)
					}
				}
				if snap := load(t, reader, kept); !c.full && (!snap.Delta || len(snap.Items) != len(state)-1) {
					t.Fatalf("at %q, after the kept %q: %+v", rev, kept, snap)
				}
				changed = []store.Item{flag(string(rev), 1, "new")}
				state = append(state, changed...)
			}
		})
	}
}

// logLength is the one of head.lua.
const logLength = 128

// The log of commits is bounded, and what is older costs the delta.
func TestLogOfCommits(t *testing.T) {
	s := open(t, server, newEnv())
	revs := []store.Rev{apply(t, s, true, flag("a", 0, "0"))}
	for n := range int64(logLength + 3) {
		revs = append(revs, apply(t, s, false, flag("a", n+1, fmt.Sprint(n+1))))
	}
	for i, rev := range revs {
		behind := len(revs) - 1 - i
		snap := load(t, s, rev)
		if want := min(behind, 1); snap.Delta != (behind <= logLength) || snap.Delta && len(snap.Items) != want {
			t.Errorf("%d commits behind: %+v", behind, snap)
		}
	}
	// A full change ends the log, and a patch begins a new one.
	apply(t, s, true, flag("b", 1, "1"))
	last := apply(t, s, false, flag("c", 1, "1"))
	if snap := load(t, s, revs[len(revs)-1]); snap.Delta || snap.Rev != last {
		t.Errorf("across a full change: %+v", snap)
	}
	for _, rev := range []store.Rev{last + "0", last[:len(last)-1], "0" + last, "-1" + last, "9" + last} {
		if snap := load(t, s, rev); snap.Delta {
			t.Errorf("%q is known", rev)
		}
	}
}

func TestDamage(t *testing.T) {
	for name, harm := range map[string]func(c *goredis.Client, s *Store) error{
		"item gone":    func(c *goredis.Client, s *Store) error { return c.HDel(bounded(t), s.data, "f:a").Err() },
		"meta gone":    func(c *goredis.Client, s *Store) error { return c.HDel(bounded(t), s.data, "$seq").Err() },
		"log gone":     func(c *goredis.Client, s *Store) error { return c.HDel(bounded(t), s.data, "$log").Err() },
		"nonce gone":   func(c *goredis.Client, s *Store) error { return c.HDel(bounded(t), s.data, "$nonce").Err() },
		"count gone":   func(c *goredis.Client, s *Store) error { return c.HDel(bounded(t), s.data, "$n").Err() },
		"foreign meta": func(c *goredis.Client, s *Store) error { return c.HSet(bounded(t), s.data, "$x", "y").Err() },
		"foreign item": func(c *goredis.Client, s *Store) error { return c.HSet(bounded(t), s.data, "x", "y").Err() },
	} {
		t.Run(name, func(t *testing.T) {
			env := newEnv()
			s, c := open(t, server, env), rawClient(t, server)
			rev := apply(t, s, true, flag("a", 1, "1"), flag("b", 1, "1"))
			if err := harm(c, s); err != nil {
				t.Fatal(err)
			}
			for _, since := range []store.Rev{"", rev, "foreign"} {
				snap, err := s.Load(bounded(t), since)
				wantErr(t, err, store.ErrDamaged)
				wantErr(t, err, ErrDamaged, fmt.Sprintf("redis: load environment %q: damaged: ", env))
				if snap.Rev != "" || snap.Items != nil {
					t.Errorf("a partial set: %+v", snap)
				}
			}
			_, err := s.Apply(bounded(t), store.Change{Items: []store.Item{flag("c", 1, "1")}})
			wantErr(t, err, ErrDamaged)
			// Something was committed here, whatever became of it.
			_, err = s.Apply(bounded(t), store.Change{Full: true, Base: store.Uncommitted})
			wantErr(t, err, store.ErrConflict)

			// The content that the digest still names is not what is there.
			repaired := apply(t, s, true, flag("a", 1, "1"), flag("b", 1, "1"))
			if snap := load(t, s, rev); repaired == rev || snap.Delta || len(snap.Items) != 2 {
				t.Errorf("after the repair: %+v", snap)
			}
		})
	}
}

// What was written over by hand shows neither in the digest nor in the counts.
func TestFullRepairsItemsThatWereOverwritten(t *testing.T) {
	for _, value := range []string{"garbage", "1|0|edited"} {
		s, c := open(t, server, newEnv()), rawClient(t, server)
		items := []store.Item{flag("a", 1, "1"), flag("b", 1, "1")}
		rev := apply(t, s, true, items...)
		c.HSet(bounded(t), s.data, "f:a", value)
		if _, err := s.Load(bounded(t), ""); value == "garbage" {
			wantErr(t, err, store.ErrDamaged, "f:a")
		}
		repaired := apply(t, s, true, items...)
		if snap := load(t, s, rev); repaired == rev || snap.Delta || !maps.Equal(content(snap.Items), content(items)) {
			t.Errorf("%s: after the repair: %+v", value, snap)
		}
		if again := apply(t, s, true, items...); again != repaired {
			t.Errorf("%s: Rev %q became %q without a change", value, repaired, again)
		}
	}
}

// Without the sorted set nobody knows what changed.
func TestLostSortedSetCostsTheDelta(t *testing.T) {
	s, c := open(t, server, newEnv()), rawClient(t, server)
	first := apply(t, s, false, flag("a", 1, "1"), flag("b", 1, "1"))
	apply(t, s, false, flag("a", 2, "2"))
	c.Del(bounded(t), s.sorted)
	if snap := load(t, s, first); snap.Delta || len(snap.Items) != 2 {
		t.Fatalf("%+v", snap)
	}
	third := apply(t, s, false, flag("b", 2, "2"))
	if snap := load(t, s, first); snap.Delta || len(snap.Items) != 2 {
		t.Fatalf("%+v", snap)
	}
	apply(t, s, false, flag("b", 3, "3"))
	if snap := load(t, s, third); !snap.Delta || len(snap.Items) != 1 {
		t.Fatalf("%+v", snap)
	}
}

func TestWrongType(t *testing.T) {
	s, c := open(t, server, newEnv()), rawClient(t, server)
	c.Set(bounded(t), s.data, "text", 0)
	_, err := s.Load(bounded(t), "")
	wantErr(t, err, nil, s.data, "wrong type")
	for _, full := range []bool{false, true} {
		_, err = s.Apply(bounded(t), store.Change{Full: full, Items: []store.Item{flag("a", 1, "1")}})
		wantErr(t, err, nil, s.data, "wrong type")
	}
	if c.Get(bounded(t), s.data).Val() != "text" {
		t.Error("somebody else's key was overwritten")
	}
}

func TestAnyBytes(t *testing.T) {
	s := open(t, server, newEnv())
	odd := []store.Item{
		flag("a|b", 1, "x|0|y|"), flag("$seq", 2, ""), flag("f:a", -3, "\x00\xff\r\n"),
		{Kind: store.Segment, Key: "a|b", Version: 1<<53 - 1, Archived: true, Data: []byte("|")},
		{Kind: store.Segment, Key: "\xff\x00 {}", Version: 1<<53 - 2, Data: []byte("{}")},
	}
	for _, full := range []bool{false, true} {
		apply(t, s, full, odd...)
		if got := content(load(t, s, "").Items); !maps.Equal(got, content(odd)) {
			t.Fatalf("full %t: got %q", full, got)
		}
	}
	apply(t, s, false, store.Item{Kind: store.Segment, Key: "\xff\x00 {}", Version: 1<<53 - 1, Data: []byte("new")})
	if got := content(load(t, s, "").Items)["s:\xff\x00 {}"]; got != "9007199254740991|0|new" {
		t.Fatalf("got %q", got)
	}
	for _, bad := range []store.Item{{Key: "a"}, {Kind: store.Flag}, flag("a", 1<<53, "")} {
		if _, err := s.Apply(bounded(t), store.Change{Items: []store.Item{bad}}); err == nil {
			t.Errorf("no error for %+v", bad)
		}
	}
}

func TestAppliedTwiceCommitsOnce(t *testing.T) {
	s := open(t, server, newEnv())
	base := apply(t, s, false, flag("a", 1, "1"))
	for _, c := range []store.Change{
		{Items: []store.Item{flag("a", 2, "2"), flag("b", 1, "1")}},
		{Full: true, Items: []store.Item{flag("a", 9, "9")}},
	} {
		var revs []store.Rev
		for range 2 {
			rev, err := s.Apply(bounded(t), c)
			if err != nil {
				t.Fatal(err)
			}
			revs = append(revs, rev)
		}
		if revs[0] == base || revs[0] != revs[1] {
			t.Errorf("full %t: %q after %q", c.Full, revs, base)
		}
		base = revs[0]
	}
}

func TestManyChangesAreLoadedWhole(t *testing.T) {
	s := open(t, server, newEnv())
	first := apply(t, s, true, flag("a", 1, "1"))
	var many []store.Item
	for i := range deltaMax {
		many = append(many, flag(fmt.Sprint(i), 1, "1"))
	}
	second := apply(t, s, false, many...)
	if snap := load(t, s, first); !snap.Delta || len(snap.Items) != deltaMax {
		t.Fatalf("Delta %t with %d items", snap.Delta, len(snap.Items))
	}
	apply(t, s, false, flag("one more", 1, "1"))
	if snap := load(t, s, first); snap.Delta || len(snap.Items) != deltaMax+2 {
		t.Fatalf("Delta %t with %d items", snap.Delta, len(snap.Items))
	}
	if snap := load(t, s, second); !snap.Delta || len(snap.Items) != 1 {
		t.Fatalf("Delta %t with %d items", snap.Delta, len(snap.Items))
	}
}

func TestNothingIsLeftStaged(t *testing.T) {
	srv := redistest.Start(t)
	s, c := open(t, srv, "x"), rawClient(t, srv)
	rev := apply(t, s, true, flag("a", 1, "1"))
	apply(t, s, true, flag("a", 1, "1"))
	if ttl := c.TTL(bounded(t), s.data).Val(); ttl != -1 {
		t.Errorf("the data expires in %v", ttl)
	}
	if n := c.DBSize(bounded(t)).Val(); n != 1 {
		t.Errorf("%d keys", n)
	}
	_, err := s.Apply(bounded(t), store.Change{Full: true, Base: "other", Items: []store.Item{flag("b", 1, "1")}})
	wantErr(t, err, store.ErrConflict, `redis: change environment "x": `)
	if n := c.DBSize(bounded(t)).Val(); n != 1 || load(t, s, "").Rev != rev {
		t.Errorf("%d keys after a conflict", n)
	}
}

func TestServerDownAtFirst(t *testing.T) {
	srv := redistest.Start(t)
	srv.Stop(t)
	s := open(t, srv, "x")
	_, err := s.Load(bounded(t), "")
	wantErr(t, err, nil, `redis: load environment "x": `, "refused")
	wantErr(t, s.Watch(bounded(t), func() {}), nil, `redis: watch environment "x": `)
	srv.Restart(t)
	rev := apply(t, s, false, flag("a", 1, "1"))
	if got := load(t, s, "").Rev; got != rev {
		t.Errorf("Rev %q, want %q", got, rev)
	}
}

func TestFollowSurvivesARestart(t *testing.T) {
	srv := redistest.Start(t)
	reader, writer := open(t, srv, "x"), open(t, srv, "x")
	apply(t, writer, true, flag("a", 1, "old"), flag("b", 1, "old"))

	type news struct {
		snap store.Snapshot
		err  error
	}
	got := make(chan news, 1000)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		o := store.FollowOptions{Interval: 100 * time.Millisecond, MaxBackoff: 100 * time.Millisecond}
		store.Follow(ctx, reader, o, func(s store.Snapshot, err error) { got <- news{s, err} })
	})
	defer wg.Wait()
	defer cancel()

	state := map[string]string{}
	until := func(what string, ok func(news) bool) {
		t.Helper()
		for end := time.After(patience); ; {
			select {
			case n := <-got:
				if n.err == nil {
					if !n.snap.Delta {
						clear(state)
					}
					maps.Copy(state, content(n.snap.Items))
				}
				if ok(n) {
					return
				}
			case <-end:
				t.Fatalf("waited in vain for %s; state %q", what, state)
			}
		}
	}
	until("the first state", func(n news) bool { return state["f:a"] == "1|0|old" })
	srv.Stop(t)
	until("an error", func(n news) bool { return n.err != nil })
	srv.Restart(t)
	apply(t, writer, true, flag("a", 2, "new"))
	until("the newest state", func(n news) bool { return len(state) == 1 && state["f:a"] == "2|0|new" })
	apply(t, writer, false, flag("a", 3, "newer"))
	until("a delta", func(n news) bool { return state["f:a"] == "3|0|newer" })
}

// hung starts a server that never answers. It sends on the channel whenever it
// was asked something.
func hung(t *testing.T) (string, <-chan struct{}) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{}, 100)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				for b := make([]byte, 4096); ; {
					if _, err := c.Read(b); err != nil {
						return
					}
					asked <- struct{}{}
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return "redis://:s3cret@" + l.Addr().String(), asked
}

func TestHungServer(t *testing.T) {
	addr, _ := hung(t)
	s, err := Open(addr, &Options{Timeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = s.Apply(bounded(t), store.Change{Items: []store.Item{flag("a", 1, "1")}})
	wantErr(t, err, nil, "50ms")
	_, err = s.Load(bounded(t), "")
	wantErr(t, err, nil, "250ms")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err = s.Load(ctx, "")
	wantErr(t, err, context.DeadlineExceeded)
}

func TestCancelAndCloseDoNotWaitForTheServer(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(s *Store, cancel context.CancelFunc)
		want error
	}{
		{"cancel", func(_ *Store, cancel context.CancelFunc) { cancel() }, context.Canceled},
		{"close", func(s *Store, _ context.CancelFunc) { s.Close() }, store.ErrClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr, asked := hung(t)
			s, err := Open(addr, &Options{Timeout: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			errs := make(chan error, 4)
			change := store.Change{Items: []store.Item{flag("a", 1, "1")}}
			go func() { _, err := s.Load(ctx, ""); errs <- err }()
			go func() { _, err := s.Load(ctx, "e-1"); errs <- err }()
			go func() { _, err := s.Apply(ctx, change); errs <- err }()
			go func() { errs <- s.Watch(ctx, func() {}) }()
			for range cap(errs) { // each has a connection of its own
				<-asked
			}
			began := time.Now()
			c.end(s, cancel)
			defer s.Close()
			for range cap(errs) {
				wantErr(t, <-errs, c.want)
			}
			if d := time.Since(began); d > 5*time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
}

func TestWatchNoticesSilence(t *testing.T) {
	s := open(t, server, newEnv())
	s.quiet, s.silent = 20*time.Millisecond, 200*time.Millisecond
	woken := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Watch(ctx, func() { woken <- struct{}{} }) }()
	<-woken
	// The server answers pings, so that silence longer than the limit is none.
	select {
	case err := <-done:
		t.Fatal(err)
	case <-time.After(3 * s.silent):
	}
	// CLIENT PAUSE keeps the server from answering.
	c := rawClient(t, server)
	if err := c.Do(bounded(t), "CLIENT", "PAUSE", "600", "ALL").Err(); err != nil {
		t.Fatal(err)
	}
	wantErr(t, <-done, nil, "nothing heard")
	cancel()
}

func TestWakesAfterEveryCommit(t *testing.T) {
	env := newEnv()
	reader, writer := open(t, server, env), open(t, server, env)
	woken := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- reader.Watch(ctx, func() { woken <- struct{}{} }) }()
	<-woken
	for i := range int64(5) {
		began := time.Now()
		apply(t, writer, i%2 == 0, flag("a", i+1, fmt.Sprint(i)))
		<-woken
		t.Logf("woken %v after the start of the commit", time.Since(began))
	}
	cancel()
	wantErr(t, <-done, context.Canceled)
}

func TestNoPasswordInErrors(t *testing.T) {
	const secret = "s3cret"
	for _, bad := range []string{
		"", "x", "://s3cret", "http://:s3cret@h:1", "redis://", "redis:s3cret", "redis://:s3cret@", "redis://u:s3cret@h:99999x",
		"redis://:s3cret/more@h:1", "redis://:12/s3cret@h:1", "redis://:12?s3cret@h:1", "redis://:12#s3cret@h:1",
		"redis://:12/3?s3cret%40h", "redis://u:%zzs3cret@h", "redis://u:s3cret@h/a/b", "redis://u:s3cret@h/-1",
		"redis://u:s3cret@h?nonsense=1", "redis://u:s3cret@h?db=x", "unix://u:s3cret@/sock", "redis://u:s3cret@h?%zz",
	} {
		s, err := Open(bad, nil)
		if err == nil {
			s.Close()
			t.Errorf("%q: no error", bad)
			continue
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %v", bad, err)
		}
		if !strings.HasPrefix(err.Error(), "redis: bad URL") {
			t.Errorf("%q: %v", bad, err)
		}
	}

	// A server that quotes what it does not know.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for b := make([]byte, 4096); ; {
					if _, err := c.Read(b); err != nil {
						return
					}
					fmt.Fprintf(c, "-ERR unknown command 'AUTH', with args beginning with: '%s'\r\n", secret)
				}
			}()
		}
	}()
	down := redistest.Start(t)
	down.Stop(t)
	locked := redistest.Start(t)
	if err := rawClient(t, locked).ConfigSet(bounded(t), "requirepass", "another").Err(); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{l.Addr().String(), locked.Addr(), down.Addr()} {
		s, err := Open("redis://:"+secret+"@"+addr, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, loadErr := s.Load(bounded(t), "")
		_, applyErr := s.Apply(bounded(t), store.Change{Full: true})
		for _, err := range []error{loadErr, applyErr, s.Watch(bounded(t), func() {})} {
			if err == nil || strings.Contains(err.Error(), secret) {
				t.Errorf("%s: %v", addr, err)
			}
			t.Log(err)
		}
		s.Close()
	}
}

func TestNames(t *testing.T) {
	c := rawClient(t, server)
	seen := map[string]bool{}
	for _, o := range []*Options{nil, {Prefix: "a:b", Env: "c"}, {Prefix: "a", Env: "b:c"}, {Prefix: "a", Env: "b%3Ac"}, {Prefix: "}", Env: "{"}} {
		s := New(c, o)
		if seen[s.data] {
			t.Errorf("%+v shares %q", o, s.data)
		}
		seen[s.data] = true
		if strings.Count(s.data, "{") != 1 || strings.Count(s.data, "}") != 1 {
			t.Errorf("%q has no clear hash tag", s.data)
		}
		s.Close()
	}
	if !seen["{flagstead:default}:d"] {
		t.Error("other keys than documented")
	}
	s, err := Open("rediss://h?prefix=p&env=e", &Options{Prefix: "x", Env: "y"})
	if err != nil || s.data != "{p:e}:d" {
		t.Errorf("%v, %v", s, err)
	}
	s.Close()
	if err := c.Ping(bounded(t)).Err(); err != nil {
		t.Errorf("Close closed the caller's client: %v", err)
	}
}
