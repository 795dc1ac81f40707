package wire_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
)

const (
	envA = "0f8fad5b-d9cb-469f-a165-70867728950e"
	envB = "1a8fad5b-d9cb-469f-a165-70867728950e"
)

func TestParseProxyFull(t *testing.T) {
	doc, err := wire.ParseProxyPayload([]byte(`{"eventType":"rp_full","items":[
		{"envId":"0F8FAD5B-d9cb-469f-a165-70867728950e","secrets":[{"type":"server","projectKey":"p","envKey":"e","value":"v"},{"type":"server"},7],
		 "featureFlags":[{"key":"x","updatedAt":"2025-01-01T00:00:00.123456Z","odd":[1]},{"id":1}],"segments":[{"id":"s","updatedAt":"2025-01-01T00:00:00Z"}]},
		{"envId":"` + envA + `","secrets":[],"featureFlags":[{"key":"y"}],"segments":[]},
		{"envId":"` + envB + `","secrets":[],"featureFlags":[]},
		{"secrets":[],"featureFlags":[],"segments":[]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if len(doc.Envs) != 1 || doc.Envs[0].EnvID != envA || len(doc.Envs[0].Items) != 3 || len(doc.Envs[0].Secrets) != 1 {
		t.Fatalf("%+v", doc)
	}
	if it := doc.Envs[0].Items[0]; it.Kind != store.Flag || it.Key != "x" || it.Version != 1735689600123 || string(it.Data) != `{"key":"x","updatedAt":"2025-01-01T00:00:00.123456Z","odd":[1]}` {
		t.Errorf("item %+v", it)
	}
	if !slices.Equal(doc.Unusable, []string{envB, ""}) || len(doc.Skipped) != 5 {
		t.Errorf("unusable %q, skipped %v", doc.Unusable, doc.Skipped)
	}
}

func TestParseProxyPatch(t *testing.T) {
	doc, err := wire.ParseProxyPayload([]byte(`{"eventType":"patch","featureFlags":[{"key":"x","envId":"` + envA + `"},{"key":"x","envId":"` + envB + `"},{"key":"z"}],
		"segments":[{"id":"s","envId":"` + envB + `"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if len(doc.Envs) != 2 || len(doc.Envs[0].Items) != 1 || len(doc.Envs[1].Items) != 2 || len(doc.Skipped) != 1 {
		t.Errorf("%+v", doc)
	}
	for _, text := range []string{`{}`, `7`, `null`, `{"eventType":"patch"}`, `{"eventType":"rp_full"}`, `{"eventType":"full","featureFlags":[],"segments":[]}`} {
		if _, err := wire.ParseProxyPayload([]byte(text)); !errors.Is(err, wire.ErrNotDataSync) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := wire.ParseProxyPayload([]byte(`{"eventType`)); err == nil {
		t.Error("broken JSON")
	}
}

func FuzzParseProxyPayload(f *testing.F) {
	f.Add([]byte(`{"eventType":"rp_full","items":[{"envId":"` + envA + `","secrets":[{"type":"server","value":"v"}],"featureFlags":[{"key":"x"}],"segments":[]}]}`))
	f.Add([]byte(`{"eventType":"patch","featureFlags":[{"key":"x","envId":"` + envA + `"}],"segments":[]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		doc, err := wire.ParseProxyPayload(text)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, es := range doc.Envs {
			if es.EnvID == "" || seen[es.EnvID] {
				t.Errorf("environment %q twice or without an id", es.EnvID)
			}
			seen[es.EnvID] = true
			for _, it := range es.Items {
				if it.Key == "" || it.Kind == 0 {
					t.Errorf("item %+v", it)
				}
			}
		}
	})
}
