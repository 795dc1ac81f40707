package memory

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/flagstead/flagstead/store"
)

// TestTable: a table holds what a map would, flags and segments of one key apart.
func TestTable(t *testing.T) {
	for _, room := range []int{0, 1, 500, 5000} {
		tab, want := newTable(room), map[store.ID]entry{}
		for i := range 6000 {
			it := store.Item{Kind: store.Kind(1 + rand.IntN(2)), Key: fmt.Sprint("key-", rand.IntN(2000)), Version: int64(i)}
			tab.put(it, int64(i))
			want[it.ID()] = entry{it, int64(i)}
		}
		if len(tab.entries) != len(want) {
			t.Fatalf("%d entries, want %d", len(tab.entries), len(want))
		}
		for id, e := range want {
			if got := tab.find(id); got == nil || got.item.Version != e.item.Version || got.item.ID() != id || got.seq != e.seq {
				t.Fatalf("%v is %v, want %v", id, got, e)
			}
		}
		if got := tab.find(store.ID{Kind: store.Flag, Key: "nobody"}); got != nil {
			t.Errorf("found %v", got)
		}
	}
	var empty table
	if empty.find(store.ID{Kind: store.Flag, Key: "a"}) != nil {
		t.Error("an empty table has something")
	}
	empty.put(store.Item{Kind: store.Flag, Key: "a"}, 1)
	if empty.find(store.ID{Kind: store.Flag, Key: "a"}) == nil {
		t.Error("what was put is not there")
	}
}
