package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/flagstead/flagstead/store"
)

// Scan does in one pass over a data-sync document, which checks the JSON and finds
// the items, what [Decode] does in several: it decides how soon a process with 10,000
// flags can start. It reports false for every document that is broken or in any way
// unusual, of which Decode then says what it is. The items' Data are parts of text.
// It also returns the value of one more member of the document, or nil.
func Scan(text []byte, member string) (d DataSync, value []byte, ok bool) {
	s := scan{text: text}
	var messageType, data []byte
	end := s.members(space(text, 0), func(name string, at int) int {
		var once *[]byte
		switch {
		case name == "messageType":
			once = &messageType
		case name == "data" && at < len(text) && text[at] == '{':
			once = &data
		case name == member && member != "":
			once = &value
		case name == "data" || foldsTo(name, "messageType", "data", member):
			return -1
		}
		end := -1
		switch once {
		case nil:
			return skip(text, at, 0)
		case &data:
			end = s.payload(at)
		default:
			end = skip(text, at, 0)
		}
		return keep(once, text, at, end)
	})
	if end < 0 || space(text, end) != len(text) || string(messageType) != `"`+MessageDataSync+`"` || data == nil {
		return DataSync{}, nil, false
	}
	return s.result(), value, true
}

// scanPayload does what Scan does for the data member of a document.
func scanPayload(text []byte) (DataSync, bool) {
	s := scan{text: text}
	at := space(text, 0)
	if at == len(text) || text[at] != '{' {
		return DataSync{}, false
	}
	if end := s.payload(at); end < 0 || space(text, end) != len(text) {
		return DataSync{}, false
	}
	return s.result(), true
}

// scanItem does what ParseItem does.
func scanItem(kind store.Kind, raw []byte) (store.Item, bool) {
	s := scan{text: raw}
	it, end := s.item(kind, 0)
	return it, end == len(raw)
}

// A scan is in the middle of a document. Its methods take an offset and return the one
// behind what they read, or -1 if that is not for them.
type scan struct {
	text            []byte
	eventType       string
	flags, segments []store.Item
	skipped         [2][]error // of flags, of segments
}

func (s *scan) result() DataSync {
	return DataSync{EventType: s.eventType, Items: append(s.flags, s.segments...), Skipped: append(s.skipped[0], s.skipped[1]...)}
}

func (s *scan) payload(at int) int {
	text := s.text
	var eventType, flags, segments []byte
	end := s.members(at, func(name string, at int) int {
		switch name {
		case "eventType":
			return keep(&eventType, text, at, skip(text, at, 0))
		case "featureFlags":
			return keep(&flags, text, at, s.list(store.Flag, &s.flags, &s.skipped[0], at))
		case "segments":
			return keep(&segments, text, at, s.list(store.Segment, &s.segments, &s.skipped[1], at))
		}
		if foldsTo(name, "eventType", "featureFlags", "segments") {
			return -1
		}
		return skip(text, at, 0)
	})
	if end < 0 || flags == nil || segments == nil {
		return -1
	}
	switch string(eventType) {
	case `"` + Full + `"`:
		s.eventType = Full
	case `"` + Patch + `"`:
		s.eventType = Patch
	default:
		return -1
	}
	return end
}

// keep notes the value of a member, of which there must be one.
func keep(value *[]byte, text []byte, at, end int) int {
	if end < 0 || *value != nil {
		return -1
	}
	*value = text[at:end:end]
	return end
}

// members calls f with the name and the offset of the value of each member of the
// object at an offset; f returns the end of the value.
func (s *scan) members(at int, f func(name string, at int) int) int {
	text := s.text
	if at >= len(text) || text[at] != '{' {
		return -1
	}
	i := space(text, at+1)
	if i < len(text) && text[i] == '}' {
		return i + 1
	}
	for {
		start := i
		end, plain := skipString(text, i)
		if end < 0 || !plain {
			return -1
		}
		if i = colon(text, end); i < 0 {
			return -1
		}
		if i = f(string(text[start+1:end-1]), i); i < 0 {
			return -1
		}
		var more bool
		if i, more = next(text, i, '}'); !more {
			return i
		}
	}
}

