// Package verify runs files of evaluation cases: flags, users and what each
// user must get. The conformance tests and the verify command share it.
//
// A file is a JSON object
//
//	{"bootstrap": <data-sync document>, "cases": [{"flagKey", "user", "default", "expect"}]}
//
// where user is a JSON object with key, name and attributes, and expect has any
// of value, reason, variationId and sendToExperiment; members that are absent
// are not checked.
package verify

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"

	"github.com/flagstead/flagstead/internal/flags"
	"github.com/flagstead/flagstead/internal/snapshot"
	"github.com/flagstead/flagstead/internal/wire"
)

// A File is a decoded file of cases.
type File struct {
	Bootstrap json.RawMessage `json:"bootstrap"`
	Cases     []Case          `json:"cases"`
}

// A Case is one evaluation and its expected outcome.
type Case struct {
	FlagKey string          `json:"flagKey"`
	User    json.RawMessage `json:"user"`
	Default any             `json:"default"`
	Expect  Expect          `json:"expect"`
}

// Expect is what an evaluation must give. Nil members are not checked.
type Expect struct {
	Value            *json.RawMessage `json:"value"`
	Reason           *string          `json:"reason"`
	VariationID      json.RawMessage  `json:"variationId"` // null: no event is recorded
	SendToExperiment *bool            `json:"sendToExperiment"`
}

// UnmarshalJSON keeps a null value apart from an absent one.
func (e *Expect) UnmarshalJSON(b []byte) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil {
		return err
	}
	if v, ok := members["value"]; ok {
		e.Value = &v
	}
	e.VariationID = members["variationId"]
	for name, target := range map[string]any{"reason": &e.Reason, "sendToExperiment": &e.SendToExperiment} {
		if raw, ok := members[name]; ok {
			if err := json.Unmarshal(raw, target); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

// Parse decodes a file of cases.
func Parse(text []byte) (*File, error) {
	var f File
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, locate(text, err)
	}
	switch {
	case f.Bootstrap == nil:
		return nil, errors.New(`not a file of cases: no "bootstrap" member`)
	case f.Cases == nil:
		return nil, errors.New(`not a file of cases: no "cases" member`)
	}
	return &f, nil
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
}

// Evaluate evaluates a case's flag for its user.
func Evaluate(set *flags.Set, c Case) Outcome {
	u, _ := flags.ParseUser(c.User) // a bad user is a case of its own
	res := set.Evaluate(c.FlagKey, u)
	if res.Reason.IsError() {
		return Outcome{Value: c.Default, Reason: res.Reason.String()}
	}
	return Outcome{Value: res.Variation.Any(), Reason: res.Reason.String(), VariationID: res.Variation.ID(), SendToExperiment: res.Experiment}
}

// Check says what is wrong with got, or returns nil.
func (e Expect) Check(got Outcome) error {
	var errs []error
	if e.Value != nil {
		var want any
		if err := json.Unmarshal(*e.Value, &want); err != nil {
			return err
		}
		if !equal(got.Value, want) {
			errs = append(errs, fmt.Errorf("value is %s, want %s", show(got.Value), *e.Value))
		}
	}
	if e.Reason != nil && got.Reason != *e.Reason {
		errs = append(errs, fmt.Errorf("reason is %q, want %q", got.Reason, *e.Reason))
	}
	if e.VariationID != nil {
		var want string // stays empty for null
		if err := json.Unmarshal(e.VariationID, &want); err != nil {
			return err
		}
		if got.VariationID != want {
			errs = append(errs, fmt.Errorf("variation is %q, want %q", got.VariationID, want))
		}
	}
	if e.SendToExperiment != nil && got.SendToExperiment != *e.SendToExperiment {
		errs = append(errs, fmt.Errorf("sendToExperiment is %t, want %t", got.SendToExperiment, *e.SendToExperiment))
	}
	return errors.Join(errs...)
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

func locate(text []byte, err error) error {
	if _, ok := errors.AsType[*json.SyntaxError](err); ok {
		return wire.Locate(text, err)
	}
	return fmt.Errorf("not a file of cases: %w", err)
}
