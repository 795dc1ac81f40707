// Package metrics is what the parts of Flagstead that can be watched have in
// common with what watches them. A syncer, a client and a relay are each a
// [Source]; packages metrics/prometheus and metrics/otel hand their numbers to
// Prometheus and to OpenTelemetry. It depends on nothing, so that measuring does
// not choose how the numbers are collected.
package metrics

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// A Measurement is one number for whatever collects such. Names and units follow the
// conventions of Prometheus.
type Measurement struct {
	Name    string  // as in "flagstead_syncer_connects_total"
	Help    string  // a sentence on what Value counts or measures
	Counter bool    // Value only grows; else it is a gauge
	Value   float64 // of now
}

// A Source has numbers to collect.
type Source interface {
	// Metrics returns the numbers of now, each name once. What is not known yet is
	// left out and may come later. It must not block for long, and be safe for
	// concurrent use.
	Metrics() []Measurement
}

// A Grouped source has, beside the numbers of Metrics, some that there are several
// of, as of each environment that one relay serves. No name may be in both.
type Grouped interface {
	// MetricGroups returns them. It is called as Metrics is.
	MetricGroups() []Group
}

// A Group is numbers with labels of their own, which are added to those of the
// source.
type Group struct {
	Labels       Labels        // few values each: environments, not flags or users
	Measurements []Measurement // each name once
}

// Labels tell sources with the same measurements apart, as in {"env": "prod"}. Each
// set of values is a time series of its own, kept for months by whoever collects
// them, so a value must be one of few: an environment or a kind of store, never a
// flag, a user or an address.
type Labels map[string]string

// ErrLabels says that labels cannot be used. Check and what takes labels wrap it.
var ErrLabels = errors.New("metrics: bad labels")

// The most that Check allows.
const (
	MaxLabels     = 8   // labels of one source
	MaxLabelValue = 128 // bytes of one value
)

var labelName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// Check returns an error that wraps [ErrLabels] if there are more than [MaxLabels],
// if a name is not of lower-case letters, digits and underscores, or if a value is
// longer than [MaxLabelValue] or no text. Nil and empty Labels are right.
func (l Labels) Check() error {
	if len(l) > MaxLabels {
		return fmt.Errorf("%w: %d labels, at most %d are allowed", ErrLabels, len(l), MaxLabels)
	}
	for _, name := range l.Names() {
		switch value := l[name]; {
		case !labelName.MatchString(name) || strings.Contains(name, "__"):
			return fmt.Errorf("%w: the name %q; use lower-case letters, digits and single underscores", ErrLabels, name)
		case len(value) > MaxLabelValue:
			return fmt.Errorf("%w: the value of %s has %d bytes, at most %d are allowed", ErrLabels, name, len(value), MaxLabelValue)
		case !utf8.ValidString(value):
			return fmt.Errorf("%w: the value of %s is not UTF-8", ErrLabels, name)
		}
	}
	return nil
}

// Names returns the names in order.
func (l Labels) Names() []string {
	names := make([]string, 0, len(l))
	for name := range l {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// With returns l with the labels of others added, which win. It changes neither.
func (l Labels) With(others Labels) Labels {
	all := make(Labels, len(l)+len(others))
	for name, value := range l {
		all[name] = value
	}
	for name, value := range others {
		all[name] = value
	}
	return all
}

// Collect returns all groups of numbers of a source: those of Metrics, with the given
// labels, and, if it is [Grouped], those of MetricGroups, with theirs added.
func Collect(source Source, labels Labels) []Group {
	groups := []Group{{Labels: labels, Measurements: source.Metrics()}}
	if more, ok := source.(Grouped); ok {
		for _, g := range more.MetricGroups() {
			groups = append(groups, Group{Labels: labels.With(g.Labels), Measurements: g.Measurements})
		}
	}
	return groups
}

// Bit returns 1 for true and 0 for false, as gauges have it.
func Bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
