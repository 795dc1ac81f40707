package sdk

import (
	"encoding/json"
	"errors"
	"math"
	"reflect"

	"github.com/flagstead/flagstead/internal/flags"
)

// An Evaluator evaluates flags. It is a [Client], on the flags as they are at
// each call, or a [Snapshot], on the flags as they were at one moment. All its
// methods behave alike in both; none blocks, and none fails or panics: a flag
// that cannot be evaluated gives the caller's default.
type Evaluator interface {
	Bool(key string, u *User, def bool) bool
	BoolDetail(key string, u *User, def bool) Detail[bool]
	String(key string, u *User, def string) string
	StringDetail(key string, u *User, def string) Detail[string]
	Int(key string, u *User, def int) int
	IntDetail(key string, u *User, def int) Detail[int]
	Float64(key string, u *User, def float64) float64
	Float64Detail(key string, u *User, def float64) Detail[float64]
	Variation(key string, u *User, def any) any
	VariationDetail(key string, u *User, def any) Detail[any]
	AllFlags(u *User) AllFlags
	IsFlagKnown(key string) bool

	// Snapshot freezes the flags; a Snapshot returns itself.
	Snapshot() Snapshot
}

// A Snapshot evaluates the flags that a client had at one moment, so that all
// evaluations of one request agree with each other while flags change. It
// records events as the client does, and costs nothing to make. Keep it no
// longer than the request: it never changes, and it holds on to its flags.
//
// The zero Snapshot gives defaults.
type Snapshot struct {
	client *Client
	set    *flags.Set // nil: the client was not ready
}

// Snapshot freezes the current flags.
func (c *Client) Snapshot() Snapshot { return Snapshot{client: c, set: c.set.Load()} }

// Snapshot returns s.
func (s Snapshot) Snapshot() Snapshot { return s }

// Ready reports whether the client had flags.
func (s Snapshot) Ready() bool { return s.set != nil }

// missing says why there are no flags.
func (s Snapshot) missing() error {
	if s.client != nil && s.client.withheld.Load() {
		return ErrTooOld
	}
	return ErrNotReady
}

func (s Snapshot) evaluate(key string, u *User) flags.Result {
	if s.set == nil {
		return flags.Result{Reason: flags.ClientNotReady}
	}
	return s.set.Evaluate(key, (*flags.User)(u))
}

// typed evaluates a flag and converts its value. If that is not possible the
// result says why, and no event is recorded.
func typed[T any](s Snapshot, key string, u *User, def T, convert func(*flags.Variation) (T, bool)) (T, flags.Result) {
	res := s.evaluate(key, u)
	if !res.Reason.IsError() {
		if value, ok := convert(res.Variation); ok {
			s.client.record(u, res.Flag, res.Variation, res.Why())
			return value, res
		}
		res.Reason = flags.WrongType
	}
	return fallback(s, key, def, convert), res
}

// hasDefaults reports whether there are any of Config.Defaults.
func (s Snapshot) hasDefaults() bool { return s.client != nil && len(s.client.plan.defaults) > 0 }

// fallback returns the default of Config.Defaults, if there is one of the type
// asked for, else the caller's.
func fallback[T any](s Snapshot, key string, def T, convert func(*flags.Variation) (T, bool)) T {
	if s.hasDefaults() {
		if d := s.client.plan.defaults[key]; d != nil {
			if value, ok := convert(d); ok {
				return value
			}
		}
	}
	return def
}

// Bool returns the value of a boolean flag for u, or def if it cannot be
// evaluated or is of another type. It records an event if it served a
// variation. It does not block, and allocates nothing but for the first evaluation
// of a changed flag, which compiles it; so do all evaluations but those that
// decode JSON.
func (c *Client) Bool(key string, u *User, def bool) bool { return c.Snapshot().Bool(key, u, def) }

// Bool is [Client.Bool] on frozen flags.
func (s Snapshot) Bool(key string, u *User, def bool) bool {
	if s.set != nil {
		if f, v, how := s.set.Serve(key, (*flags.User)(u)); v != nil {
			if value, ok := v.Bool(); ok {
				s.client.record(u, f, v, how)
				return value
			}
		}
	}
	if !s.hasDefaults() {
		return def
	}
	return fallback(s, key, def, (*flags.Variation).Bool)
}

