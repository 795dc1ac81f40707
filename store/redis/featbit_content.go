package redis

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/flagstead/flagstead/store"
)

// A featbitState is what is to be evaluated of the caches. It is not modified once it
// is made.
type featbitState struct {
	rev   store.Rev // empty: nothing was ever committed
	items map[store.ID]held
}

type held struct {
	value *value
	id    string // FeatBit's
}

// A step leads from one state to the next.
type step struct {
	rev  store.Rev // of the next
	ids  []store.ID
	full bool // something is gone, or older than it was
}

// maxSteps is how many revisions a handle remembers.
const maxSteps = 64

// rebuild makes now what the caches say.
func (f *featbit) rebuild() {
	if !f.dirty && f.now.rev != "" {
		return
	}
	next := featbitState{items: make(map[store.ID]held, len(f.flags.entries)+len(f.segments.entries))}
	for _, c := range f.caches() {
		for id, e := range c.entries {
			if e.item.Kind == 0 {
				continue
			}
			// A flag that was deleted and made again has another id. Of two with
			// one key the newer one counts.
			v := e.value
			mine := held{&v, id}
			if other, ok := next.items[v.item.ID()]; !ok || mine.outranks(other) {
				next.items[v.item.ID()] = mine
			}
		}
	}
	next.rev = next.digest(f.envID())
	f.dirty = false
	if next.rev == f.now.rev {
		return
	}
	f.steps = append(f.steps, stepTo(next, f.now))
	if len(f.steps) > maxSteps {
		f.steps = slices.Delete(f.steps, 0, len(f.steps)-maxSteps)
	}
	f.now = next
}

func (h held) outranks(other held) bool {
	a, b := h.value.item, other.value.item
	return a.Version > b.Version || a.Version == b.Version && h.id > other.id
}

// digest names the state by its content, so that every handle, and every process,
// gives it the same name.
func (c featbitState) digest(env string) store.Rev {
	ids := make([]store.ID, 0, len(c.items))
	for id := range c.items {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b store.ID) int {
		if a.Kind != b.Kind {
			return int(a.Kind) - int(b.Kind)
		}
		return strings.Compare(a.Key, b.Key)
	})
	h := sha256.New()
	h.Write([]byte(env))
	for _, id := range ids {
		sum := c.items[id].value.sum
		h.Write(sum[:])
	}
	return store.Rev("fb-" + hex.EncodeToString(h.Sum(nil)[:16]))
}

func stepTo(next, now featbitState) step {
	s := step{rev: next.rev, full: now.rev == ""}
	for id, h := range next.items {
		old, ok := now.items[id]
		if ok && old.value.sum == h.value.sum {
			continue
		}
		s.ids = append(s.ids, id)
		s.full = s.full || ok && old.value.item.Version >= h.value.item.Version
	}
	for id := range now.items {
		if _, ok := next.items[id]; !ok {
			s.full = true
		}
	}
	return s
}

// since returns now, or what came after rev if that can be told.
func (f *featbit) since(rev store.Rev) store.Snapshot {
	if f.now.rev == "" {
		return store.Snapshot{}
	}
	snap := store.Snapshot{Rev: f.now.rev}
	if rev == f.now.rev {
		snap.Delta = true
		return snap
	}
	ids, ok := f.after(rev)
	if !ok {
		snap.Items = make([]store.Item, 0, len(f.now.items))
		for _, h := range f.now.items {
			snap.Items = append(snap.Items, h.value.item)
		}
		return snap
	}
	snap.Delta = true
	for id := range ids {
		snap.Items = append(snap.Items, f.now.items[id].value.item)
	}
	return snap
}

// after returns what the steps after rev changed, if nothing was removed in them.
func (f *featbit) after(rev store.Rev) (map[store.ID]bool, bool) {
	ids := map[store.ID]bool{}
	for i := len(f.steps) - 1; i >= 0; i-- {
		s := f.steps[i]
		if s.rev == rev {
			return ids, true
		}
		if s.full {
			return nil, false
		}
		for _, id := range s.ids {
			ids[id] = true
		}
	}
	return nil, false
}
