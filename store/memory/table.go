package memory

import (
	"hash/maphash"

	"github.com/flagstead/flagstead/store"
)

// A table holds items by their IDs, in less memory than a map does. The zero table is
// empty. Nothing is ever taken out of one.
type table struct {
	entries []entry
	slots   []uint32 // numbers of entries plus one, or 0; a power of two, at most two thirds full
}

type entry struct {
	item store.Item
	seq  int64 // commit that wrote it
}

// newTable returns an empty table with room for n items.
func newTable(n int) table {
	t := table{entries: make([]entry, 0, n)}
	t.spread(n)
	return t
}

// spread makes slots for n entries.
func (t *table) spread(n int) {
	size := 8
	for 2*size < 3*n {
		size *= 2
	}
	t.slots = make([]uint32, size)
	for i := range t.entries {
		*t.slot(t.entries[i].item.ID()) = uint32(i + 1)
	}
}

// slot returns the slot of an ID: of its entry, or, if there is none, an empty one.
func (t *table) slot(id store.ID) *uint32 {
	mask := uint64(len(t.slots) - 1)
	for at := maphash.String(seed, id.Key) + uint64(id.Kind); ; at++ {
		slot := &t.slots[at&mask]
		if *slot == 0 || t.entries[*slot-1].item.ID() == id {
			return slot
		}
	}
}

var seed = maphash.MakeSeed()

// find returns the entry of an ID, or nil. It is good until the next put.
func (t *table) find(id store.ID) *entry {
	if len(t.slots) == 0 {
		return nil
	}
	if n := *t.slot(id); n > 0 {
		return &t.entries[n-1]
	}
	return nil
}

// put adds an item, or puts it in the place of the one with its ID.
func (t *table) put(it store.Item, seq int64) {
	e := entry{it, seq}
	if had := t.find(it.ID()); had != nil {
		*had = e
		return
	}
	t.entries = append(t.entries, e)
	if 3*len(t.entries) > 2*len(t.slots) {
		t.spread(2 * len(t.entries))
		return
	}
	*t.slot(it.ID()) = uint32(len(t.entries))
}
