package bench

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"time"

	statsig "github.com/statsig-io/go-sdk"
)

func init() {
	register(Peer{
		Name: "statsig", Title: "Statsig", Module: "github.com/statsig-io/go-sdk",
		Document: statsigSpecs, Open: openStatsig, NoDefault: true,
		Note: "a gate that it does not know is false, its calls take no default",
	})
}

// statsigSpecs returns flags as Statsig's endpoint for config specs does.
func statsigSpecs(flags []Flag) []byte {
	type m = map[string]any
	gates := make([]m, len(flags))
	for i, f := range flags {
		condition := func(kind, op, field string, target any) m {
			return m{"type": kind, "operator": op, "field": field, "targetValue": target, "additionalValues": m{}, "idType": "userID", "isDeviceBased": false}
		}
		percent, conditions := 100, []m{condition("public", "", "", nil)}
		switch f.Kind {
		case Targets:
			conditions = []m{condition("unit_id", "any", "", UserKeys(NumTargets))}
		case Rule:
			conditions = []m{condition("user_field", "any", "country", []string{Country}), condition("user_field", "gt", "age", AgeAbove), condition("user_field", "any", "plan", Plans)}
		case Rollout:
			percent = 50
		case Segment:
			conditions = []m{condition("unit_id", "in_segment_list", "", SegmentKey)}
		case Regex:
			conditions = []m{condition("user_field", "str_matches", "email", Pattern)}
		}
		gates[i] = m{
			"name": f.Key, "type": "feature_gate", "salt": uuid(f.Key, "salt"), "enabled": true, "defaultValue": false, "idType": "userID", "entity": "feature_gate",
			"rules": []m{{
				"name": "rule", "groupName": "rule", "id": uuid(f.Key, "rule"), "salt": uuid(f.Key, "rule salt"), "passPercentage": percent,
				"conditions": conditions, "returnValue": true, "idType": "userID",
			}},
		}
	}
	return mustJSON(m{"has_updates": true, "time": 1748772000000, "feature_gates": gates, "dynamic_configs": []m{}, "layer_configs": []m{}, "layers": m{}, "id_lists": m{SegmentKey: true}})
}

// statsigMembers returns the segment as the file that Statsig serves for an ID list.
func statsigMembers() []byte {
	var b strings.Builder
	for _, key := range UserKeys(NumMembers) {
		hash := sha256.Sum256([]byte(key))
		b.WriteString("+" + base64.StdEncoding.EncodeToString(hash[:])[:8] + "\n")
	}
	return []byte(b.String())
}

type statsigGates struct {
	check  func(statsig.User, string) bool
	client *statsig.Client
	user   statsig.User
}

var statsigList = statsigMembers()

func openStatsig(document []byte, events bool) (Session, error) {
	transport := server(func(r *http.Request) *http.Response {
		switch path := r.URL.Path; {
		case strings.Contains(path, "download_config_specs"):
			return answer(r, http.StatusOK, document)
		case strings.HasSuffix(path, "/get_id_lists"):
			return answer(r, http.StatusOK, mustJSON(map[string]any{SegmentKey: map[string]any{
				"name": SegmentKey, "size": len(statsigList), "creationTime": 1, "url": "http://lists.invalid/members", "fileID": "1",
			}}))
		case strings.HasSuffix(path, "/members"):
			return answer(r, http.StatusOK, statsigList)
		}
		return answer(r, http.StatusAccepted, []byte("{}"))
	})
	client, details := statsig.NewClientWithDetails("secret-key", &statsig.Options{
		Transport:            transport,
		ConfigSyncInterval:   24 * time.Hour,
		IDListSyncInterval:   24 * time.Hour,
		OutputLoggerOptions:  statsig.OutputLoggerOptions{LogCallback: func(string, error) {}},
		StatsigLoggerOptions: statsig.StatsigLoggerOptions{DisableInitDiagnostics: true, DisableSyncDiagnostics: true, DisableApiDiagnostics: true},
		IPCountryOptions:     statsig.IPCountryOptions{Disabled: true},
		UAParserOptions:      statsig.UAParserOptions{Disabled: true},
	})
	if !details.Success {
		return nil, errors.Join(errors.New("statsig did not start"), details.Error)
	}
	s := &statsigGates{check: client.CheckGate, client: client, user: statsig.User{
		UserID: TheUser.Key, Email: TheUser.Email, Country: TheUser.Country, Custom: map[string]any{"age": TheUser.Age, "plan": TheUser.Plan, "name": TheUser.Name},
	}}
	if !events {
		s.check = client.CheckGateWithExposureLoggingDisabled
	}
	return s, nil
}

func (s *statsigGates) Bool(key string, _ bool) bool { return s.check(s.user, key) }

func (s *statsigGates) All() int {
	return len(s.client.GetClientInitializeResponse(s.user, "", false).FeatureGates)
}

func (s *statsigGates) Events() (recorded, dropped uint64, ok bool) { return 0, 0, false }

func (s *statsigGates) Close() { s.client.Shutdown() }
