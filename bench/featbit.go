package bench

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
)

// featBit returns flags as FeatBit's evaluation server sends them, all members
// included.
func featBit(flags []Flag) []byte {
	type m = map[string]any
	list := make([]m, len(flags))
	for i, f := range flags {
		on, off := uuid(f.Key, "on"), uuid(f.Key, "off")
		serve := func(id string) m {
			return m{"dispatchKey": nil, "includedInExpt": true, "variations": []m{{"id": id, "rollout": []int{0, 1}, "exptRollout": 1}}}
		}
		flag := m{
			"id": uuid(f.Key, "flag"), "envId": uuid("env", ""), "createdAt": "2025-03-01T09:30:00.123Z", "updatedAt": "2025-06-01T10:00:00.000Z",
			"creatorId": uuid("creator", ""), "updatorId": uuid("updator", ""), "revision": uuid(f.Key, "revision"),
			"name": f.Name, "description": "One of the flags that the benchmarks load", "key": f.Key, "tags": []string{"bench", string(f.Kind)},
			"variationType": "boolean", "variations": []m{{"id": on, "name": "On", "value": "true"}, {"id": off, "name": "Off", "value": "false"}},
			"isEnabled": true, "isArchived": false, "disabledVariationId": off, "exptIncludeAllTargets": false,
			"targetUsers": []m{}, "rules": []m{}, "fallthrough": serve(off),
		}
		rule := func(conditions ...m) {
			r := serve(on)
			r["id"], r["name"], r["conditions"] = uuid(f.Key, "rule"), "Rule 1", conditions
			flag["rules"] = []m{r}
		}
		condition := func(property, op, value string) m {
			return m{"id": uuid(f.Key, property), "property": property, "op": op, "value": value}
		}
		switch f.Kind {
		case Boolean:
			flag["fallthrough"] = serve(on)
		case Targets:
			flag["targetUsers"] = []m{{"keyIds": UserKeys(NumTargets), "variationId": on}}
		case Rule:
			rule(condition("country", "Equal", Country), condition("age", "BiggerThan", fmt.Sprint(AgeAbove)), condition("plan", "IsOneOf", string(mustJSON(Plans))))
		case Rollout:
			flag["fallthrough"] = m{"dispatchKey": nil, "includedInExpt": false, "variations": []m{
				{"id": on, "rollout": []float64{0, 0.5}, "exptRollout": 0}, {"id": off, "rollout": []float64{0.5, 1}, "exptRollout": 0},
			}}
		case Segment:
			rule(condition("User is in segment", "", string(mustJSON([]string{SegmentKey}))))
		case Regex:
			rule(condition("email", "MatchRegex", Pattern))
		}
		list[i] = flag
	}
	return mustJSON(m{"messageType": "data-sync", "data": m{"eventType": "full", "featureFlags": list, "segments": []m{{
		"id": SegmentKey, "envId": uuid("env", ""), "name": "Members", "createdAt": "2025-03-01T09:30:00.123Z", "updatedAt": "2025-06-01T10:00:00.000Z",
		"included": UserKeys(NumMembers), "excluded": []string{}, "rules": []m{}, "isArchived": false,
	}}}})
}

// uuid returns an identifier that looks like those of FeatBit.
func uuid(of, what string) string {
	h := fnv.New128a()
	h.Write([]byte(of + "/" + what))
	b := h.Sum(nil)
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func mustJSON(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // only values that can be encoded are given
	}
	return text
}
