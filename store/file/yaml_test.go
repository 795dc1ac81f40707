package file

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/flagstead/flagstead/internal/wire"
)

func TestYAMLBecomesTheJSONItStandsFor(t *testing.T) {
	for _, test := range []struct{ name, yaml, want string }{
		{"plain", "a: x\nb: 'y'\nc: \"z\\n\"\n", `{"a":"x","b":"y","c":"z\n"}`},
		{"truth", "[true, False, yes, on, ~, null]", `[true,false,"yes","on",null,null]`},
		{"digits stay", "[1, -0, 1.50, 1e9, 12345678901234567890123, 0.1000000000000000055511151231257827]", `[1,-0,1.50,1e9,12345678901234567890123,0.1000000000000000055511151231257827]`},
		{"other spellings", "[+1, 1_000, 0x1F, 0o17, 0777, .5, -.5, 1., 1.e3, +00.5]", `[1,1000,31,15,511,0.5,-0.5,1.0,1.0e3,0.5]`},
		{"dates are text", "a: 2024-05-01T10:00:00Z\nb: 2024-05-01\nc: 12:30:45\n", `{"a":"2024-05-01T10:00:00Z","b":"2024-05-01","c":"12:30:45"}`},
		{"names", "1: a\ntrue: b\n2024-05-01: c\n", `{"1":"a","true":"b","2024-05-01":"c"}`},
		{"tags", "[!!str 1, !!int '2', !!null '']", `["1",2,null]`},
		{"block text", "a: |\n  x\n  y\nb: >-\n  x\n  y\n", `{"a":"x\ny\n","b":"x y"}`},
		{"controls", `a: "\0\t\x1f\"\\é\u2028"`, "{\"a\":\"\\u0000\\u0009\\u001f\\\"\\\\é\u2028\"}"},
		{"anchors", "a: &x [1, {b: 2}]\nc: *x\n", `{"a":[1,{"b":2}],"c":[1,{"b":2}]}`},
		{"merge", "a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\ne: {<<: [{c: 4}, *x]}\n", `{"a":{"b":1,"c":2},"d":{"c":3,"b":1},"e":{"c":4,"b":1}}`},
		{"quoted <<", `{"<<": 1}`, `{"<<":1}`},
		{"values", "variations: [{value: true}, {value: 1.50}, {value: x}, {value: {a: [1, b]}}, {value: }, {value: \"\"}]", `{"variations":[{"value":"true"},{"value":"1.50"},{"value":"x"},{"value":"{\"a\":[1,\"b\"]}"},{"value":null},{"value":""}]}`},
		{"conditions", "conditions: [{op: IsOneOf, value: [de, fr]}]\nother: [{value: 1}]\nvalue: 2\n", `{"conditions":[{"op":"IsOneOf","value":"[\"de\",\"fr\"]"}],"other":[{"value":1}],"value":2}`},
		{"aliased value", "x: &v 5\nvariations: [{value: *v}]", `{"x":5,"variations":[{"value":"5"}]}`},
		{"empty", " # nothing\n", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := fromYAML([]byte(test.yaml+"\n"), 1<<20)
			if err != nil || string(got.json) != test.want {
				t.Errorf("%s, %v, want\n%s", got.json, err, test.want)
			}
		})
	}
}

// bomb is ten to the n-th copies of one word.
func bomb(n int, open, close string) string {
	var b strings.Builder
	b.WriteString("a0: &a0 " + open + "k: lol" + close + "\n")
	for i := 1; i <= n; i++ {
		name := string(rune('0' + i))
		b.WriteString("a" + name + ": &a" + name + " " + open)
		for j := range 10 {
			if open == "{" {
				b.WriteString("k" + string(rune('0'+j)) + ": ")
			}
			b.WriteString("*a" + string(rune('0'+i-1)) + ", ")
		}
		b.WriteString(close + "\n")
	}
	return b.String()
}

func mergeBomb(n int) string {
	var b strings.Builder
	b.WriteString("a0: &a0 {k: 1}\n")
	for i := 1; i <= n; i++ {
		name, last := string(rune('0'+i)), "*a"+string(rune('0'+i-1))
		b.WriteString("a" + name + ": &a" + name + " {<<: [" + strings.Repeat(last+", ", 20) + "]}\n")
	}
	return b.String()
}

