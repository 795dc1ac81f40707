package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/flagstead/flagstead/store"
)

// The event types that only a connection with a relay-proxy key gets.
const (
	ProxyFull  = "rp_full"
	ProxyPatch = "rp_patch"
)

// A ProxySync is a decoded data-sync payload of a connection with a relay-proxy
// key, split by environment.
type ProxySync struct {
	EventType string // ProxyFull, ProxyPatch or Patch
	Envs      []EnvSync

	// Skipped has one error per item or environment that could not be used.
	Skipped []error

	// Unusable has the ids of environments of a ProxyFull that are there, but whose
	// data cannot be read.
	Unusable []string
}

// An EnvSync is what a ProxySync has of one environment.
type EnvSync struct {
	EnvID   string // in lower case; not checked otherwise
	Secrets []ProxySecret
	Items   []store.Item
}

// A ProxySecret is one secret of an environment. It must not be printed.
type ProxySecret struct {
	Type       string `json:"type"` // "server" or "client"
	ProjectKey string `json:"projectKey"`
	EnvKey     string `json:"envKey"`
	Value      string `json:"value"`
}

type proxyPayload struct {
	EventType    string             `json:"eventType"`
	Items        *[]json.RawMessage `json:"items"`
	FeatureFlags *[]json.RawMessage `json:"featureFlags"`
	Segments     *[]json.RawMessage `json:"segments"`
}

type proxyItem struct {
	EnvID        string             `json:"envId"`
	Secrets      []json.RawMessage  `json:"secrets"`
	FeatureFlags *[]json.RawMessage `json:"featureFlags"`
	Segments     *[]json.RawMessage `json:"segments"`
}

// ParseProxyPayload decodes the data member of a data-sync document of a
// connection with a relay-proxy key. Several entries of one environment become one.
// Only the document's own shape makes it an error, one that wraps ErrNotDataSync or
// is a *SyntaxError.
func ParseProxyPayload(text []byte) (ProxySync, error) {
	var p proxyPayload
	if err := json.Unmarshal(text, &p); err != nil {
		return ProxySync{}, Locate(text, err)
	}
	b := proxyBuilder{ProxySync: ProxySync{EventType: p.EventType}, index: map[string]int{}}
	switch p.EventType {
	case Patch:
		if p.FeatureFlags == nil || p.Segments == nil {
			return ProxySync{}, fmt.Errorf("%w: a patch without featureFlags or segments", ErrNotDataSync)
		}
		b.route(store.Flag, *p.FeatureFlags)
		b.route(store.Segment, *p.Segments)
	case ProxyFull, ProxyPatch:
		if p.Items == nil {
			return ProxySync{}, fmt.Errorf("%w: no items member", ErrNotDataSync)
		}
		for i, raw := range *p.Items {
			if err := b.entry(raw); err != nil {
				b.Skipped = append(b.Skipped, fmt.Errorf("environment number %d: %w", i+1, err))
			}
		}
	default:
		return ProxySync{}, fmt.Errorf("%w: eventType is %q, want %q, %q or %q", ErrNotDataSync, p.EventType, ProxyFull, ProxyPatch, Patch)
	}
	return b.ProxySync, nil
}

type proxyBuilder struct {
	ProxySync
	index map[string]int // in Envs, by id
}

func (b *proxyBuilder) env(id string) *EnvSync {
	id = strings.ToLower(id)
	i, ok := b.index[id]
	if !ok {
		i = len(b.Envs)
		b.index[id] = i
		b.Envs = append(b.Envs, EnvSync{EnvID: id})
	}
	return &b.Envs[i]
}

// entry takes one environment of a full or a patch.
func (b *proxyBuilder) entry(raw []byte) error {
	var it proxyItem
	if err := json.Unmarshal(raw, &it); err != nil {
		var head struct {
			EnvID string `json:"envId"`
		}
		// Another member than envId may be the odd one.
		_ = json.Unmarshal(raw, &head)
		b.unusable(head.EnvID)
		return errors.New(InWords(err))
	}
	switch {
	case it.EnvID == "":
		b.unusable("")
		return errors.New("no envId")
	case it.FeatureFlags == nil || it.Segments == nil:
		b.unusable(it.EnvID)
		return fmt.Errorf("%s: no featureFlags or no segments member", it.EnvID)
	}
	env := b.env(it.EnvID)
	d := DataSync{}
	d.add(store.Flag, *it.FeatureFlags)
	d.add(store.Segment, *it.Segments)
	env.Items = append(env.Items, d.Items...)
	b.Skipped = append(b.Skipped, d.Skipped...)
	for i, raw := range it.Secrets {
		var s ProxySecret
		if err := json.Unmarshal(raw, &s); err != nil || s.Value == "" {
			b.Skipped = append(b.Skipped, fmt.Errorf("secret number %d of %s cannot be read", i+1, it.EnvID))
			continue
		}
		env.Secrets = append(env.Secrets, s)
	}
	return nil
}

func (b *proxyBuilder) unusable(id string) {
	b.Unusable = append(b.Unusable, strings.ToLower(id))
}

// route takes the items of a push, each of which says what environment it is of.
func (b *proxyBuilder) route(kind store.Kind, list []json.RawMessage) {
	for i, raw := range list {
		it, err := ParseItem(kind, raw)
		var head struct {
			EnvID string `json:"envId"`
		}
		if err == nil && (json.Unmarshal(raw, &head) != nil || head.EnvID == "") {
			err = errors.New(`"envId" is missing or not a text`)
		}
		if err != nil {
			b.Skipped = append(b.Skipped, fmt.Errorf("%s number %d: %w", kind, i+1, err))
			continue
		}
		env := b.env(head.EnvID)
		env.Items = append(env.Items, it)
	}
}
