//go:build unix

package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flagstead/flagstead/examples/dirstore"
	"github.com/flagstead/flagstead/store"
)

const spansProcesses = true

// newProcessHandle returns a sound handle on a directory, with a Watch that
// polls and heartbeats in a file.
func newProcessHandle(dir string, writes bool) *handle {
	s := dirstore.Open(dir)
	h := &handle{dir: dir, load: s.Load, apply: s.Apply}
	h.life, h.end = context.WithCancel(context.Background())
	h.close = func() error {
		h.end()
		return s.Close()
	}
	if !writes {
		h.apply = func(context.Context, store.Change) (store.Rev, error) { return "", store.ErrReadOnly }
	}
	h.watch = func(ctx context.Context, wake func()) error {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		seen := store.Rev("none")
		for {
			snap, err := s.Load(ctx, seen)
			if err != nil {
				return err
			}
			if snap.Rev != seen {
				seen = snap.Rev
				wake()
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-h.life.Done():
				return store.ErrClosed
			case <-tick.C:
			}
		}
	}
	h.readBeat = func(ctx context.Context) (b store.Heartbeat, err error) {
		data, err := os.ReadFile(filepath.Join(dir, "beat"))
		if errors.Is(err, fs.ErrNotExist) {
			return b, nil
		}
		return b, errors.Join(err, json.Unmarshal(data, &b))
	}
	h.writeBeat = func(ctx context.Context, b store.Heartbeat) error {
		old, err := h.readBeat(ctx)
		if err != nil {
			return err
		}
		b, _ = b.Merge(old, time.Now())
		data, err := json.Marshal(b)
		name := filepath.Join(dir, "beat")
		return errors.Join(err, os.WriteFile(name+".new", data, 0o600), os.Rename(name+".new", name))
	}
	return h
}

// openFaulty opens the handle of another process: place is a mode, the name of a
// fault and a directory.
func openFaulty(place string, write bool) (store.DataStore, error) {
	part := strings.SplitN(place, "|", 3)
	h := newProcessHandle(part[2], write || part[0] == "all write")
	h.child = true
	if i := slices.IndexFunc(processFaults, func(f fault) bool { return f.name == part[1] }); i >= 0 {
		processFaults[i].breaks(h)
	} else if part[1] != "" {
		return nil, fmt.Errorf("no fault %q", part[1])
	}
	return h, nil
}

// processOptions are like options, on a directory that other processes get at.
func (f fault) processOptions(t testing.TB, allWrite bool) Options {
	made := func(t testing.TB, dir string, writes bool) store.DataStore {
		h := newProcessHandle(dir, writes)
		t.Cleanup(h.end)
		if f.breaks != nil {
			f.breaks(h)
		}
		return h
	}
	mode := "one writes"
	if allWrite {
		mode = "all write"
	}
	return Options{
		Open: func(t testing.TB) store.DataStore { return made(t, t.TempDir(), true) },
		Reopen: func(t testing.TB, first store.DataStore) store.DataStore {
			return made(t, first.(*handle).dir, allWrite)
		},
		ReopenedWrites: allWrite,
		Flush: func(t testing.TB, s store.DataStore) {
			if err := os.Remove(filepath.Join(s.(*handle).dir, "state")); err != nil {
				t.Error(err)
			}
		},
		Place:    func(_ testing.TB, s store.DataStore) string { return mode + "|" + f.name + "|" + s.(*handle).dir },
		Patience: 3 * time.Second,
	}
}

// processFaults break handles in other processes, mostly.
var processFaults = []fault{{
	name: "a process sees what it saw first",
	breaks: func(h *handle) {
		if !h.child {
			return
		}
		var kept store.Snapshot
		load := h.load
		h.load = func(ctx context.Context, since store.Rev) (snap store.Snapshot, err error) {
			if kept.Rev == "" {
				kept, err = load(ctx, "")
			}
			return kept, err
		}
	},
	cases: []string{"process-sees-commits", "process-sees-a-flush"},
}, {
	name: "a process ignores a flush",
	breaks: func(h *handle) {
		if !h.child {
			return
		}
		var kept store.Snapshot
		h.loaded(func(since store.Rev, snap *store.Snapshot) {
			if snap.Rev == "" {
				*snap = kept
			} else if !snap.Delta {
				kept = *snap
			}
		})
	},
	cases: []string{"process-sees-a-flush"},
}, {
	name: "commits of a process are torn",
	breaks: func(h *handle) {
		if !h.child {
			return
		}
		apply := h.apply
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			half := c
			half.Items = c.Items[:len(c.Items)/2]
			if _, err := apply(ctx, half); err != nil {
				return "", err
			}
			waitUpTo(5*time.Millisecond, func() bool { return false })
			c.Base = ""
			return apply(ctx, c)
		}
	},
	cases: []string{"processes-show-commits-in-order", "writer-is-killed"},
}, {
	name: "a process compares a Base before it takes the lock",
	breaks: func(h *handle) {
		apply := h.apply
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			if snap, err := h.load(ctx, ""); err == nil && c.Base != "" && !c.Conflicts(snap.Rev) {
				waitUpTo(3*time.Millisecond, func() bool { return false })
				c.Base = ""
			}
			return apply(ctx, c)
		}
	},
	cases: []string{"processes-lose-no-update"},
}, {
	name: "a process acknowledges before it writes",
	breaks: func(h *handle) {
		if !h.child {
			return
		}
		apply := h.apply
		later := make(chan store.Change, 1000)
		go func() {
			for c := range later {
				waitUpTo(5*time.Millisecond, func() bool { return false })
				apply(context.Background(), c)
			}
		}()
		h.apply = func(_ context.Context, c store.Change) (store.Rev, error) {
			later <- c
			return "soon", nil
		}
	},
	cases: []string{"writer-is-killed"},
}, {
	name: "a killed writer leaves its lock",
	breaks: func(h *handle) {
		apply := h.apply
		h.apply = func(ctx context.Context, c store.Change) (store.Rev, error) {
			name := filepath.Join(h.dir, "taken")
			f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return "", err
			}
			defer os.Remove(name)
			defer f.Close()
			waitUpTo(3*time.Millisecond, func() bool { return false })
			return apply(ctx, c)
		}
	},
	cases: []string{"writer-is-killed"},
}, {
	name: "Watch wakes for its own process only",
	breaks: func(h *handle) {
		watch := h.watch
		h.watch = func(ctx context.Context, wake func()) error {
			if !h.child {
				return watch(ctx, wake)
			}
			wake()
			<-ctx.Done()
			return ctx.Err()
		}
	},
	cases: []string{"process-is-woken"},
}, {
	name: "heartbeats stay in their process",
	breaks: func(h *handle) {
		if h.child {
			h.readBeat = func(context.Context) (store.Heartbeat, error) { return store.Heartbeat{}, nil }
		}
	},
	cases: []string{"process-reads-heartbeats"},
}}
