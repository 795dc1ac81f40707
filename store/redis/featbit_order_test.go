package redis

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/store"
)

// A scenario is what two api-servers do at the same time.
type scenario struct {
	name string
	a, b []command
}

// fixed are the items that the scenarios share, by name, so that both sides mean
// the same ones.
type fixed struct{ flag, flag2, seg, shared doc }

func fixture(env string) fixed {
	f := fixed{flagDoc(env, "a", 10), flagDoc(env, "b", 10), segmentDoc(env, "s", 10), segmentDoc("", "shared", 10)}
	f.flag.uses, f.flag2.uses = f.seg.id, f.shared.id
	return f
}

func scenarios(x fixed, env, other string) []scenario {
	const mq = true
	archived := x.flag.edited(20)
	archived.archived = true
	again := flagDoc(env, "a", 40) // another flag with the key of one that was deleted
	atOther := flagDoc(other, "c", 30)
	return []scenario{
		{"two edits", saveFlag(x.flag.edited(20), mq), saveFlag(x.flag.edited(30), mq)},
		{"two edits, clocks differ", saveFlag(x.flag.edited(30), mq), saveFlag(x.flag.edited(5), mq)},
		{"archive and edit", saveFlag(archived, mq), saveFlag(x.flag.edited(15), mq)},
		{"edit and delete", saveFlag(x.flag.edited(20), mq), remove(x.flag, false, env)},
		{"edit and delete of 5.4.2", saveFlag(x.flag.edited(20), mq), remove(x.flag, true, env)},
		{"delete and make again", remove(x.flag, false, env), saveFlag(again, mq)},
		{"delete of 5.4.2 and make again", remove(x.flag, true, env), saveFlag(again, mq)},
		{"segment with flag, flag", saveSegment(x.seg.edited(20), []string{env}, mq, x.flag.edited(21)), saveFlag(x.flag.edited(22), mq)},
		{"shared segment, delete of the flag", saveSegment(x.shared.edited(20), []string{env, other}, mq, x.flag2.edited(21), atOther), remove(x.flag2, true, env)},
		{"two segments", saveSegment(x.seg.edited(20), []string{env}, mq, x.flag.edited(21)), saveSegment(x.shared.edited(20), []string{env, other}, mq)},
		{"segments are deleted", remove(x.seg, false, env), remove(x.shared, true, env, other)},
		{"edit while another one populates", saveFlag(x.flag.edited(20), mq), populate(x.flag, x.seg)},
		{"deletes of all", append(remove(x.flag, false, env), remove(x.seg, false, env)...), append(remove(x.flag2, true, env), remove(x.shared, false, env, other)...)},
	}
}

// TestEveryInterleaving sends the commands of two api-servers one at a time, in
// every order that each of them keeps, and looks after each command. A new reader
// has to see exactly what is in Redis. One that was there from the start may see of
// an item that is being written what it was before; but nothing that it never was,
// nothing older than it saw, and exactly what is there once all is written. So
// does one that looks only at the end: at once if it hears the messages, else after
// a while.
func TestEveryInterleaving(t *testing.T) {
	srv := redistest.Start(t)
	c := rawClient(t, srv)
	readers := rawClient(t, srv) // one, so that each order need not dial
	orders, commands, swept := 0, 0, 0
	for n := range scenarios(fixture(""), "", "") {
		env, other := newGUID(), newGUID()
		x := fixture(env)
		sc := scenarios(x, env, other)[n]
		interleavings(sc.a, sc.b, func(order []command) {
			orders++
			commands += len(order)
			c.FlushAll(bounded(t))
			runAll(t, c, populate(x.flag, x.flag2, x.seg)...)
			runAll(t, c, saveSegment(x.shared, []string{env, other}, false)...)
			if driveOrder(t, c, readers, env, sc.name, order) {
				swept++
			}
		})
	}
	t.Logf("%d orders, %d commands; in %d orders a reader without messages that looked only at the end had to look twice", orders, commands, swept)
}

// driveOrder reports whether scores alone did not show all that had happened.
func driveOrder(t *testing.T, c, readers *goredis.Client, env, name string, order []command) (swept bool) {
	reader := func() *reading {
		s := New(readers, &Options{Layout: LayoutFeatBit, Env: env})
		s.featbit.emptyGrace = 0 // TestLostIndex is about that
		return &reading{s: s}
	}
	steady, late, deaf := reader(), reader(), reader()
	for _, r := range []*reading{steady, late, deaf} {
		defer r.s.Close()
		r.load(t)
	}

	want, whole := expected(t, c, env)
	history := []map[string]string{want}
	at := map[string]int{} // the latest step that the steady reader was at, by item
	for n, one := range order {
		if one[0] == "PUBLISH" {
			late.s.featbit.hear(one[1].(string), fmt.Sprintf("%s", one[2]))
			history = append(history, history[n])
			continue
		}
		runAll(t, c, one)
		want, whole = expected(t, c, env)
		history = append(history, want)
		fail := func(what string, got map[string]string) {
			t.Helper()
			t.Fatalf("%s: %s after\n%v\nof\n%v\ngot  %q\nwant %q", name, what, order[:n+1], order, got, want)
		}
		fresh := reader()
		if got := fresh.load(t); !maps.Equal(got, want) {
			fail("a new reader is wrong", got)
		}
		fresh.s.Close()
		got := steady.load(t)
		for item := range union(got, want) {
			step := n + 1
			for step >= 0 && history[step][item] != got[item] {
				step--
			}
			if step < at[item] {
				fail(fmt.Sprintf("step %d of %s after step %d", step, item, at[item]), got)
			}
			at[item] = step
		}
		if whole && settled(env, order[:n+1]) && (!maps.Equal(got, want) || steady.rev != fresh.rev) {
			fail("all is written, but a reader has not all", got)
		}
	}
	for _, r := range []*reading{steady, late, deaf} {
		if got := r.load(t); !maps.Equal(got, want) {
			if swept = true; r != deaf && whole {
				t.Fatalf("%s: all was announced, but a reader has not all after\n%v\ngot  %q\nwant %q", name, order, got, want)
			}
			waitUntil(t, "a sweep finds what the scores do not show", func() bool {
				r.s.featbit.sweepEvery = time.Millisecond
				return maps.Equal(r.load(t), want)
			})
		}
	}
	if steady.rev != late.rev || late.rev != deaf.rev {
		t.Fatalf("%s: Revs %q, %q and %q for one content", name, steady.rev, late.rev, deaf.rev)
	}
	return swept
}

