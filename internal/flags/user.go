package flags

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode"
)

// A User is whom a flag is evaluated for. It is immutable.
type User struct {
	key, name string
	hash      uint64 // of key
	attrs     []Attr
	index     map[string]int // only when a scan of attrs would be slower

	// encoded is what the insight pipeline made of the user, so that it does
	// so once.
	encoded atomic.Pointer[[]byte]
}

// An Attr is a custom attribute of a user.
type Attr struct {
	name, value string

	// The number that value stands for in comparisons, worked out once.
	num   float64
	isNum bool
}

// Name returns the attribute's name.
func (a Attr) Name() string { return a.name }

// Value returns the attribute as text, as conditions and events see it.
func (a Attr) Value() string { return a.value }

// TextAttr returns an attribute with a text.
func TextAttr(name, value string) Attr {
	n, ok := comparable5(value)
	return Attr{name: name, value: value, num: n, isNum: ok}
}

// IntAttr returns an attribute with a whole number.
func IntAttr(name string, value int64) Attr {
	return Attr{name: name, value: strconv.FormatInt(value, 10), num: float64(value), isNum: true}
}

// FloatAttr returns an attribute with a number, whose text is the shortest one
// that stands for it.
func FloatAttr(name string, value float64) Attr {
	return Attr{name: name, value: formatFloat(value), num: round5(value), isNum: true}
}

// BoolAttr returns an attribute with a truth value, whose text is "true" or
// "false".
func BoolAttr(name string, value bool) Attr {
	return Attr{name: name, value: strconv.FormatBool(value)}
}

// indexFrom is the number of attributes from which on a map beats a scan.
const indexFrom = 12

// NewUser returns a user, or an error that says what is wrong with it. Key and
// name must not be blank. Of several attributes with one name the last counts;
// attributes called key, keyid or name, in any case, are dropped, because
// conditions on those names see the built-in ones. attrs is not kept.
func NewUser(key, name string, attrs []Attr) (*User, error) {
	switch {
	case blank(key):
		return nil, errors.New("user key is blank")
	case blank(name):
		return nil, errors.New("user name is blank")
	}
	return NewNamelessUser(key, name, attrs)
}

// NewNamelessUser is [NewUser] for a user whose name may be blank, as those of
// FeatBit's client-side SDKs. A blank name is a property that the user lacks.
func NewNamelessUser(key, name string, attrs []Attr) (*User, error) {
	if blank(key) {
		return nil, errors.New("user key is blank")
	}
	u := &User{key: key, name: name, hash: hashOf(key)}
	if len(attrs) > 0 {
		u.attrs = make([]Attr, 0, len(attrs))
	}
	for _, a := range attrs {
		if builtin(a.name) != custom {
			continue
		}
		if had := u.attr(a.name); had != nil {
			*had = a
			continue
		}
		u.attrs = append(u.attrs, a)
		switch n := len(u.attrs); {
		case n == indexFrom:
			u.index = make(map[string]int, len(attrs))
			for i, a := range u.attrs {
				u.index[a.name] = i
			}
		case n > indexFrom:
			u.index[a.name] = n - 1
		}
	}
	return u, nil
}

func blank(text string) bool { return strings.TrimFunc(text, unicode.IsSpace) == "" }

// Key returns the user's key.
func (u *User) Key() string { return u.key }

// Name returns the user's name.
func (u *User) Name() string { return u.name }

// Attrs returns the custom attributes, which must not be modified.
func (u *User) Attrs() []Attr { return u.attrs }

// Equal reports whether u and v are the same to every flag. It may say no where only the
// order of the attributes differs.
func (u *User) Equal(v *User) bool {
	return u.key == v.key && u.name == v.name &&
		slices.EqualFunc(u.attrs, v.attrs, func(a, b Attr) bool { return a.name == b.name && a.value == b.value })
}

// Encoded returns what encode makes of u; encode is called at most once per
// user, or a few times if the first calls run at the same time.
func (u *User) Encoded(encode func(*User) []byte) []byte {
	if p := u.encoded.Load(); p != nil {
		return *p
	}
	b := encode(u)
	u.encoded.Store(&b)
	return b
}

func (u *User) attr(name string) *Attr {
	if u.index != nil {
		if i, ok := u.index[name]; ok {
			return &u.attrs[i]
		}
		return nil
	}
	for i := range u.attrs {
		if u.attrs[i].name == name {
			return &u.attrs[i]
		}
	}
	return nil
}

// A place is where a property of a user is found.
type place uint8

const (
	custom place = iota
	userKey
	userName
)

// builtin says what a property name stands for. FeatBit's built-in names are
// recognised in any case.
func builtin(property string) place {
	switch {
	case len(property) > len("keyid"):
		return custom
	case strings.EqualFold(property, "key"), strings.EqualFold(property, "keyid"):
		return userKey
	case strings.EqualFold(property, "name"):
		return userName
	}
	return custom
}

// A property is a resolved property name of a condition or a rollout.
type property struct {
	name string
	at   place
}

func newProperty(name string) property { return property{name: name, at: builtin(name)} }

// text returns the user's value and whether the user has one.
func (p *property) text(u *User) (string, bool) {
	switch p.at {
	case userKey:
		return u.key, true
	case userName:
		return u.name, u.name != ""
	}
	if a := u.attr(p.name); a != nil {
		return a.value, true
	}
	return "", false
}

// number returns the user's value as a number and whether it is one.
func (p *property) number(u *User) (float64, bool) {
	switch p.at {
	case userKey:
		return comparable5(u.key)
	case userName:
		return comparable5(u.name)
	}
	if a := u.attr(p.name); a != nil {
		return a.num, a.isNum
	}
	return 0, false
}

// ParseUser reads a user from a JSON object as FeatBit's Python SDK reads one:
// key (or keyid) and name are required texts, every other member that is a
// text, a number or a truth value becomes an attribute, and the rest is
// dropped.
func ParseUser(text []byte) (*User, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var members map[string]any
	if err := dec.Decode(&members); err != nil {
		return nil, fmt.Errorf("user is not a JSON object: %w", err)
	}
	if members == nil {
		return nil, errors.New("user is not a JSON object: null")
	}
	key, ok := members["key"].(string)
	if !ok {
		key, _ = members["keyid"].(string)
	}
	name, _ := members["name"].(string)
	var attrs []Attr
	for member, value := range members {
		if a, ok := attrOf(member, value); ok {
			attrs = append(attrs, a)
		}
	}
	slices.SortFunc(attrs, func(a, b Attr) int { return strings.Compare(a.name, b.name) })
	return NewUser(key, name, attrs)
}

func attrOf(name string, value any) (Attr, bool) {
	switch v := value.(type) {
	case string:
		return TextAttr(name, v), true
	case bool:
		return BoolAttr(name, v), true
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return IntAttr(name, n), true
		}
		x, err := v.Float64()
		if err != nil && !math.IsInf(x, 0) {
			return Attr{}, false
		}
		return FloatAttr(name, x), true
	}
	return Attr{}, false
}
