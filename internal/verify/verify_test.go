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
		{`{}`, ""},
		{`{"value":3,"reason":"fall through all rules","variationId":"v"}`, ""},
		{`{"value":3.0}`, ""},
		{`{"value":"3"}`, `value is 3, want "3"`},
		{`{"value":null}`, "value is 3, want null"},
		{`{"reason":"flag off"}`, `reason is "fall through all rules", want "flag off"`},
		{`{"variationId":null}`, `variation is "v", want ""`},
		{`{"variationId":"w"}`, `variation is "v", want "w"`},
		{`{"value":4,"reason":"x"}`, "value is 3, want 4\nreason is"},
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

func TestParseNamesWhatIsWrong(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"{\n\"bootstrap\": {},,}", "line 2"},
		{`{"cases":[]}`, `no "bootstrap"`},
		{`{"bootstrap":{}}`, `no "cases"`},
		{`{"bootstrap":{},"cases":7}`, "not a file of cases"},
	} {
		if _, err := Parse([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Parse(%s) = %v, want %q", tt.text, err, tt.want)
		}
	}
	f, err := Parse([]byte(`{"bootstrap":{"messageType":"ping"},"cases":[]}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Load(); err == nil || !strings.HasPrefix(err.Error(), "bootstrap: ") {
		t.Errorf("Load = %v", err)
	}
}
