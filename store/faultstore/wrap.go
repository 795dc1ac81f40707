package faultstore

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/flagstead/flagstead/store"
)

// Wrap returns a store that works like inner but for the faults of f. It is a
// [store.Watcher], a [store.HeartbeatWriter] or a [store.HeartbeatReader] if inner
// is; other optional methods of inner are not passed on. Closing it closes inner.
//
// Several stores may be wrapped, such as the handles of a writer and of readers
// on one place: they fail together.
func (f *Faults) Wrap(inner store.DataStore) store.DataStore {
	h := &handle{faults: f, inner: inner, closed: make(chan struct{})}
	w, isWatcher := inner.(store.Watcher)
	hw, writesBeats := inner.(store.HeartbeatWriter)
	hr, readsBeats := inner.(store.HeartbeatReader)
	watch, write, read := watcher{h, w}, beatWriter{h, hw}, beatReader{h, hr}
	switch {
	case isWatcher && writesBeats && readsBeats:
		return struct {
			*handle
			watcher
			beatWriter
			beatReader
		}{h, watch, write, read}
	case isWatcher && writesBeats:
		return struct {
			*handle
			watcher
			beatWriter
		}{h, watch, write}
	case isWatcher && readsBeats:
		return struct {
			*handle
			watcher
			beatReader
		}{h, watch, read}
	case isWatcher:
		return struct {
			*handle
			watcher
		}{h, watch}
	case writesBeats && readsBeats:
		return struct {
			*handle
			beatWriter
			beatReader
		}{h, write, read}
	case writesBeats:
		return struct {
			*handle
			beatWriter
		}{h, write}
	case readsBeats:
		return struct {
			*handle
			beatReader
		}{h, read}
	}
	return h
}

// A handle is what every wrapped store has.
type handle struct {
	faults *Faults
	inner  store.DataStore

	closing sync.Once
	closed  chan struct{}
}

// enter makes a call of op wait or fail, if it has to. After is the error that
// the call has to return once it has done its work.
func (h *handle) enter(ctx context.Context, op Op) (after, err error) {
	f := h.faults
	if err := h.usable(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.count(op).Calls++
	var rules []*Rule
	for _, r := range f.rules {
		if r.applies(op) {
			rules = append(rules, r)
		}
	}
	f.mu.Unlock()
	if err := h.refused(op); err != nil {
		return nil, err
	}
	for _, r := range rules {
		switch r.do {
		case fail:
			h.tally(op, func(c *Counts) { c.Failed++ })
			return nil, r.err
		case failAfter:
			if after == nil {
				after = r.err
			}
			continue
		case delay:
			h.tally(op, func(c *Counts) { c.Delayed++ })
			t := time.NewTimer(r.delay)
			err = h.wait(ctx, r, t.C)
			t.Stop()
		case hang:
			h.tally(op, func(c *Counts) { c.Hung++; c.Hanging++ })
			err = h.wait(ctx, r, nil)
			h.tally(op, func(c *Counts) { c.Hanging-- })
		}
		if err == nil {
			err = h.refused(op)
		}
		if err != nil {
			return nil, err
		}
	}
	return after, nil
}

func (h *handle) usable(ctx context.Context) error {
	select {
	case <-h.closed:
		return store.ErrClosed
	default:
		return ctx.Err()
	}
}

// refused returns ErrDown if the store is down.
func (h *handle) refused(op Op) error {
	f := h.faults
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.down {
		return nil
	}
	f.count(op).Refused++
	return ErrDown
}

// wait waits for done, or for whatever ends a wait.
func (h *handle) wait(ctx context.Context, r *Rule, done <-chan time.Time) error {
	select {
	case <-done:
	case <-r.gone:
	case <-ctx.Done():
	case <-h.closed:
	}
	return h.usable(ctx)
}

func (h *handle) tally(op Op, change func(c *Counts)) {
	h.faults.mu.Lock()
	defer h.faults.mu.Unlock()
	change(h.faults.count(op))
}

// failed returns what a call that did its work has to say: its own error, or
// after.
func (h *handle) failed(op Op, after, err error) error {
	if err != nil || after == nil {
		return err
	}
	h.tally(op, func(c *Counts) { c.FailedAfter++ })
	return after
}

// around wraps an error that is not inner's, nor one that somebody gave to Fail.
func around(what string, err error) error {
	if err == store.ErrClosed || err == ErrDown || err == ErrInjected {
		return fmt.Errorf("%s: %w", what, err)
	}
	return err
}

// Load implements [store.Reader].
func (h *handle) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	after, err := h.enter(ctx, Load)
	if err != nil {
		return store.Snapshot{}, around("load", err)
	}
	snap, err := h.inner.Load(ctx, since)
	if err := h.failed(Load, after, err); err != nil {
		return store.Snapshot{}, around("load", err)
	}
	return snap, nil
}

