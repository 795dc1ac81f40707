package flags

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// wireForms are flags and segments in their wire form: usual and odd ones, and those of
// the conformance cases.
func wireForms(tb testing.TB) []string {
	list := []string{
		``, `null`, `[]`, `{}`, ` {} `, `{}x`, `{"name":"n"`, `{"name"}`, `{"name":}`, `{,}`, `{"a":1,}`,
		`{"name":"a","name":"b"}`, `{"Name":"a"}`, `{"na\u006de":"a"}`, `{"name":"\u00e9\n","variationType":"é"}`,
		`{"name":"` + "\xff" + `"}`, `{"name":5,"isEnabled":1,"exptIncludeAllTargets":"true"}`, `{"name":null,"isEnabled":true}`,
		`{"variations":null}`, `{"variations":{}}`, `{"variations":[null]}`, `{"variations":[1]}`, `{"variations":[{"id":1,"value":{"a":[1, 2]},"name":null}, {}]}`,
		`{"targetUsers":[{"keyIds":["a","b",1,null,"c\n"],"variationId":"v"},{"keyIds":null},{"keyIds":5},{"keyIds":[ ]},{"keyIds":["a" , "b"]}]}`,
		`{"rules":[{"name":"r","conditions":[{"property":"p","op":"Equal","value":"x"},{"value":null},{"value":7}],"dispatchKey":"k","includedInExpt":true,"variations":[]}]}`,
		`{"rules":[{"conditions":null},{"conditions":[]},{}]}`, `{"rules":[{"Conditions":[]}]}`, `{"rules":["x"]}`,
		`{"fallthrough":null}`, `{"fallthrough":{}}`, `{"fallthrough":5}`, `{"fallthrough":{"dispatchKey":null,"includedInExpt":true,"variations":[{"id":"v","rollout":[0,1],"exptRollout":0.25}]}}`,
		`{"fallthrough":{"variations":[{"rollout":[0.5,1e0],"exptRollout":null},{"rollout":[0]},{"rollout":[]},{"rollout":null},{"rollout":["0","1"]},{"rollout":[0,1,2]},{"rollout":[null,1]},{"exptRollout":"x"},{"exptRollout":1e999},{"rollout":[0,1e999]}]}}`,
		`{"included":["a","b"],"excluded":["c"],"rules":[{"conditions":[{"property":"p","op":"Equal","value":"x"}]},{"conditions":null},{"conditions":[]},{"name":"x"}]}`,
		`{"included":{},"excluded":null,"rules":null}`, `{"included":[[1],{"a":"b"},"x"]}`, `{"included":["\ud800","a\"b"]}`,
		`{"deep":` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + `}`,
	}
	names, err := filepath.Glob("testdata/eval-*.json")
	if err != nil {
		tb.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			tb.Fatal(err)
		}
		var f struct {
			Bootstrap struct {
				Data struct{ FeatureFlags, Segments []json.RawMessage }
			}
		}
		if err := json.Unmarshal(text, &f); err != nil {
			tb.Fatalf("%s: %v", name, err)
		}
		for _, raw := range append(f.Bootstrap.Data.FeatureFlags, f.Bootstrap.Data.Segments...) {
			list = append(list, string(raw))
		}
	}
	return list
}

// readsLikeJSON compares what the readers make of text with what encoding/json makes of
// it, and returns how many of them took it.
func readsLikeJSON(t *testing.T, text string) (taken int) {
	t.Helper()
	check := func(what string, got, want any, err error) {
		taken++
		// NaN is not equal to itself, and nil is as good as an empty list but for conditions.
		if a, b := fmt.Sprintf("%#v", got), fmt.Sprintf("%#v", want); err != nil || lists.Replace(a) != lists.Replace(b) {
			t.Errorf("%s %.300s\nread as  %s\ninstead of %s, %v", what, text, a, b, err)
		}
	}
	if got, ok := readFlag(text); ok {
		var want wireFlag
		err := json.Unmarshal([]byte(text), &want)
		check("flag", flat(got), flat(want), err)
	}
	if got, ok := readSegment(text); ok {
		var want wireSegment
		err := json.Unmarshal([]byte(text), &want)
		check("segment", got, want, err)
	}
	return taken
}

