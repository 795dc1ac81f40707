package flags

import (
	"bytes"
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
	hash     uint64               // of the key
	src      Source
}

// flag returns the compiled flag, or nil if it is archived.
func (e *entry) flag(s *Set) *Flag {
	if f := e.compiled.Load(); f != nil {
		return f
	}
	return e.compile(s)
}

// compile returns the compiled flag, or nil if it is archived.
func (e *entry) compile(s *Set) *Flag {
	if e.src.Archived {
		return nil
	}
	e.compiled.CompareAndSwap(nil, compileFlag(e.src, s.syms))
	return e.compiled.Load()
}

type segEntry struct {
	compiled atomic.Pointer[segment] // nil as well if it is archived
	src      Source
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
	if e.src.Archived {
		return nil
	}
	e.compiled.CompareAndSwap(nil, compileSegment(e.src, s.syms))
	return e.compiled.Load()
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
		y.ids[id] = n
	}
	return n
}

// Changes tells what differs between a set and the one before it. A key is
// listed once.
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
			if e := s.segEntry(s.syms.intern(it.Key)); e == nil || e.src.Version <= it.Version {
				s.putSegment(old, it)
			}
			continue
		}
		hash := hashOf(it.Key)
		if had := ed.get(it.Key, hash); had == nil || had.src.Version <= it.Version {
			ed.put(entryOf(it, hash, old))
		}
	}
	s.flags = ed.directory
}

// entryOf returns the entry of old for an item, if that is the same, so that it stays
// compiled, or else a new one.
func entryOf(it *Source, hash uint64, old *Set) *entry {
	if e := old.flags.get(it.Key, hash); e != nil && e.src.same(it) {
		return e
	}
	return &entry{src: *it, hash: hash}
}

// since returns what differs between old and s, which has everything.
func (s *Set) since(old *Set) Changes {
	var c Changes
	for e := range s.flags.all() {
		if old.flags.get(e.src.Key, e.hash) != e {
			c.Flags = append(c.Flags, e.src.Key)
		}
	}
	for e := range old.flags.all() {
		if s.flags.get(e.src.Key, e.hash) == nil {
			c.Flags = append(c.Flags, e.src.Key)
		}
	}
	for id := range int32(max(len(s.segs), len(old.segs))) {
		is, was := s.segEntry(id), old.segEntry(id)
		switch {
		case is == was:
		case is != nil:
			c.Segments = append(c.Segments, is.src.Key)
		default:
			c.Segments = append(c.Segments, was.src.Key)
		}
	}
	slices.Sort(c.Flags)
	slices.Sort(c.Segments)
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
		hash := hashOf(it.Key)
		e := entryOf(it, hash, old)
		if e == ed.get(it.Key, hash) {
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
	if e := old.segEntry(id); e != nil && e.src.same(it) {
		s.segs[id] = e
		return false
	}
	s.segs[id] = &segEntry{src: *it}
	return true
}

func (a *Source) same(b *Source) bool {
	return a.Version == b.Version && a.Archived == b.Archived && bytes.Equal(a.Data, b.Data)
}

// Known reports whether the set has a flag with this key that is not archived.
func (s *Set) Known(key string) bool {
	e := s.flags.find(key)
	return e != nil && !e.src.Archived
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
		if !e.src.Archived {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b *entry) int { return strings.Compare(a.src.Key, b.src.Key) })
	s.sorted.Store(&list)
	return list
}

// resort returns list with the changed entries in it.
func resort(list []*entry, changed []*entry) *[]*entry {
	list = slices.Clone(list)
	for _, e := range changed {
		at, found := slices.BinarySearchFunc(list, e.src.Key, func(e *entry, key string) int { return strings.Compare(e.src.Key, key) })
		switch {
		case found && e.src.Archived:
			list = slices.Delete(list, at, at+1)
		case found:
			list[at] = e
		case !e.src.Archived:
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
		if !e.src.Archived && containsAny(e.src.Data, wanted) && s.names(e.flag(s).segments, wanted) {
			keys = append(keys, e.src.Key)
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
		for _, e := range s.segs {
			if e == nil || slices.Contains(all, e.src.Key) || !containsAny(e.src.Data, all) {
				continue
			}
			all, grown = append(all, e.src.Key), true
		}
	}
	return all
}

// Newest returns the largest version among the flag with this key and the segments
// that it names, directly or through others; 0 if there is no such flag. An archived
// flag is one, too.
func (s *Set) Newest(key string) int64 {
	e := s.flags.find(key)
	if e == nil {
		return 0
	}
	newest := e.src.Version
	if !e.src.Archived {
		if ids := e.flag(s).segments; len(ids) > 0 {
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
			newest = max(newest, e.src.Version)
		}
		if seg := s.segment(id); seg != nil {
			for _, conditions := range seg.rules {
				for i := range conditions {
					newest = s.newest(conditions[i].segs, seen, newest)
				}
			}
		}
	}
	return newest
}

func (s *Set) names(ids []int32, keys []string) bool {
	return slices.ContainsFunc(keys, func(key string) bool {
		return slices.Contains(ids, s.syms.intern(key))
	})
}

func containsAny(data []byte, keys []string) bool {
	return slices.ContainsFunc(keys, func(key string) bool { return bytes.Contains(data, []byte(key)) })
}
