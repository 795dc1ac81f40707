package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/flagstead/flagstead/sdk"
)

type evalCmd struct {
	Flag   string `arg:"" optional:"" help:"Flag to evaluate. Default: all."`
	Source source `embed:""`

	UserFlags userFlags `embed:"" set:"userHelp=Key of the user."`

	JSON bool          `help:"Print JSON."`
	At   uint64        `placeholder:"N" help:"Use revision N of the store, see flagstead revisions."`
	Wait time.Duration `default:"5s" placeholder:"TIME" help:"How long to wait for flags (default ${default})."`
}

// row is one evaluation, as --json prints it.
type row struct {
	Flag        string `json:"flag"`
	Value       any    `json:"value"`
	Reason      string `json:"reason"`
	VariationID string `json:"variationId,omitempty"`
	Error       string `json:"error,omitempty"`
}

// Run evaluates and prints.
func (c *evalCmd) Run(ctx context.Context, con *console) error {
	u, err := c.UserFlags.user("")
	if err != nil {
		return err
	}
	client, release, err := c.Source.open(ctx, con, openOptions{wait: c.Wait, at: c.At})
	if err != nil {
		return err
	}
	defer release()
	var rows []row
	if c.Flag != "" {
		d := client.VariationDetail(c.Flag, u, nil)
		if errors.Is(d.Err, sdk.ErrFlagNotFound) {
			return fmt.Errorf("there is no flag %q", c.Flag)
		}
		if d.Err != nil {
			return broken(c.Flag, d.Err)
		}
		rows = append(rows, rowOf(d))
	} else {
		for _, d := range client.AllFlags(u).All() {
			rows = append(rows, rowOf(d))
		}
	}
	return c.print(con, rows)
}

func rowOf(d sdk.Detail[any]) row {
	r := row{Flag: d.FlagKey, Value: d.Value, Reason: d.Reason.String(), VariationID: d.VariationID}
	if d.Err != nil {
		r.Error = plain(d.Err).Error()
	}
	return r
}

// broken says why a flag has no value.
func broken(key string, err error) error {
	text := plain(err).Error()
	// A flag that is no flag says so itself.
	if i := strings.Index(text, fmt.Sprintf("flag %q ", key)); i >= 0 {
		return errors.New(text[i:])
	}
	return fmt.Errorf("flag %q: %s", key, text)
}

func (c *evalCmd) print(con *console, rows []row) error {
	if c.JSON {
		enc := json.NewEncoder(con.out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if c.Flag != "" {
			return enc.Encode(rows[0])
		}
		return enc.Encode(rows)
	}
	w := tabwriter.NewWriter(con.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FLAG\tVALUE\tREASON")
	for _, r := range rows {
		value, err := json.Marshal(r.Value)
		if err != nil {
			return err
		}
		reason := r.Reason
		if r.Error != "" {
			value, reason = []byte("–"), r.Reason+": "+r.Error
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", r.Flag, value, reason)
	}
	return w.Flush()
}
