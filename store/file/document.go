package file

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"

	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
)

// A content is one state of the store. It is not modified once it is made.
type content struct {
	rev   store.Rev
	items map[store.ID]store.Item

	// odd are the items that a plain document cannot tell from their Data.
	odd map[store.ID]bool
}

func (c content) list() []store.Item {
	if len(c.items) == 0 {
		return nil
	}
	return slices.AppendSeq(make([]store.Item, 0, len(c.items)), maps.Values(c.items))
}

// revOf names a document by its text, so that equal Revs mean equal content
// whoever wrote it, when and where.
func revOf(text []byte) store.Rev {
	sum := sha256.Sum256(text)
	return store.Rev(hex.EncodeToString(sum[:16]))
}

// apply returns what ch makes of c, and whether that is anything else.
func (c content) apply(ch store.Change) (content, bool) {
	if ch.Full {
		next := content{items: merged(ch.Items), odd: map[store.ID]bool{}}
		for id, it := range next.items {
			old, ok := c.items[id]
			if next.setOdd(it, ok && same(old, it), c.odd[id]); ok && same(old, it) {
				next.items[id] = old // one copy of the Data is enough
			}
		}
		return next, !maps.EqualFunc(c.items, next.items, same)
	}
	next, changed := content{}, false
	for _, it := range ch.Items {
		id := it.ID()
		if !changed {
			if old, ok := c.items[id]; ok && old.Version >= it.Version {
				continue
			}
			next.items, next.odd = cloned(c.items), cloned(c.odd)
			changed = true
		}
		if old, ok := next.items[id]; !ok || old.Version < it.Version {
			next.items[id] = it
			next.setOdd(it, false, false)
		}
	}
	if !changed {
		return c, false
	}
	return next, true
}

// setOdd notes whether it is odd: as it was if that is known, else by looking.
func (c content) setOdd(it store.Item, known, was bool) {
	if known && was || !known && !plain(it) {
		c.odd[it.ID()] = true
	} else {
		delete(c.odd, it.ID())
	}
}

// detach makes items that are as they were in old share their Data with it, and gives the
// others Data of their own: whoever keeps a few of them must not keep the whole text that c
// was read from, and the next one, and so on.
func (c content) detach(old content) {
	for id, it := range c.items {
		if was, ok := old.items[id]; ok && same(was, it) {
			it.Data = was.Data
		} else {
			it.Data = bytes.Clone(it.Data)
		}
		c.items[id] = it
	}
}

func cloned[V any](m map[store.ID]V) map[store.ID]V {
	if m == nil {
		return map[store.ID]V{}
	}
	return maps.Clone(m)
}

// merged returns items by ID, of several the largest version, and of equal ones
// the last.
func merged(items []store.Item) map[store.ID]store.Item {
	m := make(map[store.ID]store.Item, len(items))
	for _, it := range items {
		if old, ok := m[it.ID()]; !ok || it.Version >= old.Version {
			m[it.ID()] = it
		}
	}
	return m
}

func same(a, b store.Item) bool {
	return a.Version == b.Version && a.Archived == b.Archived && bytes.Equal(a.Data, b.Data)
}

// plain reports whether a document that has only it.Data gives back all of it.
func plain(it store.Item) bool {
	if len(it.Data) == 0 || it.Data[0] != '{' || it.Data[len(it.Data)-1] != '}' || !utf8.Valid(it.Data) {
		return false
	}
	got, err := wire.ParseItem(it.Kind, it.Data)
	if err != nil || got.Key != it.Key || got.Version != it.Version || got.Archived != it.Archived {
		return false
	}
	// Decoders bound the nesting, and in the document it is deeper: inside the
	// document, its data member and a list.
	return json.Valid(slices.Concat([]byte("[[["), it.Data, []byte("]]]")))
}

// extras is the member "flagstead" of a document.
type extras struct {
	Items []oddItem `json:"items"`
}

