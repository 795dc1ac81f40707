package relay_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	secret  = "eWaefCV03kCUS-B_wfkK5wW62PD8vZn0ahZXCGdyiVDg"
	secret2 = "E0ZC__zC8EeQoxEDF-iR9g-JtrIvNK-k-bARYicOTNQA"
	unknown = "gpnOV3wI3kKAO9q9viC0wQWdKZrVAf2U6gAnxl4lSH3w"
	patient = 10 * time.Second // for what must happen
)

// A shelf is a store that can be changed in ways no store.Writer allows.
type shelf struct {
	mu      sync.Mutex
	items   map[store.ID]store.Item
	at      map[store.ID]int // rev of the last change
	cut     int              // deltas from before this rev are not possible
	rev     int
	err     error
	watches map[int]func()
	nextID  int
}

func newShelf(items ...store.Item) *shelf {
	s := &shelf{items: map[store.ID]store.Item{}, at: map[store.ID]int{}, watches: map[int]func(){}}
	if len(items) > 0 {
		s.put(items...)
	}
	return s
}

func (s *shelf) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rev++
	f()
	for _, wake := range s.watches {
		wake()
	}
}

func (s *shelf) put(items ...store.Item) {
	s.change(func() {
		for _, it := range items {
			s.items[it.ID()], s.at[it.ID()] = it, s.rev
		}
	})
}

func (s *shelf) remove(ids ...store.ID) {
	s.change(func() {
		s.cut = s.rev
		for _, id := range ids {
			delete(s.items, id)
		}
	})
}

func (s *shelf) fail(err error) { s.change(func() { s.err = err; s.rev-- }) }

// flush makes the store as if nothing was ever committed.
func (s *shelf) flush() {
	s.change(func() { s.rev = 0; clear(s.items) })
}

func (s *shelf) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return store.Snapshot{}, s.err
	}
	if s.rev == 0 {
		return store.Snapshot{}, ctx.Err()
	}
	from, err := strconv.Atoi(string(since))
	snap := store.Snapshot{Rev: store.Rev(strconv.Itoa(s.rev)), Delta: err == nil && from >= s.cut}
	for id, it := range s.items {
		if !snap.Delta || s.at[id] > from {
			snap.Items = append(snap.Items, it)
		}
	}
	return snap, ctx.Err()
}

func (s *shelf) Watch(ctx context.Context, wake func()) error {
	s.mu.Lock()
	s.nextID++
	id := s.nextID
	s.watches[id] = wake
	s.mu.Unlock()
	wake()
	<-ctx.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watches, id)
	return ctx.Err()
}

// flag returns a flag whose content is told apart by value.
func flag(key string, version int64, value string) store.Item {
	return item(store.Flag, "key", key, version, value)
}

func segment(id string, version int64, value string) store.Item {
	return item(store.Segment, "id", id, version, value)
}

func item(kind store.Kind, name, key string, version int64, value string) store.Item {
	return store.Item{Kind: kind, Key: key, Version: version, Data: fmt.Appendf(nil,
		`{"%s":"%s","description":"%s","updatedAt":"%s","isArchived":false,"future":{"x":1}}`,
		name, key, value, wire.FormatMillis(version))}
}

// A server is a relay that runs behind an HTTP server.
type server struct {
	*relay.Relay
	url  string
	stop func() error // ends Run and returns its error
}

func start(t testing.TB, cfg relay.Config) *server {
	t.Helper()
	if cfg.Secrets == nil {
		cfg.Secrets = []relay.Secret{secret, secret2}
	}
	r, err := relay.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return run(t, r)
}

func run(t testing.TB, r *relay.Relay) *server {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	web := httptest.NewServer(r)
	s := &server{Relay: r, url: web.URL}
	s.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(patient):
			t.Error("Run does not end")
			return nil
		}
	})
	t.Cleanup(func() {
		if err := s.stop(); err != nil && !errors.Is(err, store.ErrClosed) {
			t.Errorf("Run() = %v", err)
		}
		web.Close()
	})
	return s
}

func ready(t testing.TB, cfg relay.Config) *server {
	t.Helper()
	s := start(t, cfg)
	eventually(t, "ready", s.Ready)
	return s
}

// eventually waits for something that only a counter shows.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(patient)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("never: %s", what)
		}
	}
}

func (s *server) do(t testing.TB, method, path, auth, body string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if auth != "" {
		req.Header.Set("Authorization", auth)
	}
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patient}
	resp, err := web.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

// handle is do without a network, for bodies that the relay does not read to the end:
// over a connection the answer may get lost then.
func (s *server) handle(method, path, auth, body string) (int, http.Header, string) {
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req.Header.Set("Authorization", auth)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, req)
	return w.Code, w.Header(), w.Body.String()
}

func query() url.Values {
	return url.Values{"type": {"server"}, "token": {protocol.Token(secret, time.Now())}}
}

func (s *server) dial(q url.Values) (*websocket.Conn, *http.Response, error) {
	return s.dialWith(q, nil)
}

