package main

import (
	"context"
	"fmt"
	"time"

	"github.com/flagstead/flagstead/sdk"
)

type watchCmd struct {
	Flag      string        `arg:"" optional:"" help:"Flag to watch. Default: all."`
	Source    source        `embed:""`
	UserFlags userFlags     `embed:"" set:"userHelp=Key of the user whose values are shown. Default: a user \"watch\" who has only the attributes given here."`
	Wait      time.Duration `default:"5s" placeholder:"TIME" help:"How long to wait for flags (default ${default})."`
}

// Run prints changes until ctx ends or the source is gone for good.
func (c *watchCmd) Run(ctx context.Context, con *console) error {
	u, err := c.UserFlags.user("watch")
	if err != nil {
		return err
	}
	type seen struct {
		change sdk.FlagChange
		at     time.Time
	}
	changes := make(chan seen, 1024)
	gone := make(chan error, 1)
	client, release, err := c.Source.open(ctx, con, openOptions{wait: c.Wait, follow: true, onStatus: c.report(con, gone)})
	if err != nil {
		return err
	}
	defer release()
	defer client.OnFlagChange(func(ch sdk.FlagChange) {
		select {
		case changes <- seen{ch, time.Now()}:
		case <-ctx.Done():
		}
	})()
	c.begin(con, client, u)
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-gone:
			return fmt.Errorf("%s: %w", redact(c.Source.FeatBit.URL), plain(err))
		case s := <-changes:
			if c.Flag != "" && c.Flag != s.change.Key {
				continue
			}
			c.print(con, client, u, s.change, s.at)
		}
	}
}

// begin says what is watched.
func (c *watchCmd) begin(con *console, client *sdk.Client, u *sdk.User) {
	what := "flag " + c.Flag
	if c.Flag == "" {
		n := 0
		for range client.AllFlags(u).All() {
			n++
		}
		what = plural(n, "flag")
	}
	con.printf("watching %s for user %s; the latency is the time since the flag's updatedAt\n", what, u.Key())
	if c.Flag != "" && !client.IsFlagKnown(c.Flag) {
		fmt.Fprintf(con.err, "there is no flag %q yet\n", c.Flag)
	}
}

// report prints when flags stop to be as new as the source's, and when they are
// again. What ends the watching goes to gone.
func (c *watchCmd) report(con *console, gone chan<- error) func(sdk.Status) {
	trouble := ""
	return func(s sdk.Status) {
		switch {
		case s.State == sdk.Off:
			select {
			case gone <- s.Err:
			default:
			}
		case s.State == sdk.OK && trouble != "":
			trouble = ""
			con.alert("ok again")
		case s.State == sdk.Interrupted && s.Err != nil: // without, the first flags just came
			if text := storeWords(s.Err).Error(); text != trouble {
				trouble = text
				con.alert("interrupted: %s", text)
			}
		}
	}
}

func (c *watchCmd) print(con *console, client *sdk.Client, u *sdk.User, ch sdk.FlagChange, at time.Time) {
	stamp := at.Format("15:04:05.000")
	if ch.Removed {
		con.printf("%s  %-24s  removed\n", stamp, ch.Key)
		return
	}
	d := client.StringDetail(ch.Key, u, "")
	value := d.Value
	if d.Err != nil {
		value = d.Reason.String()
	}
	con.printf("%s  %-24s  %s  %s\n", stamp, ch.Key, latency(at.Sub(time.UnixMilli(d.Version))), value)
}

// latency is blank when updatedAt has nothing to do with the change: a segment
// changed, or a file was edited without touching it.
func latency(d time.Duration) string {
	if d < -time.Second || d > time.Hour {
		return "       –"
	}
	text := d.Round(100 * time.Microsecond).String()
	for len(text) < 8 {
		text = " " + text
	}
	return text
}