var lists = strings.NewReplacer("flags.texts(nil)", "flags.texts{}")

// flat returns a flag without the pointer in it.
func flat(w wireFlag) any {
	f := w.Fallthrough
	w.Fallthrough = nil
	if f == nil {
		return w
	}
	return []any{w, *f}
}

func TestReadLikeJSON(t *testing.T) {
	taken, all := 0, wireForms(t)
	for _, text := range all {
		taken += readsLikeJSON(t, text)
	}
	if len(all) < 100 || taken < len(all) {
		t.Errorf("of %d texts the readers took %d", len(all), taken)
	}
	// What is usual must be taken, or the reading is slow.
	usual := `{"id":"1","key":"f","name":"Näme","isArchived":false,` + vars + `"targetUsers":[{"keyIds":["a","b"],"variationId":"on"}],"rules":[{"id":"r","name":"Rule 1",` +
		`"conditions":` + cond("p", "IsOneOf", `["a","b"]`) + `,"dispatchKey":null,"variations":[{"id":"on","rollout":[0,0.5],"exptRollout":1}]}],` + missDefault + `}`
	if _, ok := readFlag(usual); !ok {
		t.Errorf("not taken: %s", usual)
	}
}

func FuzzReadLikeJSON(f *testing.F) {
	for i, text := range wireForms(f) {
		if i < 60 {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) < 1<<16 {
			readsLikeJSON(t, text)
		}
	})
}

// TestListOf: the list in a condition's value is read as encoding/json reads it.
func TestListOf(t *testing.T) {
	for _, value := range []string{
		``, ` `, `null`, `[]`, ` [ ] `, `["a"]`, ` ["a", "b" ] `, `["a",1,null,["b"],"\u00e9"]`, `["a"]x`, `["a",]`, `[`, `"a"`, `{"a":"b"}`, `["` + "\xff" + `"]`,
	} {
		if got, want := fmt.Sprintf("%q", listOf(value)), fmt.Sprintf("%q", stringsOf([]byte(value))); got != want {
			t.Errorf("%q is %s, want %s", value, got, want)
		}
	}
}

// TestCompiledFlagsLetGo: once a flag or a segment is compiled, its JSON is not held on
// to, and the flag is still known again.
func TestCompiledFlagsLetGo(t *testing.T) {
	flagText := flagWith(cond("User is in segment", "", `["s"]`))
	flagText = strings.Replace(flagText, `"id":"on"`, `"name":"a plain one","id":"on"`, 1)
	source := func() []Source {
		return []Source{
			{Key: "f", Version: 1, Data: []byte(flagText)},
			{Key: "g", Version: 1, Data: []byte(flagWith(cond("email", "EndsWith", "@example.com")))},
			{Key: "s", Version: 1, Segment: true, Data: []byte(`{"included":["ann"],"rules":[{"conditions":` + cond("p", "Equal", "x") + `}]}`)},
		}
	}
	items := source()
	gone := make(chan string, len(items))
	for i := range items {
		runtime.AddCleanup(&items[i].Data[0], func(key string) { gone <- key }, items[i].Key)
	}
	set, _ := new(Set).Apply(true, items)
	items = nil
	ann := user(t, "ann", TextAttr("email", "ann@example.com"))
	if f, g := set.Evaluate("f", ann), set.Evaluate("g", ann); f.Variation.Text() != "hit" || g.Variation.Text() != "hit" {
		t.Fatalf("%+v, %+v", f, g)
	}
	let := 0
	collects(t, "the JSON", func() bool {
		select {
		case <-gone:
			let++
		default:
		}
		return let == 3
	})
	same, ch := set.Apply(true, source())
	if len(ch.Flags)+len(ch.Segments) != 0 || same.flags.find("f") != set.flags.find("f") {
		t.Errorf("the same again: %v", ch)
	}
	other := source()
	other[0].Data = append(other[0].Data, ' ')
	other[2].Data = append(other[2].Data, ' ')
	if _, ch := set.Apply(true, other); inOrder(ch) != "{[f] [s]}" {
		t.Errorf("others with the same version: %v", ch)
	}
	if got := set.FlagsUsing([]string{"s"}); fmt.Sprint(got) != "[f]" {
		t.Errorf("FlagsUsing = %v", got)
	}
}

