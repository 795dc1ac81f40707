//go:build linux || darwin

package fswatch

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// TryLock takes an exclusive lock on the file at path, creating it with mode
// 0600 if it is missing, or returns an error that wraps ErrLocked if somebody
// else holds it. The lock ends with unlock or with the process. Two locks in
// one process exclude each other like those of two processes.
func TryLock(path string) (unlock func(), err error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := flock(f); err != nil {
			f.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				err = ErrLocked
			}
			return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
		}
		// Somebody may have removed the file between open and lock; a lock on a
		// nameless file excludes nobody.
		if held, err := f.Stat(); err == nil {
			if named, err := os.Stat(path); err == nil && os.SameFile(held, named) {
				return func() { release(f) }, nil
			}
		}
		f.Close()
	}
}

func flock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err != syscall.EINTR {
			return err
		}
	}
}

// release unlocks and closes f. Closing alone would leave the lock to a child
// process that was forked a moment ago and has not yet become its program.
func release(f *os.File) {
	_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	f.Close()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	// Some file systems cannot sync directories and need not.
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOTSUP) {
		return err
	}
	return nil
}