// list adds the items of a list to items, and what is wrong with others to skipped.
func (s *scan) list(kind store.Kind, items *[]store.Item, skipped *[]error, at int) int {
	text := s.text
	if at >= len(text) || text[at] != '[' {
		return -1
	}
	i := space(text, at+1)
	if i < len(text) && text[i] == ']' {
		return i + 1
	}
	for n := 1; ; n++ {
		start := i
		it, end := s.item(kind, i)
		if end < 0 { // unusual, or no item at all
			if end = skip(text, start, 0); end < 0 {
				return -1
			}
			var err error
			if it, err = decodeItem(kind, text[start:end:end]); err != nil {
				*skipped = append(*skipped, fmt.Errorf("%s number %d: %w", kind, n, err))
				it.Key = ""
			}
		}
		if it.Key != "" {
			*items = append(*items, it)
		}
		var more bool
		if i, more = next(text, end, ']'); !more {
			return i
		}
	}
}

// item reads one item.
func (s *scan) item(kind store.Kind, at int) (store.Item, int) {
	text := s.text
	var key, updatedAt, archived []byte
	keyName := "key"
	if kind == store.Segment {
		keyName = "id"
	}
	if at >= len(text) || text[at] != '{' {
		return store.Item{}, -1
	}
	i := space(text, at+1)
	for more := i < len(text) && text[i] != '}'; more; {
		start := i
		end, plain := skipString(text, i)
		if end < 0 || !plain {
			return store.Item{}, -1
		}
		name := text[start+1 : end-1]
		if i = colon(text, end); i < 0 {
			return store.Item{}, -1
		}
		if end = skip(text, i, 0); end < 0 {
			return store.Item{}, -1
		}
		switch value := text[i:end]; len(name) {
		case len("id"), len("key"):
			if string(name) == keyName {
				key = value
			} else if foldsTo(string(name), keyName) {
				return store.Item{}, -1
			}
		case len("updatedAt"), len("isArchived"):
			switch {
			case string(name) == "updatedAt":
				updatedAt = value
			case string(name) == "isArchived":
				archived = value
			case foldsTo(string(name), "updatedAt", "isArchived"):
				return store.Item{}, -1
			}
		}
		if i, more = next(text, end, '}'); i < 0 {
			return store.Item{}, -1
		}
		if !more {
			i--
		}
	}
	if i >= len(text) {
		return store.Item{}, -1
	}
	i++
	name, ok := plainText(key)
	if !ok || name == "" {
		return store.Item{}, -1
	}
	it := store.Item{Kind: kind, Key: name, Archived: string(archived) == "true", Data: text[at:i:i]}
	if updated, ok := plainText(updatedAt); ok {
		it.Version = Millis(updated)
	} else if len(updatedAt) > 0 && updatedAt[0] == '"' {
		return store.Item{}, -1
	}
	return it, i
}

// plainText returns the text of a JSON string that stands there as it is.
func plainText(value []byte) (string, bool) {
	if len(value) < 2 || value[0] != '"' {
		return "", false
	}
	if end, plain := skipString(value, 0); end != len(value) || !plain {
		return "", false
	}
	return string(value[1 : len(value)-1]), true
}

// foldsTo reports whether a decoder takes a member for one of those named.
func foldsTo(name string, names ...string) bool {
	for _, n := range names {
		if n != "" && strings.EqualFold(name, n) {
			return true
		}
	}
	return false
}

// The rest walks values and checks them.

func space(text []byte, i int) int {
	for i < len(text) && (text[i] == ' ' || text[i] == '\n' || text[i] == '\r' || text[i] == '\t') {
		i++
	}
	return i
}

// colon returns the start of a member's value, given the end of its name.
func colon(text []byte, i int) int {
	if i < len(text) && text[i] != ':' {
		i = space(text, i)
	}
	if i >= len(text) || text[i] != ':' {
		return -1
	}
	return space(text, i+1)
}

// next returns the start of the next member or element after one that ends at i, or the
// end of the object or list and false.
func next(text []byte, i int, closing byte) (int, bool) {
	i = space(text, i)
	if i >= len(text) {
		return -1, false
	}
	switch text[i] {
	case ',':
		return space(text, i+1), true
	case closing:
		return i + 1, false
	}
	return -1, false
}

