package bolt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/flagstead/flagstead/internal/fswatch"
	"github.com/flagstead/flagstead/store"
)

// databaseTimeout bounds how long a reader that finds no snapshot waits for a
// writer to let go of the database. bbolt looks every 50 ms.
const databaseTimeout = 200 * time.Millisecond

// A reader is the handle that reads what is published.
type reader struct {
	gate
	path    string
	snap    string
	maxSnap int64
	log     *slog.Logger
	life    context.Context // until Close
	end     context.CancelFunc

	// What follows belongs to the call that has the turn.
	state  *image   // nil: nothing was there yet
	past   []uint64 // epochs before that of state, the last one at the end
	source stamp    // the file that state is from, or that had nothing newer
	behind link     // what of source comes after state; zero if state is not from it
}

// A stamp identifies a published file. The header tells apart what the
// fingerprint cannot: files that replace each other within a tick of the file
// system's clock and get the same inode.
type stamp struct {
	fp   fswatch.Fingerprint
	head [headerSize]byte
}

func newReader(path string, o Options) *reader {
	r := &reader{gate: newGate(), path: path, snap: path + ".snap", maxSnap: o.MaxSnapshot, log: o.Logger}
	r.life, r.end = context.WithCancel(context.Background())
	return r
}

func (r *reader) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	if err := r.enter(ctx); err != nil {
		return store.Snapshot{}, err
	}
	defer r.leave()
	if err := r.refresh(ctx); err != nil {
		return store.Snapshot{}, err
	}
	if r.state == nil {
		return store.Snapshot{}, nil
	}
	return r.state.since(since), nil
}

// since returns the state, or what of it is newer than rev.
func (m *image) since(rev store.Rev) store.Snapshot {
	snap := store.Snapshot{Rev: m.rev()}
	n, delta := m.deltaFrom(rev)
	snap.Delta = delta
	switch {
	case delta && n == m.seq:
	case delta:
		for _, r := range m.items {
			if r.seq > n {
				// A copy: the caller may keep this item for long, and
				// must not keep the whole file with it.
				r.Data = slices.Clone(r.Data)
				snap.Items = append(snap.Items, r.Item)
			}
		}
	case len(m.items) > 0:
		snap.Items = make([]store.Item, len(m.items))
		for i, r := range m.items {
			snap.Items[i] = r.Item
		}
	}
	return snap
}

// tailRetries is how often a reader looks again at frames that look damaged, as
// those may that are being written on a file system without much order.
const (
	tailRetries = 3
	tailPause   = 2 * time.Millisecond
)

// refresh brings state up to what is on disk.
func (r *reader) refresh(ctx context.Context) error {
	for try := 0; ; try++ {
		err := r.look()
		if !errors.Is(err, errTail) {
			return err
		}
		if try == tailRetries {
			return r.recover(err)
		}
		pause := time.NewTimer(tailPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		}
	}
}

// recover makes do with the database when frames are damaged. A power cut can do
// that to the last one, and then no writer holds the database.
func (r *reader) recover(damage error) error {
	m, err := readDatabase(r.path)
	if err != nil {
		return damage
	}
	r.show(m)
	return nil
}

func (r *reader) look() error {
	if r.source != (stamp{}) {
		now, err := stampOf(r.snap)
		if err == nil && now == r.source {
			return nil
		}
		if err == nil && r.follow(now) {
			return nil
		}
	}
	b, st, err := readSnapshot(r.snap, r.maxSnap)
	if errors.Is(err, fs.ErrNotExist) {
		return r.unpublished(err)
	}
	if err != nil {
		return err // names the file
	}
	return r.take(b, st)
}

// take makes the content of a published file the state.
func (r *reader) take(b []byte, st stamp) error {
	m, l, err := decode(b)
	if err != nil {
		return fmt.Errorf("%s: %w", r.snap, err)
	}
	r.show(m)
	r.source = st
	if r.state.epoch == m.epoch && r.state.seq == m.seq {
		r.behind = l
	}
	return nil
}

// follow reads what was appended to the file that the state is from, and reports
// whether that is all there was to do.
func (r *reader) follow(now stamp) bool {
	l := r.behind
	if l.end == 0 || now.head != r.source.head || now.fp.Size <= l.end || now.fp.Size > r.maxSnap {
		return false
	}
	f, size, err := openSnapshot(r.snap)
	if err != nil {
		return false
	}
	defer f.Close()
	var head [headerSize]byte
	if _, err := f.ReadAt(head[:], 0); err != nil || head != now.head || size < now.fp.Size {
		return false
	}
	b := make([]byte, now.fp.Size-l.end)
	if _, err := f.ReadAt(b, l.end); err != nil {
		return false
	}
	puts, err := l.readFrames(b)
	if err != nil {
		return false
	}
	r.state.put(puts)
	r.state.seq = l.seq
	r.behind, r.source = l, now
	return true
}

