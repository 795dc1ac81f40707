// Package wire turns FeatBit's data-sync documents into store items and back.
//
// It reads of an item only what a store needs (key, version, archived); the
// item's JSON passes through untouched, so fields that this code has never
// heard of survive. The document is the one that FeatBit's evaluation server
// sends over the stream and from GET /api/public/sdk/server/latest-all:
//
//	{"messageType":"data-sync","data":{"eventType":"full","featureFlags":[…],"segments":[…]}}
package wire

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/flagstead/flagstead/store"
)

// The event types of a data-sync document.
const (
	Full  = "full"
	Patch = "patch"
)

// MessageDataSync is the messageType of a data-sync document.
const MessageDataSync = "data-sync"

// A DataSync is a decoded data-sync document.
type DataSync struct {
	EventType string // Full or Patch
	Items     []store.Item

	// Skipped has one error per item that could not be taken over (not an
	// object, no key); the other items are unaffected.
	Skipped []error
}

// A SyntaxError says where in a text the JSON is broken.
type SyntaxError struct {
	Line, Column int // counted from 1; Column in bytes
	Err          error
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("line %d, column %d: %v", e.Line, e.Column, e.Err)
}

// Unwrap returns the decoder's own error.
func (e *SyntaxError) Unwrap() error { return e.Err }

// ErrNotDataSync is returned for valid JSON that is not a data-sync document.
var ErrNotDataSync = errors.New("not a FeatBit data-sync document")

type document struct {
	MessageType string           `json:"messageType"`
	Data        *json.RawMessage `json:"data"`
}

type payload struct {
	EventType    string             `json:"eventType"`
	FeatureFlags *[]json.RawMessage `json:"featureFlags"`
	Segments     *[]json.RawMessage `json:"segments"`
}

// Parse decodes a data-sync document. The items' Data are copies, so text may
// be reused. Broken JSON gives a *SyntaxError, anything else that is no
// data-sync document an error that wraps ErrNotDataSync and says why.
func Parse(text []byte) (DataSync, error) {
	if d, _, ok := Scan(text, ""); ok {
		d.copied()
		return d, nil
	}
	return Decode(text)
}

// Decode is Parse by the means of encoding/json, for documents of every kind.
func Decode(text []byte) (DataSync, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return DataSync{}, fmt.Errorf("%w: the document is empty", ErrNotDataSync)
	}
	var doc document
	if err := json.Unmarshal(text, &doc); err != nil {
		return DataSync{}, Locate(text, err)
	}
	if doc.MessageType != MessageDataSync {
		return DataSync{}, fmt.Errorf("%w: messageType is %q, want %q", ErrNotDataSync, doc.MessageType, MessageDataSync)
	}
	if doc.Data == nil {
		return DataSync{}, fmt.Errorf("%w: no data member", ErrNotDataSync)
	}
	return decodePayload(*doc.Data)
}

// ParsePayload decodes the data member of a data-sync document, as Parse does.
func ParsePayload(text []byte) (DataSync, error) {
	if d, ok := scanPayload(text); ok {
		d.copied()
		return d, nil
	}
	return decodePayload(text)
}

func decodePayload(text []byte) (DataSync, error) {
	var p payload
	if err := json.Unmarshal(text, &p); err != nil {
		return DataSync{}, Locate(text, err)
	}
	switch {
	case p.EventType != Full && p.EventType != Patch:
		return DataSync{}, fmt.Errorf("%w: eventType is %q, want %q or %q", ErrNotDataSync, p.EventType, Full, Patch)
	case p.FeatureFlags == nil:
		return DataSync{}, fmt.Errorf("%w: no featureFlags member", ErrNotDataSync)
	case p.Segments == nil:
		return DataSync{}, fmt.Errorf("%w: no segments member", ErrNotDataSync)
	}
	d := DataSync{EventType: p.EventType, Items: make([]store.Item, 0, len(*p.FeatureFlags)+len(*p.Segments))}
	d.add(store.Flag, *p.FeatureFlags)
	d.add(store.Segment, *p.Segments)
	return d, nil
}

func (d *DataSync) add(kind store.Kind, list []json.RawMessage) {
	for i, raw := range list {
		it, err := decodeItem(kind, raw)
		if err != nil {
			d.Skipped = append(d.Skipped, fmt.Errorf("%s number %d: %w", kind, i+1, err))
			continue
		}
		d.Items = append(d.Items, it)
	}
}

// head is what a store needs of an item. Every member is read leniently: a flag
// with one odd member must not reject the document it came in.
type head struct {
	Key        json.RawMessage `json:"key"`
	ID         json.RawMessage `json:"id"`
	UpdatedAt  json.RawMessage `json:"updatedAt"`
	IsArchived json.RawMessage `json:"isArchived"`
}

// ParseItem reads one flag or segment. It keeps raw as the item's Data. An
// updatedAt that is missing or unreadable gives version 0.
func ParseItem(kind store.Kind, raw []byte) (store.Item, error) {
	if it, ok := scanItem(kind, raw); ok {
		return it, nil
	}
	return decodeItem(kind, raw)
}

