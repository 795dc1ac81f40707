// Package history is what the histories of all stores have in common: how a
// revision is encoded, when a whole state is due, what is dropped, and how a state
// is put together again.
package history

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/flagstead/flagstead/store"
)

const (
	// minGroup is how many revisions a whole state and the deltas that follow it may
	// make at least; they make as many as are to be kept if that is more. A whole
	// state costs much, a delta next to nothing.
	minGroup = 16

	// maxKeys is how many changed items a Revision names.
	maxKeys = 8

	// maxBody bounds a state, uncompressed.
	maxBody = 2 << 30

	defaultRevisions = 50
	defaultBytes     = 64 << 20
)

// A Step is what one AppendRevision does to a history.
type Step struct {
	Revision store.Revision
	Body     []byte   // of Revision; nil if only its Rev changes
	Drop     []uint64 // numbers of the revisions to remove
	Nothing  bool     // Revision is there already
}

// Next works out what appending r, at now, does to a history that has the
// revisions have, oldest first.
func Next(have []store.Revision, r store.Record, k store.Keep, now time.Time) (Step, error) {
	if r.Rev == "" {
		return Step{}, errors.New("a record without a Rev")
	}
	k.Revisions = cmp.Or(max(k.Revisions, 0), defaultRevisions)
	k.Bytes = cmp.Or(max(k.Bytes, 0), defaultBytes)
	var last store.Revision
	if len(have) > 0 {
		last = have[len(have)-1]
	}
	switch {
	case last.Rev == r.Rev:
		return Step{Revision: last, Nothing: true}, nil
	case last.N != r.After:
		return Step{}, fmt.Errorf("%w: that is %d, not %d", store.ErrNotNext, last.N, r.After)
	case !r.Whole && last.N == 0:
		return Step{}, store.ErrWholeWanted
	case !r.Whole && last.Rev != r.Prev:
		return Step{}, fmt.Errorf("%w: that is %s, not %s", store.ErrNotNext, last.Rev, r.Prev)
	case !r.Whole && len(r.Items) == 0:
		last.Rev = r.Rev
		return Step{Revision: last}, nil
	case !r.Whole && groupFull(have, max(minGroup, k.Revisions)):
		return Step{}, store.ErrWholeWanted
	}
	body, err := encode(r.Items)
	if err != nil {
		return Step{}, err
	}
	next := store.Revision{
		N: last.N + 1, Rev: r.Rev, Prev: r.Prev, At: now.UTC().Truncate(time.Millisecond), Writer: r.Writer,
		Flags: r.Flags, Segments: r.Segments, Whole: r.Whole, Restores: r.Restores, Size: int64(len(body)),
	}
	if r.Whole {
		next.Flags, next.Segments = count(r.Items)
	} else {
		next.Changed, next.More = changed(r.Items)
	}
	return Step{Revision: next, Body: body, Drop: drop(append(slices.Clone(have), next), k)}, nil
}

// groupFull reports whether enough deltas follow the last whole state: most, or as
// much as that has.
func groupFull(have []store.Revision, most int) bool {
	n, size := 0, int64(0)
	for i := len(have) - 1; i >= 0; i-- {
		n++
		if have[i].Whole {
			return n >= most || size > max(have[i].Size, 64<<10)
		}
		size += have[i].Size
	}
	return true // no whole state at all
}

// drop returns the numbers of what all has too much: groups from the oldest on,
// since a delta is worth nothing without what it follows.
func drop(all []store.Revision, k store.Keep) []uint64 {
	size := int64(0)
	for _, r := range all {
		size += r.Size
	}
	var out []uint64
	for {
		next := slices.IndexFunc(all[1:], func(r store.Revision) bool { return r.Whole }) + 1
		if next == 0 || size <= k.Bytes && len(all)-next < k.Revisions {
			return out
		}
		for _, r := range all[:next] {
			size -= r.Size
			out = append(out, r.N)
		}
		all = all[next:]
	}
}

func count(items []store.Item) (flags, segments int) {
	for _, it := range items {
		if it.Kind == store.Flag {
			flags++
		} else {
			segments++
		}
	}
	return flags, segments
}

func changed(items []store.Item) (ids []store.ID, more int) {
	seen := map[store.ID]bool{}
	for _, it := range items {
		if !seen[it.ID()] {
			seen[it.ID()] = true
			ids = append(ids, it.ID())
		}
	}
	slices.SortFunc(ids, func(a, b store.ID) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key, b.Key))
	})
	if len(ids) > maxKeys {
		ids, more = ids[:maxKeys:maxKeys], len(ids)-maxKeys
	}
	for i, id := range ids {
		if len(id.Key) > 256 {
			ids[i].Key = id.Key[:256]
		}
	}
	return ids, more
}

