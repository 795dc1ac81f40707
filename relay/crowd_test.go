package relay_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/store"
)

// TestIdleConnectionsAreCheap: each has one goroutine, whose stack is not larger
// after it has done something.
func TestIdleConnectionsAreCheap(t *testing.T) {
	const n = 500
	limit := uint64(3 << 10)
	if raced {
		limit = 5 << 10
	}
	s := ready(t, relay.Config{Store: newShelf(flag("a", 1, strings.Repeat("x", 5000)))})
	s.synced(t) // whatever is made once
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	var all []*client
	for range n {
		all = append(all, s.synced(t))
	}
	for _, c := range all {
		c.silent(t)
	}
	// Those of the HTTP server end a moment after the connections are taken over.
	eventually(t, "a goroutine per connection", func() bool { return runtime.NumGoroutine() <= goroutines+n+5 })
	eventually(t, "small stacks", func() bool {
		runtime.GC()
		runtime.ReadMemStats(&after)
		return after.StackInuse < before.StackInuse+n*limit
	})
	t.Logf("%d bytes of stack per connection", (int(after.StackInuse)-int(before.StackInuse))/n)
}

// TestASlowClientGetsTheLastState: what was replaced while it could not take it is left
// out, and nothing else.
func TestASlowClientGetsTheLastState(t *testing.T) {
	shelf := newShelf(flag("a", 1000, "1"))
	s := ready(t, relay.Config{Store: shelf, WriteTimeout: time.Minute})
	slow, quick := s.synced(t), s.synced(t)
	const changes = 40
	filling := strings.Repeat("x", 256<<10)
	for i := range changes {
		version := int64(2000 + 2*i)
		shelf.put(flag("a", version, filling), flag(fmt.Sprint("f", i), version+1, "small"))
		for quick.cursor < version+1 { // it waits for nobody
			quick.next(t)
		}
	}
	messages := 0
	for ; slow.cursor < quick.cursor; messages++ {
		slow.next(t)
	}
	if !same(t, slow, shelf) {
		t.Error("the slow client differs from the store")
	}
	if messages > 2*changes-10 {
		t.Errorf("%d messages, as if they had been queued", messages)
	}
	slow.silent(t)
	if n := s.Stats(); n.Dropped != 0 {
		t.Errorf("%d dropped, want 0", n.Dropped)
	}
}

// TestALargeDocumentIsNotCopied: slow clients of a large environment share its bytes.
func TestALargeDocumentIsNotCopied(t *testing.T) {
	const size, n = 8 << 20, 4
	s := ready(t, relay.Config{Store: newShelf(flag("big", 1, strings.Repeat("x", size)))})
	first := s.synced(t) // encodes the document
	first.ws.Close()
	first.items = nil
	var clients []*client
	for range n {
		clients = append(clients, s.connect(t))
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for _, c := range clients {
		c.sync(t, 0)
	}
	eventually(t, "all answers are on their way", func() bool { return s.Stats().Syncs == n+1 })
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > size {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	for _, c := range clients {
		if text, err := c.read(); err != nil || len(text) < size {
			t.Fatalf("%d bytes, %v", len(text), err)
		}
		c.silent(t)
	}
}

// TestChurn: two thousand connections come and go during changes, and none that stays
// misses the last one.
func TestChurn(t *testing.T) {
	const workers, each = 100, 20
	shelf := newShelf(flag("end", 1, "no"), flag("f0", 10, "0"))
	s := ready(t, relay.Config{Store: shelf})
	var dialed atomic.Int64
	var clients, changing sync.WaitGroup
	for w := range workers {
		clients.Go(func() {
			for i := range each {
				c := &client{items: map[store.ID]store.Item{}}
				var err error
				if c.ws, _, err = s.dial(query()); err != nil {
					t.Error(err)
					return
				}
				dialed.Add(1)
				if i < each-1 {
					c.weather(t, shelf, rand.IntN(3))
					if w%3 == 0 {
						_ = c.ws.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""))
					}
				} else if !c.weather(t, shelf, 1<<30) {
					t.Error("the last state did not come")
				}
				c.ws.Close()
			}
		})
	}
	changing.Go(func() {
		for i := 0; dialed.Load() < workers*each && !t.Failed(); i++ {
			before := s.Stats()
			shelf.put(flag(fmt.Sprint("f", i%7), 10, fmt.Sprint(i)))
			eventually(t, "somebody receives", func() bool {
				n := s.Stats()
				return n.Syncs+n.Patches >= before.Syncs+before.Patches+5 || dialed.Load() == workers*each
			})
		}
		shelf.put(flag("end", time.Now().UnixMilli()+10_000, "yes"))
	})
	changing.Wait()
	clients.Wait()
	if n := s.Stats().Accepted; n != workers*each {
		t.Errorf("%d connections, want %d", n, workers*each)
	}
	eventually(t, "all are gone", func() bool { return s.Stats().Connections == 0 })
}

