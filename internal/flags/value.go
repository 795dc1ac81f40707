package flags

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
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

	// What the value stands for, worked out at load.
	number  float64
	typ     Type
	boolean bool
	isBool  bool
	isNum   bool // finite
	isJSON  bool // strict JSON

	// What Any returns: boxed, so that no call has to allocate, or, if it is nil, a
	// copy of decoded, which is filled when somebody asks for it.
	boxed   any
	decoded atomic.Pointer[any]
	shared  atomic.Pointer[any] // what Share keeps
}

// init makes v of its wire form. It must be boxed before it is served.
func (v *Variation) init(w wireVariation, t Type) {
	v.id, v.value, v.typ = w.ID.s, w.Value.s, t
	if t == Boolean {
		trimmed := strings.TrimSpace(v.value)
		v.boolean = equalFoldASCII(trimmed, "true")
		v.isBool = v.boolean || equalFoldASCII(trimmed, "false")
	} else if x, ok := parseNumber(v.value); ok && !math.IsInf(x, 0) && !math.IsNaN(x) {
		v.number, v.isNum = x, true
	}
	v.isJSON = t == JSON && json.Valid([]byte(v.value))
}

// box decides what Any returns. As in the Python SDK, a value that does not parse is
// its text, and a boolean flag's text is read as JSON, so that "1" is a number.
func (v *Variation) box() {
	switch v.typ {
	case Boolean:
		switch trimmed := strings.Trim(v.value, " \t\r\n"); {
		case trimmed == "true" || trimmed == "false":
			v.boxed = trimmed == "true"
		case !json.Valid([]byte(v.value)):
			v.boxed = v.value
		}
	case JSON:
		if !v.isJSON {
			v.boxed = v.value
		}
	case Number:
		if v.isNum {
			v.boxed = v.number
		} else {
			v.boxed = v.value
		}
	default:
		v.boxed = v.value
	}
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
	one := new(Variation)
	one.init(wireVariation{Value: text{s: value}}, t)
	one.box()
	return one, nil
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

// Any returns the value cast by the flag's type: a bool, a float64, decoded JSON or a
// string. JSON is decoded once; the caller gets a copy of its own.
func (v *Variation) Any() any {
	if v.boxed != nil {
		return v.boxed
	}
	p := v.decoded.Load()
	if p == nil {
		p = new(any)
		if json.Unmarshal([]byte(v.value), p) != nil {
			*p = v.value // a number that is too large
		}
		v.decoded.Store(p)
	}
	return clone(*p)
}

func clone(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, x := range v {
			out[k] = clone(x)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = clone(x)
		}
		return out
	}
	return v
}

// Shared returns what was last kept with Share, or nil.
func (v *Variation) Shared() any {
	if p := v.shared.Load(); p != nil {
		return *p
	}
	return nil
}

// Share keeps what v was decoded to for later calls. Nobody may modify it.
func (v *Variation) Share(decoded any) { v.shared.Store(&decoded) }
