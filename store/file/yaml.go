package file

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"github.com/flagstead/flagstead/internal/wire"
)

// maxDepth bounds the nesting of YAML, which an alias can make endless.
const maxDepth = 1000

// fromYAML returns the JSON that a YAML text stands for, of at most limit bytes.
// An empty text makes an empty document.
func fromYAML(text []byte, limit int64) (source, error) {
	if int64(len(text)) > limit {
		return source{}, fmt.Errorf("its YAML is larger than the limit of %d bytes", limit)
	}
	c := converter{source: source{yaml: text}, left: limit, limit: limit}
	if at, why := unreadable(text); why != nil {
		return source{}, source{json: text}.errorAt(at, why)
	}
	var docs []*yaml.Node
	l, err := yaml.NewLoader(bytes.NewReader(text))
	if err != nil {
		return source{}, err
	}
	for err == nil && len(docs) < 2 {
		var n yaml.Node
		if err = l.Load(&n); err == nil {
			docs = append(docs, &n)
		}
	}
	switch {
	case len(docs) > 1:
		return source{}, c.errorOn(docs[1], "there is a second document; a file holds one")
	case err != nil && !errors.Is(err, io.EOF):
		return source{}, c.syntax(err)
	case len(docs) == 0:
		return source{yaml: text}, nil
	}
	if root := docs[0].Content[0]; text[len(text)-1] != '\n' && root.Style&yaml.FlowStyle == 0 {
		// A piece of YAML is YAML, too.
		return source{}, source{json: text}.errorAt(len(text), errors.New("the last line has no end; is the file cut off?"))
	}
	if err := c.value(docs[0], "", 0); err != nil {
		return source{}, err
	}
	return c.source, nil
}

// unreadable returns where a text has what YAML must not have, and what.
func unreadable(text []byte) (at int, why error) {
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			return i, errors.New("it is not UTF-8")
		case r < ' ' && r != '\t' && r != '\n' && r != '\r':
			return i, fmt.Errorf("there is the control character %#U", r)
		}
		i += size
	}
	return 0, nil
}

// A converter writes YAML as JSON.
type converter struct {
	source
	limit int64
	left  int64 // of the limit, for values visited: aliases multiply them
}

// syntax returns what is wrong with the YAML itself.
func (c *converter) syntax(err error) error {
	wrong, ok := errors.AsType[*yaml.LoadError](err)
	if !ok {
		return err
	}
	mark, words := wrong.Mark, wrong.Message
	if mark.Line == 0 {
		return errors.New(words)
	}
	if wrong.ContextMsg != "" {
		words = wrong.ContextMsg + ": " + words
	}
	return &wire.SyntaxError{Line: mark.Line, Column: bytesIn(c.yaml, mark.Line, mark.Column), Err: errors.New(words)}
}

func (c *converter) errorOn(n *yaml.Node, format string, args ...any) error {
	return &wire.SyntaxError{Line: n.Line, Column: bytesIn(c.yaml, n.Line, n.Column), Err: fmt.Errorf(format, args...)}
}

// note remembers where the JSON that comes next is in the YAML.
func (c *converter) note(n *yaml.Node) {
	c.places = append(c.places, place{int32(len(c.json)), int32(n.Line), int32(n.Column)})
}

// value appends n, which is in a list of that member name, or in a mapping of it.
func (c *converter) value(n *yaml.Node, list string, depth int) error {
	if c.left--; c.left < 0 || int64(len(c.json)) > c.limit {
		return c.errorOn(n, "the document, its aliases written out, is larger than the limit of %d bytes", c.limit)
	}
	if depth > maxDepth {
		return c.errorOn(n, "nested more than %d levels deep; does an alias contain itself?", maxDepth)
	}
	switch n.Kind {
	case yaml.DocumentNode:
		return c.value(n.Content[0], list, depth)
	case yaml.AliasNode:
		return c.value(n.Alias, list, depth+1)
	case yaml.SequenceNode:
		return c.sequence(n, list, depth)
	case yaml.MappingNode:
		return c.mapping(n, list, depth)
	case yaml.ScalarNode:
		c.note(n)
		return c.scalar(n)
	}
	return c.errorOn(n, "this kind of YAML has no JSON form")
}

func (c *converter) sequence(n *yaml.Node, list string, depth int) error {
	if err := c.tagged(n, "!!seq"); err != nil {
		return err
	}
	c.note(n)
	c.json = append(c.json, '[')
	for i, child := range n.Content {
		if i > 0 {
			c.json = append(c.json, ',')
		}
		if err := c.value(child, list, depth+1); err != nil {
			return err
		}
	}
	c.json = append(c.json, ']')
	return nil
}

func (c *converter) mapping(n *yaml.Node, list string, depth int) error {
	members, err := c.members(n, depth)
	if err != nil {
		return err
	}
	c.note(n)
	c.json = append(c.json, '{')
	for i, m := range members {
		if i > 0 {
			c.json = append(c.json, ',')
		}
		c.note(m.key)
		c.json = append(appendText(c.json, m.name), ':')
		if m.name == "value" && (list == "variations" || list == "conditions") {
			err = c.text(m.value, depth+1)
		} else {
			err = c.value(m.value, m.name, depth+1)
		}
		if err != nil {
			return err
		}
	}
	c.json = append(c.json, '}')
	return nil
}

