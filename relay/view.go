package relay

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"log/slog"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
)

// An entry is one item as it is served. All but the cached message is immutable.
type entry struct {
	item store.Item

	// replaced says that a later entry of the same item exists. Only follow
	// uses it, to leave the entry out of the next view.
	replaced bool

	// msg is the entry's patch, encoded once for all connections. It is kept
	// only while the entry is recent, or the relay would hold all data twice.
	msg atomic.Pointer[frame]

	// tags are the flag's, once somebody has asked for flags with some.
	tags atomic.Pointer[[]string]
}

// message returns the patch that carries the entry alone.
func (e *entry) message() frame {
	if m := e.msg.Load(); m != nil {
		return *m
	}
	return encode(wire.Patch, []*entry{e})
}

// A view is one served state. It is immutable; connections compare it with the
// newest version they have sent and need no queue.
type view struct {
	// hwm is the high-water mark: no version above it was ever served or, as
	// far as we know, seen by an SDK. Every later change gets a version above.
	hwm int64

	// entries are ascending by version, one per item, tombstones included.
	// Equal versions occur only among those of the first load.
	entries []*entry

	docs *documents
}

// documents are encodings of a view, made when first asked for.
type documents struct {
	once sync.Once
	full frame

	// runs are the last ones for SDKs that want an item in each patch, and for
	// those that want whole patches. Most connections want the same.
	runs [2]atomic.Pointer[run]

	zipOnce sync.Once
	zip     []byte // full, for those who fetch it compressed
}

// A run is what brings SDKs forward by some entries.
type run struct {
	first   *entry
	entries int
	patches int
	frames  frame // of the patches, one after the other
}

func firstView(entries []*entry, hwm int64) *view {
	return &view{hwm: hwm, entries: entries, docs: &documents{}}
}

// with returns the view after changed, whose versions are all above v.hwm.
func (v *view) with(changed []*entry, hwm int64) *view {
	entries := make([]*entry, 0, len(v.entries)+len(changed))
	for _, e := range v.entries {
		if !e.replaced {
			entries = append(entries, e)
		}
	}
	return firstView(append(entries, changed...), hwm)
}

// raised returns the same view with another high-water mark.
func (v *view) raised(hwm int64) *view {
	w := *v
	w.hwm = hwm
	return &w
}

// after returns the entries with a version above version, ascending.
func (v *view) after(version int64) []*entry {
	i := sort.Search(len(v.entries), func(i int) bool { return v.entries[i].item.Version > version })
	return v.entries[i:]
}

// full returns the full document.
func (v *view) full() frame {
	v.docs.once.Do(func() { v.docs.full = encode(wire.Full, v.entries) })
	return v.docs.full
}

// zipped returns the full document compressed with gzip, or nil if that is not worth it.
func (v *view) zipped() []byte {
	full := v.full().payload()
	v.docs.zipOnce.Do(func() {
		if len(full) < zipFrom {
			return
		}
		var out bytes.Buffer
		// Every change makes another document, so speed counts.
		z, _ := gzip.NewWriterLevel(&out, gzip.BestSpeed)
		_, _ = z.Write(full) // a buffer takes everything
		_ = z.Close()
		v.docs.zip = bytes.Clone(out.Bytes())
	})
	return v.docs.zip
}

// zipFrom is the size of a document from which on it is compressed.
const zipFrom = 4 << 10

