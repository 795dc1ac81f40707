package wire

import (
	"encoding/json"
	"fmt"

	"github.com/flagstead/flagstead/store"
)

// The event types of what a relay proxy gets. It gets plain patches, too, whose items
// name their environment, see [EnvID].
const (
	RelayFull  = "rp_full"
	RelayPatch = "rp_patch"
)

// A RelayEnvironment is what a relay proxy gets of one environment.
type RelayEnvironment struct {
	EnvID   string
	Secrets []RelaySecret // empty in a patch
	Data    DataSync      // its EventType is Full or Patch
}

// A RelaySecret is one secret of an environment.
type RelaySecret struct {
	Type       string `json:"type"` // server or client
	ProjectKey string `json:"projectKey"`
	EnvKey     string `json:"envKey"`
	Value      string `json:"value"`
}

// EventType returns the eventType of a data-sync payload, or "" if it has none.
func EventType(payload []byte) string {
	var head struct {
		EventType string `json:"eventType"`
	}
	if json.Unmarshal(payload, &head) != nil {
		return ""
	}
	return head.EventType
}

// ParseRelay decodes the payload of an rp_full or an rp_patch. It does not look at
// the eventType, which documents for FeatBit's agent need not have right; full says
// what it is. An environment without an id is an error, since it is nobody's. The
// parts of one environment that comes twice, as one with two secrets does, are put
// together.
func ParseRelay(payload []byte, full bool) ([]RelayEnvironment, error) {
	var doc struct {
		Items *[]struct {
			EnvID        string            `json:"envId"`
			Secrets      []RelaySecret     `json:"secrets"`
			FeatureFlags []json.RawMessage `json:"featureFlags"`
			Segments     []json.RawMessage `json:"segments"`
		} `json:"items"`
	}
	if err := json.Unmarshal(payload, &doc); err != nil {
		return nil, Locate(payload, err)
	}
	if doc.Items == nil {
		return nil, fmt.Errorf("%w: no items member", ErrNotDataSync)
	}
	var envs []RelayEnvironment
	at := map[string]int{}
	for i, w := range *doc.Items {
		if w.EnvID == "" {
			return nil, fmt.Errorf("%w: item number %d has no envId", ErrNotDataSync, i+1)
		}
		n, known := at[w.EnvID]
		if !known {
			n = len(envs)
			at[w.EnvID] = n
			eventType := Patch
			if full {
				eventType = Full
			}
			envs = append(envs, RelayEnvironment{EnvID: w.EnvID, Data: DataSync{EventType: eventType}})
		}
		e := &envs[n]
		e.Secrets = append(e.Secrets, w.Secrets...)
		e.Data.add(store.Flag, w.FeatureFlags)
		e.Data.add(store.Segment, w.Segments)
	}
	return envs, nil
}

// EnvID returns the environment that an item's JSON names, or "".
func EnvID(data []byte) string {
	var head struct {
		EnvID string `json:"envId"`
	}
	if json.Unmarshal(data, &head) != nil {
		return ""
	}
	return head.EnvID
}
