package relay_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/store"
)

func TestStreamRejectsForGood(t *testing.T) {
	s := ready(t, relay.Config{Store: newShelf(flag("a", 1, "a"))})
	now := time.Now()
	for _, tc := range []struct {
		name string
		edit func(url.Values)
	}{
		{"no type", func(q url.Values) { q.Del("type") }},
		{"client type", func(q url.Values) { q.Set("type", "client") }},
		{"type in capitals", func(q url.Values) { q.Set("type", "Server") }},
		{"type twice", func(q url.Values) { q.Add("type", "server") }},
		{"version 3", func(q url.Values) { q.Set("version", "3") }},
		{"no token", func(q url.Values) { q.Del("token") }},
		{"broken token", func(q url.Values) { q.Set("token", "QQQQQ") }},
		{"unknown secret", func(q url.Values) { q.Set("token", protocol.Token(unknown, now)) }},
		{"old token", func(q url.Values) { q.Set("token", protocol.Token(secret, now.Add(-6*time.Minute))) }},
		{"token of the future", func(q url.Values) { q.Set("token", protocol.Token(secret, now.Add(6*time.Minute))) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			q := query()
			tc.edit(q)
			ws, _, err := s.dial(q)
			if err != nil {
				t.Fatal(err)
			}
			defer ws.Close()
			if code, text := closeCode(t, ws); code != 4003 || text != "invalid request, close by server" {
				t.Errorf("closed with %d %q, want 4003", code, text)
			}
		})
	}
	if n := s.Stats(); n.Rejected != 10 || n.Accepted != 0 {
		t.Errorf("rejected %d, accepted %d, want 10 and 0", n.Rejected, n.Accepted)
	}
}

func TestStreamAccepts(t *testing.T) {
	s := ready(t, relay.Config{Store: newShelf(flag("a", 1, "a"))})
	now := time.Now()
	// A time of 15 digits, as in FeatBit's own tests.
	millis := fmt.Sprintf("%015d", now.UnixMilli())
	long := "QQUBH" + secret[:9] + strings.NewReplacer("0", "Q", "1", "B", "2", "W", "3", "S", "4", "P", "5", "H",
		"6", "D", "7", "X", "8", "Z", "9", "U").Replace(millis) + secret[9:]
	for name, edit := range map[string]func(url.Values){
		"plain":           func(url.Values) {},
		"empty version":   func(q url.Values) { q.Set("version", "") },
		"version 1":       func(q url.Values) { q.Set("version", "1") },
		"version 2":       func(q url.Values) { q.Set("version", "2") },
		"15 digits":       func(q url.Values) { q.Set("token", long) },
		"second secret":   func(q url.Values) { q.Set("token", protocol.Token(secret2, now)) },
		"four minutes":    func(q url.Values) { q.Set("token", protocol.Token(secret, now.Add(-4*time.Minute))) },
		"names in caps":   func(q url.Values) { q["TYPE"], q["type"] = q["type"], nil },
		"unknown members": func(q url.Values) { q.Set("x", "y") },
	} {
		t.Run(name, func(t *testing.T) {
			q := query()
			edit(q)
			ws, _, err := s.dial(q)
			if err != nil {
				t.Fatal(err)
			}
			defer ws.Close()
			c := &client{ws: ws, items: map[store.ID]store.Item{}}
			c.sync(t, 0)
			if d := c.next(t); len(d.Items) != 1 {
				t.Errorf("%d items, want 1", len(d.Items))
			}
		})
	}
}

func TestTokenWindow(t *testing.T) {
	s := ready(t, relay.Config{Store: newShelf(flag("a", 1, "a")), TokenWindow: 30 * time.Second})
	q := query()
	q.Set("token", protocol.Token(secret, time.Now().Add(-31*time.Second)))
	ws, _, err := s.dial(q)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	if code, _ := closeCode(t, ws); code != 4003 {
		t.Errorf("closed with %d, want 4003", code)
	}
}

