package memory

import (
	"context"
	"fmt"
	"time"

	"github.com/flagstead/flagstead/store"
)

var _ store.Leaser = (*Store)(nil)

type lease struct {
	holder string
	until  time.Time
}

// Acquire implements [store.Leaser].
func (s *Store) Acquire(ctx context.Context, name string, ttl time.Duration) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return false, fmt.Errorf("memory: acquire lease: %w", err)
	}
	now := time.Now()
	if s.lease.holder != name && now.Before(s.lease.until) {
		return false, nil
	}
	s.lease = lease{name, now.Add(ttl)}
	return true, nil
}

// Release implements [store.Leaser].
func (s *Store) Release(ctx context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return fmt.Errorf("memory: release lease: %w", err)
	}
	if s.lease.holder == name {
		s.lease = lease{}
	}
	return nil
}
