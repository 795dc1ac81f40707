package beat

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/flagstead/flagstead/store"
)

// ControlPath returns the name of the control of the store at path.
func ControlPath(path string) string { return path + ".control" }

// ReadControl returns the control of the store at path, the zero one if it has
// none. One that cannot be read is an error that names the file, since it may be a
// freeze.
func ReadControl(path string) (c store.Control, err error) {
	name := ControlPath(path)
	text, err := readText(name)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return store.Control{}, fmt.Errorf("%s: no control: %w", name, err)
	}
	return c, nil
}

// WriteControl makes c the control of the store at path, durably. Readers find the
// old file or the new one. It has the permissions of the file like, or 0600 if that
// is missing.
//
// Only one WriteControl at a time may be at work on a path, in all processes, and
// no commit to the store.
func WriteControl(path, like string, c store.Control) error {
	if err := c.Check(); err != nil {
		return err
	}
	if c.At.IsZero() {
		c.At = time.Now()
	}
	c.At = c.At.UTC()
	text, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("%s: %w", ControlPath(path), err)
	}
	return replace(ControlPath(path), append(text, '\n'), modeOf(like), true)
}
