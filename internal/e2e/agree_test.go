//go:build e2e

package e2e

import (
	"crypto/md5"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/flagstead/flagstead/internal/snapshot"
	"github.com/flagstead/flagstead/internal/verify"
	"github.com/flagstead/flagstead/store"
)

// FeatBit's SDKs disagree about some flags: regular expressions, missing
// properties, archived items, broken documents, odd numbers. What follows takes
// from the conformance cases those flags and users on which the Node SDK agrees
// with the Python SDK, whose answers the cases record.

// A pair is a flag and a user to evaluate it for.
type pair struct {
	Flag string `json:"flag"`
	User user   `json:"user"`
	Type string `json:"type"`

	constructs []string // what the flag is made of
}

// A user is one whose attributes are all texts, as the Node SDK takes them.
type user struct {
	Key    string            `json:"key"`
	Name   string            `json:"name"`
	Custom map[string]string `json:"custom"`
}

// text is the user as sdk.ParseUser reads it.
func (u user) text() []byte {
	all := map[string]string{"key": u.Key, "name": u.Name}
	for name, value := range u.Custom {
		all[name] = value
	}
	text, err := json.Marshal(all)
	if err != nil {
		panic(err) // maps of texts always encode
	}
	return text
}

func (u user) property(name string) (string, bool) {
	switch name {
	case "keyId":
		return u.Key, true
	case "name":
		return u.Name, true
	}
	value, ok := u.Custom[name]
	return value, ok
}

type flag struct {
	Key           string
	VariationType string
	Variations    []struct {
		ID    string
		Value *string
	}
	TargetUsers []struct {
		KeyIDs      []string
		VariationID string
	}
	Rules               []rule
	IsEnabled           bool
	DisabledVariationID string
	Fallthrough         *rule
	IsArchived          bool
}

type rule struct {
	DispatchKey *string
	Variations  []slice
	Conditions  []condition
}

type slice struct {
	ID      string
	Rollout []json.Number
}

type condition struct {
	Property string
	Op       *string
	Value    *string
}

type segment struct {
	ID         string
	Included   []string
	Excluded   []string
	Rules      []rule
	IsArchived bool
}

// agreeing returns the items of the conformance cases and the pairs on which
// the SDKs agree. The items are those that the pairs need: others may be of the
// kind that the Node SDK fails to load.
func agreeing(t *testing.T) ([]store.Item, []pair) {
	t.Helper()
	files, err := filepath.Glob("../flags/testdata/eval-*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no conformance cases: %v", err)
	}
	var items []store.Item
	var pairs []pair
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := verify.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := snapshot.Items(f.Bootstrap)
		if err != nil {
			t.Fatal(err)
		}
		usable := map[string]flag{}
		segments := map[string]segment{}
		count := map[store.ID]int{}
		for _, it := range doc {
			count[it.ID()]++
			switch it.Kind {
			case store.Flag:
				var fl flag
				if json.Unmarshal(it.Data, &fl) == nil && fl.plain() {
					usable[fl.Key] = fl
				}
			case store.Segment:
				var s segment
				if json.Unmarshal(it.Data, &s) == nil && s.plain() {
					segments[s.ID] = s
				}
			}
		}
		// All ids, so that a list that names a segment that is not plain is
		// told from one that names none.
		known := func(id string) bool { return count[store.ID{Kind: store.Segment, Key: id}] > 0 }

		needed := map[store.ID]bool{}
		for _, c := range f.Cases {
			fl, ok := usable[c.FlagKey]
			if !ok || count[store.ID{Kind: store.Flag, Key: fl.Key}] > 1 {
				continue
			}
			u, ok := plainUser(c.User)
			if !ok {
				continue
			}
			constructs, ids, ok := fl.agrees(u, segments, known)
			if !ok {
				continue
			}
			pairs = append(pairs, pair{Flag: fl.Key, User: u, Type: fl.VariationType, constructs: constructs})
			needed[store.ID{Kind: store.Flag, Key: fl.Key}] = true
			for _, id := range ids {
				needed[store.ID{Kind: store.Segment, Key: id}] = true
			}
		}
		for _, it := range doc {
			if needed[it.ID()] {
				items = append(items, it)
			}
		}
	}
	return items, pairs
}

// plain reports whether f is complete: every variation exists, and every
// rollout covers everybody, in slices that the SDKs cannot round differently.
func (f flag) plain() bool {
	if f.IsArchived || f.Rules == nil || f.TargetUsers == nil || f.Fallthrough == nil {
		return false
	}
	ids := map[string]bool{}
	for _, v := range f.Variations {
		if v.Value == nil {
			return false
		}
		ids[v.ID] = true
	}
	if !ids[f.DisabledVariationID] {
		return false
	}
	for _, target := range f.TargetUsers {
		if target.KeyIDs == nil || !ids[target.VariationID] {
			return false
		}
	}
	for _, r := range append(slices.Clone(f.Rules), *f.Fallthrough) {
		end := json.Number("0")
		for _, s := range r.Variations {
			if !ids[s.ID] || len(s.Rollout) != 2 || s.Rollout[0] != end || !shortNumber.MatchString(string(s.Rollout[1])) || s.Rollout[0] == s.Rollout[1] {
				return false
			}
			end = s.Rollout[1]
		}
		if end != "1" {
			return false
		}
	}
	return !slices.ContainsFunc(f.Rules, func(r rule) bool { return r.Conditions == nil })
}

