package spool

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// A Batch are insights of one environment that were handed out. It is the
// consumer's until Ack or Return.
type Batch struct {
	Env string

	// Insights are at most [MaxInsights]. A consumer that settled some of them
	// may take these out before it calls Return.
	Insights []json.RawMessage

	// Tries is how often the batch was returned.
	Tries int

	taken int // insights when it was handed out first
	span  span
	acked bool
	q     *queue
}

// A queue holds what one environment has not delivered. Its Spool's lock guards it.
type queue struct {
	env      string
	dir      string     // "": in memory
	segs     []*segment // oldest first
	writing  *segment   // the last of segs, or nil
	last     uint64     // highest segment number so far
	bytes    int64      // of segs
	read     position   // what is after it was not handed out
	unread   int        // insights after read
	since    time.Time  // when the oldest of them came, roughly
	appended time.Time  // when the newest came
	flight   []*Batch   // handed out, in order; the first is not acknowledged
	returned []*Batch   // of those the ones to hand out again
	fresh    bool       // it is the turn of what was never handed out
	settled  position
	file     *positionFile // nil in memory
	acked    *ackedFile    // nil in memory
	skips    []span        // settled before the last restart
}

// maxReturned is from how many returned batches on no others are handed out, since
// they are kept in memory.
const maxReturned = 16

// idle reports whether everything in q is settled.
func (q *queue) idle() bool { return q.unread == 0 && len(q.flight) == 0 }

// take hands out the next insights; nil if what was left turned out damaged.
func (q *queue) take(lostTo *uint64) *Batch {
	q.fresh = !q.fresh && len(q.returned) < maxReturned
	if len(q.returned) > 0 && (!q.fresh || q.unread == 0) {
		b := q.returned[0]
		q.returned = slices.Delete(q.returned, 0, 1)
		return b
	}
	b := &Batch{Env: q.env, q: q}
	size := 0
	for len(b.Insights) < MaxInsights {
		s := q.at(lostTo)
		if s == nil {
			break
		}
		if len(b.Insights) == 0 {
			b.span.start = q.read
		}
		h, off, ok := s.next(q.read.off)
		if !ok {
			q.read.off = s.size
			continue
		}
		if len(b.Insights) > 0 && (len(b.Insights)+h.count > MaxInsights || size+h.length > frameBytes) {
			break
		}
		q.read.off = min(off+headerSize+int64(h.length), s.size)
		payload, ok := s.payload(h, off)
		if !ok {
			continue
		}
		list, ok := parsePayload(h, payload)
		if !ok {
			continue
		}
		s.left -= len(list)
		q.unread -= len(list)
		size += h.length
		b.Insights = append(b.Insights, list...)
	}
	if len(b.Insights) == 0 {
		return nil
	}
	b.taken, b.span.end = len(b.Insights), q.read
	q.flight = append(q.flight, b)
	return b
}

// at returns the segment to read from, nil if all were read. What a segment that
// was read to its end still lacks is damaged.
func (q *queue) at(lostTo *uint64) *segment {
	for _, s := range q.segs {
		switch {
		case s.number < q.read.number:
			continue
		case s.number > q.read.number:
			q.read = position{number: s.number}
		}
		q.read = skip(q.skips, q.read)
		if q.read.number == s.number && q.read.off < s.size {
			return s
		}
		if s.left > 0 {
			*lostTo += uint64(s.left)
			q.unread -= s.left
			s.left = 0
		}
	}
	return nil
}

// settle takes acknowledged batches off the front and writes down how far all is
// settled. It reports whether that is further than before.
func (q *queue) settle() (moved bool, err error) {
	n := 0
	for n < len(q.flight) && q.flight[n].acked {
		q.settled = q.flight[n].span.end
		n++
	}
	q.flight = slices.Delete(q.flight, 0, n)
	moved = n > 0
	if n := len(q.segs); n > 0 && q.idle() { // past what was damaged or settled before
		q.read = position{q.segs[n-1].number, q.segs[n-1].size}
	}
	if len(q.flight) == 0 && q.settled.before(q.read) {
		q.settled = q.read
		moved = true
	}
	if !moved || q.file == nil {
		return moved, nil
	}
	err = q.file.write(q.settled)
	q.skips = slices.DeleteFunc(q.skips, func(s span) bool { return !q.settled.before(s.end) })
	if err == nil && len(q.skips) == 0 && !slices.ContainsFunc(q.flight, func(b *Batch) bool { return b.acked }) {
		err = q.acked.clear()
	}
	return moved, err
}

// drop removes segments that are settled: with all, also the one that is written.
// It returns the bytes that this frees.
func (q *queue) drop(all bool) (freed int64, err error) {
	kept := q.segs[:0]
	for _, s := range q.segs {
		done := q.idle() || s.number < q.settled.number || s.number == q.settled.number && q.settled.off >= s.size
		if !done || s == q.writing && !all {
			kept = append(kept, s)
			continue
		}
		if s == q.writing {
			q.writing = nil
		}
		freed += s.size
		if e := s.blob.remove(); e != nil {
			err = e
		}
	}
	clear(q.segs[len(kept):])
	q.segs = kept
	q.bytes -= freed
	return freed, err
}

// rotate begins a new segment.
func (q *queue) rotate() *segment {
	q.last++
	s := &segment{number: q.last}
	if q.dir == "" {
		s.blob = &memBlob{}
	} else {
		s.blob = &fileBlob{path: filepath.Join(q.dir, segmentName(q.last))}
	}
	q.segs = append(q.segs, s)
	q.writing = s
	return s
}

// discard takes back a segment that nothing could be written to.
func (q *queue) discard(s *segment) {
	_ = s.blob.remove() // what stays is empty, or torn, and found so later
	q.segs = slices.DeleteFunc(q.segs, func(other *segment) bool { return other == s })
}

// erase removes the traces of an idle queue.
func (q *queue) erase() error {
	if _, err := q.drop(true); err != nil {
		return err
	}
	if q.dir == "" {
		return nil
	}
	q.file.f.Close()
	_ = q.acked.close() // it is removed
	for _, path := range []string{q.acked.path, q.file.f.Name()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.Remove(q.dir)
}

func (q *queue) close() (err error) {
	for _, s := range q.segs {
		if e := s.blob.close(); e != nil {
			err = e
		}
	}
	if q.file != nil {
		err = errors.Join(err, q.file.f.Close(), q.acked.close())
	}
	return err
}
