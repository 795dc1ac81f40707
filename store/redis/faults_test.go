package redis

import (
	"bytes"
	"context"
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

func TestOutOfMemory(t *testing.T) {
	srv := redistest.StartWith(t, redistest.Options{Args: []string{"--maxmemory", "16mb"}})
	s, c := open(t, srv, "x"), rawClient(t, srv)
	old := []store.Item{flag("a", 1, "1"), flag("b", 1, "1")}
	rev := apply(t, s, true, old...)
	refused := func(err error) {
		t.Helper()
		wantErr(t, err, nil, "out of memory", "wrote nothing", "OOM")
		for _, h := range []*Store{s, open(t, srv, "x")} {
			if snap := load(t, h, ""); snap.Rev != rev || !maps.Equal(content(snap.Items), content(old)) {
				t.Errorf("after a change that was refused: %+v", snap)
			}
		}
	}

	// Not all of it fits.
	var big []store.Item
	for i := range 200 {
		big = append(big, flag(fmt.Sprint(i), 2, strings.Repeat("x", 100_000)))
	}
	_, err := s.Apply(bounded(t), store.Change{Full: true, Items: big})
	refused(err)
	if keys := srv.Must(t, "KEYS", "*"); keys != s.data {
		t.Errorf("what was staged is still there: %q", keys)
	}

	// Another tenant has all the rest.
	for i := 0; ; i++ {
		if err := c.Set(bounded(t), fmt.Sprint("tenant-", i), strings.Repeat("x", 100_000), 0).Err(); err != nil {
			break
		}
	}
	for i := 0; ; i++ {
		if err := c.Set(bounded(t), fmt.Sprint("tenant-small-", i), "x", 0).Err(); err != nil {
			break
		}
	}
	_, err = s.Apply(bounded(t), store.Change{Items: []store.Item{flag("a", 2, "2"), flag("c", 1, "1")}})
	refused(err)
	_, err = s.Apply(bounded(t), store.Change{Full: true, Items: []store.Item{flag("a", 2, "2")}})
	refused(err)
	wantErr(t, s.WriteHeartbeat(bounded(t), store.Heartbeat{Source: "ok", Writer: "w"}), nil, "out of memory")

	srv.Must(t, "CONFIG", "SET", "maxmemory", "0")
	next := apply(t, s, false, flag("a", 2, "2"))
	if snap := load(t, s, rev); snap.Rev != next || !snap.Delta || len(snap.Items) != 1 {
		t.Errorf("after there was memory again: %+v", snap)
	}
}

func TestEviction(t *testing.T) {
	srv := redistest.StartWith(t, redistest.Options{Args: []string{"--maxmemory", "8mb", "--maxmemory-policy", "allkeys-lru"}})
	c := rawClient(t, srv)
	var out bytes.Buffer
	s, err := Open(srv.URL(), &Options{Env: "x", Logger: slog.New(slog.NewTextHandler(&out, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	rev := apply(t, s, true, flag("a", 1, "1"), flag("b", 1, "1"))
	for range 3 {
		load(t, s, rev)
	}
	if n := strings.Count(out.String(), "may evict the flags"); n != 1 || !strings.Contains(out.String(), "allkeys-lru") {
		t.Errorf("warned %d times: %s", n, out.String())
	}
	for i := 0; c.Exists(bounded(t), s.data).Val() != 0; i++ {
		c.Set(bounded(t), fmt.Sprint("tenant-", i), strings.Repeat("x", 100_000), 0)
	}
	if snap := load(t, s, rev); snap.Rev != "" || snap.Delta {
		t.Errorf("after all of it was evicted: %+v", snap)
	}
	if again := apply(t, s, true, flag("a", 1, "1"), flag("b", 1, "1")); again == rev {
		t.Errorf("%q came again", rev)
	}
}

func TestNoWarning(t *testing.T) {
	restricted := redistest.StartWith(t, redistest.Options{Args: []string{"--maxmemory", "8mb", "--maxmemory-policy", "allkeys-lru"}})
	restricted.Must(t, append([]string{"ACL", "SETUSER", "syncer", "on", ">s3cret"}, strings.Fields(syncerRules)...)...)
	for name, tc := range map[string]struct {
		url  string
		user string
		args []string
	}{
		"no limit":       {redistest.Start(t).URL(), "", nil},
		"noeviction":     {redistest.StartWith(t, redistest.Options{Args: []string{"--maxmemory", "8mb"}}).URL(), "", nil},
		"volatile":       {redistest.StartWith(t, redistest.Options{Args: []string{"--maxmemory", "8mb", "--maxmemory-policy", "volatile-lru"}}).URL(), "", nil},
		"INFO forbidden": {restricted.URL(), "syncer", nil},
	} {
		var out bytes.Buffer
		o := &Options{Logger: slog.New(slog.NewTextHandler(&out, nil)), Username: tc.user}
		if tc.user != "" {
			o.Password = "s3cret"
		}
		s := openURL(t, tc.url, "prod", o)
		apply(t, s, true, flag("a", 1, "1"))
		load(t, s, "")
		if out.Len() != 0 || !s.warned.Load() {
			t.Errorf("%s: asked %t, said %s", name, s.warned.Load(), out.String())
		}
	}
}

func TestReplica(t *testing.T) {
	master := redistest.Start(t)
	replica := redistest.StartWith(t, redistest.Options{Args: []string{"--replica-serve-stale-data", "no"}})
	replica.Must(t, "REPLICAOF", "127.0.0.1", strings.TrimPrefix(master.Addr(), "127.0.0.1:"))
	eventually(t, "replication", func() bool { return strings.Contains(replica.Must(t, "INFO", "replication"), "master_link_status:up") })
	writer, reader := open(t, master, "x"), open(t, replica, "x")
	woken := watch(t, reader)
	rev := apply(t, writer, true, flag("a", 1, "1"))
	<-woken
	eventually(t, "the replica's copy", func() bool { return load(t, reader, "").Rev == rev })
	next := apply(t, writer, false, flag("a", 2, "2"))
	<-woken
	if snap := load(t, reader, rev); snap.Rev != next || len(snap.Items) != 1 {
		t.Errorf("%+v", snap)
	}
	for _, full := range []bool{false, true} {
		_, err := reader.Apply(bounded(t), store.Change{Full: full, Items: []store.Item{flag("a", 9, "9")}})
		wantErr(t, err, nil, "the address is that of a replica")
	}
	master.Stop(t)
	eventually(t, "the end of the link", func() bool {
		return strings.Contains(replica.Must(t, "INFO", "replication"), "master_link_status:down")
	})
	_, err := reader.Load(bounded(t), next)
	wantErr(t, err, nil, "replica without a master")
}

func TestServerThatLoads(t *testing.T) {
	srv := redistest.StartWith(t, redistest.Options{Args: []string{
		"--enable-debug-command", "yes", "--loading-process-events-interval-bytes", "1024"}})
	s, c := open(t, srv, "x"), rawClient(t, srv)
	rev := apply(t, s, true, flag("a", 1, "1"))
	for i := range 100 {
		c.Set(bounded(t), fmt.Sprint(i), strings.Repeat("x", 5000), 0)
	}
	srv.Must(t, "CONFIG", "SET", "key-load-delay", "10000")
	done := make(chan error, 1)
	go func() { _, err := srv.Do("DEBUG", "RELOAD"); done <- err }()
	var err error
	eventually(t, "a server that loads", func() bool {
		_, err = s.Load(bounded(t), rev)
		return goredis.IsLoadingError(err)
	})
	wantErr(t, err, nil, "is reading its data")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if snap := load(t, s, rev); snap.Rev != rev {
		t.Errorf("%+v", snap)
	}
}

func TestScriptsAreFlushed(t *testing.T) {
	srv := redistest.Start(t)
	s := open(t, srv, "x")
	var rev store.Rev
	for n := range int64(4) {
		srv.Must(t, "SCRIPT", "FLUSH")
		next := apply(t, s, n%2 == 0, flag("a", n+1, fmt.Sprint(n)))
		srv.Must(t, "SCRIPT", "FLUSH")
		if snap := load(t, s, rev); snap.Rev != next {
			t.Errorf("%+v", snap)
		}
		srv.Must(t, "SCRIPT", "FLUSH")
		if err := s.WriteHeartbeat(bounded(t), store.Heartbeat{Writer: "w"}); err != nil {
			t.Error(err)
		}
		rev = next
	}
}

func TestConnectionsAreKilled(t *testing.T) {
	srv := redistest.Start(t)
	r := startRun(t, open(t, srv, "x"), open(t, srv, "x"))
	for range 20 {
		for _, kind := range []string{"normal", "pubsub"} {
			srv.Must(t, "CLIENT", "KILL", "TYPE", kind)
		}
		r.resumes(t)
	}
	r.end(t)
}

func TestPausedServer(t *testing.T) {
	srv := redistest.Start(t)
	o := &Options{Timeout: 100 * time.Millisecond}
	r := startRun(t, openURL(t, srv.URL(), "x", o), openURL(t, srv.URL(), "x", o))
	for _, mode := range []string{"WRITE", "ALL"} {
		srv.Must(t, "CLIENT", "PAUSE", "700", mode)
		if _, err := r.writer.Apply(bounded(t), store.Change{Items: []store.Item{flag("n", 0, "")}}); err == nil && mode == "ALL" {
			t.Errorf("%s: no error", mode)
		} else if err != nil {
			wantErr(t, err, nil, "no answer within 100ms")
		}
		r.resumes(t)
	}
	r.end(t)
}

// A meddler has something happen before the next run of a script.
type meddler struct {
	hash string
	act  func()
}

func (meddler) DialHook(next goredis.DialHook) goredis.DialHook { return next }
func (meddler) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return next
}
func (b meddler) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook {
	return func(ctx context.Context, cmd goredis.Cmder) error {
		if args := cmd.Args(); len(args) > 1 && args[1] == b.hash {
			b.act()
		}
		return next(ctx, cmd)
	}
}

func TestStagedContentIsLost(t *testing.T) {
	s, c := open(t, server, newEnv()), rawClient(t, server)
	rev := apply(t, s, true, flag("a", 1, "1"))
	patched := open(t, server, s.opts.Env)
	for name, harm := range map[string]func(stage string){
		"gone":  func(stage string) { c.Del(bounded(t), stage) },
		"holes": func(stage string) { c.HDel(bounded(t), stage, "f:x") },
	} {
		hurt := open(t, server, s.opts.Env)
		hurt.client.AddHook(meddler{fullScript.Hash(), func() {
			for _, key := range c.Keys(bounded(t), strings.ReplaceAll(s.stage, "{", "[{]")+"*").Val() {
				harm(key)
			}
		}})
		_, err := hurt.Apply(bounded(t), store.Change{Full: true, Items: []store.Item{flag("x", 1, "1"), flag("y", 1, "1")}})
		wantErr(t, err, nil, "the staged content expired or was evicted")
		if snap := load(t, patched, ""); snap.Rev != rev || len(snap.Items) != 1 {
			t.Errorf("%s: %+v", name, snap)
		}
		if keys := c.Keys(bounded(t), strings.ReplaceAll(s.stage, "{", "[{]")+"*").Val(); len(keys) != 0 {
			t.Errorf("%s: left %q", name, keys)
		}
	}
}

// A reader that hears nothing of a flush finds out and gets what comes next.
func TestFollowThroughFlushes(t *testing.T) {
	srv := redistest.Start(t)
	writer, reader := open(t, srv, "x"), open(t, srv, "x")
	var mu sync.Mutex
	state, rev := map[string]string{}, store.Rev("?")
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	defer done.Wait()
	defer cancel()
	done.Go(func() {
		o := store.FollowOptions{Interval: 50 * time.Millisecond, MaxBackoff: 50 * time.Millisecond}
		store.Follow(ctx, reader, o, func(s store.Snapshot, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				return
			}
			if !s.Delta {
				clear(state)
			}
			maps.Copy(state, content(s.Items))
			rev = s.Rev
		})
	})
	shows := func(want store.Rev, items map[string]string) {
		t.Helper()
		eventually(t, fmt.Sprintf("%q", want), func() bool {
			mu.Lock()
			defer mu.Unlock()
			return rev == want && maps.Equal(state, items)
		})
	}
	for n := range int64(5) {
		items := []store.Item{flag("a", n, fmt.Sprint(n)), flag(fmt.Sprint("b", n), 1, "1")}
		want := apply(t, writer, n%2 == 0, items...)
		shows(want, content(items))
		want = apply(t, writer, false, flag("c", n, "1"))
		items = append(items, flag("c", n, "1"))
		shows(want, content(items))
		srv.FlushAll(t)
		shows("", map[string]string{})
	}
}
