package bolt

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/flagstead/flagstead/store"
)

// The published file, all numbers little-endian:
//
//	offset size
//	     0    8 magic
//	     8    4 format version
//	    12    8 epoch
//	    20    8 seq: commits so far
//	    28    8 full: seq of the last full change
//	    36    8 count of items
//	    44    8 length of the body
//	    52    8 time of publishing, Unix milliseconds
//	    60    4 CRC-32C of all other bytes of header and body
//	    64      body
//	            frames, see tail.go
//
// and in the body for each item, ordered by kind and key:
//
//	 0    1 kind
//	 1    1 archived, 0 or 1
//	 2    8 version
//	10    8 seq of the commit that wrote it
//	18    4 length of the key
//	22    4 length of the data
//	26      key, data
const (
	magic         = "FLAGSNAP"
	formatVersion = 2
	headerSize    = 64
	crcAt         = 60
	itemSize      = 26
)

// errDamaged is what is wrong with a published file that is not what a writer
// published.
var errDamaged error = damaged{}

type damaged struct{}

func (damaged) Error() string { return "damaged" }
func (damaged) Unwrap() error { return store.ErrDamaged }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A record is an item and the commit that wrote it.
type record struct {
	store.Item
	seq uint64
}

func (r record) size() int64 { return itemSize + int64(len(r.Key)) + int64(len(r.Data)) }

func sameContent(a, b store.Item) bool {
	return a.Kind == b.Kind && a.Key == b.Key && a.Version == b.Version && a.Archived == b.Archived && bytes.Equal(a.Data, b.Data)
}

func compareIDs(a, b store.ID) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), strings.Compare(a.Key, b.Key))
}

// A mark names a state: what makes a Rev, and how far back deltas reach.
type mark struct {
	epoch uint64 // random, minted by every writer that opens the store
	seq   uint64 // commits so far
	full  uint64 // seq of the last full change: no delta reaches back behind it
}

func (m mark) rev() store.Rev {
	if m.seq == 0 {
		return ""
	}
	return store.Rev(fmt.Sprintf("%016x-%d", m.epoch, m.seq))
}

