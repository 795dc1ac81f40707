package flags

import (
	"crypto/md5"
	"encoding/binary"
	"sync"
)

// bucket returns the number in [0, 1] at which FeatBit places a text that is
// given in parts: the first four bytes of the MD5 of their concatenation as a
// signed little-endian integer, its magnitude divided by 2^31. There is no
// separator and no salt.
func bucket(a, b, c string) float64 {
	n := len(a) + len(b) + len(c)
	var stack [256]byte
	if n <= len(stack) {
		return fraction(md5.Sum(append(append(append(stack[:0], a...), b...), c...)))
	}
	buf := hashBuffers.Get().(*[]byte)
	*buf = append(append(append((*buf)[:0], a...), b...), c...)
	sum := md5.Sum(*buf)
	if cap(*buf) <= 64<<10 {
		hashBuffers.Put(buf)
	}
	return fraction(sum)
}

// hashBuffers hold hash inputs that do not fit on the stack.
var hashBuffers = sync.Pool{New: func() any { return new([]byte) }}

func fraction(sum [md5.Size]byte) float64 {
	n := int64(int32(binary.LittleEndian.Uint32(sum[:4])))
	if n < 0 {
		n = -n
	}
	return float64(n) / (1 << 31)
}

// inSlice reports whether bucket b is in [lo, hi). [0, 1] takes everybody, and
// a slice that ends at 1 includes 1 (see Differences, rollout-end).
func inSlice(b, lo, hi float64) bool {
	if lo == 0 && hi == 1 {
		return true
	}
	return lo <= b && (b < hi || hi == 1 && b == 1)
}
