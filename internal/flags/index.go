package flags

import "math/bits"

// An index finds texts in a list that never changes. It does what a map does with less
// work and in a fraction of the memory: nothing is ever inserted, the hash of a user's
// key is there already, and the texts are in one piece.
type index struct {
	text string   // all texts, one after the other
	ends []uint32 // where each of them ends

	// The slot of a text holds its number in the list, plus one, in the bits of low, and
	// bits of its hash in the others. An empty one is 0. There are none for a few texts.
	slots []uint32
	low   uint32
}

// fewTexts is up to how many texts a scan is not slower.
const fewTexts = 6

// indexOf returns an index of list, in which the first of equal texts is found; nil if the
// list is empty. The texts have less than 4 GiB together.
func indexOf(list []string) *index {
	if len(list) == 0 {
		return nil
	}
	size := 0
	for _, text := range list {
		size += len(text)
	}
	text, x := make([]byte, 0, size), &index{ends: make([]uint32, len(list))}
	for i := range list {
		text = append(text, list[i]...)
		x.ends[i] = uint32(len(text))
	}
	x.text = string(text)
	if len(list) <= fewTexts {
		return x
	}
	x.low = 1<<bits.Len(uint(len(list))) - 1
	x.slots = make([]uint32, len(list)+len(list)/2)
	for i := range list {
		hash := hashOf(list[i])
		if x.probe(list[i], hash) >= 0 {
			continue
		}
		at := x.place(hash)
		for x.slots[at] != 0 {
			at = x.after(at)
		}
		x.slots[at] = uint32(hash)&^x.low | uint32(i+1)
	}
	return x
}

// place returns the slot at which the search for a hash begins. It takes the upper half.
func (x *index) place(hash uint64) int {
	return int(hash >> 32 * uint64(len(x.slots)) >> 32)
}

// after returns the next slot.
func (x *index) after(at int) int {
	if at++; at == len(x.slots) {
		return 0
	}
	return at
}

// at returns the text with a number.
func (x *index) at(i int) string {
	if i == 0 {
		return x.text[:x.ends[0]]
	}
	return x.text[x.ends[i-1]:x.ends[i]]
}

// find returns the position of text, or -1. A nil index has none.
func (x *index) find(text string) int {
	switch {
	case x == nil:
		return -1
	case len(x.slots) > 0:
		return x.probe(text, hashOf(text))
	}
	return x.scan(text)
}

// findKey returns the position of the user's key, or -1.
func (x *index) findKey(u *User) int {
	switch {
	case x == nil:
		return -1
	case len(x.slots) > 0:
		return x.probe(u.key, u.hash)
	}
	return x.scan(u.key)
}

func (x *index) scan(text string) int {
	start := uint32(0)
	for i, end := range x.ends {
		if x.text[start:end] == text {
			return i
		}
		start = end
	}
	return -1
}

func (x *index) probe(text string, hash uint64) int {
	for at := x.place(hash); ; at = x.after(at) {
		switch s := x.slots[at]; {
		case s == 0:
			return -1
		case (s^uint32(hash))&^x.low == 0:
			if i := int(s&x.low) - 1; x.at(i) == text {
				return i
			}
		}
	}
}
