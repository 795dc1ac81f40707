package wire

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/flagstead/flagstead/internal/jsonwalk"
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
	end := s.members(jsonwalk.Space(text, 0), func(name string, at int) int {
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
			return jsonwalk.Skip(text, at)
		case &data:
			end = s.payload(at)
		default:
			end = jsonwalk.Skip(text, at)
		}
		return keep(once, text, at, end)
	})
	if end < 0 || jsonwalk.Space(text, end) != len(text) || string(messageType) != `"`+MessageDataSync+`"` || data == nil {
		return DataSync{}, nil, false
	}
	return s.result(), value, true
}

// scanPayload does what Scan does for the data member of a document.
func scanPayload(text []byte) (DataSync, bool) {
	s := scan{text: text}
	at := jsonwalk.Space(text, 0)
	if at == len(text) || text[at] != '{' {
		return DataSync{}, false
	}
	if end := s.payload(at); end < 0 || jsonwalk.Space(text, end) != len(text) {
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
			return keep(&eventType, text, at, jsonwalk.Skip(text, at))
		case "featureFlags":
			return keep(&flags, text, at, s.list(store.Flag, &s.flags, &s.skipped[0], at))
		case "segments":
			return keep(&segments, text, at, s.list(store.Segment, &s.segments, &s.skipped[1], at))
		}
		if foldsTo(name, "eventType", "featureFlags", "segments") {
			return -1
		}
		return jsonwalk.Skip(text, at)
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
	i := jsonwalk.Space(text, at+1)
	if i < len(text) && text[i] == '}' {
		return i + 1
	}
	for {
		start := i
		end, plain := jsonwalk.String(text, i)
		if end < 0 || !plain {
			return -1
		}
		if i = jsonwalk.Colon(text, end); i < 0 {
			return -1
		}
		if i = f(string(text[start+1:end-1]), i); i < 0 {
			return -1
		}
		var more bool
		if i, more = jsonwalk.Next(text, i, '}'); !more {
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
	i := jsonwalk.Space(text, at+1)
	if i < len(text) && text[i] == ']' {
		return i + 1
	}
	for n := 1; ; n++ {
		start := i
		it, end := s.item(kind, i)
		if end < 0 { // unusual, or no item at all
			if end = jsonwalk.Skip(text, start); end < 0 {
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
		if i, more = jsonwalk.Next(text, end, ']'); !more {
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
	i := jsonwalk.Space(text, at+1)
	for more := i < len(text) && text[i] != '}'; more; {
		start := i
		end, plain := jsonwalk.String(text, i)
		if end < 0 || !plain {
			return store.Item{}, -1
		}
		name := text[start+1 : end-1]
		if i = jsonwalk.Colon(text, end); i < 0 {
			return store.Item{}, -1
		}
		if end = jsonwalk.Skip(text, i); end < 0 {
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
		if i, more = jsonwalk.Next(text, end, '}'); i < 0 {
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
	if end, plain := jsonwalk.String(value, 0); end != len(value) || !plain {
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

// copied gives the items Data of their own.
func (d *DataSync) copied() {
	for i := range d.Items {
		d.Items[i].Data = bytes.Clone(d.Items[i].Data)
	}
}
