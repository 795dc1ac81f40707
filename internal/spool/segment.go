package spool

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// A blob is where a segment's bytes are.
type blob interface {
	io.ReaderAt
	// write puts p at off. What a failed write left behind is taken back.
	write(p []byte, off int64) error
	sync() error
	close() error
	remove() error
}

// A segment is a sequence of frames that is only appended to and removed as a
// whole.
type segment struct {
	number uint64
	size   int64 // what is written completely
	left   int   // insights that were not read
	blob   blob
}

// next returns the first frame at or after off whose header is whole, and where it
// is. Bytes before it are damage.
func (s *segment) next(off int64) (h header, at int64, ok bool) {
	var b [headerSize]byte
	if off+headerSize > s.size {
		return h, s.size, false
	}
	if _, err := s.blob.ReadAt(b[:], off); err == nil {
		if h, ok := parseHeader(b[:]); ok {
			return h, off, true
		}
	}
	return s.search(off + 1)
}

// search looks for a header byte by byte.
func (s *segment) search(off int64) (header, int64, bool) {
	const chunk = 64 << 10
	mark := binary.LittleEndian.AppendUint32(nil, magic)
	buf := make([]byte, chunk+headerSize)
	for off+headerSize <= s.size {
		window := buf[:min(int64(len(buf)), s.size-off)]
		if _, err := s.blob.ReadAt(window, off); err != nil {
			off += chunk // a part that the disk does not give back
			continue
		}
		for i := 0; ; i++ {
			n := bytes.Index(window[i:], mark)
			if i += n; n < 0 || i+headerSize > len(window) {
				break
			}
			if h, ok := parseHeader(window[i:]); ok {
				return h, off + int64(i), true
			}
		}
		off += chunk
	}
	return header{}, s.size, false
}

// payload reads the frame with header h at off.
func (s *segment) payload(h header, off int64) ([]byte, bool) {
	if off+headerSize+int64(h.length) > s.size {
		return nil, false
	}
	b := make([]byte, h.length)
	_, err := s.blob.ReadAt(b, off+headerSize)
	return b, err == nil
}

// A scanned says what a segment holds.
type scanned struct {
	insights int   // whole ones
	damaged  int   // in frames whose payload is damaged
	lost     int64 // bytes that belong to no whole frame
}

// scan reads everything from off on, except what is settled.
func (s *segment) scan(off int64, settled []span) scanned {
	var sc scanned
	for {
		if p := skip(settled, position{s.number, off}); p.number != s.number {
			return sc
		} else {
			off = p.off
		}
		h, at, ok := s.next(off)
		sc.lost += at - min(off, at)
		if !ok {
			return sc
		}
		off = at + headerSize + int64(h.length)
		if off > s.size { // torn: the frame was never whole
			sc.lost += s.size - at
			return sc
		}
		if p, ok := s.payload(h, at); ok {
			if list, ok := parsePayload(h, p); ok {
				sc.insights += len(list)
				continue
			}
		}
		sc.damaged += h.count
		sc.lost += headerSize + int64(h.length)
	}
}

// A fileBlob is opened when it is first needed.
type fileBlob struct {
	path string
	f    *os.File
}

func (b *fileBlob) open() error {
	if b.f != nil {
		return nil
	}
	f, err := os.OpenFile(b.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	b.f = f
	return nil
}

func (b *fileBlob) ReadAt(p []byte, off int64) (int, error) {
	if err := b.open(); err != nil {
		return 0, err
	}
	return b.f.ReadAt(p, off)
}

func (b *fileBlob) write(p []byte, off int64) error {
	if err := b.open(); err != nil {
		return err
	}
	if _, err := b.f.WriteAt(p, off); err != nil {
		_ = b.f.Truncate(off)
		return err
	}
	return nil
}

func (b *fileBlob) sync() error {
	if b.f == nil {
		return nil
	}
	if err := b.f.Sync(); err != nil {
		return err
	}
	return syncDir(filepath.Dir(b.path))
}

func (b *fileBlob) close() error {
	if b.f == nil {
		return nil
	}
	return b.f.Close()
}

func (b *fileBlob) remove() error {
	_ = b.close() // its content is not wanted any more
	return os.Remove(b.path)
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func segmentName(number uint64) string { return fmt.Sprintf("%016x.seg", number) }

// A memBlob is gone with its process.
type memBlob struct{ b []byte }

func (m *memBlob) ReadAt(p []byte, off int64) (int, error) {
	if off > int64(len(m.b)) {
		return 0, io.EOF
	}
	n := copy(p, m.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memBlob) write(p []byte, off int64) error {
	m.b = append(slices.Grow(m.b[:off], len(p)), p...)
	return nil
}

func (m *memBlob) sync() error   { return nil }
func (m *memBlob) close() error  { return nil }
func (m *memBlob) remove() error { m.b = nil; return nil }
