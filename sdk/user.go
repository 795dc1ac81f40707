package sdk

import (
	"github.com/flagstead/flagstead/internal/flags"
)

// A User is whom flags are evaluated for. It is immutable and may be kept and
// shared; build it once per request or session, not once per call. The nil
// *User is an invalid one: evaluations for it give the default.
type User flags.User

// An Attr sets one property of a user.
type Attr struct {
	attr   flags.Attr
	isName bool
}

// Name sets the user's name, which FeatBit shows and rules may use. Without it
// the key is the name.
func Name(name string) Attr { return Attr{attr: flags.TextAttr("name", name), isName: true} }

// String sets a custom attribute to a text.
func String(name, value string) Attr { return Attr{attr: flags.TextAttr(name, value)} }

// Int sets a custom attribute to a whole number.
func Int(name string, value int64) Attr { return Attr{attr: flags.IntAttr(name, value)} }

// Float64 sets a custom attribute to a number. As text, conditions and events
// see its shortest decimal form.
func Float64(name string, value float64) Attr { return Attr{attr: flags.FloatAttr(name, value)} }

// Bool sets a custom attribute to a truth value. As text, conditions and events
// see "true" or "false".
func Bool(name string, value bool) Attr { return Attr{attr: flags.BoolAttr(name, value)} }

// NewUser returns the user with the given key, or nil and an error that says
// what is wrong: a key or name that is empty or white space. Of several
// attributes with one name the last counts. Custom attributes called key, keyid
// or name, in any case, are dropped, as in FeatBit's Python SDK: conditions on
// those names see the built-in properties.
func NewUser(key string, attrs ...Attr) (*User, error) {
	name := key
	custom := make([]flags.Attr, 0, len(attrs))
	for _, a := range attrs {
		if a.isName {
			name = a.attr.Value()
			continue
		}
		custom = append(custom, a.attr)
	}
	u, err := flags.NewUser(key, name, custom)
	return (*User)(u), err
}

// ParseUser returns the user in a JSON object such as
// {"key":"ann","name":"Ann","plan":"pro","age":42}, read as FeatBit's Python SDK
// reads users: key (or keyid) and name are required, other members that are
// texts, numbers or truth values are attributes.
func ParseUser(text []byte) (*User, error) {
	u, err := flags.ParseUser(text)
	return (*User)(u), err
}

// Key returns the user's key.
func (u *User) Key() string { return (*flags.User)(u).Key() }

// Name returns the user's name.
func (u *User) Name() string { return (*flags.User)(u).Name() }