// deepest is how deep values may be nested here. Decode takes more.
const deepest = 1000

// skip returns the end of the value at i.
func skip(text []byte, i, depth int) int {
	if i >= len(text) || depth > deepest {
		return -1
	}
	switch c := text[i]; c {
	case '"':
		i, _ = skipString(text, i)
		return i
	case '{':
		i = space(text, i+1)
		if i < len(text) && text[i] == '}' {
			return i + 1
		}
		for more := true; more; {
			if i, _ = skipString(text, i); i < 0 {
				return -1
			}
			if i = colon(text, i); i < 0 {
				return -1
			}
			if i = skip(text, i, depth+1); i < 0 {
				return -1
			}
			i, more = next(text, i, '}')
		}
		return i
	case '[':
		i = space(text, i+1)
		if i < len(text) && text[i] == ']' {
			return i + 1
		}
		for more := true; more; {
			if i = skip(text, i, depth+1); i < 0 {
				return -1
			}
			i, more = next(text, i, ']')
		}
		return i
	case 't':
		return word(text, i, "true")
	case 'f':
		return word(text, i, "false")
	case 'n':
		return word(text, i, "null")
	default:
		return number(text, i)
	}
}

func word(text []byte, i int, is string) int {
	if !bytes.HasPrefix(text[i:], []byte(is)) {
		return -1
	}
	return i + len(is)
}

func number(text []byte, i int) int {
	if text[i] == '-' {
		i++
	}
	switch {
	case i < len(text) && text[i] == '0':
		i++
	case i < len(text) && '1' <= text[i] && text[i] <= '9':
		i = digits(text, i)
	default:
		return -1
	}
	if i < len(text) && text[i] == '.' {
		if i = digits(text, i+1); i < 0 {
			return -1
		}
	}
	if i < len(text) && (text[i] == 'e' || text[i] == 'E') {
		i++
		if i < len(text) && (text[i] == '+' || text[i] == '-') {
			i++
		}
		i = digits(text, i)
	}
	return i
}

// digits returns the end of one digit or more.
func digits(text []byte, i int) int {
	start := i
	for i < len(text) && '0' <= text[i] && text[i] <= '9' {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

const (
	each  = 0x0101010101010101 // a byte in every byte of a word
	highs = 0x80 * each
)

// skipString returns the end of the string at i, and whether it is plain: without
// escapes and in ASCII. It looks at eight bytes at a time.
func skipString(text []byte, i int) (end int, plain bool) {
	if i >= len(text) || text[i] != '"' {
		return -1, false
	}
	plain = true
	for i++; ; {
		for i+8 <= len(text) {
			w := binary.LittleEndian.Uint64(text[i:])
			quote, escape := w^'"'*each, w^'\\'*each
			// A high bit for each byte that is below 0x20, a quote or an escape; others
			// may have one only above such a byte.
			stop := ((w - 0x20*each) &^ w) | ((quote - each) &^ quote) | ((escape - each) &^ escape)
			if stop&highs != 0 {
				break
			}
			plain = plain && w&highs == 0
			i += 8
		}
		for {
			if i >= len(text) {
				return -1, false
			}
			c := text[i]
			if c == '"' {
				return i + 1, plain
			}
			if c == '\\' {
				plain = false
				if i = unescape(text, i); i < 0 {
					return -1, false
				}
				break
			}
			if c < 0x20 {
				return -1, false
			}
			plain = plain && c < 0x80
			i++
		}
	}
}

// unescape returns the end of the escape at i.
func unescape(text []byte, i int) int {
	if i+1 >= len(text) {
		return -1
	}
	switch text[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2
	case 'u':
		if i+6 > len(text) {
			return -1
		}
		for _, c := range text[i+2 : i+6] {
			if (c < '0' || '9' < c) && (c < 'a' || 'f' < c) && (c < 'A' || 'F' < c) {
				return -1
			}
		}
		return i + 6
	}
	return -1
}

// copied gives the items Data of their own.
func (d *DataSync) copied() {
	for i := range d.Items {
		d.Items[i].Data = bytes.Clone(d.Items[i].Data)
	}
}
