package sdk_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
)

// kinds are flags of every kind of rule and value.
func kinds() []store.Item {
	list := func(n int) string {
		var keys []string
		for i := range n {
			keys = append(keys, fmt.Sprintf(`"user-%d"`, i))
		}
		return strings.Join(keys, ",")
	}
	const boolean = `"variationType":"boolean","variations":[{"id":"a","value":"true"},{"id":"b","value":"false"}],`
	const otherwise = `"fallthrough":{"variations":[{"id":"b","rollout":[0,1]}]}`
	rule := func(conditions string) string {
		return boolean + `"rules":[{"name":"r","conditions":[` + conditions + `],"variations":[{"id":"a","rollout":[0,1]}]}],` + otherwise
	}
	condition := func(property, op, value string) string {
		return fmt.Sprintf(`{"property":%q,"op":%q,"value":%q}`, property, op, value)
	}
	slices := `"variations":[{"id":"a","rollout":[0,0.5],"exptRollout":0.2},{"id":"b","rollout":[0.5,1],"exptRollout":0.2}]`
	all := `"fallthrough":{"variations":[{"id":"a","rollout":[0,1]}]}`
	var items []store.Item
	for key, rest := range map[string]string{
		"fallthrough": boolean + all,
		"targets":     boolean + `"targetUsers":[{"keyIds":[` + list(100) + `],"variationId":"a"}],` + otherwise,
		"conditions":  rule(condition("country", "Equal", "fr") + "," + condition("age", "BiggerThan", "17.5") + "," + condition("plan", "IsOneOf", `["pro","team"]`)),
		"list":        rule(condition("plan", "IsOneOf", `["1","2","3","4","5","6","7","8","pro"]`)),
		"text":        rule(condition("email", "EndsWith", "@example.com") + "," + condition("email", "StartsWith", "a") + "," + condition("email", "NotContain", "b")),
		"regex":       rule(condition("email", "MatchRegex", `^[a-z]+@example\.(com|org)$`)),
		"truth":       rule(condition("beta", "IsTrue", "")),
		"member":      rule(condition("User is in segment", "", `["seg"]`)),
		"nested":      rule(condition("User is in segment", "", `["outer"]`)),
		"rollout":     boolean + `"fallthrough":{"includedInExpt":true,"dispatchKey":"country",` + slices + `}`,
		"experiment":  boolean + `"exptIncludeAllTargets":true,"fallthrough":{"includedInExpt":true,` + slices + `}`,
		"broken":      rule(condition("email", "MatchRegex", "(")),
		"unreadable":  `"variations":7`,
		"string":      `"variationType":"string","variations":[{"id":"a","value":"one"}],` + all,
		"number":      `"variationType":"number","variations":[{"id":"a","value":"2.5"}],` + all,
		"whole":       `"variationType":"number","variations":[{"id":"a","value":"1234567"}],` + all,
		"json":        `"variationType":"json","variations":[{"id":"a","value":"{\"size\":3,\"name\":\"x\",\"list\":[1,{\"y\":2}]}"}],` + all,
		"list of any": `"variationType":"boolean","variations":[{"id":"a","value":"1"}],` + all,
	} {
		items = append(items, store.Item{Kind: store.Flag, Key: key, Version: 1,
			Data: fmt.Appendf(nil, `{"key":%q,"isEnabled":true,"updatedAt":"2024-01-01T00:00:00Z",%s}`, key, rest)})
	}
	off := fmt.Appendf(nil, `{"key":"off","isEnabled":false,"disabledVariationId":"b",%s%s}`, boolean, all)
	for id, rest := range map[string]string{
		"seg":   `"included":[` + list(10_000) + `]`,
		"outer": `"rules":[{"conditions":[{"property":"User is in segment","op":"","value":"[\"seg\"]"}]}]`,
	} {
		items = append(items, store.Item{Kind: store.Segment, Key: id, Version: 1, Data: fmt.Appendf(nil, `{"id":%q,%s}`, id, rest)})
	}
	return append(items, store.Item{Kind: store.Flag, Key: "off", Version: 1, Data: off})
}

type options struct {
	Size int
	Name string
}

