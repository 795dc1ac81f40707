package relay

import (
	"encoding/binary"
	"fmt"
	"slices"
	"unicode/utf8"
)

// The opcodes of WebSocket frames, see RFC 6455.
const (
	opContinue = 0x0
	opText     = 0x1
	opBinary   = 0x2
	opClose    = 0x8
	opPing     = 0x9
	opPong     = 0xA
)

const (
	finalBit   = 0x80
	maskBit    = 0x80
	maxControl = 125 // bytes of payload in a control frame
	headerRoom = 10  // the longest header of a frame that a server sends
)

// A frame is a WebSocket frame as it goes over the wire, or several that are sent
// together. Connections share it, so nobody modifies it.
type frame []byte

// newFrame returns a frame with a copy of payload.
func newFrame(op byte, payload []byte) frame {
	room := make([]byte, headerRoom, headerRoom+len(payload))
	return headed(op, append(room, payload...))
}

// headed makes a frame of b, which has headerRoom bytes before the payload.
func headed(op byte, b []byte) frame {
	at, n := headerRoom-2, len(b)-headerRoom
	switch {
	case n > 0xffff:
		at = headerRoom - 10
		b[at+1] = 127
		binary.BigEndian.PutUint64(b[at+2:], uint64(n))
	case n > maxControl:
		at = headerRoom - 4
		b[at+1] = 126
		binary.BigEndian.PutUint16(b[at+2:], uint16(n))
	default:
		b[at+1] = byte(n)
	}
	b[at] = finalBit | op
	return b[at:]
}

// payload returns what the frame carries, which nobody may modify.
func (f frame) payload() []byte {
	switch f[1] {
	case 127:
		return f[10:]
	case 126:
		return f[4:]
	}
	return f[2:]
}

// closeFrame returns a close frame; without a code if that is 0.
func closeFrame(code int, reason string) frame {
	if code == 0 {
		return newFrame(opClose, nil)
	}
	reason = reason[:min(len(reason), maxControl-2)]
	return newFrame(opClose, append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...))
}

// closeCode returns the code in the payload of a close frame, 0 if it has none.
func closeCode(payload []byte) (int, error) {
	if len(payload) == 0 {
		return 0, nil
	}
	if len(payload) == 1 {
		return 0, &violation{closeProtocol, "half a close code"}
	}
	code := int(binary.BigEndian.Uint16(payload))
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1013, code >= 3000 && code <= 4999:
	default:
		return 0, &violation{closeProtocol, fmt.Sprint("close code ", code)}
	}
	if !utf8.Valid(payload[2:]) {
		return 0, &violation{closeProtocol, "a close reason that is not UTF-8"}
	}
	return code, nil
}

// Close codes of RFC 6455.
const (
	closeProtocol = 1002
	closeTooBig   = 1009
)

// A violation is what a peer did that ends the connection, with the close code.
type violation struct {
	code   int
	reason string
}

func (v *violation) Error() string { return v.reason }

// A partial is what has arrived of a message, or of a frame, that is not complete.
// A connection has one only then.
type partial struct {
	bytes   []byte // of a frame
	message []byte // of a message in several frames
	open    bool   // there is such a message
}

func (p *partial) empty() bool { return !p.open && len(p.bytes) == 0 }

// feed takes bytes that a client sent, which it modifies, and calls take for each
// message and each control frame that they complete. take must not keep the
// payload. A message of more than limit bytes is a violation, as is everything else
// that RFC 6455 forbids a client.
func (p *partial) feed(in []byte, limit int64, take func(op byte, payload []byte) error) error {
	held := len(p.bytes) > 0
	if held {
		in = append(p.bytes, in...)
	}
	began := len(in)
	for {
		op, final, payload, size, err := parseFrame(in, limit)
		if err != nil {
			return err
		}
		if size == 0 {
			break
		}
		in = in[size:]
		if op >= opClose {
			err = take(op, payload)
		} else {
			err = p.join(op, final, payload, limit, take)
		}
		if err != nil {
			return err
		}
	}
	switch {
	case len(in) == 0:
		p.bytes = nil
	case held && len(in) == began:
		p.bytes = in
	default:
		p.bytes = slices.Clone(in)
	}
	return nil
}

// join takes a frame of data.
func (p *partial) join(op byte, final bool, payload []byte, limit int64, take func(op byte, payload []byte) error) error {
	if (op == opContinue) != p.open {
		return &violation{closeProtocol, "frames out of order"}
	}
	if int64(len(p.message)+len(payload)) > limit {
		return &violation{closeTooBig, ""}
	}
	if final && !p.open {
		return take(op, payload)
	}
	p.message, p.open = append(p.message, payload...), true
	if !final {
		return nil
	}
	whole := p.message
	p.message, p.open = nil, false
	return take(opText, whole)
}

// parseFrame takes a client's frame apart. The payload is unmasked in place. size is
// that of the whole frame, 0 if it has not arrived yet.
func parseFrame(in []byte, limit int64) (op byte, final bool, payload []byte, size int, err error) {
	if len(in) < 2 {
		return
	}
	op, final = in[0]&0xf, in[0]&finalBit != 0
	length, header := uint64(in[1]&^maskBit), 6
	switch {
	case in[0]&0x70 != 0:
		err = &violation{closeProtocol, "reserved bits"}
	case in[1]&maskBit == 0:
		err = &violation{closeProtocol, "no mask"}
	case op > opBinary && op < opClose, op > opPong:
		err = &violation{closeProtocol, fmt.Sprint("opcode ", op)}
	case op >= opClose && (length > maxControl || !final):
		err = &violation{closeProtocol, "a long control frame"}
	}
	if err != nil {
		return
	}
	switch length {
	case 126:
		header = 8
	case 127:
		header = 14
	}
	if len(in) < header {
		return
	}
	switch length {
	case 126:
		length = uint64(binary.BigEndian.Uint16(in[2:]))
	case 127:
		length = binary.BigEndian.Uint64(in[2:])
	}
	if op < opClose && length > uint64(limit) {
		err = &violation{closeTooBig, ""}
		return
	}
	if uint64(len(in)-header) < length {
		return
	}
	mask := in[header-4 : header]
	size = header + int(length)
	payload = in[header:size:size]
	for i := range payload {
		payload[i] ^= mask[i&3]
	}
	return
}
