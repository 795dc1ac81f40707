package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/flagstead/flagstead/internal/beat"
	"github.com/flagstead/flagstead/store"
)

var _ store.Controller = (*Store)(nil)

// WriteControl implements [store.Controller]: the control is a file beside the
// document, with .control behind its name. It takes the lock of the document's
// writers and waits for it like Apply. A handle for reading writes it, too, if it
// may create files in the directory. People who edit the document do not look at
// it.
func (s *Store) WriteControl(ctx context.Context, c store.Control) error {
	err := s.writeControl(ctx, c)
	if err == nil {
		return nil
	}
	if s.life.Err() != nil && ctx.Err() == nil && errors.Is(err, context.Canceled) {
		err = store.ErrClosed
	}
	return fmt.Errorf("file: write control: %w", err)
}

func (s *Store) writeControl(ctx context.Context, c store.Control) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	target, unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.usable(ctx); err != nil {
		return err
	}
	return beat.WriteControl(target, target, c)
}

// ReadControl implements [store.Controller]. It takes no lock.
func (s *Store) ReadControl(ctx context.Context) (store.Control, error) {
	c, err := s.readControl(ctx)
	if err != nil {
		return store.Control{}, fmt.Errorf("file: read control: %w", err)
	}
	return c, nil
}

func (s *Store) readControl(ctx context.Context) (store.Control, error) {
	if err := s.usable(ctx); err != nil {
		return store.Control{}, err
	}
	target, err := follow(s.path)
	if errors.Is(err, fs.ErrNotExist) { // nor is there a directory
		return store.Control{}, nil
	}
	if err != nil {
		return store.Control{}, err
	}
	return beat.ReadControl(target)
}

// allowed says why c must not be committed to target, if it must not.
func allowed(target string, c store.Change) error {
	if c.Override {
		return nil
	}
	control, err := beat.ReadControl(target)
	if err == nil && control.Frozen {
		err = store.ErrFrozen
	}
	return err
}
