package bench

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	growthbook "github.com/growthbook/growthbook-golang"
)

func init() {
	register(Peer{
		Name: "growthbook", Title: "GrowthBook", Module: "github.com/growthbook/growthbook-golang",
		Document: growthBookFeatures, Open: openGrowthBook,
		Note: "events are those of its tracking plugin",
	})
}

// growthBookFeatures returns flags as GrowthBook's features endpoint does.
func growthBookFeatures(flags []Flag) []byte {
	type m = map[string]any
	features := m{}
	for _, f := range flags {
		feature := m{"defaultValue": f.Kind == Boolean}
		force := func(condition m) {
			feature["rules"] = []m{{"id": "fr_" + uuid(f.Key, "rule"), "condition": condition, "force": true}}
		}
		switch f.Kind {
		case Targets:
			force(m{"id": m{"$in": UserKeys(NumTargets)}})
		case Rule:
			force(m{"country": Country, "age": m{"$gt": AgeAbove}, "plan": m{"$in": Plans}})
		case Rollout:
			feature["rules"] = []m{{"id": "fr_" + uuid(f.Key, "rule"), "force": true, "coverage": 0.5, "hashAttribute": "id"}}
		case Segment:
			force(m{"id": m{"$inGroup": SegmentKey}})
		case Regex:
			force(m{"email": m{"$regex": Pattern}})
		}
		features[f.Key] = feature
	}
	return mustJSON(m{
		"status": 200, "features": features, "dateUpdated": "2025-06-01T10:00:00.000Z", "savedGroups": m{SegmentKey: UserKeys(NumMembers)},
	})
}

type growthBook struct {
	client, user *growthbook.Client // user is the client with TheUser's attributes, as its documentation has it
}

func openGrowthBook(document []byte, events bool) (Session, error) {
	transport := server(func(r *http.Request) *http.Response {
		if strings.Contains(r.URL.Path, "/api/features/") {
			return answer(r, http.StatusOK, document)
		}
		return answer(r, http.StatusOK, []byte("{}"))
	})
	options := []growthbook.ClientOption{
		growthbook.WithClientKey("sdk-key"),
		growthbook.WithHttpClient(transport.client()),
		growthbook.WithLogger(slog.New(slog.DiscardHandler)),
		growthbook.WithPollDataSource(24 * time.Hour),
	}
	if events {
		options = append(options, growthbook.WithGrowthBookTracking(growthbook.TrackingPluginConfig{}))
	}
	client, err := growthbook.NewClient(context.Background(), options...)
	if err != nil {
		return nil, fmt.Errorf("growthbook: %w", err)
	}
	if err := client.EnsureLoaded(context.Background()); err != nil {
		return nil, fmt.Errorf("growthbook: %w", err)
	}
	user, err := client.WithAttributes(growthbook.Attributes{
		"id": TheUser.Key, "name": TheUser.Name, "country": TheUser.Country, "age": TheUser.Age, "plan": TheUser.Plan, "email": TheUser.Email,
	})
	if err != nil {
		return nil, fmt.Errorf("growthbook: %w", err)
	}
	return &growthBook{client, user}, nil
}

func (g *growthBook) Bool(key string, def bool) bool {
	res := g.user.EvalFeature(context.Background(), key)
	if res.Value == nil {
		return def
	}
	return res.On
}

func (g *growthBook) All() int {
	n := 0
	for key := range g.user.Features() {
		if g.user.EvalFeature(context.Background(), key).Value != nil {
			n++
		}
	}
	return n
}

func (g *growthBook) Events() (recorded, dropped uint64, ok bool) { return 0, 0, false }

func (g *growthBook) Close() { _ = g.client.Close() }
