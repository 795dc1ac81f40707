package memory

import (
	"context"
	"fmt"
	"time"

	"github.com/flagstead/flagstead/store"
)

var _ store.Controller = (*Store)(nil)

// WriteControl implements [store.Controller].
func (s *Store) WriteControl(ctx context.Context, c store.Control) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.usable(ctx)
	if err == nil {
		err = c.Check()
	}
	if err != nil {
		return fmt.Errorf("memory: write control: %w", err)
	}
	if c.At.IsZero() {
		c.At = time.Now()
	}
	s.ctl = c
	return nil
}

// ReadControl implements [store.Controller].
func (s *Store) ReadControl(ctx context.Context) (store.Control, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable(ctx); err != nil {
		return store.Control{}, fmt.Errorf("memory: read control: %w", err)
	}
	return s.ctl, nil
}
