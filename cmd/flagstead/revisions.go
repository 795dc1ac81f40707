package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/user"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/bolt"
	"github.com/flagstead/flagstead/store/file"
	"github.com/flagstead/flagstead/store/redis"
)

// place is the store that a command of operators is about. None of them needs
// FeatBit or its secret.
type place struct {
	Store   string        `arg:"" env:"FLAGSTEAD_STORE" placeholder:"STORE" help:"The store: redis://host:6379/0, bolt:///path/flags.db or file:///path/flags.json."`
	Timeout time.Duration `default:"10s" placeholder:"TIME" help:"How long it may take (default ${default})."`
}

// open opens the store, and bounds the rest of the command.
func (p *place) open(ctx context.Context, con *console) (store.DataStore, context.Context, func(), error) {
	if p.Timeout <= 0 {
		return nil, nil, nil, usageError(fmt.Sprintf("--timeout=%v: want a time above zero", p.Timeout))
	}
	st, err := openStore(con, p.Store, "")
	if err != nil {
		return nil, nil, nil, plain(err)
	}
	bounded, cancel := context.WithTimeout(ctx, p.Timeout)
	return st, bounded, func() { cancel(); st.Close() }, nil
}

// noAnswer is the error of a store that did not answer in time.
type noAnswer string

func (e noAnswer) Error() string { return string(e) }
func (noAnswer) Unwrap() error   { return context.DeadlineExceeded }

// failed puts an error of the store in words.
func (p *place) failed(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return errInterrupted
	case errors.Is(err, context.DeadlineExceeded):
		return noAnswer(fmt.Sprintf("store %s: no answer within %v", redact(p.Store), p.Timeout))
	}
	return fmt.Errorf("store %s: %w", redact(p.Store), plain(err))
}

// history returns st's history.
func (p *place) history(st store.DataStore) (store.History, error) {
	h, ok := st.(store.History)
	if !ok {
		return nil, fmt.Errorf("store %s keeps no revisions", redact(p.Store))
	}
	return h, nil
}

// revision returns the state of revision n.
func (p *place) revision(ctx context.Context, h store.History, n uint64) (store.Snapshot, error) {
	snap, err := h.At(ctx, n)
	switch {
	case errors.Is(err, store.ErrNoRevision):
		all, listErr := h.Revisions(ctx)
		if listErr == nil && len(all) == 0 {
			return snap, fmt.Errorf("store %s has no revisions: has a syncer with --history written to it?", redact(p.Store))
		}
		if listErr == nil {
			return snap, fmt.Errorf("store %s has no revision %d; there are %d to %d", redact(p.Store), n, all[0].N, all[len(all)-1].N)
		}
	case err == nil:
		return snap, nil
	}
	return snap, p.failed(ctx, err)
}

// writable opens the store again, to change its content.
func (p *place) writable(con *console) (store.DataStore, error) {
	u, err := url.Parse(p.Store)
	if err != nil {
		return nil, fmt.Errorf("store URL: %w", badURL(err))
	}
	switch u.Scheme {
	case "bolt":
		path, err := storePath(u)
		if err != nil {
			return nil, err
		}
		return bolt.Open(path, &bolt.Options{LockTimeout: -1})
	case "file":
		path, err := storePath(u)
		if err != nil {
			return nil, err
		}
		return file.Open(path, &file.Options{Logger: con.warnings()})
	}
	return redis.Open(p.Store, &redis.Options{Logger: con.warnings()})
}

// operator says who runs this command.
func operator() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%.100s@%.100s", name, host)
}

type revisionsCmd struct {
	place
	JSON bool `help:"Print JSON."`
}

