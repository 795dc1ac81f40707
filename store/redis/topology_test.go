package redis

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/storetest"
)

// openURL opens env at a URL that may have parameters already.
func openURL(t testing.TB, raw, env string, o *Options) *Store {
	t.Helper()
	join := "?"
	if strings.Contains(raw, "?") {
		join = "&"
	}
	s, err := Open(raw+join+"env="+url.QueryEscape(env), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// contract runs the suite on the servers at a URL, with a failover in the middle
// of it.
func contract(t *testing.T, raw string, failover func(t testing.TB, env string)) {
	opened := 0
	defer func() {
		if opened < 40 {
			t.Errorf("only %d places were opened, there was no failover", opened)
		}
	}()
	storetest.Run(t, storetest.Options{
		Open: func(t testing.TB) store.DataStore {
			env := newEnv()
			if opened++; opened == 40 {
				failover(t, env)
			}
			return openURL(t, raw, env, nil)
		},
		Reopen: func(t testing.TB, first store.DataStore) store.DataStore {
			return openURL(t, raw, first.(*Store).opts.Env, nil)
		},
		ReopenedWrites: true,
		Flush: func(t testing.TB, s store.DataStore) {
			r := s.(*Store)
			if err := r.client.Del(bounded(t), r.data, r.sorted).Err(); err != nil {
				t.Fatal(err)
			}
		},
	})
}

func TestContractOnSentinel(t *testing.T) {
	sentinels := redistest.StartSentinel(t, 1, redistest.Options{})
	contract(t, sentinels.URL(), func(t testing.TB, _ string) {
		sentinels.KillMaster(t)
		sentinels.AwaitAgreement(t)
	})
}

func TestContractOnCluster(t *testing.T) {
	cluster := redistest.StartCluster(t, redistest.Options{})
	contract(t, cluster.URL(), func(t testing.TB, env string) {
		cluster.KillMasterOf(t, newStore((&Options{Env: env}).withDefaults()).data)
	})
}

// A run is a writer that writes all the time, one flag's version counting up, and
// a reader that follows it.
type run struct {
	writer, reader *Store
	stop           context.CancelFunc
	done           sync.WaitGroup

	mu      sync.Mutex
	written int64 // last version that was acknowledged
	outage  time.Duration
	state   map[string]string
	seen    int64 // last version that the reader was given
	readErr error // last one, nil since something was delivered
}

const steady = 50 // flags that nobody changes

// startRun starts both. Only the failing of tests stops them before t is done.
func startRun(t *testing.T, writer, reader *Store) *run {
	t.Helper()
	items := []store.Item{flag("n", 0, "0")}
	for i := range steady {
		items = append(items, flag(fmt.Sprint("steady-", i), 1, strings.Repeat("x", 200)))
	}
	apply(t, writer, true, items...)
	ctx, stop := context.WithCancel(context.Background())
	r := &run{writer: writer, reader: reader, stop: stop, state: map[string]string{}}
	t.Cleanup(func() { stop(); r.done.Wait() })
	r.done.Go(func() { r.write(ctx) })
	r.done.Go(func() {
		o := store.FollowOptions{Interval: 200 * time.Millisecond, MaxBackoff: 200 * time.Millisecond}
		store.Follow(ctx, reader, o, func(s store.Snapshot, err error) { r.read(t, s, err) })
	})
	r.await(t, "the first commits", func() bool { return r.seen > 10 })
	return r
}

func (r *run) write(ctx context.Context) {
	last := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for n := int64(1); ctx.Err() == nil; {
		callCtx, cancel := context.WithTimeout(ctx, time.Second)
		_, err := r.writer.Apply(callCtx, store.Change{Items: []store.Item{flag("n", n, fmt.Sprint(n))}})
		cancel()
		if err == nil {
			r.mu.Lock()
			r.written, r.outage = n, max(r.outage, time.Since(last))
			r.mu.Unlock()
			last = time.Now()
			n++
		}
		<-tick.C
	}
}

func (r *run) read(t *testing.T, s store.Snapshot, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.readErr = err
	if err != nil {
		return
	}
	if !s.Delta {
		r.state = map[string]string{}
	}
	maps.Copy(r.state, content(s.Items))
	if len(r.state) != steady+1 {
		t.Errorf("at %q: %d flags instead of %d", s.Rev, len(r.state), steady+1)
	}
	var n int64
	fmt.Sscanf(r.state["f:n"], "%d|", &n)
	if n < r.seen { // not even if the server lost commits
		t.Errorf("at %q: version %d after %d", s.Rev, n, r.seen)
	}
	r.seen = n
}

// await waits for what both did.
func (r *run) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(patience); ; {
		r.mu.Lock()
		done := ok()
		r.mu.Unlock()
		if done {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			r.mu.Lock()
			defer r.mu.Unlock()
			t.Fatalf("waited in vain for %s: wrote %d, saw %d, reader's error %v", what, r.written, r.seen, r.readErr)
		}
	}
}

// resumes waits until both work after a failover that is over, and returns how
// long that takes the writer.
func (r *run) resumes(t *testing.T) time.Duration {
	t.Helper()
	over := time.Now()
	r.mu.Lock()
	from := r.written
	r.mu.Unlock()
	r.await(t, "writes", func() bool { return r.written > from+5 })
	took := time.Since(over)
	r.await(t, "a reader that is up to date", func() bool { return r.readErr == nil && r.seen > from+5 })
	return took
}

// longest returns the writer's longest outage so far.
func (r *run) longest() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.outage
}

