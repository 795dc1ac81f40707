package file

import (
	"bytes"
	"encoding/json"
	"errors"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
)

// A source is a document as JSON, and knows where its parts stand in the text
// that somebody wrote.
type source struct {
	json []byte

	yaml   []byte  // what json was made of, if it was
	places []place // of values and names in yaml, by offset
}

// A place is where in the YAML that stands what begins at an offset of the JSON.
type place struct{ offset, line, column int32 }

// at returns the line and the column, in bytes, of what is at an offset of the
// JSON. Both count from 1.
func (s source) at(offset int) (line, column int) {
	if s.yaml == nil {
		before := s.json[:offset]
		return 1 + bytes.Count(before, []byte("\n")), offset - bytes.LastIndexByte(before, '\n')
	}
	i := sort.Search(len(s.places), func(i int) bool { return int(s.places[i].offset) > offset })
	if i == 0 {
		return 1, 1
	}
	p := s.places[i-1]
	return int(p.line), bytesIn(s.yaml, int(p.line), int(p.column))
}

// bytesIn turns a column that counts characters into one that counts bytes.
func bytesIn(text []byte, line, column int) int {
	for ; line > 1; line-- {
		_, rest, ok := bytes.Cut(text, []byte("\n"))
		if !ok {
			return column
		}
		text = rest
	}
	n := 0
	for range column - 1 {
		_, size := utf8.DecodeRune(text[n:])
		n += size
	}
	return n + 1
}

// placed says where in the file that is wrong which err says. Broken JSON has its
// place already.
func (s source) placed(err error) error {
	if !errors.Is(err, wire.ErrNotDataSync) || !json.Valid(s.json) {
		return err
	}
	return s.errorAt(misfit(s.json), err)
}

func (s source) errorAt(offset int, err error) error {
	line, column := s.at(offset)
	return &wire.SyntaxError{Line: line, Column: column, Err: err}
}

// placeSkipped says for each item that cannot be used where it is.
func (s source) placeSkipped(errs []error) {
	if len(errs) == 0 {
		return
	}
	if offsets := unusable(s.json); len(offsets) == len(errs) {
		for i, err := range errs {
			errs[i] = s.errorAt(offsets[i], err)
		}
	}
}

// misfit returns the offset in valid JSON of what keeps it from being a
// document: of a member that is not what it has to be, or of the object that
// lacks it.
func misfit(text []byte) int {
	root := skipSpace(text, 0)
	for _, m := range []struct {
		path string
		fits func(value []byte) bool
	}{
		{"", isObject},
		{"messageType", isText(wire.MessageDataSync)},
		{"data", isObject},
		{"data.eventType", isText(wire.Full)},
		{"data.featureFlags", isList},
		{"data.segments", isList},
	} {
		if at, found := find(text, root, m.path); !found || !m.fits(text[at:]) {
			return at
		}
	}
	if at, found := find(text, root, "flagstead"); found {
		return at
	}
	return root
}

func isObject(value []byte) bool { return value[0] == '{' }

func isText(want string) func([]byte) bool {
	return func(value []byte) bool {
		var s string
		return json.Unmarshal(value[:skipValue(value, 0)], &s) == nil && s == want
	}
}

// find returns the offset of the member that a path of names leads to from the
// value at offset at, or of the last object on the way. Of several members of a
// name it finds the one that a decoder keeps.
func find(text []byte, at int, path string) (offset int, found bool) {
	for name := range strings.SplitSeq(path, ".") {
		if name == "" {
			break
		}
		if text[at] != '{' {
			return at, false
		}
		object, member := at, -1
		eachMember(text[object:], func(n, _ []byte, i int) {
			if strings.EqualFold(string(n), name) {
				member = object + i
			}
		})
		if member < 0 {
			return object, false
		}
		at = member
	}
	return at, true
}

// unusable returns the offsets of the items that wire skips, in its order.
func unusable(text []byte) (offsets []int) {
	root := skipSpace(text, 0)
	for _, kind := range []store.Kind{store.Flag, store.Segment} {
		path := "data.featureFlags"
		if kind == store.Segment {
			path = "data.segments"
		}
		list, found := find(text, root, path)
		if !found || !isList(text[list:]) {
			return nil
		}
		eachElement(text[list:], func(raw []byte, i int) {
			if _, err := wire.ParseItem(kind, raw); err != nil {
				offsets = append(offsets, list+i)
			}
		})
	}
	return offsets
}