// Run lists the revisions, and says whether publication is frozen.
func (c *revisionsCmd) Run(ctx context.Context, con *console) error {
	st, ctx, done, err := c.open(ctx, con)
	if err != nil {
		return err
	}
	defer done()
	h, err := c.history(st)
	if err != nil {
		return err
	}
	all, err := h.Revisions(ctx)
	if err != nil {
		return c.failed(ctx, err)
	}
	control, err := readControl(ctx, st)
	if err != nil {
		return c.failed(ctx, err)
	}
	if c.JSON {
		enc := json.NewEncoder(con.out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return enc.Encode(struct {
			Control   store.Control    `json:"control"`
			Revisions []store.Revision `json:"revisions"`
		}{control, append([]store.Revision{}, all...)})
	}
	if len(all) == 0 {
		return fmt.Errorf("store %s has no revisions: has a syncer with --history written to it?", redact(c.Store))
	}
	now, err := st.Load(ctx, all[len(all)-1].Rev)
	if err != nil {
		return c.failed(ctx, err)
	}
	w := tabwriter.NewWriter(con.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "N\tTIME\tFLAGS\tWHAT\tSYNCER")
	for _, r := range all {
		mark := ""
		if r.Rev == now.Rev {
			mark = " (now)"
		}
		fmt.Fprintf(w, "%d%s\t%s\t%d\t%s\t%s\n", r.N, mark, r.At.Local().Format("2006-01-02 15:04:05"), r.Flags, whatChanged(r), clean(r.Writer))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if control.Frozen {
		con.printf("\n%s\n", frozenWords(control))
	}
	return nil
}

func whatChanged(r store.Revision) string {
	switch {
	case r.Restores != 0:
		return fmt.Sprintf("revision %d again", r.Restores)
	case r.Whole:
		return "everything"
	}
	var keys []string
	const shown = 3
	for i, id := range r.Changed {
		if i == shown && len(r.Changed)+r.More > shown+1 {
			return fmt.Sprintf("%s, %d more", strings.Join(keys, ", "), len(r.Changed)+r.More-shown)
		}
		if id.Kind == store.Segment {
			keys = append(keys, "segment "+clean(id.Key))
			continue
		}
		keys = append(keys, clean(id.Key))
	}
	if r.More > 0 {
		keys = append(keys, fmt.Sprintf("%d more", r.More))
	}
	return strings.Join(keys, ", ")
}

// clean keeps what others wrote from changing the terminal.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '·'
		}
		return r
	}, text)
}

func frozenWords(c store.Control) string {
	text := fmt.Sprintf("publication is frozen since %s by %s", c.At.Local().Format("2006-01-02 15:04:05"), clean(c.By))
	if c.Pinned != 0 {
		text += fmt.Sprintf(", at revision %d", c.Pinned)
	}
	if c.Reason != "" {
		text += ": " + clean(c.Reason)
	}
	return text
}

func readControl(ctx context.Context, st store.DataStore) (store.Control, error) {
	r, ok := st.(store.ControlReader)
	if !ok {
		return store.Control{}, nil
	}
	return r.ReadControl(ctx)
}

type freezeCmd struct {
	place
	Reason string `placeholder:"TEXT" help:"Why, for whoever looks."`
	Empty  bool   `help:"Freeze a store that has no flags yet."`
}

// Run freezes publication: the store keeps what it has.
func (c *freezeCmd) Run(ctx context.Context, con *console) error {
	st, ctx, done, err := c.open(ctx, con)
	if err != nil {
		return err
	}
	defer done()
	snap, err := st.Load(ctx, "")
	switch {
	case err != nil:
		return c.failed(ctx, err)
	case snap.Rev == "" && !c.Empty:
		return fmt.Errorf("store %s has no flags: is that the right one? --empty freezes it all the same", redact(c.Store))
	}
	before, err := readControl(ctx, st)
	if err != nil {
		return c.failed(ctx, err)
	}
	if err := c.write(ctx, st, store.Control{Frozen: true, By: operator(), Reason: c.Reason, Pinned: before.Pinned}); err != nil {
		return err
	}
	con.printf("frozen: %s keeps its %s until unfreeze\n", redact(c.Store), plural(len(snap.Items), "item"))
	return nil
}

func (p *place) write(ctx context.Context, st store.DataStore, c store.Control) error {
	w, ok := st.(store.Controller)
	if !ok {
		return fmt.Errorf("store %s cannot be frozen", redact(p.Store))
	}
	if err := c.Check(); err != nil {
		return plain(err)
	}
	if err := w.WriteControl(ctx, c); err != nil {
		return p.failed(ctx, err)
	}
	return nil
}

type unfreezeCmd struct {
	place
	Reason string `placeholder:"TEXT" help:"Why, for whoever looks."`
}