// moves waits until the writer's commits arrive at a server, and forgets the outage
// until then.
func (r *run) moves(t *testing.T, to *redistest.Server) {
	t.Helper()
	r.mu.Lock()
	from := r.written
	r.mu.Unlock()
	eventually(t, "writes at the new master", func() bool {
		return versionOf(to.Must(t, "HGET", r.writer.data, "f:n")) > from
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outage = 0
}

// end stops both and compares what they have.
func (r *run) end(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	state := maps.Clone(r.state)
	r.mu.Unlock()
	r.stop()
	r.done.Wait()
	want := content(load(t, r.writer, "").Items)
	for k, v := range state { // what the reader has and the writer did not change
		if k != "f:n" && want[k] != v {
			t.Errorf("%s is %q, the reader has %q", k, want[k], v)
		}
	}
	if got := content(load(t, r.reader, "").Items); !maps.Equal(got, want) {
		t.Errorf("the reader has %d flags, the writer %d", len(got), len(want))
	}
}

func TestSentinelFailover(t *testing.T) {
	cluster := redistest.StartSentinel(t, 2, redistest.Options{})
	env := newEnv()
	r := startRun(t, openURL(t, cluster.URL(), env, nil), openURL(t, cluster.URL(), env, nil))

	cluster.Failover(t)
	t.Logf("after an ordered failover writes resume within %v; outage in all %v", r.resumes(t), r.longest())

	// Sentinel tells the old master about ten seconds later. What went there
	// meanwhile is lost.
	r.moves(t, cluster.Master(t))
	cluster.KillMaster(t)
	t.Logf("after a crash writes resume within %v; outage in all %v", r.resumes(t), r.longest())
	r.end(t)
}

// What is wrong with an address is said in words that help.
func TestWrongKindOfAddress(t *testing.T) {
	sentinels := redistest.StartSentinel(t, 1, redistest.Options{})
	s := openURL(t, strings.Replace(sentinels.URL(), redistest.MasterName, "nobody", 1), newEnv(), nil)
	_, err := s.Load(bounded(t), "")
	wantErr(t, err, nil, "no Sentinel knows a master of that name")

	cluster := redistest.StartCluster(t, redistest.Options{})
	env := newEnv()
	holder := cluster.MasterOf(t, newStore((&Options{Env: env}).withDefaults()).data)
	for _, node := range cluster.Servers {
		if node == holder {
			continue
		}
		_, err := openURL(t, node.URL(), env, nil).Load(bounded(t), "")
		wantErr(t, err, nil, "use redis+cluster://")
		break
	}
}

// A master that hangs is worse than one that died: its connections stay open.
func TestSentinelFailoverOfAFrozenMaster(t *testing.T) {
	cluster := redistest.StartSentinel(t, 1, redistest.Options{})
	env := newEnv()
	o := &Options{Timeout: 500 * time.Millisecond}
	r := startRun(t, openURL(t, cluster.URL(), env, o), openURL(t, cluster.URL(), env, o))
	old := cluster.Master(t)
	old.Freeze(t)
	cluster.AwaitFailover(t, old)
	t.Logf("writes resume within %v; outage in all %v", r.resumes(t), r.longest())
	old.Thaw(t)
	r.resumes(t)
	r.end(t)
}

func TestClusterFailover(t *testing.T) {
	cluster := redistest.StartCluster(t, redistest.Options{})
	env := newEnv()
	r := startRun(t, openURL(t, cluster.URL(), env, nil), openURL(t, cluster.URL(), env, nil))

	cluster.FailoverOf(t, r.writer.data)
	t.Logf("after an ordered failover writes resume within %v; outage in all %v", r.resumes(t), r.longest())
	cluster.Await(t, 3)

	r.moves(t, cluster.MasterOf(t, r.writer.data))
	cluster.KillMasterOf(t, r.writer.data)
	t.Logf("after a crash writes resume within %v; outage in all %v", r.resumes(t), r.longest())
	r.end(t)
}

// The keys of one environment are in one slot, which may move.
func TestClusterSlotMoves(t *testing.T) {
	cluster := redistest.StartCluster(t, redistest.Options{})
	env := newEnv()
	r := startRun(t, openURL(t, cluster.URL(), env, nil), openURL(t, cluster.URL(), env, nil))
	from := cluster.MasterOf(t, r.writer.data)
	to := cluster.Servers[0]
	if to == from {
		to = cluster.Servers[1]
	}
	slot := from.Must(t, "CLUSTER", "KEYSLOT", r.writer.data)
	fromID, toID := from.Must(t, "CLUSTER", "MYID"), to.Must(t, "CLUSTER", "MYID")
	to.Must(t, "CLUSTER", "SETSLOT", slot, "IMPORTING", fromID)
	from.Must(t, "CLUSTER", "SETSLOT", slot, "MIGRATING", toID)
	_, port, _ := strings.Cut(to.Addr(), ":")
	for moved := false; !moved; { // keys that are written meanwhile
		keys := from.Must(t, "CLUSTER", "GETKEYSINSLOT", slot, "100")
		if moved = keys == ""; !moved {
			from.Must(t, append([]string{"MIGRATE", "127.0.0.1", port, "", "0", "5000", "KEYS"}, strings.Split(keys, "\n")...)...)
		}
	}
	to.Must(t, "CLUSTER", "SETSLOT", slot, "NODE", toID)
	from.Must(t, "CLUSTER", "SETSLOT", slot, "NODE", toID)
	t.Logf("after the move writes resume within %v; outage in all %v", r.resumes(t), r.longest())
	r.end(t)
}

func TestClientsOfTheCaller(t *testing.T) {
	sentinels := redistest.StartSentinel(t, 1, redistest.Options{})
	nodes := redistest.StartCluster(t, redistest.Options{})
	for name, client := range map[string]goredis.UniversalClient{
		"single": goredis.NewClient(&goredis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true}),
		"sentinel": goredis.NewFailoverClient(&goredis.FailoverOptions{
			SentinelAddrs: sentinels.Addrs(), MasterName: redistest.MasterName, ContextTimeoutEnabled: true}),
		"cluster":   goredis.NewClusterClient(&goredis.ClusterOptions{Addrs: nodes.Addrs(), ContextTimeoutEnabled: true}),
		"universal": goredis.NewUniversalClient(&goredis.UniversalOptions{Addrs: nodes.Addrs(), ContextTimeoutEnabled: true}),
	} {
		t.Run(name, func(t *testing.T) {
			s := New(client, &Options{Env: newEnv()})
			ctx, cancel := context.WithCancel(bounded(t))
			woken, ended := make(chan struct{}, 10), make(chan error, 1)
			go func() { ended <- s.Watch(ctx, func() { woken <- struct{}{} }) }()
			<-woken
			first := apply(t, s, true, flag("a", 1, "1"))
			<-woken
			second := apply(t, s, false, flag("b", 1, "1"))
			if snap := load(t, s, first); !snap.Delta || snap.Rev != second || len(snap.Items) != 1 {
				t.Errorf("%+v", snap)
			}
			cancel()
			wantErr(t, <-ended, context.Canceled)
			s.Close()
			if _, err := s.Load(bounded(t), ""); !errors.Is(err, store.ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
			if err := client.Ping(bounded(t)).Err(); err != nil {
				t.Errorf("Close closed the caller's client: %v", err)
			}
			if err := client.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDatabaseNumber(t *testing.T) {
	env := newEnv()
	one, other := openURL(t, server.URL()+"/1", env, nil), openURL(t, server.URL()+"/0", env, nil)
	apply(t, one, true, flag("a", 1, "1"))
	if snap := load(t, other, ""); snap.Rev != "" {
		t.Errorf("database 0 has %+v", snap)
	}
	if n := rawClient(t, server).Exists(bounded(t), one.data).Val(); n != 0 {
		t.Error("database 0 has the key")
	}
	replicated := redistest.StartSentinel(t, 1, redistest.Options{})
	s := openURL(t, strings.Replace(replicated.URL(), "/0?", "/2?", 1), env, nil)
	apply(t, s, true, flag("a", 1, "1"))
	if got := replicated.Master(t).Must(t, "INFO", "keyspace"); !strings.Contains(got, "db2:keys=1") || strings.Contains(got, "db0") {
		t.Errorf("keyspace %q", got)
	}
}
