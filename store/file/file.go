// Package file keeps flags in a JSON or YAML file of the shape that FeatBit
// exports.
//
// The file is what GET /api/public/sdk/server/latest-all of FeatBit's evaluation
// server returns, read exactly as exported:
//
//	{"messageType":"data-sync","data":{"eventType":"full","featureFlags":[…],"segments":[…]}}
//
// The name says what is in the file: .yaml and .yml stand for YAML, .gz behind
// that or behind .json for gzip, and every other name for JSON. YAML says the same
// in other clothes, and package file reads it so that nothing gets lost: numbers
// keep their digits, dates are the text that is written, names that occur twice
// are an error, and so is what JSON cannot say. One thing is made easier: the value
// of a variation or a condition, which is a text in FeatBit, may be written as what
// it stands for. There "value: true" means the text "true", "value: 1.50" the text
// "1.50", and a list or mapping its JSON.
//
// YAML has no end, so half of it may look whole. Its last line must end with a
// line break, which tells most pieces; whoever writes it slowly had better write
// another file and rename it.
//
// People and programs may edit it with whatever they like; [Store.Watch] follows
// rename-over, truncate-and-write, symlinks that are re-pointed, the directory
// swap of a Kubernetes ConfigMap, deletion and return. A file that is half
// written, empty or broken changes nothing: Load reports it, with line and
// column, and whoever follows the store keeps the last good state.
//
// As a writer the store merges under a lock file beside the document, so several
// processes may write, and replaces the document by rename, durably. Items of
// FeatBit's shape make a plain document. Items whose Data does not say what
// their other fields say cannot be told from it, so they are kept in a member
// "flagstead" of their own that FeatBit ignores.
//
// A writer's heartbeat is in a file of its own beside the document. Nobody writes
// one for files that people edit.
//
// Every change rewrites the whole file and makes every reader parse all of it:
// for tens of thousands of flags that change often, package bolt costs less.
// The lock works between processes of one host, on Linux and macOS; elsewhere
// the store reads but does not write.
package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/flagstead/flagstead/internal/fswatch"
	"github.com/flagstead/flagstead/store"
)

// Errors that callers may test for with [errors.Is], beside those of package
// store.
var (
	// ErrBroken says that the file is there but holds no usable document: it is
	// empty, no JSON, or JSON of another shape. For broken JSON the text of the
	// wrapping error has line and column. It is a [store.ErrDamaged], too.
	ErrBroken error = broken{}

	// ErrLocked says that other processes kept writing to the file for the whole
	// of Options.LockTimeout. Nothing was written.
	ErrLocked = errors.New("another process is writing")
)

type broken struct{}

func (broken) Error() string { return "no usable document" }
func (broken) Unwrap() error { return store.ErrDamaged }

// Options tunes [Open]. The zero value is useful.
type Options struct {
	// ReadOnly makes Apply return [store.ErrReadOnly], and a missing file an
	// error that wraps [fs.ErrNotExist] instead of an empty store.
	ReadOnly bool

	// MaxSize bounds the file and its document in bytes, for reading and for
	// writing: as it is on disk, uncompressed, and after its turning from YAML
	// to JSON. Zero means 256 MiB, or 32 MiB for YAML, which takes some 30 times
	// its size in memory while it is parsed.
	MaxSize int64

	// LockTimeout bounds how long Apply waits for other processes that write to
	// the same file, if its context does not end earlier. Zero means 10 seconds.
	LockTimeout time.Duration

	// Logger hears of items in the document that cannot be used, and of it when
	// Watch has to poll because events of the system do not come. Nil means
	// silence.
	Logger *slog.Logger
}

var (
	_ store.DataStore = (*Store)(nil)
	_ store.Watcher   = (*Store)(nil)
)

// A Store is a [store.DataStore] and [store.Watcher] on one file. Its methods are
// safe for concurrent use, and any number of handles and processes may share a
// file.
type Store struct {
	path string
	form form
	opts Options

	life context.Context // ends with Close
	end  context.CancelFunc

	writing turn // held by Apply, also while it waits for other processes
	reading turn // guards seen and everything in it
	seen    view
	bell    bell
}

