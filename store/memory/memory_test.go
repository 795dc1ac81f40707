package memory_test

import (
	"fmt"
	"testing"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
)

// TestDeltaBehindTheLog: a reader that is further behind than the log of
// changes reaches still gets exactly what it lacks.
func TestDeltaBehindTheLog(t *testing.T) {
	s := memory.New()
	defer s.Close()
	put := func(key string, version int64) store.Rev {
		rev, err := s.Apply(t.Context(), store.Change{Items: []store.Item{{Kind: store.Flag, Key: key, Version: version}}})
		if err != nil {
			t.Fatal(err)
		}
		return rev
	}
	put("old", 1)
	since := put("a", 1)
	for i := range 10_000 {
		put(fmt.Sprintf("k%d", i%300), int64(i+1))
	}
	snap, err := s.Load(t.Context(), since)
	if err != nil {
		t.Fatal(err)
	}
	if !snap.Delta || len(snap.Items) != 300 {
		t.Errorf("Load = delta %t with %d items, want a delta with 300", snap.Delta, len(snap.Items))
	}
	near := snap.Rev
	put("b", 1)
	put("b", 2)
	snap, err = s.Load(t.Context(), near)
	if err != nil || !snap.Delta || len(snap.Items) != 1 || snap.Items[0].Version != 2 {
		t.Errorf("Load = %+v, %v, want the last b alone", snap, err)
	}
}
