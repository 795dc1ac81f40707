package redis

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flagstead/flagstead/store"
)

// A plan is what a change makes of the place.
type plan struct {
	full     bool
	populate bool // nothing was ever committed
	secrets  bool // write them, whether they are there or not
	write    []write
	remove   []removal
}

// A write is one item that gets another value, or another score.
type write struct {
	ref
	item  store.Item // as the change has it
	value value      // as a Load is going to find it
}

// A removal is a member that goes from its index. Its value goes, too, unless
// other environments may have a use for it.
type removal struct {
	ref
	value bool
}

func (p plan) nothing() bool { return len(p.write)+len(p.remove) == 0 && !p.populate && !p.secrets }

// apply is Apply.
func (f *featbit) apply(ctx context.Context, c store.Change) (store.Rev, error) {
	rev, err := f.commit(ctx, c)
	if err != nil {
		return "", f.wrap("change", err)
	}
	f.s.warn(ctx)
	return rev, nil
}

func (f *featbit) commit(ctx context.Context, c store.Change) (store.Rev, error) {
	if err := f.enter(ctx); err != nil {
		return "", err
	}
	p, rev, err := f.prepare(ctx, c)
	if err != nil || p.nothing() {
		f.leave()
		return rev, err
	}
	// Whoever gives up waiting must not leave half a change behind, so it goes on.
	type result struct {
		rev store.Rev
		err error
	}
	done := make(chan result, 1)
	go func() {
		defer f.leave()
		err := f.carryOut(context.WithoutCancel(ctx), p)
		done <- result{f.now.rev, err}
	}()
	select {
	case r := <-done:
		return r.rev, r.err
	case <-ctx.Done():
		return "", ctx.Err()
	case <-f.s.closed.Done():
		return "", store.ErrClosed
	}
}

// prepare works out what c comes to, and returns the present revision.
func (f *featbit) prepare(ctx context.Context, c store.Change) (plan, store.Rev, error) {
	if !f.opts.Write {
		return plan{}, "", store.ErrReadOnly
	}
	// What somebody overwrote by hand does not show in the indexes.
	if err := f.refresh(ctx, c.Full); err != nil {
		return plan{}, "", err
	}
	env := f.envID()
	items := make([]wanted, len(c.Items))
	for i, it := range c.Items {
		w, err := want(it, env)
		if err != nil {
			return plan{}, "", err
		}
		items[i] = w
	}
	if c.Conflicts(f.now.rev) {
		return plan{}, "", store.ErrConflict
	}
	winners, err := f.winners(c, items)
	if err != nil {
		return plan{}, "", err
	}
	p := plan{
		full:     c.Full,
		populate: f.now.rev == "" && (c.Full || len(winners) > 0),
		secrets:  c.Full && len(f.opts.Secrets) > 0,
	}
	if err := f.planWrites(ctx, &p, winners); err != nil {
		return plan{}, "", err
	}
	f.planRemovals(&p, winners)
	return p, f.now.rev, nil
}

// winners returns those of items that the place is going to have because of c.
func (f *featbit) winners(c store.Change, items []wanted) (map[store.ID]wanted, error) {
	out := make(map[store.ID]wanted, len(items))
	for _, w := range items {
		id := w.item.ID()
		if c.Full {
			if old, ok := out[id]; !ok || w.item.Version >= old.item.Version {
				out[id] = w
			}
			continue
		}
		version, ok := int64(0), false
		if old, is := out[id]; is {
			version, ok = old.item.Version, true
		} else if old, is := f.now.items[id]; is {
			version, ok = old.value.item.Version, true
			if w.item.Version == version && f.halfWritten(old) && bytes.Equal(w.item.Data, old.value.item.Data) {
				ok = false
			}
		}
		if !ok || w.item.Version > version {
			out[id] = w
		}
	}
	keys := make(map[ref]string, len(out))
	for id, w := range out {
		r := ref{id.Kind, w.id}
		if other, twice := keys[r]; twice {
			return nil, fmt.Errorf("the %vs %.80q and %.80q have one id, %.80q", id.Kind, min(other, id.Key), max(other, id.Key), w.id)
		}
		keys[r] = id.Key
	}
	return out, nil
}

// halfWritten reports whether the index does not have the version of the value.
func (f *featbit) halfWritten(h held) bool {
	e, ok := f.entryOf(ref{h.value.item.Kind, h.id})
	return ok && e.score != float64(h.value.item.Version)
}

