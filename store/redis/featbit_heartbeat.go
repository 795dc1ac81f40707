package redis

import (
	"context"
	"strings"

	"github.com/flagstead/flagstead/store"
)

// FeatBit's api-server writes no heartbeats. A syncer that writes its layout does,
// beside it, to the key that the native layout has for an environment of that id.

func (f *featbit) beatKey(env string) string { return placeName(defaultPrefix, env) + ":h" }

func (f *featbit) writeHeartbeat(ctx context.Context, h store.Heartbeat) error {
	env, err := f.knownEnv(ctx)
	if err == nil && !f.opts.Write {
		err = store.ErrReadOnly
	}
	if err != nil {
		return f.wrap("write heartbeat of", err)
	}
	return f.s.writeHeartbeat(ctx, f.beatKey(env), h)
}

// readHeartbeat returns none where FeatBit writes, or where a reader may read only
// what FeatBit writes.
func (f *featbit) readHeartbeat(ctx context.Context) (store.Heartbeat, error) {
	env, err := f.knownEnv(ctx)
	if err != nil {
		return store.Heartbeat{}, f.wrap("read heartbeat of", err)
	}
	if f.noBeat.Load() {
		return store.Heartbeat{}, nil
	}
	h, err := f.s.readHeartbeat(ctx, f.beatKey(env))
	if err != nil && strings.Contains(err.Error(), "NOPERM") {
		f.noBeat.Store(true) // each refusal is an entry in the server's log
		return store.Heartbeat{}, nil
	}
	return h, err
}

// knownEnv returns the environment's id, for which it may have to ask.
func (f *featbit) knownEnv(ctx context.Context) (string, error) {
	if f.err != nil {
		return "", f.err
	}
	if err := f.s.usable(ctx); err != nil {
		return "", err
	}
	if env := f.envID(); env != "" {
		return env, nil
	}
	if err := f.enter(ctx); err != nil {
		return "", err
	}
	defer f.leave()
	if env := f.envID(); env != "" {
		return env, nil
	}
	return f.lookUp(ctx)
}