// TestEqualFlagsShareTheStoresJSON: when a store has equal flags in other memory, what was
// there before is let go, also of flags that nobody evaluated.
func TestEqualFlagsShareTheStoresJSON(t *testing.T) {
	source := func() []Source {
		return []Source{{Key: "f", Version: 1, Data: []byte(flagWith("[]"))}, {Key: "s", Version: 1, Segment: true, Data: []byte(`{"included":["ann"],"name":"members"}`)}}
	}
	items := source()
	gone := make(chan string, len(items))
	for i := range items {
		runtime.AddCleanup(&items[i].Data[0], func(key string) { gone <- key }, items[i].Key)
	}
	set, _ := new(Set).Apply(true, items)
	items = source()
	next, ch := set.Apply(true, items)
	if len(ch.Flags)+len(ch.Segments) > 0 {
		t.Fatalf("changed: %v", ch)
	}
	let := 0
	collects(t, "the JSON of before", func() bool {
		select {
		case <-gone:
			let++
		default:
		}
		return let == 2
	})
	if res := next.Evaluate("f", user(t, "ann")); res.Variation.Text() != "hit" {
		t.Errorf("%+v", res)
	}
}

// collects waits until something is no longer held on to.
func collects(t *testing.T, what string, gone func() bool) {
	t.Helper()
	for began := time.Now(); !gone(); {
		if time.Since(began) > 10*time.Second {
			t.Fatalf("%s is held on to", what)
		}
		runtime.GC() // also lets cleanups run
	}
}

// TestPatternsAreShared: flags with one pattern have it once, and it is forgotten with
// the last of them.
func TestPatternsAreShared(t *testing.T) {
	const text = `^only-here-[0-9]+$`
	a, b := compilePattern(text), compilePattern(text)
	if a == nil || a != b {
		t.Fatalf("%p and %p", a, b)
	}
	runtime.KeepAlive(a)
	collects(t, "the pattern", func() bool {
		patterns.Lock()
		defer patterns.Unlock()
		_, kept := patterns.byText[text]
		return !kept
	})
	if p := compilePattern(text); p == nil || !p.match("only-here-7") {
		t.Error("it does not compile again")
	}
}

// TestManyTargets: each of several lists of targets gives its own variation, and the first
// that names a user counts.
func TestManyTargets(t *testing.T) {
	var vs, lists []string
	for i := range 40 {
		vs = append(vs, fmt.Sprintf(`{"id":"v%d","value":"%d"}`, i, i))
		var keys []string
		for j := range i % 5 {
			keys = append(keys, fmt.Sprintf(`"u%d-%d"`, i, j), `"everywhere"`)
		}
		lists = append(lists, fmt.Sprintf(`{"keyIds":[%s],"variationId":"v%d"}`, strings.Join(keys, ","), i))
	}
	set := setWith(`{"key":"f","isEnabled":true,"variations":[` + strings.Join(vs, ",") + `],"targetUsers":[` + strings.Join(lists, ",") + `]}`)
	for i := range 40 {
		for j := range i % 5 {
			if res := set.Evaluate("f", user(t, fmt.Sprintf("u%d-%d", i, j))); res.Reason != TargetMatch || res.Variation.Text() != fmt.Sprint(i) {
				t.Errorf("u%d-%d gets %+v", i, j, res)
			}
		}
	}
	if res := set.Evaluate("f", user(t, "everywhere")); res.Variation.Text() != "1" {
		t.Errorf("who is in all lists gets %q", res.Variation.Text())
	}
	if res := set.Evaluate("f", user(t, "u0-0")); !res.Reason.IsError() {
		t.Errorf("who is in none gets %+v", res)
	}
}

// BenchmarkCompile is what the first evaluation of a flag costs more than the others.
func BenchmarkCompile(b *testing.B) {
	syms := &symbols{ids: map[string]int32{}}
	text := []byte(flagWith(cond("country", "Equal", "fr")))
	b.ReportAllocs()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		compileFlag("f", 1, text, syms)
	}
}
