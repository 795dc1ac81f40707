package redis

import (
	"context"
	_ "embed" // the scripts
	"errors"
	"fmt"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flagstead/flagstead/store"
)

var (
	//go:embed head.lua
	headLua string
	//go:embed since.lua
	sinceLua string
	//go:embed patch.lua
	patchLua string
	//go:embed full.lua
	fullLua string
	//go:embed beat.lua
	beatLua string
	//go:embed beats.lua
	beatsLua string
	//go:embed control.lua
	controlLua string
	//go:embed controls.lua
	controlsLua string
	//go:embed revise.lua
	reviseLua string
	//go:embed report.lua
	reportLua string
	//go:embed reports.lua
	reportsLua string

	sinceScript = goredis.NewScript(headLua + sinceLua)
	patchScript = goredis.NewScript(headLua + patchLua)
	fullScript  = goredis.NewScript(headLua + fullLua)
	beatScript  = goredis.NewScript(beatLua)
	beatsScript = goredis.NewScript(beatsLua)

	controlScript  = goredis.NewScript(controlLua)
	controlsScript = goredis.NewScript(controlsLua)
	reviseScript   = goredis.NewScript(reviseLua)
	reportScript   = goredis.NewScript(reportLua)
	reportsScript  = goredis.NewScript(reportsLua)
)

// A runner runs one script.
type runner func(ctx context.Context, keys []string, args ...any) *goredis.Cmd

// command returns what runs a script that writes.
func (s *Store) command(script *goredis.Script) runner {
	return func(ctx context.Context, keys []string, args ...any) *goredis.Cmd {
		return script.Run(ctx, s.client, keys, args...)
	}
}

// query returns what runs a script that only reads, in a way that permission to
// read is enough for. Servers before Redis 7 have no such way.
func (s *Store) query(script *goredis.Script) runner {
	return func(ctx context.Context, keys []string, args ...any) *goredis.Cmd {
		if !s.noReadOnly.Load() {
			reply := script.RunRO(ctx, s.client, keys, args...)
			if err := reply.Err(); err == nil || !strings.HasPrefix(err.Error(), "ERR unknown command") {
				return reply
			}
			s.noReadOnly.Store(true)
		}
		return script.Run(ctx, s.client, keys, args...)
	}
}

// run runs a script and checks the form of its answer.
func (s *Store) run(ctx context.Context, script runner, keys []string, args ...any) ([]string, error) {
	return s.runFor(ctx, s.opts.Timeout, script, keys, args...)
}

// runFor is run with another deadline.
func (s *Store) runFor(ctx context.Context, limit time.Duration, script runner, keys []string, args ...any) ([]string, error) {
	reply, err := do(ctx, s, limit, func(ctx context.Context) ([]string, error) {
		return script(ctx, keys, args...).StringSlice()
	})
	switch {
	case err != nil:
		return nil, err
	case len(reply) == 0:
		return nil, errors.New("empty answer of a script")
	case reply[0] == "damaged":
		return nil, fmt.Errorf("%w: %s", ErrDamaged, strings.Join(reply[1:], " "))
	case reply[0] == "frozen":
		return nil, store.ErrFrozen
	case reply[0] == "conflict":
		return nil, store.ErrConflict
	}
	return reply, nil
}
