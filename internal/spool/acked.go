package spool

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"os"
	"slices"
)

// A span is a part of a queue, from start up to end.
type span struct{ start, end position }

const spanSize = 36

// An ackedFile keeps the spans that were acknowledged while something before them
// was not, so that a restart does not hand them out again. It is empty most of the
// time.
type ackedFile struct {
	path string
	f    *os.File // nil until it is needed
	size int64
}

// read returns the spans in order.
func (a *ackedFile) read() ([]span, error) {
	b, err := os.ReadFile(a.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	a.size = int64(len(b))
	var list []span
	le := binary.LittleEndian
	for ; len(b) >= spanSize; b = b[spanSize:] {
		if le.Uint32(b[32:]) != crc32.Checksum(b[:32], castagnoli) {
			continue // the batch comes twice
		}
		at := func(i int) position { return position{le.Uint64(b[i:]), int64(le.Uint64(b[i+8:]))} }
		list = append(list, span{at(0), at(16)})
	}
	slices.SortFunc(list, func(x, y span) int {
		switch {
		case x.start.before(y.start):
			return -1
		case y.start.before(x.start):
			return 1
		}
		return 0
	})
	return list, nil
}

func (a *ackedFile) add(s span) error {
	if a.f == nil {
		f, err := os.OpenFile(a.path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		a.f = f
	}
	var b [spanSize]byte
	le := binary.LittleEndian
	le.PutUint64(b[0:], s.start.number)
	le.PutUint64(b[8:], uint64(s.start.off))
	le.PutUint64(b[16:], s.end.number)
	le.PutUint64(b[24:], uint64(s.end.off))
	le.PutUint32(b[32:], crc32.Checksum(b[:32], castagnoli))
	if _, err := a.f.WriteAt(b[:], a.size); err != nil {
		return err
	}
	a.size += spanSize
	return nil
}

func (a *ackedFile) clear() error {
	if a.size == 0 {
		return nil
	}
	if err := os.Truncate(a.path, 0); err != nil {
		return err
	}
	a.size = 0
	return nil
}

func (a *ackedFile) close() error {
	if a.f == nil {
		return nil
	}
	return a.f.Close()
}

// skip returns where to go on at p, given the sorted spans that are settled.
func skip(settled []span, p position) position {
	for _, s := range settled {
		if !p.before(s.start) && p.before(s.end) {
			p = s.end
		}
	}
	return p
}
