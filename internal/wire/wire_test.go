package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/flagstead/flagstead/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const sample = `{"messageType":"data-sync","data":{"eventType":"full",
 "featureFlags":[{"id":"1","key":"a","updatedAt":"2025-01-01T00:00:00.1239Z","isArchived":false,"novel":{"x":[1]}},
  {"id":"2","key":"b","updatedAt":"yesterday"},
  {"id":"3"}, 7],
 "segments":[{"id":"s","updatedAt":"2025-01-01T00:00:01","isArchived":true}]}}`

func TestParse(t *testing.T) {
	d, err := Parse([]byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	want := []store.Item{
		{Kind: store.Flag, Key: "a", Version: 1735689600123},
		{Kind: store.Flag, Key: "b", Version: 0},
		{Kind: store.Segment, Key: "s", Version: 1735689601000, Archived: true},
	}
	if len(d.Items) != len(want) || len(d.Skipped) != 2 || d.EventType != Full {
		t.Fatalf("Parse = %d items, %d skipped (%v), type %q", len(d.Items), len(d.Skipped), d.Skipped, d.EventType)
	}
	for i, w := range want {
		g := d.Items[i]
		if g.Kind != w.Kind || g.Key != w.Key || g.Version != w.Version || g.Archived != w.Archived {
			t.Errorf("item %d = %+v, want %+v", i, g, w)
		}
	}
}

func TestRoundTripKeepsUnknownMembers(t *testing.T) {
	d, err := Parse([]byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(AppendDataSync(nil, Patch, d.Items))
	if err != nil {
		t.Fatal(err)
	}
	if again.EventType != Patch || len(again.Items) != len(d.Items) {
		t.Fatalf("got %q with %d items", again.EventType, len(again.Items))
	}
	for _, it := range again.Items {
		if it.Key == "a" && string(it.Data) != string(d.Items[0].Data) {
			t.Errorf("Data = %s, want %s", it.Data, d.Items[0].Data)
		}
	}
}

func TestParseRejects(t *testing.T) {
	for _, tc := range []struct{ name, text string }{
		{"empty", "  \n"},
		{"array", "[]"},
		{"other message", `{"messageType":"pong","data":{}}`},
		{"no data", `{"messageType":"data-sync"}`},
		{"null data", `{"messageType":"data-sync","data":null}`},
		{"event type", `{"messageType":"data-sync","data":{"eventType":"weird","featureFlags":[],"segments":[]}}`},
		{"no flags", `{"messageType":"data-sync","data":{"eventType":"full","segments":[]}}`},
		{"null segments", `{"messageType":"data-sync","data":{"eventType":"full","featureFlags":[],"segments":null}}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := Parse([]byte(tc.text)); !errors.Is(err, ErrNotDataSync) {
				t.Errorf("Parse = %v, want ErrNotDataSync", err)
			}
		})
	}
}

// TestNoGoTypes: people who write JSON are told in its terms what is wrong.
func TestNoGoTypes(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{`[]`, "not a FeatBit data-sync document: it is a JSON array"},
		{`7`, "not a FeatBit data-sync document: it is a JSON number"},
		{`{"messageType":1.5}`, "not a FeatBit data-sync document: messageType is a number, not a text"},
		{`{"messageType":"data-sync","data":{"eventType":"full","featureFlags":"x","segments":[]}}`,
			"not a FeatBit data-sync document: featureFlags is a text, not a list"},
		{`{"messageType":"data-sync","data":[]}`, "not a FeatBit data-sync document: it is a JSON array"},
	} {
		if _, err := Parse([]byte(tc.text)); !errors.Is(err, ErrNotDataSync) || err.Error() != tc.want {
			t.Errorf("Parse(%s) = %v, want %q", tc.text, err, tc.want)
		}
	}
	if _, err := ParseItem(store.Flag, []byte(`true`)); err == nil || err.Error() != "it is a JSON bool" {
		t.Errorf("ParseItem = %v", err)
	}
	if got := InWords(fmt.Errorf("file x: %w", io.EOF)); got != "file x: EOF" {
		t.Errorf("InWords = %q", got)
	}
}

func TestSyntaxErrorSaysWhere(t *testing.T) {
	for _, tc := range []struct {
		text      string
		line, col int
	}{
		{"{\n  \"a\": tru3\n}", 2, 11},
		{"{\n\n", 2, 1}, // the last byte of an unfinished text
		{"x", 1, 1},
	} {
		_, err := Parse([]byte(tc.text))
		var syn *SyntaxError
		if !errors.As(err, &syn) || syn.Line != tc.line || abs(syn.Column-tc.col) > 1 {
			t.Errorf("Parse(%q) = %v, want line %d, column %d", tc.text, err, tc.line, tc.col)
		}
	}
}

func abs(n int) int { return max(n, -n) }

func TestTombstone(t *testing.T) {
	d, _ := Parse([]byte(sample))
	dead, err := Tombstone(d.Items[0], 1735689700000)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseItem(store.Flag, dead.Data)
	if err != nil || !again.Archived || again.Version != 1735689700000 || again.Key != "a" {
		t.Errorf("Tombstone = %+v (%v)", again, err)
	}
	if d.Items[0].Archived {
		t.Error("the original changed")
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range documents {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := Parse(text)
		want, wantErr := Decode(text)
		if fmt.Sprint(err) != fmt.Sprint(wantErr) || !equal(d, want) {
			t.Fatalf("Parse = %v, %v; Decode = %v, %v", d, err, want, wantErr)
		}
		p, err := ParsePayload(text)
		if want, wantErr := decodePayload(text); fmt.Sprint(err) != fmt.Sprint(wantErr) || !equal(p, want) {
			t.Fatalf("ParsePayload = %v, %v; want %v, %v", p, err, want, wantErr)
		}
		for _, kind := range []store.Kind{store.Flag, store.Segment} {
			it, err := ParseItem(kind, text)
			if want, wantErr := decodeItem(kind, text); fmt.Sprint(err) != fmt.Sprint(wantErr) || !reflect.DeepEqual(it, want) {
				t.Fatalf("ParseItem = %v, %v; want %v, %v", it, err, want, wantErr)
			}
		}
		if d.EventType == "" {
			return
		}
		again, err := Parse(AppendDataSync(nil, d.EventType, d.Items))
		if err != nil || len(again.Items) != len(d.Items) {
			t.Fatalf("round trip: %d items, %v; want %d", len(again.Items), err, len(d.Items))
		}
	})
}

func equal(a, b DataSync) bool {
	return a.EventType == b.EventType && fmt.Sprint(a.Skipped) == fmt.Sprint(b.Skipped) &&
		slices.EqualFunc(a.Items, b.Items, func(a, b store.Item) bool { return reflect.DeepEqual(a, b) })
}

const flags, segments = `{"messageType":"data-sync","data":{"eventType":"full","featureFlags":[`, `],"segments":[`

// documents are whole, unusual and broken in many ways.
var documents = []string{
	sample,
	flags + segments + "]}}",
	flags + `{"key":"a","updatedAt":"2024-05-01T10:00:00Z","isArchived":true,"x":[{},[],[1.0e+2,-0,0.5E-7,true,false,null],"\\\"]\u00e4\n"]}, {}, 1, "s", null` + segments + ` { "id" : "s" } , {"ID":"t"} ]}} `,
	flags + `{"KEY":"a"},{"\u006bey":"b"},{"key":"c","key":"d"},{"\u212aey":"e"},{"Key":"f"},{"key":"\u00e4"},{"key":"ä"},{"key":"` + "\xff" + `"},{"key":null},{"key":7},{"key":""}` + segments + "]}}",
	flags + `{"key":"a","updatedAt":7},{"key":"b","updatedAt":"\u0032024-05-01T10:00:00Z"},{"key":"c","updatedAt":null,"updatedAt":"2024-05-01T10:00:00Z"},{"key":"d","UpdatedAt":"2024-05-01T10:00:00Z","isarchived":true}` + segments + "]}}",
	flags + `{"id":"x","key":"a","ä":1,"long enough to be looked at by the word":"` + strings.Repeat("0123456789", 5) + `"}` + segments + `{"id":"a","key":"b"}]}}`,
	`{"data":{"segments":[{"id":"s"},7],"featureFlags":[7,{"key":"a"}],"eventType":"patch","novel":{"a":[1,2]}},"novel":"x","messageType":"data-sync"}`,
	flags + segments + `]},"Data":{}}`, flags + segments + `]},"data":{}}`, flags + segments + `],"segments":[{"id":"s"}]}}`, flags + segments + `],"SEGMENTS":[{"id":"s"}]}}`,
	flags + segments, flags + segments + "]}}x", flags + segments + "]},}", flags + "{,}" + segments + "]}}", flags + "[1,]" + segments + "]}}",
	flags + `{"key":"a","x":01}` + segments + "]}}", flags + `{"key":"a","x":1.}` + segments + "]}}", flags + `{"key":"a","x":-}` + segments + "]}}", flags + `{"key":"a","x":1e}` + segments + "]}}",
	flags + `{"key":"a","x":tru}` + segments + "]}}", flags + `{"key":"a","x":"\x"}` + segments + "]}}", flags + `{"key":"a","x":"\u12g4"}` + segments + "]}}", flags + "{\"key\":\"a\",\"x\":\"01234567\n\"}" + segments + "]}}",
	flags + `{"key":"a"` + segments + "]}}", flags + `{"key":"a"} {"key":"b"}` + segments + "]}}", flags + `{"key" "a"}` + segments + "]}}",
	flags + `{"key":"a","x":` + strings.Repeat("[", 1500) + strings.Repeat("]", 1500) + "}" + segments + "]}}",
	flags + `{"key":"a","x":` + strings.Repeat("[", 15000) + strings.Repeat("]", 15000) + "}" + segments + "]}}",
	`{"messageType":"data-sync","data":null}`, `{"messageType":"data-sync","data":7}`, `{"messageType":"pong","data":{}}`, `{"messageType":7}`, `{}`, `[]`, `7`, ``, ` `, `"`, `{"`, `{"a`, `{"a":`, `{"a":1`,
	`{"eventType":"full","featureFlags":[{"key":"a"}],"segments":[]}`, `{"eventType":"other","featureFlags":[],"segments":[]}`, `{"eventType":"full","featureFlags":[]}`, `{"eventType":"full","featureFlags":null,"segments":[]}`, `{"eventType":"full","featureFlags":{},"segments":[]}`,
	`{"key":"k","id":"i","updatedAt":"2024-05-01 10:00:00","isArchived":"true"}`, ` {"key":"k"}`, `{"key":"k"} `, `{"id":"i","isArchived":true}x`,
}

// TestScanIsTheUsualWay: documents as FeatBit sends them take the fast way.
func TestScanIsTheUsualWay(t *testing.T) {
	for i, text := range documents[:4] {
		if _, _, ok := Scan([]byte(text), ""); !ok {
			t.Errorf("document %d: %s", i, text)
		}
	}
	text := documents[1][:len(documents[1])-1] + `,"flagstead":{"a":[1]}}`
	if d, value, ok := Scan([]byte(text), "flagstead"); !ok || string(value) != `{"a":[1]}` || d.EventType != Full {
		t.Errorf("Scan = %v, %s, %v", d, value, ok)
	}
	if _, _, ok := Scan([]byte(text), "Flagstead"); ok {
		t.Error("a member that a decoder would take, too, was passed over")
	}
}

// TestItemsAreCopies: what was parsed does not change with the text.
func TestItemsAreCopies(t *testing.T) {
	for _, text := range []string{flags + `{"key":"a"}` + segments + "]}}", flags + `{"key":"a"}` + segments + `],"SEGMENTS":[]}}`} {
		b := []byte(text)
		d, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		clear(b)
		if string(d.Items[0].Data) != `{"key":"a"}` || d.Items[0].Key != "a" {
			t.Errorf("the item became %s %q", d.Items[0].Data, d.Items[0].Key)
		}
	}
}

// BenchmarkParse parses 10,000 flags of 2 KB, and, as a floor, only checks them.
func BenchmarkParse(b *testing.B) {
	var items []store.Item
	rules := strings.TrimSuffix(strings.Repeat(`{"id":"0123456789","conditions":[{"property":"country","op":"IsOneOf","value":"[\"de\",\"fr\"]"}]},`, 19), ",")
	for i := range 10_000 {
		items = append(items, store.Item{Kind: store.Flag, Data: fmt.Appendf(nil,
			`{"id":"%d","key":"flag-%d","updatedAt":"2024-01-01T00:00:00.000Z","isArchived":false,"variations":[{"id":"a","value":"true"}],"rules":[%s]}`, i, i, rules)})
	}
	text := AppendDataSync(nil, Full, items)
	for name, f := range map[string]func() bool{
		"floor":  func() bool { return json.Valid(text) },
		"Scan":   func() bool { d, _, ok := Scan(text, ""); return ok && len(d.Items) == len(items) },
		"Parse":  func() bool { d, err := Parse(text); return err == nil && len(d.Items) == len(items) },
		"Decode": func() bool { d, err := Decode(text); return err == nil && len(d.Items) == len(items) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if !f() {
					b.Fatal("not what it was")
				}
			}
		})
	}
}