func TestStreamRefusesBeforeData(t *testing.T) {
	shelf := newShelf()
	s := start(t, relay.Config{Store: shelf})
	refused := func() {
		t.Helper()
		_, resp, err := s.dial(query())
		if err == nil || resp == nil || resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
			t.Fatalf("dial = %v, %v, want 503 with Retry-After", resp, err)
		}
		if code, h, _ := s.do(t, "GET", protocol.LatestAllPath, secret, ""); code != 503 || h.Get("Retry-After") == "" {
			t.Errorf("latest-all = %d, want 503 with Retry-After", code)
		}
		if code, _, body := s.do(t, "GET", "/health/readiness", "", ""); code != 503 || body != "Unhealthy" {
			t.Errorf("readiness = %d %s", code, body)
		}
	}
	refused()
	shelf.put(flag("a", 1, "a"))
	eventually(t, "ready", s.Ready)
	if code, _, body := s.do(t, "GET", "/health/readiness", "", ""); code != 200 || body != "Healthy" {
		t.Errorf("readiness = %d %s", code, body)
	}
	s.synced(t)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if _, resp, err := s.dial(query()); err == nil || resp.StatusCode != 503 {
		t.Errorf("dial after Run = %v, %v, want 503", resp, err)
	}
}

// A store that was committed without items is data.
func TestCommittedEmptyStoreIsReady(t *testing.T) {
	shelf := newShelf()
	shelf.change(func() {})
	s := ready(t, relay.Config{Store: shelf})
	c := s.synced(t)
	shelf.put(flag("a", 5, "a"))
	if it := only(t, c.next(t)); it.Version != 5 {
		t.Errorf("version %d, want 5", it.Version)
	}
}

func TestPingAndEcho(t *testing.T) {
	s := ready(t, relay.Config{Store: newShelf(flag("a", 1, "a"))})
	c := s.connect(t)
	for _, tc := range []struct{ send, want string }{
		{`{"messageType":"ping","data":null}`, `{"messageType":"pong","data":{}}`},
		{`{ "messageType": "PiNg", "data": {"timestamp":0} }`, `{"messageType":"pong","data":{}}`},
		{`{"messageType":"echo","data":{"a":[1,"é"]}}`, `{"messageType":"echo","data":{"a":[1,"é"]}}`},
		{`{"messageType":"ECHO","data":null}`, `{"messageType":"echo","data":null}`},
	} {
		c.send(t, tc.send)
		if text, err := c.read(); err != nil || string(text) != tc.want {
			t.Errorf("%s is answered %s, %v, want %s", tc.send, text, err, tc.want)
		}
	}
}

func TestIgnoresWhatFeatBitIgnores(t *testing.T) {
	s := ready(t, relay.Config{Store: newShelf(flag("a", 1, "a"))})
	c := s.connect(t)
	bad := []string{
		``, `nonsense`, `[]`, `"x"`, `{}`, `{"messageType":"ping"}`, `{"messageType":"weird","data":{}}`,
		`{"messageType":"data-sync","data":{"timestamp":"5"}}`,
		`{"messageType":"data-sync","data":{"timestamp":null}}`,
		`{"messageType":"data-sync","data":null}`, `{"messageType":"data-sync","data":[]}`,
	}
	for _, text := range bad {
		c.send(t, text)
		c.silent(t)
	}
	if n := s.Stats().Ignored; n != int64(len(bad)) {
		t.Errorf("%d ignored, want %d", n, len(bad))
	}
	// A number that is no int64 reads as 0.
	for _, n := range []string{"1.5", "1e12", "99999999999999999999"} {
		c.send(t, `{"messageType":"DATA-SYNC","data":{"timestamp":`+n+`}}`)
		if d := c.next(t); d.EventType != wire.Full {
			t.Errorf("timestamp %s is answered %s, want full", n, d.EventType)
		}
	}
	c.send(t, `{"messageType":"data-sync","data":{}}`)
	if d := c.next(t); d.EventType != wire.Full {
		t.Errorf("no timestamp is answered %s, want full", d.EventType)
	}
}

func TestMessageTooLong(t *testing.T) {
	s := ready(t, relay.Config{Store: newShelf(flag("a", 1, "a")), MaxMessage: 100})
	c := s.connect(t)
	c.send(t, strings.Repeat("x", 101))
	if code, _ := closeCode(t, c.ws); code != websocket.CloseMessageTooBig {
		t.Errorf("closed with %d, want 1009", code)
	}
}

