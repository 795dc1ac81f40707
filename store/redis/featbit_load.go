package redis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flagstead/flagstead/store"
)

// pipelined is how many commands go out before their answers are waited for.
const pipelined = 256

// A ref names one of FeatBit's values.
type ref struct {
	kind store.Kind
	id   string
}

func (r ref) key() string {
	if r.kind == store.Flag {
		return featbitFlags + r.id
	}
	return featbitSegments + r.id
}

// A cache is what a handle knows of one index and the values of its members.
type cache struct {
	kind    store.Kind
	entries map[string]*entry // by id
}

func newCache(kind store.Kind) cache { return cache{kind, map[string]*entry{}} }

// An entry is a member of an index. The value is the one that was there after
// the member had the score.
type entry struct {
	value
	score   float64
	read    bool   // the value was read at all
	missing bool   // there was none
	problem string // why what is there now cannot be used; the value is an earlier one
}

// load is Load. The caller's error has nothing of the layout yet.
func (f *featbit) load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	if err := f.enter(ctx); err != nil {
		return store.Snapshot{}, f.wrap("load", err)
	}
	defer f.leave()
	if err := f.refresh(ctx, false); err != nil {
		return store.Snapshot{}, f.wrap("load", err)
	}
	f.s.warn(ctx)
	return f.since(since), nil
}

// refresh makes now what Redis holds: by both indexes, and the values that they,
// or messages, say are new. With everything set it reads all values again.
func (f *featbit) refresh(ctx context.Context, everything bool) error {
	populated, err := f.readIndexes(ctx)
	if err != nil {
		return err
	}
	if everything {
		for _, c := range f.caches() {
			for _, e := range c.entries {
				e.read = false
			}
		}
	}
	hints := f.takeHints()
	if err := f.readValues(ctx, f.due(hints)); err != nil {
		f.hint(hints...)
		return err
	}
	if !populated {
		// Half of what a syncer wrote is no state; it begins again.
		f.now, f.steps, f.dirty = featbitState{}, nil, true
		return nil
	}
	f.rebuild()
	return nil
}

func (f *featbit) caches() []*cache { return []*cache{&f.segments, &f.flags} }

func (f *featbit) entryOf(r ref) (*entry, bool) {
	c := &f.flags
	if r.kind == store.Segment {
		c = &f.segments
	}
	e, ok := c.entries[r.id]
	return e, ok
}

// readIndexes brings the members of the caches up to date and marks those whose
// value has to be read. A place that is not populated is an error unless it is to
// be written.
func (f *featbit) readIndexes(ctx context.Context) (populated bool, err error) {
	env, asked := f.envID(), f.opts.Secret != ""
	if env == "" {
		if env, err = f.lookUp(ctx); err != nil {
			return false, err
		}
		asked = false
	}
	var marker *goredis.StringCmd
	var secret *goredis.SliceCmd
	var indexes [2]*goredis.ZSliceCmd
	keys := [2]string{segmentIndex(env), flagIndex(env)} // in the order of caches
	_, err = f.pipeline(ctx, func(p goredis.Pipeliner) {
		marker = p.Get(ctx, featbitMarker)
		if asked {
			secret = f.askSecret(ctx, p)
		}
		for i, key := range keys {
			indexes[i] = p.ZRangeWithScores(ctx, key, 0, -1)
		}
	})
	if err != nil {
		return false, err
	}
	if secret != nil {
		if _, err := f.secretEnv(secret); err != nil {
			return false, err
		}
	}
	if err := marker.Err(); err != nil && !errors.Is(err, goredis.Nil) {
		return false, fmt.Errorf("%s: %w", featbitMarker, f.s.explain(err))
	}
	for i, index := range indexes {
		if err := index.Err(); err != nil {
			return false, fmt.Errorf("%s: %w", keys[i], f.s.explain(err))
		}
	}
	populated = marker.Val() == "true"
	if !f.opts.Write {
		if !populated {
			return false, ErrNotPopulated
		}
		if err := f.emptied(len(indexes[1].Val()), time.Now()); err != nil {
			return false, err
		}
	}
	for i, c := range f.caches() {
		if c.update(indexes[i].Val()) {
			f.dirty = true
		}
	}
	return populated, nil
}

