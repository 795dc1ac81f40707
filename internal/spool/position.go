package spool

import (
	"encoding/binary"
	"hash/crc32"
	"os"
)

// A position is where reading goes on: everything before it is settled.
type position struct {
	number uint64 // of the segment
	off    int64
}

func (p position) before(o position) bool {
	return p.number < o.number || p.number == o.number && p.off < o.off
}

// A positionFile keeps a position in two slots that are written in turn, so that
// a torn write leaves the other one.
type positionFile struct {
	f   *os.File
	gen uint64
}

const slotSize = 32

// openPosition returns the position in the file at path: zero if there is none
// that can be read.
func openPosition(path string) (*positionFile, position, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, position{}, err
	}
	p := &positionFile{f: f}
	var found position
	for slot := range int64(2) {
		var b [slotSize]byte
		if _, err := f.ReadAt(b[:], slot*slotSize); err != nil {
			continue
		}
		le := binary.LittleEndian
		if le.Uint32(b[24:]) != crc32.Checksum(b[:24], castagnoli) {
			continue
		}
		if gen := le.Uint64(b[:]); gen > p.gen {
			p.gen = gen
			found = position{le.Uint64(b[8:]), int64(le.Uint64(b[16:]))}
		}
	}
	if found.off < 0 {
		found.off = 0
	}
	return p, found, nil
}

func (p *positionFile) write(at position) error {
	var b [slotSize]byte
	le := binary.LittleEndian
	le.PutUint64(b[:], p.gen+1)
	le.PutUint64(b[8:], at.number)
	le.PutUint64(b[16:], uint64(at.off))
	le.PutUint32(b[24:], crc32.Checksum(b[:24], castagnoli))
	if _, err := p.f.WriteAt(b[:], int64((p.gen+1)%2)*slotSize); err != nil {
		return err
	}
	p.gen++
	return nil
}
