package flags

import (
	"bytes"
	"hash/maphash"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// A Source is a flag or segment as it came from a store.
type Source struct {
	Segment  bool   // a segment, not a flag
	Key      string // flag key or segment id
	Version  int64  // updatedAt in milliseconds since the Unix epoch
	Archived bool
	Data     []byte // JSON, never modified
}

// A Set is an immutable collection of flags and segments. The zero Set is empty
// and ready to use.
type Set struct {
	flags directory
	segs  []*segEntry // by symbol; nil: no such segment
	syms  *symbols

	// The flags that are not archived by key, once somebody asked for all of them.
	sorted atomic.Pointer[[]*entry]
}

// An entry is a flag that is compiled when it is first evaluated. It is shared
// by all sets in which the flag is the same.
type entry struct {
	compiled atomic.Pointer[Flag] // nil as well if it is archived
	item
}

// A segEntry is an entry of a segment.
type segEntry struct {
	compiled atomic.Pointer[segment] // nil as well if it is archived
	item
}

// An item is what flags and segments have in common.
type item struct {
	text     atomic.Pointer[[]byte] // the JSON; nil once it is compiled, which takes less memory
	key      string
	version  int64
	archived bool
}

func (it *item) init(src *Source) {
	data := src.Data
	it.text.Store(&data)
	it.key, it.version, it.archived = src.Key, src.Version, src.Archived
}

// same reports whether the item was made of src, or of what is equal, whose JSON it then
// shares. sum returns the checksum of the item's JSON, and is asked for it once that is gone.
func (it *item) same(src *Source, sum func() uint64) bool {
	if it.version != src.Version || it.archived != src.Archived {
		return false
	}
	text := it.text.Load()
	if text == nil {
		return sum() == checksum(src.Data)
	}
	if !bytes.Equal(*text, src.Data) {
		return false
	}
	if data := src.Data; len(data) > 0 && &data[0] != &(*text)[0] {
		it.text.CompareAndSwap(text, &data) // one copy is enough: the store's
	}
	return true
}

// checksum returns a hash by which a flag's JSON is known again. Its seed is random, so
// that nobody can make two texts that have the same.
func checksum(text []byte) uint64 { return maphash.Bytes(sumSeed, text) }

var sumSeed = maphash.MakeSeed()

func newEntry(src *Source) *entry {
	e := new(entry)
	e.init(src)
	return e
}

// flag returns the compiled flag, or nil if it is archived.
func (e *entry) flag(s *Set) *Flag {
	if f := e.compiled.Load(); f != nil {
		return f
	}
	return e.compile(s)
}

func (e *entry) compile(s *Set) *Flag {
	if text := e.text.Load(); text != nil && !e.archived {
		e.compiled.CompareAndSwap(nil, compileFlag(e.key, e.version, *text, s.syms))
		e.text.Store(nil)
	}
	return e.compiled.Load()
}

func (e *entry) same(src *Source) bool {
	return e.item.same(src, func() uint64 { return e.compiled.Load().sum })
}

func newSegEntry(src *Source) *segEntry {
	e := new(segEntry)
	e.init(src)
	return e
}

func (e *segEntry) compile(s *Set) *segment {
	if text := e.text.Load(); text != nil && !e.archived {
		e.compiled.CompareAndSwap(nil, compileSegment(e.key, *text, s.syms))
		e.text.Store(nil)
	}
	return e.compiled.Load()
}

func (e *segEntry) same(src *Source) bool {
	return e.item.same(src, func() uint64 { return e.compiled.Load().sum })
}

// segment returns a compiled segment, or nil if there is none or it is archived.
func (s *Set) segment(id int32) *segment {
	if int(id) >= len(s.segs) {
		return nil // named by a condition only
	}
	e := s.segs[id]
	if e == nil {
		return nil
	}
	if seg := e.compiled.Load(); seg != nil {
		return seg
	}
	return e.compile(s)
}

// symbols numbers segment ids, so that a compiled condition finds a segment in
// any later set by an index. A family of sets shares one.
type symbols struct {
	mu  sync.Mutex
	ids map[string]int32
}

func (y *symbols) intern(id string) int32 {
	y.mu.Lock()
	defer y.mu.Unlock()
	n, ok := y.ids[id]
	if !ok {
		n = int32(len(y.ids))
		y.ids[strings.Clone(id)] = n // it may be a part of something
	}
	return n
}

// Changes tells what differs between a set and the one before it. A key is
// listed once; the order says nothing.
type Changes struct {
	Flags    []string // added, replaced or removed
	Segments []string
}

// Apply returns the set in which items are merged into s, or, if full, in which
// they are everything, and what changed. In a full, of two items with one key the
// one with the larger version counts, the last among equals. In a merge, where
// there must be one item per key, it replaces that of s whatever its version: a
// store says what is there now, and that may be an older state that was restored.
// Unchanged entries keep what was compiled. s is not modified.
func (s *Set) Apply(full bool, items []Source) (*Set, Changes) {
	next := &Set{syms: s.syms}
	if next.syms == nil {
		next.syms = &symbols{ids: map[string]int32{}}
	}
	if full {
		next.replace(s, items)
		return next, next.since(s)
	}
	return next, next.merge(s, items)
}

// replace makes s of items alone, and of what old has of them.
func (s *Set) replace(old *Set, items []Source) {
	flags := 0
	for i := range items {
		if !items[i].Segment {
			flags++
		}
	}
	ed := newDirectory(flags)
	for i := range items {
		it := &items[i]
		if it.Segment {
			if e := s.segEntry(s.syms.intern(it.Key)); e == nil || e.version <= it.Version {
				s.putSegment(old, it)
			}
			continue
		}
		if had := ed.find(it.Key); had == nil || had.version <= it.Version {
			ed.put(entryOf(it, old))
		}
	}
	s.flags = ed.directory
}

// entryOf returns the entry of old for an item, if that is the same, so that it stays
// compiled, or else a new one.
func entryOf(it *Source, old *Set) *entry {
	if e := old.flags.find(it.Key); e != nil && e.same(it) {
		return e
	}
	return newEntry(it)
}

// since returns what differs between old and s, which has everything.
func (s *Set) since(old *Set) Changes {
	var c Changes
	if old.flags.n == 0 {
		c.Flags = make([]string, 0, s.flags.n)
	}
	for e := range s.flags.all() {
		if old.flags.n == 0 || old.flags.find(e.key) != e {
			c.Flags = append(c.Flags, e.key)
		}
	}
	for e := range old.flags.all() {
		if s.flags.find(e.key) == nil {
			c.Flags = append(c.Flags, e.key)
		}
	}
	for id := range int32(max(len(s.segs), len(old.segs))) {
		is, was := s.segEntry(id), old.segEntry(id)
		switch {
		case is == was:
		case is != nil:
			c.Segments = append(c.Segments, is.key)
		default:
			c.Segments = append(c.Segments, was.key)
		}
	}
	return c
}

// merge makes s of old and items.
func (s *Set) merge(old *Set, items []Source) Changes {
	var c Changes
	s.segs = slices.Clone(old.segs)
	ed := old.flags.edit()
	var changed []*entry
	for i := range items {
		it := &items[i]
		if it.Segment {
			if s.putSegment(old, it) {
				c.Segments = append(c.Segments, it.Key)
			}
			continue
		}
		e := entryOf(it, old)
		if e == ed.find(it.Key) {
			continue
		}
		ed.put(e)
		c.Flags = append(c.Flags, it.Key)
		changed = append(changed, e)
	}
	s.flags = ed.directory
	if list := old.sorted.Load(); list != nil {
		s.sorted.Store(resort(*list, changed))
	}
	slices.Sort(c.Flags)
	slices.Sort(c.Segments)
	c.Flags, c.Segments = slices.Compact(c.Flags), slices.Compact(c.Segments)
	return c
}

func (s *Set) segEntry(id int32) *segEntry {
	if int(id) >= len(s.segs) {
		return nil
	}
	return s.segs[id]
}

// putSegment puts a segment in, and reports whether old lacks it. It keeps the entry
// of old if that is the same, so that it stays compiled.
func (s *Set) putSegment(old *Set, it *Source) bool {
	id := s.syms.intern(it.Key)
	for int(id) >= len(s.segs) {
		s.segs = append(s.segs, nil)
	}
	if e := old.segEntry(id); e != nil && e.same(it) {
		s.segs[id] = e
		return false
	}
	s.segs[id] = newSegEntry(it)
	return true
}

// Known reports whether the set has a flag with this key that is not archived.
func (s *Set) Known(key string) bool {
	e := s.flags.find(key)
	return e != nil && !e.archived
}

// Flag returns the compiled flag with this key, or nil.
func (s *Set) Flag(key string) *Flag {
	if e := s.flags.find(key); e != nil {
		return e.flag(s)
	}
	return nil
}

// All iterates over the evaluations of every flag that is not archived, ordered by
// key.
func (s *Set) All(u *User) iter.Seq2[*Flag, Result] {
	return func(yield func(*Flag, Result) bool) {
		for _, e := range s.list() {
			f := e.flag(s)
			if v, how := s.serve(f, u); !yield(f, result(f, v, how)) {
				return
			}
		}
	}
}

// list returns the flags that are not archived, ordered by key. Sorting takes longer
// than evaluating, so that the order is kept.
func (s *Set) list() []*entry {
	if list := s.sorted.Load(); list != nil {
		return *list
	}
	list := make([]*entry, 0, s.flags.n)
	for e := range s.flags.all() {
		if !e.archived {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b *entry) int { return strings.Compare(a.key, b.key) })
	s.sorted.Store(&list)
	return list
}

// resort returns list with the changed entries in it.
func resort(list []*entry, changed []*entry) *[]*entry {
	list = slices.Clone(list)
	for _, e := range changed {
		at, found := slices.BinarySearchFunc(list, e.key, func(e *entry, key string) int { return strings.Compare(e.key, key) })
		switch {
		case found && e.archived:
			list = slices.Delete(list, at, at+1)
		case found:
			list[at] = e
		case !e.archived:
			list = slices.Insert(list, at, e)
		}
	}
	return &list
}

// Len returns the number of flags and segments, archived ones included.
func (s *Set) Len() (flags, segments int) {
	for _, e := range s.segs {
		if e != nil {
			segments++
		}
	}
	return s.flags.n, segments
}

// FlagsUsing returns the keys of the flags that a change of the given segments
// may affect, directly or through other segments, sorted. It compiles only
// items whose JSON contains one of the ids.
func (s *Set) FlagsUsing(segments []string) []string {
	if len(segments) == 0 {
		return nil
	}
	wanted := s.segmentsUsing(segments)
	var keys []string
	for e := range s.flags.all() {
		if !e.archived && e.mayName(wanted) && s.names(e.flag(s).segments(), wanted) {
			keys = append(keys, e.key)
		}
	}
	slices.Sort(keys)
	return keys
}

// segmentsUsing adds to segments those whose rules name one of them.
func (s *Set) segmentsUsing(segments []string) []string {
	all := slices.Clone(segments)
	for grown := true; grown; {
		grown = false
		for id, e := range s.segs {
			if e == nil || e.archived || slices.Contains(all, e.key) || !e.mayName(all) {
				continue
			}
			if s.names(s.segment(int32(id)).segments(), all) {
				all, grown = append(all, e.key), true
			}
		}
	}
	return all
}

// mayName reports whether the item's JSON contains one of the ids, or is gone.
func (it *item) mayName(ids []string) bool {
	text := it.text.Load()
	return text == nil || slices.ContainsFunc(ids, func(id string) bool { return bytes.Contains(*text, []byte(id)) })
}

// Newest returns the largest version among the flag with this key and the segments
// that it names, directly or through others; 0 if there is no such flag. An archived
// flag is one, too.
func (s *Set) Newest(key string) int64 {
	e := s.flags.find(key)
	if e == nil {
		return 0
	}
	newest := e.version
	if !e.archived {
		if ids := e.flag(s).segments(); len(ids) > 0 {
			newest = s.newest(ids, map[int32]struct{}{}, newest)
		}
	}
	return newest
}

func (s *Set) newest(ids []int32, seen map[int32]struct{}, newest int64) int64 {
	for _, id := range ids {
		if _, ok := seen[id]; ok {
			continue
		}
		seen[id] = struct{}{}
		if e := s.segEntry(id); e != nil {
			newest = max(newest, e.version)
		}
		if seg := s.segment(id); seg != nil {
			newest = s.newest(seg.segments(), seen, newest)
		}
	}
	return newest
}

func (s *Set) names(ids []int32, keys []string) bool {
	return slices.ContainsFunc(keys, func(key string) bool {
		return slices.Contains(ids, s.syms.intern(key))
	})
}
