package main

import (
	"context"
	"io"
	"log/slog"
)

// logging says what is logged to stderr, and how.
type logging struct {
	Verbose   bool   `short:"v" help:"Log changes of state to stderr: --log-level=info."`
	LogFormat string `enum:"text,json" default:"text" env:"FLAGSTEAD_LOG_FORMAT" placeholder:"FORMAT" help:"How to log to stderr: text, or json, one object per line (default ${default})."`
	LogLevel  string `enum:",debug,info,warn,error" default:"" env:"FLAGSTEAD_LOG_LEVEL" placeholder:"LEVEL" help:"The least that is logged: debug, info, warn or error (default warn; info for json)."`
}

// set gives con the logs that were asked for.
func (l *logging) set(con *console) {
	level, asked := slog.LevelWarn, true
	switch {
	case l.LogLevel != "":
		_ = level.UnmarshalText([]byte(l.LogLevel)) // one of the four
	case l.Verbose, l.LogFormat == "json":
		level = slog.LevelInfo
	default:
		asked = false
	}
	con.json = l.LogFormat == "json"
	con.asked = asked
	if asked {
		con.log = slog.New(newHandler(con.err, con.json, level))
	}
}

func newHandler(w io.Writer, json bool, level slog.Level) slog.Handler {
	o := &slog.HandlerOptions{Level: level}
	if json {
		return slog.NewJSONHandler(w, o)
	}
	return slog.NewTextHandler(w, o)
}

// warnings returns a log that people should see without asking for one.
func (c *console) warnings() *slog.Logger {
	if c.asked {
		return c.log
	}
	plain := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}
	return slog.New(slog.NewTextHandler(c.err, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: plain}))
}

// loud returns the log that was asked for, or that of warnings.
func (c *console) loud() *slog.Logger {
	if c.asked || c.log.Enabled(context.Background(), slog.LevelInfo) {
		return c.log
	}
	return c.warnings()
}
