package bolt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flagstead/flagstead/internal/fswatch"
	"github.com/flagstead/flagstead/store"
)

// A writer is the handle that commits. It answers Load from memory.
type writer struct {
	gate
	path    string
	snap    string
	maxSnap int64
	unlock  func()

	// What follows belongs to the call that has the turn.
	db        *database
	order     []store.ID // ordered keys of items
	size      int64      // of a published file without frames
	enc       encoder
	behind    link                // of the published file
	base      int64               // size of its header and body
	published fswatch.Fingerprint // of the snapshot that has the state; zero if none has
	unsure    bool                // a commit failed: the database may have it or not

	mu    sync.RWMutex // guards what follows; written with the turn only
	state mark
	items map[store.ID]record
	news  chan struct{} // closed and replaced by each commit
}

func openWriter(path string, o Options) (_ *writer, err error) {
	unlock, err := lockFor(path, o.LockTimeout)
	if err != nil {
		return nil, err
	}
	w := &writer{
		gate:    newGate(),
		path:    path,
		snap:    path + ".snap",
		maxSnap: o.MaxSnapshot,
		unlock:  unlock,
		news:    make(chan struct{}),
	}
	defer func() {
		if err == nil {
			return
		}
		if w.db != nil {
			w.db.close()
		}
		unlock()
	}()
	w.sweep()
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := createDatabase(path); err != nil {
			return nil, err
		}
	}
	// A reader that found no snapshot may hold the database for a moment.
	if w.db, err = openDatabase(path, false, max(o.LockTimeout, time.Second)); err != nil {
		return nil, err
	}
	m, err := w.db.read()
	if err != nil {
		return nil, err
	}
	// The files may have been put back from a backup, and then this writer's
	// commits get the numbers of others that readers have seen.
	m.epoch = newEpoch()
	if err := w.db.commit(m.mark, len(m.items), nil, nil); err != nil {
		return nil, err
	}
	w.adopt(m)
	return w, w.publish()
}

// sweep removes what a writer that was killed left half-written. Failing to do
// so harms nobody.
func (w *writer) sweep() {
	dir := filepath.Dir(w.snap)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "."+filepath.Base(w.snap)+".tmp-") {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// adopt makes m the state in memory.
func (w *writer) adopt(m *image) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state, w.size, w.published = m.mark, headerSize, fswatch.Fingerprint{}
	w.items = make(map[store.ID]record, len(m.items))
	for _, r := range m.items {
		w.items[r.ID()] = r
		w.size += r.size()
	}
	w.sort()
}

func (w *writer) sort() {
	w.order = w.order[:0]
	for id := range w.items {
		w.order = append(w.order, id)
	}
	slices.SortFunc(w.order, compareIDs)
}

func (w *writer) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	if err := w.usable(ctx); err != nil {
		return store.Snapshot{}, err
	}
	if w.tryEnter() {
		// Load has the committed state whether publishing works or not, and
		// Apply reports the failure.
		if w.recall() == nil {
			_ = w.show()
		}
		w.leave()
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	if err := w.usable(ctx); err != nil {
		return store.Snapshot{}, err
	}
	snap := store.Snapshot{Rev: w.state.rev()}
	n, delta := w.state.deltaFrom(since)
	snap.Delta = delta
	switch {
	case delta && n == w.state.seq:
	case delta:
		for _, r := range w.items {
			if r.seq > n {
				snap.Items = append(snap.Items, r.Item)
			}
		}
	case len(w.items) > 0:
		snap.Items = make([]store.Item, 0, len(w.items))
		for _, r := range w.items {
			snap.Items = append(snap.Items, r.Item)
		}
	}
	return snap, nil
}

func (w *writer) Apply(ctx context.Context, c store.Change) (store.Rev, error) {
	if err := w.enter(ctx); err != nil {
		return "", err
	}
	defer w.leave()
	for i, it := range c.Items {
		if err := checkItem(it); err != nil {
			return "", fmt.Errorf("item %d: %w", i, err)
		}
	}
	unlock, err := w.allowed(ctx, c)
	if err != nil {
		return "", err
	}
	defer unlock()
	if err := w.recall(); err != nil {
		return "", err
	}
	if c.Conflicts(w.state.rev()) {
		return "", store.ErrConflict
	}
	p := w.plan(c)
	if p.changed && p.size > w.maxSnap {
		return "", fmt.Errorf("%s: the snapshot would have %d bytes, the limit is %d", w.path, p.size, w.maxSnap)
	}
	if p.changed {
		if err := w.commit(p); err != nil {
			return "", err
		}
	}
	if err := w.show(); err != nil {
		return "", err
	}
	return w.state.rev(), nil
}

// recall finds out what became of a commit that failed.
func (w *writer) recall() error {
	if !w.unsure {
		return nil
	}
	m, err := w.db.read()
	if err != nil {
		return err
	}
	if w.unsure = false; m.mark != w.state {
		w.adopt(m)
		w.tell()
	}
	return nil
}

// show publishes the state unless the snapshot has it: an earlier call may have
// failed to, and somebody may have removed, replaced or damaged the file since.
func (w *writer) show() error {
	if now, err := fswatch.Stat(w.snap); err == nil && now == w.published {
		return nil
	}
	if err := w.publish(); err != nil {
		return fmt.Errorf("committed, but not published: %w", err)
	}
	return nil
}

// rest publishes the state without frames: in a file that nobody mends, damage
// of each byte has to show.
func (w *writer) rest() error {
	if w.behind.end != w.base {
		w.published = fswatch.Fingerprint{}
	}
	return w.show()
}

