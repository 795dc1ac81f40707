package redis

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/store"
)

// at returns the position with a nonce that says which branch it is of.
func at(seq int64, branch string) position {
	return position{seq, fmt.Sprintf("%s%015d", branch, seq)}
}

func netstrings(parts ...string) string {
	var b strings.Builder
	b.WriteString("d")
	for _, p := range parts {
		fmt.Fprintf(&b, "%d:%s,", len(p), p)
	}
	return b.String()
}

// said returns the message of a patch.
func said(base, rev position, items ...store.Item) string {
	parts := []string{string(base.rev()), string(rev.rev())}
	for _, it := range items {
		parts = append(parts, fieldOf(it), valueOf(it))
	}
	return netstrings(parts...)
}

func TestParseMessage(t *testing.T) {
	a, b := string(at(1, "a").rev()), string(at(2, "a").rev())
	odd := flag("k|:,", 3, "5:x,\x00\xff|")
	m, rev, ok := parseMessage(said(at(1, "a"), at(2, "a"), odd, flag("b", 1, "")))
	if !ok || m.base != at(1, "a") || rev != at(2, "a") || !maps.Equal(content(m.items), content([]store.Item{odd, flag("b", 1, "")})) {
		t.Errorf("%+v at %v, %t", m, rev, ok)
	}
	if m, rev, ok := parseMessage(b); !ok || rev != at(2, "a") || m.items != nil {
		t.Errorf("a revision alone: %+v at %v, %t", m, rev, ok)
	}
	for _, bad := range []string{
		"", "d", "x", "1-abc", "d0:,", netstrings(), netstrings(a), netstrings(a, b), netstrings(a, b, "f:a"),
		netstrings(b, a, "f:a", "1|0|x"), netstrings(a, a, "f:a", "1|0|x"), netstrings("", b, "f:a", "1|0|x"),
		netstrings(a, b, "x:a", "1|0|x"), netstrings(a, b, "f:", "1|0|x"), netstrings(a, b, "f:a", "1|2|x"),
		netstrings(a, b, "f:a", "x|0|x"), netstrings(a, b, "f:a", "1|0|x", "f:a", "1|0|y"), netstrings(a, b, "$seq", "7"),
		netstrings(a, b, "f:a", "1|0|x") + " ", " " + netstrings(a, b, "f:a", "1|0|x"),
		strings.Replace(netstrings(a, b, "f:a", "1|0|x"), "3:f:a", "03:f:a", 1),
		strings.Replace(netstrings(a, b, "f:a", "1|0|x"), "3:f:a", "+3:f:a", 1),
		strings.Replace(netstrings(a, b, "f:a", "1|0|x"), "3:f:a", "-3:f:a", 1),
		strings.Replace(netstrings(a, b, "f:a", "1|0|x"), "3:f:a", "99999999999999999999:f:a", 1),
	} {
		if m, rev, ok := parseMessage(bad); ok {
			t.Errorf("%q: %+v at %v", bad, m, rev)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	f.Add(said(at(1, "a"), at(2, "a"), flag("a", 1, "x"), flag("b", 1, "")))
	f.Add(string(at(1, "a").rev()))
	f.Add("d3:abc,")
	f.Fuzz(func(t *testing.T, payload string) {
		m, rev, ok := parseMessage(payload)
		switch {
		case !ok:
		case len(m.items) == 0:
			if string(rev.rev()) != payload {
				t.Errorf("%q is read as %v", payload, rev)
			}
		default: // what was understood is what the script would write
			parts := []string{string(m.base.rev()), string(rev.rev())}
			for _, it := range m.items {
				parts = append(parts, fieldOf(it), valueOf(it))
			}
			again, _, ok := parseMessage(netstrings(parts...))
			if !ok || !maps.Equal(content(again.items), content(m.items)) || len(m.items) > len(payload) {
				t.Errorf("%q is read as %+v", payload, m)
			}
		}
	})
}

// A script of events, after each of which answer and refusal are checked.
func TestHistory(t *testing.T) {
	a := flag("a", 1, "1")
	type h = *history
	load := func(p position, before string) func(t *testing.T, h h) {
		return func(t *testing.T, h h) {
			if err := h.loaded(h.mark(), p, before, false, position{}); err != nil {
				t.Fatalf("%v is refused: %v", p, err)
			}
		}
	}
	refused := func(p position) func(t *testing.T, h h) {
		return func(t *testing.T, h h) {
			err := h.loaded(h.mark(), p, "", false, position{})
			if !errors.Is(err, errFellBack) || !errors.Is(err, store.ErrDamaged) {
				t.Fatalf("%v is not refused: %v", p, err)
			}
		}
	}
	hears := func(payload string) func(t *testing.T, h h) {
		return func(_ *testing.T, h h) { h.message(payload) }
	}
	answers := func(since, to position, items int) func(t *testing.T, h h) {
		return func(t *testing.T, h h) {
			snap, ok := h.answer(since)
			if !ok || snap.Rev != to.rev() || len(snap.Items) != items || !snap.Delta {
				t.Fatalf("after %v: %+v, %t; want %v", since, snap, ok, to)
			}
		}
	}
	silent := func(since position) func(t *testing.T, h h) {
		return func(t *testing.T, h h) {
			if snap, ok := h.answer(since); ok {
				t.Fatalf("after %v: %+v", since, snap)
			}
		}
	}
	step := func(n int64) string { return said(at(n, "a"), at(n+1, "a"), a) }
	type events = []func(*testing.T, h)
	for name, script := range map[string]events{
		"nothing is known":           {hears(step(1)), silent(at(1, "a"))},
		"the next commit":            {load(at(1, "a"), ""), hears(step(1)), silent(at(2, "a")), answers(at(1, "a"), at(2, "a"), 1)},
		"one of several":             {load(at(1, "a"), ""), hears(step(1)), hears(step(2)), answers(at(2, "a"), at(3, "a"), 1), answers(at(1, "a"), at(3, "a"), 1)},
		"twice":                      {load(at(1, "a"), ""), hears(step(1)), hears(step(1)), hears(step(2)), hears(step(1)), answers(at(1, "a"), at(3, "a"), 1)},
		"a gap":                      {load(at(1, "a"), ""), hears(step(1)), hears(step(3)), silent(at(1, "a")), silent(at(3, "a")), hears(step(4)), silent(at(4, "a"))},
		"a gap, then a load":         {load(at(1, "a"), ""), hears(step(2)), load(at(3, "a"), ""), hears(step(3)), answers(at(3, "a"), at(4, "a"), 1)},
		"late, after a load":         {load(at(1, "a"), ""), load(at(3, "a"), at(1, "a").nonce+at(2, "a").nonce), hears(step(1)), hears(step(2)), silent(at(1, "a")), silent(at(2, "a")), hears(step(3)), answers(at(3, "a"), at(4, "a"), 1)},
		"a big change":               {load(at(1, "a"), ""), hears(step(1)), hears(string(at(3, "a").rev())), silent(at(1, "a"))},
		"foreign":                    {load(at(1, "a"), ""), hears(step(1)), hears("hello"), silent(at(1, "a"))},
		"a load within the chain":    {load(at(1, "a"), ""), hears(step(1)), hears(step(2)), silent(at(9, "a")), answers(at(1, "a"), at(3, "a"), 1), load(at(3, "a"), ""), answers(at(2, "a"), at(3, "a"), 1)},
		"a load behind the messages": {load(at(1, "a"), ""), hears(step(1)), load(at(1, "a"), ""), silent(at(1, "a")), hears(step(2)), silent(at(2, "a"))},
		"another branch":             {load(at(1, "a"), ""), hears(step(1)), load(at(2, "b"), at(1, "a").nonce), silent(at(1, "a")), hears(step(2)), silent(at(2, "a"))},
		"a flush":                    {load(at(1, "a"), ""), hears(step(1)), load(position{}, ""), silent(at(1, "a")), hears(step(2)), silent(at(2, "a")), load(at(1, "b"), "")},
		"back":                       {load(at(5, "a"), at(3, "a").nonce+at(4, "a").nonce), refused(at(4, "a")), refused(at(3, "a")), load(at(5, "a"), "")},
		"back beyond what is known":  {load(at(5, "a"), at(3, "a").nonce+at(4, "a").nonce), load(at(2, "a"), "")},
		"back, then on":              {load(at(5, "a"), at(4, "a").nonce), refused(at(4, "a")), load(at(5, "b"), at(4, "a").nonce), refused(at(4, "a"))},
		"back behind a message":      {load(at(4, "a"), ""), hears(step(4)), answers(at(4, "a"), at(5, "a"), 1), refused(at(4, "a"))},
		"back, flushed, restored":    {load(at(5, "a"), at(4, "a").nonce), load(position{}, ""), load(at(4, "a"), "")},
		"own commits": {
			load(at(4, "a"), ""), func(_ *testing.T, h h) { h.applied(h.mark(), at(4, "a"), at(5, "a")) },
			hears(step(4)), silent(at(4, "a")), hears(step(5)), answers(at(5, "a"), at(6, "a"), 1), refused(at(4, "a")),
		},
		"own commits that others followed": {
			load(at(4, "a"), ""), hears(step(4)), func(_ *testing.T, h h) { h.applied(h.mark(), at(6, "a"), at(7, "a")) },
			silent(at(4, "a")), refused(at(6, "a")),
		},
		"own change without effect": {
			load(at(4, "a"), ""), hears(step(4)), func(_ *testing.T, h h) { h.applied(h.mark(), at(7, "a"), at(7, "a")) }, silent(at(4, "a")),
		},
		"a slow load": {load(at(4, "a"), at(3, "a").nonce), func(t *testing.T, h h) {
			m := h.mark()
			load(at(6, "a"), at(4, "a").nonce+at(5, "a").nonce)(t, h)
			if err := h.loaded(m, at(5, "a"), "", false, position{}); err != nil {
				t.Fatalf("a load that was overtaken: %v", err)
			}
		}, refused(at(5, "a"))},
	} {
		t.Run(name, func(t *testing.T) {
			h := new(history)
			for _, event := range script {
				event(t, h)
			}
		})
	}
}

// TestFallenForGood: a server that stays where it fell back to is followed in the
// end, so that readers and the server do not differ for ever.
func TestFallenForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := new(history)
		load := func(p position, before string) error { return h.loaded(h.mark(), p, before, false, position{}) }
		pass := func(d time.Duration) { <-time.After(d) }
		load(at(5, "a"), at(3, "a").nonce+at(4, "a").nonce)
		for range 5 {
			if err := load(at(4, "a"), at(3, "a").nonce); !errors.Is(err, errFellBack) {
				t.Fatalf("followed early: %v", err)
			}
			pass(fallenFor / 6)
		}
		// The time begins anew when the server was well in between.
		load(at(5, "a"), at(4, "a").nonce)
		for range 5 {
			if err := load(at(4, "a"), at(3, "a").nonce); !errors.Is(err, errFellBack) {
				t.Fatalf("followed early: %v", err)
			}
			pass(fallenFor / 5)
		}
		if err := load(at(4, "a"), at(3, "a").nonce); err != nil {
			t.Errorf("still refused: %v", err)
		}
		if err := load(at(3, "a"), ""); !errors.Is(err, errFellBack) {
			t.Errorf("what precedes the state that is followed now: %v", err)
		}
		h.message(said(at(4, "a"), at(5, "c"), flag("a", 1, "1")))
		if _, ok := h.answer(at(4, "a")); ok {
			t.Error("a message is taken while the server is behind")
		}
	})
}