// planWrites adds those winners to p that are not there as they should be.
func (f *featbit) planWrites(ctx context.Context, p *plan, winners map[store.ID]wanted) error {
	shared, err := f.sharedAmong(ctx, winners)
	if err != nil {
		return err
	}
	for _, w := range winners {
		r := ref{w.item.Kind, w.id}
		raw := w.item.Data
		if shared[w.id] {
			if raw, err = withoutEnv(raw); err != nil {
				return err
			}
		}
		e, ok := f.entryOf(r)
		if ok && e.score == float64(w.item.Version) && e.problem == "" && !e.missing && bytes.Equal(e.raw, raw) {
			continue
		}
		v, err := readValue(r.kind, f.envID(), raw)
		if err != nil {
			return err
		}
		p.write = append(p.write, write{r, w.item, v})
	}
	// Where several items are new, readers see them in the order of their age.
	slices.SortFunc(p.write, func(a, b write) int {
		return cmp.Or(cmp.Compare(a.item.Version, b.item.Version), strings.Compare(a.id, b.id))
	})
	return nil
}

// sharedAmong returns the ids of the segments among winners whose value belongs to
// other environments, too. FeatBit has one value for all of them, which names no
// environment.
func (f *featbit) sharedAmong(ctx context.Context, winners map[store.ID]wanted) (map[string]bool, error) {
	shared := map[string]bool{}
	var unknown []ref
	for id, w := range winners {
		if id.Kind != store.Segment {
			continue
		}
		r := ref{store.Segment, w.id}
		if e, ok := f.entryOf(r); ok && !e.missing {
			shared[w.id] = e.shared || e.foreign
		} else {
			unknown = append(unknown, r) // to this environment
		}
	}
	for chunk := range slices.Chunk(unknown, pipelined) {
		gets, err := f.get(ctx, chunk)
		if err != nil {
			return nil, err
		}
		for i, get := range gets {
			raw, err := get.Bytes()
			if err != nil {
				continue // there is none, or nothing that another environment could use
			}
			if v, err := readValue(store.Segment, f.envID(), raw); err == nil {
				shared[chunk[i].id] = v.shared || v.foreign
			}
		}
	}
	return shared, nil
}

// planRemovals adds the members that have to go: those of a flag that has another
// id now, and, in a full change, or the first of all, whatever
// it does not have.
func (f *featbit) planRemovals(p *plan, winners map[store.ID]wanted) {
	stays := make(map[ref]bool, len(winners))
	for id, w := range winners {
		stays[ref{id.Kind, w.id}] = true
	}
	for _, c := range f.caches() {
		for id, e := range c.entries {
			r := ref{c.kind, id}
			_, replaced := winners[e.item.ID()]
			if stays[r] || !p.full && !p.populate && !replaced {
				continue
			}
			own := !e.foreign && (c.kind == store.Flag || e.item.Kind != 0 && !e.shared)
			p.remove = append(p.remove, removal{r, own})
		}
	}
}

// carryOut writes in the order that FeatBit keeps: each value before it is in the
// index, each member out of the index before its value is deleted. Segments come
// before the flags that use them and go after them. Between servers of a cluster
// only waiting for the answers makes an order.
func (f *featbit) carryOut(ctx context.Context, p plan) error {
	refs := make([]ref, 0, len(p.write)+len(p.remove))
	for _, w := range p.write {
		refs = append(refs, w.ref)
	}
	for _, r := range p.remove {
		refs = append(refs, r.ref)
	}
	if err := f.writeAll(ctx, p); err != nil {
		f.hint(refs...) // the outcome is unknown
		return err
	}
	for _, w := range p.write {
		c := &f.flags
		if w.kind == store.Segment {
			c = &f.segments
		}
		c.entries[w.id] = &entry{value: w.value, score: float64(w.item.Version), read: true}
	}
	for _, r := range p.remove {
		c := &f.flags
		if r.kind == store.Segment {
			c = &f.segments
		}
		delete(c.entries, r.id)
	}
	f.dirty = true
	f.rebuild()
	f.publish(ctx, p)
	return nil
}

func (f *featbit) writeAll(ctx context.Context, p plan) error {
	for _, kind := range []store.Kind{store.Segment, store.Flag} {
		if err := f.writeItems(ctx, kind, p.write); err != nil {
			return err
		}
	}
	for _, kind := range []store.Kind{store.Flag, store.Segment} {
		if err := f.removeItems(ctx, kind, p.remove); err != nil {
			return err
		}
	}
	if p.secrets {
		if err := f.writeSecrets(ctx); err != nil {
			return err
		}
	}
	if p.populate {
		return f.all(ctx, func(q goredis.Pipeliner) { q.Set(ctx, featbitMarker, "true", 0) })
	}
	return nil
}