// run returns patches of the first of some entries of v that follow each other, if
// whole one of all. Entries of equal version travel together; the second would look
// old if it came later. Several patches are one run as long as they are small, so that
// a change of many items is not a write to each connection for each of them.
func (v *view) run(rest []*entry, whole bool) *run {
	cached := &v.docs.runs[0]
	if whole {
		cached = &v.docs.runs[1]
	}
	n, patches := len(rest), 1
	if !whole {
		n, patches = 0, 0
		for size := 0; n < len(rest) && (n == 0 || size+len(rest[n].item.Data) <= enough); patches++ {
			for k := together(rest[n:]); k > 0; k-- {
				size += len(rest[n].item.Data)
				n++
			}
		}
	}
	if r := cached.Load(); r != nil && r.first == rest[0] && r.entries == n {
		return r
	}
	r := &run{first: rest[0], entries: n, patches: patches}
	switch {
	case n == 1:
		r.frames = rest[0].message()
	case patches == 1:
		r.frames = encode(wire.Patch, rest[:n])
	default:
		for left := rest[:n]; len(left) > 0; {
			k := together(left)
			if k == 1 {
				r.frames = append(r.frames, left[0].message()...)
			} else {
				r.frames = append(r.frames, encode(wire.Patch, left[:k])...)
			}
			left = left[k:]
		}
	}
	cached.Store(r)
	return r
}

// together returns how many of the first entries have the same version.
func together(entries []*entry) int {
	n := 1
	for n < len(entries) && entries[n].item.Version == entries[0].item.Version {
		n++
	}
	return n
}

func encode(eventType string, entries []*entry) frame {
	items := make([]store.Item, len(entries))
	size := headerRoom + 100
	for i, e := range entries {
		items[i] = e.item
		size += len(e.item.Data) + 1
	}
	return headed(opText, wire.AppendDataSync(make([]byte, headerRoom, size), eventType, items))
}

// A record is what the table knows of an item.
type record struct {
	source   []byte // Data in the store
	archived bool   // in the store
	gone     bool   // no longer in the store; served as a tombstone
	entry    *entry // what is served
}

// How many changed entries keep their encoded message, and how large they may be
// together: enough for connections that are a little late.
const (
	recentCount = 1024
	recentBytes = 16 << 20
)

// A table turns states of the store into served entries. It is not safe for
// concurrent use.
type table struct {
	log     *slog.Logger
	loaded  bool
	hwm     int64
	newest  int64 // largest version served
	records map[store.ID]*record
	invalid map[store.ID]struct{} // items of the store that cannot be served
	recent  []*entry
}

func newTable(log *slog.Logger) table {
	return table{log: log, records: map[store.ID]*record{}, invalid: map[store.ID]struct{}{}}
}

// apply takes over a state of the store. It returns the entries that changed,
// ascending by version, and how many of them needed a version of ours. The
// versions of the first state stay as they are; afterwards each is larger than
// all before it.
func (t *table) apply(snap store.Snapshot, now int64) (changed []*entry, restamped int) {
	items, gone := t.diff(snap)
	slices.SortFunc(items, compareItems)
	if !t.loaded {
		t.loaded = true
		for _, it := range items {
			changed = append(changed, t.serve(it))
		}
		return changed, 0
	}
	// First those whose versions will do, so that a stamp of ours, which is as
	// large as the clock, does not force others to be stamped as well.
	var late []store.Item
	for _, it := range items {
		if it.Version > t.hwm {
			changed = append(changed, t.serve(it))
		} else {
			late = append(late, it)
		}
	}
	// Segments before the flags that may refer to them; removals the other way
	// round.
	slices.SortFunc(late, func(a, b store.Item) int { return -cmp.Compare(a.Kind, b.Kind) })
	slices.SortFunc(gone, func(a, b store.Item) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key, b.Key))
	})
	for _, it := range late {
		changed = t.stamp(changed, it, wire.Restamp, now)
	}
	for _, it := range gone {
		changed = t.stamp(changed, it, wire.Tombstone, now)
	}
	t.remember(changed)
	return changed, len(late) + len(gone)
}

func compareItems(a, b store.Item) int {
	return cmp.Or(cmp.Compare(a.Version, b.Version), -cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key, b.Key))
}

