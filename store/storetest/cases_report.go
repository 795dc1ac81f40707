package storetest

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/flagstead/flagstead/store"
)

// reportCases are about stores whose handles are a store.ReportWriter and a
// store.ReportReader.
var reportCases = []testCase{
	{
		name:  "reports-are-kept",
		rule:  "ReadReports returns the last report of each reader, ordered by name, through every handle; WriteReport sets At.",
		needs: needReports | wantOther,
		run: func(c *tester) {
			for _, h := range c.handles {
				if all := c.reports(h); len(all) > 0 {
					c.fatalf("ReadReports before the first report: %+v", all)
				}
			}
			c.apply(c.s, full(flag("a", 1)))
			want := []store.Report{
				{Reader: "a b|c,d\n\"{}' ⚑", Rev: "1-x", Version: "v1|\"", State: "interrupted", Applied: time.Now().Add(-time.Hour)},
				{Reader: "host-1", Rev: "2-y", Version: "app 1.2", State: "ok", Applied: time.Now().Add(-time.Minute)},
				{Reader: "host-2", State: "initializing"},
			}
			for round := range 3 {
				for i, h := range c.handles {
					for j, r := range want {
						if j%len(c.handles) == i {
							r.At = time.Unix(1, 0)
							c.report(h, r)
						}
					}
				}
				for _, h := range c.handles {
					all := c.reports(h)
					if len(all) != len(want) {
						c.fatalf("%d reports, want %d: %+v", len(all), len(want), all)
					}
					for i, r := range all {
						if !near(r.At, time.Now(), 5*time.Second) || !want[i].Applied.IsZero() && !near(r.Applied, want[i].Applied, 2*time.Second) || want[i].Applied.IsZero() != r.Applied.IsZero() {
							c.fatalf("report %+v, want %+v, written just now", r, want[i])
						}
						r.At, r.Applied = want[i].At, want[i].Applied
						if r != want[i] {
							c.fatalf("report %+v, want %+v", r, want[i])
						}
					}
				}
				want[1].Rev = store.Rev(fmt.Sprintf("%d-z", round))
			}
		},
	},
	{
		name:  "last-report-removes",
		rule:  "A report with the State off removes those of its reader before, and no others.",
		needs: needReports | wantOther,
		run: func(c *tester) {
			for _, name := range []string{"a", "b", "c"} {
				c.report(c.s, store.Report{Reader: name, Rev: "r", State: "ok"})
			}
			for range 2 {
				c.report(c.handles[len(c.handles)-1], store.Report{Reader: "b", Rev: "r", State: "off"})
				for _, h := range c.handles {
					if all := c.reports(h); len(all) != 2 || all[0].Reader != "a" || all[1].Reader != "c" {
						c.fatalf("reports after the last one of b: %+v", all)
					}
				}
			}
			c.report(c.s, store.Report{Reader: "b", Rev: "r", State: "ok"})
			if all := c.reports(c.s); len(all) != 3 {
				c.fatalf("reports after b came back: %+v", all)
			}
		},
	},
	{
		name:  "report-is-no-commit",
		rule:  "A report is no commit: it changes no Rev, and Load(since) is still an empty Delta.",
		needs: needReports | wantOther,
		run: func(c *tester) {
			c.report(c.s, store.Report{Reader: "a", State: "ok"})
			if snap := c.load(c.s, ""); snap.Rev != "" {
				c.fatalf("a report on an empty place made Rev %q", snap.Rev)
			}
			base := c.apply(c.s, full(flag("a", 1)))
			for _, h := range c.handles {
				c.sees(h, flag("a", 1))
				c.report(h, store.Report{Reader: "a", Rev: base, State: "ok"})
				if snap := c.load(h, base); !snap.Delta || len(snap.Items) > 0 {
					c.fatalf("Load(%q) after a report: Rev %q, Delta %v, %d items", base, snap.Rev, snap.Delta, len(snap.Items))
				}
			}
		},
	},
	{
		name:  "impossible-reports-are-refused",
		rule:  "WriteReport returns an error for what does not pass Report.Check.",
		needs: needReports,
		run: func(c *tester) {
			long := strings.Repeat("x", store.MaxReporter+1)
			for _, bad := range []store.Report{{State: "ok"}, {Reader: long}, {Reader: "a", Version: long}, {Reader: "a", Rev: store.Rev(long)}, {Reader: "a", State: long}} {
				if err := c.s.(store.ReportWriter).WriteReport(c.ctx, bad); err == nil {
					c.fatalf("WriteReport took a report of %d, %d, %d and %d bytes", len(bad.Reader), len(bad.Version), len(bad.Rev), len(bad.State))
				}
			}
			if all := c.reports(c.s); len(all) > 0 {
				c.fatalf("it wrote %+v", all)
			}
			c.report(c.s, store.Report{Reader: long[1:], Version: long[1:], Rev: store.Rev(long[1:]), State: long[1:]})
			if all := c.reports(c.s); len(all) != 1 || all[0].Reader != long[1:] {
				c.fatalf("the longest report: %+v", all)
			}
		},
	},
	{
		name:  "ended-context-ends-reports",
		rule:  contextRule,
		needs: needReports,
		run: func(c *tester) {
			for want, ctx := range ended() {
				if err := c.s.(store.ReportWriter).WriteReport(ctx, store.Report{Reader: "late"}); !errors.Is(err, want) {
					c.fatalf("WriteReport with an ended context: error %v, want %v", err, want)
				}
				if _, err := c.s.(store.ReportReader).ReadReports(ctx); !errors.Is(err, want) {
					c.fatalf("ReadReports with an ended context: error %v, want %v", err, want)
				}
			}
			if all := c.reports(c.s); len(all) > 0 {
				c.fatalf("WriteReport with an ended context wrote %+v", all)
			}
		},
	},
	{
		name:  "closed-reports",
		rule:  closedRule,
		needs: needReports,
		run: func(c *tester) {
			c.report(c.s, store.Report{Reader: "a"})
			c.close(c.s)
			if err := c.s.(store.ReportWriter).WriteReport(c.ctx, store.Report{Reader: "late"}); !errors.Is(err, store.ErrClosed) {
				c.fatalf("WriteReport after Close: error %v, want ErrClosed", err)
			}
			if _, err := c.s.(store.ReportReader).ReadReports(c.ctx); !errors.Is(err, store.ErrClosed) {
				c.fatalf("ReadReports after Close: error %v, want ErrClosed", err)
			}
		},
	},
}

// reports returns the reports that h shows.
func (c *tester) reports(h store.DataStore) []store.Report {
	r, ok := h.(store.ReportReader)
	if !ok {
		c.fatalf("a handle of a store that takes reports cannot read them")
	}
	all, err := r.ReadReports(c.ctx)
	if err != nil {
		c.fatalf("ReadReports: unexpected error %v", err)
	}
	return all
}

// report writes r through h.
func (c *tester) report(h store.DataStore, r store.Report) {
	w, ok := h.(store.ReportWriter)
	if !ok {
		c.fatalf("a handle of a store that takes reports cannot write them")
	}
	if err := w.WriteReport(c.ctx, r); err != nil {
		c.fatalf("WriteReport: unexpected error %v", err)
	}
}
