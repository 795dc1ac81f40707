package sdk

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// ErrNoConfig is returned by Get before SetConfig.
var ErrNoConfig = errors.New("sdk: SetConfig was not called")

// The client of the process, for programs that want one. It is the only state
// that this package has.
var process struct {
	client atomic.Pointer[Client]

	mu  sync.Mutex // guards making and replacing the client
	cfg *Config    // nil before SetConfig
}

// replaceTimeout bounds how long SetConfig waits for the last events of the
// client that it replaces.
const replaceTimeout = 10 * time.Second

// SetConfig sets the Config of the process-wide client, which [Get] makes and
// returns. If that client exists already, SetConfig makes a new one, which Get
// returns from then on, and closes the old one, for which it waits up to 10
// seconds; evaluations on the old one go on to work on its last flags. The error
// says what is wrong with cfg; the old client, if any, then stays.
func SetConfig(cfg Config) error {
	process.mu.Lock()
	defer process.mu.Unlock()
	if _, err := cfg.check(); err != nil {
		return err
	}
	old := process.client.Load()
	if old != nil {
		c, err := New(cfg)
		if err != nil {
			return err
		}
		process.client.Store(c)
	}
	process.cfg = &cfg
	if old == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), replaceTimeout)
	defer cancel()
	if err := old.Close(ctx); err != nil {
		old.plan.Logger.Warn("the replaced client did not close in time", "error", err)
	}
	return nil
}

// Get returns the process-wide client. The first call makes it, by [New] with
// the Config of [SetConfig], and blocks no longer than Config.StartWait; later
// calls cost an atomic load. A program that ends closes the client.
//
// The error is [ErrNoConfig], or says what is wrong with the Config. Get after
// the client was closed returns the closed one; SetConfig replaces it.
func Get() (*Client, error) {
	if c := process.client.Load(); c != nil {
		return c, nil
	}
	process.mu.Lock()
	defer process.mu.Unlock()
	if c := process.client.Load(); c != nil {
		return c, nil
	}
	if process.cfg == nil {
		return nil, ErrNoConfig
	}
	c, err := New(*process.cfg)
	if err != nil {
		return nil, err
	}
	process.client.Store(c)
	return c, nil
}
