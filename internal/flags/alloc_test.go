package flags

import (
	"fmt"
	"strings"
	"testing"
)

// rows are the kinds of evaluation whose cost matters.
func rows(t testing.TB) map[string]struct {
	set  *Set
	user *User
} {
	list := make([]string, 100)
	for i := range list {
		list[i] = fmt.Sprintf(`"user-%d"`, i)
	}
	members := make([]string, 10_000)
	for i := range members {
		members[i] = fmt.Sprintf(`"user-%d"`, i)
	}
	three := `[{"property":"country","op":"Equal","value":"fr"},{"property":"age","op":"BiggerThan","value":"17.5"},{"property":"plan","op":"IsOneOf","value":"[\"pro\",\"team\"]"}]`
	u := user(t, "user-50", TextAttr("country", "fr"), IntAttr("age", 42), TextAttr("plan", "pro"), TextAttr("email", "ann@example.com"))
	long := user(t, strings.Repeat("k", 400))
	half := `"fallthrough":{"includedInExpt":true,"variations":[{"id":"on","rollout":[0,0.5],"exptRollout":0.2},{"id":"off","rollout":[0.5,1],"exptRollout":0.2}]}`
	return map[string]struct {
		set  *Set
		user *User
	}{
		"fallthrough":  {setWith(`{"key":"f",` + vars + missDefault + `}`), u},
		"off":          {setWith(`{"key":"f","isEnabled":false,"disabledVariationId":"off","variations":[{"id":"off","value":"miss"}]}`), u},
		"targets":      {setWith(`{"key":"f",` + vars + `"targetUsers":[{"keyIds":[` + strings.Join(list, ",") + `],"variationId":"on"}],` + missDefault + `}`), u},
		"rule":         {setWith(flagWith(three)), u},
		"rollout":      {setWith(`{"key":"f",` + vars + half + `}`), u},
		"rollout-long": {setWith(`{"key":"f",` + vars + half + `}`), long},
		"segment":      {setWith(flagWith(cond("User is in segment", "", `["s0"]`)), `{"included":[`+strings.Join(members, ",")+`]}`), u},
		"nested":       {setWith(flagWith(cond("User is in segment", "", `["s0"]`)), `{"rules":[{"conditions":`+cond("User is not in segment", "", `["s1"]`)+`}]}`, `{"included":["x"]}`), u},
		"regexp":       {setWith(flagWith(cond("email", "MatchRegex", `^[a-z]+@example\.(com|org)$`))), u},
		"broken":       {setWith(flagWith(cond("email", "MatchRegex", `(`))), u},
		"number-key":   {setWith(flagWith(cond("key", "BiggerThan", "12.5"))), user(t, "13.123456789")},
		"missing":      {setWith(`{"key":"other"}`), nil},
	}
}

func TestEvaluateAllocs(t *testing.T) {
	for name, r := range rows(t) {
		if raceEnabled && name == "rollout-long" {
			continue // under the race detector a sync.Pool drops items at random
		}
		r.set.Evaluate("f", r.user) // compiles
		if n := testing.AllocsPerRun(200, func() { r.set.Evaluate("f", r.user) }); n != 0 {
			t.Errorf("%s: %v allocations per evaluation, want 0", name, n)
		}
	}
}

func BenchmarkEvaluate(b *testing.B) {
	for name, r := range rows(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r.set.Evaluate("f", r.user)
			}
		})
	}
}

func BenchmarkPatchOneOf10000(b *testing.B) {
	items := make([]Source, 10_000)
	for i := range items {
		items[i] = Source{Key: fmt.Sprintf("flag-%d", i), Version: 1, Data: []byte(flagWith("[]"))}
	}
	set, _ := new(Set).Apply(true, items)
	version := int64(1)
	b.ReportAllocs()
	for b.Loop() {
		version++
		set, _ = set.Apply(false, []Source{{Key: "flag-7", Version: version, Data: items[7].Data}})
	}
}
