package store

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"
)

// A keeper keeps a copy of what better layers give. Its goroutine writes, since
// nobody should wait for a copy.
type keeper struct {
	layers *Layers
	name   string
	copy   DataStore
	news   chan struct{} // capacity 1

	mu    sync.Mutex       // guards what follows
	from  int              // layer that items are of
	past  map[Rev]struct{} // revisions of that layer that items were at, and are
	items map[ID]Item
	full  bool            // the copy needs everything
	dirty map[ID]struct{} // or these
	beat  *Heartbeat      // to write, or nil

	lastBeat Heartbeat     // that was given
	quiet    chan struct{} // closed when nothing is left to write
	off      bool          // others keep it
	until    time.Time     // nothing is written before
}

func newKeeper(l *Layers, name string, copy DataStore) *keeper {
	k := &keeper{layers: l, name: name, copy: copy, news: make(chan struct{}, 1), quiet: make(chan struct{})}
	close(k.quiet)
	return k
}

// give takes what layer from gave after since.
func (k *keeper) give(snap Snapshot, from int, since Rev) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.off || snap.Delta && len(snap.Items) == 0:
		return
	case snap.Delta && (k.items == nil || k.from != from || !k.was(since)):
		return // somebody else's; a full one comes to whoever starts
	case snap.Delta && k.was(snap.Rev):
		return // what a reader catches up on
	case snap.Delta:
		for _, it := range snap.Items {
			k.items[it.ID()] = it
			k.dirty[it.ID()] = struct{}{}
		}
	default:
		if k.from != from || k.items == nil {
			k.past = map[Rev]struct{}{}
		}
		// As Follow does: what a writer that is behind put there is soon repaired.
		k.until = time.Time{}
		for _, it := range snap.Items {
			if it.Version < k.items[it.ID()].Version {
				k.until = time.Now().Add(copyHold)
				break
			}
		}
		k.items = make(map[ID]Item, len(snap.Items))
		for _, it := range snap.Items {
			k.items[it.ID()] = it
		}
		k.full, k.dirty = true, map[ID]struct{}{}
	}
	k.from = from
	if len(k.past) == pastMax {
		clear(k.past) // a reader that is so far behind is not helped any more
	}
	k.past[snap.Rev] = struct{}{}
	k.signal()
}

// copyHold is how long a state with older versions than before is kept from a copy.
const copyHold = 5 * time.Second

// pastMax bounds how many revisions a keeper remembers.
const pastMax = 1024

// was reports whether items include what rev had. Loads follow each other, so they
// include what any reader was given; several readers need not be equally far. The
// caller holds mu.
func (k *keeper) was(rev Rev) bool {
	_, ok := k.past[rev]
	return ok
}

func (k *keeper) giveHeartbeat(h Heartbeat) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.copy.(HeartbeatWriter); !ok || k.off {
		return
	}
	// One that is not new must not look so in the copy. A store with a clock of its
	// own gives times that differ a little from look to look.
	if last := k.lastBeat; h.Source == last.Source && h.Writer == last.Writer && h.Written.Sub(last.Written) < time.Second {
		return
	}
	k.lastBeat = h
	k.beat = &h
	k.signal()
}

// signal makes run look again. The caller holds mu.
func (k *keeper) signal() {
	select {
	case <-k.quiet:
		k.quiet = make(chan struct{})
	default:
	}
	select {
	case k.news <- struct{}{}:
	default:
	}
}

// finish waits until nothing is left to write, but no longer than d.
func (k *keeper) finish(d time.Duration) {
	k.mu.Lock()
	quiet := k.quiet
	k.mu.Unlock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-quiet:
	case <-t.C:
	case <-k.layers.ctx.Done():
	}
}

func (k *keeper) run() {
	ctx := k.layers.ctx
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.news:
		}
		if !k.wait(ctx) {
			return
		}
		err := k.write(ctx)
		switch {
		case ctx.Err() != nil || errors.Is(err, ErrClosed):
			return
		case err == nil:
			failures = 0
			continue
		case failures == 0:
			k.layers.opts.Logger.Warn("the copy of the last good flags cannot be written", "layer", k.name, "error", err)
		}
		failures++
		if !sleep(ctx, Backoff(failures, 100*time.Millisecond, 30*time.Second)) {
			return
		}
		k.mu.Lock()
		k.signal()
		k.mu.Unlock()
	}
}

// wait waits until what is there may be written, and reports whether ctx is still
// alive.
func (k *keeper) wait(ctx context.Context) bool {
	for {
		k.mu.Lock()
		d := time.Until(k.until)
		k.mu.Unlock()
		if d <= 0 {
			return ctx.Err() == nil
		}
		t := time.NewTimer(d)
		select {
		case <-ctx.Done():
		case <-k.news: // may be the repair
		case <-t.C:
		}
		t.Stop()
		if ctx.Err() != nil {
			return false
		}
	}
}

// write brings the copy up to date.
func (k *keeper) write(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, k.layers.opts.Timeout)
	defer cancel()
	k.mu.Lock()
	c := Change{Full: k.full}
	if c.Full {
		c.Items = slices.Collect(maps.Values(k.items))
	} else {
		for id := range k.dirty {
			c.Items = append(c.Items, k.items[id])
		}
	}
	beat := k.beat
	k.full, k.dirty, k.beat = false, map[ID]struct{}{}, nil
	k.mu.Unlock()

	var err error
	if c.Full || len(c.Items) > 0 {
		_, err = k.copy.Apply(ctx, c)
	}
	lost := err != nil // where the copy stands is not known
	if err == nil && beat != nil {
		if err = k.copy.(HeartbeatWriter).WriteHeartbeat(ctx, *beat); err == nil {
			beat = nil
		}
	}

	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case errors.Is(err, ErrReadOnly):
		k.off, k.items, k.dirty, k.full, k.beat = true, nil, nil, false, nil
		err = nil
	case err != nil:
		k.full = k.full || lost
		if k.beat == nil {
			k.beat = beat
		}
		return err
	}
	if !k.full && len(k.dirty) == 0 && k.beat == nil {
		select {
		case <-k.quiet:
		default:
			close(k.quiet)
		}
	}
	return err
}
