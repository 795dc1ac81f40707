package relay_test

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/store"
)

func TestEditWithoutNewUpdatedAtIsRestamped(t *testing.T) {
	before := time.Now().UnixMilli()
	shelf := newShelf(flag("a", 1000, "1"), flag("b", 2000, "1"))
	s := ready(t, relay.Config{Store: shelf})
	c := s.synced(t)
	shelf.put(flag("a", 1000, "2"))
	it := only(t, c.next(t))
	if it.Key != "a" || it.Version < before || description(t, it) != "2" {
		t.Errorf("pushed %s", it.Data)
	}
	// Newer than its own predecessor, but not than what the relay served.
	shelf.put(flag("b", 2001, "2"))
	if b := only(t, c.next(t)); b.Version <= it.Version || description(t, b) != "2" {
		t.Errorf("pushed %s", b.Data)
	}
	// A truly newer one is left as it is.
	newer := flag("a", time.Now().UnixMilli()+60_000, "3")
	shelf.put(newer)
	if a := only(t, c.next(t)); !sameData(a, newer) {
		t.Errorf("pushed %s", a.Data)
	}
	// And the clock, which is behind now, does not matter.
	shelf.put(flag("b", 2001, "3"))
	if b := only(t, c.next(t)); b.Version != newer.Version+1 {
		t.Errorf("version %d, want %d", b.Version, newer.Version+1)
	}
	if n := s.Stats(); n.Restamped != 3 || n.Changes != 4 {
		t.Errorf("stats = %+v", n)
	}
	if fresh := s.synced(t); !same(t, fresh, shelf) || fresh.cursor != c.cursor {
		t.Error("a fresh client sees something else")
	}
}

func TestRemovedItemsAreArchived(t *testing.T) {
	shelf := newShelf(flag("a", 1000, "1"), flag("b", 2000, "1"), segment("s", 1500, "1"))
	s := ready(t, relay.Config{Store: shelf})
	c := s.synced(t)
	shelf.remove(store.ID{Kind: store.Flag, Key: "b"}, store.ID{Kind: store.Segment, Key: "s"})
	for _, key := range []string{"b", "s"} {
		if it := only(t, c.next(t)); it.Key != key || !it.Archived || description(t, it) != "1" {
			t.Errorf("pushed %s, want the tombstone of %s", it.Data, key)
		}
	}
	// They stay tombstones for those who were away.
	away := s.connect(t)
	away.sync(t, 2000)
	away.next(t)
	away.next(t)
	if len(away.items) != 2 || len(contents(t, away.items)) != 0 {
		t.Errorf("got %v, want two tombstones", away.items)
	}
	// And come back under a newer version.
	last := c.cursor
	shelf.put(flag("b", 2000, "1"))
	if it := only(t, c.next(t)); it.Archived || it.Version <= last {
		t.Errorf("pushed %s", it.Data)
	}
	c.silent(t)
	if !same(t, c, shelf) {
		t.Error("the client differs from the store")
	}
}

// FeatBit archives before it deletes: SDKs know already.
func TestRemovedArchivedItemIsNotPushed(t *testing.T) {
	gone, err := wire.Tombstone(flag("a", 1000, "1"), 1000)
	if err != nil {
		t.Fatal(err)
	}
	shelf := newShelf(gone, flag("b", 2000, "1"))
	s := ready(t, relay.Config{Store: shelf})
	c := s.synced(t)
	shelf.remove(gone.ID())
	shelf.put(flag("b", 3000, "1"))
	if it := only(t, c.next(t)); it.Key != "b" {
		t.Errorf("pushed %s", it.Data)
	}
}

// A store that says more than its Data does is believed.
func TestDataAgreesWithTheStore(t *testing.T) {
	odd := flag("a", 1000, "1")
	odd.Version, odd.Archived = 5000, true
	s := ready(t, relay.Config{Store: newShelf(odd)})
	c := s.synced(t)
	if it := c.items[odd.ID()]; it.Version != 5000 || !it.Archived {
		t.Errorf("served %s", it.Data)
	}
}

func TestInvalidItemsAreNotServed(t *testing.T) {
	shelf := newShelf(flag("a", 1000, "1"))
	for i, text := range []string{`null`, `[]`, `"x"`, `{"key":`, ``, `{"name":"no key"}`} {
		shelf.put(store.Item{Kind: store.Flag, Key: fmt.Sprint("bad", i), Version: 1, Data: []byte(text)})
	}
	shelf.put(store.Item{Kind: 7, Key: "odd", Version: 1, Data: []byte(`{"key":"odd"}`)})
	var log logLines
	s := ready(t, relay.Config{Store: shelf, Logger: log.logger()})
	c := s.synced(t)
	if len(c.items) != 1 {
		t.Errorf("%d items, want 1", len(c.items))
	}
	// One that breaks later stays as it was, and is news when it is repaired.
	shelf.put(store.Item{Kind: store.Flag, Key: "a", Version: 2000, Data: []byte(`{`)})
	shelf.put(flag("b", 3000, "1"))
	if it := only(t, c.next(t)); it.Key != "b" {
		t.Errorf("pushed %s", it.Data)
	}
	if n := s.Stats(); n.InvalidItems != 8 || n.Flags != 2 {
		t.Errorf("stats = %+v", n)
	}
	if n := log.count("cannot be served"); n != 8 {
		t.Errorf("%d log lines, want 8", n)
	}
	shelf.remove(store.ID{Kind: store.Flag, Key: "bad0"}) // everything is loaded again, and nothing logged again
	shelf.put(flag("a", 4000, "2"))
	if it := only(t, c.next(t)); it.Version != 4000 {
		t.Errorf("pushed %s", it.Data)
	}
	eventually(t, "six invalid items", func() bool { return s.Stats().InvalidItems == 6 })
	if n := log.count("cannot be served"); n != 8 {
		t.Errorf("%d log lines, want 8", n)
	}
}

