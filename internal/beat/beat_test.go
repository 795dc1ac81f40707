package beat

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flagstead/flagstead/store"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWriteMergesAndReadReturns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flags.db")
	if h, err := Read(path); h != (store.Heartbeat{}) || err != nil {
		t.Errorf("nothing there: %+v, %v", h, err)
	}
	now := time.Date(2026, 5, 1, 10, 0, 0, 123456789, time.FixedZone("", 7200))
	must(t, Write(path, path, store.Heartbeat{Confirmed: now.Add(-time.Second), Source: "ok", Writer: "a"}, now))
	h, err := Read(path)
	if err != nil || !h.Written.Equal(now) || !h.Confirmed.Equal(now.Add(-time.Second)) || h.Source != "ok" || h.Writer != "a" {
		t.Errorf("got %+v, %v", h, err)
	}
	// Another writer that knows less does not count while this one lives.
	must(t, Write(path, path, store.Heartbeat{Confirmed: now.Add(-time.Minute), Source: "interrupted", Writer: "b"}, now.Add(time.Second)))
	if again, err := Read(path); again != h || err != nil {
		t.Errorf("got %+v, %v, want %+v", again, err, h)
	}
	must(t, Write(path, path, store.Heartbeat{Source: "interrupted", Writer: "b"}, now.Add(store.HeartbeatLife)))
	if after, err := Read(path); after.Writer != "b" || !after.Confirmed.Equal(h.Confirmed) || err != nil {
		t.Errorf("after the first one's life: %+v, %v", after, err)
	}
}

func TestWhatIsNoHeartbeatIsReadAsAnErrorAndWrittenOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flags.db")
	now := time.Now()
	for _, text := range []string{"", "x", "[]", `{"written":"yesterday"}`, strings.Repeat(" ", maxSize) + "{}"} {
		must(t, os.WriteFile(Path(path), []byte(text), 0o600))
		if _, err := Read(path); err == nil || !strings.Contains(err.Error(), Path(path)) {
			t.Errorf("%.20q: %v", text, err)
		}
		must(t, Write(path, path, store.Heartbeat{Writer: "a"}, now))
		if h, err := Read(path); err != nil || h.Writer != "a" {
			t.Errorf("after %.20q: %+v, %v", text, h, err)
		}
	}
	must(t, os.Remove(Path(path)))
	must(t, os.Mkdir(Path(path), 0o700))
	if _, err := Read(path); err == nil || !strings.Contains(err.Error(), Path(path)) {
		t.Errorf("a directory: %v", err)
	}
	if err := Write(path, path, store.Heartbeat{}, now); err == nil {
		t.Error("wrote over a directory")
	}
	if err := Write(path, path, store.Heartbeat{Writer: strings.Repeat("x", maxSize)}, now); err == nil || !strings.Contains(err.Error(), Path(path)) {
		t.Errorf("a long name: %v", err)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(path), ".flags.db.heartbeat.tmp")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
}

func TestHeartbeatHasTheStoresPermissions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flags.db")
	for _, mode := range []fs.FileMode{0o600, 0o640, 0o644} {
		if mode != 0o600 {
			must(t, os.WriteFile(path, nil, 0o600))
			must(t, os.Chmod(path, mode))
		}
		must(t, Write(path, path, store.Heartbeat{}, time.Now()))
		if info, err := os.Stat(Path(path)); err != nil || info.Mode() != mode {
			t.Errorf("mode %v, %v, want %v", info.Mode(), err, mode)
		}
	}
}

// A reader finds every heartbeat whole, whatever a killed writer left.
func TestReadDuringWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flags.db")
	must(t, os.WriteFile(filepath.Join(filepath.Dir(path), ".flags.db.heartbeat.tmp"), []byte("half"), 0o600))
	must(t, Write(path, path, store.Heartbeat{Writer: "a"}, time.Now()))
	var writing sync.WaitGroup
	done := make(chan struct{})
	writing.Go(func() {
		defer close(done)
		for range 500 {
			if err := Write(path, path, store.Heartbeat{Writer: "a", Confirmed: time.Now()}, time.Now()); err != nil {
				t.Error(err)
			}
		}
	})
	defer writing.Wait()
	for {
		if h, err := Read(path); err != nil || h.Writer != "a" {
			t.Fatalf("%+v, %v", h, err)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}
