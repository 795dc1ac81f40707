package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
)

// A place is what the handles of the suite's own tests share.
type place struct {
	writing sync.Mutex // held by faults that load and apply as one step

	mu    sync.Mutex // guards what follows
	inner *memory.Store
	count int // whatever a fault counts

	down    chan struct{} // closed at the end of the outage; nil if there is none
	hangs   bool          // calls hang in an outage, and do not fail
	outages int
	spoiled bool
}

func newPlace() *place { return &place{inner: memory.New()} }

func (p *place) store() *memory.Store {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inner
}

// flush puts an empty store in the place of the old one. A last commit to that
// wakes those who watch it.
func (p *place) flush() {
	p.mu.Lock()
	old := p.inner
	p.inner = memory.New()
	p.mu.Unlock()
	old.Apply(context.Background(), store.Change{Full: true, Items: []store.Item{flag("flushed", 1)}})
}

// takeDown begins an outage and returns what ends it. By turns calls fail and
// hang.
func (p *place) takeDown() (mend func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	up := make(chan struct{})
	p.outages++
	p.down, p.hangs = up, p.outages%2 == 0
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.down = nil
		close(up)
	}
}

func (p *place) setSpoiled(now bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spoiled = now
}

func (p *place) isDown() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.down != nil
}

var errDown = errors.New("the place is down")

// enter says why a call cannot reach the content.
func (p *place) enter(ctx context.Context) error {
	p.mu.Lock()
	down, hangs, spoiled := p.down, p.hangs, p.spoiled
	p.mu.Unlock()
	switch {
	case down != nil && !hangs:
		return errDown
	case down != nil:
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-down:
		}
	}
	if spoiled {
		return store.ErrDamaged
	}
	return nil
}

func (p *place) add(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count += n
	return p.count
}

// A handle is a sound store on a place, with a life of its own. A fault replaces
// some of its methods.
type handle struct {
	place  *place
	second bool   // made by Reopen
	dir    string // instead of a place, if processes share it
	child  bool   // in another process
	life   context.Context
	end    context.CancelFunc

	load  func(context.Context, store.Rev) (store.Snapshot, error)
	apply func(context.Context, store.Change) (store.Rev, error)
	watch func(context.Context, func()) error
	close func() error

	readBeat  func(context.Context) (store.Heartbeat, error)
	writeBeat func(context.Context, store.Heartbeat) error

	readControl    func(context.Context) (store.Control, error)
	writeControl   func(context.Context, store.Control) error
	revisions      func(context.Context) ([]store.Revision, error)
	at             func(context.Context, uint64) (store.Snapshot, error)
	appendRevision func(context.Context, store.Record, store.Keep) (store.Revision, error)
	readReports    func(context.Context) ([]store.Report, error)
	writeReport    func(context.Context, store.Report) error
}

func newHandle(p *place, writes, second bool) *handle {
	h := &handle{place: p, second: second}
	h.life, h.end = context.WithCancel(context.Background())
	h.load = func(ctx context.Context, since store.Rev) (store.Snapshot, error) {
		if h.life.Err() != nil {
			return store.Snapshot{}, fmt.Errorf("load: %w", store.ErrClosed)
		}
		if err := p.enter(ctx); err != nil {
			return store.Snapshot{}, err
		}
		return p.store().Load(ctx, since)
	}
	h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
		if h.life.Err() != nil {
			return "", fmt.Errorf("apply: %w", store.ErrClosed)
		}
		if !writes {
			return "", fmt.Errorf("apply: %w", store.ErrReadOnly)
		}
		if err := p.enter(ctx); errors.Is(err, store.ErrDamaged) && c.Full && c.Base == "" {
			defer p.setSpoiled(false)
		} else if err != nil {
			return "", err
		}
		return p.store().Apply(ctx, c)
	}
	h.watch = func(ctx context.Context, wake func()) error {
		both, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(h.life, cancel)()
		err := p.store().Watch(both, wake)
		if ctx.Err() == nil && h.life.Err() != nil {
			return fmt.Errorf("watch: %w", store.ErrClosed)
		}
		return err
	}
	h.close = func() error {
		h.end()
		return nil
	}
	h.readBeat = func(ctx context.Context) (store.Heartbeat, error) {
		if h.life.Err() != nil {
			return store.Heartbeat{}, fmt.Errorf("read heartbeat: %w", store.ErrClosed)
		}
		return p.store().ReadHeartbeat(ctx)
	}
	h.writeBeat = func(ctx context.Context, beat store.Heartbeat) error {
		if h.life.Err() != nil {
			return fmt.Errorf("write heartbeat: %w", store.ErrClosed)
		}
		if !writes {
			return fmt.Errorf("write heartbeat: %w", store.ErrReadOnly)
		}
		return p.store().WriteHeartbeat(ctx, beat)
	}
	h.beside(writes)
	return h
}

