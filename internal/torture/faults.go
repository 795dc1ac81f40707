package main

import (
	"context"
	"errors"
	"time"
)

// A fault happens to an arena. It returns its name and, if it does not end by
// itself, what ends it.
type fault func(ctx context.Context, a *arena) (name string, heal func() error, err error)

var faults = []fault{
	func(_ context.Context, a *arena) (string, func() error, error) {
		p := a.syncers[a.random.IntN(len(a.syncers))]
		p.kill()
		return "SIGKILL of a syncer", p.start, nil
	},
	func(_ context.Context, a *arena) (string, func() error, error) {
		for _, p := range a.syncers {
			p.kill()
		}
		return "SIGKILL of both syncers", func() error {
			return errors.Join(a.syncers[0].start(), a.syncers[1].start())
		}, nil
	},
	func(_ context.Context, a *arena) (string, func() error, error) {
		p := a.syncers[a.random.IntN(len(a.syncers))]
		p.freeze()
		return "SIGSTOP of a syncer", func() error { p.thaw(); return nil }, nil
	},
	func(_ context.Context, a *arena) (string, func() error, error) {
		r := a.readers[a.random.IntN(len(a.readers))]
		r.kill()
		return "SIGKILL of a reader", r.begin, nil
	},
	func(_ context.Context, a *arena) (string, func() error, error) {
		r := a.readers[a.random.IntN(len(a.readers))]
		r.freeze()
		return "SIGSTOP of a reader", func() error { r.thaw(); return nil }, nil
	},
	func(_ context.Context, a *arena) (string, func() error, error) {
		a.redis.kill()
		return "SIGKILL of redis-server, which loses everything", a.redis.start, nil
	},
	func(_ context.Context, a *arena) (string, func() error, error) {
		a.redis.freeze()
		return "SIGSTOP of redis-server", func() error { a.redis.thaw(); return nil }, nil
	},
	func(ctx context.Context, a *arena) (string, func() error, error) {
		return "FLUSHALL", nil, a.ask(ctx, "FLUSHALL")
	},
	func(ctx context.Context, a *arena) (string, func() error, error) {
		return "FLUSHALL, twice", func() error { return a.ask(ctx, "FLUSHALL") }, a.ask(ctx, "FLUSHALL")
	},
	func(ctx context.Context, a *arena) (string, func() error, error) {
		return "CLIENT KILL", nil, errors.Join(a.ask(ctx, "CLIENT", "KILL", "TYPE", "normal"), a.ask(ctx, "CLIENT", "KILL", "TYPE", "pubsub"))
	},
	func(ctx context.Context, a *arena) (string, func() error, error) {
		return "SCRIPT FLUSH", nil, a.ask(ctx, "SCRIPT", "FLUSH")
	},
	func(_ context.Context, a *arena) (string, func() error, error) {
		release := a.wire.hold()
		return "pause of the network to redis-server", func() error { release(); return nil }, nil
	},
	func(_ context.Context, a *arena) (string, func() error, error) {
		a.wire.cut()
		return "cut of the network to redis-server", nil, nil
	},
	func(_ context.Context, a *arena) (string, func() error, error) {
		release := a.link.hold()
		return "pause of the network to FeatBit", func() error { release(); return nil }, nil
	},
	func(_ context.Context, a *arena) (string, func() error, error) {
		a.link.cut()
		return "cut of the network to FeatBit", nil, nil
	},
}

// ask gives redis-server a command, if it is there to take one: another fault may
// have taken it down, or cut this connection. The error is ctx's.
func (a *arena) ask(ctx context.Context, args ...any) error {
	limited, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	a.admin.Do(limited, args...)
	return ctx.Err()
}
