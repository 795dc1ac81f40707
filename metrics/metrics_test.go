package metrics_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/flagstead/flagstead/metrics"
)

func TestLabels(t *testing.T) {
	for name, tc := range map[string]struct {
		labels metrics.Labels
		want   string // in the error; empty if there is none
	}{
		"none":       {nil, ""},
		"good":       {metrics.Labels{"env": "webapp:prod", "store_kind": "redis"}, ""},
		"empty text": {metrics.Labels{"env": ""}, ""},
		"capitals":   {metrics.Labels{"Env": "x"}, `the name "Env"`},
		"no name":    {metrics.Labels{"": "x"}, `the name ""`},
		"dunder":     {metrics.Labels{"a__b": "x"}, `the name "a__b"`},
		"no text":    {metrics.Labels{"env": "\xff"}, "value of env is not UTF-8"},
		"long":       {metrics.Labels{"env": strings.Repeat("x", metrics.MaxLabelValue+1)}, "value of env has 129 bytes"},
		"many":       {metrics.Labels{"a": "", "b": "", "c": "", "d": "", "e": "", "f": "", "g": "", "h": "", "i": ""}, "9 labels, at most 8"},
	} {
		err := tc.labels.Check()
		if (err == nil) != (tc.want == "") || err != nil && (!errors.Is(err, metrics.ErrLabels) || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

type fixed []metrics.Measurement

func (f fixed) Metrics() []metrics.Measurement { return f }

type grouped struct{ fixed }

func (grouped) MetricGroups() []metrics.Group {
	return []metrics.Group{{Labels: metrics.Labels{"env": "a"}, Measurements: []metrics.Measurement{{Name: "x"}}}}
}

func TestCollect(t *testing.T) {
	base := metrics.Labels{"host": "h", "env": "all"}
	groups := metrics.Collect(grouped{fixed{{Name: "y"}}}, base)
	if len(groups) != 2 || groups[0].Labels["env"] != "all" || groups[1].Labels["env"] != "a" || groups[1].Labels["host"] != "h" || base["env"] != "all" {
		t.Errorf("%v, %v", groups, base)
	}
	if one := metrics.Collect(fixed{{Name: "y"}}, nil); len(one) != 1 || one[0].Measurements[0].Name != "y" {
		t.Errorf("%v", one)
	}
}