func (s segment) plain() bool {
	if s.IsArchived || s.Included == nil || s.Excluded == nil || s.Rules == nil {
		return false
	}
	for _, r := range s.Rules {
		if len(r.Conditions) == 0 || slices.ContainsFunc(r.Conditions, condition.onSegments) {
			return false // the Node SDK knows no segments of segments
		}
	}
	return true
}

// agrees reports whether the SDKs agree on f for u, what f is made of, and the
// ids of the segments that it needs.
func (f flag) agrees(u user, segments map[string]segment, known func(id string) bool) (constructs, ids []string, ok bool) {
	constructs = append(constructs, "type "+f.VariationType)
	if !f.IsEnabled {
		return append(constructs, "off"), nil, true
	}
	if len(f.TargetUsers) > 0 {
		constructs = append(constructs, "targets")
	}
	for _, r := range append(slices.Clone(f.Rules), *f.Fallthrough) {
		dispatch, ok := r.dispatch(u)
		if !ok {
			return nil, nil, false
		}
		if len(r.Variations) > 1 {
			constructs = append(constructs, "rollout by "+dispatch.name)
			if slices.ContainsFunc(r.Variations, func(s slice) bool { return s.at(hash(f.Key + dispatch.value)) }) {
				return nil, nil, false // bounds are open in one SDK and closed in the other
			}
		}
		for _, c := range r.Conditions {
			if !c.onSegments() {
				if !c.agrees(u) {
					return nil, nil, false
				}
				constructs = append(constructs, *c.Op)
				continue
			}
			var list []string
			if c.Value == nil || json.Unmarshal([]byte(*c.Value), &list) != nil || list == nil || (c.Op != nil && *c.Op != "" && *c.Op != c.Property) {
				return nil, nil, false
			}
			constructs = append(constructs, c.Property)
			for _, id := range list {
				s, plain := segments[id]
				if !plain && known(id) {
					return nil, nil, false
				}
				ids = append(ids, id)
				for _, r := range s.Rules {
					for _, c := range r.Conditions {
						if !c.agrees(u) {
							return nil, nil, false
						}
						constructs = append(constructs, "segment rule")
					}
				}
			}
		}
	}
	return constructs, ids, true
}

type dispatch struct{ name, value string }

// dispatch returns what users are spread by.
func (r rule) dispatch(u user) (dispatch, bool) {
	if r.DispatchKey == nil || *r.DispatchKey == "" {
		return dispatch{"key", u.Key}, true
	}
	name := *r.DispatchKey
	value, ok := u.property(name)
	if !ok || strings.TrimSpace(name) == "" || reserved(name) {
		return dispatch{}, false
	}
	if name != "keyId" && name != "name" {
		name = "custom property"
	}
	return dispatch{name, value}, true
}

func (s slice) at(hash float64) bool {
	for _, bound := range s.Rollout {
		if x, err := bound.Float64(); err != nil || x == hash {
			return true
		}
	}
	return false
}

// hash is FeatBit's place of a text between 0 and 1.
func hash(text string) float64 {
	sum := md5.Sum([]byte(text))
	return math.Abs(float64(int32(binary.LittleEndian.Uint32(sum[:]))) / math.MinInt32)
}

func (c condition) onSegments() bool {
	return c.Property == "User is in segment" || c.Property == "User is not in segment"
}

// Numbers that parse alike everywhere, and that rounding to five decimals, as
// the Python SDK does it, leaves alone.
var shortNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]{0,8})(\.[0-9]{1,4})?$`)

// agrees reports whether the SDKs agree on c for u.
func (c condition) agrees(u user) bool {
	if c.Op == nil || c.Value == nil || reserved(c.Property) {
		return false
	}
	value, ok := u.property(c.Property)
	if !ok {
		return false
	}
	switch *c.Op {
	case "Equal", "NotEqual", "Contains", "NotContain", "StartsWith", "EndsWith":
		return true
	case "IsOneOf", "NotOneOf":
		var list []string
		return json.Unmarshal([]byte(*c.Value), &list) == nil && list != nil
	case "IsTrue", "IsFalse":
		return !strings.ContainsFunc(value, func(r rune) bool { return r > 0x7f }) // folding differs
	case "LessThan", "LessEqualThan", "BiggerThan", "BiggerEqualThan":
		return shortNumber.MatchString(value) && shortNumber.MatchString(*c.Value)
	}
	return false
}

// reserved reports whether the SDKs disagree on what name means: a built-in
// property, or a custom one.
func reserved(name string) bool {
	switch strings.ToLower(name) {
	case "key", "keyid", "name":
		return name != "keyId" && name != "name"
	}
	return false
}

// plainUser returns the user of a case if every SDK accepts it and sees the
// same texts.
func plainUser(text []byte) (user, bool) {
	var members map[string]json.RawMessage
	if json.Unmarshal(text, &members) != nil {
		return user{}, false
	}
	u := user{Custom: map[string]string{}}
	for name, raw := range members {
		var value string
		if json.Unmarshal(raw, &value) != nil || string(raw) == "null" {
			if value = string(raw); value != "true" && value != "false" && !shortNumber.MatchString(value) {
				return user{}, false
			}
			if name == "key" || name == "name" {
				return user{}, false
			}
		}
		switch {
		case name == "key":
			u.Key = value
		case name == "name":
			u.Name = value
		case name == "keyId" || reserved(name):
			return user{}, false
		default:
			u.Custom[name] = value
		}
	}
	return u, strings.TrimSpace(u.Key) != "" && strings.TrimSpace(u.Name) != ""
}