// emptied doubts an index that has no flags any more. FeatBit deletes flags only
// once they are archived, so one that had others was more likely evicted, or
// flushed and is being written again. What was there stays for a while.
func (f *featbit) emptied(flags int, now time.Time) error {
	live := 0
	for id, h := range f.now.items {
		if id.Kind == store.Flag && !h.value.item.Archived {
			live++
		}
	}
	if flags > 0 || live == 0 {
		f.emptySince = time.Time{}
		return nil
	}
	if f.emptySince.IsZero() {
		f.emptySince = now
	}
	if now.Sub(f.emptySince) >= f.emptyGrace {
		return nil
	}
	return fmt.Errorf("%w: %s is gone, which had %d flags that were not archived; believed after %v",
		ErrNotPopulated, flagIndex(f.envID()), live, f.emptyGrace)
}

// update takes over the members of an index, and reports whether any are gone.
func (c *cache) update(index []goredis.Z) (gone bool) {
	before := len(c.entries)
	known := 0
	for _, z := range index {
		id, _ := z.Member.(string)
		e, ok := c.entries[id]
		switch {
		case !ok:
			c.entries[id] = &entry{score: z.Score}
		case e.score != z.Score:
			e.score, e.read = z.Score, false
		}
		if ok {
			known++
		}
	}
	if known == before {
		return false
	}
	in := make(map[string]bool, len(index))
	for _, z := range index {
		id, _ := z.Member.(string)
		in[id] = true
	}
	for id := range c.entries {
		if !in[id] {
			delete(c.entries, id)
		}
	}
	return true
}

// due returns what has to be read: what is marked or has no value, the hints, and
// a few others, so that in time all are looked at again. What two writers wrote
// in one millisecond, or from clocks that differ, the scores may not show.
func (f *featbit) due(hints []ref) []ref {
	seen := map[ref]bool{}
	var refs []ref
	add := func(r ref) {
		if !seen[r] {
			seen[r] = true
			refs = append(refs, r)
		}
	}
	for _, c := range f.caches() {
		for id, e := range c.entries {
			if !e.read || e.missing {
				add(ref{c.kind, id})
			}
		}
	}
	for _, r := range append(hints, f.sweepNow(time.Now())...) {
		if _, ok := f.entryOf(r); ok {
			add(r)
		}
	}
	return refs
}

// sweepNow returns the members whose turn it is at now.
func (f *featbit) sweepNow(now time.Time) []ref {
	all := len(f.flags.entries) + len(f.segments.entries)
	share := float64(all) * now.Sub(f.swept).Seconds() / f.sweepEvery.Seconds()
	if f.swept.IsZero() {
		share = 0
	}
	n := int(min(share, pipelined))
	if n == 0 && !f.swept.IsZero() {
		return nil
	}
	f.swept = now
	if len(f.sweep) == 0 && n > 0 {
		for _, c := range f.caches() {
			for id := range c.entries {
				f.sweep = append(f.sweep, ref{c.kind, id})
			}
		}
	}
	n = min(n, len(f.sweep))
	turn := f.sweep[:n]
	f.sweep = f.sweep[n:]
	return turn
}