// A plan is what a change comes to.
type plan struct {
	changed bool
	next    mark
	puts    []record
	dels    []store.ID
	count   int   // items afterwards
	size    int64 // of the published file afterwards
	moved   bool  // there are other keys afterwards
}

func (w *writer) plan(c store.Change) plan {
	p := plan{next: w.state, count: len(w.items), size: w.size}
	p.next.seq++
	winners := make(map[store.ID]store.Item, len(c.Items))
	for _, it := range c.Items {
		id := it.ID()
		if best, ok := winners[id]; ok {
			if it.Version < best.Version || it.Version == best.Version && !c.Full {
				continue
			}
		} else if old, ok := w.items[id]; ok && !c.Full && old.Version >= it.Version {
			continue
		}
		winners[id] = it
	}
	for id, it := range winners {
		old, ok := w.items[id]
		if ok && sameContent(old.Item, it) {
			continue
		}
		r := record{it, p.next.seq}
		if ok {
			p.size -= old.size()
		} else {
			p.count++
			p.moved = true
		}
		p.size += r.size()
		p.puts = append(p.puts, r)
	}
	if c.Full {
		p.next.full = p.next.seq
		for id, old := range w.items {
			if _, ok := winners[id]; !ok {
				p.dels = append(p.dels, id)
				p.size -= old.size()
				p.count--
				p.moved = true
			}
		}
	}
	// An empty store that is told to be empty has reached a state.
	p.changed = len(p.puts)+len(p.dels) > 0 || c.Full && w.state.seq == 0
	// In the order of the keys bbolt fills its pages one after the other.
	slices.SortFunc(p.puts, func(a, b record) int { return compareIDs(a.ID(), b.ID()) })
	return p
}

func (w *writer) commit(p plan) error {
	if err := w.db.commit(p.next, p.count, p.puts, p.dels); err != nil {
		w.unsure = true
		return err
	}
	w.mu.Lock()
	for _, id := range p.dels {
		delete(w.items, id)
	}
	for _, r := range p.puts {
		w.items[r.ID()] = r
	}
	// Nobody must find less than the first commit where it was cut off.
	whole := w.state.full != p.next.full || w.state.seq == 0
	w.state, w.size = p.next, p.size
	w.mu.Unlock()
	if p.moved {
		w.sort()
	}
	if whole || !w.extend(p.puts) {
		w.published = fswatch.Fingerprint{}
	}
	w.tell()
	return nil
}

// tell wakes those who watch this handle.
func (w *writer) tell() {
	w.mu.Lock()
	close(w.news)
	w.news = make(chan struct{})
	w.mu.Unlock()
}

// A published file is written anew when its frames are a quarter of it, but not
// for a few.
const fewFrames = 64 << 10

// extend appends a commit to the published file, which has what was before, and
// reports whether it could. A file that it spoils is written anew by show.
func (w *writer) extend(puts []record) bool {
	size := int64(frameSize)
	for _, r := range puts {
		size += r.size()
	}
	if w.published == (fswatch.Fingerprint{}) || w.published.Size != w.behind.end || w.behind.end+size > w.maxSnap || size > math.MaxInt32 ||
		w.behind.end-w.base+size > max(w.base/4, fewFrames) {
		return false
	}
	f, err := os.OpenFile(w.snap, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return false // perhaps only replacing it is allowed
	}
	defer f.Close()
	if now, err := fswatch.Stat(w.snap); err != nil || now != w.published {
		return false
	}
	w.published = fswatch.Fingerprint{}
	w.enc.buf = w.behind.appendFrame(w.enc.buf[:0], w.state.seq, puts)
	if _, err := f.Write(w.enc.buf); err != nil {
		return false
	}
	if err := f.Sync(); err != nil {
		return false
	}
	// It must be the file at the path that grew, and by nothing else.
	now, err := fswatch.Stat(w.snap)
	if err != nil || now.Size != w.behind.end {
		return false
	}
	if info, err := f.Stat(); err != nil || fswatch.Of(info) != now {
		return false
	}
	w.published = now
	return true
}

func (w *writer) publish() error {
	w.published = fswatch.Fingerprint{}
	if w.size > w.maxSnap {
		return fmt.Errorf("%s: %d bytes, the limit is %d", w.snap, w.size, w.maxSnap)
	}
	w.enc.reset()
	for _, id := range w.order {
		w.enc.add(w.items[id])
	}
	text := w.enc.finish(w.state, time.Now())
	if err := fswatch.WriteFile(w.snap, text); err != nil {
		return err
	}
	w.base = int64(len(text))
	w.behind = link{end: w.base, sum: binary.LittleEndian.Uint32(text[crcAt:]), seq: w.state.seq}
	// A file that is gone again is published by the next call.
	w.published, _ = fswatch.Stat(w.snap)
	return nil
}

func (w *writer) Watch(ctx context.Context, wake func()) error {
	for {
		if err := w.usable(ctx); err != nil {
			return err
		}
		w.mu.RLock()
		news := w.news
		w.mu.RUnlock()
		wake()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.closed:
			return store.ErrClosed
		case <-news:
		}
	}
}

func (w *writer) Close() error {
	return w.shut(func() error {
		err := w.recall()
		if err == nil {
			err = w.rest()
		}
		err = errors.Join(err, w.db.close())
		w.unlock()
		w.mu.Lock()
		w.items, w.order, w.enc.buf = nil, nil, nil
		w.mu.Unlock()
		return err
	})
}