func TestYAMLThatIsNoDocumentIsRefusedWhereItIs(t *testing.T) {
	const limit = 1 << 20
	for _, test := range []struct {
		name, yaml   string
		line, column int
		want         string
	}{
		{"syntax", "a: [1,\n  b: }\n", 2, 6, "did not find expected node content"},
		{"tab", "a:\n\tb: 1\n", 2, 1, "cannot start any token"},
		{"behind wide letters", "é: \"\\q\"", 1, 6, "unknown escape"},
		{"twice", "é: 1\nb: {x: 1, y: 2,\n  x: 3}\n", 3, 3, `"x" is there already, in line 2`},
		{"two documents", "a: 1\n---\nb: 2\n", 2, 1, "second document"},
		{"unknown anchor", "a: 1\nb: *x\n", 2, 4, "unknown anchor 'x'"},
		{"not UTF-8", "a: 1\nb: \xff\n", 2, 4, "not UTF-8"},
		{"control character", "a: 1\nb: x\x00\n", 2, 5, "control character U+0000"},
		{"infinite", "a: 1\nb: .inf\n", 2, 4, "number .inf has no JSON form"},
		{"binary", "a: !!binary aGk=\n", 1, 4, "tag !!binary has no JSON form"},
		{"own tag", "a: !x {}\n", 1, 4, "tag !x has no JSON form"},
		{"own tag on a list", "a: !x []\n", 1, 4, "tag !x has no JSON form"},
		{"no truth", "a: !!bool x\n", 1, 4, `"x" is neither true nor false`},
		{"no null", "a: !!null x\n", 1, 4, `"x" is not null`},
		{"no number", "a: !!int x\n", 1, 4, "number x has no JSON form"},
		{"list as a name", "[a]: 1\n", 1, 1, "a name must be a text"},
		{"no name", "~: 1\n", 1, 1, "a name must be a text"},
		{"merged text", "a: {<<: x}\n", 1, 9, "<< needs a mapping"},
		{"alias in itself", "a: &x [*x]\n", 1, 4, "levels deep"},
		{"merged into itself", "a: &x {<<: *x}\n", 1, 4, "levels deep"},
		{"bomb of lists", bomb(9, "[", "]"), 1, 9, "larger than the limit of 1048576 bytes"},
		{"bomb of mappings", bomb(9, "{", "}"), 1, 9, "larger than the limit of 1048576 bytes"},
		{"bomb of merges", mergeBomb(9), 1, 9, "larger than the limit of 1048576 bytes"},
		{"cut off", "a: 1\nb: 2", 2, 5, "the last line has no end"},
		{"large", "a: " + strings.Repeat("x", limit), 0, 0, "larger than the limit of 1048576 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := fromYAML([]byte(test.yaml), limit)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want %q", err, test.want)
			}
			at, ok := errors.AsType[*wire.SyntaxError](err)
			if ok != (test.line > 0) {
				t.Fatalf("error %v has a place: %t", err, ok)
			}
			// A bomb may be found to be one at any of its aliases.
			if ok && !strings.Contains(test.name, "bomb") && (at.Line != test.line || at.Column != test.column) {
				t.Errorf("error %v, want line %d, column %d", err, test.line, test.column)
			}
		})
	}
}

// JSON is YAML, so one text has to mean the same under both names.
func TestYAMLReadsJSON(t *testing.T) {
	text, err := os.ReadFile("../../examples/sample/flags.json")
	if err != nil {
		t.Fatal(err)
	}
	got, err := fromYAML(text, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if err := json.Compact(&want, text); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.json, want.Bytes()) {
		t.Errorf("as YAML\n%s\nas JSON\n%s", got.json, want.Bytes())
	}
	for offset := range got.json { // every offset has a place in the text
		if line, column := got.at(offset); line < 1 || column < 1 || line > 1+bytes.Count(text, []byte("\n")) {
			t.Fatalf("offset %d is at line %d, column %d", offset, line, column)
		}
	}
}

func FuzzYAML(f *testing.F) {
	for _, text := range []string{
		"a: &x [1, 0x1F, .5, ~]\nb: *x\n", "variations: [{value: {a: true}}]", "{<<: {a: 1}, \"\\u2028\": 'x'}", "? [a]\n: b", "&a [*a]",
		"messageType: data-sync\ndata:\n  eventType: full\n  featureFlags: [{key: a, updatedAt: 2024-05-01T10:00:00Z}]\n  segments: []\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := fromYAML(text, 1<<16)
		if err != nil || len(s.json) == 0 {
			return
		}
		if !json.Valid(s.json) {
			t.Fatalf("%q becomes %q", text, s.json)
		}
		if _, skipped, err := parse(s); err != nil || len(skipped) > 0 {
			return // the places were worked out
		}
	})
}
