package file

import (
	"bytes"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/flagstead/flagstead/store"
)

// TestFilesAreLetGo: a reader's caller may keep some items of each state, as those do who
// keep what is equal to what they have, without keeping the files that they came from.
func TestFilesAreLetGo(t *testing.T) {
	const n, size, states = 200, 10 << 10, 40
	path := filepath.Join(t.TempDir(), "flags.json")
	w, err := Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r, err := Open(path, &Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	version := func(i int, at int64) store.Item {
		return store.Item{Kind: store.Flag, Key: fmt.Sprint("key-", i), Version: at, Data: fmt.Appendf(nil, `{"key":"key-%d","updatedAt":%q,"text":"%s"}`,
			i, time.UnixMilli(at).UTC().Format("2006-01-02T15:04:05.000Z"), bytes.Repeat([]byte("x"), size))}
	}
	const at = 1_700_000_000_000
	items := make([]store.Item, n)
	for i := range items {
		items[i] = version(i, at)
	}
	kept := map[store.ID]store.Item{}
	load := func() (heap uint64) {
		snap, err := r.Load(t.Context(), "")
		if err != nil || len(snap.Items) != n {
			t.Fatalf("%d items, %v", len(snap.Items), err)
		}
		for _, it := range snap.Items {
			if old, ok := kept[it.ID()]; !ok || !same(old, it) {
				kept[it.ID()] = it
			}
		}
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var first, last uint64
	for i := range states {
		items[i] = version(i, at+1)
		if _, err := w.Apply(t.Context(), store.Change{Full: true, Items: items}); err != nil {
			t.Fatal(err)
		}
		if last = load(); i == 0 {
			first = last
		}
	}
	for _, it := range items {
		if got := kept[it.ID()]; !same(got, it) {
			t.Fatalf("%s is of version %d, want %d", it.Key, got.Version, it.Version)
		}
	}
	t.Logf("%d KB with the first state, %d KB with the last", first>>10, last>>10)
	if last > first+2*n*size {
		t.Errorf("the heap grew from %d to %d bytes, with states of %d", first, last, n*size)
	}
}
