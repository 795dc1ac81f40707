package syncer

import (
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/flagstead/flagstead/store"
)

// A Guard keeps a syncer from emptying its store because the server made a
// mistake: it was started on an empty or half restored database, or on that of
// another environment. A full state that looks like one is refused, loudly, while
// the store keeps what it has. It is asked for again after Wait, and taken if it
// is the same then, since flags may really be gone; unless it is of another
// environment, which only [Syncer.Accept] makes good. The zero value guards.
type Guard struct {
	// Off takes every full state as it comes.
	Off bool

	// MaxRemoved is the share of the store's flags, between 0 and 1, that a full
	// state may lack. Zero means one half. A full state without any flags is
	// always refused while the store has some.
	MaxRemoved float64

	// MinFlags is how many flags the store must have for MaxRemoved to count.
	// Zero means 10.
	MinFlags int

	// Wait is the time until a refused full state is asked for again. Zero means
	// 5 seconds.
	Wait time.Duration
}

func (g Guard) withDefaults() Guard {
	if g.MaxRemoved <= 0 {
		g.MaxRemoved = 0.5
	}
	if g.MinFlags <= 0 {
		g.MinFlags = 10
	}
	if g.Wait <= 0 {
		g.Wait = 5 * time.Second
	}
	return g
}

// A RefusedError is found in Status.Err while the guard keeps a full state from
// the store.
type RefusedError struct {
	At      time.Time // when it was refused
	Stored  int       // flags in the store
	Removed int       // how many of them the full state lacks
	Env     string    // the environment that it is of, if that is another one
	Want    string    // the environment that the store's flags are of, in this case
}

// Error says what was refused, why, and what makes it good.
func (e *RefusedError) Error() string {
	switch {
	case e.Env != "":
		return fmt.Sprintf("refused a full state of environment %s: the store has %d flags of environment %s; accept it if that is meant", e.Env, e.Stored, e.Want)
	case e.Removed == e.Stored:
		return fmt.Sprintf("refused a full state that lacks all %d flags of the store; taken if FeatBit repeats it", e.Stored)
	}
	return fmt.Sprintf("refused a full state that lacks %d of the store's %d flags; taken if FeatBit repeats it", e.Removed, e.Stored)
}

// Accept takes the next full state as it is, and asks FeatBit for it if one was
// refused: an operator's word that it is right. It does not block.
func (s *Syncer) Accept() { signal(s.accepts) }

// A doubt is a full state that was refused.
type doubt struct {
	missing map[store.ID]struct{} // flags of the store that it lacked
	err     *RefusedError
}

// judge returns why the full state in held must not replace what is in the store,
// or nil.
func (m *manager) judge() *doubt {
	g := m.syncer.cfg.Guard
	if g.Off || m.accept {
		return nil
	}
	d := &doubt{missing: map[store.ID]struct{}{}, err: &RefusedError{At: time.Now(), Stored: len(m.there.flags)}}
	there := m.there
	if len(there.flags) == 0 && m.before.synced {
		// It was flushed. What it gets back is what is held.
		there.set(slices.Collect(maps.Values(m.before.held)), false)
		d.err.Stored = len(there.flags)
	}
	for id := range there.flags {
		if _, ok := m.held[id]; !ok {
			d.missing[id] = struct{}{}
		}
	}
	d.err.Removed = len(d.missing)
	empty := true
	for id := range m.held {
		empty = empty && id.Kind != store.Flag
	}
	if env := envOf(maps.Values(m.held)); env != "" && there.env != "" && env != there.env {
		d.err.Env, d.err.Want = env, there.env
		return d
	}
	allowed := float64(d.err.Stored) * g.MaxRemoved
	switch {
	case d.err.Removed == 0,
		!empty && d.err.Stored < g.MinFlags,
		!empty && float64(d.err.Removed) <= allowed:
		return nil
	case m.doubt == nil || m.doubt.err.Env != "" || !maps.Equal(d.missing, m.doubt.missing):
		return d // flags that were added meanwhile do not matter
	case time.Since(m.doubt.err.At) < g.Wait:
		return m.doubt // asked too soon, for another reason
	}
	return nil // repeated
}

