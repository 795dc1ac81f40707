package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/syncer"
)

type syncCmd struct {
	Store   string        `arg:"" env:"FLAGSTEAD_STORE" placeholder:"STORE" help:"Store to write: redis://host:6379/0, bolt:///path/flags.db or file:///path/flags.json."`
	FeatBit featbit       `embed:""`
	Wait    bool          `help:"Start even if FeatBit or the store cannot be reached yet, and keep trying."`
	Start   time.Duration `default:"10s" placeholder:"TIME" help:"How long the first data may take without --wait."`
}

// Run syncs until ctx ends or FeatBit refuses the secret for good.
func (c *syncCmd) Run(ctx context.Context, con *console) error {
	secret, err := c.FeatBit.check()
	if err != nil {
		return err
	}
	cfg := syncer.Config{URL: c.FeatBit.URL, Secret: secret, Logger: con.log}
	// A wrong address or secret must leave no trace, so FeatBit is asked first
	// and the store is opened, which may create it, when there is data.
	if !c.Wait {
		if err := c.probe(ctx, cfg); err != nil {
			return plain(err)
		}
	}
	st, err := openStore(c.Store, false)
	if err != nil {
		return err
	}
	defer st.Close()
	if !c.Wait {
		loadCtx, cancel := context.WithTimeout(ctx, c.Start)
		_, err := st.Load(loadCtx, "")
		cancel()
		if err != nil {
			return fmt.Errorf("store %s: %w", redact(c.Store), err)
		}
	}
	cfg.Store = st
	cfg.OnStatus = c.report(con, st)
	s, err := syncer.New(cfg)
	if err != nil {
		return plain(err)
	}
	err = s.Run(ctx)
	if ctx.Err() != nil {
		con.printf("%s  stopped\n", time.Now().Format("15:04:05"))
		return nil
	}
	return plain(err)
}

// probe connects once, into memory, and returns why that did not work.
func (c *syncCmd) probe(ctx context.Context, cfg syncer.Config) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.Start, fmt.Errorf("%s sent no data within %v", redact(c.FeatBit.URL), c.Start))
	defer cancel()
	ctx, done := context.WithCancelCause(ctx)
	defer done(nil)
	scratch := memory.New()
	defer scratch.Close()
	cfg.Store = scratch
	ok := errors.New("ok")
	cfg.OnStatus = func(s syncer.Status) {
		switch {
		case s.State == syncer.OK:
			done(ok)
		case s.Err != nil:
			done(s.Err)
		}
	}
	s, err := syncer.New(cfg)
	if err != nil {
		return err
	}
	err = s.Run(ctx)
	if cause := context.Cause(ctx); errors.Is(cause, ok) {
		return nil
	}
	return err
}

// report prints changes of the syncer's state.
func (c *syncCmd) report(con *console, st store.Reader) func(syncer.Status) {
	last := syncer.Initializing
	lastErr := ""
	return func(s syncer.Status) {
		now := time.Now().Format("15:04:05")
		switch {
		case s.State == syncer.OK && last != syncer.OK:
			con.printf("%s  in sync: %s is equal to FeatBit\n", now, redact(c.Store))
			lastErr = ""
		case s.Err != nil && s.State != syncer.Off && s.Err.Error() != lastErr:
			lastErr = s.Err.Error()
			con.printf("%s  interrupted: %v; trying again\n", now, s.Err)
		}
		last = s.State
	}
}
