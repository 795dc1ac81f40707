package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/flagstead/flagstead/internal/fswatch"
	"github.com/flagstead/flagstead/store"
)

// Apply implements [store.Writer]: it reads the document, merges c into it and
// replaces the file, while it holds the lock that all writers take. When it
// returns without an error the document is on disk.
//
// A patch needs a usable document and else returns an error that wraps
// [ErrBroken]. A full change without a Base replaces a broken one. The error
// wraps [ErrLocked] if other processes do not let go of the file in time.
func (s *Store) Apply(ctx context.Context, c store.Change) (store.Rev, error) {
	rev, err := s.apply(ctx, c)
	if err == nil {
		return rev, nil
	}
	if s.life.Err() != nil && ctx.Err() == nil && errors.Is(err, context.Canceled) {
		err = store.ErrClosed
	}
	return "", fmt.Errorf("file: apply %d items to %s: %w", len(c.Items), s.path, err)
}

func (s *Store) apply(ctx context.Context, c store.Change) (store.Rev, error) {
	if err := s.usable(ctx); err != nil {
		return "", err
	}
	if s.opts.ReadOnly {
		return "", store.ErrReadOnly
	}
	for _, it := range c.Items {
		if it.Key == "" || it.Kind != store.Flag && it.Kind != store.Segment {
			return "", fmt.Errorf("%s with key %q: invalid item", it.Kind, it.Key)
		}
	}
	if err := s.enter(ctx, s.writing); err != nil {
		return "", err
	}
	defer s.writing.leave()
	target, unlock, err := s.lock(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	// Loads are shut out from here on: what they see and what this call takes
	// note of must not overtake each other.
	if err := s.enter(ctx, s.reading); err != nil {
		return "", err
	}
	defer s.reading.leave()
	return s.commit(target, c)
}

// lock takes the lock of the file that the path leads to now.
func (s *Store) lock(ctx context.Context) (target string, unlock func(), err error) {
	bound, cancel := s.bind(ctx)
	defer cancel()
	bound, cancelTimeout := context.WithTimeout(bound, s.opts.LockTimeout)
	defer cancelTimeout()
	for {
		if target, err = follow(s.path); err != nil {
			return "", nil, err
		}
		unlock, err = fswatch.Lock(bound, target+".lock")
		switch {
		case err != nil && ctx.Err() == nil && s.life.Err() == nil && errors.Is(err, context.DeadlineExceeded):
			return "", nil, fmt.Errorf("%w, no lock in %v", ErrLocked, s.opts.LockTimeout)
		case err != nil:
			return "", nil, err
		}
		// Somebody may have re-pointed a symlink while this call waited.
		if now, err := follow(s.path); err == nil && now == target {
			return target, unlock, nil
		}
		unlock()
	}
}

// follow returns the path without symlinks. The file need not exist.
func follow(path string) (string, error) {
	for range 40 { // the kernel's own limit
		target, err := filepath.EvalSymlinks(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return target, err
		}
		link, err := os.Readlink(path)
		if err != nil { // no link: the file itself is missing
			dir, err := filepath.EvalSymlinks(filepath.Dir(path))
			return filepath.Join(dir, filepath.Base(path)), err
		}
		if !filepath.IsAbs(link) {
			link = filepath.Join(filepath.Dir(path), link)
		}
		path = link
	}
	return "", &fs.PathError{Op: "write", Path: path, Err: errors.New("too many symbolic links")}
}

// commit writes c. The caller has both turns and the lock of target.
func (s *Store) commit(target string, c store.Change) (store.Rev, error) {
	if err := allowed(target, c); err != nil {
		return "", err
	}
	err := s.look(false)
	heal := errors.Is(err, ErrBroken) && c.Full && c.Base == ""
	if err != nil && !heal {
		return "", err
	}
	cur := s.seen.content
	if c.Conflicts(cur.rev) {
		return "", store.ErrConflict
	}
	next, changed := cur.apply(c)
	if !changed && !heal && (!c.Full || cur.rev != "") {
		return cur.rev, nil
	}
	text, err := next.encode()
	if err != nil {
		return "", err
	}
	if int64(len(text)) > s.opts.MaxSize {
		return "", fmt.Errorf("the document would have %d bytes, more than the limit of %d", len(text), s.opts.MaxSize)
	}
	if text, err = s.form.write(text); err != nil {
		return "", err
	}
	removeStrays(target)
	next.rev = meanwhile(text, func() { err = fswatch.WriteFile(target, text) })
	if err != nil {
		return "", err
	}
	s.seen.content, s.seen.broken, s.seen.raw = next, nil, next.rev
	// If somebody replaced the file in this moment, the next look finds out.
	s.seen.print, s.seen.trusted = fswatch.Fingerprint{}, false
	if print, err := fswatch.Stat(s.path); err == nil {
		s.seen.print = print
		s.seen.repin(s.path)
	}
	s.bell.ring()
	return next.rev, nil
}

// removeStrays deletes what writers that were killed left behind. Under the lock
// nobody is writing, so every temporary file is one of those.
func removeStrays(target string) {
	strays, err := filepath.Glob(filepath.Join(globSafe(filepath.Dir(target)), "."+globSafe(filepath.Base(target))+".tmp-*"))
	if err != nil {
		return
	}
	for _, name := range strays {
		os.Remove(name)
	}
}

// globSafe escapes what has a meaning in a pattern.
func globSafe(name string) string {
	safe := make([]byte, 0, len(name))
	for i := range len(name) {
		switch name[i] {
		case '*', '?', '[', '\\':
			safe = append(safe, '\\')
		}
		safe = append(safe, name[i])
	}
	return string(safe)
}

// A bell wakes the watchers of this very handle, which need not wait for the
// filesystem to tell.
type bell struct {
	mu    sync.Mutex // held while a wake function runs, so that none runs after its remove
	wakes map[*func()]struct{}
}

// add registers wake until remove is called.
func (b *bell) add(wake func()) (remove func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wakes == nil {
		b.wakes = map[*func()]struct{}{}
	}
	b.wakes[&wake] = struct{}{}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.wakes, &wake)
	}
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for wake := range b.wakes {
		(*wake)()
	}
}
