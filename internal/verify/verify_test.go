package verify

import (
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const file = `{"bootstrap":{"messageType":"data-sync","data":{"eventType":"full","segments":[],"featureFlags":[
 {"id":"1","key":"size","updatedAt":"2025-01-01T00:00:00Z","isEnabled":true,"variationType":"number",
  "variations":[{"id":"v","value":"3"}],"fallthrough":{"includedInExpt":true,"variations":[{"id":"v","rollout":[0,1],"exptRollout":1}]}}]}},
 "cases":[{"flagKey":"size","user":{"key":"u","name":"u"},"default":7,"expect":EXPECT},
  {"flagKey":"none","user":{"key":"u","name":"u"},"default":7,"expect":{"value":7,"reason":"flag not found","variationId":null}}]}`

func TestCheck(t *testing.T) {
	for _, tt := range []struct{ expect, want string }{
		{`{"value":3,"reason":"fall through all rules","variationId":"v"}`, ""},
		{`{"value":3.0}`, ""},
		{`{"value":"3"}`, `value is 3, want "3" (fall through all rules)`},
		{`{"value":null}`, "value is 3, want null"},
		{`{"reason":"flag off"}`, `reason is "fall through all rules", want "flag off"`},
		{`{"variationId":null}`, `variation is "v", want ""`},
		{`{"variationId":"w"}`, `variation is "v", want "w"`},
		{`{"value":4,"reason":"x"}`, "value is 3, want 4\nreason is"},
		{`{"sendToExperiment":false}`, "sendToExperiment is true, want false"},
	} {
		f, err := Parse([]byte(strings.Replace(file, "EXPECT", tt.expect, 1)))
		if err != nil {
			t.Fatal(err)
		}
		set, err := f.Load()
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		if err := f.Cases[0].Expect.Check(Evaluate(set, f.Cases[0])); err != nil {
			text = err.Error()
		}
		if tt.want == "" && text != "" || !strings.Contains(text, tt.want) {
			t.Errorf("expect %s: %q, want %q", tt.expect, text, tt.want)
		}
		if err := f.Cases[1].Expect.Check(Evaluate(set, f.Cases[1])); err != nil {
			t.Errorf("unknown flag: %v", err)
		}
	}
}

// TestReasonTellsWhy: a flag that is not there and a user without a name both
// give the default, and the text tells them apart.
func TestReasonTellsWhy(t *testing.T) {
	text := strings.Replace(file, "EXPECT", `{"value":3}`, 1)
	for _, tt := range []struct{ old, new, want string }{
		{`"flagKey":"size"`, `"flagKey":"sise"`, "value is 7, want 3 (flag not found)"},
		{`"user":{"key":"u","name":"u"}`, `"user":{"key":"u"}`, "value is 7, want 3 (user not specified: user name is blank)"},
		{`"user":{"key":"u","name":"u"}`, `"user":"u"`, "value is 7, want 3 (user not specified: user is not a JSON object: it is a JSON string)"},
		{`"variations":[{"id":"v","value":"3"}]`, `"variations":"v"`, `value is 7, want 3 (error in evaluation: flag "size" cannot be read: variations is a text, not a list)`},
	} {
		f, err := Parse([]byte(strings.Replace(text, tt.old, tt.new, 1)))
		if err != nil {
			t.Fatal(err)
		}
		set, err := f.Load()
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Cases[0].Expect.Check(Evaluate(set, f.Cases[0])); err == nil || err.Error() != tt.want {
			t.Errorf("%s: %v, want %q", tt.new, err, tt.want)
		}
	}
}

func TestParseNamesWhatIsWrong(t *testing.T) {
	one := func(text string) string { return `{"bootstrap":{},"cases":[` + text + `]}` }
	for _, tt := range []struct{ text, want string }{
		{"{\n\"bootstrap\": {},,}", "line 2"},
		{`[]`, "not a file of cases: it is a JSON array"},
		{`{"cases":[]}`, `no "bootstrap"`},
		{`{"bootstrap":{}}`, `no "cases"`},
		{`{"bootstrap":{},"cases":7}`, "not a file of cases: cases: it is a JSON number"},
		{`{"bootstrap":{},"cases":[]}`, `"cases" is empty`},
		{`{"bootstrap":{},"cases":null}`, `"cases" is empty`},
		{`{"bootstrap":{},"cases":[],"case":[]}`, `unknown member "case"`},
		{one(`7`), "case 1: it is a JSON number"},
		{one(`{}`), `case 1: no "flagKey"`},
		{one(`{"flagKey":1}`), "case 1: flagKey is not a text"},
		{one(`{"flagKey":"a","expect":{"value":1}}`), `case 1, flag "a": no "user"`},
		{one(`{"flagKey":"a","user":{}}`), `case 1, flag "a": no "expect"`},
		{one(`{"flagKey":"a","user":{},"expect":{}}`), `case 1, flag "a": expect is empty`},
		{one(`{"flagKey":"a","user":{},"expect":null}`), `case 1, flag "a": expect is empty`},
		{one(`{"flagKey":"a","user":{},"expect":[]}`), `case 1, flag "a": expect: it is a JSON array`},
		{one(`{"flagKey":"a","user":{},"expect":{"valeu":1}}`), `case 1, flag "a": expect has the unknown member "valeu"; known are value, reason`},
		{one(`{"flagKey":"a","user":{},"expect":{"Value":1}}`), `expect has the unknown member "Value"`},
		{one(`{"flagKey":"a","user":{},"expect":{"reason":null}}`), "reason is not a text"},
		{one(`{"flagKey":"a","user":{},"expect":{"variationId":7}}`), "variationId is not a text"},
		{one(`{"flagKey":"a","user":{},"expect":{"sendToExperiment":null}}`), "sendToExperiment is not true or false"},
		{one(`{"flagKey":"a","user":{},"expect":{"value":1}},{"flagKey":"b","user":{},"expect":{"value":1},"expected":2}`), `case 2, flag "b": it has the unknown member "expected"`},
	} {
		if _, err := Parse([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Parse(%s) = %v, want %q", tt.text, err, tt.want)
		}
	}
	if _, err := Parse([]byte(`{"description":"d","bootstrap":{},"cases":[{"note":"n","flagKey":"a","user":null,"expect":{"value":null}}]}`)); err != nil {
		t.Error(err)
	}
	f, err := Parse([]byte(`{"bootstrap":{"messageType":"ping"},"cases":[{"flagKey":"a","user":{},"expect":{"value":1}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Load(); err == nil || !strings.HasPrefix(err.Error(), "bootstrap: ") {
		t.Errorf("Load = %v", err)
	}
}
