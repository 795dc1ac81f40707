// Package otel hands the numbers of Flagstead's parts to OpenTelemetry.
//
//	exporter := otel.New(provider.Meter("github.com/flagstead/flagstead"))
//	defer exporter.Close()
//	remove, err := exporter.Add(syncer, metrics.Labels{"env": "prod"})
//
// Names get OpenTelemetry's form: flagstead_syncer_connects_total is
// flagstead.syncer.connects, and flagstead_client_data_age_seconds is
// flagstead.client.data_age with the unit s. OpenTelemetry's exporter for Prometheus
// makes the first form of them again.
package otel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/flagstead/flagstead/metrics"
)

// ErrClosed says that an Exporter was closed.
var ErrClosed = errors.New("otel: closed")

// An Exporter has sources observed by instruments of one meter. Make it with New.
// All methods are safe for concurrent use.
type Exporter struct {
	meter metric.Meter

	mu      sync.Mutex // guards what follows; not held while the meter is called
	sources []*entry
	known   map[string]metrics.Measurement // names that have an instrument, or will
	regs    []metric.Registration
	lastErr error
	closed  bool
	growing sync.WaitGroup
}

type entry struct {
	source     metrics.Source
	labels     metrics.Labels
	attributes metric.MeasurementOption
}

// New returns an Exporter without sources. Nothing is registered before Add.
func New(meter metric.Meter) *Exporter {
	return &Exporter{meter: meter, known: map[string]metrics.Measurement{}}
}

// Add has the numbers of source observed, with labels as attributes, until remove is
// called, which may be done from anywhere and more than once. It makes instruments
// for what source measures now; what it measures later gets one after the first
// collection that sees it, and so is in the second. The error wraps
// [metrics.ErrLabels] or [ErrClosed], or is the meter's. Sources that measure the
// same need different labels: the numbers of two with the same would be added up, so
// only the first is observed.
func (e *Exporter) Add(source metrics.Source, labels metrics.Labels) (remove func(), err error) {
	if err := labels.Check(); err != nil {
		return nil, err
	}
	one := &entry{source: source, labels: labels.With(nil), attributes: attributes(labels)}
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil, ErrClosed
	}
	fresh := e.claim(metrics.Collect(source, labels))
	e.growing.Add(1)
	e.mu.Unlock()
	defer e.growing.Done()
	if err := e.grow(fresh); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sources = append(e.sources, one)
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.sources = slices.DeleteFunc(slices.Clone(e.sources), func(other *entry) bool { return other == one })
	}, nil
}

// Err returns the last error of the meter for an instrument that was made after Add,
// or nil. It does not block.
func (e *Exporter) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lastErr
}

// Close ends all observations. Instruments stay, without values: OpenTelemetry
// cannot remove them. It waits for instruments that are just being made and returns
// the meter's errors, if any. Closing again does nothing.
func (e *Exporter) Close() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.growing.Wait()
	e.mu.Lock()
	regs := e.regs
	e.regs, e.sources = nil, nil
	e.mu.Unlock()
	var errs []error
	for _, r := range regs {
		errs = append(errs, r.Unregister())
	}
	return errors.Join(errs...)
}

// claim returns what has no instrument yet and says that it has. The caller holds mu.
func (e *Exporter) claim(groups []metrics.Group) []metrics.Measurement {
	var fresh []metrics.Measurement
	for _, g := range groups {
		for _, m := range g.Measurements {
			if _, ok := e.known[m.Name]; !ok {
				e.known[m.Name] = m
				fresh = append(fresh, m)
			}
		}
	}
	return fresh
}

// grow makes instruments, and one callback that observes them.
func (e *Exporter) grow(fresh []metrics.Measurement) error {
	if len(fresh) == 0 {
		return nil
	}
	err := e.register(fresh)
	if err != nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, m := range fresh {
			delete(e.known, m.Name)
		}
		e.lastErr = err
	}
	return err
}

func (e *Exporter) register(fresh []metrics.Measurement) error {
	own := map[string]instrument{}
	var all []metric.Observable
	for _, m := range fresh {
		name, unit := Name(m.Name)
		var made metric.Float64Observable
		var err error
		if m.Counter {
			made, err = e.meter.Float64ObservableCounter(name, metric.WithDescription(m.Help), metric.WithUnit(unit))
		} else {
			made, err = e.meter.Float64ObservableGauge(name, metric.WithDescription(m.Help), metric.WithUnit(unit))
		}
		if err != nil {
			return fmt.Errorf("otel: instrument %s: %w", name, err)
		}
		own[m.Name] = instrument{made, m.Counter}
		all = append(all, made)
	}
	reg, err := e.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		e.observe(o, own)
		return nil
	}, all...)
	if err != nil {
		return fmt.Errorf("otel: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.regs = append(e.regs, reg)
	return nil
}

type instrument struct {
	made    metric.Float64Observable
	counter bool
}

// observe gives the values of one callback's own instruments. A callback must not
// make instruments, so those that are missing are made beside it.
func (e *Exporter) observe(o metric.Observer, own map[string]instrument) {
	e.mu.Lock()
	sources := e.sources
	e.mu.Unlock()
	type series struct {
		name string
		set  attribute.Distinct
	}
	seen := map[series]bool{}
	var all []metrics.Group
	for _, one := range sources {
		groups := metrics.Collect(one.source, one.labels)
		all = append(all, groups...)
		for i, g := range groups {
			with := one.attributes
			if i > 0 {
				with = attributes(g.Labels)
			}
			set := attributeSet(g.Labels)
			for _, m := range g.Measurements {
				own, ok := own[m.Name]
				at := series{m.Name, set.Equivalent()}
				if !ok || own.counter != m.Counter || seen[at] {
					continue
				}
				seen[at] = true
				o.ObserveFloat64(own.made, m.Value, with)
			}
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	if fresh := e.claim(all); len(fresh) > 0 {
		e.growing.Go(func() { _ = e.grow(fresh) }) // Err has it
	}
}

func attributeSet(labels metrics.Labels) attribute.Set {
	list := make([]attribute.KeyValue, 0, len(labels))
	for _, name := range labels.Names() {
		list = append(list, attribute.String(name, labels[name]))
	}
	return attribute.NewSet(list...)
}

func attributes(labels metrics.Labels) metric.MeasurementOption {
	return metric.WithAttributeSet(attributeSet(labels))
}

// Name returns the name and the unit that a measurement has in OpenTelemetry.
func Name(name string) (dotted, unit string) {
	name = strings.TrimSuffix(name, "_total")
	for suffix, u := range map[string]string{"_seconds": "s", "_bytes": "By"} {
		if rest, ok := strings.CutSuffix(name, suffix); ok {
			name, unit = rest, u
		}
	}
	return strings.Replace(name, "_", ".", 2), unit
}
