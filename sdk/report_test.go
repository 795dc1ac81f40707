package sdk_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
)

// reportsOf returns what the readers of st report.
func reportsOf(t *testing.T, st *memory.Store) []store.Report {
	t.Helper()
	all, err := st.ReadReports(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func commit(t *testing.T, st *memory.Store, c store.Change) store.Rev {
	t.Helper()
	rev, err := st.Apply(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func item(version int64) store.Item {
	return store.Item{Kind: store.Flag, Key: "a", Version: version, Data: []byte(`{"key":"a"}`)}
}

// TestReport: a reader tells which state it works on, soon after it got it and then
// every few seconds, and that it stops.
func TestReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := memory.New()
		defer st.Close()
		c, err := sdk.New(sdk.Config{Store: st, DisableEvents: true, Report: true, ReportName: "r1", ReportVersion: "v7"})
		if err != nil {
			t.Fatal(err)
		}
		other, err := sdk.New(sdk.Config{Store: st, DisableEvents: true, Report: true})
		if err != nil {
			t.Fatal(err)
		}
		for version := range int64(3) {
			rev := commit(t, st, store.Change{Items: []store.Item{item(version + 1)}})
			time.Sleep(time.Second) // of the test's own clock
			synctest.Wait()
			all := reportsOf(t, st)
			if len(all) != 2 || all[0].Rev != rev || all[1].Rev != rev {
				t.Fatalf("after %s: %+v", rev, all)
			}
			r := all[0]
			if all[1].Reader == "r1" {
				r = all[1]
			}
			if r.Reader != "r1" || r.Version != "v7" || r.State != "ok" || time.Since(r.Applied) > 2*time.Second {
				t.Errorf("%+v", r)
			}
		}
		time.Sleep(time.Hour)
		if all := reportsOf(t, st); len(all) != 2 || time.Since(all[0].At) > store.ReportLife/2 {
			t.Errorf("an hour later: %+v", all)
		}
		other.Close(context.Background())
		if all := reportsOf(t, st); len(all) != 1 || all[0].Reader != "r1" {
			t.Errorf("after a Close: %+v", all)
		}
		c.Close(context.Background())
	})
}

// A stubborn store takes no reports.
type stubborn struct {
	*memory.Store
	tried atomic.Int64
	hang  bool
}

func (s *stubborn) WriteReport(ctx context.Context, _ store.Report) error {
	s.tried.Add(1)
	if s.hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return errors.New("no rights")
}

// TestReportThatFails: it is logged once and harms nothing, Close least of all.
func TestReportThatFails(t *testing.T) {
	for _, hang := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			st := &stubborn{Store: memory.New(), hang: hang}
			defer st.Close()
			commit(t, st.Store, store.Change{Full: true, Items: []store.Item{item(1)}})
			log := &logged{}
			c, err := sdk.New(sdk.Config{Store: st, DisableEvents: true, Report: true, Logger: log.logger()})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if got := c.Status(); got.State != sdk.OK || st.tried.Load() < 3 {
				t.Errorf("%+v after %d reports", got, st.tried.Load())
			}
			if n := strings.Count(log.String(), "what this reader has"); n != 1 {
				t.Errorf("logged %d times: %s", n, log)
			}
			began := time.Now()
			c.Close(context.Background())
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("Close took %v", took)
			}
		})
	}
}

func TestReportNeedsAStore(t *testing.T) {
	if _, err := sdk.New(sdk.Config{Offline: true, Report: true}); err == nil || !strings.Contains(err.Error(), "Report") {
		t.Errorf("error %v", err)
	}
	st := memory.New()
	defer st.Close()
	if _, err := sdk.New(sdk.Config{Store: st, Report: true, ReportName: strings.Repeat("x", 300)}); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("error %v", err)
	}
}

// TestFrozenFlagsAreNotTooOld: a freeze must not take the flags from readers that
// serve only fresh ones.
func TestFrozenFlagsAreNotTooOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := memory.New()
		defer st.Close()
		commit(t, st, store.Change{Full: true, Items: []store.Item{item(1)}})
		beat := func(source string, confirmed time.Time) {
			if err := st.WriteHeartbeat(context.Background(), store.Heartbeat{Confirmed: confirmed, Source: source, Writer: "w"}); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		beat("ok", began)
		c, err := sdk.New(sdk.Config{Store: st, DisableEvents: true, MaxAge: time.Minute, WhenTooOld: sdk.ServeDefaults})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(context.Background())
		for range 60 {
			time.Sleep(5 * time.Second)
			beat(store.SourceFrozen, began)
		}
		synctest.Wait()
		got := c.Status()
		if errors.Is(got.Err, sdk.ErrTooOld) || !errors.Is(got.Err, store.ErrFrozen) || got.State != sdk.Interrupted || got.Source != sdk.Interrupted {
			t.Errorf("after five minutes: %+v", got)
		}
		if d := c.VariationDetail("a", newUser(t, "u"), nil); errors.Is(d.Err, sdk.ErrTooOld) {
			t.Errorf("%+v", d)
		}
		// Without a syncer nobody knows what an operator wants by now.
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := c.Status(); !errors.Is(got.Err, sdk.ErrTooOld) {
			t.Errorf("without a syncer: %+v", got)
		}
	})
}

// TestRollbackShowsAtOnce: older flags are held back, unless an operator means them.
func TestRollbackShowsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := memory.New()
		defer st.Close()
		if err := st.WriteHeartbeat(context.Background(), store.Heartbeat{Confirmed: time.Now(), Source: "ok", Writer: "w"}); err != nil {
			t.Fatal(err)
		}
		commit(t, st, store.Change{Full: true, Items: []store.Item{item(9)}})
		c, err := sdk.New(sdk.Config{Store: st, DisableEvents: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(context.Background())
		time.Sleep(3 * time.Second)
		synctest.Wait()
		updated := c.Status().Updated

		commit(t, st, store.Change{Full: true, Items: []store.Item{item(8)}})
		time.Sleep(time.Second)
		synctest.Wait()
		if got := c.Status(); !errors.Is(got.Err, store.ErrHeldBack) || !got.Updated.Equal(updated) {
			t.Fatalf("an older state without a reason: %+v", got)
		}
		if err := st.WriteControl(context.Background(), store.Control{Frozen: true, Pinned: 1}); err != nil {
			t.Fatal(err)
		}
		commit(t, st, store.Change{Full: true, Items: []store.Item{item(7)}, Override: true})
		time.Sleep(time.Second)
		synctest.Wait()
		if got := c.Status(); errors.Is(got.Err, store.ErrHeldBack) || !got.Updated.After(updated) {
			t.Errorf("a rollback: %+v", got)
		}
	})
}
