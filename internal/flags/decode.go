package flags

import (
	"bytes"
	"encoding/json"
	"math"

	"github.com/flagstead/flagstead/internal/jsonwalk"
)

// The wire form of flags and segments. Texts, numbers and truth values are read
// leniently: an odd one must cost that member only, because FeatBit's stores
// differ in what they send and the official SDKs disagree about what is valid.

type wireFlag struct {
	Name                text             `json:"name"`
	VariationType       text             `json:"variationType"`
	Variations          []wireVariation  `json:"variations"`
	TargetUsers         []wireTarget     `json:"targetUsers"`
	Rules               []wireRule       `json:"rules"`
	IsEnabled           truth            `json:"isEnabled"`
	DisabledVariationID text             `json:"disabledVariationId"`
	Fallthrough         *wireFallthrough `json:"fallthrough"`
	ExptAllTargets      truth            `json:"exptIncludeAllTargets"`
}

type wireVariation struct {
	ID    text `json:"id"`
	Name  text `json:"name"`
	Value text `json:"value"`
}

type wireTarget struct {
	KeyIDs      texts `json:"keyIds"`
	VariationID text  `json:"variationId"`
}

type wireRule struct {
	Name       text            `json:"name"`
	Conditions []wireCondition `json:"conditions"` // nil if null or absent
	wireFallthrough
}

type wireFallthrough struct {
	DispatchKey    text        `json:"dispatchKey"`
	IncludedInExpt truth       `json:"includedInExpt"`
	Variations     []wireSlice `json:"variations"`
}

type wireSlice struct {
	ID          text   `json:"id"`
	Rollout     bounds `json:"rollout"`
	ExptRollout number `json:"exptRollout"`
}

type wireCondition struct {
	Property text `json:"property"`
	Op       text `json:"op"`
	Value    text `json:"value"`
}

type wireSegment struct {
	Included texts             `json:"included"`
	Excluded texts             `json:"excluded"`
	Rules    []wireSegmentRule `json:"rules"`
}

type wireSegmentRule struct {
	Conditions []wireCondition `json:"conditions"`
}

// A text is a JSON string. Null and absent are the zero text; any other value
// counts as its own JSON.
type text struct {
	s  string
	ok bool // present and not null
}

func (t *text) UnmarshalJSON(b []byte) error {
	if bytes.Equal(b, []byte("null")) {
		return nil
	}
	t.ok = true
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, &t.s)
	}
	t.s = string(b)
	return nil
}

// texts is a list of strings; members that are no strings are left out, and
// what is no list is empty.
type texts []string

func (t *texts) UnmarshalJSON(b []byte) error {
	*t = stringsOf(b)
	return nil
}

// stringsOf returns the strings of a JSON array, and nothing for other JSON or
// text that is no JSON.
func stringsOf(b []byte) []string {
	var list []json.RawMessage
	if json.Unmarshal(b, &list) != nil {
		return nil
	}
	out := make([]string, 0, len(list))
	for _, raw := range list {
		var s string
		if len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, &s) == nil {
			out = append(out, s)
		}
	}
	return out
}

// listOf is stringsOf for the value of a condition.
func listOf(value string) []string {
	var list texts
	at := jsonwalk.Space(value, 0)
	if end := readTexts(value, at, &list); end > 0 && jsonwalk.Space(value, end) == len(value) {
		return list
	}
	return stringsOf([]byte(value))
}

// A truth is true only for JSON true.
type truth bool

func (t *truth) UnmarshalJSON(b []byte) error {
	*t = string(b) == "true"
	return nil
}

// A number is a JSON number; null and absent are 0, anything else is NaN, which
// is in no range.
type number float64

func (n *number) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	var x float64
	if json.Unmarshal(b, &x) != nil {
		x = math.NaN()
	}
	*n = number(x)
	return nil
}

// bounds is a rollout slice. What is not a list of two or more numbers is a
// slice that nobody is in.
type bounds struct{ lo, hi float64 }

func (r *bounds) UnmarshalJSON(b []byte) error {
	*r = bounds{}
	var list []number
	if json.Unmarshal(b, &list) == nil && len(list) >= 2 {
		*r = bounds{float64(list[0]), float64(list[1])}
	}
	return nil
}
