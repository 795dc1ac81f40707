package main

import (
	"context"
	"time"

	"github.com/flagstead/flagstead/sdk"
)

type watchCmd struct {
	Flag   string        `arg:"" optional:"" help:"Flag to watch. Default: all."`
	Source source        `embed:""`
	User   string        `short:"u" default:"watch" placeholder:"KEY" help:"Key of the user whose values are shown."`
	Wait   time.Duration `default:"5s" placeholder:"TIME" help:"How long to wait for flags."`
}

// Run prints changes until ctx ends.
func (c *watchCmd) Run(ctx context.Context, con *console) error {
	u, err := sdk.NewUser(c.User)
	if err != nil {
		return err
	}
	type seen struct {
		change sdk.FlagChange
		at     time.Time
	}
	changes := make(chan seen, 1024)
	client, release, err := c.Source.open(ctx, con, c.Wait, nil)
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
	con.printf("watching %s; the latency is the time since the flag's updatedAt\n", plural(client.Status().Flags, "flag"))
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-changes:
			if c.Flag != "" && c.Flag != s.change.Key {
				continue
			}
			c.print(con, client, u, s.change, s.at)
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
