package sdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/flagstead/flagstead/internal/snapshot"
	"github.com/flagstead/flagstead/store"
)

// ErrNotOffline is returned by LoadJSON.
var ErrNotOffline = errors.New("sdk: only an offline client without a Store can be loaded")

// LoadJSON replaces all flags of an offline client by those of a data-sync
// document, as Config.Bootstrap is one, which it reads to its end. Once it has
// returned nil, evaluations see them; listeners are told what changed. A
// document that cannot be used changes nothing. The error is [ErrNotOffline] if
// the client has another source, or [ErrClosed].
func (c *Client) LoadJSON(r io.Reader) error {
	if !c.plan.Offline || c.own == nil {
		return ErrNotOffline
	}
	text, err := readAll(r)
	if err != nil {
		return fmt.Errorf("sdk: LoadJSON: %w", err)
	}
	items, err := snapshot.Items(text)
	if err != nil {
		return fmt.Errorf("sdk: LoadJSON: %w", err)
	}
	rev, err := c.own.Apply(context.Background(), store.Change{Full: true, Items: items})
	for err == nil {
		c.mu.Lock()
		at, changed := c.rev, c.changed
		c.mu.Unlock()
		if at == rev {
			return nil
		}
		// Somebody else may have loaded newer flags meanwhile.
		var snap store.Snapshot
		if snap, err = c.own.Load(context.Background(), rev); err != nil {
			break
		}
		if snap.Rev != rev {
			rev = snap.Rev
			continue
		}
		select {
		case <-changed:
		case <-c.closed:
			err = ErrClosed
		}
	}
	if errors.Is(err, store.ErrClosed) {
		err = ErrClosed
	}
	return err
}

// maxBootstrap bounds a bootstrap document.
const maxBootstrap = 256 << 20

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := readAll(f)
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return text, err
}

func readAll(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxBootstrap+1))
	if err == nil && len(text) > maxBootstrap {
		err = fmt.Errorf("more than %d bytes", maxBootstrap)
	}
	return text, err
}