// TestMaxConnectionsInABurst: those who come at the same moment do not get in all
// together.
func TestMaxConnectionsInABurst(t *testing.T) {
	const limit, burst = 10, 100
	s := ready(t, relay.Config{Store: newShelf(flag("a", 1, "a")), MaxConnections: limit})
	var in atomic.Int64
	var dialing sync.WaitGroup
	open := make(chan *websocket.Conn, burst)
	for range burst {
		dialing.Go(func() {
			ws, resp, err := s.dial(query())
			switch {
			case err == nil:
				in.Add(1)
				open <- ws
			case resp == nil || resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "":
				t.Errorf("refused with %v, %v", resp, err)
			}
		})
	}
	dialing.Wait()
	if in.Load() != limit {
		t.Errorf("%d connections, want %d", in.Load(), limit)
	}
	for range in.Load() {
		(<-open).Close()
	}
	eventually(t, "there is room again", func() bool { return s.Stats().Connections == 0 })
	s.synced(t)
}

// secure is a relay behind TLS.
func secure(t *testing.T, cfg relay.Config) (dial func() *client, stop func(), r *relay.Relay) {
	cfg.Secrets = []relay.Secret{secret}
	r, err := relay.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	web := httptest.NewTLSServer(r)
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run() = %v", err)
		}
		web.Close()
	})
	t.Cleanup(stop)
	eventually(t, "ready", r.Ready)
	config := web.Client().Transport.(*http.Transport).TLSClientConfig
	return func() *client {
		d := websocket.Dialer{HandshakeTimeout: patient, TLSClientConfig: &tls.Config{RootCAs: config.RootCAs, ServerName: "example.com"}}
		ws, _, err := d.Dial(strings.Replace(web.URL, "http", "ws", 1)+"/streaming?"+query().Encode(), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ws.Close() })
		c := &client{ws: ws, items: map[store.ID]store.Item{}}
		c.sync(t, 0)
		c.next(t)
		return c
	}, stop, r
}

// TestTLS: where a write cannot be tried without waiting, everything else holds.
func TestTLS(t *testing.T) {
	shelf := newShelf(flag("a", 1000, "1"))
	dial, stop, r := secure(t, relay.Config{Store: shelf, WriteTimeout: 100 * time.Millisecond})
	a, b := dial(), dial()
	var many []store.Item
	for i := range 500 {
		many = append(many, flag(fmt.Sprint("f", i), 10, fmt.Sprint(i)))
	}
	shelf.put(many...)
	for range many {
		only(t, a.next(t))
		only(t, b.next(t))
	}
	if !same(t, a, shelf) || !same(t, b, shelf) {
		t.Error("the clients differ from the store")
	}
	a.silent(t)
	if err := a.ws.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(1000, "")); err != nil {
		t.Fatal(err)
	}
	if code, _ := closeCode(t, a.ws); code != 1000 {
		t.Errorf("closed with %d, want 1000", code)
	}
	dial() // slow: never reads again
	value := strings.Repeat("x", 256<<10)
	for version, began := time.Now().UnixMilli()+1000, time.Now(); r.Stats().Dropped == 0; version++ {
		shelf.put(flag("a", version, value))
		if it := only(t, b.next(t)); it.Version != version {
			t.Fatalf("version %d, want %d", it.Version, version)
		}
		if time.Since(began) > patient {
			t.Fatal("the slow client is never dropped")
		}
	}
	go stop()
	if code, _ := closeCode(t, b.ws); code != websocket.CloseGoingAway {
		t.Errorf("closed with %d, want 1001", code)
	}
}