// Apply implements [store.Writer].
func (h *handle) Apply(ctx context.Context, c store.Change) (store.Rev, error) {
	after, err := h.enter(ctx, Apply)
	if err != nil {
		return "", around("apply", err)
	}
	rev, err := h.inner.Apply(ctx, c)
	if err := h.failed(Apply, after, err); err != nil {
		return "", around("apply", err)
	}
	return rev, nil
}

// Close closes inner. Faults do not keep it from that.
func (h *handle) Close() error {
	h.closing.Do(func() { close(h.closed) })
	return h.inner.Close()
}

type watcher struct {
	h     *handle
	inner store.Watcher
}

// A watching is a Watch under way.
type watching struct{ cancel context.CancelFunc }

// Watch implements [store.Watcher].
func (w watcher) Watch(ctx context.Context, wake func()) error {
	f := w.h.faults
	after, err := w.h.enter(ctx, Watch)
	if err == nil {
		err = w.h.failed(Watch, after, nil)
	}
	if err != nil {
		return around("watch", err)
	}
	bound, cancel := context.WithCancel(ctx)
	defer cancel()
	this := &watching{cancel}
	f.mu.Lock()
	f.watches[this] = struct{}{}
	if f.down { // since a moment
		cancel()
	}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.watches, this)
	}()
	err = w.inner.Watch(bound, func() {
		f.mu.Lock()
		lose := f.deaf || f.down
		if lose {
			f.count(Watch).LostWakes++
		}
		f.mu.Unlock()
		if !lose {
			wake()
		}
	})
	if bound.Err() != nil && ctx.Err() == nil && w.h.usable(ctx) == nil {
		w.h.tally(Watch, func(c *Counts) { c.Refused++ })
		return around("watch", ErrDown)
	}
	return err
}

type beatWriter struct {
	h     *handle
	inner store.HeartbeatWriter
}

// WriteHeartbeat implements [store.HeartbeatWriter].
func (w beatWriter) WriteHeartbeat(ctx context.Context, b store.Heartbeat) error {
	after, err := w.h.enter(ctx, WriteHeartbeat)
	if err == nil {
		err = w.h.failed(WriteHeartbeat, after, w.inner.WriteHeartbeat(ctx, b))
	}
	return around("write heartbeat", err)
}

type beatReader struct {
	h     *handle
	inner store.HeartbeatReader
}

// ReadHeartbeat implements [store.HeartbeatReader].
func (r beatReader) ReadHeartbeat(ctx context.Context) (store.Heartbeat, error) {
	after, err := r.h.enter(ctx, ReadHeartbeat)
	var b store.Heartbeat
	if err == nil {
		b, err = r.inner.ReadHeartbeat(ctx)
		err = r.h.failed(ReadHeartbeat, after, err)
	}
	if err != nil {
		return store.Heartbeat{}, around("read heartbeat", err)
	}
	return b, nil
}
