package histdir

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/flagstead/flagstead/internal/fswatch"
	"github.com/flagstead/flagstead/store"
)

// Of returns the history of the store at path.
func Of(path string) Dir { return Dir(path + ".history") }

// AppendLocked is [Dir.Append] under a lock in the directory, which it makes if it
// is missing. Files get the permissions of the file like, or 0600 if that is
// missing. It waits for the lock until ctx ends.
func (d Dir) AppendLocked(ctx context.Context, r store.Record, k store.Keep, like string) (store.Revision, error) {
	mode := fs.FileMode(0o600)
	if info, err := os.Stat(like); err == nil {
		mode = info.Mode().Perm()
	}
	if err := os.Mkdir(string(d), dirMode(mode)); err != nil && !errors.Is(err, fs.ErrExist) {
		return store.Revision{}, err
	}
	unlock, err := fswatch.Lock(ctx, filepath.Join(string(d), ".lock"))
	if err != nil {
		return store.Revision{}, err
	}
	defer unlock()
	return d.Append(r, k, time.Now(), mode)
}