// deltaFrom returns the commit that since names, if a delta can start there.
func (m mark) deltaFrom(since store.Rev) (uint64, bool) {
	epoch, text, ok := strings.Cut(string(since), "-")
	if !ok || epoch != fmt.Sprintf("%016x", m.epoch) {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || text != strconv.FormatUint(n, 10) { // one spelling per Rev
		return 0, false
	}
	return n, n > 0 && n >= m.full && n <= m.seq
}

// An image is one state, as read from a file.
type image struct {
	mark
	items []record // ordered by ID
}

// An encoder builds the bytes of a published file.
type encoder struct {
	buf   []byte
	count uint64
}

// reset starts a file, in the memory of the last one.
func (e *encoder) reset() {
	e.buf = append(e.buf[:0], make([]byte, headerSize)...)
	e.count = 0
}

func (e *encoder) add(r record) {
	e.buf = appendItem(e.buf, r)
	e.count++
}

func appendItem(b []byte, r record) []byte {
	var h [itemSize]byte
	h[0] = byte(r.Kind)
	if r.Archived {
		h[1] = 1
	}
	le := binary.LittleEndian
	le.PutUint64(h[2:], uint64(r.Version))
	le.PutUint64(h[10:], r.seq)
	le.PutUint32(h[18:], uint32(len(r.Key)))
	le.PutUint32(h[22:], uint32(len(r.Data)))
	b = append(b, h[:]...)
	b = append(b, r.Key...)
	return append(b, r.Data...)
}

// finish returns the file, which is valid until the next reset.
func (e *encoder) finish(m mark, now time.Time) []byte {
	le, b := binary.LittleEndian, e.buf
	copy(b, magic)
	le.PutUint32(b[8:], formatVersion)
	le.PutUint64(b[12:], m.epoch)
	le.PutUint64(b[20:], m.seq)
	le.PutUint64(b[28:], m.full)
	le.PutUint64(b[36:], e.count)
	le.PutUint64(b[44:], uint64(len(b)-headerSize))
	le.PutUint64(b[52:], uint64(now.UnixMilli()))
	le.PutUint32(b[crcAt:], checksum(b))
	return b
}

func checksum(file []byte) uint32 {
	return crc32.Update(crc32.Checksum(file[:crcAt], castagnoli), castagnoli, file[headerSize:])
}

// decode reads a published file and returns where in it the next frame will be.
// The Data of the items aliases b.
func decode(b []byte) (*image, link, error) {
	m, l, err := decodeBody(b)
	if err != nil {
		return nil, link{}, err
	}
	puts, err := l.readFrames(b[l.end:])
	if err != nil {
		return nil, link{}, err
	}
	m.put(puts)
	m.seq = l.seq
	return m, l, nil
}

// decodeBody reads a published file without its frames. What it accepts, it
// accepts in one spelling only: the encoder writes the same bytes.
func decodeBody(b []byte) (*image, link, error) {
	if len(b) < headerSize {
		return nil, link{}, fmt.Errorf("%w: %d bytes are too few for a header", errDamaged, len(b))
	}
	le := binary.LittleEndian
	if string(b[:8]) != magic {
		return nil, link{}, fmt.Errorf("%w or foreign: no snapshot's magic number", errDamaged)
	}
	if v := le.Uint32(b[8:]); v != formatVersion {
		return nil, link{}, fmt.Errorf("format version %d, this program reads %d", v, formatVersion)
	}
	m := &image{mark: mark{epoch: le.Uint64(b[12:]), seq: le.Uint64(b[20:]), full: le.Uint64(b[28:])}}
	count, length := le.Uint64(b[36:]), le.Uint64(b[44:])
	if length > uint64(len(b)-headerSize) {
		return nil, link{}, fmt.Errorf("%w: body of %d bytes, header says %d", errDamaged, len(b)-headerSize, length)
	}
	b = b[:headerSize+length]
	// Most of the work is the checksum, which need not come first: without it the items
	// are read as what anybody may have written.
	sum := make(chan uint32, 1)
	go func() { sum <- checksum(b) }()
	err := m.decodeItems(b[headerSize:], count)
	if want, is := le.Uint32(b[crcAt:]), <-sum; is != want {
		return nil, link{}, fmt.Errorf("%w: checksum %08x, header says %08x", errDamaged, is, want)
	}
	if err != nil { // only of a file that was written wrongly
		return nil, link{}, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return m, link{end: int64(len(b)), sum: le.Uint32(b[crcAt:]), seq: m.seq}, nil
}

// decodeItems reads the items of a body, of which there should be count.
func (m *image) decodeItems(body []byte, count uint64) error {
	if count > uint64(len(body)/itemSize) {
		return fmt.Errorf("%d items cannot be in %d bytes", count, len(body))
	}
	if m.full > m.seq || m.seq == 0 && count > 0 {
		return fmt.Errorf("%d items at commit %d, the last full one %d", count, m.seq, m.full)
	}
	m.items = make([]record, 0, count)
	for len(body) > 0 {
		r, n, err := decodeItem(body, m.seq)
		if err != nil {
			return fmt.Errorf("item %d: %w", len(m.items), err)
		}
		if last := len(m.items) - 1; last >= 0 && compareIDs(m.items[last].ID(), r.ID()) >= 0 {
			return fmt.Errorf("item %d: out of order", len(m.items))
		}
		m.items = append(m.items, r)
		body = body[n:]
	}
	if uint64(len(m.items)) != count {
		return fmt.Errorf("%d items, header says %d", len(m.items), count)
	}
	return nil
}

// decodeItem reads the item that b begins with and returns its length.
func decodeItem(b []byte, newest uint64) (r record, n int, err error) {
	if len(b) < itemSize {
		return r, 0, errors.New("cut off")
	}
	le := binary.LittleEndian
	key, data := uint64(le.Uint32(b[18:])), uint64(le.Uint32(b[22:]))
	if key+data > uint64(len(b)-itemSize) {
		return r, 0, errors.New("cut off")
	}
	r.Kind, r.Archived = store.Kind(b[0]), b[1] == 1
	r.Version = int64(le.Uint64(b[2:]))
	r.seq = le.Uint64(b[10:])
	if b[1] > 1 || r.seq == 0 || r.seq > newest {
		return r, 0, fmt.Errorf("archived %d, commit %d of %d", b[1], r.seq, newest)
	}
	end := itemSize + key + data
	r.Key = string(b[itemSize : itemSize+key])
	if data > 0 {
		r.Data = b[itemSize+key : end : end]
	}
	return r, int(end), checkItem(r.Item)
}

// checkItem says why an item cannot be stored.
func checkItem(it store.Item) error {
	switch {
	case it.Kind != store.Flag && it.Kind != store.Segment:
		return fmt.Errorf("invalid %v", it.Kind)
	case it.Key == "":
		return errors.New("empty key")
	case len(it.Key) > maxKey:
		return fmt.Errorf("key of %d bytes, at most %d are possible", len(it.Key), maxKey)
	case len(it.Data) > math.MaxInt32/2:
		return fmt.Errorf("%v %q has %d bytes of data", it.Kind, it.Key, len(it.Data))
	}
	return nil
}
