package bench

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/launchdarkly/go-sdk-common/v3/ldcontext"
	ld "github.com/launchdarkly/go-server-sdk/v7"
	"github.com/launchdarkly/go-server-sdk/v7/ldcomponents"
)

func init() {
	register(Peer{
		Name: "launchdarkly", Title: "LaunchDarkly", Module: "github.com/launchdarkly/go-server-sdk/v7",
		Document: launchDarklyFlags, Open: openLaunchDarkly,
		Note: "its events are summed up per flag before they are sent, unless a flag is tracked",
	})
}

// launchDarklyFlags returns flags as LaunchDarkly's polling endpoint does.
func launchDarklyFlags(flags []Flag) []byte {
	type m = map[string]any
	all := m{}
	for i, f := range flags {
		flag := m{
			"key": f.Key, "version": 17, "on": true, "salt": uuid(f.Key, "salt"), "sel": uuid(f.Key, "sel"), "prerequisites": []m{},
			"targets": []m{}, "rules": []m{}, "fallthrough": m{"variation": 1}, "offVariation": 1, "variations": []bool{true, false},
			"clientSide": false, "trackEvents": false, "trackEventsFallthrough": false, "debugEventsUntilDate": nil, "deleted": false,
		}
		rule := func(clauses ...m) {
			flag["rules"] = []m{{"id": uuid(f.Key, "rule"), "variation": 0, "clauses": clauses, "trackEvents": false}}
		}
		clause := func(attribute, op string, values ...any) m {
			return m{"attribute": attribute, "op": op, "values": values, "negate": false, "contextKind": "user"}
		}
		switch f.Kind {
		case Boolean:
			flag["fallthrough"] = m{"variation": 0}
		case Targets:
			flag["targets"] = []m{{"values": UserKeys(NumTargets), "variation": 0}}
		case Rule:
			rule(clause("country", "in", Country), clause("age", "greaterThan", AgeAbove), clause("plan", "in", Plans[0], Plans[1]))
		case Rollout:
			flag["fallthrough"] = m{"rollout": m{"contextKind": "user", "variations": []m{{"variation": 0, "weight": 50_000}, {"variation": 1, "weight": 50_000}}}}
		case Segment:
			rule(clause("", "segmentMatch", SegmentKey))
		case Regex:
			rule(clause("email", "matches", Pattern))
		}
		all[flags[i].Key] = flag
	}
	return mustJSON(m{"flags": all, "segments": m{SegmentKey: m{
		"key": SegmentKey, "version": 3, "included": UserKeys(NumMembers), "excluded": []string{}, "rules": []m{}, "salt": uuid("segment", "salt"), "deleted": false,
	}}})
}

type launchDarkly struct {
	client  *ld.LDClient
	context ldcontext.Context
}

func openLaunchDarkly(document []byte, events bool) (Session, error) {
	transport := server(func(r *http.Request) *http.Response {
		if strings.HasSuffix(r.URL.Path, "/latest-all") {
			return answer(r, http.StatusOK, document)
		}
		return answer(r, http.StatusAccepted, []byte("{}"))
	})
	cfg := ld.Config{
		DataSource:       ldcomponents.PollingDataSource().PollInterval(24 * time.Hour),
		HTTP:             ldcomponents.HTTPConfiguration().HTTPClientFactory(transport.client),
		Logging:          ldcomponents.NoLogging(),
		DiagnosticOptOut: true,
	}
	if !events {
		cfg.Events = ldcomponents.NoEvents()
	}
	client, err := ld.MakeCustomClient("sdk-key", cfg, time.Minute)
	if err != nil {
		return nil, fmt.Errorf("launchdarkly: %w", err)
	}
	user := ldcontext.NewBuilder(TheUser.Key).Name(TheUser.Name).SetString("country", TheUser.Country).
		SetInt("age", TheUser.Age).SetString("plan", TheUser.Plan).SetString("email", TheUser.Email).Build()
	return &launchDarkly{client, user}, nil
}

func (l *launchDarkly) Bool(key string, def bool) bool {
	v, _ := l.client.BoolVariation(key, l.context, def)
	return v
}

func (l *launchDarkly) All() int { return len(l.client.AllFlagsState(l.context).ToValuesMap()) }

func (l *launchDarkly) Events() (recorded, dropped uint64, ok bool) { return 0, 0, false }

func (l *launchDarkly) Close() { _ = l.client.Close() }
