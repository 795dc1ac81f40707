package redis

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/store"
)

// The rights that the documentation names.
var (
	featbitReader = []string{"~featbit:*", "&featbit-*-change",
		"+get", "+exists", "+hmget", "+zrange", "+zrangebyscore", "+subscribe", "+psubscribe", "+ping"}
	featbitWriter = append(slices.Clone(featbitReader),
		"+set", "+del", "+zadd", "+zrem", "+hset", "+publish")
)

func setUser(t *testing.T, c *goredis.Client, name string, rights []string) {
	t.Helper()
	args := []any{"ACL", "SETUSER", name, "resetkeys", "resetchannels", "-@all", "on", ">pass"}
	for _, r := range rights {
		args = append(args, r)
	}
	if err := c.Do(bounded(t), args...).Err(); err != nil {
		t.Fatal(err)
	}
}

func without(rights []string, right string) []string {
	return slices.DeleteFunc(slices.Clone(rights), func(r string) bool { return r == right })
}

func openAs(t *testing.T, srv *redistest.Server, user, env string, o FeatBitOptions) *Store {
	t.Helper()
	s, err := Open("redis://"+user+":pass@"+srv.Addr(), &Options{Layout: LayoutFeatBit, Env: env, FeatBit: o})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestFeatBitACL(t *testing.T) {
	srv, c, env := fresh(t)
	a := flagDoc(env, "a", 1)
	runAll(t, c, populate(a)...)
	runAll(t, c, raw("HSET", "featbit:secret:"+aSecret, "type", "server", "envId", env))
	setUser(t, c, "reader", featbitReader)
	setUser(t, c, "writer", featbitWriter)
	as := func(name string, o FeatBitOptions) *Store {
		t.Helper()
		return openAs(t, srv, name, env, o)
	}

	s := as("reader", FeatBitOptions{Secret: aSecret})
	r := reading{s: s}
	r.load(t)
	woken := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	s.quiet = 10 * time.Millisecond // so that it asks for signs of life, too
	go func() { done <- s.Watch(ctx, func() { woken <- struct{}{} }) }()
	<-woken
	drain(woken)
	runAll(t, c, saveFlag(a.edited(2), true)...)
	waitUntil(t, "a message arrives", func() bool { return len(woken) > 0 })
	if want, _ := expected(t, c, env); !maps.Equal(r.load(t), want) {
		t.Errorf("got %q", r.state)
	}
	cancel()
	wantErr(t, <-done, context.Canceled)

	// It cannot write, not even if it is told to.
	before := c.Get(bounded(t), a.valueKey()).Val()
	_, err := as("reader", FeatBitOptions{Write: true}).Apply(bounded(t), store.Change{Full: true, Items: []store.Item{a.edited(9).item(env)}})
	wantErr(t, err, nil, "NOPERM")
	client := goredis.NewClient(&goredis.Options{Addr: srv.Addr(), Username: "reader", Password: "pass"})
	defer client.Close()
	for _, command := range []string{
		"SET featbit:x 1", "DEL featbit:x", "ZADD featbit:x 1 a", "ZREM featbit:x a", "HSET featbit:x a 1", "PUBLISH featbit-x-change x",
		"EXPIRE featbit:x 1", "EVAL return(1) 0", "FLUSHALL", "FLUSHDB", "KEYS *", "SCAN 0", "CONFIG GET *", "MULTI", "RENAME featbit:x featbit:y",
		"GET {flagstead:default}:d", "GET other", "SUBSCRIBE other",
	} {
		args := []any{}
		for _, word := range strings.Fields(command) {
			args = append(args, word)
		}
		if err := client.Do(bounded(t), args...).Err(); err == nil || !strings.Contains(err.Error(), "NOPERM") {
			t.Errorf("%s: %v", command, err)
		}
	}
	if got := c.Get(bounded(t), a.valueKey()).Val(); got != before {
		t.Errorf("it wrote %s", got)
	}

	w := as("writer", FeatBitOptions{Write: true, Secrets: []FeatBitSecret{{Value: aSecret, Type: "server"}}})
	apply(t, w, true, a.edited(9).item(env), flagDoc(env, "b", 1).item(env))
	apply(t, w, false, a.edited(10).item(env))
	apply(t, w, true, a.edited(11).item(env))
	if want, _ := expected(t, c, env); !maps.Equal(r.load(t), want) || len(want) != 1 {
		t.Errorf("got %q", r.state)
	}

	// Without the right to publish a change is still written.
	setUser(t, c, "silent", without(featbitWriter, "+publish"))
	apply(t, as("silent", FeatBitOptions{Write: true}), false, a.edited(12).item(env))
	if r.load(t); !strings.HasPrefix(r.state["f:a"], fmt.Sprint(epoch+12)) {
		t.Errorf("got %q", r.state)
	}
}

// A load that fails after the indexes were read forgets nothing of what it was to
// read.
func TestLoadThatFailsHalfWay(t *testing.T) {
	srv, c, env := fresh(t)
	a, b := flagDoc(env, "a", 1), flagDoc(env, "b", 1)
	runAll(t, c, populate(a, b)...)
	setUser(t, c, "reader", featbitReader)
	r := reading{s: openAs(t, srv, "reader", env, FeatBitOptions{})}
	r.load(t)
	for _, edit := range []func(){
		func() { runAll(t, c, saveFlag(a.edited(2), false)...) },
		func() { runAll(t, c, remove(b, false, env)...); runAll(t, c, saveFlag(a.edited(3), false)...) },
		func() { // only the message tells
			d := a.edited(3)
			runAll(t, c, saveFlag(d, false)...)
			r.s.featbit.hear(featbitFlagTopic, d.json())
		},
	} {
		edit()
		setUser(t, c, "reader", append(without(featbitReader, "~featbit:*"), "~featbit:*-index:*", "~"+markerKey))
		_, err := r.s.Load(bounded(t), r.rev)
		wantErr(t, err, nil, "NOPERM", a.valueKey())
		setUser(t, c, "reader", featbitReader)
		if want, _ := expected(t, c, env); !maps.Equal(r.load(t), want) {
			t.Errorf("got %q, want %q", r.state, want)
		}
	}
}

// A change that failed half way is seen as it is, and completed when it is applied
// again.
func TestApplyThatFailsHalfWay(t *testing.T) {
	srv, c, env := fresh(t)
	a, b := flagDoc(env, "a", 1), flagDoc(env, "b", 1)
	setUser(t, c, "writer", featbitWriter)
	w := openAs(t, srv, "writer", env, FeatBitOptions{Write: true})
	apply(t, w, true, a.item(env))
	for _, right := range []string{"+zadd", "+set"} {
		for _, full := range []bool{false, true} {
			a, b = a.edited(a.at+1), b.edited(b.at+1)
			ch := store.Change{Full: full, Items: []store.Item{a.item(env), b.item(env)}}
			setUser(t, c, "writer", without(featbitWriter, right))
			_, err := w.Apply(bounded(t), ch)
			wantErr(t, err, nil, "NOPERM")
			got := content(load(t, w, "").Items)
			if want, _ := expected(t, c, env); !maps.Equal(got, want) {
				t.Errorf("without %s: got %q, want %q", right, got, want)
			}
			setUser(t, c, "writer", featbitWriter)
			if _, err := w.Apply(bounded(t), ch); err != nil {
				t.Fatal(err)
			}
			for _, d := range []doc{a, b} {
				value, score := c.Get(bounded(t), d.valueKey()).Val(), c.ZScore(bounded(t), d.indexKey(env), d.id).Val()
				if value != d.json() || score != float64(epoch+d.at) {
					t.Errorf("without %s, full %t: %s is %s at %v", right, full, d.key, value, score)
				}
			}
		}
	}
	setUser(t, c, "writer", without(featbitWriter, "+del"))
	_, err := w.Apply(bounded(t), store.Change{Full: true, Items: []store.Item{a.item(env)}})
	wantErr(t, err, nil, "NOPERM")
	if got := load(t, w, "").Items; len(got) != 1 {
		t.Errorf("got %q", content(got))
	}
}
