package flags

import (
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
	slots [shardSlots]slot
	n     int
}

type slot struct {
	hash uint64
	e    *entry // nil: nothing
}

const (
	shardSlots = 64
	shardFill  = 32 // entries of a shard on average at most
	shardMost  = 56
)

// find returns the entry with a key, or nil.
func (d *directory) find(key string) *entry { return d.get(key, hashOf(key)) }

// get is find for a key whose hash is known.
func (d *directory) get(key string, hash uint64) *entry {
	if len(d.shards) == 0 {
		return nil
	}
	sh := d.shards[hash&uint64(len(d.shards)-1)]
	for at := hash >> 58; ; at++ {
		s := &sh.slots[at%shardSlots]
		if s.e == nil || s.hash == hash && s.e.src.Key == key {
			return s.e
		}
	}
}

// all iterates over the entries, in no particular order.
func (d *directory) all() iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for _, sh := range d.shards {
			for i := range sh.slots {
				if e := sh.slots[i].e; e != nil && !yield(e) {
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
	sh := ed.own(e.hash)
	at := e.hash >> 58
	for ; ; at++ {
		s := &sh.slots[at%shardSlots]
		if s.e == nil {
			break
		}
		if s.hash == e.hash && s.e.src.Key == e.src.Key {
			s.e = e
			return
		}
	}
	if sh.n == shardMost {
		ed.grow()
		ed.put(e)
		return
	}
	sh.slots[at%shardSlots] = slot{e.hash, e}
	sh.n++
	ed.n++
}

// grow doubles the number of shards, with room for what is there.
func (ed *edition) grow() {
	larger := newDirectory(2 * len(ed.shards) * shardFill)
	for e := range ed.all() {
		larger.put(e)
	}
	*ed = larger
}
