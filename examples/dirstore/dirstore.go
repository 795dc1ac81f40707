//go:build unix

// Package dirstore is a whole store in a few lines: an example of what it takes
// to keep the rules of package store, and of a store that somebody else writes.
//
// It keeps a state in one file of a directory, which each commit replaces by
// rename: readers find the old file or the new one, never a mixture. Writers, of
// this and of other processes, take turns with a file lock, which the kernel
// opens when its holder dies. A file begins with the checksum of the rest, so
// damage is noticed; the rest has a random number in it, so no two commits have
// one checksum, which therefore serves as the Rev.
//
// It is honest but plain: each Load after a commit reads everything, and as it
// is no store.Watcher, store.Follow polls it.
package dirstore

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/gob"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/flagstead/flagstead/store"
)

// A Store is a [store.DataStore] in a directory. Its methods are safe for
// concurrent use, and any number of handles and processes may share a directory.
type Store struct {
	path string
	life context.Context // ends with Close
	end  context.CancelFunc
}

// Open returns a handle on the store in dir, which has to exist.
func Open(dir string) *Store {
	s := &Store{path: filepath.Join(dir, "state")}
	s.life, s.end = context.WithCancel(context.Background())
	return s
}

// Close makes all methods return [store.ErrClosed]. It returns nil.
func (s *Store) Close() error { s.end(); return nil }

func (s *Store) usable(ctx context.Context) error {
	if s.life.Err() != nil {
		return store.ErrClosed
	}
	return ctx.Err()
}

// body is what the checksum is of.
type body struct {
	Nonce string
	Items []store.Item
}

func sum(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }

// Load implements [store.Reader].
func (s *Store) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	if err := s.usable(ctx); err != nil {
		return store.Snapshot{}, fmt.Errorf("dirstore: load: %w", err)
	}
	data, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return store.Snapshot{}, nil
	}
	if err != nil {
		return store.Snapshot{}, fmt.Errorf("dirstore: load: %w", err)
	}
	head, rest, _ := bytes.Cut(data, []byte("\n"))
	var b body
	if string(head) != sum(rest) || gob.NewDecoder(bytes.NewReader(rest)).Decode(&b) != nil {
		return store.Snapshot{}, fmt.Errorf("dirstore: load %s: %w", s.path, store.ErrDamaged)
	}
	if rev := store.Rev(head); rev != since {
		return store.Snapshot{Rev: rev, Items: b.Items}, nil
	}
	return store.Snapshot{Rev: since, Delta: true}, nil
}

// Apply implements [store.Writer].
func (s *Store) Apply(ctx context.Context, c store.Change) (store.Rev, error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return "", fmt.Errorf("dirstore: apply: %w", err)
	}
	defer unlock()
	now, err := s.Load(ctx, "")
	if err != nil && !(errors.Is(err, store.ErrDamaged) && c.Full && c.Base == "") {
		return "", err // only a full change without a Base repairs damage
	}
	if c.Conflicts(now.Rev) {
		return "", fmt.Errorf("dirstore: apply: %w", store.ErrConflict)
	}
	before := make(map[store.ID]store.Item, len(now.Items))
	for _, it := range now.Items {
		before[it.ID()] = it
	}
	after, changed := merge(before, c)
	if !changed && (now.Rev != "" || !c.Full) {
		return now.Rev, nil
	}
	return s.write(slices.Collect(maps.Values(after)))
}

// merge returns the content after c, and whether it differs from that before.
func merge(before map[store.ID]store.Item, c store.Change) (map[store.ID]store.Item, bool) {
	after := maps.Clone(before)
	if c.Full {
		clear(after)
	}
	for _, it := range c.Items {
		if old, ok := after[it.ID()]; !ok || it.Version > old.Version || c.Full && it.Version == old.Version {
			after[it.ID()] = it
		}
	}
	return after, !maps.EqualFunc(before, after, func(a, b store.Item) bool {
		return a.Version == b.Version && a.Archived == b.Archived && bytes.Equal(a.Data, b.Data)
	})
}

// write puts a new file in the place of the old one. The caller has the lock.
func (s *Store) write(items []store.Item) (store.Rev, error) {
	var rest bytes.Buffer
	if err := gob.NewEncoder(&rest).Encode(body{rand.Text(), items}); err != nil {
		return "", fmt.Errorf("dirstore: apply: %w", err)
	}
	rev := sum(rest.Bytes())
	f, err := os.Create(s.path + ".new") // of a writer that died it is overwritten
	if err != nil {
		return "", fmt.Errorf("dirstore: apply: %w", err)
	}
	_, err = fmt.Fprintf(f, "%s\n%s", rev, rest.Bytes())
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(s.path+".new", s.path)
	}
	if err != nil {
		return "", fmt.Errorf("dirstore: apply: %w", err)
	}
	return store.Rev(rev), nil
}

// lock waits for all other writers.
func (s *Store) lock(ctx context.Context) (unlock func() error, err error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(s.path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f.Close, nil
		}
		if used := s.usable(ctx); used != nil || !errors.Is(err, syscall.EWOULDBLOCK) {
			f.Close()
			return nil, cmp.Or(used, err)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}
