package flagstead

import (
	"context"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"go.uber.org/goleak"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/bolt"
	"github.com/flagstead/flagstead/store/file"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/store/redis"
	"github.com/flagstead/flagstead/syncer"
)

func TestMain(m *testing.M) {
	goredis.SetLogger(&logging.VoidLogger{})
	// go-redis looks once a second whether a pool that cannot dial was closed.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

const patience = 20 * time.Second

// until waits for a condition and says how long that took.
func until(t *testing.T, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("never happened: %s", what)
		case <-tick.C:
		}
	}
	return time.Since(began)
}

// boolFlag is on or off for everybody.
func boolFlag(key string, on bool, version int64) store.Item {
	id := map[bool]string{true: "t", false: "f"}[on]
	data := fmt.Sprintf(`{"id":%q,"key":%q,"name":%q,"variationType":"boolean","isEnabled":true,"isArchived":false,"disabledVariationId":"f",
"variations":[{"id":"t","value":"true"},{"id":"f","value":"false"}],"targetUsers":[],"rules":[],
"fallthrough":{"includedInExpt":true,"variations":[{"id":%q,"rollout":[0,1],"exptRollout":1}]},"updatedAt":%q}`,
		key, key, key, id, wire.FormatMillis(version))
	return store.Item{Kind: store.Flag, Key: key, Version: version, Data: []byte(data)}
}

func boolFlags(n int, on bool, version int64) []store.Item {
	items := make([]store.Item, n)
	for i := range items {
		items[i] = boolFlag(fmt.Sprintf("f%d", i), on, version+int64(i))
	}
	return items
}

// A company is a FeatBit, of which the store is the database.
type company struct {
	store  *memory.Store
	secret protocol.Secret
	url    string
}

