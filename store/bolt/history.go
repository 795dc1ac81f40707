package bolt

import (
	"context"
	"fmt"
	"time"

	"github.com/flagstead/flagstead/internal/beat"
	"github.com/flagstead/flagstead/internal/histdir"
	"github.com/flagstead/flagstead/store"
)

var (
	_ store.History       = (*Store)(nil)
	_ store.HistoryWriter = (*Store)(nil)
	_ store.ReportWriter  = (*Store)(nil)
	_ store.ReportReader  = (*Store)(nil)
)

// usable says why a call on a handle cannot go ahead.
func (s *Store) usable(ctx context.Context) error {
	switch h := s.h.(type) {
	case *writer:
		return h.usable(ctx)
	case *reader:
		return h.usable(ctx)
	}
	return nil
}

// path returns where the store is, and whether the handle writes.
func (s *Store) path() (path string, writes bool) {
	switch h := s.h.(type) {
	case *writer:
		return h.path, true
	case *reader:
		return h.path, false
	}
	return "", false
}

// Revisions implements [store.History]: they are files in the directory
// path.history.
func (s *Store) Revisions(ctx context.Context) ([]store.Revision, error) {
	path, _ := s.path()
	err := s.usable(ctx)
	if err == nil {
		var all []store.Revision
		if all, err = histdir.Of(path).Revisions(); err == nil {
			return all, nil
		}
	}
	return nil, fmt.Errorf("bolt: revisions: %w", err)
}

// At implements [store.History].
func (s *Store) At(ctx context.Context, n uint64) (store.Snapshot, error) {
	path, _ := s.path()
	err := s.usable(ctx)
	if err == nil {
		var snap store.Snapshot
		if snap, err = histdir.Of(path).At(n); err == nil {
			return snap, nil
		}
	}
	return store.Snapshot{}, fmt.Errorf("bolt: revision %d: %w", n, err)
}

// AppendRevision implements [store.HistoryWriter]. A reader's returns
// [store.ErrReadOnly].
func (s *Store) AppendRevision(ctx context.Context, r store.Record, k store.Keep) (store.Revision, error) {
	path, writes := s.path()
	err := s.usable(ctx)
	if err == nil && !writes {
		err = store.ErrReadOnly
	}
	if err == nil {
		var rev store.Revision
		if rev, err = histdir.Of(path).AppendLocked(ctx, r, k, path+".snap"); err == nil {
			return rev, nil
		}
	}
	return store.Revision{}, fmt.Errorf("bolt: append revision: %w", err)
}

// WriteReport implements [store.ReportWriter]: reports are files in the directory
// path.readers. A reader's handle writes them, too, if it may create files there.
func (s *Store) WriteReport(ctx context.Context, r store.Report) error {
	path, _ := s.path()
	err := s.usable(ctx)
	if err == nil {
		err = beat.WriteReport(path, path+".snap", r, time.Now())
	}
	if err != nil {
		return fmt.Errorf("bolt: write report: %w", err)
	}
	return nil
}

// ReadReports implements [store.ReportReader].
func (s *Store) ReadReports(ctx context.Context) ([]store.Report, error) {
	path, _ := s.path()
	err := s.usable(ctx)
	if err == nil {
		var all []store.Report
		if all, err = beat.ReadReports(path, time.Now()); err == nil {
			return all, nil
		}
	}
	return nil, fmt.Errorf("bolt: read reports: %w", err)
}