// Run ends a freeze.
func (c *unfreezeCmd) Run(ctx context.Context, con *console) error {
	st, ctx, done, err := c.open(ctx, con)
	if err != nil {
		return err
	}
	defer done()
	before, err := readControl(ctx, st)
	if err != nil {
		return c.failed(ctx, err)
	}
	if !before.Frozen {
		con.printf("%s is not frozen\n", redact(c.Store))
		return nil
	}
	if err := c.write(ctx, st, store.Control{By: operator(), Reason: c.Reason}); err != nil {
		return err
	}
	con.printf("unfrozen: a syncer that runs writes the newest flags to %s at once\n", redact(c.Store))
	return nil
}

type rollbackCmd struct {
	place
	N      uint64 `arg:"" help:"Number of the revision, see flagstead revisions."`
	Reason string `placeholder:"TEXT" help:"Why, for whoever looks."`
}

// Run freezes publication and publishes an earlier revision.
func (c *rollbackCmd) Run(ctx context.Context, con *console) error {
	st, ctx, done, err := c.open(ctx, con)
	if err != nil {
		return err
	}
	defer done()
	h, err := c.history(st)
	if err != nil {
		return err
	}
	snap, err := c.revision(ctx, h, c.N)
	if err != nil {
		return err
	}
	before, err := st.Load(ctx, "")
	if err != nil && !errors.Is(err, store.ErrDamaged) {
		return c.failed(ctx, err)
	}
	// The syncers stop first, then the content goes back.
	control := store.Control{Frozen: true, Pinned: c.N, By: operator(), Reason: c.Reason}
	if err := c.write(ctx, st, control); err != nil {
		return err
	}
	if err := c.publish(ctx, con, st, snap.Items); err != nil {
		return err
	}
	d := compare(before.Items, snap.Items)
	con.printf("%s has revision %d again, frozen until unfreeze: %s\n", redact(c.Store), c.N, d.summary())
	return nil
}

// publish makes items the store's content, or waits until the syncer has done so
// whose process alone may write.
func (c *rollbackCmd) publish(ctx context.Context, con *console, st store.DataStore, items []store.Item) error {
	w, err := c.writable(con)
	if err == nil {
		defer w.Close()
		rev, err := w.Apply(ctx, store.Change{Full: true, Items: items, Override: true})
		if err != nil {
			return c.half(c.failed(ctx, err))
		}
		if err := c.record(ctx, w, rev, items); err != nil {
			fmt.Fprintf(con.err, "flagstead: the rollback itself is not in the history: %v\n", plain(err))
		}
		return nil
	}
	if !errors.Is(err, bolt.ErrLocked) {
		return c.half(c.failed(ctx, err))
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if snap, err := st.Load(ctx, ""); err == nil && compare(snap.Items, items).empty() {
			return nil
		}
		select {
		case <-ctx.Done():
			return c.half(fmt.Errorf("the process that writes %s has not published it within %v; is it a syncer?", redact(c.Store), c.Timeout))
		case <-tick.C:
		}
	}
}

// half says what stands although the rest failed.
func (c *rollbackCmd) half(err error) error {
	return fmt.Errorf("publication is frozen, but revision %d is not published: %w", c.N, err)
}

// record adds the rollback to the history, unless a syncer was faster.
func (c *rollbackCmd) record(ctx context.Context, st store.DataStore, rev store.Rev, items []store.Item) error {
	h, reads := st.(store.History)
	w, writes := st.(store.HistoryWriter)
	if !reads || !writes {
		return nil
	}
	for try := 1; ; try++ {
		all, err := h.Revisions(ctx)
		if err != nil {
			return err
		}
		r := store.Record{Rev: rev, Whole: true, Items: items, Writer: operator(), Restores: c.N}
		if n := len(all); n > 0 {
			r.After, r.Prev = all[n-1].N, all[n-1].Rev
		}
		// It drops nothing: how much is kept is the syncer's to say.
		_, err = w.AppendRevision(ctx, r, store.Keep{Revisions: len(all) + 1, Bytes: 1 << 40})
		if !errors.Is(err, store.ErrNotNext) || try == 3 {
			return err
		}
	}
}
