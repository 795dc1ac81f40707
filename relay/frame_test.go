package relay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// masked returns a frame as a client sends it.
func masked(first byte, payload string) []byte {
	out := []byte{first}
	switch n := len(payload); {
	case n > 0xffff:
		out = binary.BigEndian.AppendUint64(append(out, maskBit|127), uint64(n))
	case n > maxControl:
		out = binary.BigEndian.AppendUint16(append(out, maskBit|126), uint16(n))
	default:
		out = append(out, maskBit|byte(n))
	}
	mask := []byte{1, 2, 3, 4}
	out = append(out, mask...)
	for i := range len(payload) {
		out = append(out, payload[i]^mask[i%4])
	}
	return out
}

// heard feeds pieces and returns what was taken, and the violation.
func heard(t testing.TB, limit int64, pieces ...[]byte) (taken []string, bad *violation) {
	t.Helper()
	p := &partial{}
	for _, piece := range pieces {
		err := p.feed(slices.Clone(piece), limit, func(op byte, payload []byte) error {
			taken = append(taken, fmt.Sprintf("%x %s", op, payload))
			return nil
		})
		if err != nil && !errors.As(err, &bad) {
			t.Fatalf("feed: %v", err)
		}
		if bad != nil {
			return taken, bad
		}
		if int64(len(p.bytes)) > limit+maxControl+headerRoom+4 || int64(len(p.message)) > limit {
			t.Fatalf("%d and %d bytes are held", len(p.bytes), len(p.message))
		}
	}
	return taken, nil
}

// TestFrames: however the bytes are cut, the messages are the same, and nothing is
// held between them.
func TestFrames(t *testing.T) {
	long, longer := strings.Repeat("m", 300), strings.Repeat("n", 70_000)
	stream := slices.Concat(
		masked(finalBit|opText, "one"), masked(finalBit|opPing, "p"), masked(finalBit|opBinary, ""),
		masked(opText, "fo"), masked(finalBit|opPong, ""), masked(opContinue, ""), masked(finalBit|opContinue, "ur"),
		masked(finalBit|opText, long), masked(finalBit|opText, longer), masked(finalBit|opClose, "\x03\xe8"),
	)
	want := []string{"1 one", "9 p", "2 ", "a ", "1 four", "1 " + long, "1 " + longer, "8 \x03\xe8"}
	for _, size := range []int{1, 2, 3, 5, 7, 64, 1000, len(stream)} {
		taken, bad := heard(t, 80_000, slices.Collect(slices.Chunk(stream, size))...)
		if bad != nil || !slices.Equal(taken, want) {
			t.Errorf("in pieces of %d: %v, %.200q", size, bad, taken)
		}
	}
	p := &partial{}
	if err := p.feed(masked(finalBit|opText, "x"), 10, func(byte, []byte) error { return nil }); err != nil || !p.empty() {
		t.Errorf("%v, held %+v", err, p)
	}
}

func TestFramesThatEndTheConnection(t *testing.T) {
	huge := binary.BigEndian.AppendUint64([]byte{finalBit | opText, maskBit | 127}, 1<<63)
	for _, tc := range []struct {
		name   string
		stream []byte
		code   int
	}{
		{"no mask", []byte{finalBit | opText, 1, 'x'}, 1002},
		{"reserved bit", masked(finalBit|0x40|opText, "x"), 1002},
		{"unknown data", masked(finalBit|3, "x"), 1002},
		{"unknown control", masked(finalBit|0xb, "x"), 1002},
		{"control in pieces", masked(opPing, "x"), 1002},
		{"long control", masked(finalBit|opPing, strings.Repeat("x", 126)), 1002},
		{"continues nothing", masked(finalBit|opContinue, "x"), 1002},
		{"two messages at once", slices.Concat(masked(opText, "x"), masked(finalBit|opText, "y")), 1002},
		{"too long", masked(finalBit|opText, strings.Repeat("x", 101)), 1009},
		{"too long in pieces", slices.Concat(masked(opText, strings.Repeat("x", 60)), masked(finalBit|opContinue, strings.Repeat("x", 60))), 1009},
		{"more than there is", append(huge, 1, 2, 3, 4), 1009},
	} {
		taken, bad := heard(t, 100, tc.stream)
		if bad == nil || bad.code != tc.code || len(taken) > 0 {
			t.Errorf("%s: %+v, took %q", tc.name, bad, taken)
		}
	}
}

func TestServerFrames(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 0xffff, 0x10000} {
		payload := bytes.Repeat([]byte("x"), n)
		f := newFrame(opText, payload)
		header := 2
		if n > 125 {
			header = 4
		}
		if n > 0xffff {
			header = 10
		}
		if len(f) != header+n || !bytes.Equal(f.payload(), payload) || f[0] != finalBit|opText {
			t.Errorf("%d bytes make a frame of %d, starting with % x", n, len(f), f[:2])
		}
	}
	if f := closeFrame(1001, strings.Repeat("x", 200)); len(f) != 2+maxControl {
		t.Errorf("a close frame of %d bytes", len(f))
	}
	for payload, want := range map[string]int{"": 0, "\x03\xe8": 1000, "\x0f\xa3bye": 4003, "\x03\xf3": 1011} {
		if code, err := closeCode([]byte(payload)); err != nil || code != want {
			t.Errorf("%q: %d, %v", payload, code, err)
		}
	}
	for _, payload := range []string{"\x03", "\x03\xed", "\x00\x00", "\x13\x88", "\x03\xe8\xff"} {
		if code, err := closeCode([]byte(payload)); err == nil {
			t.Errorf("%q passes as %d", payload, code)
		}
	}
}

// FuzzFrames: no input does harm, and cutting it changes nothing.
func FuzzFrames(f *testing.F) {
	f.Add(masked(finalBit|opText, "one"), uint(1))
	f.Add(slices.Concat(masked(opText, "fo"), masked(finalBit|opPing, "p"), masked(finalBit|opContinue, "ur")), uint(3))
	f.Add(masked(finalBit|opText, strings.Repeat("x", 200)), uint(7))
	f.Add([]byte{finalBit | opText, maskBit | 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4}, uint(2))
	f.Fuzz(func(t *testing.T, stream []byte, size uint) {
		whole, bad := heard(t, 150, stream)
		cut, alsoBad := heard(t, 150, slices.Collect(slices.Chunk(stream, int(size%50)+1))...)
		if !slices.Equal(whole, cut) || (bad == nil) != (alsoBad == nil) || bad != nil && *bad != *alsoBad {
			t.Errorf("whole: %q %+v, cut: %q %+v", whole, bad, cut, alsoBad)
		}
	})
}
