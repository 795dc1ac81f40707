package redis

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/flagstead/flagstead/store"
)

var (
	_ store.ReportWriter = (*Store)(nil)
	_ store.ReportReader = (*Store)(nil)
)

// WriteReport implements [store.ReportWriter]. It needs rights that a reader does
// without otherwise, see the package's documentation. In LayoutFeatBit, too, the
// reports are under keys of this package.
func (s *Store) WriteReport(ctx context.Context, r store.Report) error {
	key, err := s.reportsKey(ctx)
	if err == nil {
		err = r.Check()
	}
	if err == nil {
		err = s.writeReport(ctx, key, r)
	}
	if err != nil {
		return s.wrap("write a report on", err)
	}
	return nil
}

func (s *Store) writeReport(ctx context.Context, key string, r store.Report) error {
	now := time.Now()
	applied, text := age(r.Applied, now), []byte{}
	if r.State != "off" {
		r.Applied, r.At = time.Time{}, time.Time{}
		var err error
		if text, err = json.Marshal(r); err != nil {
			return err
		}
	}
	reply, err := s.run(ctx, s.command(reportScript), []string{key}, r.Reader, applied, text, store.ReportLife.Milliseconds(), store.MaxReports)
	if err == nil && reply[0] == "full" {
		err = fmt.Errorf("there are reports of %s readers already", reply[len(reply)-1])
	}
	return err
}

// ReadReports implements [store.ReportReader]. Times are of this host's clock, as
// old as they are by the server's.
func (s *Store) ReadReports(ctx context.Context) ([]store.Report, error) {
	key, err := s.reportsKey(ctx)
	var all []store.Report
	if err == nil {
		all, err = s.readReports(ctx, key)
	}
	if err != nil {
		return nil, s.wrap("read the reports on", err)
	}
	return all, nil
}

func (s *Store) readReports(ctx context.Context, key string) ([]store.Report, error) {
	reply, err := s.run(ctx, s.query(reportsScript), []string{key}, store.ReportLife.Milliseconds())
	if err != nil {
		return nil, err
	}
	now := time.Now()
	var all []store.Report
	for some := range slices.Chunk(reply[1:], 3) {
		var r store.Report
		if len(some) < 3 || json.Unmarshal([]byte(some[2]), &r) != nil || r.Check() != nil {
			continue // somebody else's
		}
		if r.At, err = before(now, some[0]); err != nil {
			return nil, err
		}
		if some[1] != "" {
			if r.Applied, err = before(now, some[1]); err != nil {
				return nil, err
			}
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b store.Report) int { return cmp.Compare(a.Reader, b.Reader) })
	return all, nil
}

// reportsKey returns where the reports are.
func (s *Store) reportsKey(ctx context.Context) (string, error) {
	if s.featbit == nil {
		return s.reports, s.usable(ctx)
	}
	env, err := s.featbit.knownEnv(ctx)
	return placeName(defaultPrefix, env) + ":r", err
}
