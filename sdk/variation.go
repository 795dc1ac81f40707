package sdk

import (
	"encoding/json"
	"math"

	"github.com/flagstead/flagstead/internal/flags"
)

// evaluate evaluates a flag on the current snapshot.
func (c *Client) evaluate(key string, u *User) flags.Result {
	set := c.set.Load()
	if set == nil {
		return flags.Result{Reason: flags.ClientNotReady}
	}
	return set.Evaluate(key, (*flags.User)(u))
}

// record hands a successful evaluation to the event pipeline.
func (c *Client) record(u *User, res *flags.Result) {
	if c.events != nil {
		c.events.Evaluation((*flags.User)(u), res)
	}
}

// typed evaluates a flag and converts its value. If that is not possible the
// result says why, and no event is recorded.
func typed[T any](c *Client, key string, u *User, def T, convert func(*flags.Variation) (T, bool)) (T, flags.Result) {
	res := c.evaluate(key, u)
	if res.Reason.IsError() {
		return def, res
	}
	value, ok := convert(res.Variation)
	if !ok {
		res.Reason = flags.WrongType
		return def, res
	}
	c.record(u, &res)
	return value, res
}

// Bool returns the value of a boolean flag for u, or def if it cannot be
// evaluated or is of another type. It records an event if it served a
// variation. Like every evaluation it neither blocks nor allocates.
func (c *Client) Bool(key string, u *User, def bool) bool {
	v, _ := typed(c, key, u, def, (*flags.Variation).Bool)
	return v
}

// BoolDetail is like [Client.Bool] and says why.
func (c *Client) BoolDetail(key string, u *User, def bool) Detail[bool] {
	v, res := typed(c, key, u, def, (*flags.Variation).Bool)
	return detail(key, v, &res)
}

// String returns the value of a flag of any type as the text that FeatBit has,
// or def if the flag cannot be evaluated.
func (c *Client) String(key string, u *User, def string) string {
	v, _ := typed(c, key, u, def, toText)
	return v
}

// StringDetail is like [Client.String] and says why.
func (c *Client) StringDetail(key string, u *User, def string) Detail[string] {
	v, res := typed(c, key, u, def, toText)
	return detail(key, v, &res)
}

// Int returns the value of a flag whose value is a whole number, or def if it
// cannot be evaluated or is something else. Numbers are FeatBit's: 64-bit
// floating point, exact up to 2^53.
func (c *Client) Int(key string, u *User, def int) int {
	v, _ := typed(c, key, u, def, toInt)
	return v
}

// IntDetail is like [Client.Int] and says why.
func (c *Client) IntDetail(key string, u *User, def int) Detail[int] {
	v, res := typed(c, key, u, def, toInt)
	return detail(key, v, &res)
}

// Float64 returns the value of a flag whose value is a finite number, or def if
// it cannot be evaluated or is something else.
func (c *Client) Float64(key string, u *User, def float64) float64 {
	v, _ := typed(c, key, u, def, (*flags.Variation).Float)
	return v
}

// Float64Detail is like [Client.Float64] and says why.
func (c *Client) Float64Detail(key string, u *User, def float64) Detail[float64] {
	v, res := typed(c, key, u, def, (*flags.Variation).Float)
	return detail(key, v, &res)
}

// Variation returns the value of a flag as its type says: a bool, a float64, a
// string, or what encoding/json makes of a json flag; def if the flag cannot be
// evaluated. A value that does not parse as the flag's type is returned as its
// text, as FeatBit's Python SDK does. The caller owns the result.
func (c *Client) Variation(key string, u *User, def any) any {
	return c.VariationDetail(key, u, def).Value
}

// VariationDetail is like [Client.Variation] and says why.
func (c *Client) VariationDetail(key string, u *User, def any) Detail[any] {
	v, res := typed(c, key, u, def, toAny)
	return detail(key, v, &res)
}

// JSON returns the value of a json flag, decoded into a T by encoding/json, or
// def if the flag cannot be evaluated or its value does not fit. Each call
// decodes anew: the caller owns the result.
func JSON[T any](c *Client, key string, u *User, def T) T {
	return JSONDetail(c, key, u, def).Value
}

// JSONDetail is like [JSON] and says why.
func JSONDetail[T any](c *Client, key string, u *User, def T) Detail[T] {
	res := c.evaluate(key, u)
	if res.Reason.IsError() {
		return detail(key, def, &res)
	}
	var value T
	if !res.Variation.IsJSON() {
		res.Reason = flags.WrongType
		return detail(key, def, &res)
	}
	if err := json.Unmarshal([]byte(res.Variation.Text()), &value); err != nil {
		res.Reason, res.Err = flags.WrongType, err
		return detail(key, def, &res)
	}
	c.record(u, &res)
	return detail(key, value, &res)
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
func (c *Client) IsFlagKnown(key string) bool {
	set := c.set.Load()
	return set != nil && set.Known(key)
}