// TestFarBehind: a master that is being replaced takes many commits until its
// clients have left it for one that has none of them.
func TestFarBehind(t *testing.T) {
	h := new(history)
	if err := h.loaded(h.mark(), at(1, "a"), "", false, position{}); err != nil {
		t.Fatal(err)
	}
	last := int64(3 * historyLength)
	for n := range last - 1 {
		if err := h.loaded(h.mark(), at(n+2, "a"), "", true, at(n+1, "a")); err != nil {
			t.Fatal(err)
		}
	}
	for _, back := range []int64{1, 500, historyLength - 1} {
		if err := h.loaded(h.mark(), at(last-back, "a"), "", false, position{}); !errors.Is(err, errFellBack) {
			t.Errorf("%d commits back: %v", back, err)
		}
	}
	if len(h.nonces) > 2*historyLength*nonceSize {
		t.Errorf("remembers %d bytes", len(h.nonces))
	}
}

func TestMailboxIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := new(history)
		h.loaded(h.mark(), at(1, "a"), "", false, position{})
		big := flag("a", 1, strings.Repeat("x", 60_000))
		for n := range int64(1000) {
			h.message(said(at(n+1, "a"), at(n+2, "a"), big))
			if len(h.chain) > boxMessages || h.bytes > boxBytes || len(h.nonces) > 2*historyLength*nonceSize {
				t.Fatalf("%d messages, %d bytes, %d bytes of nonces", len(h.chain), h.bytes, len(h.nonces))
			}
		}
		if _, ok := h.answer(at(1, "a")); ok {
			t.Error("answers from what should be gone")
		}
		if snap, ok := h.answer(at(995, "a")); !ok || snap.Rev != at(1001, "a").rev() {
			t.Errorf("no answer from what is there: %+v", snap)
		}
		<-time.After(boxLife + 1)
		if _, ok := h.answer(at(995, "a")); ok {
			t.Error("answers with old news")
		}
		h.message(said(at(1001, "a"), at(1002, "a"), big))
		if len(h.chain) != 1 || h.bytes > 61_000 {
			t.Errorf("keeps %d messages, %d bytes", len(h.chain), h.bytes)
		}
	})
}

