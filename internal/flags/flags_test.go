package flags

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// vars are the variations "on" and "off" of the flags below.
const vars = `"variationType":"string","variations":[{"id":"on","value":"hit"},{"id":"off","value":"miss"}],"disabledVariationId":"off","isEnabled":true,`

const missDefault = `"fallthrough":{"variations":[{"id":"off","rollout":[0,1],"exptRollout":1}]}`

// flagWith returns a flag that serves "hit" where the conditions hold.
func flagWith(conditions string) string {
	return `{"key":"f",` + vars + `"rules":[{"conditions":` + conditions + `,"variations":[{"id":"on","rollout":[0,1]}]}],` + missDefault + `}`
}

func cond(property, op, value string) string {
	b, _ := json.Marshal([]map[string]string{{"property": property, "op": op, "value": value}})
	return string(b)
}

func setWith(flag string, segments ...string) *Set {
	items := []Source{{Key: "f", Version: 1, Data: []byte(flag)}}
	for i, s := range segments {
		items = append(items, Source{Segment: true, Key: fmt.Sprintf("s%d", i), Version: 1, Data: []byte(s)})
	}
	set, _ := new(Set).Apply(true, items)
	return set
}

func user(t testing.TB, key string, attrs ...Attr) *User {
	t.Helper()
	u, err := NewUser(key, key, attrs)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// outcome is "hit", "miss" or "default: <reason>".
func outcome(set *Set, u *User) string {
	res := set.Evaluate("f", u)
	if res.Reason.IsError() {
		return "default: " + res.Reason.String()
	}
	return res.Variation.Text()
}

const broken = "default: error in evaluation"

// TestDifferences checks every entry of Differences that a document can show.
func TestDifferences(t *testing.T) {
	ann := user(t, "ann", TextAttr("p", "abc"), BoolAttr("b", true), FloatAttr("x", 1))
	circle := func(other string) string {
		return `{"rules":[{"conditions":` + cond("User is in segment", "", `["`+other+`"]`) + `}]}`
	}
	everybody := `{"included":["ann"],"excluded":[],"rules":[]}`
	for _, tc := range []struct {
		difference, name, want string
		set                    *Set
	}{
		{"regexp-syntax", "look-ahead", broken, setWith(flagWith(cond("p", "MatchRegex", "a(?=b)")))},
		{"regexp-syntax", "negated look-ahead", broken, setWith(flagWith(cond("p", "NotMatchRegex", "a(?=b)")))},
		{"regexp-syntax", "property missing", "miss", setWith(flagWith(cond("q", "MatchRegex", "a(?=b)")))},
		{"regexp-syntax", "RE2 has more", "hit", setWith(flagWith(cond("p", "MatchRegex", `[[:alpha:]]c\z`)))},
		{"no-slice", "gap", broken, setWith(`{"key":"f",` + vars + `"fallthrough":{"variations":[{"id":"on","rollout":[0,0]}]}}`)},
		{"no-slice", "no variations in the default rule", broken, setWith(`{"key":"f",` + vars + `"fallthrough":{"variations":[]}}`)},
		{"no-slice", "no default rule", broken, setWith(`{"key":"f",` + vars + `"fallthrough":null}`)},
		{"null-lists", "rules", "miss", setWith(`{"key":"f",` + vars + `"rules":null,"targetUsers":null,` + missDefault + `}`)},
		{"null-lists", "keyIds", "miss", setWith(`{"key":"f",` + vars + `"targetUsers":[{"keyIds":null,"variationId":"on"}],` + missDefault + `}`)},
		{"null-lists", "conditions", broken, setWith(flagWith("null"))},
		{"null-lists", "segment lists", "hit", setWith(flagWith(cond("User is in segment", "", `["s0"]`)), `{"included":["ann"],"excluded":null,"rules":null}`)},
		{"null-lists", "segment conditions", "miss", setWith(flagWith(cond("User is in segment", "", `["s0"]`)), `{"rules":[{"conditions":null}]}`)},
		{"missing-members", "variations null", broken, setWith(`{"key":"f","isEnabled":true,"variations":null,` + missDefault + `}`)},
		{"missing-members", "no isArchived", "miss", setWith(`{"key":"f",` + vars + missDefault + `}`)},
		{"operator-from-property", "Equal", "miss", setWith(flagWith(cond("Equal", "", "abc")))},
		{"operator-from-property", "NotEqual", "miss", setWith(flagWith(cond("NotEqual", "", "abc")))},
		{"segment-property", "in", "hit", setWith(flagWith(cond("User is in segment", "Equal", `["s0"]`)), everybody)},
		{"segment-property", "not in", "miss", setWith(flagWith(cond("User is not in segment", "IsOneOf", `["s0"]`)), everybody)},
		{"broken-segment", "second one matches", "hit", setWith(flagWith(cond("User is in segment", "", `["s0","s1"]`)), `{"rules":[{"conditions":`+cond("p", "MatchRegex", "(")+`}]}`, everybody)},
		{"broken-segment", "circle", "miss", setWith(flagWith(cond("User is in segment", "", `["s0"]`)), circle("s1"), circle("s0"))},
		{"nested-segments", "circle", "miss", setWith(flagWith(cond("User is in segment", "", `["s0"]`)), circle("s1"), circle("s0"))},
		{"null-value", "served", broken, setWith(`{"key":"f","isEnabled":true,"variations":[{"id":"off","value":null}],` + missDefault + `}`)},
		{"null-value", "not served", "miss", setWith(`{"key":"f","isEnabled":true,"variations":[{"id":"on","value":null},{"id":"off","value":"miss"}],` + missDefault + `}`)},
		{"condition-without-value", "Equal", "miss", setWith(flagWith(`[{"property":"p","op":"Equal"}]`))},
		{"condition-without-value", "Contains", "miss", setWith(flagWith(`[{"property":"p","op":"Contains"}]`))},
		{"condition-without-value", "Contains null", "miss", setWith(flagWith(`[{"property":"p","op":"Contains","value":null}]`))},
		{"condition-without-value", "NotEqual", "hit", setWith(flagWith(`[{"property":"p","op":"NotEqual"}]`))},
		{"missing-members", "no isEnabled", "miss", setWith(`{"key":"f","disabledVariationId":"off","variations":[{"id":"off","value":"miss"}]}`)},
		{"lenient-shapes", "isEnabled is 1", "miss", setWith(`{"key":"f","isEnabled":1,"disabledVariationId":"off","variations":[{"id":"off","value":"miss"}]}`)},
		{"lenient-shapes", "rules of a flag that is off", broken, setWith(`{"key":"f","isEnabled":false,"rules":5,"disabledVariationId":"off","variations":[{"id":"off","value":"miss"}]}`)},
		{"lenient-shapes", "another case", "miss", setWith(`{"key":"f","isEnabled":true,"ISENABLED":false,"disabledVariationId":"off","variations":[{"id":"off","value":"miss"}]}`)},
		{"lists-are-arrays", "text", "miss", setWith(flagWith(cond("p", "IsOneOf", `"xabcx"`)))},
		{"lists-are-arrays", "object", "miss", setWith(flagWith(cond("p", "IsOneOf", `{"abc":0}`)))},
		{"lists-are-arrays", "mixed", "hit", setWith(flagWith(cond("p", "IsOneOf", `[1,"abc"]`)))},
		{"boolean-attributes", "as text", "hit", setWith(flagWith(cond("b", "Equal", "true")))},
		{"boolean-attributes", "IsTrue", "hit", setWith(flagWith(cond("b", "IsTrue", "")))},
		{"float-attributes", "as text", "hit", setWith(flagWith(cond("x", "Equal", "1")))},
		{"not-finite", "json", "NaN", setWith(`{"key":"f","variationType":"json","isEnabled":true,"variations":[{"id":"on","value":"NaN"}],"fallthrough":{"variations":[{"id":"on","rollout":[0,1]}]}}`)},
		{"experiment-defaults", "absent", "miss", setWith(`{"key":"f",` + vars + `"fallthrough":{"variations":[{"id":"off","rollout":[0,1]}]}}`)},
	} {
		t.Run(tc.difference+"/"+tc.name, func(t *testing.T) {
			if got := outcome(tc.set, ann); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if !known(tc.difference) {
				t.Errorf("Differences has no %q", tc.difference)
			}
		})
	}
}

func known(name string) bool {
	for _, d := range Differences {
		if d.Name == name {
			return d.Python != "" && d.Here != "" && d.Reason != ""
		}
	}
	return false
}

// TestRolloutEnd is the difference rollout-end.
func TestRolloutEnd(t *testing.T) {
	if !known("rollout-end") {
		t.Error("Differences has no rollout-end")
	}
	if !inSlice(1, 0.5, 1) || inSlice(1, 0, 0.5) || inSlice(0.5, 0, 0.5) || !inSlice(0.5, 0.5, 1) {
		t.Error("slices are half-open, except that 1 belongs to the slice that ends there")
	}
	// A key that the recorded hashes place at exactly 1.
	flag := `{"key":"edge-cut",` + vars + `"fallthrough":{"variations":[{"id":"off","rollout":[0,0.5]},{"id":"on","rollout":[0.5,1]}]}}`
	set, _ := new(Set).Apply(true, []Source{{Key: "edge-cut", Data: []byte(flag)}})
	if b := bucket("", "edge-cut", "u3279480354"); b != 1 {
		t.Errorf("bucket = %v, want 1", b)
	}
	if res := set.Evaluate("edge-cut", user(t, "u3279480354")); res.Reason != Fallthrough || res.Variation.ID() != "on" {
		t.Errorf("a user at exactly 1: %+v", res)
	}
}

func TestDuplicateKeys(t *testing.T) {
	set, _ := new(Set).Apply(true, []Source{{Key: "f", Version: 2, Data: []byte("{}")}, {Key: "f", Version: 1, Data: []byte("[]")}})
	if got := string(*set.flags.find("f").text.Load()); got != "{}" {
		t.Errorf("kept %s, want the item of the later version", got)
	}
}

// TestOddMembers feeds members of unexpected types: the flag stays usable where
// the member is not needed, and nothing panics.
func TestOddMembers(t *testing.T) {
	ann := user(t, "ann")
	for name, tc := range map[string]struct{ flag, want string }{
		"value is a number":       {`{"key":"f","isEnabled":true,"variations":[{"id":"on","value":12}],"fallthrough":{"variations":[{"id":"on","rollout":[0,1]}]}}`, "12"},
		"bounds are texts":        {`{"key":"f",` + vars + `"fallthrough":{"variations":[{"id":"on","rollout":["0","1"]},{"id":"off","rollout":[0,1]}]}}`, "miss"},
		"bounds are short":        {`{"key":"f",` + vars + `"fallthrough":{"variations":[{"id":"on","rollout":[0]},{"id":"off","rollout":[0,1]}]}}`, "miss"},
		"bounds are null":         {`{"key":"f",` + vars + `"fallthrough":{"variations":[{"id":"on","rollout":null},{"id":"off","rollout":[0,1]}]}}`, "miss"},
		"dispatchKey is a number": {`{"key":"f",` + vars + `"fallthrough":{"dispatchKey":5,"variations":[{"id":"off","rollout":[0,0.5]},{"id":"off","rollout":[0.5,1]}]}}`, "miss"},
		"isEnabled is null":       {`{"key":"f","isEnabled":null,"disabledVariationId":"off","variations":[{"id":"off","value":"miss"}]}`, "miss"},
		"name is an object":       {`{"key":"f","name":{},` + vars + missDefault + `}`, "miss"},
		"rules is a number":       {`{"key":"f","rules":5,` + vars + missDefault + `}`, broken},
		"not an object":           {`[]`, broken},
		"not JSON":                {`{`, broken},
	} {
		t.Run(name, func(t *testing.T) {
			if got := outcome(setWith(tc.flag), ann); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestArchived(t *testing.T) {
	set, _ := new(Set).Apply(true, []Source{
		{Key: "f", Version: 1, Archived: true, Data: []byte(`{"key":"f",` + vars + missDefault + `}`)},
		{Key: "g", Version: 1, Data: []byte(flagWith(cond("User is in segment", "", `["s"]`)))},
		{Key: "s", Segment: true, Version: 1, Archived: true, Data: []byte(`{"included":["ann"]}`)},
	})
	ann := user(t, "ann")
	if got := set.Evaluate("f", ann).Reason; got != FlagNotFound {
		t.Errorf("archived flag: %v", got)
	}
	if got := set.Evaluate("g", ann).Variation.Text(); got != "miss" {
		t.Errorf("archived segment: %q", got)
	}
	var keys []string
	for f := range set.All(ann) {
		keys = append(keys, f.Key())
	}
	if !slices.Equal(keys, []string{"g"}) || set.Known("f") {
		t.Errorf("All() = %v", keys)
	}
}

// TestNestedSegmentsAreBounded builds segments whose rules fan out at every
// level: walking them all would take 20^16 steps.
func TestNestedSegmentsAreBounded(t *testing.T) {
	var segs []string
	for range 20 {
		var ids []string
		for j := range 20 {
			ids = append(ids, fmt.Sprintf(`"s%d"`, j))
		}
		segs = append(segs, `{"rules":[{"conditions":`+cond("User is in segment", "", "["+strings.Join(ids, ",")+"]")+`}]}`)
	}
	if got := outcome(setWith(flagWith(cond("User is in segment", "", `["s0"]`)), segs...), user(t, "ann")); got != "miss" {
		t.Errorf("got %q", got)
	}
}

// TestCircularSegmentsAreBounded: every segment names all others, with a rule
// that takes long to miss.
func TestCircularSegmentsAreBounded(t *testing.T) {
	const n = 20
	var ids []string
	for i := range n {
		ids = append(ids, fmt.Sprintf("%q", fmt.Sprintf("s%d", i)))
	}
	all := "[" + strings.Join(ids, ",") + "]"
	slow := strings.TrimSuffix(cond("p", "MatchRegex", "(a|b|c|d|e)*x(a|b|c|d|e)*y$"), "]") + "," + strings.TrimPrefix(cond("User is in segment", "", all), "[")
	var segs []string
	for range n {
		rules := strings.Repeat(`{"conditions":`+cond("p", "MatchRegex", "(a|b|c|d|e)*x(a|b|c|d|e)*y$")+`},`, 50) + `{"conditions":` + cond("User is in segment", "", all) + `}`
		segs = append(segs, `{"rules":[`+rules+`,{"conditions":`+slow+`}]}`)
	}
	set := setWith(flagWith(cond("User is in segment", "", all)), segs...)
	u := user(t, "ann", TextAttr("p", strings.Repeat("abcde", 400)))
	began := time.Now()
	if got := outcome(set, u); got != "miss" {
		t.Errorf("got %q", got)
	}
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("one evaluation took %v", d)
	}
}

// TestManySegments: a rule may name any number of segments.
func TestManySegments(t *testing.T) {
	var ids, segs []string
	for i := range 3000 {
		ids = append(ids, fmt.Sprintf("%q", fmt.Sprintf("s%d", i)))
		segs = append(segs, `{"included":[]}`)
	}
	segs[2999] = `{"included":["ann"]}`
	list := "[" + strings.Join(ids, ",") + "]"
	if got := outcome(setWith(flagWith(cond("User is in segment", "", list)), segs...), user(t, "ann")); got != "hit" {
		t.Errorf("got %q", got)
	}
}

func TestManyAttributes(t *testing.T) {
	var attrs []Attr
	for i := range 50_000 {
		attrs = append(attrs, IntAttr(fmt.Sprint("a", i%40_000), int64(i)))
	}
	began := time.Now()
	u := user(t, "ann", attrs...)
	if d := time.Since(began); d > time.Second {
		t.Errorf("NewUser took %v", d)
	}
	if len(u.Attrs()) != 40_000 || u.attr("a39999").Value() != "39999" || u.attr("a0").Value() != "40000" || u.attr("b") != nil {
		t.Error("wrong attributes")
	}
}

// inOrder returns changes as text, by their keys.
func inOrder(ch Changes) string {
	slices.Sort(ch.Flags)
	slices.Sort(ch.Segments)
	return fmt.Sprint(ch)
}

func TestChanges(t *testing.T) {
	uses := flagWith(cond("User is in segment", "", `["seg"]`))
	set, ch := new(Set).Apply(true, []Source{
		{Key: "a", Version: 1, Data: []byte(`{"key":"a"}`)},
		{Key: "b", Version: 1, Data: []byte(uses)},
		{Key: "seg", Segment: true, Version: 1, Data: []byte(`{}`)},
		{Key: "outer", Segment: true, Version: 1, Data: []byte(`{"rules":[{"conditions":` + cond("User is in segment", "", `["inner"]`) + `}]}`)},
	})
	if inOrder(ch) != "{[a b] [outer seg]}" {
		t.Errorf("first: %v", ch)
	}
	before := set.flags.find("b")
	next, ch := set.Apply(false, []Source{
		{Key: "a", Version: 1, Data: []byte(`{"key":"a","x":1}`)}, // not older: replaced
		{Key: "seg", Segment: true, Version: 2, Data: []byte(`{"x":1}`)},
	})
	if inOrder(ch) != "{[a] [seg]}" || next.flags.find("b") != before {
		t.Errorf("patch: %v", ch)
	}
	if got := next.FlagsUsing(ch.Segments); fmt.Sprint(got) != "[b]" {
		t.Errorf("FlagsUsing = %v", got)
	}
	restored, ch := next.Apply(false, []Source{{Key: "b", Version: 0, Data: []byte(`{}`)}}) // what a store says, counts
	if inOrder(ch) != "{[b] []}" || restored.flags.find("b").version != 0 {
		t.Errorf("restored: %v", ch)
	}
	again, ch := next.Apply(true, []Source{{Key: "b", Version: 1, Data: []byte(uses)}})
	if inOrder(ch) != "{[a] [outer seg]}" || again.flags.find("b") != before {
		t.Errorf("full: %v", ch)
	}
	if set.Known("a") == again.Known("a") {
		t.Error("the older set changed")
	}
}

// TestSegmentFollowsItsSet: a compiled flag is shared by several sets and must
// see the segments of the one it is evaluated in.
func TestSegmentFollowsItsSet(t *testing.T) {
	ann := user(t, "ann")
	first := setWith(flagWith(cond("User is in segment", "", `["s0"]`)), `{"included":[]}`)
	if got := outcome(first, ann); got != "miss" {
		t.Fatalf("got %q", got)
	}
	second, _ := first.Apply(false, []Source{{Key: "s0", Segment: true, Version: 2, Data: []byte(`{"included":["ann"]}`)}})
	if a, b := outcome(first, ann), outcome(second, ann); a != "miss" || b != "hit" {
		t.Errorf("first set %q, second set %q", a, b)
	}
}

func TestUser(t *testing.T) {
	for _, bad := range [][2]string{{"", "n"}, {" \t", "n"}, {"k", ""}, {"k", "\u00a0"}} {
		if u, err := NewUser(bad[0], bad[1], nil); err == nil || u != nil {
			t.Errorf("NewUser(%q) = %v, %v", bad, u, err)
		}
	}
	u, err := NewUser("k", "n", []Attr{TextAttr("a", "1"), TextAttr("KeyId", "x"), TextAttr("a", "2"), TextAttr("NAME", "y")})
	if err != nil {
		t.Fatal(err)
	}
	if len(u.Attrs()) != 1 || u.Attrs()[0].Value() != "2" {
		t.Errorf("Attrs() = %v", u.Attrs())
	}
	many := make([]Attr, 50)
	for i := range many {
		many[i] = IntAttr(fmt.Sprintf("a%d", i), int64(i))
	}
	u = user(t, "k", many...)
	if a := u.attr("a37"); a == nil || a.Value() != "37" {
		t.Errorf("attr of a big user = %v", a)
	}
	if u.attr("zz") != nil {
		t.Error("found an attribute that is not there")
	}
}

func TestNumbers(t *testing.T) {
	for text, want := range map[string]float64{
		" 5 ": 5, "\t5\n": 5, "+5": 5, "5.": 5, ".5": 0.5, "05": 5, "1E3": 1000, "1_000": 1000, "1_0e1_0": 1e11,
		"0.015625": 0.01562, "0.046875": 0.04688, "2.675005": 2.67501, "4.999996": 5, "5.000001": 5,
	} {
		if got, ok := comparable5(text); !ok || got != want {
			t.Errorf("comparable5(%q) = %v, %t, want %v", text, got, ok, want)
		}
	}
	for _, text := range []string{"", " ", "5__0", "_1", "1_", "0x5", "0X1p3", "5,0", "5abc", "5 6", "5%", "true", "½", "1e", "e5", "1_e5"} {
		if got, ok := comparable5(text); ok {
			t.Errorf("comparable5(%q) = %v, want no number", text, got)
		}
	}
}

// TestUnreadableFlagInWords: the reason why a flag cannot be read speaks of the
// flag, not of Go.
func TestUnreadableFlagInWords(t *testing.T) {
	for data, want := range map[string]string{
		`{"variations":"x"}`:                `flag "f" cannot be read: variations is a text, not a list`,
		`{"variations":[5]}`:                `is a number, not an object`,
		`{"rules":[{"conditions":true}]}`:   `is a truth value, not a list`,
		`[]`:                                `it is a list, not an object`,
		`{`:                                 `unexpected end of JSON input`,
		`{"fallthrough":{"variations":{}}}`: `is an object, not a list`,
		`{"variations":[{"id":"a"}]}`:       `it names a variation that does not exist`,
		`{"rules":[{"conditions":[],"variations":5}]}`: `variations is a number, not a list`,
		`{"isEnabled":true,"variations":[{}]}`:         `it has no default rule`,
	} {
		set, _ := new(Set).Apply(true, []Source{{Key: "f", Data: []byte(data)}})
		u, err := NewUser("u", "u", nil)
		if err != nil {
			t.Fatal(err)
		}
		res := set.Evaluate("f", u)
		if res.Err() == nil || !strings.Contains(res.Err().Error(), want) || strings.Contains(res.Err().Error(), "Go ") {
			t.Errorf("%s: %v, want %q", data, res.Err(), want)
		}
	}
}