// show makes m the state, unless it is one that this handle is past.
func (r *reader) show(m *image) {
	r.behind = link{}
	switch {
	case r.state == nil:
	case m.epoch == r.state.epoch:
		if m.seq <= r.state.seq {
			return
		}
	case slices.Contains(r.past, m.epoch):
		return
	default:
		if len(r.past) == pastMax {
			r.past = slices.Delete(r.past, 0, 1)
		}
		r.past = append(r.past, r.state.epoch)
	}
	if r.state != nil {
		m.detach(r.state)
	}
	r.state = m
}

// detach makes items that are as they were in old share their Data with it, and gives the
// others Data of their own: whoever keeps a few of them must not keep the whole file that m
// was read from, and the next one, and so on.
func (m *image) detach(old *image) {
	was := old.items
	for i := range m.items {
		r := &m.items[i]
		for len(was) > 0 && compareRecords(was[0], *r) < 0 {
			was = was[1:]
		}
		if len(was) > 0 && compareRecords(was[0], *r) == 0 && sameContent(was[0].Item, r.Item) {
			r.Data = was[0].Data
		} else {
			r.Data = slices.Clone(r.Data)
		}
	}
}

// pastMax bounds how many writers back a handle remembers.
const pastMax = 256

// unpublished handles a snapshot that is not there.
func (r *reader) unpublished(missing error) error {
	if r.source != (stamp{}) {
		return fmt.Errorf("the snapshot vanished: %w", missing)
	}
	m, err := readDatabase(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		if r.state == nil {
			return nil // nothing was ever written here
		}
		return fmt.Errorf("the store vanished: %w", err)
	}
	if err == nil {
		r.show(m)
		return nil
	}
	// Whoever held the database may have published meanwhile.
	b, st, snapErr := readSnapshot(r.snap, r.maxSnap)
	if snapErr != nil {
		return fmt.Errorf("no snapshot is published, and the database cannot be read: %w", err)
	}
	return r.take(b, st)
}

// readDatabase copies the content of a database that no writer holds.
func readDatabase(path string) (*image, error) {
	d, err := openDatabase(path, true, databaseTimeout)
	if err != nil {
		return nil, err
	}
	m, err := d.read()
	if closeErr := d.close(); err == nil {
		err = closeErr
	}
	return m, err
}

func stampOf(path string) (st stamp, err error) {
	f, _, err := openSnapshot(path)
	if err != nil {
		return st, err
	}
	defer f.Close()
	if _, err = f.ReadAt(st.head[:], 0); err != nil {
		return st, err
	}
	st.fp, err = fswatch.Stat(path)
	return st, err
}

// readSnapshot returns a published file's content. The file is replaced or grows
// by whole frames, so what was opened is one state however quickly others follow,
// and the checksums tell if somebody else meddled with it. If it is replaced
// between the two looks at it, the stamp fits neither and the next Load reads
// again, as it does if it grew.
func readSnapshot(path string, limit int64) ([]byte, stamp, error) {
	var st stamp
	var err error
	if st.fp, err = fswatch.Stat(path); err != nil {
		return nil, st, err
	}
	f, size, err := openSnapshot(path)
	if err != nil {
		return nil, st, err
	}
	defer f.Close()
	if size > limit {
		return nil, st, fmt.Errorf("%s: %d bytes, the limit is %d", path, size, limit)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, st, fmt.Errorf("%s: %w", path, err)
	}
	copy(st.head[:], b)
	return b, st, nil
}

func openSnapshot(path string) (*os.File, int64, error) {
	// Opening a FIFO would block, hence the look before.
	info, err := os.Stat(path)
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s: not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	if info, err = f.Stat(); err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

func (r *reader) Apply(ctx context.Context, _ store.Change) (store.Rev, error) {
	if err := r.usable(ctx); err != nil {
		return "", err
	}
	return "", store.ErrReadOnly
}

func (r *reader) Watch(ctx context.Context, wake func()) error {
	if err := r.usable(ctx); err != nil {
		return err
	}
	both, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.life, cancel)()
	// Files are published whole, and frames have checksums, so there is nothing to wait for.
	err := fswatch.Watch(both, r.snap, 0, wake, r.noteWatch)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case r.life.Err() != nil:
		return store.ErrClosed
	}
	return err
}

// noteWatch logs how changes of the snapshot are found.
func (r *reader) noteWatch(polling error) {
	if polling == nil {
		r.log.Info("the flag snapshot is watched by events again", "path", r.snap)
		return
	}
	r.log.Warn("changes of the flag snapshot are found by polling only, once a second", "path", r.snap, "reason", polling)
}

func (r *reader) Close() error {
	return r.shut(func() error {
		r.end()
		r.state, r.past = nil, nil
		return nil
	})
}