// A reader that gets one message after the other asks the server all the same.
func TestMessagesDoNotReplaceTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := new(history)
		asked := 0
		ask := func(n int64) {
			asked++
			if err := h.loaded(h.mark(), at(n, "a"), "", false, position{}); err != nil {
				t.Fatal(err)
			}
		}
		ask(1)
		for n := range int64(1000) { // ten seconds
			<-time.After(10 * time.Millisecond)
			h.message(said(at(n+1, "a"), at(n+2, "a"), flag("a", n, "1")))
			if _, ok := h.answer(at(n+1, "a")); !ok {
				ask(n + 2)
			}
		}
		if asked < 9 || asked > 11 {
			t.Errorf("asked the server %d times in ten seconds", asked)
		}
	})
}

// calls returns how often the server ran commands of a name.
func calls(t testing.TB, srv *redistest.Server, names ...string) (n int) {
	t.Helper()
	for line := range strings.Lines(srv.Must(t, "INFO", "commandstats")) {
		for _, name := range names {
			var k int
			if rest, ok := strings.CutPrefix(line, "cmdstat_"+name+":calls="); ok {
				fmt.Sscanf(rest, "%d", &k)
				n += k
			}
		}
	}
	return n
}

// watch runs s.Watch until t is done and returns once it has begun.
func watch(t testing.TB, s *Store) <-chan struct{} {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	woken := make(chan struct{}, 1000)
	var done sync.WaitGroup
	done.Go(func() { s.Watch(ctx, func() { woken <- struct{}{} }) })
	t.Cleanup(func() { cancel(); done.Wait() })
	select {
	case <-woken:
	case <-time.After(patience):
		t.Fatal("Watch did not begin")
	}
	return woken
}