// Open returns a handle on the file at path. It does not touch the file, which
// may be missing, as may its directory until something is to be written. A nil o
// means the defaults. YAML cannot be opened for writing; the error wraps
// [errors.ErrUnsupported].
func Open(path string, o *Options) (*Store, error) {
	if path == "" {
		return nil, errors.New("file: open: empty path")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("file: open %s: %w", path, err)
	}
	s := &Store{path: abs, form: formOf(abs), writing: newTurn(), reading: newTurn()}
	if o != nil {
		s.opts = *o
	}
	if s.form.yaml && !s.opts.ReadOnly {
		return nil, fmt.Errorf("file: open %s for writing: %w: YAML is what people write; use .json or .json.gz, or Options.ReadOnly", path, errors.ErrUnsupported)
	}
	if s.opts.MaxSize <= 0 {
		s.opts.MaxSize = s.form.maxSize()
	}
	if s.opts.LockTimeout <= 0 {
		s.opts.LockTimeout = 10 * time.Second
	}
	if s.opts.Logger == nil {
		s.opts.Logger = slog.New(slog.DiscardHandler)
	}
	s.life, s.end = context.WithCancel(context.Background())
	return s, nil
}

// Load implements [store.Reader]. It looks whether the file changed and parses
// it if so; the answer is always everything, or an empty Delta if since is still
// current. A document that is being rewritten in place counts once it has been
// left alone for 150 ms; until then Load returns the state before.
//
// If the file holds no usable document the error wraps [ErrBroken]; if it is
// missing and the store is read-only, [fs.ErrNotExist].
func (s *Store) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	snap, err := s.load(ctx, since)
	if err != nil {
		return store.Snapshot{}, fmt.Errorf("file: load: %w", err)
	}
	return snap, nil
}

func (s *Store) load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	if err := s.enter(ctx, s.reading); err != nil {
		return store.Snapshot{}, err
	}
	defer s.reading.leave()
	if err := s.look(true); err != nil {
		return store.Snapshot{}, err
	}
	cur := s.seen.content
	snap := store.Snapshot{Rev: cur.rev}
	if since != "" && since == cur.rev {
		snap.Delta = true
	} else {
		snap.Items = cur.list()
	}
	return snap, nil
}

// Watch implements [store.Watcher]. Changes by rename show within some 10 ms,
// those in place once they have settled, and changes without an event, on
// filesystems that have none, within a second.
func (s *Store) Watch(ctx context.Context, wake func()) error {
	err := s.usable(ctx)
	if err == nil {
		bound, cancel := s.bind(ctx)
		defer cancel()
		defer s.bell.add(wake)()
		err = fswatch.Watch(bound, s.path, fswatch.QuietTime, wake, s.noteWatch)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if s.life.Err() != nil {
		err = store.ErrClosed
	}
	return fmt.Errorf("file: watch %s: %w", s.path, err)
}

// noteWatch logs how changes of the file are found.
func (s *Store) noteWatch(polling error) {
	if polling == nil {
		s.opts.Logger.Info("the flag file is watched by events again", "path", s.path)
		return
	}
	s.opts.Logger.Warn("changes of the flag file are found by polling only, once a second", "path", s.path, "reason", polling)
}

// Close ends running calls, waits for a write that has begun, and lets go of the
// file. It returns nil, also on a closed store.
func (s *Store) Close() error {
	if s.life.Err() == nil {
		s.end()
	}
	s.reading <- struct{}{}
	defer s.reading.leave()
	s.seen.unpin()
	s.seen = view{}
	return nil
}

// usable says why a call cannot go ahead.
func (s *Store) usable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.life.Err() != nil {
		return store.ErrClosed
	}
	return nil
}

// bind returns a context that ends with ctx or with Close.
func (s *Store) bind(ctx context.Context) (context.Context, context.CancelFunc) {
	bound, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.life, cancel)
	return bound, func() { stop(); cancel() }
}

// enter waits for t, unless ctx or the store ends.
func (s *Store) enter(ctx context.Context, t turn) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	select {
	case t <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.life.Done():
		return store.ErrClosed
	}
	if err := s.usable(ctx); err != nil {
		t.leave()
		return err
	}
	return nil
}

