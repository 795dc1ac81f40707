package relay_test

import (
	"strings"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/relay"
)

// TestClientsCannotWalkIntoTheFuture: what browsers claim to have seen, with a secret
// that everybody knows, does not move the versions that others get.
func TestClientsCannotWalkIntoTheFuture(t *testing.T) {
	shelf := newShelf(toggle("a", time.Now().UnixMilli(), true, ""))
	s, e := clientRelay(t, shelf, relay.Config{})
	sdk := s.with(t, e.Secrets[0])
	b := s.browse(t, e.ClientSecrets[0], "u", nil)
	b.ask(t, "")
	b.next(t)
	for i := range 20 {
		b.version = max(time.Now().UnixMilli(), sdk.cursor) + 59_000
		b.ask(t, "")
		if _, _, err := b.ws.ReadMessage(); err != nil { // whatever it says to such a claim
			t.Fatal(err)
		}
		shelf.put(toggle("a", time.Now().UnixMilli(), i%2 == 0, ""))
		sdk.next(t)
	}
	if ahead := time.Until(time.UnixMilli(sdk.cursor)); ahead > time.Minute {
		t.Errorf("an SDK's cursor is %v ahead", ahead)
	}
}

// TestReceivedIsOfOneEnvironment: a secret shows no other environment's users.
func TestReceivedIsOfOneEnvironment(t *testing.T) {
	one, two := env(t, "one", newShelf(flag("a", 1, "a"))), env(t, "two", newShelf(flag("b", 1, "b")))
	r, err := relay.New(relay.Config{Environments: []relay.Environment{one, two}})
	if err != nil {
		t.Fatal(err)
	}
	s := run(t, r)
	s.do(t, "POST", protocol.InsightPath, string(one.Secrets[0]), `[{"user":{"keyId":"ann@one.example"}}]`)
	for secret, want := range map[relay.Secret]bool{one.Secrets[0]: true, two.Secrets[0]: false} {
		if code, _, body := s.do(t, "GET", relay.ReceivedPath, string(secret), ""); code != 200 || strings.Contains(body, "ann@one") != want {
			t.Errorf("%d %s, want it: %v", code, body, want)
		}
	}
}
