// Package verify runs files of evaluation cases: flags, users and what each
// user must get. The conformance tests and the verify command share it.
//
// A file is a JSON object
//
//	{"bootstrap": <data-sync document>, "cases": [{"flagKey", "user", "default", "expect"}]}
//
// where user is a JSON object with key, name and attributes, and expect has one
// or more of value, reason, variationId and sendToExperiment; members that are
// absent are not checked. A member of another name is an error: a misspelt
// expectation must not pass. Only "description" of a file and "note" of a case
// are there for people. docs/verify.md is the description for users.
package verify

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"

	"github.com/flagstead/flagstead/internal/flags"
	"github.com/flagstead/flagstead/internal/snapshot"
	"github.com/flagstead/flagstead/internal/wire"
)

// A File is a decoded file of cases.
type File struct {
	Bootstrap json.RawMessage
	Cases     []Case
}

// A Case is one evaluation and its expected outcome.
type Case struct {
	FlagKey string
	User    json.RawMessage
	Default any
	Expect  Expect
}

// Expect is what an evaluation must give. Nil members are not checked.
type Expect struct {
	Value            *json.RawMessage
	Reason           *string
	VariationID      *string // empty: no event is recorded
	SendToExperiment *bool
}

// Parse decodes a file of cases. Its error names the case.
func Parse(text []byte) (*File, error) {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(text, &doc); err != nil {
		if _, ok := errors.AsType[*json.SyntaxError](err); ok {
			return nil, wire.Locate(text, err)
		}
		return nil, fmt.Errorf("not a file of cases: %s", wire.InWords(err))
	}
	for _, name := range []string{"bootstrap", "cases"} {
		if doc[name] == nil {
			return nil, fmt.Errorf("not a file of cases: no %q member", name)
		}
	}
	if err := only(doc, "bootstrap", "cases", "description"); err != nil {
		return nil, fmt.Errorf("not a file of cases: it %w", err)
	}
	var list []json.RawMessage
	if err := json.Unmarshal(doc["cases"], &list); err != nil {
		return nil, fmt.Errorf("not a file of cases: cases: %s", wire.InWords(err))
	}
	if len(list) == 0 {
		return nil, errors.New(`"cases" is empty, so nothing would be checked`)
	}
	f := &File{Bootstrap: doc["bootstrap"], Cases: make([]Case, len(list))}
	for i, raw := range list {
		if err := f.Cases[i].parse(raw); err != nil {
			name := fmt.Sprintf("case %d", i+1)
			if key := f.Cases[i].FlagKey; key != "" {
				name += fmt.Sprintf(", flag %q", key)
			}
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return f, nil
}

func (c *Case) parse(raw json.RawMessage) error {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return errors.New(wire.InWords(err))
	}
	if err := text(m, "flagKey", &c.FlagKey); err != nil {
		return err
	}
	for _, name := range []string{"flagKey", "user", "expect"} {
		if m[name] == nil {
			return fmt.Errorf("no %q member", name)
		}
	}
	if err := only(m, "flagKey", "user", "default", "expect", "note"); err != nil {
		return fmt.Errorf("it %w", err)
	}
	c.User = m["user"]
	if value, ok := m["default"]; ok {
		if err := json.Unmarshal(value, &c.Default); err != nil {
			return err
		}
	}
	return c.Expect.parse(m["expect"])
}

func (e *Expect) parse(raw json.RawMessage) error {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("expect: %s", wire.InWords(err))
	}
	if err := only(m, "value", "reason", "variationId", "sendToExperiment"); err != nil {
		return fmt.Errorf("expect %w", err)
	}
	if len(m) == 0 {
		return errors.New("expect is empty, so nothing would be checked")
	}
	if value, ok := m["value"]; ok {
		e.Value = &value
	}
	if _, ok := m["reason"]; ok {
		e.Reason = new(string)
		if err := text(m, "reason", e.Reason); err != nil {
			return err
		}
	}
	if value, ok := m["variationId"]; ok {
		e.VariationID = new(string)
		if string(value) != "null" {
			if err := text(m, "variationId", e.VariationID); err != nil {
				return err
			}
		}
	}
	switch value, ok := m["sendToExperiment"]; {
	case !ok:
	case string(value) != "true" && string(value) != "false":
		return errors.New("sendToExperiment is not true or false")
	default:
		send := string(value) == "true"
		e.SendToExperiment = &send
	}
	return nil
}

