package flags

import (
	"bytes"
	"maps"
	"slices"
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
	flags map[string]*entry
	segs  []*segEntry // by symbol; nil: no such segment
	syms  *symbols
}

// An entry is a flag that is compiled when it is first evaluated. It is shared
// by all sets in which the flag is the same.
type entry struct {
	compiled atomic.Pointer[Flag] // nil as well if it is archived
	src      Source
}

// flag returns the compiled flag of an entry that is not archived.
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
		next.flags = make(map[string]*entry, len(items))
	} else {
		next.flags, next.segs = maps.Clone(s.flags), slices.Clone(s.segs)
		if next.flags == nil {
			next.flags = map[string]*entry{}
		}
	}
	touched := map[string]struct{}{}
	touchedSegs := map[string]struct{}{}
	for _, it := range items {
		if it.Segment {
			next.putSegment(s, it, full)
			touchedSegs[it.Key] = struct{}{}
		} else {
			next.putFlag(s, it, full)
			touched[it.Key] = struct{}{}
		}
	}
	if full {
		for key := range s.flags {
			touched[key] = struct{}{}
		}
		for _, e := range s.segs {
			if e != nil {
				touchedSegs[e.src.Key] = struct{}{}
			}
		}
	}
	return next, s.diff(next, touched, touchedSegs)
}

func (s *Set) diff(next *Set, flags, segs map[string]struct{}) Changes {
	var c Changes
	for key := range flags {
		if s.flags[key] != next.flags[key] {
			c.Flags = append(c.Flags, key)
		}
	}
	for key := range segs {
		if id := next.syms.intern(key); s.segEntry(id) != next.segEntry(id) {
			c.Segments = append(c.Segments, key)
		}
	}
	slices.Sort(c.Flags)
	slices.Sort(c.Segments)
	return c
}

func (s *Set) segEntry(id int32) *segEntry {
	if int(id) >= len(s.segs) {
		return nil
	}
	return s.segs[id]
}

// putFlag keeps the entry of old if it is the same, so that it stays compiled.
func (s *Set) putFlag(old *Set, it Source, full bool) {
	if e := s.flags[it.Key]; full && e != nil && e.src.Version > it.Version {
		return
	}
	if e := old.flags[it.Key]; e != nil && e.src.same(it) {
		s.flags[it.Key] = e
		return
	}
	s.flags[it.Key] = &entry{src: it}
}

func (s *Set) putSegment(old *Set, it Source, full bool) {
	id := s.syms.intern(it.Key)
	if e := s.segEntry(id); full && e != nil && e.src.Version > it.Version {
		return
	}
	for int(id) >= len(s.segs) {
		s.segs = append(s.segs, nil)
	}
	if e := old.segEntry(id); e != nil && e.src.same(it) {
		s.segs[id] = e
		return
	}
	s.segs[id] = &segEntry{src: it}
}

func (a Source) same(b Source) bool {
	return a.Version == b.Version && a.Archived == b.Archived && bytes.Equal(a.Data, b.Data)
}

// Known reports whether the set has a flag with this key that is not archived.
func (s *Set) Known(key string) bool {
	e := s.flags[key]
	return e != nil && !e.src.Archived
}

// Flag returns the compiled flag with this key, or nil.
func (s *Set) Flag(key string) *Flag {
	if !s.Known(key) {
		return nil
	}
	return s.flags[key].flag(s)
}

// Keys returns the keys of all flags that are not archived, sorted.
func (s *Set) Keys() []string {
	keys := make([]string, 0, len(s.flags))
	for key, e := range s.flags {
		if !e.src.Archived {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// All calls yield with the evaluation of every flag that is not archived, in no
// particular order.
func (s *Set) All(u *User, yield func(Result)) {
	for _, e := range s.flags {
		if e.src.Archived {
			continue
		}
		if f := e.flag(s); u == nil {
			yield(Result{Flag: f, Reason: BadUser})
		} else {
			v, how := s.evaluate(f, u)
			yield(result(f, v, how))
		}
	}
}

// Len returns the number of flags and segments, archived ones included.
func (s *Set) Len() (flags, segments int) {
	for _, e := range s.segs {
		if e != nil {
			segments++
		}
	}
	return len(s.flags), segments
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
	for key, e := range s.flags {
		if !e.src.Archived && containsAny(e.src.Data, wanted) && s.names(e.flag(s).segments, wanted) {
			keys = append(keys, key)
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
	e := s.flags[key]
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