func TestDataSync(t *testing.T) {
	old := flag("old", 1000, "x")
	archived, err := wire.Tombstone(flag("archived", 3000, "x"), 3000)
	if err != nil {
		t.Fatal(err)
	}
	twin := segment("twin", 3000, "x")
	s := ready(t, relay.Config{Store: newShelf(old, archived, twin, flag("new", 2000, "x"))})
	for _, tc := range []struct {
		cursor int64
		want   []string // keys of each message
	}{
		{0, []string{"full old new archived twin"}},
		{-1, []string{"patch old", "patch new", "patch archived twin"}},
		{999, []string{"patch old", "patch new", "patch archived twin"}},
		{1000, []string{"patch new", "patch archived twin"}},
		{2999, []string{"patch archived twin"}},
		{3000, []string{"patch"}},
		{4000, []string{"patch"}},
		{1 << 60, []string{"patch"}},
	} {
		c := s.connect(t)
		c.sync(t, tc.cursor)
		for _, want := range tc.want {
			text, err := c.read()
			if err != nil {
				t.Fatal(err)
			}
			d, err := wire.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			got := d.EventType
			for _, it := range d.Items {
				got += " " + it.Key
				if it.Archived != (it.Key == "archived") {
					t.Errorf("%s: archived %v", it.Key, it.Archived)
				}
			}
			if got != want {
				t.Errorf("cursor %d: got %q, want %q", tc.cursor, got, want)
			}
		}
		c.silent(t)
	}
}

func TestNothingIsPushedBeforeDataSync(t *testing.T) {
	shelf := newShelf(flag("a", 1000, "1"))
	s := ready(t, relay.Config{Store: shelf})
	quiet, loud := s.connect(t), s.synced(t)
	shelf.put(flag("a", 2000, "2"))
	loud.next(t)
	quiet.silent(t)
	quiet.sync(t, 1000)
	if it := only(t, quiet.next(t)); it.Version != 2000 {
		t.Errorf("version %d, want 2000", it.Version)
	}
	quiet.silent(t)
}

func TestPushesOneItemEachAscending(t *testing.T) {
	shelf := newShelf(flag("a", 1000, "1"), segment("s", 900, "1"))
	s := ready(t, relay.Config{Store: shelf})
	a, b := s.synced(t), s.synced(t)
	shelf.put(flag("a", 5000, "2"), segment("s", 4500, "2"), flag("b", 4000, "1"))
	for _, c := range []*client{a, b} {
		for _, want := range []int64{4000, 4500, 5000} {
			if it := only(t, c.next(t)); it.Version != want {
				t.Errorf("version %d, want %d", it.Version, want)
			}
		}
		c.silent(t)
		if !same(t, c, shelf) {
			t.Error("the client differs from the store")
		}
	}
	if n := s.Stats(); n.Changes != 3 || n.Patches != 6 || n.Restamped != 0 || n.Connections != 2 {
		t.Errorf("stats = %+v", n)
	}
	// What is the same again is not pushed.
	shelf.put(flag("a", 5000, "2"))
	shelf.put(flag("c", 6000, "1"))
	if it := only(t, a.next(t)); it.Key != "c" {
		t.Errorf("pushed %q, want c", it.Key)
	}
}

// TestWholePatches: who asks for it gets a change of several items as one
// message, so that it can commit it as a whole.
func TestWholePatches(t *testing.T) {
	shelf := newShelf(flag("a", 1000, "1"), segment("s", 900, "1"))
	s := ready(t, relay.Config{Store: shelf})
	ws, _, err := s.dialWith(query(), http.Header{protocol.PatchesHeader: {protocol.WholePatches}})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	c := &client{ws: ws, items: map[store.ID]store.Item{}}
	c.sync(t, 0)
	c.next(t)
	receive := func(want int) {
		t.Helper()
		text, err := c.read()
		if err != nil {
			t.Fatal(err)
		}
		if list := items(t, string(text)); len(list) != want {
			t.Errorf("got %d items in one message, want %d", len(list), want)
		}
	}
	shelf.put(flag("a", 5000, "2"), segment("s", 4500, "2"), flag("b", 4000, "1"))
	receive(3)
	shelf.put(flag("b", 6000, "2"))
	receive(1)
	c.sync(t, 4200) // after a gap, too
	receive(3)
	c.silent(t)
}

