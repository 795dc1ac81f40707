package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/flagstead/flagstead/examples/sample"
	"github.com/flagstead/flagstead/internal/wire"
)

// stepKey is a flag that the demo adds: its value names the step that the flags
// are at and when the file was written.
const stepKey = "demo-step"

type stepValue struct {
	Step int   `json:"step"`
	At   int64 `json:"at"` // Unix nanoseconds
}

// A flip is one change of the flags file.
type flip struct {
	what string
	do   func(d *demoDoc)
}

// flips are the demo's changes, in order: every kind that a FeatBit user makes.
var flips = []flip{
	{"new-checkout off", func(d *demoDoc) { d.flag("new-checkout")["isEnabled"] = false }},
	{"maintenance on", func(d *demoDoc) { d.flag("maintenance")["isEnabled"] = true }},
	{"dark-mode for everybody", func(d *demoDoc) { d.serve("dark-mode", 0) }},
	{"u-9 joins the beta testers", func(d *demoDoc) { d.segment("Beta testers")["excluded"] = []any{} }},
	{"page-size 50 instead of 20", func(d *demoDoc) { d.value("page-size", 0, "50") }},
	{"new-checkout on", func(d *demoDoc) { d.flag("new-checkout")["isEnabled"] = true }},
	{"new-checkout to 60 %", func(d *demoDoc) { d.rollout("new-checkout", 0.6) }},
	{"banner archived", func(d *demoDoc) { d.flag("banner")["isArchived"] = true }},
	{"maintenance off", func(d *demoDoc) { d.flag("maintenance")["isEnabled"] = false }},
	{"eu-privacy for everybody", func(d *demoDoc) { d.serve("eu-privacy", 0) }},
	{"u-1 and u-2 blocked", func(d *demoDoc) { d.segment("Blocked")["included"] = []any{"u-1", "u-2"} }},
	{"banner restored", func(d *demoDoc) { d.flag("banner")["isArchived"] = false }},
	{"limits raised", func(d *demoDoc) { d.value("limits", 0, `{"perMinute":120,"burst":20}`) }},
	{"search-engine: vector", func(d *demoDoc) { d.serve("search-engine", 1) }},
	{"dark-mode back to the rule", func(d *demoDoc) { d.serve("dark-mode", 1) }},
	{"discount without rules", func(d *demoDoc) { d.flag("discount")["rules"] = []any{} }},
	{"new-checkout to 100 %", func(d *demoDoc) { d.serve("new-checkout", 0) }},
	{"nobody blocked", func(d *demoDoc) { d.segment("Blocked")["included"] = []any{} }},
	{"banner text", func(d *demoDoc) { d.value("banner", 1, `{"show":true,"text":"Last day"}`) }},
	{"adult-content off", func(d *demoDoc) { d.flag("adult-content")["isEnabled"] = false }},
}

// A demoDoc is the flags file in the making.
type demoDoc struct {
	flags    map[string]map[string]any
	segments map[string]map[string]any // by name
	keys     []string                  // of flags, in order
	names    []string                  // of segments, in order
	updated  string                    // updatedAt of what is touched now
	step     stepValue
	err      error
}

func newDemoDoc() (*demoDoc, error) {
	var doc struct {
		Data struct {
			FeatureFlags []map[string]any `json:"featureFlags"`
			Segments     []map[string]any `json:"segments"`
		} `json:"data"`
	}
	if err := json.Unmarshal(sample.Flags, &doc); err != nil {
		return nil, err
	}
	d := &demoDoc{flags: map[string]map[string]any{}, segments: map[string]map[string]any{}}
	for _, f := range doc.Data.FeatureFlags {
		key := fmt.Sprint(f["key"])
		d.flags[key], d.keys = f, append(d.keys, key)
	}
	for _, s := range doc.Data.Segments {
		name := fmt.Sprint(s["name"])
		d.segments[name], d.names = s, append(d.names, name)
	}
	d.step.At = time.Now().UnixNano()
	d.updated = wire.FormatMillis(time.Now().UnixMilli())
	return d, nil
}

// apply makes flip number step, counted from 1, at the given time.
func (d *demoDoc) apply(step int, at time.Time) error {
	d.step = stepValue{Step: step, At: at.UnixNano()}
	d.updated = wire.FormatMillis(at.UnixMilli())
	flips[step-1].do(d)
	return d.err
}

func (d *demoDoc) flag(key string) map[string]any { return d.touch(d.flags[key], key) }

func (d *demoDoc) segment(name string) map[string]any { return d.touch(d.segments[name], name) }

func (d *demoDoc) touch(item map[string]any, name string) map[string]any {
	if item == nil {
		d.err = fmt.Errorf("the sample has no %q", name)
		return map[string]any{}
	}
	item["updatedAt"] = d.updated
	return item
}

// serve gives variation number n to everybody that no rule matches.
func (d *demoDoc) serve(key string, n int) { d.slices(key, [][3]float64{{float64(n), 0, 1}}) }

// rollout gives the first variation to a share of the users and the second to
// the others.
func (d *demoDoc) rollout(key string, share float64) {
	d.slices(key, [][3]float64{{0, 0, share}, {1, share, 1}})
}

func (d *demoDoc) slices(key string, list [][3]float64) {
	f := d.flag(key)
	variations, _ := f["variations"].([]any)
	var out []any
	for _, s := range list {
		v, ok := variations[int(s[0])].(map[string]any)
		if !ok {
			d.err = fmt.Errorf("the sample's %q has no variation %v", key, s[0])
			return
		}
		out = append(out, map[string]any{"id": v["id"], "rollout": []float64{s[1], s[2]}, "exptRollout": 1})
	}
	f["fallthrough"] = map[string]any{"dispatchKey": nil, "includedInExpt": false, "variations": out}
}

func (d *demoDoc) value(key string, n int, value string) {
	variations, _ := d.flag(key)["variations"].([]any)
	if n < len(variations) {
		if v, ok := variations[n].(map[string]any); ok {
			v["value"] = value
			return
		}
	}
	d.err = fmt.Errorf("the sample's %q has no variation %d", key, n)
}

// text returns the document, with the flag that names the step.
func (d *demoDoc) text() ([]byte, error) {
	value, err := json.Marshal(d.step)
	if err != nil {
		return nil, err
	}
	flags := []any{map[string]any{
		"id": "1d6b8e0c-52a1-4c9e-8a6f-0e6d3f4b7a21", "key": stepKey, "name": "Demo step", "variationType": "json",
		"variations":  []any{map[string]any{"id": "5c1d9f2e-7b34-4d88-9c55-b1a0c2d3e4f5", "name": "now", "value": string(value)}},
		"targetUsers": []any{}, "rules": []any{}, "isEnabled": true, "disabledVariationId": "5c1d9f2e-7b34-4d88-9c55-b1a0c2d3e4f5",
		"fallthrough": map[string]any{"dispatchKey": nil, "includedInExpt": true, "variations": []any{
			map[string]any{"id": "5c1d9f2e-7b34-4d88-9c55-b1a0c2d3e4f5", "rollout": []float64{0, 1}, "exptRollout": 1}}},
		"exptIncludeAllTargets": true, "tags": []any{}, "isArchived": false, "updatedAt": d.updated,
	}}
	for _, key := range d.keys {
		flags = append(flags, d.flags[key])
	}
	var segments []any
	for _, name := range d.names {
		segments = append(segments, d.segments[name])
	}
	return json.Marshal(map[string]any{"messageType": wire.MessageDataSync, "data": map[string]any{
		"eventType": wire.Full, "featureFlags": flags, "segments": segments,
	}})
}
