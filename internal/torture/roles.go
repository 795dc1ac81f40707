package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/redis"
	"github.com/flagstead/flagstead/syncer"
)

// A child gets its instructions from the environment and ends with its stdin, so
// that none outlives a parent that was killed.
func childContext() (context.Context, *redis.Store, error) {
	goredis.SetLogger(noLog{})
	ctx, end := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		end()
	}()
	st, err := redis.Open(os.Getenv("TORTURE_STORE"), nil)
	return ctx, st, err
}

type noLog struct{}

func (noLog) Printf(context.Context, string, ...any) {}

// runSyncer prints a line with its state whenever its status changes.
func runSyncer() error {
	ctx, st, err := childContext()
	if err != nil {
		return err
	}
	defer st.Close()
	s, err := syncer.New(syncer.Config{
		URL: os.Getenv("TORTURE_URL"), Secret: syncer.Secret(os.Getenv("TORTURE_SECRET")), Store: st,
		BackoffMax: time.Second,
		Reconcile:  7 * time.Second,
		Logger:     slog.New(slog.NewTextHandler(os.Stderr, nil)),
		OnStatus:   func(st syncer.Status) { fmt.Println(st.State) },
	})
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// runReader prints a line for each state that it sees: its newest version, its
// digest and its number of items.
func runReader() error {
	ctx, st, err := childContext()
	if err != nil {
		return err
	}
	defer st.Close()
	out := bufio.NewWriter(os.Stdout)
	state := map[string]store.Item{}
	return store.Follow(ctx, st, store.FollowOptions{HoldBack: 5 * time.Second}, func(snap store.Snapshot, err error) {
		if err != nil || snap.Rev == "" {
			return // the last state stands
		}
		if !snap.Delta {
			state = map[string]store.Item{}
		}
		for _, it := range snap.Items {
			state[it.Key] = it
		}
		newest, digest := describe(state)
		fmt.Fprintf(out, "%d %x %d\n", newest, digest, len(state))
		out.Flush()
	})
}

// describe names a state.
func describe(state map[string]store.Item) (newest int64, digest [8]byte) {
	h := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(state)) {
		it := state[key]
		newest = max(newest, it.Version)
		var b []byte
		b = binary.BigEndian.AppendUint64(b, uint64(it.Version))
		b = append(b, byte(it.Kind))
		if it.Archived {
			b = append(b, 'x')
		}
		b = binary.BigEndian.AppendUint64(b, uint64(len(it.Data)))
		b = append(append(b, key...), it.Data...)
		h.Write(b)
	}
	copy(digest[:], h.Sum(nil))
	return newest, digest
}
