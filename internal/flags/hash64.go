package flags

import (
	"math/bits"
	"math/rand/v2"
)

// The seeds make the hashes of each process different, so that nobody can choose keys
// that collide.
var seed0, seed1 = rand.Uint64() | 1, rand.Uint64() | 1

// hashOf returns a hash of a text for tables in this process, in the manner of wyhash:
// two words are multiplied, and the halves of the product folded. hash/maphash gets there
// through three calls, which cost more than the hash of a short key.
func hashOf(text string) uint64 {
	h := seed0 ^ uint64(len(text))*0x9e3779b97f4a7c15
	for len(text) > 16 {
		h = fold(word(text)^seed1, word(text[8:])^h)
		text = text[16:]
	}
	var a, b uint64
	switch n := len(text); {
	case n >= 8:
		a, b = word(text), word(text[n-8:])
	case n >= 4:
		a, b = half(text), half(text[n-4:])
	case n > 0:
		a = uint64(text[0])<<16 | uint64(text[n/2])<<8 | uint64(text[n-1])
	}
	return fold(fold(a^seed1, b^h), seed0)
}

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

func word(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

func half(s string) uint64 {
	_ = s[3]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24
}
