package file

import (
	"maps"
	"slices"
	"testing"

	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
)

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"messageType":"data-sync","data":{"eventType":"full","featureFlags":[{"key":"a","updatedAt":"2024-05-01T10:00:00Z"}],"segments":[{"id":"s"}]}}`))
	f.Add([]byte(`{"messageType":"data-sync","data":{"eventType":"full","featureFlags":[],"segments":[]},"flagstead":{"items":[{"kind":"flag","key":"a","version":1,"data":"AA=="}]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, _, err := parse(source{json: text})
		if err != nil {
			return
		}
		again, err := c.encode()
		if err != nil {
			t.Fatalf("encode: %v", err)
		}
		got, skipped, err := parse(source{json: again})
		if err != nil || len(skipped) != 0 {
			t.Fatalf("parse of an encoded document: %v, skipped %v", err, skipped)
		}
		if !maps.EqualFunc(got.items, c.items, same) || !maps.Equal(got.odd, c.odd) {
			t.Fatalf("parse of an encoded document = %v, want %v", got, c)
		}
	})
}

func FuzzApplyIsEncodedFaithfully(f *testing.F) {
	f.Add("key", int64(1714557600123), false, []byte(`{"key":"key","updatedAt":"2024-05-01T10:00:00.123Z"}`))
	f.Add("\xff", int64(-1), true, []byte("\n"))
	f.Fuzz(func(t *testing.T, key string, version int64, archived bool, data []byte) {
		if key == "" {
			return
		}
		it := store.Item{Kind: store.Flag, Key: key, Version: version, Archived: archived, Data: data}
		c, _ := content{}.apply(store.Change{Items: []store.Item{it}})
		text, err := c.encode()
		if err != nil {
			t.Fatalf("encode: %v", err)
		}
		got, _, err := parse(source{json: text})
		if err != nil || !maps.EqualFunc(got.items, c.items, same) {
			t.Fatalf("parse = %v, %v, want %v", got, err, c)
		}
	})
}

// scan has to find in every document what package wire finds, or to leave it
// alone.
func FuzzScan(f *testing.F) {
	const flags, segments = `{"messageType":"data-sync","data":{"eventType":"full","featureFlags":[`, `],"segments":[`
	for _, text := range []string{
		flags + segments + "]}}",
		flags + `{"key":"a","updatedAt":"2024-05-01T10:00:00Z","isArchived":true,"x":[{},[1.0e+2],"\\\"]"]}, {}, 1, "s", null` + segments + ` { "id" : "s" } , {"ID":"t"} ]}} `,
		flags + `{"KEY":"a"},{"\u006bey":"b"},{"key":"c","key":"d"},{"\u212aey":"e"},{"Key":"f"}` + segments + "]},\"flagstead\":{}}",
		flags + segments + `]},"Data":{}}`, flags + segments + `],"segments":[{"id":"s"}]}}`, flags + segments + "",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, extra, ok := wire.Scan(text, "flagstead")
		if !ok || got.EventType != wire.Full {
			return
		}
		want, wantExtra, err := decode(text)
		if err != nil {
			t.Fatalf("scan takes what decode refuses: %v", err)
		}
		equal := func(a, b store.Item) bool { return a.ID() == b.ID() && same(a, b) }
		if !slices.EqualFunc(got.Items, want.Items, equal) || len(got.Skipped) != len(want.Skipped) {
			t.Fatalf("scan = %v, decode = %v", got, want)
		}
		if string(extra) != string(wantExtra) {
			t.Fatalf("scan finds extras %s, decode %s", extra, wantExtra)
		}
	})
}
