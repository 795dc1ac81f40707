package jsonwalk

import (
	"encoding/json"
	"strings"
	"testing"
)

var texts = []string{
	``, ` `, `null`, `nul`, `true`, `false`, `t`, `"`, `""`, `"a"`, `"long enough for eight bytes"`, `"\"\\\/\b\f\n\r\t\u00e9"`, `"\u00g0"`, `"\x"`, `"\u12"`,
	"\"a\nb\"", `"é"`, "\"\xff\"", `0`, `-0`, `01`, `-`, `1.`, `1.5`, `1e5`, `1E+5`, `1e-`, `.5`, `+1`, `{}`, `{ }`, `{"a":1}`, `{"a" : [ 1 , {"b":null} ] }`,
	`{"a":1,}`, `{,}`, `{"a"}`, `{"a":}`, `{a:1}`, `[]`, `[1,]`, `[1 2]`, `[`, `]`, `{"a":[1,2`, `1 2`, "\t[\r\n]\n",
}

// walks compares Skip with encoding/json.
func walks(t *testing.T, text string) {
	t.Helper()
	at := Space(text, 0)
	end := Skip(text, at)
	if bytes := Skip([]byte(text), at); bytes != end {
		t.Errorf("%.200q ends at %d as a string, at %d as bytes", text, end, bytes)
	}
	valid := end >= 0 && Space(text, end) == len(text)
	if want := json.Valid([]byte(text)); valid != want && (valid || !deep(text)) {
		t.Errorf("%.200q: valid is %t, want %t", text, valid, want)
	}
	if at < len(text) && text[at] == '"' && end > 0 {
		_, plain := String(text, at)
		var s string
		if err := json.Unmarshal([]byte(text[at:end]), &s); err != nil || plain && s != text[at+1:end-1] {
			t.Errorf("%.200q is not plain: %q, %v", text, s, err)
		}
	}
}

// deep reports whether text may be nested more than Skip takes.
func deep(text string) bool {
	return strings.Count(text, "[")+strings.Count(text, "{") > deepest
}

func TestWalk(t *testing.T) {
	for _, text := range texts {
		walks(t, text)
	}
	for _, n := range []int{deepest, deepest + 1, deepest + 2, 5000} {
		walks(t, strings.Repeat("[", n)+strings.Repeat("]", n))
	}
	if _, plain := String(`"plain"`, 0); !plain {
		t.Error("a plain string is not")
	}
	text := `{"a":[1,2.5e3,"text",null,{"b":true}]}`
	if n := testing.AllocsPerRun(100, func() { Skip(text, 0) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzWalk(f *testing.F) {
	for _, text := range texts {
		f.Add(text)
	}
	f.Fuzz(walks)
}