// text decodes a member, if it is there, into a text. Null is none.
func text(m map[string]json.RawMessage, name string, to *string) error {
	value, ok := m[name]
	if !ok {
		return nil
	}
	if value[0] != '"' {
		return fmt.Errorf("%s is not a text", name)
	}
	return json.Unmarshal(value, to)
}

// only rejects members of other names.
func only(m map[string]json.RawMessage, names ...string) error {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if !slices.Contains(names, name) {
			return fmt.Errorf("has the unknown member %q; known are %s", name, strings.Join(names, ", "))
		}
	}
	return nil
}

// Load returns the flags of the file's bootstrap.
func (f *File) Load() (*flags.Set, error) {
	set, err := snapshot.Parse(f.Bootstrap)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	return set, nil
}

// An Outcome is what an evaluation gave.
type Outcome struct {
	Value            any
	Reason           string
	VariationID      string // empty if no event is recorded
	SendToExperiment bool
	Err              error // why Reason is an error, if more is known
}

// Evaluate evaluates a case's flag for its user.
func Evaluate(set *flags.Set, c Case) Outcome {
	u, userErr := flags.ParseUser(c.User) // a bad user is a case of its own
	res := set.Evaluate(c.FlagKey, u)
	if res.Reason.IsError() {
		out := Outcome{Value: c.Default, Reason: res.Reason.String(), Err: res.Err()}
		if res.Reason == flags.BadUser {
			out.Err = userErr
		}
		return out
	}
	return Outcome{Value: res.Variation.Any(), Reason: res.Reason.String(), VariationID: res.Variation.ID(), SendToExperiment: res.Experiment}
}

// Check says what is wrong with got, or returns nil.
func (e Expect) Check(got Outcome) error {
	var wrong []string
	if e.Value != nil {
		var want any
		if err := json.Unmarshal(*e.Value, &want); err != nil {
			return err
		}
		if !equal(got.Value, want) {
			wrong = append(wrong, fmt.Sprintf("value is %s, want %s", show(got.Value), *e.Value))
		}
	}
	if e.VariationID != nil && got.VariationID != *e.VariationID {
		wrong = append(wrong, fmt.Sprintf("variation is %q, want %q", got.VariationID, *e.VariationID))
	}
	if e.SendToExperiment != nil && got.SendToExperiment != *e.SendToExperiment {
		wrong = append(wrong, fmt.Sprintf("sendToExperiment is %t, want %t", got.SendToExperiment, *e.SendToExperiment))
	}
	// The reason tells why another value came, so it is shown in any case.
	switch {
	case e.Reason != nil && got.Reason != *e.Reason:
		wrong = append(wrong, fmt.Sprintf("reason is %q, want %q", got.Reason, *e.Reason)+got.why())
	case len(wrong) > 0:
		wrong[0] += fmt.Sprintf(" (%s%s)", got.Reason, got.why())
	}
	if len(wrong) == 0 {
		return nil
	}
	return errors.New(strings.Join(wrong, "\n"))
}

// why returns what is known beside the reason, to be put behind it.
func (o Outcome) why() string {
	if o.Err == nil {
		return ""
	}
	return ": " + wire.InWords(o.Err)
}

func equal(got, want any) bool {
	g, err := json.Marshal(got)
	if err != nil {
		x, ok := got.(float64) // not finite
		return ok && math.IsNaN(x) && want == nil
	}
	var again any
	if json.Unmarshal(g, &again) != nil {
		return false
	}
	return reflect.DeepEqual(again, want)
}

func show(v any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if enc.Encode(v) != nil {
		return fmt.Sprint(v)
	}
	return string(bytes.TrimSpace(b.Bytes()))
}
