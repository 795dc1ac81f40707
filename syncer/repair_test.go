package syncer_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/syncer"
)

// hooked is a memory store whose calls can be interfered with.
type hooked struct {
	*memory.Store
	load    func(ctx context.Context) error // nil: nothing
	apply   func(ctx context.Context, c store.Change) error
	applied func() error // after a commit
}

func newHooked(t *testing.T) *hooked {
	h := &hooked{Store: memory.New()}
	t.Cleanup(func() { h.Store.Close() })
	return h
}

func (h *hooked) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	if h.load != nil {
		if err := h.load(ctx); err != nil {
			return store.Snapshot{}, err
		}
	}
	return h.Store.Load(ctx, since)
}

func (h *hooked) Apply(ctx context.Context, c store.Change) (store.Rev, error) {
	if h.apply != nil {
		if err := h.apply(ctx, c); err != nil {
			return "", err
		}
	}
	rev, err := h.Store.Apply(ctx, c)
	if h.applied != nil && err == nil {
		err = h.applied()
	}
	return rev, err
}

// answer plays a server that answers pings, and requests for data by onSync.
func answer(conn *websocket.Conn, onSync func(n int)) {
	for n := 1; ; {
		_, text, err := conn.ReadMessage()
		if err != nil {
			return
		}
		if strings.Contains(string(text), protocol.TypePing) {
			conn.WriteMessage(websocket.TextMessage, protocol.PongFrame)
			continue
		}
		onSync(n)
		n++
	}
}

// TestDamagedContentIsReplaced: what cannot be read is replaced by a whole state,
// with FeatBit and without.
func TestDamagedContentIsReplaced(t *testing.T) {
	for _, connected := range []bool{true, false} {
		t.Run(fmt.Sprintf("connected=%t", connected), func(t *testing.T) {
			f := newFeatbit(t)
			f.set(true, flag("a", 1000), flag("b", 2000))
			f.up()
			st := newHooked(t)
			var damaged atomic.Bool
			damage := fmt.Errorf("reading: %w", store.ErrDamaged)
			st.load = func(context.Context) error {
				if damaged.Load() {
					return damage
				}
				return nil
			}
			st.apply = func(_ context.Context, c store.Change) error {
				switch {
				case !damaged.Load():
				case !c.Full || c.Base != "":
					return damage
				default:
					damaged.Store(false)
				}
				return nil
			}
			s, _ := start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st})
			until(t, "ok", func() bool { return s.Status().State == syncer.OK })
			if !connected {
				f.down()
			}
			damaged.Store(true)
			until(t, "replaced", func() bool { return !damaged.Load() })
			until(t, "whole", holds(t, st, map[string]int64{"a": 1000, "b": 2000}))
			if got := s.Status(); got.Heals != 1 {
				t.Errorf("Status() = %+v", got)
			}
			if connected {
				until(t, "ok again", func() bool { return s.Status().State == syncer.OK && s.Status().Err == nil })
			}
		})
	}
}

// TestDamagedAtStart: the first state that FeatBit sends replaces the damage.
func TestDamagedAtStart(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, flag("a", 1000))
	f.up()
	st := newHooked(t)
	var damaged atomic.Bool
	damaged.Store(true)
	st.load = func(context.Context) error {
		if damaged.Load() {
			return store.ErrDamaged
		}
		return nil
	}
	st.apply = func(_ context.Context, c store.Change) error {
		if damaged.Load() && c.Base != "" {
			return store.ErrConflict
		}
		damaged.Store(false)
		return nil
	}
	start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st})
	until(t, "replaced", holds(t, st, map[string]int64{"a": 1000}))
}

