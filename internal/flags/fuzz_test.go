package flags

import "testing"

// FuzzEvaluate: whatever a flag, a segment and a user are, evaluation ends
// without a panic and gives a variation or an error.
func FuzzEvaluate(f *testing.F) {
	f.Add(flagWith(cond("p", "Equal", "x")), `{"included":["a"]}`, `{"key":"a","name":"n","p":1.5}`)
	f.Add(flagWith(cond("User is in segment", "", `["s0"]`)), `{"rules":[{"conditions":[{"property":"User is in segment","value":"[\"s0\"]"}]}]}`, `{"key":"a","name":"n"}`)
	f.Add(`{"variations":null,"rules":[null]}`, `null`, `[]`)
	f.Add(flagWith(cond("key", "MatchRegex", `(a+)+$`)), `{}`, `{"keyid":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab","name":"n"}`)
	f.Fuzz(func(t *testing.T, flag, segment, who string) {
		set := setWith(flag, segment)
		u, err := ParseUser([]byte(who))
		if (u == nil) != (err != nil) {
			t.Fatalf("ParseUser = %v, %v", u, err)
		}
		res := set.Evaluate("f", u)
		if (res.Variation == nil) != res.Reason.IsError() {
			t.Fatalf("variation %v with reason %v", res.Variation, res.Reason)
		}
		if res.Variation != nil {
			res.Variation.Any()
		}
		set.FlagsUsing([]string{"s0"})
	})
}
