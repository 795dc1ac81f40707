package file_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/file"
	"github.com/flagstead/flagstead/store/storetest"
)

func open(t testing.TB, path string, o *file.Options) *file.Store {
	t.Helper()
	s, err := file.Open(path, o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// places remembers which handle is on which file.
type places struct {
	mu    sync.Mutex
	paths map[store.DataStore]string
}

func (p *places) open(t testing.TB) store.DataStore {
	return p.on(t, filepath.Join(t.TempDir(), "flags.json"), nil)
}

func (p *places) on(t testing.TB, path string, o *file.Options) store.DataStore {
	t.Helper()
	s, err := file.Open(path, o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.paths == nil {
		p.paths = map[store.DataStore]string{}
	}
	p.paths[s] = path
	return s
}

func (p *places) of(s store.DataStore) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.paths[s]
}

func (p *places) remove(t testing.TB, s store.DataStore) {
	if err := os.Remove(p.of(s)); err != nil {
		t.Errorf("flush: %v", err)
	}
}

func (p *places) place(_ testing.TB, s store.DataStore) string { return p.of(s) }

// spoils are ways to damage the file, by rename or in place.
func (p *places) spoils() map[string]func(testing.TB, store.DataStore) {
	return map[string]func(testing.TB, store.DataStore){
		"cut": func(t testing.TB, s store.DataStore) {
			data, err := os.ReadFile(p.of(s))
			if err != nil {
				t.Fatal(err)
			}
			replace(t, p.of(s), data[:len(data)/2])
		},
		"emptied": func(t testing.TB, s store.DataStore) { replace(t, p.of(s), nil) },
		"foreign": func(t testing.TB, s store.DataStore) { replace(t, p.of(s), []byte("[1, 2, 3]\n")) },
		"garbage, in place": func(t testing.TB, s store.DataStore) {
			write(t, p.of(s), []byte("\x00\xffgarbage"))
		},
	}
}

// down puts a file in the place of the file's directory.
func (p *places) down(t testing.TB, s store.DataStore) func() {
	dir := filepath.Dir(p.of(s))
	rename(t, dir, dir+".away")
	write(t, dir, nil)
	return func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
		rename(t, dir+".away", dir)
	}
}

func TestTwoWritersKeepTheContract(t *testing.T) {
	var p places
	storetest.Run(t, storetest.Options{
		Open: p.open,
		Reopen: func(t testing.TB, first store.DataStore) store.DataStore {
			return p.on(t, p.of(first), nil)
		},
		ReopenedWrites: true,
		Flush:          p.remove,
		Place:          p.place,
		Break:          p.down,
		Spoil:          p.spoils(),
	})
}

// aReader takes a missing file for an empty store, as a writer does. That it is
// an error instead is the one thing in which readers differ. A missing directory is
// none: it is on its way to being down, or up again.
type aReader struct {
	*file.Store
	dir string
}

func (r aReader) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	snap, err := r.Store.Load(ctx, since)
	if errors.Is(err, fs.ErrNotExist) {
		if _, gone := os.Stat(r.dir); gone == nil {
			return store.Snapshot{}, nil
		}
	}
	return snap, err
}

func TestWriterAndReaderKeepTheContract(t *testing.T) {
	var p places
	storetest.Run(t, storetest.Options{
		Open: p.open,
		Reopen: func(t testing.TB, first store.DataStore) store.DataStore {
			path := p.of(first)
			return aReader{p.on(t, path, &file.Options{ReadOnly: true}).(*file.Store), filepath.Dir(path)}
		},
		Flush: p.remove,
		Place: p.place,
		Break: p.down,
		Spoil: p.spoils(),
	})
}
