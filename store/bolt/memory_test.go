package bolt

import (
	"bytes"
	"runtime"
	"strconv"
	"testing"

	"github.com/flagstead/flagstead/store"
)

// TestFilesAreLetGo: a reader's caller may keep some items of each state, as those do who
// keep what is equal to what they have, without keeping the files that they came from.
func TestFilesAreLetGo(t *testing.T) {
	const n, size, states = 200, 10 << 10, 40
	path := newPath(t)
	w, r := openAt(t, path, nil), openAt(t, path, &Options{ReadOnly: true})
	items := make([]store.Item, n)
	for i := range items {
		items[i] = item("key-"+strconv.Itoa(i), 1)
		items[i].Data = append(items[i].Data, bytes.Repeat([]byte(" "), size)...)
	}
	kept := map[store.ID]store.Item{}
	load := func() (heap uint64) {
		snap, err := r.Load(t.Context(), "")
		if err != nil || len(snap.Items) != n {
			t.Fatalf("%d items, %v", len(snap.Items), err)
		}
		for _, it := range snap.Items {
			if old, ok := kept[it.ID()]; !ok || !sameContent(old, it) {
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
		items[i].Version++
		if _, err := w.Apply(t.Context(), store.Change{Full: true, Items: items}); err != nil {
			t.Fatal(err)
		}
		if last = load(); i == 0 {
			first = last
		}
	}
	for _, it := range items {
		if got := kept[it.ID()]; !sameContent(got, it) {
			t.Fatalf("%s is of version %d, want %d", it.Key, got.Version, it.Version)
		}
	}
	t.Logf("%d KB with the first state, %d KB with the last", first>>10, last>>10)
	if last > first+2*n*size {
		t.Errorf("the heap grew from %d to %d bytes, with states of %d", first, last, n*size)
	}
}