// A turn is a lock that can be waited for with a context.
type turn chan struct{}

func newTurn() turn   { return make(turn, 1) }
func (t turn) leave() { <-t }

// A view is what a handle knows of its file.
type view struct {
	content content // the last good one
	broken  error   // why what the file holds now is not content, if it is not

	raw     store.Rev           // of the bytes read last, good or broken
	print   fswatch.Fingerprint // of the file then
	trusted bool                // an equal fingerprint means equal bytes

	// pin keeps the file open that was read last. As long as it is, nobody else
	// can get its inode, so an equal inode at the path means that this very file
	// was written to, and another one that it was replaced whole.
	pin *os.File
}

func (v *view) unpin() {
	if v.pin != nil {
		v.pin.Close()
		v.pin = nil
	}
}

// repin pins the file at path.
func (v *view) repin(path string) {
	v.unpin()
	if v.print.Inode == 0 {
		return // no inodes here, and an open file may be in the way of others
	}
	if f, err := os.Open(path); err == nil {
		v.pin = f
	}
}

// pinned reports whether the file at path is the one that was read last.
func (v *view) pinned(path string) bool {
	if v.pin == nil {
		return false
	}
	held, err := v.pin.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(held, named)
}

// clockTick is more than the granularity of any filesystem clock in use: two
// writes within one leave equal times.
const clockTick = 50 * time.Millisecond

// look brings the view up to date and says why the file is unusable, if it is.
// A patient look leaves a file alone that somebody seems to be writing to. The
// caller has the reading turn.
func (s *Store) look(patient bool) error {
	v, began := &s.seen, time.Now()
	print, err := fswatch.Stat(s.path)
	if err == nil {
		if print == v.print && v.trusted {
			return v.broken
		}
		if patient && !print.Settled() && print.SameFile(v.print) && v.pinned(s.path) {
			return v.broken // half-written, perhaps; the watch comes back
		}
	}
	data, print, err := fswatch.ReadFile(s.path, s.opts.MaxSize)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s.missing(err)
	case errors.Is(err, fswatch.ErrMoving) && patient && v.raw != "":
		return v.broken // somebody is at it all the time; the watch comes back
	case err != nil:
		v.trusted = false
		return err
	}
	same := print.SameFile(v.print) && v.pinned(s.path)
	if v.print = print; !same {
		v.repin(s.path)
	}
	changed := print.Changed // not to be set at will, unlike the time of modification
	if changed == 0 {
		changed = print.Modified
	}
	v.trusted = began.Sub(time.Unix(0, changed)) > clockTick
	s.take(data)
	return v.broken
}

// missing takes note that the file is gone.
func (s *Store) missing(err error) error {
	s.seen.unpin()
	s.seen.print, s.seen.trusted = fswatch.Fingerprint{}, false
	if s.opts.ReadOnly {
		return err // the content stays, in case the same text comes back
	}
	s.seen = view{}
	return nil
}

// take makes data the content, if it is another text than before and usable.
func (s *Store) take(data []byte) {
	var next content
	var skipped []error
	var err error
	// Most texts are others than before, and both take their time.
	raw := meanwhile(data, func() {
		var doc source
		if doc, err = s.form.read(data, s.opts.MaxSize); err == nil {
			next, skipped, err = parse(doc)
		}
	})
	if raw == s.seen.raw {
		return
	}
	s.seen.raw = raw
	if err != nil {
		s.seen.broken = fmt.Errorf("%s: %w: %w", s.path, ErrBroken, err)
		return
	}
	next.rev = raw
	if s.seen.content.rev != "" {
		next.detach(s.seen.content)
	}
	s.seen.content, s.seen.broken = next, nil
	for _, err := range skipped {
		s.opts.Logger.Warn("item in the flag file cannot be used", "path", s.path, "error", err)
	}
}

// meanwhile returns the Rev of text, and calls f while that is worked out.
func meanwhile(text []byte, f func()) store.Rev {
	rev := make(chan store.Rev, 1)
	go func() { rev <- revOf(text) }()
	f()
	return <-rev
}
