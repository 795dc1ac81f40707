package sdk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

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
	if !c.plan.Offline || c.plan.Store != nil {
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
	return c.load(items)
}

// load makes items all flags of an offline client, which needs no store for them: nobody
// else reads them, and nobody adds to them.
func (c *Client) load(items []store.Item) error {
	c.loading.Lock()
	defer c.loading.Unlock()
	if c.isClosed() {
		return ErrClosed
	}
	c.loads++
	c.follow(store.Snapshot{Rev: store.Rev(strconv.Itoa(c.loads)), Items: items}, nil)
	return nil
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
