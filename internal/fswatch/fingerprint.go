// Package fswatch reads, replaces, locks and watches single files in a way that
// survives the manners of all kinds of writers: rename-over, truncate and
// write, delete and recreate, and directories or symlinks swapped underneath.
package fswatch

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// SettleTime is how long a file that is written in place must have been left
// alone before its content is taken to be whole.
const SettleTime = 150 * time.Millisecond

// ErrMoving says that a file kept changing while it was read.
var ErrMoving = errors.New("fswatch: file keeps changing while it is read")

// A Fingerprint identifies one state of one file as far as stat can tell. Two
// equal fingerprints mean the same content, unless somebody wrote twice within
// one tick of the file system's clock. The zero Fingerprint stands for no file.
type Fingerprint struct {
	Device, Inode uint64
	Size          int64
	Modified      int64 // mtime, in nanoseconds since the Unix epoch
	Changed       int64 // ctime, likewise
}

// ModTime returns when the content was last written.
func (f Fingerprint) ModTime() time.Time { return time.Unix(0, f.Modified) }

// Age returns how long ago the content was last written.
func (f Fingerprint) Age() time.Duration { return time.Since(f.ModTime()) }

// SameFile reports whether f and g are states of one inode.
func (f Fingerprint) SameFile(g Fingerprint) bool {
	return f.Device == g.Device && f.Inode == g.Inode && f.Inode != 0
}

// Settled reports whether nobody has written to the file for SettleTime. A time
// further in the future than that comes from another clock and says nothing, so
// it counts as settled.
func (f Fingerprint) Settled() bool {
	age := f.Age()
	return age >= SettleTime || age <= -SettleTime
}

// Of returns the fingerprint of the file that info is of.
func Of(info os.FileInfo) Fingerprint { return fingerprintOf(info) }

// Stat returns the fingerprint of the file at path, following symlinks.
func Stat(path string) (Fingerprint, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Fingerprint{}, err
	}
	return fingerprintOf(info), nil
}

// readAttempts bounds how often ReadFile starts over.
const readAttempts = 4

// errReplaced says that another file took the place of the one that was read,
// which itself stayed as it was.
var errReplaced = fmt.Errorf("%w: replaced", ErrMoving)

// ReadFile returns the content of the regular file at path and the fingerprint
// that belongs to it. It starts over if the file changed or was replaced
// meanwhile. If it is written to all the time ReadFile gives up with an error
// that wraps ErrMoving; if it is replaced all the time, faster than it can be
// read, the last one that was read whole has to do. Content longer than limit
// bytes is an error; a limit of zero or less means none.
func ReadFile(path string, limit int64) ([]byte, Fingerprint, error) {
	for attempt := 1; ; attempt++ {
		data, fp, err := readOnce(path, limit)
		switch {
		case !errors.Is(err, ErrMoving):
			return data, fp, err
		case attempt < readAttempts:
		case errors.Is(err, errReplaced):
			return data, fp, nil
		default:
			return nil, Fingerprint{}, fmt.Errorf("%s: %w", path, err)
		}
	}
}

func readOnce(path string, limit int64) ([]byte, Fingerprint, error) {
	// Opening a FIFO would block, hence the look before the open.
	if info, err := os.Stat(path); err != nil {
		return nil, Fingerprint{}, err
	} else if !info.Mode().IsRegular() {
		return nil, Fingerprint{}, &fs.PathError{Op: "read", Path: path, Err: errors.New("not a regular file")}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, Fingerprint{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, Fingerprint{}, err
	}
	before := fingerprintOf(info)
	if limit > 0 && before.Size > limit {
		return nil, before, tooLarge(path, limit)
	}
	data, err := readAll(f, before.Size, limit)
	if err != nil {
		return nil, before, err
	}
	if limit > 0 && int64(len(data)) > limit {
		return nil, before, tooLarge(path, limit)
	}
	if info, err = f.Stat(); err != nil {
		return nil, before, err
	}
	after := fingerprintOf(info)
	now, err := Stat(path)
	switch {
	case err == nil && now == before && after == before:
		return data, before, nil
	case err == nil && !now.SameFile(before) && after.writtenLike(before):
		return data, before, errReplaced
	}
	return nil, before, ErrMoving // also if it vanished: the next attempt says so
}

// writtenLike reports whether f and g are states of one file between which
// nobody wrote to it. It leaves out the ctime, which changes when a file loses
// its name.
func (f Fingerprint) writtenLike(g Fingerprint) bool {
	f.Changed = g.Changed
	return f == g && f.Inode != 0
}

func readAll(f *os.File, size, limit int64) ([]byte, error) {
	var r io.Reader = f
	if limit > 0 {
		r = io.LimitReader(f, limit+1)
	}
	data := make([]byte, 0, size+1)
	for {
		n, err := r.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if err == io.EOF {
			return data, nil
		}
		if err != nil {
			return nil, err
		}
		if len(data) == cap(data) {
			data = append(data, 0)[:len(data)]
		}
	}
}

func tooLarge(path string, limit int64) error {
	return &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("file is larger than the limit of %d bytes", limit)}
}