// refused refuses the full state that is held if it must not be written, and
// reports whether it did.
func (m *manager) refused() bool {
	if !m.unjudged {
		return false
	}
	d := m.judge()
	if d != nil {
		m.refuse(d)
	}
	return d != nil
}

// refuse goes back to what was held before the full state, and asks again later.
func (m *manager) refuse(d *doubt) {
	if m.doubt == nil {
		m.syncer.cfg.Logger.Error("refused a full state", "env", m.syncer.env, "error", d.err)
	}
	m.syncer.update(func(st *Status, h *health) { st.Refused++; h.guardErr = d.err })
	m.doubt = d
	pushed := m.before.pushed
	m.held, m.synced, m.dirty = m.before.held, m.before.synced, m.before.dirty
	m.unjudged, m.before = false, before{}
	for id, it := range pushed {
		if old, ok := m.held[id]; !ok || it.Version > old.Version {
			m.held[id] = it
			m.dirty[id] = struct{}{}
		}
	}
	m.full = false
	if m.synced && m.rev == "" {
		m.full, m.base, m.baseKnown, m.forEmpty = true, "", true, true
	} else {
		// What others wrote was compared with the refused state.
		m.loaded, m.rev, m.wantLoad = false, "", true
	}
	m.doubtful.Reset(m.patience())
}

// patience is how long to wait with the next question: what only an operator can
// make good is not worth one every few seconds.
func (m *manager) patience() time.Duration {
	m.doubts++
	wait := m.syncer.cfg.Guard.Wait
	for i := 1; i < m.doubts && wait < time.Minute; i++ {
		wait *= 2
	}
	return wait
}

// accepted notes that a full state is in the store. The next report says so.
func (m *manager) accepted() {
	if !m.unjudged {
		return // not one of FeatBit's
	}
	m.unjudged, m.before, m.doubts = false, before{}, 0
	if m.doubt != nil {
		m.syncer.cfg.Logger.Warn("accepted a full state that was refused before", "env", m.syncer.env, "error", m.doubt.err)
	}
	m.doubt, m.accept = nil, false
	m.doubtful.Stop()
}

// before is what a full state replaced, until it is accepted.
type before struct {
	held   map[store.ID]store.Item
	dirty  map[store.ID]struct{}
	synced bool
	pushed map[store.ID]store.Item // since
}

// A stock is what the guard knows of the store's content.
type stock struct {
	flags map[store.ID]struct{} // that are not archived
	env   string                // the environment of its flags, if they are of one
}

// set notes that items, or with a delta these beside the others, are there.
func (s *stock) set(items []store.Item, delta bool) {
	if !delta {
		*s = stock{flags: map[store.ID]struct{}{}}
	}
	for _, it := range items {
		switch {
		case it.Kind != store.Flag:
		case it.Archived: // nobody misses it
			delete(s.flags, it.ID())
		default:
			s.flags[it.ID()] = struct{}{}
		}
	}
	if s.env == "" && !delta {
		s.env = envOf(slices.Values(items))
	}
}

// samples is how many flags are asked for their environment.
const samples = 32

// envOf returns the environment that the flags among items are of, by a sample of
// them, or "" if they are of several or do not say.
func envOf(items iter.Seq[store.Item]) string {
	env, n := "", 0
	for it := range items {
		if it.Kind != store.Flag {
			continue
		}
		var head struct{ EnvID string }
		// What cannot be read says nothing.
		_ = json.Unmarshal(it.Data, &head)
		switch {
		case env == "":
			env = head.EnvID
		case head.EnvID != "" && head.EnvID != env:
			return ""
		}
		if n++; n == samples {
			break
		}
	}
	return env
}
