package fswatch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// ErrLocked says that somebody else holds the lock.
var ErrLocked = errors.New("fswatch: locked by somebody else")

const (
	lockRetry = 5 * time.Millisecond
	maxLinks  = 40 // like the kernel's own limit
)

// Lock is TryLock, repeated until it succeeds or ctx ends. The error then wraps
// both ctx's error and ErrLocked.
func Lock(ctx context.Context, path string) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var retry *time.Ticker
	for {
		unlock, err := TryLock(path)
		if !errors.Is(err, ErrLocked) {
			return unlock, err
		}
		if retry == nil {
			retry = time.NewTicker(lockRetry)
			defer retry.Stop()
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-retry.C:
		}
	}
}

// WriteFile replaces the content of the file at path, so that a reader and a
// crash find either the old content or the new one. A symlink at path stays; the
// file that it points to is replaced. An existing file keeps its mode, a new one
// gets 0600. When WriteFile returns without an error the content is on disk.
func WriteFile(path string, data []byte) (err error) {
	target, err := followLinks(path)
	if err != nil {
		return err
	}
	mode := fs.FileMode(0o600)
	if info, err := os.Stat(target); err == nil {
		if !info.Mode().IsRegular() {
			return &fs.PathError{Op: "write", Path: target, Err: errors.New("not a regular file")}
		}
		mode = info.Mode().Perm()
	}
	dir := filepath.Dir(target)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(target)+".tmp-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
		}
	}()
	if _, err := tmp.Write(data); err != nil {
		return err
	}
	if mode != 0o600 {
		if err := tmp.Chmod(mode); err != nil {
			return err
		}
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), target); err != nil {
		return err
	}
	// The temporary name is gone; the deferred clean-up finds nothing then.
	return syncDir(dir)
}

// followLinks returns the path behind the symlink at path, which need not exist.
func followLinks(path string) (string, error) {
	at := path
	for range maxLinks {
		info, err := os.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			return at, nil
		}
		if err != nil {
			return "", err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			return at, nil
		}
		next, err := os.Readlink(at)
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(next) {
			// Not Join: it would resolve ".." by text, not by directory.
			next = filepath.Dir(at) + string(filepath.Separator) + next
		}
		at = next
	}
	return "", &fs.PathError{Op: "write", Path: path, Err: errors.New("too many symbolic links")}
}
