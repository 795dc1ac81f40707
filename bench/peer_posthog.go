package bench

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/posthog/posthog-go"
)

func init() {
	register(Peer{
		Name: "posthog", Title: "PostHog", Module: "github.com/posthog/posthog-go",
		Document: postHogFlags, Open: openPostHog, NoDefault: true,
		Note: "evaluated locally; it reports each user and flag only once, and its calls take no default",
	})
}

// postHogFlags returns flags as PostHog's endpoint for local evaluation does.
func postHogFlags(flags []Flag) []byte {
	type m = map[string]any
	list := make([]m, len(flags))
	for i, f := range flags {
		percent := 100
		property := func(key, op string, value any) m {
			return m{"key": key, "operator": op, "value": value, "type": "person"}
		}
		properties := []m{}
		switch f.Kind {
		case Targets:
			properties = []m{property("id", "exact", UserKeys(NumTargets))}
		case Rule:
			properties = []m{property("country", "exact", Country), property("age", "gt", AgeAbove), property("plan", "exact", Plans)}
		case Rollout:
			percent = 50
		case Segment:
			properties = []m{{"key": "id", "type": "cohort", "value": 1}}
		case Regex:
			properties = []m{property("email", "regex", Pattern)}
		}
		list[i] = m{
			"id": i, "team_id": 1, "name": f.Name, "key": f.Key, "active": true, "deleted": false, "ensure_experience_continuity": false,
			"filters": m{"groups": []m{{"properties": properties, "rollout_percentage": percent, "variant": nil}}, "payloads": m{}, "multivariate": nil},
		}
	}
	return mustJSON(m{"flags": list, "group_type_mapping": m{}, "cohorts": m{"1": m{"type": "OR", "values": []m{
		{"key": "id", "operator": "exact", "value": UserKeys(NumMembers), "type": "person"},
	}}}})
}

type postHog struct {
	client posthog.Client
	user   posthog.FeatureFlagPayload
}

type silent struct{}

func (silent) Debugf(string, ...any) {}
func (silent) Logf(string, ...any)   {}
func (silent) Warnf(string, ...any)  {}
func (silent) Errorf(string, ...any) {}

func openPostHog(document []byte, events bool) (Session, error) {
	transport := server(func(r *http.Request) *http.Response {
		if strings.Contains(r.URL.Path, "local_evaluation") {
			return answer(r, http.StatusOK, document)
		}
		return answer(r, http.StatusOK, []byte("{}"))
	})
	client, err := posthog.NewWithConfig("phc_key", posthog.Config{
		PersonalApiKey: "phx_key", Transport: transport, Logger: silent{}, DefaultFeatureFlagsPollingInterval: 24 * time.Hour,
	})
	if err != nil {
		return nil, fmt.Errorf("posthog: %w", err)
	}
	p := &postHog{client, posthog.FeatureFlagPayload{
		DistinctId: TheUser.Key, OnlyEvaluateLocally: true, SendFeatureFlagEvents: &events,
		Groups: posthog.Groups{}, GroupProperties: map[string]posthog.Properties{},
		PersonProperties: posthog.Properties{
			"id": TheUser.Key, "name": TheUser.Name, "country": TheUser.Country, "age": TheUser.Age, "plan": TheUser.Plan, "email": TheUser.Email,
		},
	}}
	if _, err := client.GetFeatureFlags(); err != nil { // waits for them
		return nil, fmt.Errorf("posthog: %w", err)
	}
	return p, nil
}

func (p *postHog) Bool(key string, _ bool) bool {
	call := p.user
	call.Key = key
	v, err := p.client.IsFeatureEnabled(call)
	return err == nil && v == true
}

func (p *postHog) All() int {
	all, err := p.client.GetAllFlags(posthog.FeatureFlagPayloadNoKey{
		DistinctId: p.user.DistinctId, OnlyEvaluateLocally: true, SendFeatureFlagEvents: p.user.SendFeatureFlagEvents,
		Groups: p.user.Groups, GroupProperties: p.user.GroupProperties, PersonProperties: p.user.PersonProperties,
	})
	if err != nil {
		return 0
	}
	return len(all)
}

func (p *postHog) Events() (recorded, dropped uint64, ok bool) { return 0, 0, false }

func (p *postHog) Close() { _ = p.client.Close() }
