package bolt

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/flagstead/flagstead/store"
)

func TestHeartbeat(t *testing.T) {
	path := newPath(t)
	w, r := openAt(t, path, nil), openAt(t, path, readOnly())
	for _, s := range []*Store{w, r} {
		if h, err := s.ReadHeartbeat(t.Context()); err != nil || h != (store.Heartbeat{}) {
			t.Errorf("nothing written: %+v, %v", h, err)
		}
	}
	rev := apply(t, w, store.Change{Full: true, Items: []store.Item{item("a", 1)}})
	if err := os.Chmod(path+".snap", 0o640); err != nil {
		t.Fatal(err)
	}
	load(t, w, "") // the writer may publish again, since somebody touched the file
	woken := make(chan struct{}, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Watch(ctx, func() { woken <- struct{}{} }) }()
	defer func() { cancel(); <-done }()
	for quiet := false; !quiet; {
		select {
		case <-woken:
		case <-time.After(500 * time.Millisecond):
			quiet = true
		}
	}
	now := time.Now()
	if err := w.WriteHeartbeat(t.Context(), store.Heartbeat{Confirmed: now, Source: "ok", Writer: "me"}); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{w, r} {
		if h, err := s.ReadHeartbeat(t.Context()); err != nil || !h.Confirmed.Equal(now) || h.Writer != "me" || h.Written.Before(now) {
			t.Errorf("%+v, %v", h, err)
		}
	}
	select {
	case <-woken:
		t.Error("a heartbeat wakes readers")
	case <-time.After(500 * time.Millisecond):
	}
	if got := load(t, r, rev); got.Rev != rev || !got.Delta {
		t.Errorf("after a heartbeat: %+v", got)
	}
	if info, err := os.Stat(path + ".heartbeat"); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := r.WriteHeartbeat(t.Context(), store.Heartbeat{}); !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("a reader writes: %v", err)
	}
	write(t, path+".heartbeat", []byte("{"))
	if _, err := r.ReadHeartbeat(t.Context()); err == nil || !strings.Contains(err.Error(), path+".heartbeat") {
		t.Errorf("a malformed heartbeat: %v", err)
	}
	if err := w.WriteHeartbeat(t.Context(), store.Heartbeat{Writer: "me"}); err != nil {
		t.Errorf("over a malformed one: %v", err)
	}
	for _, s := range []*Store{w, r} {
		s.Close()
		_, err := s.ReadHeartbeat(t.Context())
		if err2 := s.WriteHeartbeat(t.Context(), store.Heartbeat{}); !errors.Is(err, store.ErrClosed) || !errors.Is(err2, store.ErrClosed) {
			t.Errorf("after Close: %v, %v", err, err2)
		}
	}
}

// What a writer process said last can be read when it is dead, also by the next
// writer.
func TestHeartbeatOfAnotherProcess(t *testing.T) {
	path := newPath(t)
	p := start(t, beatingEnv+"="+path)
	defer p.wait()
	defer p.kill()
	r := openAt(t, path, readOnly())
	for range 3 {
		text := p.next(t, "confirmed")
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			t.Fatal(err)
		}
		if h, err := r.ReadHeartbeat(t.Context()); err != nil || h.Confirmed.Before(at) || h.Writer != "child" {
			t.Errorf("%+v, %v, confirmed %v", h, err, at)
		}
	}
	p.kill()
	p.wait()
	before, err := r.ReadHeartbeat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := openAt(t, path, &Options{LockTimeout: patience})
	if err := w.WriteHeartbeat(t.Context(), store.Heartbeat{Source: "initializing", Writer: "next"}); err != nil {
		t.Fatal(err)
	}
	if h, err := w.ReadHeartbeat(t.Context()); err != nil || !h.Confirmed.Equal(before.Confirmed) {
		t.Errorf("%+v, %v, before %+v", h, err, before)
	}
}

// writeHeartbeats is a writer process that confirms again and again.
func writeHeartbeats(path string) error {
	s, err := Open(path, nil)
	if err != nil {
		return err
	}
	for {
		now := time.Now()
		if err := s.WriteHeartbeat(context.Background(), store.Heartbeat{Confirmed: now, Source: "ok", Writer: "child"}); err != nil {
			return err
		}
		os.Stdout.WriteString("confirmed " + now.Format(time.RFC3339Nano) + "\n")
	}
}