func union(a, b map[string]string) map[string]bool {
	all := map[string]bool{}
	for k := range a {
		all[k] = true
	}
	for k := range b {
		all[k] = true
	}
	return all
}

// settled reports whether every SET among done has its ZADD.
func settled(env string, done []command) bool {
	open := map[string]int{}
	for _, one := range done {
		switch one[0] {
		case "SET":
			open[fmt.Sprint(one[1])]++
		case "ZADD":
			if kind, index, _ := strings.Cut(fmt.Sprint(one[1]), "-index:"); index == env {
				open[kind+":"+fmt.Sprint(one[3])]--
			}
		}
	}
	for key, n := range open {
		if n > 0 && strings.Count(key, ":") > 1 { // no lock, no marker
			return false
		}
	}
	return true
}

// TestFeatBitFollowConverges lets several api-servers edit at full speed and checks that
// followers see each item only in states that it was in, and in the end all that
// is in Redis, with messages and without.
func TestFeatBitFollowConverges(t *testing.T) {
	for _, mq := range []bool{true, false} {
		t.Run(fmt.Sprintf("mq %t", mq), func(t *testing.T) {
			env := newGUID()
			c := rawClient(t, server)
			docs := make([]doc, 6)
			for i := range docs {
				docs[i] = flagDoc(env, fmt.Sprintf("k%d", i), 1)
			}
			seg := segmentDoc("", "s", 1)
			docs[0].uses = seg.id
			runAll(t, c, populate(docs...)...)
			runAll(t, c, saveSegment(seg, []string{env}, mq)...)

			ctx, cancel := context.WithCancel(t.Context())
			var following sync.WaitGroup
			defer following.Wait()
			defer cancel()
			type follower struct {
				mu   sync.Mutex
				r    reading
				seen map[string]bool
			}
			var followers []*follower
			for range 2 {
				f := &follower{r: reading{s: openFeatBit(t, server, env, FeatBitOptions{})}, seen: map[string]bool{}}
				followers = append(followers, f)
				following.Go(func() {
					store.Follow(ctx, f.r.s, store.FollowOptions{Interval: 20 * time.Millisecond}, func(s store.Snapshot, err error) {
						f.mu.Lock()
						defer f.mu.Unlock()
						if err != nil {
							t.Error(err)
							return
						}
						f.r.take(t, s)
						for _, it := range s.Items {
							if it.Kind == store.Flag {
								f.seen[string(it.Data)] = true
							}
						}
					})
				})
			}

			var editing sync.WaitGroup
			var mu sync.Mutex
			written := map[string]bool{}
			for _, d := range docs {
				written[c.Get(bounded(t), d.valueKey()).Val()] = true
			}
			for w := range 3 {
				own := rawClient(t, server)
				editing.Go(func() {
					for i := range int64(80) {
						at := 10 + i*3 + int64(w)
						d := docs[int(i+int64(w))%len(docs)].edited(at)
						d.archived = i%9 == 8
						var cs []command
						switch {
						case i%10 == 3 && w == 0:
							cs = saveSegment(seg.edited(at), []string{env}, mq, d)
						case i%13 == 5:
							cs = remove(d, w == 1, env)
						default:
							cs = saveFlag(d, mq)
						}
						mu.Lock()
						written[d.json()] = true
						mu.Unlock()
						for _, one := range cs {
							if err := one.send(own); err != nil {
								t.Error(err)
							}
						}
					}
				})
			}
			editing.Wait()
			// What nobody edits any more stands still.
			want, _ := expected(t, c, env)
			for i, f := range followers {
				waitUntil(t, fmt.Sprintf("follower %d has what is in Redis", i), func() bool {
					f.mu.Lock()
					defer f.mu.Unlock()
					return maps.Equal(f.r.state, want)
				})
			}
			fresh := load(t, openFeatBit(t, server, env, FeatBitOptions{}), "")
			for _, f := range followers {
				f.mu.Lock()
				if f.r.rev != fresh.Rev {
					t.Errorf("Rev %q, a new reader's is %q", f.r.rev, fresh.Rev)
				}
				for data := range f.seen {
					if !written[data] {
						t.Errorf("nobody wrote %s", data)
					}
				}
				f.mu.Unlock()
			}
		})
	}
}

func waitUntil(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(patience); !ok(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}