// text appends n, or, if that is anything but a text or nothing, its JSON as a
// text.
func (c *converter) text(n *yaml.Node, depth int) error {
	start, places := len(c.json), len(c.places)
	if err := c.value(n, "", depth); err != nil {
		return err
	}
	made := c.json[start:]
	if made[0] == '"' || string(made) == "null" {
		return nil
	}
	c.json, c.places = appendText(c.json[:start], string(made)), c.places[:places+1]
	return nil
}

type member struct {
	name       string
	key, value *yaml.Node
}

// members returns what a mapping has, what is merged into it behind what is
// written in it, which counts more.
func (c *converter) members(n *yaml.Node, depth int) ([]member, error) {
	if err := c.tagged(n, "!!map"); err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, c.errorOn(n, "nested more than %d levels deep; does an alias contain itself?", maxDepth)
	}
	var all []member
	lines := make(map[string]int, len(n.Content)/2)
	var merged *yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		if c.left--; c.left < 0 {
			return nil, c.errorOn(n, "the document, its aliases written out, is larger than the limit of %d bytes", c.limit)
		}
		key, value := n.Content[i], n.Content[i+1]
		name, err := c.name(key)
		if err != nil {
			return nil, err
		}
		if line, twice := lines[name]; twice {
			return nil, c.errorOn(key, "%q is there already, in line %d", name, line)
		}
		lines[name] = key.Line
		if key.ShortTag() == "!!merge" {
			merged = value
			continue
		}
		all = append(all, member{name, key, value})
	}
	if merged == nil {
		return all, nil
	}
	sources := []*yaml.Node{merged}
	if merged.Kind == yaml.SequenceNode {
		sources = merged.Content
	}
	for _, from := range sources {
		if from.Kind == yaml.AliasNode {
			from = from.Alias
		}
		if from.Kind != yaml.MappingNode {
			return nil, c.errorOn(merged, "<< needs a mapping or a list of mappings")
		}
		more, err := c.members(from, depth+1)
		if err != nil {
			return nil, err
		}
		for _, m := range more {
			if _, known := lines[m.name]; !known {
				lines[m.name] = m.key.Line
				all = append(all, m)
			}
		}
	}
	return all, nil
}

// name returns a mapping's key as the name of a member.
func (c *converter) name(key *yaml.Node) (string, error) {
	if key.Kind == yaml.AliasNode {
		key = key.Alias
	}
	if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!null" {
		return "", c.errorOn(key, "a name must be a text")
	}
	if !utf8.ValidString(key.Value) {
		return "", c.errorOn(key, "it is not UTF-8")
	}
	return key.Value, nil
}

// tagged refuses tags that say a collection is something else than it looks.
func (c *converter) tagged(n *yaml.Node, want string) error {
	if tag := n.ShortTag(); tag != want {
		return c.errorOn(n, "tag %s has no JSON form", tag)
	}
	return nil
}

func (c *converter) scalar(n *yaml.Node) error {
	switch tag := n.ShortTag(); tag {
	case "!!str", "!!timestamp":
		if !utf8.ValidString(n.Value) {
			return c.errorOn(n, "it is not UTF-8")
		}
		c.json = appendText(c.json, n.Value)
	case "!!null":
		if s := strings.ToLower(n.Value); s != "" && s != "~" && s != "null" {
			return c.errorOn(n, "%q is not null", n.Value)
		}
		c.json = append(c.json, "null"...)
	case "!!bool":
		s := strings.ToLower(n.Value)
		if s != "true" && s != "false" {
			return c.errorOn(n, "%q is neither true nor false", n.Value)
		}
		c.json = append(c.json, s...)
	case "!!int", "!!float":
		text, ok := number(n.Value)
		if !ok {
			return c.errorOn(n, "number %s has no JSON form; a text needs quotes", n.Value)
		}
		c.json = append(c.json, text...)
	default:
		return c.errorOn(n, "tag %s has no JSON form", tag)
	}
	return nil
}

// number spells a number of YAML in JSON, digit by digit.
func number(text string) (string, bool) {
	if isNumber(text) {
		return text, true
	}
	text = strings.TrimPrefix(strings.ReplaceAll(text, "_", ""), "+")
	if n, ok := new(big.Int).SetString(text, 0); ok && len(text) < 1000 {
		return n.String(), true
	}
	minus := ""
	if rest, ok := strings.CutPrefix(text, "-"); ok {
		minus, text = "-", rest
	}
	whole, rest, dot := strings.Cut(text, ".")
	if dot {
		if whole = strings.TrimLeft(whole, "0"); whole == "" {
			whole = "0"
		}
		if rest == "" || rest[0] == 'e' || rest[0] == 'E' {
			rest = "0" + rest
		}
		text = whole + "." + rest
	}
	return minus + text, isNumber(minus + text)
}

func isNumber(text string) bool {
	return text != "" && (text[0] == '-' || text[0] >= '0' && text[0] <= '9') && json.Valid([]byte(text)) &&
		text[len(text)-1] >= '0' && text[len(text)-1] <= '9'
}

// appendText appends s as a JSON string.
func appendText(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := range len(s) {
		switch ch := s[i]; {
		case ch == '"' || ch == '\\':
			b = append(b, '\\', ch)
		case ch == '\n':
			b = append(b, `\n`...)
		case ch < ' ':
			b = append(b, '\\', 'u', '0', '0', hex[ch>>4], hex[ch&15])
		default:
			b = append(b, ch)
		}
	}
	return append(b, '"')
}
