package storetest_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/storetest"
)

// TestTiny: a store need not be long.
func TestTiny(t *testing.T) {
	storetest.Run(t, storetest.Options{Open: func(testing.TB) store.DataStore { return &tiny{} }})
}

// A tiny is a whole store, in one process's memory. It always loads everything,
// and every commit makes a Rev that there never was.
type tiny struct {
	mu     sync.Mutex
	items  map[store.ID]store.Item
	rev    store.Rev
	closed bool
}

func (s *tiny) usable(ctx context.Context) error {
	if s.closed {
		return store.ErrClosed
	}
	return ctx.Err()
}

func (s *tiny) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil || since == s.rev {
		return store.Snapshot{Rev: s.rev, Delta: s.rev != ""}, err
	}
	return store.Snapshot{Rev: s.rev, Items: slices.Collect(maps.Values(s.items))}, nil
}

func (s *tiny) Apply(ctx context.Context, c store.Change) (store.Rev, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return "", err
	}
	if c.Conflicts(s.rev) {
		return "", store.ErrConflict
	}
	next := map[store.ID]store.Item{}
	if !c.Full {
		maps.Copy(next, s.items)
	}
	for _, it := range c.Items {
		old, ok := next[it.ID()]
		if !ok || it.Version > old.Version || c.Full && it.Version == old.Version {
			next[it.ID()] = it
		}
	}
	if s.rev != "" && maps.EqualFunc(s.items, next, same) || !c.Full && len(c.Items) == 0 {
		return s.rev, nil
	}
	s.items, s.rev = next, store.Rev(rand.Text())
	return s.rev, nil
}

func same(a, b store.Item) bool {
	return a.Version == b.Version && a.Archived == b.Archived && bytes.Equal(a.Data, b.Data)
}

func (s *tiny) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.items = true, nil
	return nil
}