// TestPatchIsNoAnswer: FeatBit lost the request for everything, and pushes
// something to the same connection. That alone is not the environment.
func TestPatchIsNoAnswer(t *testing.T) {
	for name, patch := range map[string][]byte{
		"an item":       wire.AppendDataSync(nil, wire.Patch, []store.Item{flag("one", 3000)}),
		"two items":     wire.AppendDataSync(nil, wire.Patch, []store.Item{flag("one", 3000), flag("three", 3000)}),
		"a broken item": []byte(`{"messageType":"data-sync","data":{"eventType":"patch","featureFlags":[7],"segments":[]}}`),
	} {
		t.Run(name, func(t *testing.T) {
			var lost atomic.Int32
			url := script(t, func(n int, conn *websocket.Conn) {
				answer(conn, func(int) {
					if n == 1 {
						lost.Add(1)
						conn.WriteMessage(websocket.TextMessage, patch)
						return
					}
					send(conn, wire.Full, flag("one", 3000), flag("two", 2000), flag("three", 3000))
				})
			})
			st := newHooked(t)
			var partial atomic.Int32
			st.apply = func(_ context.Context, c store.Change) error {
				if len(c.Items) < 3 {
					partial.Add(1)
				}
				return nil
			}
			s, err := syncer.New(syncer.AnswerWithin(fast(syncer.Config{URL: url, Secret: testSecret(t), Store: st}), 100*time.Millisecond))
			if err != nil {
				t.Fatal(err)
			}
			runUntilEnd(t, s)
			until(t, "received", func() bool { return s.Status().Patches+s.Status().Ignored == 1 })
			if got := s.Status().State; got == syncer.OK {
				t.Errorf("state %v before everything came", got)
			}
			until(t, "asked again", holds(t, st, map[string]int64{"one": 3000, "two": 2000, "three": 3000}))
			if partial.Load() != 0 || lost.Load() != 1 {
				t.Errorf("%d partial states were written; %d requests lost", partial.Load(), lost.Load())
			}
		})
	}
}

// TestEmptyPatchIsAnAnswer: no push is empty, so it says that there is nothing.
func TestEmptyPatchIsAnAnswer(t *testing.T) {
	url := script(t, func(_ int, conn *websocket.Conn) {
		answer(conn, func(int) { send(conn, wire.Patch) })
	})
	st := memory.New()
	defer st.Close()
	s, _ := start(t, syncer.Config{URL: url, Secret: testSecret(t), Store: st})
	until(t, "ok", func() bool { return s.Status().State == syncer.OK })
	if snap, err := st.Load(t.Context(), ""); err != nil || snap.Rev == "" || len(snap.Items) != 0 {
		t.Errorf("Load = %+v, %v", snap, err)
	}
}

