package flags

// An index finds texts in a list that never changes. It does what a map does with
// less work: nothing is ever inserted, and the hash of a user's key is there already.
type index struct {
	texts []string
	slots []indexSlot // a power of two, at most two thirds full; none for a few texts
}

type indexSlot struct {
	hash uint32 // the upper half
	at   uint32 // in texts, plus one; 0: nothing
}

// fewTexts is up to how many texts a scan is not slower.
const fewTexts = 6

// indexOf returns an index of list, which it keeps. Of equal texts the first is found.
func indexOf(list []string) index {
	x := index{texts: list}
	if len(list) <= fewTexts {
		return x
	}
	size := 8
	for 2*size < 3*len(list) {
		size *= 2
	}
	x.slots = make([]indexSlot, size)
	mask := uint64(size - 1)
next:
	for i, text := range list {
		hash := hashOf(text)
		at := hash & mask
		for ; x.slots[at].at != 0; at = (at + 1) & mask {
			if s := x.slots[at]; s.hash == uint32(hash>>32) && list[s.at-1] == text {
				continue next
			}
		}
		x.slots[at] = indexSlot{uint32(hash >> 32), uint32(i + 1)}
	}
	return x
}

// find returns the position of text, or -1.
func (x *index) find(text string) int {
	if len(x.slots) > 0 {
		return x.probe(text, hashOf(text))
	}
	return x.scan(text)
}

// findKey returns the position of the user's key, or -1.
func (x *index) findKey(u *User) int {
	if len(x.slots) > 0 {
		return x.probe(u.key, u.hash)
	}
	return x.scan(u.key)
}

func (x *index) scan(text string) int {
	for i := range x.texts {
		if x.texts[i] == text {
			return i
		}
	}
	return -1
}

func (x *index) probe(text string, hash uint64) int {
	slots := x.slots
	for at := hash; ; at++ {
		s := &slots[at&uint64(len(slots)-1)]
		if s.at == 0 {
			return -1
		}
		if s.hash == uint32(hash>>32) && x.texts[s.at-1] == text {
			return int(s.at - 1)
		}
	}
}