func found(t *testing.T, items ...store.Item) *company {
	t.Helper()
	secret, err := protocol.NewSecret(protocol.NewEnvID())
	if err != nil {
		t.Fatal(err)
	}
	c := &company{store: memory.New(), secret: secret}
	c.set(t, true, items...)
	r, err := relay.New(relay.Config{Store: c.store, Secrets: []relay.Secret{secret}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { r.Run(ctx); close(done) }()
	srv := httptest.NewServer(r)
	c.url = srv.URL
	t.Cleanup(func() {
		cancel()
		<-done
		srv.Close()
		c.store.Close()
	})
	return c
}

func (c *company) set(t *testing.T, full bool, items ...store.Item) {
	t.Helper()
	if _, err := c.store.Apply(t.Context(), store.Change{Full: full, Items: items}); err != nil {
		t.Fatal(err)
	}
}

// sync keeps st equal to c until the returned function is called.
func (c *company) sync(t *testing.T, st store.DataStore) (*syncer.Syncer, func()) {
	t.Helper()
	s, err := syncer.New(syncer.Config{URL: c.url, Secret: c.secret, Store: st})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	var once sync.Once
	stop := func() { once.Do(func() { cancel(); <-done }) }
	t.Cleanup(stop)
	until(t, "the syncer is OK", func() bool { return s.Status().State == syncer.OK })
	return s, stop
}

func openRedis(t *testing.T, srv *redistest.Server) *redis.Store {
	t.Helper()
	st, err := redis.Open(srv.URL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

func newClient(t *testing.T, cfg sdk.Config) *sdk.Client {
	t.Helper()
	c, err := sdk.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		c.Close(ctx)
	})
	return c
}

func newUser(t *testing.T) *sdk.User {
	t.Helper()
	u, err := sdk.NewUser("ann")
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestFlushedRedis: a flushed Redis is whole again within a check interval (and the
// time that writing takes), and no reader ever serves fewer flags, or other ones.
func TestFlushedRedis(t *testing.T) {
	const flags, flushes = 500, 8
	srv := redistest.Start(t)
	featbit := found(t, boolFlags(flags, true, 1)...)
	st := openRedis(t, srv)
	s, _ := featbit.sync(t, st)

	ann := newUser(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var evaluations, wrong atomic.Int64
	for range 3 {
		c := newClient(t, sdk.Config{Store: openRedis(t, srv)})
		until(t, "a reader is ready", c.Ready)
		wg.Go(func() {
			for tick := time.Tick(5 * time.Millisecond); ctx.Err() == nil; <-tick {
				for i := range flags {
					evaluations.Add(1)
					if !c.Bool(fmt.Sprintf("f%d", i), ann, false) {
						wrong.Add(1)
					}
				}
			}
		})
	}
	worst := time.Duration(0)
	for range flushes {
		srv.FlushAll(t)
		took := until(t, "Redis is whole", func() bool {
			snap, err := st.Load(t.Context(), "")
			return err == nil && len(snap.Items) == flags
		})
		worst = max(worst, took)
	}
	cancel()
	wg.Wait()
	if wrong.Load() > 0 || evaluations.Load() == 0 {
		t.Errorf("%d of %d evaluations gave the default", wrong.Load(), evaluations.Load())
	}
	// The default of Check is a second. What is much beyond it is a busy machine.
	if worst > 10*time.Second {
		t.Errorf("whole again after %v", worst)
	}
	if s.Status().Heals < flushes {
		t.Errorf("%d heals of %d flushes", s.Status().Heals, flushes)
	}
	t.Logf("%d flushes: whole again after at most %v; %d evaluations by 3 readers meanwhile, %d of them wrong", flushes, worst.Round(time.Millisecond), evaluations.Load(), wrong.Load())
}

// TestStartWithEverythingDown: a pod that starts while FeatBit and Redis are both
// down has the flags that it saw last, one that never saw any has those it was
// shipped with, and both say so. When Redis is back its flags are served.
func TestStartWithEverythingDown(t *testing.T) {
	for _, kind := range []string{"file", "bolt"} {
		t.Run(kind, func(t *testing.T) {
			srv := redistest.Start(t)
			shipped := memory.New()
			defer shipped.Close()
			if _, err := shipped.Apply(t.Context(), store.Change{Full: true, Items: []store.Item{boolFlag("shipped", true, 1)}}); err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			openCopy := func() store.DataStore {
				var st store.DataStore
				var err error
				if kind == "bolt" {
					st, err = bolt.Open(filepath.Join(dir, "copy.db"), nil)
				} else {
					st, err = file.Open(filepath.Join(dir, "copy.json"), nil)
				}
				if err != nil {
					t.Fatal(err)
				}
				return st
			}
			// pod starts a process, so to speak.
			pod := func() (*sdk.Client, func()) {
				st, kept := openRedis(t, srv), openCopy()
				layers := store.Layered(store.Named("redis", st), store.Named("copy", store.LastGood(kept)), store.Named("shipped", shipped))
				c := newClient(t, sdk.Config{Store: layers})
				return c, func() {
					c.Close(t.Context())
					layers.Close()
					kept.Close()
					st.Close()
				}
			}
			ann := newUser(t)

			// Never saw anything.
			srv.Stop(t)
			c, end := pod()
			until(t, "the first pod is ready", c.Ready)
			if s := c.Status(); !c.Bool("shipped", ann, false) || s.Layer != "shipped" || s.State != sdk.Interrupted || s.Err == nil || !strings.Contains(s.Err.Error(), "redis: ") {
				t.Errorf("with nothing but what was shipped: %+v", s)
			}
			srv.Restart(t)
			featbit := found(t, boolFlag("seen", true, 1))
			_, stopSync := featbit.sync(t, openRedis(t, srv))
			until(t, "Redis' flags", func() bool { return c.Bool("seen", ann, false) && c.Status().State == sdk.OK })
			if s := c.Status(); s.Layer != "redis" || c.IsFlagKnown("shipped") {
				t.Errorf("with Redis: %+v", s)
			}
			until(t, "the syncer's heartbeat", func() bool { s := c.Status(); return s.Source == sdk.OK && !s.Confirmed.IsZero() })
			confirmed := c.Status().Confirmed
			end()

			// Saw Redis' flags, and starts without it.
			stopSync()
			srv.Stop(t)
			c, end = pod()
			until(t, "the second pod is ready", c.Ready)
			if s := c.Status(); !c.Bool("seen", ann, false) || s.Layer != "copy" || s.State != sdk.Interrupted {
				t.Errorf("with the copy: %+v", s)
			}
			until(t, "the copy's heartbeat", func() bool { return !c.Status().Confirmed.IsZero() })
			if got := c.Status().Confirmed; got.Sub(confirmed).Abs() > 2*time.Second {
				t.Errorf("confirmed at %v, want about %v", got, confirmed)
			}
			// Redis returns, empty at first.
			srv.Restart(t)
			featbit.set(t, false, boolFlag("new", true, time.Now().UnixMilli()))
			featbit.sync(t, openRedis(t, srv))
			until(t, "Redis' flags again", func() bool {
				return c.Bool("new", ann, false) && c.Bool("seen", ann, false) && c.Status().State == sdk.OK
			})
			end()
		})
	}
}
