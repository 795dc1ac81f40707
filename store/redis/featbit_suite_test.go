package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"sync/atomic"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/storetest"
)

// A shaped store keeps the suite's items, whose Data is anything, as FeatBit's.
type shaped struct {
	*Store
	db int
}

// FeatBit's times end with the year 9999, the suite's versions with 2^53. What is
// beyond 2^52 is moved down.
const (
	highFrom = 1 << 52
	highBy   = 1<<53 - 1<<47
)

func (s shaped) to(it store.Item) (store.Item, error) {
	version := it.Version
	if version > highFrom {
		version -= highBy
	}
	id := "id of " + it.Key
	if it.Kind == store.Segment {
		id = it.Key
	}
	data, err := json.Marshal(map[string]any{
		"id": id, "key": it.Key, "envId": s.featbit.envID(), "updatedAt": wire.FormatMillis(version),
		"isArchived": it.Archived, "original": it.Data,
	})
	it.Data, it.Version = data, version
	return it, err
}

func (s shaped) from(it store.Item) (store.Item, error) {
	var d struct{ Original []byte }
	err := json.Unmarshal(it.Data, &d)
	if it.Data = d.Original; it.Version > 1<<46 {
		it.Version += highBy
	}
	return it, err
}

func (s shaped) Apply(ctx context.Context, c store.Change) (store.Rev, error) {
	items := make([]store.Item, len(c.Items))
	for i, it := range c.Items {
		var err error
		if items[i], err = s.to(it); err != nil {
			return "", err
		}
	}
	c.Items = items
	return s.Store.Apply(ctx, c)
}

func (s shaped) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	snap, err := s.Store.Load(ctx, since)
	if errors.Is(err, ErrNotPopulated) {
		return store.Snapshot{}, nil // what the suite calls an empty store
	}
	for i, it := range snap.Items {
		if snap.Items[i], err = s.from(it); err != nil {
			return store.Snapshot{}, err
		}
	}
	return snap, err
}

// An alias is a second handle that is the first one.
type alias struct{ shaped }

func (alias) Close() error { return nil }

// One handle keeps every rule. Nothing in FeatBit's layout is written as a whole,
// so these cases cannot hold between two handles, and run with one.
var (
	betweenReaders = map[string]string{
		"patch-is-visible-whole":          "another handle may see a part of a change",
		"full-is-visible-whole":           "another handle may see a part of a change",
		"heartbeats-amid-commits":         "another handle may be at the Rev of a part of a change",
		"commits-show-whole-and-in-order": "another handle may be at the Rev of a part of a change",
		"random-changes-follow-the-model": "another handle may be at the Rev of a part of a change",
	}
	betweenWriters = map[string]string{
		"one-of-many-wins-a-base":              "a Base is compared before the writing",
		"one-of-many-wins-an-uncommitted-base": "a Base is compared before the writing",
		"no-update-is-lost":                    "a Base is compared before the writing",
		"equal-versions-from-two-handles":      "the versions are compared before the writing, and equal ones leave one score",
	}
)

func TestFeatBitContract(t *testing.T) {
	srv := redistest.Start(t)
	var places atomic.Int64
	at := func(t testing.TB, env string, db int, write bool) shaped {
		t.Helper()
		s, err := Open(fmt.Sprintf("%s/%d?layout=featbit&env=%s&write=%t", srv.URL(), db, env, write), nil)
		if err != nil {
			t.Fatal(err)
		}
		s.featbit.emptyGrace = 0 // the suite removes everything and wants to see it
		return shaped{s, db}
	}
	flush := func(t testing.TB, db int) {
		c := goredis.NewClient(&goredis.Options{Addr: srv.Addr(), DB: db})
		defer c.Close()
		if err := c.FlushDB(bounded(t)).Err(); err != nil {
			t.Fatal(err)
		}
	}
	options := func(write bool, alone ...map[string]string) storetest.Options {
		return storetest.Options{
			// The marker is of a whole database, so each place has one.
			Open: func(t testing.TB) store.DataStore {
				db := int(places.Add(1) % 16)
				s := at(t, newGUID(), db, true)
				if err := s.client.FlushDB(bounded(t)).Err(); err != nil {
					t.Fatal(err)
				}
				return s
			},
			Reopen: func(t testing.TB, first store.DataStore) store.DataStore {
				s := first.(shaped)
				for _, cases := range alone {
					if why, ok := cases[path.Base(t.Name())]; ok {
						t.Logf("runs with one handle: %s", why)
						return alias{s}
					}
				}
				return at(t, s.featbit.envID(), s.db, write)
			},
			ReopenedWrites: write,
			Flush:          func(t testing.TB, s store.DataStore) { flush(t, s.(shaped).db) },
		}
	}
	t.Run("one handle", func(t *testing.T) {
		o := options(true)
		o.Reopen = nil
		storetest.Run(t, o)
	})
	t.Run("reader", func(t *testing.T) { storetest.Run(t, options(false, betweenReaders)) })
	t.Run("two writers", func(t *testing.T) { storetest.Run(t, options(true, betweenReaders, betweenWriters)) })
}