func TestSecondDataSyncOnAConnection(t *testing.T) {
	shelf := newShelf(flag("a", 1000, "1"))
	s := ready(t, relay.Config{Store: shelf})
	c := s.synced(t)
	c.sync(t, 0)
	if d := c.next(t); d.EventType != wire.Full {
		t.Errorf("got %s, want full", d.EventType)
	}
	c.sync(t, 1000)
	if d := c.next(t); d.EventType != wire.Patch || len(d.Items) != 0 {
		t.Errorf("got %v, want an empty patch", d)
	}
	shelf.put(flag("a", 2000, "2"))
	only(t, c.next(t))
	c.silent(t)
}

func TestDrainClosesWith1001(t *testing.T) {
	s := ready(t, relay.Config{Store: newShelf(flag("a", 1, "a"))})
	synced, fresh := s.synced(t), s.connect(t)
	ended := make(chan error, 1)
	go func() { ended <- s.stop() }()
	for _, c := range []*client{synced, fresh} {
		if code, _ := closeCode(t, c.ws); code != websocket.CloseGoingAway {
			t.Errorf("closed with %d, want 1001", code)
		}
	}
	if err := <-ended; err != nil {
		t.Errorf("Run() = %v", err)
	}
	if n := s.Stats(); n.Connections != 0 || n.Ready || n.Dropped != 0 {
		t.Errorf("stats = %+v", n)
	}
}

// TestChangesDuringADrain: who is still connected while others are sent away is told of
// changes.
func TestChangesDuringADrain(t *testing.T) {
	shelf := newShelf(flag("a", 1000, "a"))
	s := ready(t, relay.Config{Store: shelf, DrainSpread: 2 * time.Second})
	c := s.synced(t) // the only one, so that it is closed at the end
	ended := make(chan error, 1)
	go func() { ended <- s.stop() }()
	eventually(t, "the drain begins", func() bool { return s.Readiness() == relay.Unhealthy })
	shelf.put(flag("a", 2000, "b"))
	if it := only(t, c.next(t)); it.Version != 2000 {
		t.Errorf("version %d, want 2000", it.Version)
	}
	if code, _ := closeCode(t, c.ws); code != websocket.CloseGoingAway {
		t.Errorf("closed with %d, want 1001", code)
	}
	if err := <-ended; err != nil {
		t.Errorf("Run() = %v", err)
	}
}

// A client that does not answer the closing handshake must not hold up Run.
func TestDrainOfADeafClientIsBounded(t *testing.T) {
	big := flag("big", 1, strings.Repeat("x", 16<<20))
	s := ready(t, relay.Config{Store: newShelf(big)})
	c := s.connect(t)
	c.sync(t, 0) // and never reads
	eventually(t, "the answer is on its way", func() bool { return s.Stats().Syncs == 1 })
	began := time.Now()
	if err := s.stop(); err != nil {
		t.Errorf("Run() = %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("Run took %v to end", took)
	}
}

func TestSlowClientDelaysNobody(t *testing.T) {
	shelf := newShelf(flag("a", 1000, "1"))
	s := ready(t, relay.Config{Store: shelf, WriteTimeout: 100 * time.Millisecond})
	s.synced(t) // slow: never reads again
	quick := s.synced(t)
	value := strings.Repeat("x", 256<<10)
	began := time.Now()
	for version := int64(2000); s.Stats().Dropped == 0; version++ {
		shelf.put(flag("a", version, value))
		if it := only(t, quick.next(t)); it.Version != version {
			t.Fatalf("version %d, want %d", it.Version, version)
		}
		if time.Since(began) > patient {
			t.Fatal("the slow client is never dropped")
		}
	}
	if n := s.Stats(); n.Connections != 1 {
		t.Errorf("%d connections, want 1", n.Connections)
	}
}

func TestClientsThatLeave(t *testing.T) {
	s := ready(t, relay.Config{Store: newShelf(flag("a", 1, "a"))})
	abrupt, polite, node := s.synced(t), s.synced(t), s.synced(t)
	abrupt.ws.Close()
	for c, code := range map[*client]int{polite: 1000, node: 4003} {
		if err := c.ws.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(code, "")); err != nil {
			t.Fatal(err)
		}
		if got, _ := closeCode(t, c.ws); got != code {
			t.Errorf("closed with %d, want %d", got, code)
		}
	}
	eventually(t, "no connection is left", func() bool { return s.Stats().Connections == 0 })
	if n := s.Stats().Dropped; n != 0 {
		t.Errorf("%d dropped, want 0", n)
	}
}

