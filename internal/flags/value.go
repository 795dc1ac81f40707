package flags

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
)

// A Type is a flag's variation type.
type Type uint8

// The variation types. What FeatBit does not define counts as String.
const (
	String Type = iota
	Boolean
	Number
	JSON
)

func typeOf(name string) Type {
	switch name {
	case "boolean":
		return Boolean
	case "number":
		return Number
	case "json":
		return JSON
	}
	return String
}

// String returns FeatBit's name of the type.
func (t Type) String() string {
	return [...]string{"string", "boolean", "number", "json"}[t&3]
}

// A Variation is one of the values that a flag can serve. It is immutable.
type Variation struct {
	id, value string
	typ       Type

	// What the value stands for, worked out at load.
	boolean bool
	number  float64
	isBool  bool
	isNum   bool // finite
	isJSON  bool // strict JSON
}

func newVariation(w wireVariation, t Type) *Variation {
	v := &Variation{id: w.ID.s, value: w.Value.s, typ: t}
	if t == Boolean {
		trimmed := strings.TrimSpace(v.value)
		v.boolean = equalFoldASCII(trimmed, "true")
		v.isBool = v.boolean || equalFoldASCII(trimmed, "false")
	} else if x, ok := parseNumber(v.value); ok && !math.IsInf(x, 0) && !math.IsNaN(x) {
		v.number, v.isNum = x, true
	}
	v.isJSON = t == JSON && json.Valid([]byte(v.value))
	return v
}

// NewVariation returns the variation that serves v: a bool, a string or a number
// of any Go type, or what encoding/json can encode. It has no id.
func NewVariation(v any) (*Variation, error) {
	t, value := JSON, ""
	switch r := reflect.ValueOf(v); {
	case r.Kind() == reflect.Bool:
		t, value = Boolean, strconv.FormatBool(r.Bool())
	case r.Kind() == reflect.String:
		t, value = String, r.String()
	case r.CanInt():
		t, value = Number, strconv.FormatInt(r.Int(), 10)
	case r.CanUint():
		t, value = Number, strconv.FormatUint(r.Uint(), 10)
	case r.CanFloat():
		x := r.Float()
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return nil, fmt.Errorf("%v is not a finite number", x)
		}
		t, value = Number, formatFloat(x)
	default:
		b, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		value = string(b)
	}
	return newVariation(wireVariation{Value: text{s: value}}, t), nil
}

// ID returns the variation's id.
func (v *Variation) ID() string { return v.id }

// Text returns the variation's value as FeatBit sent it.
func (v *Variation) Text() string { return v.value }

// Bool returns the value as a truth value: true and false in any case. Only
// boolean flags have one.
func (v *Variation) Bool() (value, ok bool) { return v.boolean, v.isBool }

// Float returns the value as a finite number. Flags of every type but boolean
// have one if their text is a number.
func (v *Variation) Float() (float64, bool) { return v.number, v.isNum }

// IsJSON reports whether the variation is strict JSON of a json flag.
func (v *Variation) IsJSON() bool { return v.isJSON }

// Any returns the value cast by the flag's type: a bool, a float64, decoded
// JSON or a string. As in the Python SDK, a value that does not parse is its
// text, and a boolean flag's text is read as JSON, so that "1" is a number.
// JSON is decoded anew by each call; the caller owns the result.
func (v *Variation) Any() any {
	switch v.typ {
	case Boolean:
		switch strings.Trim(v.value, " \t\r\n") {
		case "true":
			return true
		case "false":
			return false
		}
		return v.decode()
	case JSON:
		return v.decode()
	case Number:
		if v.isNum {
			return v.number
		}
	}
	return v.value
}

func (v *Variation) decode() any {
	var out any
	if json.Unmarshal([]byte(v.value), &out) != nil {
		return v.value
	}
	return out
}
