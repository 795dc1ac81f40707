package spool

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestFullDiskKeepsNoSegments: an attempt that fails leaves neither a segment nor an
// open file behind.
func TestFullDiskKeepsNoSegments(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	one := []json.RawMessage{json.RawMessage(`{}`)}
	if err := s.Append(t.Context(), "env", one); err != nil {
		t.Fatal(err)
	}
	const attempts = 30
	for n := uint64(2); n < attempts+10; n++ {
		if err := os.Symlink("/dev/full", filepath.Join(dir, "env", segmentName(n))); err != nil {
			t.Fatal(err)
		}
	}
	s.mu.Lock()
	s.queues["env"].writing = nil // the next segment is one that nothing fits into
	s.mu.Unlock()
	for range attempts {
		if err := s.Append(t.Context(), "env", one); !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.queues["env"].segs); n != 1 {
		t.Errorf("%d segments, want the one that has something", n)
	}
}
