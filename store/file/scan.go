package file

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
)

// A scanned is a document taken apart.
type scanned struct {
	wire.DataSync
	extras []byte // the member "flagstead", if there is one
}

// scan does in two passes over the text, one to check the JSON and one to find
// the items, what package wire does in many: a start with 10,000 flags takes a
// third of the time. It reports false for every document that is broken or in
// any way unusual, of which wire then says what it is. The Data of the items are
// parts of text.
func scan(text []byte) (scanned, bool) {
	if !json.Valid(text) {
		return scanned{}, false
	}
	text = bytes.TrimSpace(text)
	top, ok := membersOf(text, "messageType", "data", "flagstead")
	if !ok || string(top["messageType"]) != `"`+wire.MessageDataSync+`"` {
		return scanned{}, false
	}
	data, ok := membersOf(top["data"], "eventType", "featureFlags", "segments")
	if !ok || string(data["eventType"]) != `"`+wire.Full+`"` || !isList(data["featureFlags"]) || !isList(data["segments"]) {
		return scanned{}, false
	}
	doc := scanned{extras: top["flagstead"]}
	doc.EventType = wire.Full
	doc.addList(store.Flag, data["featureFlags"])
	doc.addList(store.Segment, data["segments"])
	return doc, true
}

func isList(value []byte) bool { return len(value) > 0 && value[0] == '[' }

// membersOf returns the named members of an object. It reports false if value is
// no object or a decoder could take another member for one of them: if there are
// two of a name, or one that differs in case or spelling only.
func membersOf(value []byte, names ...string) (map[string][]byte, bool) {
	if len(value) == 0 || value[0] != '{' {
		return nil, false
	}
	found, ok := map[string][]byte{}, true
	eachMember(value, func(name, value []byte, _ int) {
		for _, known := range names {
			if string(name) == known {
				_, twice := found[known]
				ok = ok && !twice
				found[known] = value
				return
			}
			ok = ok && !strings.EqualFold(string(name), known)
		}
		ok = ok && !escaped(name)
	})
	return found, ok
}

// escaped reports whether a decoder may read name as other bytes than it has.
func escaped(name []byte) bool {
	for _, c := range name {
		if c == '\\' || c >= 0x80 {
			return true
		}
	}
	return false
}

func (d *scanned) addList(kind store.Kind, list []byte) {
	n := 0
	var head []byte
	eachElement(list, func(raw []byte, _ int) {
		n++
		it, err := wire.ParseItem(kind, headOf(&head, raw))
		if err != nil {
			d.Skipped = append(d.Skipped, fmt.Errorf("%s number %d: %w", kind, n, err))
			return
		}
		it.Data = raw
		d.Items = append(d.Items, it)
	})
}

// headOf returns an object with those members of raw that wire.ParseItem may
// look at, built in buf, which makes the parsing cheap. Others among them do no
// harm, so their length is test enough.
func headOf(buf *[]byte, raw []byte) []byte {
	if raw[0] != '{' {
		return raw
	}
	head := append((*buf)[:0], '{')
	eachMember(raw, func(name, value []byte, _ int) {
		switch len(name) {
		case len("id"), len("key"), len("updatedAt"), len("isArchived"):
		default:
			if !escaped(name) {
				return
			}
		}
		if len(head) > 1 {
			head = append(head, ',')
		}
		head = append(append(append(head, '"'), name...), `":`...)
		head = append(head, value...)
	})
	*buf = append(head, '}')
	return *buf
}

// The rest walks valid JSON, and valid JSON only.

// eachMember calls f with the name, without quotes but otherwise as it stands
// there, the value and the value's offset of each member of the object that text
// begins with.
func eachMember(object []byte, f func(name, value []byte, at int)) {
	i := skipSpace(object, 1)
	for object[i] != '}' {
		start := i
		i = skipString(object, i)
		name := object[start+1 : i-1]
		i = skipSpace(object, i)
		start = skipSpace(object, i+1) // behind the colon
		i = skipValue(object, start)
		f(name, object[start:i:i], start)
		i = nextOf(object, i)
	}
}

// eachElement calls f with each element, and its offset, of the list that text
// begins with.
func eachElement(list []byte, f func(value []byte, at int)) {
	i := skipSpace(list, 1)
	for list[i] != ']' {
		start := i
		i = skipValue(list, i)
		f(list[start:i:i], start)
		i = nextOf(list, i)
	}
}

// nextOf returns where the next member or element begins, or the closing bracket
// is, after one that ends at i.
func nextOf(text []byte, i int) int {
	i = skipSpace(text, i)
	if text[i] == ',' {
		i = skipSpace(text, i+1)
	}
	return i
}

func skipSpace(text []byte, i int) int {
	for text[i] == ' ' || text[i] == '\n' || text[i] == '\r' || text[i] == '\t' {
		i++
	}
	return i
}

// skipString returns the end of the string that begins at i.
func skipString(text []byte, i int) int {
	for i++; text[i] != '"'; i++ {
		if text[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// skipValue returns the end of the value that begins at i.
func skipValue(text []byte, i int) int {
	for depth := 0; i < len(text); {
		switch text[i] {
		case '"':
			i = skipString(text, i)
			if depth == 0 {
				return i
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i // the end of what a number or literal stands in
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\n', '\r', '\t':
			if depth == 0 {
				return i // the end of a number or literal
			}
		}
		i++
	}
	return i
}