// Base returns the index of the whole state that the revision n of have is put
// together from, and that of n itself, or [store.ErrNoRevision].
func Base(have []store.Revision, n uint64) (from, to int, err error) {
	to = slices.IndexFunc(have, func(r store.Revision) bool { return r.N == n })
	if to < 0 {
		if len(have) == 0 {
			return 0, 0, fmt.Errorf("%w: %d; the history is empty", store.ErrNoRevision, n)
		}
		return 0, 0, fmt.Errorf("%w: %d; there are %d to %d", store.ErrNoRevision, n, have[0].N, have[len(have)-1].N)
	}
	for from = to; from >= 0 && !have[from].Whole; from-- {
	}
	if from < 0 {
		return 0, 0, fmt.Errorf("%w: no whole state before revision %d", store.ErrDamaged, n)
	}
	for i := from + 1; i <= to; i++ {
		if have[i].N != have[i-1].N+1 {
			return 0, 0, fmt.Errorf("%w: revision %d is missing", store.ErrDamaged, have[i-1].N+1)
		}
	}
	return from, to, nil
}

// Rebuild puts together the state of revision n of have. Body returns the body
// of a revision; an error of it is damage unless it wraps something else.
func Rebuild(have []store.Revision, n uint64, body func(store.Revision) ([]byte, error)) (store.Snapshot, error) {
	from, to, err := Base(have, n)
	if err != nil {
		return store.Snapshot{}, err
	}
	var items []store.Item
	at := map[store.ID]int{}
	for _, r := range have[from : to+1] {
		raw, err := body(r)
		if err != nil {
			return store.Snapshot{}, err
		}
		some, err := decode(raw)
		if err != nil {
			return store.Snapshot{}, fmt.Errorf("%w: revision %d: %w", store.ErrDamaged, r.N, err)
		}
		for _, it := range some {
			i, ok := at[it.ID()]
			switch {
			case !ok:
				at[it.ID()] = len(items)
				items = append(items, it)
			case it.Version > items[i].Version || r.Whole && it.Version == items[i].Version:
				items[i] = it
			}
		}
	}
	return store.Snapshot{Rev: have[to].Rev, Items: items}, nil
}

// encode compresses items. The checksum of gzip tells damage.
func encode(items []store.Item) ([]byte, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	head := binary.AppendUvarint(nil, uint64(len(items)))
	if _, err := z.Write(head); err != nil {
		return nil, err
	}
	for _, it := range items {
		archived := byte(0)
		if it.Archived {
			archived = 1
		}
		head = append(head[:0], byte(it.Kind), archived)
		head = binary.AppendVarint(head, it.Version)
		head = binary.AppendUvarint(head, uint64(len(it.Key)))
		head = append(head, it.Key...)
		head = binary.AppendUvarint(head, uint64(len(it.Data)))
		if _, err := z.Write(head); err != nil {
			return nil, err
		}
		if _, err := z.Write(it.Data); err != nil {
			return nil, err
		}
	}
	err = z.Close()
	return out.Bytes(), err
}

func decode(body []byte) ([]store.Item, error) {
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	// What it comes to is checked with the checksum, before any of it is believed.
	text, err := io.ReadAll(io.LimitReader(z, maxBody+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxBody {
		return nil, fmt.Errorf("more than %d bytes", maxBody)
	}
	d := decoder{text}
	n := d.uvarint()
	items := make([]store.Item, 0, min(n, uint64(len(text)/5)))
	for range n {
		it := store.Item{Kind: store.Kind(d.byte())}
		it.Archived = d.byte() == 1
		it.Version = d.varint()
		it.Key = string(d.bytes())
		it.Data = d.bytes()
		if d.text == nil {
			return nil, io.ErrUnexpectedEOF
		}
		items = append(items, it)
	}
	if len(d.text) > 0 {
		return nil, fmt.Errorf("%d bytes too many", len(d.text))
	}
	return items, nil
}

// A decoder reads text; text is nil once there was too little of it.
type decoder struct{ text []byte }

func (d *decoder) byte() byte {
	if len(d.text) == 0 {
		d.text = nil
		return 0
	}
	b := d.text[0]
	d.text = d.text[1:]
	return b
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.text)
	d.skip(n)
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.text)
	d.skip(n)
	return v
}

func (d *decoder) skip(n int) {
	if n <= 0 {
		d.text = nil
		return
	}
	d.text = d.text[n:]
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.text)) {
		d.text = nil
		return nil
	}
	b := d.text[:n:n]
	d.text = d.text[n:]
	return b
}