// A peer that answers no ping is gone; one that only answers pings is not.
func TestDeadPeersAreNoticed(t *testing.T) {
	r, err := relay.New(relay.Config{Store: newShelf(flag("a", 1, "a")), Secrets: []relay.Secret{secret}})
	if err != nil {
		t.Fatal(err)
	}
	r.SetIdle(500*time.Millisecond, 50*time.Millisecond)
	s := run(t, r)
	eventually(t, "ready", s.Ready)
	alive := s.synced(t)
	pings := make(chan struct{}, 1000)
	answer := alive.ws.PingHandler()
	alive.ws.SetPingHandler(func(data string) error {
		pings <- struct{}{}
		return answer(data)
	})
	reading := make(chan error, 1)
	go func() {
		_, err := alive.read()
		reading <- err
	}()
	s.synced(t) // dead: never reads again
	eventually(t, "the dead peer is gone", func() bool { return s.Stats().Connections == 1 })
	for range 15 { // beyond the allowed silence
		<-pings
	}
	if n := s.Stats().Connections; n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	alive.ws.Close()
	<-reading
}

// Clients connect at any moment of a storm of changes, of every kind, and must
// end with the state of the store without ever seeing an old version.
func TestNoChangeIsMissedInAStorm(t *testing.T) {
	shelf := newShelf(flag("end", 1, "no"), flag("f0", 10, "0"), segment("s0", 11, "0"))
	s := ready(t, relay.Config{Store: shelf})
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			c := &client{items: map[store.ID]store.Item{}}
			for {
				var err error
				if c.ws, _, err = s.dial(query()); err != nil {
					t.Error(err)
					return
				}
				over := c.weather(t, shelf, 20+i)
				c.ws.Close()
				if over {
					return
				}
				if i%2 == 0 { // the others resume with what they have
					c.cursor = 0
				}
			}
		})
	}
	now := time.Now().UnixMilli()
	for i := range 1000 {
		key, value := fmt.Sprint("f", i%7), fmt.Sprint(i)
		switch i % 5 {
		case 0:
			shelf.put(flag(key, now+int64(i), value), segment("s0", now+int64(i), value)) // the same millisecond
		case 1:
			shelf.put(flag(key, 10, value)) // no newer updatedAt
		case 2:
			shelf.remove(store.ID{Kind: store.Flag, Key: key})
		case 3:
			shelf.put(segment("s1", now-5000, value), flag(key, now+int64(i), value))
		case 4:
			shelf.put(flag(key, 0, value))
		}
		if i%4 == 0 { // let clients in
			before := s.Stats()
			eventually(t, "somebody receives", func() bool {
				n := s.Stats()
				return n.Syncs+n.Patches >= before.Syncs+before.Patches+2
			})
		}
	}
	shelf.put(flag("end", now+10_000, "yes"))
	clients.Wait()
}

// weather follows a stream for some messages, or until the storm is over, which
// it reports.
func (c *client) weather(t *testing.T, shelf *shelf, messages int) (over bool) {
	if err := c.ws.WriteMessage(websocket.TextMessage, protocol.DataSyncRequest(c.cursor)); err != nil {
		t.Error(err)
		return true
	}
	end := store.ID{Kind: store.Flag, Key: "end"}
	for n := 0; ; n++ {
		if _, err := c.receive(); err != nil {
			t.Error(err)
			return true
		}
		// Whoever has got "end", the last change, but not all of the rest (they
		// may be stamped later) must get it, or the next read fails.
		it, ok := c.items[end]
		if over = ok && it.Version > 1; over && same(t, c, shelf) {
			return true
		}
		if n >= messages && !over {
			return false
		}
	}
}
