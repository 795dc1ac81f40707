package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/flagstead/flagstead/internal/beat"
	"github.com/flagstead/flagstead/store"
)

var (
	_ store.HeartbeatWriter = (*Store)(nil)
	_ store.HeartbeatReader = (*Store)(nil)
)

// WriteHeartbeat implements [store.HeartbeatWriter]: the heartbeat is a file
// beside the document, with .heartbeat behind its name. WriteHeartbeat takes the
// lock of the document's writers and waits for it like Apply, and its errors are
// those of Apply.
func (s *Store) WriteHeartbeat(ctx context.Context, h store.Heartbeat) error {
	err := s.writeHeartbeat(ctx, h)
	if err == nil {
		return nil
	}
	if s.life.Err() != nil && ctx.Err() == nil && errors.Is(err, context.Canceled) {
		err = store.ErrClosed
	}
	return fmt.Errorf("file: write heartbeat: %w", err)
}

func (s *Store) writeHeartbeat(ctx context.Context, h store.Heartbeat) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	if s.opts.ReadOnly {
		return store.ErrReadOnly
	}
	target, unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.usable(ctx); err != nil {
		return err
	}
	return beat.Write(target, target, h, time.Now())
}

// ReadHeartbeat implements [store.HeartbeatReader]. It takes no lock. A file that
// people edit has no heartbeat, which is the zero one.
func (s *Store) ReadHeartbeat(ctx context.Context) (store.Heartbeat, error) {
	h, err := s.readHeartbeat(ctx)
	if err != nil {
		return store.Heartbeat{}, fmt.Errorf("file: read heartbeat: %w", err)
	}
	return h, nil
}

func (s *Store) readHeartbeat(ctx context.Context) (store.Heartbeat, error) {
	if err := s.usable(ctx); err != nil {
		return store.Heartbeat{}, err
	}
	target, err := follow(s.path)
	if errors.Is(err, fs.ErrNotExist) { // nor is there a directory
		return store.Heartbeat{}, nil
	}
	if err != nil {
		return store.Heartbeat{}, err
	}
	return beat.Read(target)
}