// readValues reads values, one GET each because a cluster has each elsewhere.
func (f *featbit) readValues(ctx context.Context, refs []ref) error {
	for chunk := range slices.Chunk(refs, pipelined) {
		gets, err := f.get(ctx, chunk)
		if err != nil {
			return err
		}
		for i, get := range gets {
			if err := f.take(chunk[i], get); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *featbit) get(ctx context.Context, refs []ref) ([]*goredis.StringCmd, error) {
	gets := make([]*goredis.StringCmd, len(refs))
	_, err := f.pipeline(ctx, func(p goredis.Pipeliner) {
		for i, r := range refs {
			gets[i] = p.Get(ctx, r.key())
		}
	})
	return gets, err
}

// take notes what a value was found to be.
func (f *featbit) take(r ref, get *goredis.StringCmd) error {
	e, ok := f.entryOf(r)
	if !ok {
		return nil
	}
	raw, err := get.Bytes()
	switch {
	case errors.Is(err, goredis.Nil):
		if !e.missing {
			f.log.Warn("a member of FeatBit's index has no value", "env", f.envID(), "key", r.key())
		}
		f.dirty = f.dirty || e.item.Kind != 0
		*e = entry{score: e.score, read: true, missing: true}
		return nil
	case err != nil && !strings.HasPrefix(err.Error(), "WRONGTYPE"):
		return fmt.Errorf("%s: %w", r.key(), f.s.explain(err))
	}
	e.read, e.missing = true, false
	if err == nil && e.raw != nil && bytes.Equal(raw, e.raw) {
		e.problem = ""
		return nil
	}
	var v value
	if err == nil {
		v, err = readValue(r.kind, f.envID(), raw)
	}
	if err != nil {
		if e.problem != err.Error() {
			f.log.Warn("a value in FeatBit's Redis cannot be used", "env", f.envID(), "key", r.key(),
				"error", err, "kept", e.item.Kind != 0)
		}
		e.problem = err.Error()
		return nil
	}
	e.value, e.problem = v, ""
	f.dirty = true
	return nil
}

// pipeline sends what fill adds. What the server says of single commands is left
// in them.
func (f *featbit) pipeline(ctx context.Context, fill func(goredis.Pipeliner)) ([]goredis.Cmder, error) {
	p := f.s.client.Pipeline()
	fill(p)
	return do(ctx, f.s, 5*f.s.opts.Timeout, func(ctx context.Context) ([]goredis.Cmder, error) {
		cmds, err := p.Exec(ctx)
		var reply goredis.Error
		if errors.As(err, &reply) {
			err = nil
		}
		return cmds, err
	})
}

// askSecret asks for what secretEnv reads: all of it at once, so that a secret
// that is removed meanwhile is not there by half.
func (f *featbit) askSecret(ctx context.Context, p goredis.Pipeliner) *goredis.SliceCmd {
	return p.HMGet(ctx, featbitSecrets+string(f.opts.Secret), "type", "projectKey", "envId", "envKey")
}

// lookUp finds out whose secret it is.
func (f *featbit) lookUp(ctx context.Context) (string, error) {
	var answer *goredis.SliceCmd
	_, err := f.pipeline(ctx, func(p goredis.Pipeliner) { answer = f.askSecret(ctx, p) })
	if err != nil {
		return "", err
	}
	env, err := f.secretEnv(answer)
	if err != nil {
		return "", err
	}
	f.setEnv(env)
	return env, nil
}

func (f *featbit) secretEnv(answer *goredis.SliceCmd) (string, error) {
	fields, err := answer.Result()
	if err != nil {
		return "", fmt.Errorf("the secret's hash: %w", f.s.explain(err))
	}
	text := func(i int) string {
		s, _ := fields[i].(string)
		return s
	}
	kind, env := text(0), strings.ToLower(text(2))
	switch {
	case len(slices.DeleteFunc(slices.Clone(fields), func(v any) bool { return v == nil })) == 0:
		return "", ErrUnknownSecret
	case kind != "server":
		return "", fmt.Errorf("%w: its type is %s", ErrUnknownSecret, strconv.Quote(kind))
	case !guid.MatchString(env):
		return "", fmt.Errorf("the secret's hash names the environment %.80q, which is no GUID", env)
	}
	if known := f.envID(); known != "" && known != env {
		return "", fmt.Errorf("the secret belongs to another environment, %s", env)
	}
	return env, nil
}

// hint makes the next refresh read refs, whatever the indexes say.
func (f *featbit) hint(refs ...ref) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range refs {
		if len(f.hints) < maxHints {
			f.hints[r] = struct{}{}
		}
	}
}

// maxHints bounds what is kept of messages. Beyond it the indexes have to do.
const maxHints = 10_000

func (f *featbit) takeHints() []ref {
	f.mu.Lock()
	defer f.mu.Unlock()
	refs := make([]ref, 0, len(f.hints))
	for r := range f.hints {
		refs = append(refs, r)
	}
	clear(f.hints)
	return refs
}
