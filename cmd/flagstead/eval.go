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

	User     string            `short:"u" placeholder:"KEY" help:"Key of the user."`
	Name     string            `placeholder:"NAME" help:"Name of the user. Default: the key."`
	Attr     map[string]string `short:"a" placeholder:"NAME=VALUE" help:"Attribute of the user; may be repeated."`
	UserJSON string            `placeholder:"JSON" help:"The user as a JSON object with key, name and attributes, instead of the three above."`

	JSON bool          `help:"Print JSON."`
	Wait time.Duration `default:"5s" placeholder:"TIME" help:"How long to wait for flags."`
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
	u, err := c.user()
	if err != nil {
		return err
	}
	client, release, err := c.Source.open(ctx, con, c.Wait, nil)
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
		rows = append(rows, rowOf(d))
	} else {
		for _, d := range client.AllFlags(u).All() {
			rows = append(rows, rowOf(d))
		}
	}
	return c.print(con, rows)
}

func (c *evalCmd) user() (*sdk.User, error) {
	if c.UserJSON != "" {
		if c.User != "" || c.Name != "" || len(c.Attr) > 0 {
			return nil, errors.New("--user-json excludes --user, --name and --attr")
		}
		return sdk.ParseUser([]byte(c.UserJSON))
	}
	if c.User == "" {
		return nil, errors.New("no user: give --user KEY or --user-json")
	}
	var attrs []sdk.Attr
	if c.Name != "" {
		attrs = append(attrs, sdk.Name(c.Name))
	}
	for name, value := range c.Attr {
		attrs = append(attrs, sdk.String(name, value))
	}
	return sdk.NewUser(c.User, attrs...)
}

func rowOf(d sdk.Detail[any]) row {
	r := row{Flag: d.FlagKey, Value: d.Value, Reason: d.Reason.String(), VariationID: d.VariationID}
	if d.Err != nil {
		r.Error = strings.TrimPrefix(d.Err.Error(), "sdk: ")
	}
	return r
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