// TestPushBeforeTheRequest: what comes while a new connection still waits for
// its cursor answers nothing.
func TestPushBeforeTheRequest(t *testing.T) {
	url := script(t, func(n int, conn *websocket.Conn) {
		if n > 1 {
			answer(conn, func(int) { send(conn, wire.Full, flag("one", 9000), flag("two", 2000)) })
			return
		}
		asked := make(chan struct{})
		go func() {
			conn.ReadMessage()
			close(asked)
		}()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for version := int64(3000); ; version++ {
			select {
			case <-asked:
				drain(conn) // no answer
				return
			case <-tick.C:
				send(conn, wire.Patch, flag("one", version))
			}
		}
	})
	st := newHooked(t)
	pushed := make(chan struct{})
	st.load = func(ctx context.Context) error {
		select {
		case <-pushed:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var partial atomic.Int32
	st.apply = func(_ context.Context, c store.Change) error {
		if len(c.Items) < 2 {
			partial.Add(1)
		}
		return nil
	}
	s, err := syncer.New(syncer.AnswerWithin(fast(syncer.Config{URL: url, Secret: testSecret(t), Store: st}), 100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	runUntilEnd(t, s)
	until(t, "pushed", func() bool { return s.Status().Patches > 0 })
	close(pushed)
	until(t, "asked again", holds(t, st, map[string]int64{"one": 9000, "two": 2000}))
	if partial.Load() != 0 {
		t.Errorf("%d partial states were written", partial.Load())
	}
}

// TestOneRequestAtATime: a full state that is on its way was read before a push
// that overtakes it, however often it is time to ask again meanwhile.
func TestOneRequestAtATime(t *testing.T) {
	url := script(t, func(_ int, conn *websocket.Conn) {
		requests, pings, done := 0, 0, false
		for {
			_, text, err := conn.ReadMessage()
			if err != nil {
				return
			}
			if strings.Contains(string(text), protocol.TypePing) {
				conn.WriteMessage(websocket.TextMessage, protocol.PongFrame)
				pings++
			} else if requests++; requests == 1 {
				send(conn, wire.Full, flag("a", 1000))
				continue
			} else if requests == 2 {
				send(conn, wire.Patch, flag("a", 2000)) // overtakes the answer
				pings = 0
			}
			if !done && (requests == 3 || requests == 2 && pings == 40) {
				done = true
				send(conn, wire.Full, flag("a", 1000), flag("b", 1000))
			}
		}
	})
	st := newHooked(t)
	var back atomic.Bool
	st.apply = func(_ context.Context, c store.Change) error {
		if c.Full && len(c.Items) == 2 && c.Items[0].Version == 1000 && c.Items[1].Version == 1000 {
			back.Store(true)
		}
		return nil
	}
	// A pong may be late on a busy machine, and is not what is tested.
	start(t, syncer.Config{URL: url, Secret: testSecret(t), Store: st, Reconcile: 20 * time.Millisecond, Ping: 2 * time.Millisecond, ReadTimeout: 20 * time.Second})
	until(t, "both", func() bool { return len(content(t, st)) == 2 })
	if back.Load() {
		t.Error("the push was undone")
	}
}

// TestUnknownOutcome: a commit whose answer was lost is found in the store, and
// then nothing is wrong any more.
func TestUnknownOutcome(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, flag("a", 1000))
	f.up()
	st := newHooked(t)
	var lose atomic.Bool
	st.applied = func() error {
		if lose.CompareAndSwap(true, false) {
			return errDown
		}
		return nil
	}
	var trouble atomic.Bool // which may be too short to be seen by looking now and then
	s, _ := start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st, OnStatus: func(s syncer.Status) {
		if errors.Is(s.Err, errDown) {
			trouble.Store(true)
		}
	}})
	until(t, "ok", func() bool { return s.Status().State == syncer.OK })
	lose.Store(true)
	f.set(false, flag("a", 2000))
	until(t, "trouble", trouble.Load)
	until(t, "no trouble", func() bool { return s.Status().State == syncer.OK && s.Status().Err == nil })
}

// TestRepairedByAnother: a state that was to replace damage does not replace
// what another syncer has put there meanwhile.
func TestRepairedByAnother(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, flag("a", 1000), flag("b", 1000))
	f.up()
	st := newHooked(t)
	var damaged, back atomic.Bool
	st.load = func(context.Context) error {
		if damaged.Load() {
			return store.ErrDamaged
		}
		return nil
	}
	st.apply = func(ctx context.Context, c store.Change) error {
		if damaged.Load() {
			st.Store.Apply(ctx, store.Change{Full: true, Items: []store.Item{flag("a", 5000), flag("b", 1000)}})
			damaged.Store(false)
			return errDown
		}
		for _, it := range c.Items {
			if now := content(t, st.Store)["a"]; c.Full && it.Key == "a" && it.Version < now {
				back.Store(true)
			}
		}
		return nil
	}
	s, _ := start(t, syncer.Config{URL: f.url, Secret: f.secret, Store: st})
	until(t, "ok", func() bool { return s.Status().State == syncer.OK })
	damaged.Store(true)
	until(t, "ok again", func() bool {
		return !damaged.Load() && s.Status().State == syncer.OK && s.Status().Err == nil && content(t, st)["a"] == 5000
	})
	if back.Load() {
		t.Error("the store went back")
	}
}

// runUntilEnd runs a syncer until the test ends.
func runUntilEnd(t *testing.T, s *syncer.Syncer) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
}

