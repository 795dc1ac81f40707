package bench

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/open-feature/go-sdk/openfeature"
	"github.com/open-feature/go-sdk/openfeature/memprovider"
)

func init() {
	register(Peer{
		Name: "openfeature", Title: "OpenFeature, in memory", Module: "github.com/open-feature/go-sdk",
		Document: openFeatureFlags, Open: openOpenFeature, NoEvents: true, NoLoad: true,
		Lacks: []Case{Targets, Rule, Rollout, Segment, Regex},
		Note:  "its provider in memory has no targeting, no document and no events: it shows what the OpenFeature API itself costs",
	})
}

// openFeatureFlags returns the keys: the provider has no format.
func openFeatureFlags(flags []Flag) []byte {
	var keys []string
	for _, f := range flags {
		keys = append(keys, f.Key)
	}
	return mustJSON(keys)
}

type openFeature struct {
	api  *openfeature.Client
	user openfeature.EvaluationContext
	keys []string
}

func openOpenFeature(document []byte, _ bool) (Session, error) {
	var keys []string
	if err := json.Unmarshal(document, &keys); err != nil {
		return nil, err
	}
	flags := map[string]memprovider.InMemoryFlag{}
	for _, key := range keys {
		flags[key] = memprovider.InMemoryFlag{Key: key, State: memprovider.Enabled, DefaultVariant: "on", Variants: map[string]any{"on": true, "off": false}}
	}
	if err := openfeature.SetNamedProviderAndWait("bench", memprovider.NewInMemoryProvider(flags)); err != nil {
		return nil, fmt.Errorf("openfeature: %w", err)
	}
	return &openFeature{api: openfeature.NewClient("bench"), keys: keys, user: openfeature.NewEvaluationContext(TheUser.Key, map[string]any{
		"country": TheUser.Country, "age": TheUser.Age, "plan": TheUser.Plan, "email": TheUser.Email,
	})}, nil
}

func (o *openFeature) Bool(key string, def bool) bool {
	v, _ := o.api.BooleanValue(context.Background(), key, def, o.user)
	return v
}

func (o *openFeature) All() int {
	for _, key := range o.keys {
		o.Bool(key, false)
	}
	return len(o.keys)
}

func (o *openFeature) Events() (recorded, dropped uint64, ok bool) { return 0, 0, false }

func (o *openFeature) Close() { openfeature.Shutdown() }
