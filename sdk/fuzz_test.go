package sdk_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/flagstead/flagstead/sdk"
)

// FuzzClient: whatever a document, a user and a key are, a document is loaded or
// refused, and no call panics or contradicts itself.
func FuzzClient(f *testing.F) {
	for _, it := range sampleItems() {
		f.Add(string(it.Data), `{"key":"ann","name":"Ann","plan":"pro","age":42}`, it.Key)
	}
	f.Add(`{"key":"f","variations":null,"rules":[null],"updatedAt":"x"}`, `[]`, "f")
	f.Add(`{"key":"f","isEnabled":true,"updatedAt":"2024-01-01T00:00:00Z","variationType":"json","variations":[{"id":"a","value":"[[[["}],"fallthrough":{"variations":[{"id":"a","rollout":[0,1]}]}}`, `{"key":"","name":" "}`, "f")
	client, err := sdk.New(sdk.Config{Offline: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { client.Close(f.Context()) })
	f.Fuzz(func(t *testing.T, flag, who, key string) {
		doc := `{"messageType":"data-sync","data":{"eventType":"full","featureFlags":[` + flag + `],"segments":[]}}`
		if err := client.LoadJSON(strings.NewReader(doc)); err != nil {
			return
		}
		u, err := sdk.ParseUser([]byte(who))
		if (u == nil) != (err != nil) {
			t.Fatalf("ParseUser = %v, %v", u, err)
		}
		keys := []string{key}
		for k := range client.AllFlags(u).All() {
			keys = append(keys, k)
		}
		for _, k := range keys {
			agree(t, k, client.BoolDetail(k, u, true), true)
			agree(t, k, client.StringDetail(k, u, "def"), "def")
			agree(t, k, client.IntDetail(k, u, -1), -1)
			agree(t, k, client.Float64Detail(k, u, 0.5), 0.5)
			agree(t, k, sdk.JSONDetail(client, k, u, []int(nil)), nil)
			agree(t, k, client.VariationDetail(k, u, "def"), any("def"))
		}
	})
}

func agree[T any](t *testing.T, key string, d sdk.Detail[T], def T) {
	t.Helper()
	isDefault := d.Reason.IsDefault()
	if isDefault != (d.Err != nil) || isDefault && fmt.Sprint(d.Value) != fmt.Sprint(def) || d.FlagKey != key {
		t.Fatalf("%+v contradicts itself", d)
	}
}
