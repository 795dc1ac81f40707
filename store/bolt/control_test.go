package bolt

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flagstead/flagstead/internal/beat"
	"github.com/flagstead/flagstead/store"
)

// TestUnreadableControl: it may be a freeze, so nothing is committed, and the error
// says which file to look at.
func TestUnreadableControl(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flags.db")
	s, err := Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := os.WriteFile(beat.ControlPath(path), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	change := store.Change{Full: true, Items: []store.Item{{Kind: store.Flag, Key: "a", Version: 1}}}
	if rev, err := s.Apply(t.Context(), change); err == nil || errors.Is(err, store.ErrFrozen) || !strings.Contains(err.Error(), beat.ControlPath(path)) {
		t.Errorf("%q, %v", rev, err)
	}
	change.Override = true
	if _, err := s.Apply(t.Context(), change); err != nil {
		t.Error(err)
	}
	// A reader's handle mends it, while the writer is at work.
	r, err := Open(path, &Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.WriteControl(t.Context(), store.Control{Frozen: true, Reason: "why"}); err != nil {
		t.Fatal(err)
	}
	change.Override = false
	if _, err := s.Apply(t.Context(), change); !errors.Is(err, store.ErrFrozen) {
		t.Errorf("error %v", err)
	}
	if c, err := s.ReadControl(t.Context()); err != nil || c.Reason != "why" {
		t.Errorf("%+v, %v", c, err)
	}
}