// An oddItem is an item in full, with its Data in base64.
type oddItem struct {
	Kind     string `json:"kind"`
	Key      string `json:"key,omitempty"`
	RawKey   []byte `json:"rawKey,omitempty"` // instead of Key if that is not UTF-8
	Version  int64  `json:"version"`
	Archived bool   `json:"archived,omitempty"`
	Data     []byte `json:"data"`
}

// encode returns the document of c.
func (c content) encode() ([]byte, error) {
	items := c.list()
	odd := slices.Clone(items)
	odd = slices.DeleteFunc(odd, func(it store.Item) bool { return !c.odd[it.ID()] })
	items = slices.DeleteFunc(items, func(it store.Item) bool { return c.odd[it.ID()] })
	size := 256
	for _, it := range items {
		size += len(it.Data) + 1
	}
	text := wire.AppendDataSync(make([]byte, 0, size), wire.Full, items)
	if len(odd) > 0 {
		more, err := json.Marshal(extrasOf(odd))
		if err != nil {
			return nil, err
		}
		text = append(bytes.TrimSuffix(text, []byte("}")), `,"flagstead":`...)
		text = append(append(text, more...), '}')
	}
	return append(text, '\n'), nil
}

func extrasOf(items []store.Item) extras {
	slices.SortFunc(items, func(a, b store.Item) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key, b.Key))
	})
	var x extras
	for _, it := range items {
		o := oddItem{Kind: it.Kind.String(), Key: it.Key, Version: it.Version, Archived: it.Archived, Data: it.Data}
		if !utf8.ValidString(it.Key) {
			o.Key, o.RawKey = "", []byte(it.Key)
		}
		x.Items = append(x.Items, o)
	}
	return x
}

// parse reads a document. The errors in skipped are of single items that cannot
// be used; the others are unaffected. Errors say where in the file they are.
func parse(s source) (c content, skipped []error, err error) {
	doc, extra, ok := wire.Scan(s.json, "flagstead")
	if !ok || doc.EventType != wire.Full {
		if doc, extra, err = decode(s.json); err != nil {
			return content{}, nil, s.placed(err)
		}
	}
	s.placeSkipped(doc.Skipped)
	odd, err := parseExtras(extra)
	if err != nil {
		return content{}, nil, s.placed(err)
	}
	c = content{items: merged(append(odd, doc.Items...)), odd: map[store.ID]bool{}}
	for _, it := range odd {
		// An editor may have added a newer one of the same key to the document.
		if same(c.items[it.ID()], it) {
			c.odd[it.ID()] = true
		}
	}
	return c, doc.Skipped, nil
}

// decode is wire.Scan for documents of all kinds, and says what is wrong with them.
func decode(text []byte) (doc wire.DataSync, extra []byte, err error) {
	if doc, err = wire.Decode(text); err != nil {
		return doc, nil, err
	}
	if doc.EventType != wire.Full {
		return doc, nil, fmt.Errorf("%w: eventType is %q, but a file holds the whole state: %q", wire.ErrNotDataSync, doc.EventType, wire.Full)
	}
	var more struct {
		Flagstead json.RawMessage `json:"flagstead"`
	}
	if err := json.Unmarshal(text, &more); err != nil {
		return doc, nil, wire.Locate(text, err)
	}
	return doc, more.Flagstead, nil
}

func parseExtras(text []byte) ([]store.Item, error) {
	if len(text) == 0 {
		return nil, nil
	}
	var x extras
	if err := json.Unmarshal(text, &x); err != nil {
		return nil, wire.Locate(text, err)
	}
	items := make([]store.Item, 0, len(x.Items))
	for i, o := range x.Items {
		it := store.Item{Key: o.Key, Version: o.Version, Archived: o.Archived, Data: o.Data}
		if len(o.RawKey) > 0 {
			it.Key = string(o.RawKey)
		}
		switch o.Kind {
		case store.Flag.String():
			it.Kind = store.Flag
		case store.Segment.String():
			it.Kind = store.Segment
		}
		if it.Kind == 0 || it.Key == "" {
			return nil, fmt.Errorf("%w: item %d of member flagstead has kind %q and key %q", wire.ErrNotDataSync, i+1, o.Kind, it.Key)
		}
		items = append(items, it)
	}
	return items, nil
}
