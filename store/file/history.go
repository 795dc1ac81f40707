package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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

// beside returns the file that the path leads to, beside which the rest is.
func (s *Store) beside(ctx context.Context) (string, error) {
	if err := s.usable(ctx); err != nil {
		return "", err
	}
	return follow(s.path)
}

// Revisions implements [store.History]: they are files in a directory beside the
// document, with .history behind its name. A file that people edit has none.
func (s *Store) Revisions(ctx context.Context) ([]store.Revision, error) {
	target, err := s.beside(ctx)
	if errors.Is(err, fs.ErrNotExist) { // nor is there a directory
		return nil, nil
	}
	if err == nil {
		var all []store.Revision
		if all, err = histdir.Of(target).Revisions(); err == nil {
			return all, nil
		}
	}
	return nil, fmt.Errorf("file: revisions: %w", err)
}

// At implements [store.History].
func (s *Store) At(ctx context.Context, n uint64) (store.Snapshot, error) {
	target, err := s.beside(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %d; there is no history", store.ErrNoRevision, n)
	}
	if err == nil {
		var snap store.Snapshot
		if snap, err = histdir.Of(target).At(n); err == nil {
			return snap, nil
		}
	}
	return store.Snapshot{}, fmt.Errorf("file: revision %d: %w", n, err)
}

// AppendRevision implements [store.HistoryWriter]. Its errors are those of Apply.
func (s *Store) AppendRevision(ctx context.Context, r store.Record, k store.Keep) (store.Revision, error) {
	target, err := s.beside(ctx)
	if err == nil && s.opts.ReadOnly {
		err = store.ErrReadOnly
	}
	if err == nil {
		var rev store.Revision
		if rev, err = histdir.Of(target).AppendLocked(ctx, r, k, target); err == nil {
			return rev, nil
		}
	}
	return store.Revision{}, fmt.Errorf("file: append revision: %w", err)
}

// WriteReport implements [store.ReportWriter]: reports are files in a directory
// beside the document, with .readers behind its name. A handle for reading writes
// them, too, if it may create files there.
func (s *Store) WriteReport(ctx context.Context, r store.Report) error {
	target, err := s.beside(ctx)
	if err == nil {
		err = beat.WriteReport(target, target, r, time.Now())
	}
	if err != nil {
		return fmt.Errorf("file: write report: %w", err)
	}
	return nil
}

// ReadReports implements [store.ReportReader].
func (s *Store) ReadReports(ctx context.Context) ([]store.Report, error) {
	target, err := s.beside(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		var all []store.Report
		if all, err = beat.ReadReports(target, time.Now()); err == nil {
			return all, nil
		}
	}
	return nil, fmt.Errorf("file: read reports: %w", err)
}
