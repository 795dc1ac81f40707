// Package beat keeps a store's heartbeat, and its control, in small JSON files
// beside it.
package beat

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/flagstead/flagstead/store"
)

// maxSize is what a file has at most. A heartbeat has some 200 bytes.
const maxSize = 16 << 10

// Path returns the name of the heartbeat of the store at path.
func Path(path string) string { return path + ".heartbeat" }

// Read returns the heartbeat of the store at path, the zero one if it has none. An
// error names the file.
func Read(path string) (store.Heartbeat, error) {
	h, err := read(Path(path))
	if errors.Is(err, fs.ErrNotExist) {
		return store.Heartbeat{}, nil
	}
	return h, err
}

func read(name string) (h store.Heartbeat, err error) {
	text, err := readText(name)
	if err != nil {
		return h, err
	}
	if err := json.Unmarshal(text, &h); err != nil {
		return store.Heartbeat{}, fmt.Errorf("%s: no heartbeat: %w", name, err)
	}
	return h, nil
}

func readText(name string) ([]byte, error) {
	// Opening a FIFO would block, hence the look before the open.
	if info, err := os.Stat(name); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(text) > maxSize {
		err = fmt.Errorf("%s: larger than the limit of %d bytes", name, maxSize)
	}
	return text, err
}

// Write merges h, at now, into the heartbeat of the store at path and writes the
// result if that is anything new. One that cannot be read counts as none. Readers
// find the old file or the new one; after a crash there may be neither. The file
// gets the permissions of the file like, or 0600 if that is missing.
//
// Only one Write at a time may be at work on a path, in all processes.
func Write(path, like string, h store.Heartbeat, now time.Time) error {
	name := Path(path)
	old, err := read(name)
	if err != nil {
		old = store.Heartbeat{}
	}
	next, changed := h.Merge(old, now)
	if !changed {
		return nil
	}
	next.Confirmed, next.Written = next.Confirmed.UTC(), next.Written.UTC()
	text, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if len(text) >= maxSize {
		return fmt.Errorf("%s: a heartbeat of %d bytes, the limit is %d", name, len(text), maxSize)
	}
	return replace(name, append(text, '\n'), modeOf(like), false)
}

func modeOf(like string) fs.FileMode {
	if info, err := os.Stat(like); err == nil {
		return info.Mode().Perm()
	}
	return 0o600
}

// replace renames a new file over name, which has to survive a crash if durable.
func replace(name string, text []byte, mode fs.FileMode, durable bool) (err error) {
	// One name for all, so that a killed writer leaves one file at most.
	tmp := filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+".tmp")
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
	if durable {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}
