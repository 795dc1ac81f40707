package snapshot

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/flagstead/flagstead/internal/flags"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const doc = `{"messageType":"data-sync","data":{"eventType":"full","featureFlags":[
 {"id":"1","key":"a","updatedAt":"2025-01-01T00:00:00Z","isEnabled":true,"variationType":"string",
  "variations":[{"id":"v","value":"yes"}],"fallthrough":{"variations":[{"id":"v","rollout":[0,1]}]}},
 {"id":"2","key":"b","updatedAt":"2025-01-01T00:00:00Z"}],"segments":[]}}`

func TestApply(t *testing.T) {
	items, err := Items([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	set, changes := Apply(nil, store.Snapshot{Rev: "1", Items: items})
	if !slices.Equal(slices.Sorted(slices.Values(changes.Flags)), []string{"a", "b"}) {
		t.Errorf("first changes = %v", changes.Flags)
	}
	u, err := flags.NewUser("u", "u", nil)
	if err != nil {
		t.Fatal(err)
	}
	if res := set.Evaluate("a", u); res.Reason.IsError() || res.Variation.Text() != "yes" {
		t.Errorf("a = %v", res)
	}

	gone := store.Item{Kind: store.Flag, Key: "a", Version: items[0].Version + 1, Archived: true, Data: items[0].Data}
	next, changes := Apply(set, store.Snapshot{Rev: "2", Delta: true, Items: []store.Item{gone}})
	if !slices.Equal(slices.Sorted(slices.Values(changes.Flags)), []string{"a"}) || next.Known("a") || !next.Known("b") || !set.Known("a") {
		t.Errorf("after a delta: changes %v, a known %t, b known %t, a known before %t", changes.Flags, next.Known("a"), next.Known("b"), set.Known("a"))
	}

	last, changes := Apply(next, store.Snapshot{Rev: "3", Items: items[:1]})
	if !slices.Equal(slices.Sorted(slices.Values(changes.Flags)), []string{"a", "b"}) || !last.Known("a") || last.Known("b") {
		t.Errorf("after a full with less: changes %v, a known %t, b known %t", changes.Flags, last.Known("a"), last.Known("b"))
	}
}

func TestParseLosesNothingInSilence(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{strings.Replace(doc, `"key":"b",`, "", 1), "key"},
		{strings.Replace(doc, "data-sync", "ping", 1), "data-sync"},
		{"[]", "data-sync"},
	} {
		if _, err := Parse([]byte(tt.text)); !errors.Is(err, wire.ErrNotDataSync) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Parse(%.60s) = %v, want an error with %q", tt.text, err, tt.want)
		}
	}
	if _, err := Parse([]byte("{\n  \"messageType\": oops}")); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("Parse of broken JSON = %v, want its line", err)
	}
}