// An SDK that is ahead (another relay, a restart, Python's rounding) must still
// see what changes next.
func TestCursorAheadHidesNothing(t *testing.T) {
	shelf := newShelf(flag("a", 1000, "1"))
	s := ready(t, relay.Config{Store: shelf})
	c := s.connect(t)
	c.cursor = 1001
	c.sync(t, c.cursor)
	c.next(t)
	shelf.put(flag("a", 1001, "2"))
	if it := only(t, c.next(t)); description(t, it) != "2" {
		t.Errorf("pushed %s", it.Data)
	}
	// A cursor that nobody can have honestly changes nothing.
	odd := s.connect(t)
	odd.sync(t, time.Now().Add(time.Hour).UnixMilli())
	odd.next(t)
	newer := flag("a", time.Now().UnixMilli()+1000, "3")
	shelf.put(newer)
	if it := only(t, c.next(t)); !sameData(it, newer) {
		t.Errorf("pushed %s", it.Data)
	}
}

// TestCursorsCannotWalkAhead: an SDK that claims a little more each time does not
// get the relay's clock into the future.
func TestCursorsCannotWalkAhead(t *testing.T) {
	shelf := newShelf(flag("a", 1000, "1"))
	s := ready(t, relay.Config{Store: shelf, Secrets: []relay.Secret{secret}})
	cursor := time.Now().UnixMilli()
	for range 200 {
		cursor += 59_000
		if code, _, body := s.do(t, http.MethodGet, fmt.Sprintf("%s?timestamp=%d", latestAll, cursor), secret, ""); code != http.StatusOK || body != "" {
			t.Fatalf("status %d, %q", code, body)
		}
	}
	shelf.put(flag("a", 1000, "2")) // restamped
	eventually(t, "the edit is served", func() bool {
		_, _, body := s.do(t, http.MethodGet, latestAll, secret, "")
		for _, it := range items(t, body) {
			if ahead := time.Until(time.UnixMilli(it.Version)); ahead > 2*time.Minute {
				t.Fatalf("an edit is served %v ahead", ahead)
			} else if it.Version > 1000 {
				return true
			}
		}
		return false
	})
}

func TestDistantFutureIsNotServed(t *testing.T) {
	far := flag("far", time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC).UnixMilli(), "1")
	shelf := newShelf(flag("a", 1000, "1"), far)
	s := ready(t, relay.Config{Store: shelf, Secrets: []relay.Secret{secret}})
	if st := s.Stats(); st.Flags != 1 || st.InvalidItems != 1 {
		t.Errorf("Stats() = %+v", st)
	}
}

func TestStoreFailureAndFlushKeepTheState(t *testing.T) {
	shelf := newShelf(flag("a", 1000, "1"))
	var log logLines
	s := ready(t, relay.Config{Store: shelf, Logger: log.logger(), Follow: store.FollowOptions{Interval: 5 * time.Millisecond}})
	c := s.synced(t)
	shelf.fail(errors.New("out of order"))
	eventually(t, "the failure is seen", func() bool { return s.Stats().StoreFailing })
	if !s.Ready() {
		t.Error("not ready while the store fails")
	}
	shelf.fail(nil)
	eventually(t, "the failure is over", func() bool { return !s.Stats().StoreFailing })
	shelf.flush()
	eventually(t, "the flush is seen", func() bool { return log.count("was emptied") == 1 })
	if code, _, body := s.do(t, "GET", latestAll, secret, ""); code != 200 || len(items(t, body)) != 1 {
		t.Errorf("latest-all = %d %s", code, body)
	}
	shelf.put(flag("a", 1000, "1"), flag("b", 2000, "1"))
	if it := only(t, c.next(t)); it.Key != "b" {
		t.Errorf("pushed %s", it.Data)
	}
	if log.count("the store fails") != 1 || log.count("is back") != 1 {
		t.Errorf("log:\n%s", &log)
	}
	if strings.Contains(log.String(), secret) {
		t.Error("the log holds the secret")
	}
}

// Many changes at once go beyond what keeps its encoded message.
func TestManyChangesAtOnce(t *testing.T) {
	shelf := newShelf(flag("a", 1000, "1"))
	s := ready(t, relay.Config{Store: shelf})
	c, late := s.synced(t), s.connect(t)
	var many []store.Item
	for i := range 3000 {
		many = append(many, flag(fmt.Sprint("f", i), 10, fmt.Sprint(i)))
	}
	shelf.put(many...)
	for range many {
		only(t, c.next(t))
	}
	late.sync(t, 1000)
	for range many {
		only(t, late.next(t))
	}
	if !same(t, c, shelf) {
		t.Error("the client differs from the store")
	}
	late.items[shelf.items[flag("a", 1, "").ID()].ID()] = flag("a", 1000, "1")
	if !same(t, late, shelf) {
		t.Error("the late client differs from the store")
	}
	// A deletion of all of them, while changes go on.
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, it := range many[:1500] {
			shelf.remove(it.ID())
		}
	})
	wg.Go(func() {
		for i, it := range many[1500:] {
			shelf.put(flag(it.Key, 10, fmt.Sprint("new", i)))
		}
	})
	wg.Wait()
	shelf.put(flag("end", 10, ""))
	want, have := contents(t, shelf.items), contents(t, c.items)
	for !maps.Equal(have, want) {
		it := only(t, c.next(t))
		delete(have, it.ID())
		if !it.Archived {
			have[it.ID()] = description(t, it)
		}
	}
	c.silent(t)
}