// BoolDetail is like [Client.Bool] and says why.
func (c *Client) BoolDetail(key string, u *User, def bool) Detail[bool] {
	return c.Snapshot().BoolDetail(key, u, def)
}

// BoolDetail is [Client.BoolDetail] on frozen flags.
func (s Snapshot) BoolDetail(key string, u *User, def bool) Detail[bool] {
	v, res := typed(s, key, u, def, (*flags.Variation).Bool)
	return detail(s, key, v, &res)
}

// String returns the value of a flag of any type as the text that FeatBit has,
// or def if the flag cannot be evaluated.
func (c *Client) String(key string, u *User, def string) string {
	return c.Snapshot().String(key, u, def)
}

// String is [Client.String] on frozen flags.
func (s Snapshot) String(key string, u *User, def string) string {
	if s.set != nil {
		if f, v, how := s.set.Serve(key, (*flags.User)(u)); v != nil {
			s.client.record(u, f, v, how)
			return v.Text()
		}
	}
	if !s.hasDefaults() {
		return def
	}
	return fallback(s, key, def, toText)
}

// StringDetail is like [Client.String] and says why.
func (c *Client) StringDetail(key string, u *User, def string) Detail[string] {
	return c.Snapshot().StringDetail(key, u, def)
}

// StringDetail is [Client.StringDetail] on frozen flags.
func (s Snapshot) StringDetail(key string, u *User, def string) Detail[string] {
	v, res := typed(s, key, u, def, toText)
	return detail(s, key, v, &res)
}

// Int returns the value of a flag whose value is a whole number, or def if it
// cannot be evaluated or is something else. Numbers are FeatBit's: 64-bit
// floating point, exact up to 2^53.
func (c *Client) Int(key string, u *User, def int) int { return c.Snapshot().Int(key, u, def) }

// Int is [Client.Int] on frozen flags.
func (s Snapshot) Int(key string, u *User, def int) int {
	if s.set != nil {
		if f, v, how := s.set.Serve(key, (*flags.User)(u)); v != nil {
			if value, ok := toInt(v); ok {
				s.client.record(u, f, v, how)
				return value
			}
		}
	}
	if !s.hasDefaults() {
		return def
	}
	return fallback(s, key, def, toInt)
}

// IntDetail is like [Client.Int] and says why.
func (c *Client) IntDetail(key string, u *User, def int) Detail[int] {
	return c.Snapshot().IntDetail(key, u, def)
}

// IntDetail is [Client.IntDetail] on frozen flags.
func (s Snapshot) IntDetail(key string, u *User, def int) Detail[int] {
	v, res := typed(s, key, u, def, toInt)
	return detail(s, key, v, &res)
}

// Float64 returns the value of a flag whose value is a finite number, or def if
// it cannot be evaluated or is something else.
func (c *Client) Float64(key string, u *User, def float64) float64 {
	return c.Snapshot().Float64(key, u, def)
}

// Float64 is [Client.Float64] on frozen flags.
func (s Snapshot) Float64(key string, u *User, def float64) float64 {
	if s.set != nil {
		if f, v, how := s.set.Serve(key, (*flags.User)(u)); v != nil {
			if value, ok := v.Float(); ok {
				s.client.record(u, f, v, how)
				return value
			}
		}
	}
	if !s.hasDefaults() {
		return def
	}
	return fallback(s, key, def, (*flags.Variation).Float)
}

// Float64Detail is like [Client.Float64] and says why.
func (c *Client) Float64Detail(key string, u *User, def float64) Detail[float64] {
	return c.Snapshot().Float64Detail(key, u, def)
}

// Float64Detail is [Client.Float64Detail] on frozen flags.
func (s Snapshot) Float64Detail(key string, u *User, def float64) Detail[float64] {
	v, res := typed(s, key, u, def, (*flags.Variation).Float)
	return detail(s, key, v, &res)
}

