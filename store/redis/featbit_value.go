package redis

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
)

// A value is what one of FeatBit's keys holds.
type value struct {
	raw     []byte // as it is in Redis
	item    store.Item
	sum     [sha256.Size]byte // of item
	foreign bool              // it belongs to another environment; item is empty
	shared  bool              // a segment of several environments: it names none
}

// readValue reads raw for the environment env. An item that names no environment
// gets env, as FeatBit's evaluation server fills it in.
func readValue(kind store.Kind, env string, raw []byte) (value, error) {
	v := value{raw: raw}
	data := raw
	if !namesOnly(raw, env) {
		members, err := membersOf(raw)
		if err != nil {
			return value{}, err
		}
		switch named := members.text("envId"); {
		case members.has("envId") && named == "":
			data, v.shared = members.with(raw, "envId", env), true
		case named != "" && !strings.EqualFold(named, env):
			v.foreign = true
			return v, nil
		}
	}
	it, err := wire.ParseItem(kind, data)
	if err != nil {
		return value{}, err
	}
	v.item, v.sum = it, sumOf(it)
	return v, nil
}

// namesOnly reports whether raw certainly belongs to env. A quote within a text
// has a backslash before it, so what is found is no part of a text.
func namesOnly(raw []byte, env string) bool {
	member := []byte(`"envId"`)
	i := bytes.Index(raw, member)
	if i < 0 {
		return false
	}
	rest := raw[i+len(member):]
	return bytes.HasPrefix(rest, []byte(`:"`+env+`"`)) && !bytes.Contains(rest, member)
}

func sumOf(it store.Item) [sha256.Size]byte {
	h := sha256.New()
	archived := byte(0)
	if it.Archived {
		archived = 1
	}
	b := binary.BigEndian.AppendUint64([]byte{byte(it.Kind), archived}, uint64(it.Version))
	b = binary.BigEndian.AppendUint64(b, uint64(len(it.Key)))
	h.Write(append(b, it.Key...))
	h.Write(it.Data)
	return [sha256.Size]byte(h.Sum(nil))
}

// members are the members of a JSON object, in their order.
type members []member

type member struct {
	name       string
	value      json.RawMessage
	start, end int // where value is in the object's text
}

func membersOf(text []byte) (members, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("it is no JSON object")
	}
	var all members
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, err
		}
		m := member{name: name.(string)} // the decoder takes nothing else there
		if err := dec.Decode(&m.value); err != nil {
			return nil, err
		}
		m.end = int(dec.InputOffset())
		m.start = m.end - len(m.value)
		all = append(all, m)
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	return all, nil
}

func (m members) has(name string) bool {
	for _, one := range m {
		if one.name == name {
			return true
		}
	}
	return false
}

// text returns the member's text, and none if there is no such member or it is no
// text. Of several the last one counts.
func (m members) text(name string) string {
	for i := len(m) - 1; i >= 0; i-- {
		if m[i].name == name {
			var s string
			_ = json.Unmarshal(m[i].value, &s)
			return s
		}
	}
	return ""
}

// with returns text, whose members m are, with another text as that member's
// value. All else stays as it is, to the byte.
func (m members) with(text []byte, name, value string) []byte {
	out, done := make([]byte, 0, len(text)+len(value)), 0
	for _, one := range m {
		if one.name == name {
			out = append(append(out, text[done:one.start]...), quoted(value)...)
			done = one.end
		}
	}
	return append(out, text[done:]...)
}

func quoted(s string) []byte {
	b, _ := json.Marshal(s) // a string has no reason to fail
	return b
}

// withoutEnv returns a segment's text for the use of all its environments. Its
// evaluation servers look for exactly how it begins.
func withoutEnv(text []byte) ([]byte, error) {
	all, err := membersOf(text)
	if err != nil {
		return nil, err
	}
	out := append(make([]byte, 0, len(text)), `{"envId":""`...)
	for _, one := range all {
		if one.name != "envId" {
			out = append(append(append(append(out, ','), quoted(one.name)...), ':'), one.value...)
		}
	}
	return append(out, '}'), nil
}

// A wanted item is one that is to be written.
type wanted struct {
	item store.Item
	id   string // of FeatBit's
}

// want checks that it can be written, since all of it has to follow from its Data.
func want(it store.Item, env string) (wanted, error) {
	if it.Kind != store.Flag && it.Kind != store.Segment {
		return wanted{}, fmt.Errorf("item %.80q has the invalid %v", it.Key, it.Kind)
	}
	bad := func(format string, args ...any) (wanted, error) {
		return wanted{}, fmt.Errorf("%v %.80q: %s", it.Kind, it.Key, fmt.Sprintf(format, args...))
	}
	all, err := membersOf(it.Data)
	if err != nil {
		return bad("FeatBit's layout takes FeatBit's JSON only: %v", err)
	}
	got, err := wire.ParseItem(it.Kind, it.Data)
	if err != nil {
		return bad("%v", err)
	}
	if got.Key != it.Key || got.Version != it.Version || got.Archived != it.Archived {
		return bad("its JSON says %.80q, version %d, archived %t instead of version %d, archived %t",
			got.Key, got.Version, got.Archived, it.Version, it.Archived)
	}
	id := all.text("id")
	if id == "" {
		return bad("its JSON has no id, by which FeatBit's layout keeps it")
	}
	if named := all.text("envId"); !strings.EqualFold(named, env) {
		return bad("it is of the environment %.80q", named)
	}
	return wanted{it, id}, nil
}
