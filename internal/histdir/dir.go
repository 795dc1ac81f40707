// Package histdir keeps the history of a store in a directory beside it.
package histdir

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flagstead/flagstead/internal/history"
	"github.com/flagstead/flagstead/store"
)

// A Dir keeps a history in a directory: one file per revision, named for its
// number, with a line of JSON before the body. Files appear by rename. Any process
// may read; only one Append at a time may be at work, in all processes.
type Dir string

const suffix = ".rev"

// maxFile bounds one file.
const maxFile = 1 << 30

func (d Dir) name(n uint64) string {
	return filepath.Join(string(d), fmt.Sprintf("%012d%s", n, suffix))
}

// Revisions returns what the directory has, oldest first. Without a directory there
// are none.
func (d Dir) Revisions() ([]store.Revision, error) {
	entries, err := os.ReadDir(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []store.Revision
	for _, e := range entries {
		text, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			continue // somebody else's
		}
		r, _, err := d.read(n, false)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, store.ErrDamaged) {
			continue // dropped this moment; or a hole, which a whole state follows
		}
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b store.Revision) int { return int(int64(a.N) - int64(b.N)) })
	return all, nil
}

// maxLine bounds the JSON of a revision: nine names of 256 bytes, escaped, and two
// revisions.
const maxLine = 64 << 10

// read returns a revision and, if wanted, its body.
func (d Dir) read(n uint64, body bool) (r store.Revision, rest []byte, err error) {
	name := d.name(n)
	f, err := os.Open(name)
	if err != nil {
		return r, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return r, nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return r, nil, fmt.Errorf("%w: %s is not a regular file of at most %d bytes", store.ErrDamaged, name, maxFile)
	}
	size := info.Size()
	if !body {
		size = min(size, maxLine)
	}
	text := make([]byte, size)
	if _, err := f.ReadAt(text, 0); err != nil {
		return r, nil, fmt.Errorf("%s: %w", name, err)
	}
	line, rest, ok := bytes.Cut(text, []byte("\n"))
	if !ok {
		return r, nil, fmt.Errorf("%w: %s is no revision", store.ErrDamaged, name)
	}
	if err := json.Unmarshal(line, &r); err != nil || r.N != n {
		return r, nil, fmt.Errorf("%w: %s is no revision", store.ErrDamaged, name)
	}
	return r, rest, nil
}

// At returns the state of revision n.
func (d Dir) At(n uint64) (store.Snapshot, error) {
	all, err := d.Revisions()
	if err != nil {
		return store.Snapshot{}, err
	}
	return history.Rebuild(all, n, func(r store.Revision) ([]byte, error) {
		now, body, err := d.read(r.N, true)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %d was dropped this moment", store.ErrNoRevision, r.N)
		}
		if err == nil && now.Rev != r.Rev && now.Prev != r.Prev {
			err = fmt.Errorf("%w: revision %d changed while it was read", store.ErrDamaged, r.N)
		}
		return body, err
	})
}

// Append appends r at now to the directory, which must exist. Files get mode.
func (d Dir) Append(r store.Record, k store.Keep, now time.Time, mode fs.FileMode) (store.Revision, error) {
	all, err := d.Revisions()
	if err != nil {
		return store.Revision{}, err
	}
	s, err := history.Next(all, r, k, now)
	if err != nil || s.Nothing {
		return s.Revision, err
	}
	if s.Body == nil {
		if _, s.Body, err = d.read(s.Revision.N, true); err != nil {
			return store.Revision{}, err
		}
	}
	line, err := json.Marshal(s.Revision)
	if err != nil {
		return store.Revision{}, err
	}
	if err := d.write(d.name(s.Revision.N), append(append(line, '\n'), s.Body...), mode); err != nil {
		return store.Revision{}, err
	}
	for _, n := range s.Drop {
		if err := os.Remove(d.name(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return s.Revision, fmt.Errorf("old revision: %w", err)
		}
	}
	return s.Revision, nil
}

// dirMode is mode with the right to search for each right to read.
func dirMode(mode fs.FileMode) fs.FileMode { return mode | 0o700 | mode&0o444>>2 }

// write renames a new file over name. A history that loses its last entry to a
// power failure is no worse than one whose writer was killed, but half a file must
// not be left, so it is synced.
func (d Dir) write(name string, text []byte, mode fs.FileMode) (err error) {
	tmp := filepath.Join(string(d), ".new.tmp") // one name for all, under the lock
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(tmp)
		}
	}()
	if _, err := f.Write(text); err != nil {
		return err
	}
	if mode != 0o600 {
		if err := f.Chmod(mode); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}