func TestSmallChangesComeWithTheirMessage(t *testing.T) {
	srv := redistest.Start(t)
	reader, writer := open(t, srv, "x"), open(t, srv, "x")
	reads := func() int { return calls(t, srv, "hgetall", "eval", "evalsha", "eval_ro", "evalsha_ro") }
	apply(t, writer, true, flag("a", 1, "1"))
	rev := apply(t, writer, false, flag("b", 1, "1")) // the server knows the script now
	woken := watch(t, reader)
	load(t, reader, "")
	before := reads()
	odd := flag("odd", 7, "\x00\xff|5:x,\r\n")
	for _, items := range [][]store.Item{{flag("a", 2, "2")}, {odd}, {flag("a", 3, "3"), flag("c", 1, "1")}} {
		next := apply(t, writer, false, items...)
		<-woken
		snap := load(t, reader, rev)
		if snap.Rev != next || !snap.Delta || !maps.Equal(content(snap.Items), content(items)) {
			t.Fatalf("%+v, want %q with %q", snap, next, content(items))
		}
		rev = next
	}
	// Each Apply of the writer is one script.
	if n := reads() - before; n != 3 {
		t.Errorf("%d scripts and loads, want the 3 of the writer", n)
	}
	if snap := load(t, reader, rev); snap.Rev != rev || reads() != before+4 {
		t.Errorf("with nothing in the mailbox nobody asked the server: %+v", snap)
	}
	for _, c := range []store.Change{
		{Items: []store.Item{flag("big", 1, strings.Repeat("x", 70_000))}},
		{Full: true, Items: []store.Item{flag("a", 9, "9")}},
	} {
		if _, err := writer.Apply(bounded(t), c); err != nil {
			t.Fatal(err)
		}
		<-woken
		before = reads()
		if snap := load(t, reader, rev); content(snap.Items)[fieldOf(c.Items[0])] != valueOf(c.Items[0]) || reads() == before {
			t.Errorf("after a change without a message: %d items, Delta %t", len(snap.Items), snap.Delta)
		}
		rev = load(t, reader, "").Rev
	}
}

