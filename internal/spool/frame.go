package spool

import (
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
)

// A frame is a header and a payload: insights, each after its length as a uvarint.
// The header has a checksum of its own, so that a damaged payload costs only its
// frame, which says how many insights are lost, and a damaged header only the way
// to the next one.
//
//	magic u32 | payload length u32 | insights u32 | payload CRC32C u32 | header CRC32C u32
const (
	headerSize = 20
	magic      = 0xF1A65001

	// maxPayload is what a header may claim at most.
	maxPayload = MaxInsight + frameBytes + 64<<10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type header struct {
	length, count int
	sum           uint32
}

func parseHeader(b []byte) (header, bool) {
	le := binary.LittleEndian
	if le.Uint32(b) != magic || le.Uint32(b[16:]) != crc32.Checksum(b[:16], castagnoli) {
		return header{}, false
	}
	h := header{length: int(le.Uint32(b[4:])), count: int(le.Uint32(b[8:])), sum: le.Uint32(b[12:])}
	return h, h.length <= maxPayload && h.count > 0 && h.count <= h.length
}

func appendFrame(dst []byte, insights []json.RawMessage) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, headerSize)...)
	for _, in := range insights {
		dst = binary.AppendUvarint(dst, uint64(len(in)))
		dst = append(dst, in...)
	}
	h, payload := dst[start:start+headerSize], dst[start+headerSize:]
	le := binary.LittleEndian
	le.PutUint32(h, magic)
	le.PutUint32(h[4:], uint32(len(payload)))
	le.PutUint32(h[8:], uint32(len(insights)))
	le.PutUint32(h[12:], crc32.Checksum(payload, castagnoli))
	le.PutUint32(h[16:], crc32.Checksum(h[:16], castagnoli))
	return dst
}

// parsePayload returns the insights, which share payload's memory.
func parsePayload(h header, payload []byte) ([]json.RawMessage, bool) {
	if crc32.Checksum(payload, castagnoli) != h.sum {
		return nil, false
	}
	list := make([]json.RawMessage, 0, h.count)
	for len(payload) > 0 {
		n, width := binary.Uvarint(payload)
		if width <= 0 || n > uint64(len(payload)-width) {
			return nil, false
		}
		payload = payload[width:]
		list = append(list, json.RawMessage(payload[:n:n]))
		payload = payload[n:]
	}
	return list, len(list) == h.count
}
