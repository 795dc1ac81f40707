package bolt

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"sort"
)

// Behind the body a published file may have frames, one for each commit that only
// added or replaced items:
//
//	offset size
//	     0    4 length of the items
//	     4    8 seq of the commit: one more than that of what is before
//	    12    4 CRC-32C of the checksum before (the file's, or the last frame's) and
//	            the twelve bytes above
//	    16    4 CRC-32C of all above and of the items
//	    20      items, as in the body, each of this seq, ordered by kind and key
//
// The checksums chain each frame to what is before it, so a frame counts nowhere
// else. The first one tells a length that is wrong from a frame that is not all
// there yet, which readers leave for later.
const frameSize = 20

// errTail is what is wrong with a file whose body is right.
var errTail error = damagedTail{}

type damagedTail struct{}

func (damagedTail) Error() string { return "damaged behind the body" }
func (damagedTail) Unwrap() error { return errDamaged }

// A link is where in a published file the next frame begins, and what it has to
// follow.
type link struct {
	end int64  // offset
	sum uint32 // the last checksum
	seq uint64 // the last commit
}

// appendFrame appends the frame of a commit to b, and moves l behind it.
func (l *link) appendFrame(b []byte, seq uint64, puts []record) []byte {
	start := len(b)
	b = append(b, make([]byte, frameSize)...)
	for _, r := range puts {
		b = appendItem(b, r)
	}
	frame, le := b[start:], binary.LittleEndian
	le.PutUint32(frame, uint32(len(frame)-frameSize))
	le.PutUint64(frame[4:], seq)
	le.PutUint32(frame[12:], headSum(l.sum, frame))
	sum := frameSum(frame)
	le.PutUint32(frame[16:], sum)
	*l = link{end: l.end + int64(len(frame)), sum: sum, seq: seq}
	return b
}

func headSum(before uint32, frame []byte) uint32 {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], before)
	return crc32.Update(crc32.Checksum(b[:], castagnoli), castagnoli, frame[:12])
}

func frameSum(frame []byte) uint32 {
	return crc32.Update(crc32.Checksum(frame[:16], castagnoli), castagnoli, frame[frameSize:])
}

// readFrames returns the items of all whole frames in b, which is what the file
// has behind l, and moves l behind them. The Data of the items aliases b. What is
// behind the whole frames may be the beginning of another one, or nothing but
// zeros, which a crash can leave.
func (l *link) readFrames(b []byte) ([]record, error) {
	var all []record
	le := binary.LittleEndian
	at := *l
	for len(b) >= frameSize {
		if le.Uint32(b[12:]) != headSum(at.sum, b) {
			if !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) {
				break
			}
			return nil, fmt.Errorf("%w: bad checksum at %d", errTail, at.end)
		}
		length := int64(le.Uint32(b))
		if length > int64(len(b)-frameSize) {
			break // not all there yet
		}
		frame := b[: frameSize+length : frameSize+length]
		sum, seq := le.Uint32(b[16:]), le.Uint64(b[4:])
		if sum != frameSum(frame) || seq != at.seq+1 || length == 0 {
			return nil, fmt.Errorf("%w: bad frame at %d", errTail, at.end)
		}
		for body, first := frame[frameSize:], len(all); len(body) > 0; {
			r, n, err := decodeItem(body, seq)
			if err == nil && r.seq != seq {
				err = fmt.Errorf("of commit %d", r.seq)
			}
			if err == nil && len(all) > first && compareIDs(all[len(all)-1].ID(), r.ID()) >= 0 {
				err = fmt.Errorf("out of order")
			}
			if err != nil {
				return nil, fmt.Errorf("%w: frame at %d: item: %w", errTail, at.end, err)
			}
			all = append(all, r)
			body = body[n:]
		}
		at = link{end: at.end + int64(len(frame)), sum: sum, seq: seq}
		b = b[len(frame):]
	}
	*l = at
	return all, nil
}

// put adds or replaces items, of several with one key the last one.
func (m *image) put(puts []record) {
	var added []record
	for _, r := range puts {
		if i, ok := slices.BinarySearchFunc(m.items, r, compareRecords); ok {
			m.items[i] = r
		} else {
			added = append(added, r)
		}
	}
	if len(added) == 0 {
		return
	}
	sort.SliceStable(added, func(i, j int) bool { return compareRecords(added[i], added[j]) < 0 })
	all := make([]record, 0, len(m.items)+len(added))
	old := m.items
	for i, r := range added {
		if i+1 < len(added) && compareRecords(added[i+1], r) == 0 {
			continue // there is a later one
		}
		n, _ := slices.BinarySearchFunc(old, r, compareRecords)
		all = append(append(all, old[:n]...), r)
		old = old[n:]
	}
	m.items = append(all, old...)
}

func compareRecords(a, b record) int { return compareIDs(a.ID(), b.ID()) }
