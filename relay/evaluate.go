package relay

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/flagstead/flagstead/internal/flags"
	"github.com/flagstead/flagstead/internal/snapshot"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
)

// A judge evaluates the flags of one view.
type judge struct {
	view *view
	set  *flags.Set

	// What was asked for last: most connections lack the same.
	all, recent atomic.Pointer[news]
}

// news are the flags that may evaluate to something else than they did when the view was
// at since.
type news struct {
	since int64
	flags []candidate
}

// A candidate is a flag to evaluate. Its version is the newest of the flag and the
// segments that it names: SDKs ask for what is newer than the largest timestamp that
// they have seen, and a segment's change is news of the flag.
type candidate struct {
	key     string
	version int64
}

// judge returns what evaluates the flags of the current view, which is not nil. The
// set is kept up with the views only where somebody wants evaluations, and what was
// compiled for one of them serves all.
func (e *environment) judge() *judge {
	v := e.view.Load()
	if j := e.judged.Load(); j != nil && j.view == v {
		return j
	}
	e.judging.Lock()
	defer e.judging.Unlock()
	v = e.view.Load()
	old := e.judged.Load()
	if old != nil && old.view == v {
		return old
	}
	// Every change has a version above those before; equal ones are of the first
	// load only.
	snap := store.Snapshot{}
	rest, set := v.entries, (*flags.Set)(nil)
	if old != nil {
		rest, set, snap.Delta = v.after(old.view.hwm), old.set, true
	}
	snap.Items = make([]store.Item, len(rest))
	for i, en := range rest {
		snap.Items[i] = en.item
	}
	j := &judge{view: v}
	j.set, _ = snapshot.Apply(set, snap)
	e.judged.Store(j)
	return j
}

// affected returns the flags that may evaluate to something else than at version, in the
// order of their own versions, archived ones included. The result is shared.
func (j *judge) affected(version int64) []candidate {
	last := &j.recent
	if version == 0 {
		last = &j.all
	}
	if n := last.Load(); n != nil && n.since == version {
		return n.flags
	}
	n := &news{since: version}
	known := map[string]struct{}{}
	add := func(key string) {
		if _, ok := known[key]; !ok {
			known[key] = struct{}{}
			n.flags = append(n.flags, candidate{key, j.set.Newest(key)})
		}
	}
	var segments []string
	for _, en := range j.view.after(version) {
		if en.item.Kind == store.Segment {
			segments = append(segments, en.item.Key)
		} else {
			add(en.item.Key)
		}
	}
	if version != 0 { // else they are all there
		for _, key := range j.set.FlagsUsing(segments) {
			add(key)
		}
	}
	last.Store(n)
	return n.flags
}

// A clientFlag is an evaluated flag as client-side SDKs get it.
type clientFlag struct {
	Key              string   `json:"id"`
	Variation        *string  `json:"variation"`
	VariationType    string   `json:"variationType"`
	VariationID      *string  `json:"variationId"`
	MatchReason      string   `json:"matchReason"`
	VariationOptions []option `json:"variationOptions"`
	SendToExperiment bool     `json:"sendToExperiment"`
	Timestamp        int64    `json:"timestamp"`
}

type option struct {
	ID    string `json:"id"`
	Value string `json:"value"`
}

// evaluate evaluates one flag of the set. The timestamp is left to the caller.
func (j *judge) evaluate(key string, u *flags.User) clientFlag {
	r := j.set.Evaluate(key, u)
	c := clientFlag{Key: key, VariationOptions: []option{}}
	if r.Flag == nil {
		c.MatchReason, c.VariationType = "flag archived", "string"
		return c
	}
	c.VariationType = r.Flag.Type().String()
	for _, v := range r.Flag.Variations() {
		c.VariationOptions = append(c.VariationOptions, option{v.ID(), v.Text()})
	}
	c.MatchReason, c.SendToExperiment = matchReason(&r), r.Experiment
	if r.Variation != nil {
		id, value := r.Variation.ID(), r.Variation.Text()
		c.VariationID, c.Variation = &id, &value
	}
	return c
}

// matchReason is in the words of FeatBit's evaluation server, which are others than
// those of the SDKs.
func matchReason(r *flags.Result) string {
	switch r.Reason {
	case flags.Off:
		return "flag disabled"
	case flags.TargetMatch:
		return "targeted"
	case flags.RuleMatch:
		return r.RuleName()
	case flags.Fallthrough:
		return "default"
	}
	return r.Reason.String()
}

// clientDocument returns the data-sync document of the given flags.
func (j *judge) clientDocument(eventType string, u *flags.User, wanted []candidate) ([]byte, error) {
	list := make([]clientFlag, len(wanted))
	for i, c := range wanted {
		list[i] = j.evaluate(c.key, u)
		list[i].Timestamp = c.version
	}
	return json.Marshal(clientEnvelope{wire.MessageDataSync, clientPayload{eventType, u.Key(), list}})
}

type clientEnvelope struct {
	MessageType string        `json:"messageType"`
	Data        clientPayload `json:"data"`
}

type clientPayload struct {
	EventType string       `json:"eventType"`
	UserKeyID string       `json:"userKeyId"`
	Flags     []clientFlag `json:"featureFlags"`
}

// parseClientUser reads a user as FeatBit's server does: a key that is not blank,
// and texts.
func parseClientUser(text []byte) (*flags.User, error) {
	var w *struct {
		KeyID      string `json:"keyId"`
		Name       string `json:"name"`
		Properties []struct {
			Name  string  `json:"name"`
			Value *string `json:"value"`
		} `json:"customizedProperties"`
	}
	if len(text) == 0 {
		return nil, errors.New("no user")
	}
	if err := json.Unmarshal(text, &w); err != nil {
		return nil, fmt.Errorf("the user cannot be read: %s", wire.InWords(err))
	}
	if w == nil {
		return nil, errors.New("no user")
	}
	attrs := make([]flags.Attr, 0, len(w.Properties))
	for _, p := range w.Properties {
		if p.Value != nil {
			attrs = append(attrs, flags.TextAttr(p.Name, *p.Value))
		}
	}
	return flags.NewNamelessUser(w.KeyID, w.Name, attrs)
}
