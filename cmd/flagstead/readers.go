package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
)

type readersCmd struct {
	place
	JSON bool `help:"Print JSON."`
}

// A readerRow is a reader as --json prints it.
type readerRow struct {
	store.Report
	Behind string  `json:"behind"` // "0", a number of items, or "unknown"
	Age    float64 `json:"age"`    // seconds since the report
}

// Run lists the readers that report.
func (c *readersCmd) Run(ctx context.Context, con *console) error {
	st, ctx, done, err := c.open(ctx, con)
	if err != nil {
		return err
	}
	defer done()
	reports, err := c.reports(ctx, st)
	if err != nil {
		return err
	}
	lags := lagger{st: st, known: map[store.Rev]lag{}}
	rows := []readerRow{}
	for _, r := range reports {
		l, err := lags.of(ctx, r.Rev)
		if err != nil {
			return c.failed(ctx, err)
		}
		rows = append(rows, readerRow{r, l.String(), time.Since(r.At).Seconds()})
	}
	if c.JSON {
		enc := json.NewEncoder(con.out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return enc.Encode(rows)
	}
	if len(rows) == 0 {
		con.printf("no reader of %s reports; clients do with Config.Report\n", redact(c.Store))
		return nil
	}
	w := tabwriter.NewWriter(con.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "READER\tSTATE\tBEHIND\tREVISION\tREPORTED\tVERSION")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.1fs ago\t%s\n", clean(r.Reader), clean(r.State), r.Behind, clean(string(r.Rev)), r.Age, clean(r.Version))
	}
	return w.Flush()
}

func (p *place) reports(ctx context.Context, st store.DataStore) ([]store.Report, error) {
	r, ok := st.(store.ReportReader)
	if !ok {
		return nil, fmt.Errorf("store %s takes no reports of readers", redact(p.Store))
	}
	all, err := r.ReadReports(ctx)
	if err != nil {
		return nil, p.failed(ctx, err)
	}
	return all, nil
}

// A lag is what a reader at some revision lacks.
type lag struct {
	unknown bool // the store cannot count from that revision
	lacks   map[store.ID]bool
}

func (l lag) String() string {
	switch n := len(l.lacks); {
	case l.unknown:
		return "unknown"
	case n == 0:
		return "0"
	default:
		return plural(n, "item")
	}
}

// A lagger works out lags. Revisions have no order that anybody outside of the
// store knows; but what came after one, the store says.
type lagger struct {
	st    store.Reader
	known map[store.Rev]lag
}

func (g *lagger) of(ctx context.Context, rev store.Rev) (lag, error) {
	if l, ok := g.known[rev]; ok {
		return l, nil
	}
	l := lag{unknown: true}
	if rev != "" {
		snap, err := g.st.Load(ctx, rev)
		if err != nil {
			return lag{}, err
		}
		if snap.Delta || snap.Rev == rev {
			l = lag{lacks: map[store.ID]bool{}}
			if snap.Rev != rev {
				for _, it := range snap.Items {
					l.lacks[it.ID()] = true
				}
			}
		}
	}
	g.known[rev] = l
	return l, nil
}

type waitCmd struct {
	place
	Flag       string `placeholder:"KEY" help:"Wait until the readers have this flag as the store has it."`
	At         string `name:"flag-version" placeholder:"V" help:"(also --version) And the store has it at this version or a later one: its updatedAt, in milliseconds or as 2026-01-02T15:04:05Z."`
	Rev        string `placeholder:"R" help:"Wait until the readers are at this revision of the store or a later one."`
	All        bool   `help:"Wait for every reader that reports."`
	MinReaders int    `default:"1" placeholder:"N" help:"And for at least so many (default ${default})."`
}

// Run waits until readers have something.
func (c *waitCmd) Run(ctx context.Context, con *console) error {
	version, err := c.check()
	if err != nil {
		return err
	}
	st, bounded, done, err := c.open(ctx, con)
	if err != nil {
		return err
	}
	defer done()
	began := time.Now()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	why := errors.New("no answer yet")
	for {
		n, err := c.look(bounded, st, version)
		switch {
		case err == nil:
			con.printf("%s after %.1fs\n", n, time.Since(began).Seconds())
			return nil
		case ctx.Err() != nil:
			return errInterrupted
		case !errors.Is(err, context.DeadlineExceeded):
			why = err
		}
		select {
		case <-ctx.Done():
			return errInterrupted
		case <-bounded.Done():
			return fmt.Errorf("not within %v: %w", c.Timeout, why)
		case <-tick.C:
		}
	}
}