// What anybody may send on the channel costs a trip at most.
func TestForeignMessagesAreHarmless(t *testing.T) {
	s, c := open(t, server, newEnv()), rawClient(t, server)
	rev := apply(t, s, true, flag("a", 1, "1"))
	base, _ := parseRev(rev)
	woken := watch(t, s)
	load(t, s, "")
	for _, payload := range []string{
		"", "hello", "999-0123456789abcdef", said(at(base.seq, "x"), at(base.seq+1, "x"), flag("a", 9, "evil")),
		said(base, at(base.seq+5, "x"), flag("a", 9, "evil")), netstrings(string(rev), string(at(base.seq+1, "x").rev()), "$seq", "9"),
	} {
		c.Publish(bounded(t), s.topic, payload)
		<-woken
		if snap := load(t, s, rev); snap.Rev != rev || len(snap.Items) != 0 {
			t.Errorf("after %q: %+v", payload, snap)
		}
	}
	// Whoever may publish and knows the revision can say something that only lasts
	// until the server is asked.
	c.Publish(bounded(t), s.topic, said(base, at(base.seq+1, "x"), flag("a", 9, "evil")))
	<-woken
	load(t, s, rev)
	if snap := load(t, s, at(base.seq+1, "x").rev()); snap.Delta || snap.Rev != rev {
		if _, err := s.Load(bounded(t), ""); !errors.Is(err, errFellBack) {
			t.Errorf("%+v, %v", snap, err)
		}
	}
}