// TestPatchOntoFlushedStore: a push that meets an empty store must not become
// its only content, not even for a moment.
func TestPatchOntoFlushedStore(t *testing.T) {
	f := newFeatbit(t)
	f.set(true, flag("a", 1000), flag("b", 2000), flag("c", 2000))
	f.up()
	st := &swap{st: memory.New()}
	defer st.Close()
	// Only pushes make the syncer look at the store.
	s, err := syncer.New(syncer.Config{URL: f.url, Secret: f.secret, Store: st, Check: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	runUntilEnd(t, s)
	until(t, "ok", func() bool { return s.Status().State == syncer.OK })
	for i := range int64(20) {
		st.flush()
		f.set(false, flag("a", 5000+i))
		until(t, "refilled", func() bool {
			got := content(t, st)
			if len(got) != 0 && len(got) != 3 {
				t.Fatalf("a reader sees %v", got)
			}
			return got["a"] == 5000+i
		})
	}
}

// TestCutOffSyncerGivesIn: a syncer that lost FeatBit writes back what others
// took away, but only once: they may have been told to.
func TestCutOffSyncerGivesIn(t *testing.T) {
	// A server that was restored from a backup, in which x is not; a relay would
	// give the older state newer versions.
	var restored atomic.Bool
	url := script(t, func(_ int, conn *websocket.Conn) {
		answer(conn, func(int) {
			if restored.Load() {
				send(conn, wire.Full, flag("a", 1500))
			} else {
				send(conn, wire.Full, flag("a", 2000), flag("x", 1000))
			}
		})
	})
	g := newFeatbit(t)
	g.set(true, flag("a", 2000), flag("x", 1000))
	g.up()
	st := memory.New()
	defer st.Close()
	var writes atomic.Int32 // of what is not in the backup
	cutOff := &hooked{Store: st, apply: func(_ context.Context, c store.Change) error {
		if slices.ContainsFunc(c.Items, func(it store.Item) bool { return it.Key == "x" }) {
			writes.Add(1)
		}
		return nil
	}}
	a, _ := start(t, syncer.Config{URL: url, Secret: testSecret(t), Store: st, Reconcile: 50 * time.Millisecond})
	b, _ := start(t, syncer.Config{URL: g.url, Secret: g.secret, Store: cutOff})
	until(t, "both are ok", func() bool { return a.Status().State == syncer.OK && b.Status().State == syncer.OK })
	g.down()
	until(t, "one is cut off", func() bool { return b.Status().State == syncer.Interrupted })
	writes.Store(0)
	restored.Store(true)
	fulls := a.Status().Fulls
	until(t, "ten more states", func() bool { return a.Status().Fulls >= fulls+10 })
	until(t, "the backup counts", holds(t, st, map[string]int64{"a": 1500}))
	// Once, and again if the other one was faster.
	if n := writes.Load(); n < 1 || n > 3 {
		t.Errorf("written back %d times", n)
	}
}

// TestSlowFull: an answer that takes longer than the patience for one is waited
// for while it arrives.
func TestSlowFull(t *testing.T) {
	items := make([]store.Item, 200)
	for i := range items {
		items[i] = flag(fmt.Sprint("f", i), int64(1000+i))
	}
	text := wire.AppendDataSync(nil, wire.Full, items)
	url := script(t, func(n int, conn *websocket.Conn) {
		conn.ReadMessage()
		w, err := conn.NextWriter(websocket.TextMessage)
		if err != nil {
			return
		}
		const parts = 40
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for i := range parts {
			if _, err := w.Write(text[i*len(text)/parts : (i+1)*len(text)/parts]); err != nil {
				return
			}
			<-tick.C
		}
		w.Close()
		drain(conn)
	})
	st := memory.New()
	defer st.Close()
	s, err := syncer.New(syncer.AnswerWithin(syncer.Config{URL: url, Secret: testSecret(t), Store: st}, 100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	runUntilEnd(t, s)
	until(t, "all of it", func() bool { return len(content(t, st)) == len(items) })
	if got := s.Status(); got.Connects != 1 {
		t.Errorf("Status() = %+v", got)
	}
}

// TestHangingStoreDelaysNoReceiving: FeatBit sends to its connections one after
// the other, so a syncer must go on reading.
func TestHangingStoreDelaysNoReceiving(t *testing.T) {
	const pushes = 400 // more than sockets buffer
	sent := make(chan struct{})
	url := script(t, func(_ int, conn *websocket.Conn) {
		conn.ReadMessage()
		send(conn, wire.Full, flag("a", 1000))
		for i := range int64(pushes) {
			it := flag("b", 2000+i)
			it.Data = append(it.Data, strings.Repeat(" ", 20_000)...)
			send(conn, wire.Patch, it)
		}
		close(sent)
		drain(conn)
	})
	st := newHooked(t)
	hang := make(chan struct{})
	var once sync.Once
	release := func() { once.Do(func() { close(hang) }) }
	defer release()
	st.apply = func(ctx context.Context, _ store.Change) error {
		select {
		case <-hang:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s, _ := start(t, syncer.Config{URL: url, Secret: testSecret(t), Store: st})
	<-sent
	until(t, "all received", func() bool { return s.Status().Patches == pushes })
	release()
	until(t, "written", holds(t, st, map[string]int64{"a": 1000, "b": 2000 + pushes - 1}))
}

// TestFailingStoreIsNotHammered: pushes do not shorten the pause after a failure.
func TestFailingStoreIsNotHammered(t *testing.T) {
	const pushes = 2000
	done := make(chan struct{})
	url := script(t, func(_ int, conn *websocket.Conn) {
		conn.ReadMessage()
		send(conn, wire.Full, flag("a", 1000))
		for i := range int64(pushes) {
			send(conn, wire.Patch, flag("a", 2000+i))
		}
		close(done)
		drain(conn)
	})
	st := newHooked(t)
	var tries atomic.Int32
	st.apply = func(context.Context, store.Change) error { tries.Add(1); return errDown }
	began := time.Now()
	s, _ := start(t, syncer.Config{URL: url, Secret: testSecret(t), Store: st})
	<-done
	until(t, "all received", func() bool { return s.Status().Patches == pushes })
	// The pauses are 25 to 50 ms, then twice as long each.
	if n, limit := int(tries.Load()), 2+int(time.Since(began)/(25*time.Millisecond)); n > limit {
		t.Errorf("%d tries in %v", n, time.Since(began))
	}
	until(t, "trouble is known", func() bool { return errors.Is(s.Status().Err, errDown) })
}

// TestHandshakeIsBounded: a server that accepts and says nothing costs no more
// than DialTimeout, and nothing when the syncer is to end.
func TestHandshakeIsBounded(t *testing.T) {
	for _, what := range []string{"silent", "trickling"} {
		t.Run(what, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			accepted := make(chan struct{}, 100)
			var peers sync.WaitGroup
			defer peers.Wait()
			peers.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					accepted <- struct{}{}
					peers.Go(func() {
						defer c.Close()
						if what == "trickling" {
							for range time.Tick(20 * time.Millisecond) {
								if _, err := c.Write([]byte("H")); err != nil {
									return
								}
							}
						}
						for {
							if _, err := c.Read(make([]byte, 1000)); err != nil {
								return
							}
						}
					})
				}
			})
			defer l.Close()
			st := memory.New()
			defer st.Close()
			s, err := syncer.New(syncer.Config{URL: "http://" + l.Addr().String(), Secret: testSecret(t), Store: st,
				DialTimeout: 200 * time.Millisecond, BackoffMin: time.Millisecond, BackoffMax: time.Millisecond, ReadTimeout: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- s.Run(ctx) }()
			<-accepted
			<-accepted // so the first attempt came to an end
			if err := s.Status().Err; err == nil || !strings.Contains(err.Error(), "200ms") {
				t.Errorf("Err = %v", err)
			}
			cancel()
			at := time.Now()
			<-ended
			if d := time.Since(at); d > 5*time.Second {
				t.Errorf("Run ended %v after its context", d)
			}
		})
	}
}

// TestLateFullOnItsOwnBase: a full state that could not be written must not
// overwrite what another syncer wrote meanwhile, not even after a reconnect.
func TestLateFullOnItsOwnBase(t *testing.T) {
	st := newHooked(t)
	var down, dropped atomic.Bool
	down.Store(true)
	st.apply = func(context.Context, store.Change) error {
		if down.Load() {
			return errDown
		}
		return nil
	}
	// The store is well again for the look at it that a new connection brings.
	st.load = func(context.Context) error {
		if dropped.Load() {
			down.Store(false)
		}
		return nil
	}
	drop := make(chan struct{})
	url := script(t, func(n int, conn *websocket.Conn) {
		conn.ReadMessage()
		if n == 1 {
			send(conn, wire.Full, flag("a", 1000), flag("b", 1000))
			<-drop
			dropped.Store(true)
			return
		}
		drain(conn) // the second answer does not come
	})
	if _, err := st.Store.Apply(t.Context(), store.Change{Full: true, Items: []store.Item{flag("a", 500)}}); err != nil {
		t.Fatal(err)
	}
	cfg := fast(syncer.Config{URL: url, Secret: testSecret(t), Store: st})
	cfg.Check = time.Hour
	s, err := syncer.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	runUntilEnd(t, s)
	until(t, "full", func() bool { return s.Status().Fulls == 1 && s.Status().Err != nil })
	if _, err := st.Store.Apply(t.Context(), store.Change{Items: []store.Item{flag("a", 2000)}}); err != nil {
		t.Fatal(err)
	}
	close(drop)
	until(t, "both are there", func() bool {
		got := content(t, st.Store)
		if got["a"] == 1000 {
			t.Fatal("the store went back")
		}
		return got["a"] == 2000 && got["b"] == 1000
	})
}

// TestTwoSyncersOnAnEmptyStore: the slower one does not overwrite the faster.
func TestTwoSyncersOnAnEmptyStore(t *testing.T) {
	st := memory.New()
	defer st.Close()
	url := script(t, func(_ int, conn *websocket.Conn) {
		conn.ReadMessage()
		// FeatBit has read its state; another syncer has it already, and a push.
		for _, c := range []store.Change{
			{Full: true, Items: []store.Item{flag("a", 1000), flag("b", 1000)}},
			{Items: []store.Item{flag("a", 2000)}},
		} {
			if _, err := st.Apply(context.Background(), c); err != nil {
				t.Error(err)
			}
		}
		send(conn, wire.Full, flag("a", 1000), flag("b", 1000), flag("c", 1000))
		drain(conn)
	})
	s, err := syncer.New(syncer.Config{URL: url, Secret: testSecret(t), Store: st, Check: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	runUntilEnd(t, s)
	until(t, "merged", func() bool {
		got := content(t, st)
		if len(got) == 3 && got["a"] != 2000 {
			t.Fatal("the store went back")
		}
		return len(got) == 3
	})
}

// TestMalformedPushIsMadeUpFor: what a message that cannot be read may have held
// is asked for.
func TestMalformedPushIsMadeUpFor(t *testing.T) {
	var requests atomic.Int32
	url := script(t, func(_ int, conn *websocket.Conn) {
		answer(conn, func(n int) {
			requests.Add(1)
			send(conn, wire.Full, flag("a", int64(1000*n)))
			for range 5 {
				conn.WriteMessage(websocket.TextMessage, []byte(`{"messageType":"data-sync","data":{"eventType":"patch","featureFlags":[],"segments":7}}`))
			}
		})
	})
	st := memory.New()
	defer st.Close()
	s, _ := start(t, syncer.Config{URL: url, Secret: testSecret(t), Store: st})
	until(t, "asked again", holds(t, st, map[string]int64{"a": 2000}))
	until(t, "all ignored", func() bool { return s.Status().Ignored == 10 })
	if n := requests.Load(); n != 2 || s.Status().Connects != 1 {
		t.Errorf("%d requests, %+v", n, s.Status())
	}
}

// TestMalformedPushSoonAfterAnother: the second one is made up for, too, if later.
func TestMalformedPushSoonAfterAnother(t *testing.T) {
	url := script(t, func(_ int, conn *websocket.Conn) {
		answer(conn, func(n int) {
			send(conn, wire.Full, flag("a", int64(1000*n)))
			if n < 3 {
				conn.WriteMessage(websocket.TextMessage, []byte(`{"messageType":"data-sync","data":{"eventType":"patch","featureFlags":[],"segments":7}}`))
			}
		})
	})
	st := memory.New()
	defer st.Close()
	cfg := syncer.SuspectEvery(syncer.Config{URL: url, Secret: testSecret(t), Store: st, Reconcile: time.Hour}, 200*time.Millisecond)
	s, _ := start(t, cfg)
	until(t, "asked a third time", holds(t, st, map[string]int64{"a": 3000}))
	if got := s.Status(); got.Connects != 1 || got.Ignored != 2 {
		t.Errorf("Status() = %+v", got)
	}
}

// TestMalformedMessageIsClosedWith1001, as the Python SDK does.
func TestMalformedMessageIsClosedWith1001(t *testing.T) {
	codes := make(chan int, 10)
	url := script(t, func(n int, conn *websocket.Conn) {
		conn.ReadMessage()
		if n > 1 {
			drain(conn)
			return
		}
		conn.WriteMessage(websocket.TextMessage, []byte("no JSON"))
		for {
			_, _, err := conn.ReadMessage()
			if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
				codes <- closed.Code
			}
			if err != nil {
				return
			}
		}
	})
	st := memory.New()
	defer st.Close()
	start(t, syncer.Config{URL: url, Secret: testSecret(t), Store: st})
	if code := <-codes; code != websocket.CloseGoingAway {
		t.Errorf("closed with %d", code)
	}
}