// Variation returns the value of a flag as its type says: a bool, a float64, a
// string, or what encoding/json makes of a json flag; def if the flag cannot be
// evaluated. A value that does not parse as the flag's type is returned as its
// text, as FeatBit's Python SDK does. The caller owns the result.
func (c *Client) Variation(key string, u *User, def any) any {
	return c.Snapshot().VariationDetail(key, u, def).Value
}

// Variation is [Client.Variation] on frozen flags.
func (s Snapshot) Variation(key string, u *User, def any) any {
	return s.VariationDetail(key, u, def).Value
}

// VariationDetail is like [Client.Variation] and says why.
func (c *Client) VariationDetail(key string, u *User, def any) Detail[any] {
	return c.Snapshot().VariationDetail(key, u, def)
}

// VariationDetail is [Client.VariationDetail] on frozen flags.
func (s Snapshot) VariationDetail(key string, u *User, def any) Detail[any] {
	v, res := typed(s, key, u, def, toAny)
	return detail(s, key, v, &res)
}

// JSON returns the value of a json flag, decoded into a T by encoding/json, or
// def if the flag cannot be evaluated or its value does not fit. The caller owns the
// result. A T without pointers, such as a struct of texts and numbers, is decoded once
// and copied, while no other such type is asked for in between; and so is the JSON of an
// any or a map[string]any. Other types are decoded by each call.
func JSON[T any](from Evaluator, key string, u *User, def T) T {
	return JSONDetail(from, key, u, def).Value
}

// JSONDetail is like [JSON] and says why.
func JSONDetail[T any](from Evaluator, key string, u *User, def T) Detail[T] {
	s := from.Snapshot()
	var cause error
	v, res := typed(s, key, u, def, func(v *flags.Variation) (T, bool) {
		value, ok, err := toJSON[T](v)
		if v.ID() != "" { // the flag's value, not a default's
			cause = err
		}
		return value, ok
	})
	d := detail(s, key, v, &res)
	if res.Reason == flags.WrongType && cause != nil {
		d.Err = errors.Join(ErrWrongType, cause)
	}
	return d
}

func toJSON[T any](v *flags.Variation) (value T, ok bool, err error) {
	if !v.IsJSON() {
		return value, false, nil
	}
	p, ok := v.Shared().(*T)
	if !ok {
		if p, err = decode[T](v); err != nil {
			return value, false, err
		}
	}
	return *p, true, nil
}

// decode returns a new T, which may be kept with v if whoever gets a copy of it cannot
// harm it.
func decode[T any](v *flags.Variation) (*T, error) {
	value := new(T)
	switch p := any(value).(type) {
	case *any:
		*p = v.Any()
		return value, nil
	case *map[string]any:
		if m, ok := v.Any().(map[string]any); ok {
			*p = m
			return value, nil
		}
	}
	if err := json.Unmarshal([]byte(v.Text()), value); err != nil {
		return nil, err
	}
	if plain(reflect.TypeFor[T]()) {
		v.Share(value)
	}
	return value, nil
}

// plain reports whether a copy of a T shares nothing with it that could be modified.
func plain(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Struct:
		for f := range t.Fields() {
			if !plain(f.Type) {
				return false
			}
		}
		return true
	case reflect.Array:
		return plain(t.Elem())
	case reflect.String:
		return true
	}
	return reflect.Bool <= t.Kind() && t.Kind() <= reflect.Complex128
}

func toText(v *flags.Variation) (string, bool) { return v.Text(), true }

func toAny(v *flags.Variation) (any, bool) { return v.Any(), true }

func toInt(v *flags.Variation) (int, bool) {
	x, ok := v.Float()
	if !ok || x != math.Trunc(x) || x < math.MinInt || x >= -math.MinInt {
		return 0, false
	}
	return int(x), true
}

// IsFlagKnown reports whether there is a flag with this key that is not
// archived. It is false while the client is not ready.
func (c *Client) IsFlagKnown(key string) bool { return c.Snapshot().IsFlagKnown(key) }

// IsFlagKnown is [Client.IsFlagKnown] on frozen flags.
func (s Snapshot) IsFlagKnown(key string) bool { return s.set != nil && s.set.Known(key) }
