package flags

import (
	"bytes"
	"iter"
	"math/bits"
)

// A directory finds flags by key. It never changes; a changed one shares with it
// what is the same: the entries are in shards of a few dozen, and a change copies
// the shards that it touches.
type directory struct {
	shards []*shard // a power of two, or none
	n      int      // entries
}

// A shard holds the entries whose hashes end alike.
type shard struct {
	tags    [shardSlots]uint8 // some bits of the hash of the entry there; 0: nothing
	entries [shardSlots]*entry
}

const (
	shardSlots = 64
	shardFill  = 32 // entries of a shard on average at most
	shardMost  = 56
)

// tagOf returns the tag of a hash, and slotOf the slot at which the search for it begins.
func tagOf(hash uint64) uint8  { return uint8(hash>>50) | 1 }
func slotOf(hash uint64) uint8 { return uint8(hash >> 58) }

// find returns the entry with a key, or nil.
func (d *directory) find(key string) *entry { return d.get(key, hashOf(key)) }

// get is find for a key whose hash is known.
func (d *directory) get(key string, hash uint64) *entry {
	if len(d.shards) == 0 {
		return nil
	}
	sh := d.shards[hash&uint64(len(d.shards)-1)]
	tag := tagOf(hash)
	for at := slotOf(hash); ; at++ {
		switch sh.tags[at%shardSlots] {
		case 0:
			return nil
		case tag:
			if e := sh.entries[at%shardSlots]; e.key == key {
				return e
			}
		}
	}
}

// all iterates over the entries, in no particular order.
func (d *directory) all() iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for _, sh := range d.shards {
			for _, e := range sh.entries {
				if e != nil && !yield(e) {
					return
				}
			}
		}
	}
}

// An edition is a directory that is being made.
type edition struct {
	directory
	base []*shard // shards that belong to somebody else; nil: none
}

// newDirectory returns an empty one with room for n entries.
func newDirectory(n int) edition {
	size := 1
	if n > shardFill {
		size = 1 << bits.Len(uint((n-1)/shardFill))
	}
	ed := edition{directory: directory{shards: make([]*shard, size)}}
	for i := range ed.shards {
		ed.shards[i] = new(shard) // each by itself, so that one that is replaced is let go
	}
	return ed
}

// edit returns a copy to be changed.
func (d *directory) edit() edition {
	if len(d.shards) == 0 {
		return newDirectory(0)
	}
	return edition{directory{append([]*shard(nil), d.shards...), d.n}, d.shards}
}

// own returns the shard of a hash, as one that may be changed.
func (ed *edition) own(hash uint64) *shard {
	i := hash & uint64(len(ed.shards)-1)
	if ed.base != nil && ed.shards[i] == ed.base[i] {
		copied := *ed.shards[i]
		ed.shards[i] = &copied
	}
	return ed.shards[i]
}

// put adds e, or puts it in the place of the entry with its key.
func (ed *edition) put(e *entry) {
	hash := hashOf(e.key)
	sh := ed.own(hash)
	at := slotOf(hash)
	for ; sh.tags[at%shardSlots] != 0; at++ {
		if sh.entries[at%shardSlots].key == e.key {
			sh.entries[at%shardSlots] = e
			return
		}
	}
	if sh.len() == shardMost {
		ed.grow()
		ed.put(e)
		return
	}
	sh.tags[at%shardSlots], sh.entries[at%shardSlots] = tagOf(hash), e
	ed.n++
}

func (sh *shard) len() int {
	return shardSlots - bytes.Count(sh.tags[:], []byte{0})
}

// grow doubles the number of shards, with room for what is there.
func (ed *edition) grow() {
	larger := newDirectory(2 * len(ed.shards) * shardFill)
	for e := range ed.all() {
		larger.put(e)
	}
	*ed = larger
}