// TestRawFrames: what only a client that is not ours sends.
func TestRawFrames(t *testing.T) {
	s := ready(t, relay.Config{Store: newShelf(flag("a", 1, "a"))})
	mask := func(head string, payload string) []byte {
		return append([]byte(head+"\x00\x00\x00\x00"), payload...) // a mask that changes nothing
	}
	c := s.connect(t)
	text := string(protocol.DataSyncRequest(0))
	half := len(text) / 2
	raw := c.ws.NetConn()
	send := func(b []byte) {
		t.Helper()
		for i := range b { // a byte at a time
			if _, err := raw.Write(b[i : i+1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	pongs := 0
	c.ws.SetPongHandler(func(data string) error {
		if pongs++; data != "hi" {
			t.Errorf("pong %q", data)
		}
		return nil
	})
	send(mask(string([]byte{0x01, 0x80 | byte(half)}), text[:half]))
	send(mask(string([]byte{0x89, 0x82}), "hi"))
	send(mask(string([]byte{0x80, 0x80 | byte(len(text)-half)}), text[half:]))
	c.next(t)
	if pongs != 1 || len(c.items) != 1 {
		t.Errorf("%d pongs, items %v", pongs, c.items)
	}
	send([]byte{0xC1, 0x80, 0, 0, 0, 0})
	send([]byte("whatever comes next"))
	if code, _ := closeCode(t, c.ws); code != websocket.CloseProtocolError {
		t.Errorf("closed with %d, want 1002", code)
	}
	c.ws.Close()

	d := s.synced(t)
	if _, err := d.ws.NetConn().Write([]byte{0x88, 0x80, 0, 0, 0, 0}); err != nil { // without a code
		t.Fatal(err)
	}
	if code, _ := closeCode(t, d.ws); code != websocket.CloseNoStatusReceived {
		t.Errorf("closed with %d, want no status", code)
	}
	eventually(t, "all are gone", func() bool { return s.Stats().Connections == 0 })
}

// TestSetWhileSDKsCome: an environment comes and goes while its SDKs connect. Whoever
// got in is sent away when it has gone for good, and the other environment's SDKs
// notice nothing.
func TestSetWhileSDKsCome(t *testing.T) {
	shelf := newShelf(flag("a", 1, "a"))
	one, two := env(t, "one", shelf), env(t, "two", newShelf(flag("b", 1, "b")))
	r, err := relay.New(relay.Config{Environments: []relay.Environment{one}})
	if err != nil {
		t.Fatal(err)
	}
	s := run(t, r)
	eventually(t, "ready", s.Ready)
	var stay []*client
	for range 4 {
		stay = append(stay, s.with(t, one.Secrets[0]))
	}
	var over atomic.Bool
	var in atomic.Int64
	var comers sync.WaitGroup
	for range 16 {
		comers.Go(func() {
			for !over.Load() {
				ws, resp, err := s.dial(token(two.Secrets[0]))
				if err != nil {
					if resp == nil || resp.StatusCode != http.StatusServiceUnavailable {
						t.Errorf("refused with %v, %v", resp, err)
						return
					}
					continue
				}
				in.Add(1)
				_ = ws.SetReadDeadline(time.Now().Add(patient))
				if _, _, err = ws.ReadMessage(); !websocket.IsCloseError(err, protocol.CloseInvalid, websocket.CloseGoingAway) {
					t.Errorf("ended with %v, want 4003 or 1001", err)
				}
				ws.Close()
			}
		})
	}
	for i := range 40 {
		before := in.Load()
		envs := []relay.Environment{one, two}
		if i%4 == 3 {
			envs[1].Store = newShelf(flag("b", 1, "c"))
		}
		for _, set := range [][]relay.Environment{envs, {one}} {
			if err := s.Set(set); err != nil {
				t.Fatal(err)
			}
			if len(set) == 2 {
				eventually(t, "somebody comes in", func() bool { return in.Load() > before+2 })
			}
		}
	}
	over.Store(true)
	comers.Wait()
	eventually(t, "they are gone", func() bool { return s.Stats().Connections == len(stay) })
	shelf.put(flag("a", 2, "b"))
	for _, c := range stay {
		if it := only(t, c.next(t)); it.Version != 2 {
			t.Errorf("got %s", it.Data)
		}
	}
}