func (f *featbit) index(kind store.Kind) string {
	if kind == store.Segment {
		return segmentIndex(f.envID())
	}
	return flagIndex(f.envID())
}

func (f *featbit) writeItems(ctx context.Context, kind store.Kind, writes []write) error {
	writes = slices.DeleteFunc(slices.Clone(writes), func(w write) bool { return w.kind != kind })
	for chunk := range slices.Chunk(writes, pipelined) {
		err := f.all(ctx, func(q goredis.Pipeliner) {
			for _, w := range chunk {
				q.Set(ctx, w.key(), w.value.raw, 0)
			}
		})
		if err != nil {
			return err
		}
		members := make([]goredis.Z, len(chunk))
		for i, w := range chunk {
			members[i] = goredis.Z{Score: float64(w.item.Version), Member: w.id}
		}
		if err := f.all(ctx, func(q goredis.Pipeliner) { q.ZAdd(ctx, f.index(kind), members...) }); err != nil {
			return err
		}
	}
	return nil
}

func (f *featbit) removeItems(ctx context.Context, kind store.Kind, removals []removal) error {
	removals = slices.DeleteFunc(slices.Clone(removals), func(r removal) bool { return r.kind != kind })
	for chunk := range slices.Chunk(removals, pipelined) {
		ids := make([]any, len(chunk))
		for i, r := range chunk {
			ids[i] = r.id
		}
		if err := f.all(ctx, func(q goredis.Pipeliner) { q.ZRem(ctx, f.index(kind), ids...) }); err != nil {
			return err
		}
		err := f.all(ctx, func(q goredis.Pipeliner) {
			for _, r := range chunk {
				if r.value {
					q.Del(ctx, r.key())
				}
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *featbit) writeSecrets(ctx context.Context) error {
	return f.all(ctx, func(q goredis.Pipeliner) {
		for _, s := range f.opts.Secrets {
			q.HSet(ctx, featbitSecrets+string(s.Value),
				"type", s.Type, "organizationId", s.OrganizationID, "organizationKey", s.OrganizationKey,
				"projectId", s.ProjectID, "projectKey", s.ProjectKey, "envId", f.envID(), "envKey", s.EnvKey)
		}
	})
}

// all sends what fill adds, and wants all of it done.
func (f *featbit) all(ctx context.Context, fill func(goredis.Pipeliner)) error {
	cmds, err := f.pipeline(ctx, fill)
	if err != nil {
		return err
	}
	for _, cmd := range cmds {
		if err := cmd.Err(); err != nil {
			return f.s.explain(err)
		}
	}
	return nil
}

// publish tells evaluation servers, and readers, what changed, as FeatBit does.
// Of removals FeatBit tells nothing, nor of what it populates a Redis with: then
// an empty message wakes our readers, which evaluation servers ignore.
func (f *featbit) publish(ctx context.Context, p plan) {
	type message struct{ channel, payload string }
	var messages []message
	for _, w := range p.write {
		switch {
		case p.populate:
		case w.kind == store.Flag:
			messages = append(messages, message{featbitFlagTopic, string(w.item.Data)})
		default:
			affected, _ := json.Marshal(f.mentioning(w.id)) // texts have no reason to fail
			payload := fmt.Sprintf(`{"segment":%s,"affectedFlagIds":%s}`, w.item.Data, affected)
			messages = append(messages, message{featbitSegmentTopic, payload})
		}
	}
	if p.populate || len(p.remove) > 0 {
		messages = append(messages, message{featbitFlagTopic, ""})
	}
	for chunk := range slices.Chunk(messages, pipelined) {
		err := f.all(ctx, func(q goredis.Pipeliner) {
			for _, m := range chunk {
				q.Publish(ctx, m.channel, m.payload)
			}
		})
		if err != nil {
			// It is written, and who polls finds it.
			f.log.Warn("a change was written but could not be published", "env", f.envID(), "error", err)
			return
		}
	}
}

// mentioning returns the ids of the flags that may use the segment. One too many
// is only evaluated once more.
func (f *featbit) mentioning(segment string) []string {
	ids := []string{}
	for id := range maps.Keys(f.flags.entries) {
		if bytes.Contains(f.flags.entries[id].item.Data, []byte(segment)) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}
