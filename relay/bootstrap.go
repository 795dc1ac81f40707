package relay

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
)

// A bootstrapDocument is what FeatBit's platform sends to its agents, and what they
// answer when asked for a backup.
type bootstrapDocument struct {
	EventType *json.RawMessage `json:"eventType"`
	Items     *[]struct {
		EnvID   string `json:"envId"`
		Secrets []struct {
			Type       string `json:"type"`
			ProjectKey string `json:"projectKey"`
			EnvKey     string `json:"envKey"`
			Value      string `json:"value"`
		} `json:"secrets"`
		Flags    *[]json.RawMessage `json:"featureFlags"`
		Segments *[]json.RawMessage `json:"segments"`
	} `json:"items"`
}

// parseBootstrap reads a bootstrap. One that is odd in any place is an error, because it
// is to replace everything. Errors say where, but repeat no secret.
func parseBootstrap(text []byte) ([]BootstrapEnv, error) {
	var doc bootstrapDocument
	if err := json.Unmarshal(text, &doc); err != nil {
		if syntax, ok := errors.AsType[*wire.SyntaxError](wire.Locate(text, err)); ok {
			return nil, syntax
		}
		return nil, errors.New(wire.InWords(err))
	}
	switch {
	case doc.EventType == nil:
		return nil, errors.New("no eventType member")
	case doc.Items == nil:
		return nil, errors.New("no items member")
	}
	envs := make([]BootstrapEnv, len(*doc.Items))
	seen := map[string]bool{}
	secrets := map[Secret]bool{}
	for i, in := range *doc.Items {
		e := &envs[i]
		var err error
		if e.ID, err = protocol.EnvID(in.EnvID); err != nil {
			return nil, fmt.Errorf("items[%d]: envId: %w", i, err)
		}
		if seen[e.ID] {
			return nil, fmt.Errorf("items[%d]: the environment %s is there twice", i, e.ID)
		}
		seen[e.ID] = true
		for j, s := range in.Secrets {
			value := Secret(s.Value)
			if _, err := value.EnvID(); err != nil {
				return nil, fmt.Errorf("items[%d]: secrets[%d]: %w", i, j, err)
			}
			if secrets[value] {
				return nil, fmt.Errorf("items[%d]: secrets[%d]: it is there twice", i, j)
			}
			secrets[value] = true
			switch kind(s.Type) {
			case server:
				e.Secrets = append(e.Secrets, value)
			case client:
				e.ClientSecrets = append(e.ClientSecrets, value)
			default:
				return nil, fmt.Errorf("items[%d]: secrets[%d]: type is %q, want %q or %q", i, j, s.Type, server, client)
			}
			if e.Name == "" && (s.ProjectKey != "" || s.EnvKey != "") {
				e.Name = s.ProjectKey + ":" + s.EnvKey
				if s.ProjectKey == "" {
					e.Name = s.EnvKey
				}
			}
		}
		if in.Flags == nil || in.Segments == nil {
			return nil, fmt.Errorf("items[%d]: want featureFlags and segments", i)
		}
		e.Items = make([]store.Item, 0, len(*in.Flags)+len(*in.Segments))
		ids := map[store.ID]bool{}
		for _, list := range []struct {
			kind   store.Kind
			member string
			raw    []json.RawMessage
		}{{store.Flag, "featureFlags", *in.Flags}, {store.Segment, "segments", *in.Segments}} {
			for j, raw := range list.raw {
				it, err := bootstrapItem(list.kind, raw, e.ID)
				if err == nil && ids[it.ID()] {
					err = fmt.Errorf("%q is there twice", it.Key)
				}
				if err != nil {
					return nil, fmt.Errorf("items[%d]: %s[%d]: %w", i, list.member, j, err)
				}
				ids[it.ID()] = true
				e.Items = append(e.Items, it)
			}
		}
	}
	return envs, nil
}

// bootstrapItem reads an item. What FeatBit sends names its environment; what comes from
// other stores need not.
func bootstrapItem(kind store.Kind, raw []byte, env string) (store.Item, error) {
	it, err := wire.ParseItem(kind, raw)
	if err != nil {
		return it, err
	}
	var of struct {
		EnvID json.RawMessage `json:"envId"`
	}
	if err := json.Unmarshal(raw, &of); err != nil {
		return it, errors.New(wire.InWords(err))
	}
	var named string
	if json.Unmarshal(of.EnvID, &named) == nil && named != "" {
		if id, err := protocol.EnvID(named); err == nil && id != env {
			return it, fmt.Errorf("%q is of the environment %s", it.Key, id)
		}
	}
	return it, nil
}