func decodeItem(kind store.Kind, raw []byte) (store.Item, error) {
	var h head
	if err := json.Unmarshal(raw, &h); err != nil {
		return store.Item{}, errors.New(InWords(err))
	}
	name, member := h.Key, "key"
	if kind == store.Segment {
		name, member = h.ID, "id"
	}
	it := store.Item{Kind: kind, Data: raw, Archived: string(h.IsArchived) == "true"}
	if json.Unmarshal(name, &it.Key) != nil || it.Key == "" {
		return store.Item{}, fmt.Errorf("%q is missing or not a text", member)
	}
	var updated string
	if json.Unmarshal(h.UpdatedAt, &updated) == nil {
		it.Version = Millis(updated)
	}
	return it, nil
}

// Millis returns an updatedAt as milliseconds since the Unix epoch, floored as
// FeatBit's server floors it, or 0 if it cannot be read. A time without a zone
// is UTC.
func Millis(updatedAt string) int64 {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999"} {
		if t, err := time.Parse(layout, updatedAt); err == nil {
			// Below 2^53, so that a version survives stores that count in doubles.
			if ms := t.UnixMilli(); ms > 0 && ms < 1<<53 {
				return ms
			}
			return 0
		}
	}
	return 0
}

// FormatMillis is the inverse of Millis.
func FormatMillis(ms int64) string {
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
}

// Restamp returns a copy of it with another version, also inside its Data.
func Restamp(it store.Item, version int64) (store.Item, error) {
	return rewrite(it, version, it.Archived)
}

// Tombstone returns a copy of it that is archived and has another version, also
// inside its Data: what an SDK must see of an item that was deleted.
func Tombstone(it store.Item, version int64) (store.Item, error) {
	return rewrite(it, version, true)
}

func rewrite(it store.Item, version int64, archived bool) (store.Item, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(it.Data, &members); err != nil {
		return store.Item{}, fmt.Errorf("%s %q: %w", it.Kind, it.Key, err)
	}
	members["updatedAt"] = json.RawMessage(`"` + FormatMillis(version) + `"`)
	members["isArchived"] = json.RawMessage("false")
	if archived {
		members["isArchived"] = json.RawMessage("true")
	}
	data, err := json.Marshal(members)
	if err != nil {
		return store.Item{}, fmt.Errorf("%s %q: %w", it.Kind, it.Key, err)
	}
	it.Version, it.Archived, it.Data = version, archived, data
	return it, nil
}

// AppendDataSync appends a data-sync document with items, sorted by version as
// FeatBit's server sends them, and returns the extended buffer. It does not
// keep or change items.
func AppendDataSync(dst []byte, eventType string, items []store.Item) []byte {
	sorted := slices.Clone(items)
	slices.SortFunc(sorted, func(a, b store.Item) int {
		return cmp.Or(cmp.Compare(a.Version, b.Version), cmp.Compare(a.Key, b.Key))
	})
	dst = append(dst, `{"messageType":"data-sync","data":{"eventType":"`...)
	dst = append(dst, eventType...)
	dst = append(dst, `","featureFlags":[`...)
	dst = appendItems(dst, store.Flag, sorted)
	dst = append(dst, `],"segments":[`...)
	dst = appendItems(dst, store.Segment, sorted)
	return append(dst, `]}}`...)
}

func appendItems(dst []byte, kind store.Kind, items []store.Item) []byte {
	first := true
	for _, it := range items {
		if it.Kind != kind {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(dst, it.Data...)
	}
	return dst
}

// Locate turns the error of decoding text into a *SyntaxError that says where the
// JSON is broken, or, if its shape is wrong, into one that wraps ErrNotDataSync.
func Locate(text []byte, err error) error {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return at(text, syntax.Offset, err)
	}
	return fmt.Errorf("%w: %s", ErrNotDataSync, InWords(err))
}

// InWords returns the text of an error for people who write JSON. The decoder's
// own text for a member of the wrong type speaks of Go's types.
func InWords(err error) string {
	wrong, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		return err.Error()
	}
	kind, _, _ := strings.Cut(wrong.Value, " ") // "number 1.5" has the number, too
	words := "it is a JSON " + kind
	if wrong.Field != "" {
		words = wrong.Field + " is " + cmp.Or(jsonKinds[kind], kind)
		if want := goKinds[wrong.Type.Kind()]; want != "" {
			words += ", not " + want
		}
	}
	return strings.Replace(err.Error(), wrong.Error(), words, 1)
}

var jsonKinds = map[string]string{
	"string": "a text", "number": "a number", "bool": "true or false", "array": "a list", "object": "an object",
}

var goKinds = map[reflect.Kind]string{
	reflect.String: "a text", reflect.Bool: "true or false", reflect.Slice: "a list", reflect.Array: "a list",
	reflect.Struct: "an object", reflect.Map: "an object", reflect.Int64: "a number", reflect.Float64: "a number",
}

func at(text []byte, offset int64, err error) error {
	before := text[:min(max(offset-1, 0), int64(len(text)))]
	line := 1 + bytes.Count(before, []byte("\n"))
	column := len(before) - bytes.LastIndexByte(before, '\n')
	return &SyntaxError{Line: line, Column: column, Err: err}
}
