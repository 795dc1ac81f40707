package redis

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/storetest"
)

var (
	server *redistest.Server
	envs   atomic.Int64
)

func TestMain(m *testing.M) {
	storetest.Child(func(place string, _ bool) (store.DataStore, error) { return Open(place, nil) })
	s, stop, err := redistest.StartMain()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	server = s
	code := m.Run()
	stop()
	// go-redis looks once a second whether a pool that cannot dial was closed.
	err = goleak.Find()
	for end := time.Now().Add(5 * time.Second); err != nil && time.Now().Before(end); {
		err = goleak.Find()
	}
	if err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

const patience = 20 * time.Second

// newEnv returns the name of an environment that nobody else uses.
func newEnv() string { return fmt.Sprintf("env-%d", envs.Add(1)) }

func open(t testing.TB, srv *redistest.Server, env string) *Store {
	t.Helper()
	s, err := Open(srv.URL()+"/0?env="+env, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func rawClient(t testing.TB, srv *redistest.Server) *goredis.Client {
	t.Helper()
	c := goredis.NewClient(&goredis.Options{Addr: srv.Addr()})
	t.Cleanup(func() { c.Close() })
	return c
}

func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func flag(key string, version int64, data string) store.Item {
	return store.Item{Kind: store.Flag, Key: key, Version: version, Data: []byte(data)}
}

func apply(t testing.TB, s store.Writer, full bool, items ...store.Item) store.Rev {
	t.Helper()
	rev, err := s.Apply(bounded(t), store.Change{Full: full, Items: items})
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func load(t testing.TB, s store.Reader, since store.Rev) store.Snapshot {
	t.Helper()
	snap, err := s.Load(bounded(t), since)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

func content(items []store.Item) map[string]string {
	m := map[string]string{}
	for _, it := range items {
		m[fieldOf(it)] = valueOf(it)
	}
	return m
}

func wantErr(t testing.TB, err, is error, text ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if is != nil && !errors.Is(err, is) {
		t.Errorf("%v is not %v", err, is)
	}
	for _, s := range text {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("no %q in %q", s, err)
		}
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// A lever passes connections on, each new one to where it points.
type lever struct {
	addr   string
	target atomic.Pointer[string]
}

func newLever(t testing.TB, target string) *lever {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &lever{addr: l.Addr().String()}
	s.to(target)
	ctx, cancel := context.WithCancel(context.Background())
	var open sync.WaitGroup
	open.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() {
				defer in.Close()
				out, err := net.Dial("tcp", *s.target.Load())
				if err != nil {
					return
				}
				defer out.Close()
				defer context.AfterFunc(ctx, func() { in.Close(); out.Close() })()
				open.Go(func() { io.Copy(out, in); out.Close() })
				io.Copy(in, out)
			})
		}
	})
	t.Cleanup(func() { cancel(); l.Close(); open.Wait() })
	return s
}

// to points the lever elsewhere. What is connected stays.
func (s *lever) to(target string) { s.target.Store(&target) }
