package redis

import (
	"errors"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/redistest"
)

// TestLease: one name holds the lease until it gives it up or its time is over.
func TestLease(t *testing.T) {
	srv := redistest.Start(t)
	a, b := openURL(t, srv.URL(), "prod", nil), openURL(t, srv.URL(), "prod", nil)
	other := openURL(t, srv.URL(), "other", nil)
	try := func(s *Store, name string, ttl time.Duration, want bool) {
		t.Helper()
		if held, err := s.Acquire(bounded(t), name, ttl); err != nil || held != want {
			t.Errorf("%s: %v, %v; want %v", name, held, err, want)
		}
	}
	try(a, "a", time.Minute, true)
	try(a, "a", time.Minute, true)
	try(b, "b", time.Minute, false)
	try(other, "b", time.Minute, true)
	if err := b.Release(bounded(t), "b"); err != nil {
		t.Error(err)
	}
	try(b, "b", time.Minute, false)
	if err := a.Release(bounded(t), "a"); err != nil {
		t.Error(err)
	}
	try(b, "b", 50*time.Millisecond, true)
	deadline := time.Now().Add(10 * time.Second)
	for held := false; !held; {
		var err error
		if held, err = a.Acquire(bounded(t), "a", time.Minute); err != nil || time.Now().After(deadline) {
			t.Fatalf("the lease does not run out: %v", err)
		}
	}
	srv.Must(t, "SET", "{flagstead:wrong}:l", "x")
	if _, err := openURL(t, srv.URL(), "wrong", nil).Acquire(bounded(t), "a", time.Minute); err == nil || errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a key of the wrong type: %v", err)
	}
}
