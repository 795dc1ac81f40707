package redis

import (
	"context"
	"errors"
	"strings"

	goredis "github.com/redis/go-redis/v9"
)

// warn tells the logger, once, if the server may evict the flags: it is then a
// cache, and sooner or later an empty one. It is called after what matters has
// worked, and fails silently.
func (s *Store) warn(ctx context.Context) {
	if s.opts.Logger == nil || s.warned.Load() {
		return
	}
	info, err := do(ctx, s, s.opts.Timeout, func(ctx context.Context) (string, error) {
		return s.client.Info(ctx, "memory").Result()
	})
	var reply goredis.Error
	if err != nil && !errors.As(err, &reply) {
		return // another time
	}
	if s.warned.Swap(true) {
		return
	}
	policy := infoField(info, "maxmemory_policy")
	if limit := infoField(info, "maxmemory"); strings.HasPrefix(policy, "allkeys-") && limit != "0" {
		s.opts.Logger.Warn("the Redis server may evict the flags: give it more than it needs, or the policy noeviction or volatile-*",
			"env", s.opts.Env, "key", s.data, "maxmemory_policy", policy, "maxmemory", limit)
	}
}

func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
