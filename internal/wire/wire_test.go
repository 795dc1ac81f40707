package wire

import (
	"errors"
	"fmt"
	"io"
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
	f.Add([]byte(sample))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(AppendDataSync(nil, d.EventType, d.Items))
		if err != nil || len(again.Items) != len(d.Items) {
			t.Fatalf("round trip: %d items, %v; want %d", len(again.Items), err, len(d.Items))
		}
	})
}