func (s *server) dialWith(q url.Values, header http.Header) (*websocket.Conn, *http.Response, error) {
	d := websocket.Dialer{HandshakeTimeout: patient}
	return d.Dial(strings.Replace(s.url, "http", "ws", 1)+"/streaming?"+q.Encode(), header)
}

// A client applies data as the official Go SDK does: with one version for all
// items. Anything that SDK would close the connection for is an error.
type client struct {
	ws     *websocket.Conn
	cursor int64
	items  map[store.ID]store.Item
}

func (s *server) connect(t testing.TB) *client {
	t.Helper()
	ws, _, err := s.dial(query())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.Close() })
	return &client{ws: ws, items: map[store.ID]store.Item{}}
}

// synced returns a client that has got everything.
func (s *server) synced(t testing.TB) *client {
	t.Helper()
	c := s.connect(t)
	c.sync(t, 0)
	if d := c.next(t); d.EventType != wire.Full {
		t.Fatalf("the first answer is %q, want full", d.EventType)
	}
	return c
}

func (c *client) send(t testing.TB, text string) {
	t.Helper()
	if err := c.ws.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func (c *client) sync(t testing.TB, cursor int64) {
	t.Helper()
	c.send(t, string(protocol.DataSyncRequest(cursor)))
}

func (c *client) read() ([]byte, error) {
	if err := c.ws.SetReadDeadline(time.Now().Add(patient)); err != nil {
		return nil, err
	}
	kind, text, err := c.ws.ReadMessage()
	if err == nil && kind != websocket.TextMessage {
		err = fmt.Errorf("frame of type %d", kind)
	}
	return text, err
}

// next reads a data-sync message and applies it.
func (c *client) next(t testing.TB) wire.DataSync {
	t.Helper()
	d, err := c.receive()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (c *client) receive() (wire.DataSync, error) {
	text, err := c.read()
	if err != nil {
		return wire.DataSync{}, err
	}
	d, err := wire.Parse(text)
	if err != nil || len(d.Skipped) > 0 {
		return d, fmt.Errorf("%w, skipped %v, in %s", err, d.Skipped, text)
	}
	if d.EventType == wire.Full {
		clear(c.items)
		c.cursor = 0
	} else if len(d.Items) > 1 {
		return d, fmt.Errorf("a patch of %d items", len(d.Items))
	}
	for _, it := range d.Items {
		if d.EventType == wire.Patch && it.Version <= c.cursor {
			return d, fmt.Errorf("%s %q with version %d is not newer than %d", it.Kind, it.Key, it.Version, c.cursor)
		}
		c.items[it.ID()] = it
	}
	for _, it := range d.Items {
		c.cursor = max(c.cursor, it.Version)
	}
	return d, nil
}

// silent checks that nothing else was sent before the answer to a ping.
func (c *client) silent(t testing.TB) {
	t.Helper()
	c.send(t, `{"messageType":"ping","data":null}`)
	if text, err := c.read(); err != nil || string(text) != `{"messageType":"pong","data":{}}` {
		t.Fatalf("got %s, %v, want a pong", text, err)
	}
}

// only returns the one item of a patch.
func only(t testing.TB, d wire.DataSync) store.Item {
	t.Helper()
	if d.EventType != wire.Patch || len(d.Items) != 1 {
		t.Fatalf("got %s with %d items, want a patch with one", d.EventType, len(d.Items))
	}
	return d.Items[0]
}

func description(t testing.TB, it store.Item) string {
	t.Helper()
	var members struct {
		Description string
		Future      struct{ X int }
	}
	if err := json.Unmarshal(it.Data, &members); err != nil || members.Future.X != 1 {
		t.Fatalf("members lost: %s, %v", it.Data, err)
	}
	return members.Description
}

// contents maps what is not archived to its description.
func contents(t testing.TB, items map[store.ID]store.Item) map[store.ID]string {
	t.Helper()
	out := map[store.ID]string{}
	for id, it := range items {
		if !it.Archived {
			out[id] = description(t, it)
		}
	}
	return out
}

func same(t testing.TB, c *client, s *shelf) bool {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Equal(contents(t, c.items), contents(t, s.items))
}

// closeCode reads until the connection ends and returns its code.
func closeCode(t testing.TB, ws *websocket.Conn) (int, string) {
	t.Helper()
	if err := ws.SetReadDeadline(time.Now().Add(patient)); err != nil {
		t.Fatal(err)
	}
	for {
		_, _, err := ws.ReadMessage()
		if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
			return closed.Code, closed.Text
		}
		if err != nil {
			t.Fatalf("the connection ends without a close frame: %v", err)
		}
	}
}

func items(t testing.TB, document string) []store.Item {
	t.Helper()
	d, err := wire.Parse([]byte(document))
	if err != nil {
		t.Fatalf("%v in %s", err, document)
	}
	return d.Items
}

func sameData(a, b store.Item) bool { return bytes.Equal(a.Data, b.Data) }
