package file_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/file"
)

func heartbeat(t testing.TB, s store.HeartbeatReader) store.Heartbeat {
	t.Helper()
	h, err := s.ReadHeartbeat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHeartbeatIsNoChange(t *testing.T) {
	dir := t.TempDir()
	mkdir(t, filepath.Join(dir, "real"))
	symlink(t, filepath.Join("real", "a.json"), fileIn(dir))
	w, r := open(t, fileIn(dir), nil), open(t, filepath.Join(dir, "real", "a.json"), &file.Options{ReadOnly: true})
	if h := heartbeat(t, r); h != (store.Heartbeat{}) {
		t.Errorf("a file that nobody writes has the heartbeat %+v", h)
	}
	rev := apply(t, w, store.Change{Full: true, Items: []store.Item{flag("a", 1)}})
	woken := make(chan struct{}, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Watch(ctx, func() { woken <- struct{}{} }) }()
	defer func() { cancel(); <-done }()
	for quiet := false; !quiet; { // until the file has settled
		select {
		case <-woken:
		case <-time.After(500 * time.Millisecond):
			quiet = true
		}
	}
	var last time.Time
	for range 5 {
		last = time.Now()
		if err := w.WriteHeartbeat(t.Context(), store.Heartbeat{Confirmed: last, Source: "ok", Writer: "me"}); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-woken:
		t.Error("a heartbeat wakes readers")
	case <-time.After(500 * time.Millisecond):
	}
	if h := heartbeat(t, r); !h.Confirmed.Equal(last) || h.Source != "ok" || h.Writer != "me" || h.Written.Before(last) {
		t.Errorf("heartbeat %+v, want one of %v", h, last)
	}
	if snap, err := r.Load(t.Context(), rev); err != nil || !snap.Delta || snap.Rev != rev {
		t.Errorf("Load = %+v, %v, want an empty Delta", snap, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "real", "a.json.heartbeat"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadHeartbeat(t.Context()); err == nil || !strings.Contains(err.Error(), "a.json.heartbeat") {
		t.Errorf("a malformed heartbeat: %v", err)
	}
}

func TestHeartbeatErrors(t *testing.T) {
	path := fileIn(t.TempDir())
	w, r := open(t, path, nil), open(t, path, &file.Options{ReadOnly: true})
	if err := r.WriteHeartbeat(t.Context(), store.Heartbeat{}); !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("a reader writes: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := w.ReadHeartbeat(ended)
	if err2 := w.WriteHeartbeat(ended, store.Heartbeat{}); !errors.Is(err, context.Canceled) || !errors.Is(err2, context.Canceled) {
		t.Errorf("with a context that ended: %v, %v", err, err2)
	}
	w.Close()
	_, err = w.ReadHeartbeat(t.Context())
	if err2 := w.WriteHeartbeat(t.Context(), store.Heartbeat{}); !errors.Is(err, store.ErrClosed) || !errors.Is(err2, store.ErrClosed) {
		t.Errorf("after Close: %v, %v", err, err2)
	}
	if h := heartbeat(t, open(t, fileIn(filepath.Join(path, "none", "none")), nil)); h != (store.Heartbeat{}) {
		t.Errorf("without a directory: %+v", h)
	}
}

// Writers in several processes agree on the newest confirmation.
func TestHeartbeatsOfProcesses(t *testing.T) {
	path := fileIn(t.TempDir())
	apply(t, open(t, path, nil), store.Change{Full: true})
	a, b := child(t, t.Context(), "heartbeats a "+path), child(t, t.Context(), "heartbeats b "+path)
	if err := errors.Join(a.Start(), b.Start()); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- errors.Join(a.Wait(), b.Wait()) }()
	r := open(t, path, &file.Options{ReadOnly: true})
	var last store.Heartbeat
	writers := map[string]bool{}
	for {
		h := heartbeat(t, r)
		if h.Confirmed.Before(last.Confirmed) {
			t.Fatalf("%+v came after %+v", h, last)
		}
		last = h
		writers[h.Writer] = true
		select {
		case err := <-ended:
			if err != nil || !writers["a"] || !writers["b"] {
				t.Errorf("%v, heartbeats of %v", err, writers)
			}
			return
		default:
		}
	}
}

// writeHeartbeats is a writer process that confirms again and again.
func writeHeartbeats(t *testing.T, who, path string) {
	s := open(t, path, nil)
	for range 300 {
		if err := s.WriteHeartbeat(t.Context(), store.Heartbeat{Confirmed: time.Now(), Source: "ok", Writer: who}); err != nil {
			t.Fatal(err)
		}
	}
}
