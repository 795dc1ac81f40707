package bolt

import (
	"context"
	"fmt"
	"time"

	"github.com/flagstead/flagstead/internal/beat"
	"github.com/flagstead/flagstead/store"
)

var (
	_ store.HeartbeatWriter = (*Store)(nil)
	_ store.HeartbeatReader = (*Store)(nil)
)

// WriteHeartbeat implements [store.HeartbeatWriter]: the heartbeat is the file
// path.heartbeat, with the permissions of the snapshot. A reader's returns
// [store.ErrReadOnly].
func (s *Store) WriteHeartbeat(ctx context.Context, h store.Heartbeat) error {
	if err := s.h.WriteHeartbeat(ctx, h); err != nil {
		return fmt.Errorf("bolt: write heartbeat: %w", err)
	}
	return nil
}

// ReadHeartbeat implements [store.HeartbeatReader].
func (s *Store) ReadHeartbeat(ctx context.Context) (store.Heartbeat, error) {
	h, err := s.h.ReadHeartbeat(ctx)
	if err != nil {
		return store.Heartbeat{}, fmt.Errorf("bolt: read heartbeat: %w", err)
	}
	return h, nil
}

func (w *writer) WriteHeartbeat(ctx context.Context, h store.Heartbeat) error {
	if err := w.enter(ctx); err != nil {
		return err
	}
	defer w.leave()
	return beat.Write(w.path, w.snap, h, time.Now())
}

func (w *writer) ReadHeartbeat(ctx context.Context) (store.Heartbeat, error) {
	return readHeartbeat(ctx, &w.gate, w.path)
}

func (r *reader) WriteHeartbeat(ctx context.Context, _ store.Heartbeat) error {
	if err := r.usable(ctx); err != nil {
		return err
	}
	return store.ErrReadOnly
}

func (r *reader) ReadHeartbeat(ctx context.Context) (store.Heartbeat, error) {
	return readHeartbeat(ctx, &r.gate, r.path)
}

func readHeartbeat(ctx context.Context, g *gate, path string) (store.Heartbeat, error) {
	if err := g.usable(ctx); err != nil {
		return store.Heartbeat{}, err
	}
	return beat.Read(path)
}