// TestAllocs: no evaluation allocates, whatever the rule and the type, with events and
// without, whether it gives a value or a default.
func TestAllocs(t *testing.T) {
	items := kinds()
	srv := serve(t)
	apply(t, srv.store, true, items...)
	until(t, "server is ready", srv.relay.Ready)
	online := newClient(t, sdk.Config{StreamingURL: srv.url, EnvSecret: srv.secret, FlushInterval: time.Hour})
	waitReady(t, online)
	full := newClient(t, sdk.Config{StreamingURL: srv.url, EnvSecret: srv.secret, FlushInterval: time.Hour, EventCapacity: 1})
	waitReady(t, full)
	u := newUser(t, "user-50", sdk.String("country", "fr"), sdk.Int("age", 42), sdk.String("plan", "pro"), sdk.String("email", "ann@example.com"), sdk.Bool("beta", true))
	keys := []string{"no such flag"}
	for _, it := range items {
		if it.Kind == store.Flag {
			keys = append(keys, it.Key)
		}
	}
	for what, c := range map[string]*sdk.Client{
		"events on":           online,
		"events beyond bound": full,
		"events off":          newClient(t, sdk.Config{Offline: true, Bootstrap: document(items...)}),
		"defaults":            newClient(t, sdk.Config{Offline: true, Bootstrap: document(items...), Defaults: map[string]any{"broken": true, "no such flag": true}}),
	} {
		for _, key := range keys {
			calls := map[string]func(){
				"Bool":          func() { c.Bool(key, u, false) },
				"BoolDetail":    func() { c.BoolDetail(key, u, false) },
				"String":        func() { c.String(key, u, "") },
				"StringDetail":  func() { c.StringDetail(key, u, "") },
				"Int":           func() { c.Int(key, u, 0) },
				"IntDetail":     func() { c.IntDetail(key, u, 0) },
				"Float64":       func() { c.Float64(key, u, 0) },
				"Float64Detail": func() { c.Float64Detail(key, u, 0) },
				"JSON":          func() { sdk.JSON(c, key, u, options{}) },
				"no user":       func() { c.BoolDetail(key, nil, false) },
				"IsFlagKnown":   func() { c.IsFlagKnown(key) },
				"Snapshot":      func() { c.Snapshot().Bool(key, u, false) },
			}
			if key != "json" {
				calls["Variation"] = func() { c.Variation(key, u, nil) }
				calls["VariationDetail"] = func() { c.VariationDetail(key, u, nil) }
			}
			for name, call := range calls {
				call() // compiles the flag
				if n := testing.AllocsPerRun(20, call); n != 0 {
					t.Errorf("%s, flag %s, %s: %v allocations, want 0", what, key, name, n)
				}
			}
		}
	}
}

// TestAllFlagsAllocs: to evaluate all flags costs a few allocations, however many flags
// there are.
func TestAllFlagsAllocs(t *testing.T) {
	u := newUser(t, "ann")
	count := func(n int) float64 {
		var items []store.Item
		for i := range n {
			items = append(items, flagJSON(fmt.Sprint("flag-", i), []string{"boolean", "string", "number"}[i%3], "1", "2", "", 1))
		}
		c := newClient(t, sdk.Config{Offline: true, Bootstrap: document(items...)})
		return testing.AllocsPerRun(10, func() {
			seen := 0
			for range c.AllFlags(u).All() {
				seen++
			}
			if seen != n {
				t.Fatalf("%d flags of %d", seen, n)
			}
		})
	}
	few, many := count(3), count(3000)
	if few > 5 || many != few {
		t.Errorf("%v allocations for 3 flags and %v for 3,000, want at most 5 for both", few, many)
	}
}

// TestValuesAreTheCallers: nothing that a caller does to a value reaches another.
func TestValuesAreTheCallers(t *testing.T) {
	c := newClient(t, sdk.Config{Offline: true, Bootstrap: document(kinds()...)})
	u := newUser(t, "ann")
	type deep struct {
		Size int
		List []any
	}
	want := `map[list:[1 map[y:2]] name:x size:3]`
	for range 2 {
		v := c.Variation("json", u, nil).(map[string]any)
		m := sdk.JSON(c, "json", u, map[string]any(nil))
		a := sdk.JSON[any](c, "json", u, nil).(map[string]any)
		all := map[string]any{}
		for key, d := range c.AllFlags(u).All() {
			all[key] = d.Value
		}
		for _, got := range []map[string]any{v, m, a, all["json"].(map[string]any)} {
			if fmt.Sprint(got) != want {
				t.Fatalf("got %v, want %s", got, want)
			}
			got["size"] = 0
			got["list"].([]any)[1].(map[string]any)["y"] = 0
			got["list"].([]any)[0] = 0
		}
		d := sdk.JSON(c, "json", u, deep{})
		if fmt.Sprint(d) != "{3 [1 map[y:2]]}" {
			t.Fatalf("got %v", d)
		}
		d.List[0] = 0
		if o := sdk.JSON(c, "json", u, options{}); o != (options{3, "x"}) {
			t.Fatalf("got %v", o)
		}
	}
	// Different types of one value do not get in each other's way.
	if s := sdk.JSON[fmt.Stringer](c, "json", u, nil); s != nil {
		t.Errorf("an object became a %T", s)
	}
	if n := sdk.JSON(c, "json", u, 7); n != 7 {
		t.Errorf("an object became %d", n)
	}
}
