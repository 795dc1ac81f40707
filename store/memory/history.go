package memory

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/flagstead/flagstead/internal/history"
	"github.com/flagstead/flagstead/store"
)

var (
	_ store.History       = (*Store)(nil)
	_ store.HistoryWriter = (*Store)(nil)
	_ store.ReportWriter  = (*Store)(nil)
	_ store.ReportReader  = (*Store)(nil)
)

// past is a history. Its bodies are compressed.
type past struct {
	turn   chan struct{} // capacity 1: one AppendRevision at a time
	all    []store.Revision
	bodies map[uint64][]byte
}

// revisions returns what there is now.
func (s *Store) revisions(ctx context.Context) ([]store.Revision, map[uint64][]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable(ctx); err != nil {
		return nil, nil, err
	}
	return slices.Clone(s.past.all), maps.Clone(s.past.bodies), nil
}

// Revisions implements [store.History].
func (s *Store) Revisions(ctx context.Context) ([]store.Revision, error) {
	all, _, err := s.revisions(ctx)
	if err != nil {
		return nil, fmt.Errorf("memory: revisions: %w", err)
	}
	return all, nil
}

// At implements [store.History].
func (s *Store) At(ctx context.Context, n uint64) (store.Snapshot, error) {
	all, bodies, err := s.revisions(ctx)
	var snap store.Snapshot
	if err == nil {
		snap, err = history.Rebuild(all, n, func(r store.Revision) ([]byte, error) { return bodies[r.N], nil })
	}
	if err != nil {
		return store.Snapshot{}, fmt.Errorf("memory: revision %d: %w", n, err)
	}
	return snap, nil
}

// AppendRevision implements [store.HistoryWriter].
func (s *Store) AppendRevision(ctx context.Context, r store.Record, k store.Keep) (store.Revision, error) {
	rev, err := s.append(ctx, r, k)
	if err != nil {
		return store.Revision{}, fmt.Errorf("memory: append revision: %w", err)
	}
	return rev, nil
}

func (s *Store) append(ctx context.Context, r store.Record, k store.Keep) (store.Revision, error) {
	select {
	case s.past.turn <- struct{}{}:
		defer func() { <-s.past.turn }()
	case <-ctx.Done():
		return store.Revision{}, ctx.Err()
	}
	all, _, err := s.revisions(ctx)
	if err != nil {
		return store.Revision{}, err
	}
	// Compressing takes its time, in which others load and apply.
	step, err := history.Next(all, r, k, time.Now())
	if err != nil || step.Nothing {
		return step.Revision, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return store.Revision{}, err
	}
	if step.Body == nil {
		s.past.all = append(all[:len(all)-1:len(all)-1], step.Revision)
		return step.Revision, nil
	}
	s.past.bodies[step.Revision.N] = step.Body
	s.past.all = slices.DeleteFunc(append(all, step.Revision), func(r store.Revision) bool {
		drop := slices.Contains(step.Drop, r.N)
		if drop {
			delete(s.past.bodies, r.N)
		}
		return drop
	})
	return step.Revision, nil
}

// WriteReport implements [store.ReportWriter].
func (s *Store) WriteReport(ctx context.Context, r store.Report) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.usable(ctx)
	if err == nil {
		err = r.Check()
	}
	if err != nil {
		return fmt.Errorf("memory: write report: %w", err)
	}
	if r.State == "off" {
		delete(s.reports, r.Reader)
		return nil
	}
	r.At = time.Now()
	maps.DeleteFunc(s.reports, func(_ string, old store.Report) bool { return r.At.Sub(old.At) >= store.ReportLife })
	if _, ok := s.reports[r.Reader]; !ok && len(s.reports) >= store.MaxReports {
		return fmt.Errorf("memory: write report: there are reports of %d readers already", len(s.reports))
	}
	s.reports[r.Reader] = r
	return nil
}

// ReadReports implements [store.ReportReader].
func (s *Store) ReadReports(ctx context.Context) ([]store.Report, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable(ctx); err != nil {
		return nil, fmt.Errorf("memory: read reports: %w", err)
	}
	var all []store.Report
	for _, r := range s.reports {
		if time.Since(r.At) < store.ReportLife {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b store.Report) int { return cmp.Compare(a.Reader, b.Reader) })
	return all, nil
}
