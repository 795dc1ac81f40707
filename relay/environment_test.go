package relay_test

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/store"
)

// env returns an environment of its own id with a new secret of each kind.
func env(t testing.TB, name string, st store.Reader) relay.Environment {
	t.Helper()
	e := relay.Environment{ID: protocol.NewEnvID(), Name: name, Store: st}
	for _, list := range []*[]relay.Secret{&e.Secrets, &e.ClientSecrets} {
		s, err := protocol.NewSecret(e.ID)
		if err != nil {
			t.Fatal(err)
		}
		*list = append(*list, s)
	}
	return e
}

func (s *server) with(t testing.TB, secret relay.Secret) *client {
	t.Helper()
	ws, _, err := s.dial(token(secret))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.Close() })
	c := &client{ws: ws, items: map[store.ID]store.Item{}}
	c.sync(t, 0)
	c.next(t)
	return c
}

func token(secret relay.Secret) url.Values {
	return url.Values{"type": {"server"}, "token": {protocol.Token(secret, time.Now())}}
}

// TestEnvironments: each secret leads to its own environment, and a broken one does
// no harm to the others.
func TestEnvironments(t *testing.T) {
	good, broken := newShelf(flag("a", 1, "a")), newShelf()
	broken.fail(errors.New("the disk is on fire"))
	one, two := env(t, "one", good), env(t, "two", broken)
	r, err := relay.New(relay.Config{Environments: []relay.Environment{one, two}})
	if err != nil {
		t.Fatal(err)
	}
	s := run(t, r)
	eventually(t, "degraded", func() bool { return s.Readiness() == relay.Degraded })
	if code, _, body := s.do(t, "GET", "/health/readiness", "", ""); code != 200 || body != "Degraded" {
		t.Errorf("readiness %d %s", code, body)
	}
	c := s.with(t, one.Secrets[0])
	if len(c.items) != 1 {
		t.Errorf("got %v", c.items)
	}
	if _, resp, err := s.dial(token(two.Secrets[0])); err == nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("without data: %v, %v, want 503", resp, err)
	}
	// A client secret is no server secret, and the other way round.
	ws, _, err := s.dial(token(one.ClientSecrets[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	if code, _ := closeCode(t, ws); code != 4003 {
		t.Errorf("a client secret with type=server is closed with %d", code)
	}
	if code, _, _ := s.do(t, "GET", protocol.LatestAllPath, string(one.ClientSecrets[0]), ""); code != 401 {
		t.Errorf("a client secret gets latest-all: %d", code)
	}
	good.put(flag("a", 2, "b"))
	c.next(t)
	broken.change(func() { broken.err = nil; broken.items[store.ID{Kind: store.Flag, Key: "b"}] = flag("b", 1, "b") })
	eventually(t, "healthy", func() bool { return s.Readiness() == relay.Healthy })
	if d := s.with(t, two.Secrets[0]); len(d.items) != 1 {
		t.Errorf("got %v", d.items)
	}
	st := s.Stats()
	if len(st.Environments) != 2 || st.Environments[0].Name != "one" || st.Environments[0].Connections != 1 || st.Environments[1].Flags != 1 {
		t.Errorf("stats %+v", st.Environments)
	}
}

// TestSet: environments come, go and change their secrets while SDKs are connected,
// and those that are not concerned notice nothing.
func TestSet(t *testing.T) {
	shelf, other := newShelf(flag("a", 1, "a")), newShelf(flag("b", 1, "b"))
	one, two := env(t, "one", shelf), env(t, "two", other)
	extra := env(t, "", shelf)
	one.Secrets = append(one.Secrets, extra.Secrets...)
	var pending atomic.Bool
	pending.Store(true)
	r, err := relay.New(relay.Config{SecretsPending: pending.Load})
	if err != nil {
		t.Fatal(err)
	}
	s := run(t, r)
	if _, resp, err := s.dial(token(one.Secrets[0])); err == nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Fatalf("a secret that may come: %v, %v, want 503", resp, err)
	}
	set := func(envs ...relay.Environment) {
		t.Helper()
		if err := s.Set(envs); err != nil {
			t.Fatal(err)
		}
		eventually(t, "healthy", func() bool { return s.Readiness() == relay.Healthy })
	}
	set(one, two)
	pending.Store(false)
	a, b, c := s.with(t, one.Secrets[0]), s.with(t, one.Secrets[1]), s.with(t, two.Secrets[0])

	one.Name, one.Secrets = "renamed", one.Secrets[:1]
	set(one, two)
	if code, _ := closeCode(t, b.ws); code != 4003 {
		t.Errorf("a revoked secret: closed with %d, want 4003", code)
	}
	set(one)
	if code, _ := closeCode(t, c.ws); code != 4003 {
		t.Errorf("an environment that is gone: closed with %d, want 4003", code)
	}
	shelf.put(flag("a", 2, "b"))
	a.next(t) // nothing but the change
	eventually(t, "one connection of the renamed", func() bool {
		n := s.Stats().Environments[0]
		return n.Name == "renamed" && n.Connections == 1
	})

	// Another store for the same environment: its SDKs come back.
	one.Store = newShelf(flag("a", 9, "c"))
	set(one)
	if code, _ := closeCode(t, a.ws); code != websocket.CloseGoingAway {
		t.Errorf("another store: closed with %d, want 1001", code)
	}
	s.with(t, one.Secrets[0])
	eventually(t, "the old store is left", func() bool {
		shelf.mu.Lock()
		defer shelf.mu.Unlock()
		return len(shelf.watches) == 0
	})
	eventually(t, "connections are counted", func() bool { return s.Stats().Environments[0].Connections == 1 })
}

func TestSetSaysWhatIsWrong(t *testing.T) {
	shelf := newShelf(flag("a", 1, "a"))
	good := env(t, "good", shelf)
	s := run(t, func() *relay.Relay {
		r, err := relay.New(relay.Config{Environments: []relay.Environment{good}})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}())
	eventually(t, "ready", s.Ready)
	same := env(t, "same", newShelf())
	same.Secrets = good.Secrets
	twin := env(t, "twin", newShelf())
	twin.ID = good.ID
	both := env(t, "both", newShelf())
	both.ClientSecrets = both.Secrets
	bad := env(t, "bad", newShelf())
	bad.Secrets = []relay.Secret{"hunter2"}
	bare := env(t, "bare", newShelf())
	bare.Secrets, bare.ClientSecrets = nil, nil
	for _, tc := range []struct {
		env  relay.Environment
		says string
	}{
		{same, "already listed"},
		{both, "already listed"},
		{twin, "another one with the id"},
		{bad, "secret number 1"},
		{bare, "no secrets"},
		{env(t, "storeless", nil), "no Store"},
	} {
		err := s.Set([]relay.Environment{good, tc.env})
		if err == nil || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), tc.env.Name) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, want %q", tc.env.Name, err, tc.says)
		}
	}
	s.with(t, good.Secrets[0]) // nothing has changed
}