// diff returns the items that are new or have new content, and the served form
// of those that are no longer in the store. It updates the records but for
// what is served.
func (t *table) diff(snap store.Snapshot) (items, gone []store.Item) {
	present := make(map[store.ID]struct{}, len(snap.Items))
	for _, it := range snap.Items {
		id := it.ID()
		present[id] = struct{}{}
		rec := t.records[id]
		if rec != nil && !rec.gone && rec.archived == it.Archived && bytes.Equal(rec.source, it.Data) {
			delete(t.invalid, id)
			continue
		}
		served, err := servable(it)
		if err != nil {
			t.reject(id, err)
			continue
		}
		delete(t.invalid, id)
		if rec == nil {
			rec = &record{}
			t.records[id] = rec
		}
		rec.source, rec.archived, rec.gone = it.Data, it.Archived, false
		items = append(items, served)
	}
	if snap.Delta {
		return items, nil
	}
	for id := range t.invalid {
		if _, ok := present[id]; !ok {
			delete(t.invalid, id)
		}
	}
	for id, rec := range t.records {
		if _, ok := present[id]; ok || rec.gone {
			continue
		}
		rec.gone, rec.source = true, nil
		if !rec.entry.item.Archived {
			gone = append(gone, rec.entry.item)
		}
	}
	return items, gone
}

// reject notes an item that SDKs could not read. What was served of it before
// is served on.
func (t *table) reject(id store.ID, err error) {
	if _, known := t.invalid[id]; !known {
		t.log.Warn("relay: an item of the store cannot be served", "kind", id.Kind.String(), "key", id.Key, "error", err)
	}
	t.invalid[id] = struct{}{}
}

// maxVersion is the year 9000. Later changes get later versions, and those must
// not leave the four digits that SDKs can read.
const maxVersion = 221845392000000

// servable returns it in the form that SDKs get: its Data says the same as its
// fields. One item that is not JSON would break the whole document.
func servable(it store.Item) (store.Item, error) {
	if it.Kind != store.Flag && it.Kind != store.Segment {
		return it, errors.New("neither flag nor segment")
	}
	if it.Version > maxVersion {
		return it, errors.New("its updatedAt is after the year 9000")
	}
	said, err := wire.ParseItem(it.Kind, it.Data)
	if err != nil {
		return it, err
	}
	if said.Version == it.Version && said.Archived == it.Archived {
		return it, nil
	}
	return wire.Restamp(it, it.Version)
}

// stamp serves an item under a version that no SDK has seen yet.
func (t *table) stamp(changed []*entry, it store.Item, rewrite func(store.Item, int64) (store.Item, error), now int64) []*entry {
	stamped, err := rewrite(it, max(t.hwm+1, now))
	if err != nil { // cannot happen to what servable let pass
		t.reject(it.ID(), err)
		if t.records[it.ID()].entry == nil {
			delete(t.records, it.ID())
		}
		return changed
	}
	newest := t.newest // what we made up is no reason to believe an SDK that is ahead of it
	changed = append(changed, t.serve(stamped))
	t.newest = newest
	return changed
}

// serve makes it the served form of its item.
func (t *table) serve(it store.Item) *entry {
	rec := t.records[it.ID()]
	if rec.entry != nil {
		rec.entry.replaced = true
	}
	rec.entry = &entry{item: it}
	t.hwm, t.newest = max(t.hwm, it.Version), max(t.newest, it.Version)
	return rec.entry
}

// remember encodes the newest entries for all connections and lets older ones
// lose their messages.
func (t *table) remember(changed []*entry) {
	recent := append(t.recent, changed...)
	t.recent = nil
	size := 0
	for i, e := range slices.Backward(recent) {
		size += len(e.item.Data)
		if i < len(recent)-1 && (e.replaced || size > recentBytes || len(t.recent) == recentCount) {
			e.msg.Store(nil)
			continue
		}
		m := e.message()
		e.msg.Store(&m)
		t.recent = append(t.recent, e)
	}
	slices.Reverse(t.recent)
}
