package bolt

import (
	"context"
	"fmt"

	"github.com/flagstead/flagstead/internal/beat"
	"github.com/flagstead/flagstead/internal/fswatch"
	"github.com/flagstead/flagstead/store"
)

var _ store.Controller = (*Store)(nil)

// WriteControl implements [store.Controller]: the control is the file
// path.control, with the permissions of the snapshot. It needs no writer's handle:
// whoever may create files in the directory writes it, also while another process
// is at work on the database. It waits for a commit that is under way.
func (s *Store) WriteControl(ctx context.Context, c store.Control) error {
	if err := s.h.WriteControl(ctx, c); err != nil {
		return fmt.Errorf("bolt: write control: %w", err)
	}
	return nil
}

// ReadControl implements [store.Controller].
func (s *Store) ReadControl(ctx context.Context) (store.Control, error) {
	c, err := s.h.ReadControl(ctx)
	if err != nil {
		return store.Control{}, fmt.Errorf("bolt: read control: %w", err)
	}
	return c, nil
}

func (w *writer) WriteControl(ctx context.Context, c store.Control) error {
	return writeControl(ctx, &w.gate, w.path, c)
}

func (w *writer) ReadControl(ctx context.Context) (store.Control, error) {
	return readControl(ctx, &w.gate, w.path)
}

func (r *reader) WriteControl(ctx context.Context, c store.Control) error {
	return writeControl(ctx, &r.gate, r.path, c)
}

func (r *reader) ReadControl(ctx context.Context) (store.Control, error) {
	return readControl(ctx, &r.gate, r.path)
}

func readControl(ctx context.Context, g *gate, path string) (store.Control, error) {
	if err := g.usable(ctx); err != nil {
		return store.Control{}, err
	}
	return beat.ReadControl(path)
}

// writeControl takes no turn: a reader's is for what it reads.
func writeControl(ctx context.Context, g *gate, path string, c store.Control) error {
	if err := g.usable(ctx); err != nil {
		return err
	}
	unlock, err := lockControl(ctx, path)
	if err != nil {
		return err
	}
	defer unlock()
	if err := g.usable(ctx); err != nil {
		return err
	}
	return beat.WriteControl(path, path+".snap", c)
}

// lockControl keeps control and commits apart. Nobody holds the lock for longer
// than one of either takes.
func lockControl(ctx context.Context, path string) (unlock func(), err error) {
	return fswatch.Lock(ctx, beat.ControlPath(path)+".lock")
}

// allowed takes the lock of the control and returns what gives it back, or why c
// must not be committed.
func (w *writer) allowed(ctx context.Context, c store.Change) (unlock func(), err error) {
	unlock, err = lockControl(ctx, w.path)
	if err != nil {
		return nil, err
	}
	control, err := beat.ReadControl(w.path)
	if err == nil && control.Frozen {
		err = store.ErrFrozen
	}
	if c.Override {
		err = nil
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}