// check returns the version to wait for, or zero.
func (c *waitCmd) check() (int64, error) {
	switch {
	case (c.Flag == "") == (c.Rev == ""):
		return 0, usageError("say what to wait for: --flag or --rev, one of them")
	case c.At != "" && c.Flag == "":
		return 0, usageError("--version is that of a --flag")
	case c.MinReaders < 0:
		return 0, usageError(fmt.Sprintf("--min-readers=%d: want a number from 0 on", c.MinReaders))
	case c.MinReaders == 0 && !c.All:
		return 0, usageError("--min-readers=0 waits for nobody without --all")
	case c.At == "":
		return 0, nil
	}
	if n, err := strconv.ParseInt(c.At, 10, 64); err == nil {
		return n, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, c.At); err == nil {
		return t.UnixMilli(), nil
	}
	return 0, usageError(fmt.Sprintf("--version=%s: want milliseconds, as 1767366245000, or a time, as 2026-01-02T15:04:05Z", c.At))
}

// look returns what is true now, or why not yet.
func (c *waitCmd) look(ctx context.Context, st store.DataStore, version int64) (string, error) {
	// The reports come first: what a reader had then it still has.
	reports, err := c.reports(ctx, st)
	if err != nil {
		return "", err
	}
	if version != 0 {
		if err := c.stored(ctx, st, version); err != nil {
			return "", err
		}
	}
	lags := lagger{st: st, known: map[store.Rev]lag{}}
	target, err := lags.of(ctx, store.Rev(c.Rev))
	if err != nil {
		return "", c.failed(ctx, err)
	}
	have, lacking := 0, []string{}
	for _, r := range reports {
		l, err := lags.of(ctx, r.Rev)
		if err != nil {
			return "", c.failed(ctx, err)
		}
		if c.has(r, l, target) {
			have++
			continue
		}
		lacking = append(lacking, clean(r.Reader))
	}
	switch {
	case c.All && len(lacking) > 0:
		if n := len(lacking); n > 10 {
			lacking = append(lacking[:10], fmt.Sprintf("%d more", n-10))
		}
		return "", fmt.Errorf("%s of %d: it lacks %s", plural(have, "reader"), len(reports), strings.Join(lacking, ", "))
	case have < c.MinReaders:
		return "", fmt.Errorf("%s, of at least %d; %d report", plural(have, "reader"), c.MinReaders, len(reports))
	}
	return fmt.Sprintf("%s of %d", plural(have, "reader"), len(reports)), nil
}

// stored says what keeps the store from having the flag at the version.
func (c *waitCmd) stored(ctx context.Context, st store.Reader, version int64) error {
	snap, err := st.Load(ctx, "")
	if err != nil {
		return c.failed(ctx, err)
	}
	for _, it := range snap.Items {
		if it.Kind != store.Flag || it.Key != c.Flag {
			continue
		}
		if it.Version < version {
			return fmt.Errorf("the store has flag %q at %s (%d), before %d", c.Flag, wire.FormatMillis(it.Version), it.Version, version)
		}
		return nil
	}
	return fmt.Errorf("the store has no flag %q", c.Flag)
}

// has reports whether a reader has what is waited for. One whose revision the store
// cannot count from may have anything, and counts as one that has not.
func (c *waitCmd) has(r store.Report, l, target lag) bool {
	switch {
	case c.Rev != "" && string(r.Rev) == c.Rev:
		return true
	case l.unknown:
		return false
	case c.Flag != "":
		return !l.lacks[store.ID{Kind: store.Flag, Key: c.Flag}]
	}
	// Who lacks less than somebody at that revision came after it.
	return !target.unknown && (len(l.lacks) == 0 || len(l.lacks) < len(target.lacks))
}
