package redis

import (
	"context"
	_ "embed" // the script
	"errors"
	"fmt"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flagstead/flagstead/store"
)

var (
	//go:embed lease.lua
	leaseLua string

	leaseScript = goredis.NewScript(leaseLua)

	_ store.Leaser = (*Store)(nil)
)

// Acquire implements [store.Leaser]. The time runs by the server's clock. FeatBit's
// layout has no leases.
func (s *Store) Acquire(ctx context.Context, name string, ttl time.Duration) (bool, error) {
	reply, err := s.runLease(ctx, name, max(ttl.Milliseconds(), 1))
	return err == nil && reply == "held", err
}

// Release implements [store.Leaser].
func (s *Store) Release(ctx context.Context, name string) error {
	_, err := s.runLease(ctx, name, 0)
	return err
}

func (s *Store) runLease(ctx context.Context, name string, ms int64) (string, error) {
	if s.featbit != nil {
		return "", fmt.Errorf("redis: a lease in FeatBit's layout: %w", errors.ErrUnsupported)
	}
	reply, err := s.run(ctx, s.command(leaseScript), []string{strings.TrimSuffix(s.beat, "h") + "l"}, name, ms)
	if err != nil {
		return "", s.wrap("lease", err)
	}
	return reply[0], nil
}