// Readers with messages and writers of every kind, and everything that may
// happen to a server between them.
func TestPushRaces(t *testing.T) {
	srv := redistest.Start(t)
	c := rawClient(t, srv)
	const keys = 20
	set := func(n int64, size int) (items []store.Item) {
		for i := range keys {
			items = append(items, flag(fmt.Sprint(i), n, fmt.Sprint(n, strings.Repeat(" ", size))))
		}
		return items
	}
	writer := open(t, srv, "x")
	apply(t, writer, true, set(1, 0)...)
	ctx, cancel := context.WithCancel(context.Background())
	var readers sync.WaitGroup
	defer readers.Wait()
	defer cancel()
	type view struct {
		sync.Mutex
		version int64
	}
	var views []*view
	for range 3 {
		v, s := new(view), open(t, srv, "x")
		views = append(views, v)
		state := map[string]string{}
		readers.Go(func() {
			o := store.FollowOptions{Interval: 50 * time.Millisecond, MaxBackoff: 50 * time.Millisecond}
			store.Follow(ctx, s, o, func(snap store.Snapshot, err error) {
				if err != nil || snap.Rev == "" {
					return
				}
				if !snap.Delta {
					clear(state)
				}
				maps.Copy(state, content(snap.Items))
				n := versionOf(state["f:0"])
				for k, value := range state {
					if versionOf(value) != n {
						t.Errorf("torn: f:0 is %d, %s is %.20q", n, k, value)
					}
				}
				v.Lock()
				defer v.Unlock()
				if n < v.version || len(state) != keys {
					t.Errorf("version %d after %d, %d flags", n, v.version, len(state))
				}
				v.version = n
			})
		})
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	last := int64(1)
	for n := int64(2); n < 600; n++ {
		items := set(n, 0)
		switch rnd.IntN(25) {
		case 0:
			items = set(n, 5000) // too big for a message
		case 1:
			apply(t, writer, true, items...)
		case 2:
			c.ScriptFlush(bounded(t))
		case 3:
			c.ClientKillByFilter(bounded(t), "TYPE", "pubsub")
		case 4:
			c.Publish(bounded(t), writer.topic, "noise")
		case 5:
			c.Del(bounded(t), writer.data, writer.sorted)
			apply(t, writer, true, items...)
		case 6:
			c.Del(bounded(t), writer.sorted)
		}
		apply(t, writer, false, items...)
		last = n
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		behind := 0
		for _, v := range views {
			v.Lock()
			if v.version != last {
				behind++
			}
			v.Unlock()
		}
		if behind == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d readers never saw version %d", behind, last)
		}
	}
}

func versionOf(value string) (n int64) {
	fmt.Sscanf(value, "%d|", &n)
	return n
}

// A server that comes back with an earlier state is not followed by those who
// have seen a later one, until it moves on.
func TestServerThatFellBackIsNotFollowed(t *testing.T) {
	for name, tc := range map[string]struct {
		lost  func(t *testing.T, s *Store) // commits that the server will lose
		heal  func(t *testing.T, s *Store) // by a handle that saw them
		fresh bool                         // or by one that did not
	}{
		"patches": {
			lost: func(t *testing.T, s *Store) {
				apply(t, s, false, flag("a", 3, "3"))
				apply(t, s, false, flag("b", 3, "3"))
			},
			heal: func(t *testing.T, s *Store) { apply(t, s, true, flag("a", 3, "3"), flag("b", 3, "3")) },
		},
		"a full change": {
			lost: func(t *testing.T, s *Store) { apply(t, s, true, flag("a", 3, "3")) },
			heal: func(t *testing.T, s *Store) { apply(t, s, false, flag("a", 4, "4")) }, fresh: true,
		},
		"what left nothing behind": {
			lost: func(t *testing.T, s *Store) {
				apply(t, s, false, flag("c", 1, "1"))
				apply(t, s, true, flag("a", 2, "2"), flag("b", 1, "1"))
			},
			heal: func(t *testing.T, s *Store) { apply(t, s, true, flag("a", 2, "2"), flag("b", 1, "1")) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			env := newEnv()
			writer, reader, raw := open(t, server, env), open(t, server, env), rawClient(t, server)
			apply(t, writer, true, flag("a", 1, "1"), flag("b", 1, "1"))
			kept := apply(t, writer, false, flag("a", 2, "2"))
			hash, sorted := raw.Dump(bounded(t), writer.data).Val(), raw.Dump(bounded(t), writer.sorted).Val()
			tc.lost(t, writer)
			seen := load(t, reader, "")
			raw.RestoreReplace(bounded(t), writer.data, 0, hash)
			raw.RestoreReplace(bounded(t), writer.sorted, 0, sorted)

			// All but the full change are in the log, whoever loaded what and when.
			for _, since := range []store.Rev{seen.Rev, "", kept, "foreign"} {
				_, err := reader.Load(bounded(t), since)
				wantErr(t, err, store.ErrDamaged, "server fell back to an earlier state", string(kept), string(seen.Rev))
				_, err = writer.Load(bounded(t), since)
				wantErr(t, err, store.ErrDamaged, "server fell back to an earlier state")
			}
			late := open(t, server, env)
			if snap := load(t, late, ""); snap.Rev != kept {
				t.Errorf("a fresh handle gets %+v", snap)
			}
			if tc.fresh {
				tc.heal(t, late)
			} else {
				tc.heal(t, writer)
			}
			want := load(t, open(t, server, env), "")
			for _, s := range []*Store{reader, writer, late} {
				snap := load(t, s, seen.Rev)
				if snap.Delta || snap.Rev != want.Rev || !maps.Equal(content(snap.Items), content(want.Items)) {
					t.Errorf("after the repair: %+v, want %+v", snap, want)
				}
			}
		})
	}
}

