// Package bolt keeps flags in a bbolt database that one process writes, and in
// a snapshot file beside it that any number of processes read.
//
// For a store at path there are these files in one directory:
//
//	path            the bbolt database, the durable record; only the writer opens it
//	path.snap       the published content: one checksummed file
//	path.lock       what a writer holds for its whole life; never removed
//	path.heartbeat  how current the content is, if the writer says so
//	path.control    whether publication is frozen, if it ever was
//	path.control.lock  what is held while that is written, and during a commit
//
// Apply commits to the database first and publishes the snapshot second, so the
// snapshot is never ahead of the record. A writer publishes when it opens the
// store, in case the last one died between the two, and whenever it finds that
// the snapshot is not the one it published. Readers copy the snapshot to the
// heap. They take no lock, map no file and share no fate with the writer: bbolt's
// own lock is exclusive while a writer lives, its pages carry no checksums, and a
// mapped file that shrinks kills the process.
//
// Every writer that opens the store begins a series of revisions of its own, so
// that files which were put back from a backup repeat none. Readers load
// everything once after each.
//
// A change that only adds or replaces items is appended to the snapshot as a
// frame with a checksum of its own, so a patch costs the patch, for the writer and
// for each reader that follows. Every other change, and one for which the frames
// would be more than a quarter of the file, writes the snapshot anew and renames
// it into place, and so does Close. A frame that is not all there counts as not
// there, so readers find the states that were committed and nothing between them.
//
// The files belong on a local filesystem; locks and renames over a network
// filesystem do not keep these promises. Writing needs a lock that works on Linux
// and macOS; elsewhere the store reads but does not write.
package bolt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/flagstead/flagstead/internal/fswatch"
	"github.com/flagstead/flagstead/store"
)

// ErrLocked says that another process, or another handle of this one, has the
// store open for writing.
var ErrLocked = errors.New("another process is writing")

// Options tunes [Open]. The zero value opens a writer with the defaults.
type Options struct {
	// ReadOnly opens the published snapshot for reading: Apply returns
	// [store.ErrReadOnly]. The files need not exist yet. What is not content can
	// be written all the same: the control.
	ReadOnly bool

	// LockTimeout is how long a writer waits for another one to let go. Zero
	// means one second; below zero means not to wait at all.
	LockTimeout time.Duration

	// MaxSnapshot is the size of the published file in bytes that a writer does
	// not exceed and a reader does not read. Zero means 1 GiB.
	MaxSnapshot int64

	// Logger hears of it when a reader's Watch has to poll because events of the
	// system do not come. Nil means silence.
	Logger *slog.Logger
}

// A Store is a [store.DataStore] and [store.Watcher] on files. Its methods are
// safe for concurrent use.
type Store struct {
	h handle
}

// handle is a writer or a reader.
type handle interface {
	store.DataStore
	store.Watcher
	store.HeartbeatWriter
	store.HeartbeatReader
	store.Controller
}

var _ handle = (*Store)(nil)

// Open opens the store at path, whose directory must exist. A writer creates
// what is missing and publishes the content of the database anew. If another
// writer is at work Open returns an error that wraps [ErrLocked], and if the
// database is damaged one that names it; nothing is ever thrown away to get
// going. A nil o means the defaults.
func Open(path string, o *Options) (*Store, error) {
	var opts Options
	if o != nil {
		opts = *o
	}
	if opts.LockTimeout == 0 {
		opts.LockTimeout = time.Second
	}
	if opts.MaxSnapshot <= 0 {
		opts.MaxSnapshot = 1 << 30
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if path == "" {
		return nil, errors.New("bolt: open: empty path")
	}
	if opts.ReadOnly {
		return &Store{newReader(path, opts)}, nil
	}
	w, err := openWriter(path, opts)
	if err != nil {
		return nil, fmt.Errorf("bolt: open: %w", err)
	}
	return &Store{w}, nil
}

// Load implements [store.Reader]. A reader looks at the published snapshot and
// reads it if it was replaced. It returns an error, and keeps what it had for
// the next call, while the snapshot is damaged ([store.ErrDamaged]) or missing
// after it was there.
// A writer answers from memory.
func (s *Store) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	snap, err := s.h.Load(ctx, since)
	if err != nil {
		return store.Snapshot{}, fmt.Errorf("bolt: load: %w", err)
	}
	return snap, nil
}

// Apply implements [store.Writer]. It returns once the change is committed to
// the database and published to readers. If only publishing failed, the error
// says so: the change is durable, and the next Apply or Load publishes again.
func (s *Store) Apply(ctx context.Context, c store.Change) (store.Rev, error) {
	rev, err := s.h.Apply(ctx, c)
	if err != nil {
		return "", fmt.Errorf("bolt: apply: %w", err)
	}
	return rev, nil
}

// Watch implements [store.Watcher]. A reader watches the published file.
func (s *Store) Watch(ctx context.Context, wake func()) error {
	err := s.h.Watch(ctx, wake)
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("bolt: watch: %w", err)
	}
	return err
}

// Close waits for running calls, ends those of Watch and lets go of the files.
// Closing a closed store does nothing.
func (s *Store) Close() error {
	if err := s.h.Close(); err != nil {
		return fmt.Errorf("bolt: close: %w", err)
	}
	return nil
}

// lockFor takes the writer's lock of the store at path.
func lockFor(path string, wait time.Duration) (unlock func(), err error) {
	name := path + ".lock"
	unlock, err = fswatch.TryLock(name)
	if errors.Is(err, fswatch.ErrLocked) && wait > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		defer cancel()
		unlock, err = fswatch.Lock(ctx, name)
	}
	if errors.Is(err, fswatch.ErrLocked) || errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("%s: %w", path, ErrLocked)
	}
	return unlock, err
}

// gate is what both handles share: one call at a time where they need it, and
// the end of the handle.
type gate struct {
	turn   chan struct{} // capacity 1: full while a call has its turn
	closed chan struct{}
	once   sync.Once
}

func newGate() gate {
	return gate{turn: make(chan struct{}, 1), closed: make(chan struct{})}
}

// usable says why a call cannot go ahead.
func (g *gate) usable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-g.closed:
		return store.ErrClosed
	default:
		return nil
	}
}

// enter waits for a turn, which leave ends.
func (g *gate) enter(ctx context.Context) error {
	if err := g.usable(ctx); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-g.closed:
		return store.ErrClosed
	case g.turn <- struct{}{}:
	}
	if err := g.usable(ctx); err != nil {
		g.leave()
		return err
	}
	return nil
}

// tryEnter takes a turn if nobody has it.
func (g *gate) tryEnter() bool {
	select {
	case g.turn <- struct{}{}:
		return true
	default:
		return false
	}
}

func (g *gate) leave() { <-g.turn }

// shut ends the handle, waits for the running turn and then runs last, once.
// The turn is never given back, so nothing runs after last.
func (g *gate) shut(last func() error) (err error) {
	g.once.Do(func() {
		close(g.closed)
		g.turn <- struct{}{}
		err = last()
	})
	return err
}