// beside gives h what is no content.
func (h *handle) beside(writes bool) {
	p := h.place
	open := func() error {
		if h.life.Err() != nil {
			return store.ErrClosed
		}
		return nil
	}
	h.readControl = func(ctx context.Context) (c store.Control, err error) {
		if err = open(); err == nil {
			c, err = p.store().ReadControl(ctx)
		}
		return c, err
	}
	h.writeControl = func(ctx context.Context, c store.Control) error {
		if err := open(); err != nil {
			return err
		}
		return p.store().WriteControl(ctx, c)
	}
	h.revisions = func(ctx context.Context) (all []store.Revision, err error) {
		if err = open(); err == nil {
			all, err = p.store().Revisions(ctx)
		}
		return all, err
	}
	h.at = func(ctx context.Context, n uint64) (snap store.Snapshot, err error) {
		if err = open(); err == nil {
			snap, err = p.store().At(ctx, n)
		}
		return snap, err
	}
	h.appendRevision = func(ctx context.Context, r store.Record, k store.Keep) (rev store.Revision, err error) {
		if err = open(); err == nil && !writes {
			err = store.ErrReadOnly
		}
		if err == nil {
			rev, err = p.store().AppendRevision(ctx, r, k)
		}
		return rev, err
	}
	h.readReports = func(ctx context.Context) (all []store.Report, err error) {
		if err = open(); err == nil {
			all, err = p.store().ReadReports(ctx)
		}
		return all, err
	}
	h.writeReport = func(ctx context.Context, r store.Report) error {
		if err := open(); err != nil {
			return err
		}
		return p.store().WriteReport(ctx, r)
	}
}

func (h *handle) ReadControl(ctx context.Context) (store.Control, error) { return h.readControl(ctx) }

func (h *handle) WriteControl(ctx context.Context, c store.Control) error {
	return h.writeControl(ctx, c)
}

func (h *handle) Revisions(ctx context.Context) ([]store.Revision, error) { return h.revisions(ctx) }

func (h *handle) At(ctx context.Context, n uint64) (store.Snapshot, error) { return h.at(ctx, n) }

func (h *handle) AppendRevision(ctx context.Context, r store.Record, k store.Keep) (store.Revision, error) {
	return h.appendRevision(ctx, r, k)
}

func (h *handle) ReadReports(ctx context.Context) ([]store.Report, error) { return h.readReports(ctx) }

func (h *handle) WriteReport(ctx context.Context, r store.Report) error { return h.writeReport(ctx, r) }

func (h *handle) ReadHeartbeat(ctx context.Context) (store.Heartbeat, error) { return h.readBeat(ctx) }

func (h *handle) WriteHeartbeat(ctx context.Context, beat store.Heartbeat) error {
	return h.writeBeat(ctx, beat)
}

func (h *handle) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	return h.load(ctx, since)
}

func (h *handle) Apply(ctx context.Context, c store.Change) (store.Rev, error) {
	return h.apply(ctx, c)
}

func (h *handle) Watch(ctx context.Context, wake func()) error { return h.watch(ctx, wake) }

func (h *handle) Close() error { return h.close() }

// loaded changes what Load returns.
func (h *handle) loaded(change func(since store.Rev, snap *store.Snapshot)) {
	load := h.load
	h.load = func(ctx context.Context, since store.Rev) (store.Snapshot, error) {
		snap, err := load(ctx, since)
		if err == nil {
			change(since, &snap)
		}
		return snap, err
	}
}

// applied changes what Apply gets.
func (h *handle) applied(change func(c *store.Change)) {
	apply := h.apply
	h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
		c.Items = slices.Clone(c.Items)
		change(&c)
		return apply(ctx, c)
	}
}

// merged changes what an item makes of the content: put gets the content, which
// is empty at the start of a full change, the content before the change, and
// every item in turn.
func (h *handle) merged(put func(now, before content, it store.Item, full bool)) {
	apply := h.apply
	h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
		h.place.writing.Lock()
		defer h.place.writing.Unlock()
		snap, err := h.place.store().Load(ctx, "")
		if err != nil {
			return "", err
		}
		if c.Conflicts(snap.Rev) || len(c.Items) == 0 {
			return apply(ctx, c)
		}
		before := contentOf(snap.Items...)
		now := maps.Clone(before)
		if c.Full {
			clear(now)
		}
		for _, it := range c.Items {
			put(now, before, it, c.Full)
		}
		return apply(ctx, store.Change{Full: true, Items: slices.Collect(maps.Values(now))})
	}
}

// sound is what put does in a store that keeps the rules.
func sound(now, _ content, it store.Item, full bool) {
	if had, ok := now[it.ID()]; !ok || it.Version > had.Version || full && it.Version == had.Version {
		now[it.ID()] = it
	}
}