// The replica that takes over had lost its link for a while.
func TestReplicaThatLagged(t *testing.T) {
	master, replica := redistest.Start(t), redistest.Start(t)
	replica.Must(t, "REPLICAOF", "127.0.0.1", master.Addr()[len("127.0.0.1:"):])
	eventually(t, "replication", func() bool { return strings.Contains(replica.Must(t, "INFO", "replication"), "master_link_status:up") })
	writer := open(t, master, "x")
	apply(t, writer, true, flag("a", 1, "1"))
	kept := apply(t, writer, false, flag("a", 2, "2"))
	eventually(t, "the replica's copy", func() bool {
		return replica.Must(t, "HGET", writer.data, "f:a") == "2|0|2"
	})
	replica.Must(t, "REPLICAOF", "NO", "ONE") // the link is cut, and it knows no more
	seen := apply(t, writer, false, flag("a", 3, "3"))

	// A handle whose address leads to the other server from now on.
	lever := newLever(t, master.Addr())
	reader, err := Open("redis://"+lever.addr+"?env=x", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if snap := load(t, reader, ""); snap.Rev != seen {
		t.Fatalf("%+v", snap)
	}
	lever.to(replica.Addr())
	master.Must(t, "CLIENT", "KILL", "TYPE", "normal")
	eventually(t, "the other server", func() bool {
		_, err = reader.Load(bounded(t), seen)
		return errors.Is(err, store.ErrDamaged)
	})
	wantErr(t, err, store.ErrDamaged, "fell back", string(kept))
	next := apply(t, open(t, replica, "x"), false, flag("a", 3, "again"))
	if snap := load(t, reader, seen); snap.Rev != next || content(snap.Items)["f:a"] != "3|0|again" {
		t.Errorf("%+v", snap)
	}
}

// After a failover a subscription may hang on a server that nobody writes to.
func TestWatchNoticesThatItIsNotTold(t *testing.T) {
	one, other := redistest.Start(t), redistest.Start(t)
	lever := newLever(t, one.Addr())
	s, err := Open("redis://"+lever.addr+"?env=x", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ended, begun := make(chan error, 1), make(chan struct{}, 100)
	go func() { ended <- s.Watch(bounded(t), func() { begun <- struct{}{} }) }()
	<-begun
	load(t, s, "")
	lever.to(other.Addr())
	one.Must(t, "CLIENT", "KILL", "TYPE", "normal") // and not the subscription
	w := open(t, other, "x")
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for n := int64(1); ; n++ {
		apply(t, w, false, flag("a", n, "1"))
		s.Load(bounded(t), "") // may hit a connection that was killed
		select {
		case err := <-ended:
			wantErr(t, err, errDeaf)
			return
		case <-tick.C:
		}
	}
}
