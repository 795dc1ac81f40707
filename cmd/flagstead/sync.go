package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/syncer"
)

type syncCmd struct {
	EndWithStdin bool `hidden:"" help:"End when standard input does, as a child of a program that may crash."`

	Store      string        `arg:"" env:"FLAGSTEAD_STORE" placeholder:"STORE" help:"Store to write: redis://host:6379/0, bolt:///path/flags.db or file:///path/flags.json."`
	FeatBit    featbit       `embed:""`
	Accept     bool          `help:"Take the first full state as it is, even if the store would lose most of its flags, or get those of another environment."`
	MaxRemoved string        `default:"50%" placeholder:"PERCENT" help:"Refuse, until FeatBit repeats it, a full state that lacks more of the store's flags than this (default ${default}; 100% refuses none but empty ones)."`
	GuardWait  time.Duration `default:"5s" placeholder:"TIME" help:"When to ask FeatBit again after a refusal (default ${default}). Without --wait, --start should be longer."`

	History int `default:"50" placeholder:"N" help:"How many revisions the store keeps for rollback (default ${default}; 0 keeps none)."`

	Wait  bool          `help:"Start even if FeatBit or the store cannot be reached yet, and keep trying."`
	Start time.Duration `default:"10s" placeholder:"TIME" help:"How long it may take, without --wait, until the store has the first data (default ${default})."`
}

// Run syncs until ctx ends or FeatBit refuses the secret for good.
func (c *syncCmd) Run(ctx context.Context, con *console) error {
	if c.EndWithStdin {
		var cancel context.CancelFunc
		ctx, cancel = endWith(ctx, con.in)
		defer cancel()
	}
	secret, err := c.FeatBit.check(con)
	if err != nil {
		return err
	}
	reach := &contact{}
	percent, err := strconv.ParseFloat(strings.TrimSuffix(c.MaxRemoved, "%"), 64)
	if err != nil || !(percent > 0 && percent <= 100) {
		return usageError(fmt.Sprintf("--max-removed=%s: want a number above 0 and at most 100", c.MaxRemoved))
	}
	if c.GuardWait <= 0 {
		return usageError(fmt.Sprintf("--guard-wait=%v: want a time above zero", c.GuardWait))
	}
	cfg := syncer.Config{URL: c.FeatBit.URL, Secret: secret, Logger: con.loud(), NetDial: reach.dial}
	if c.History < 0 {
		return usageError(fmt.Sprintf("--history=%d: want a number from 0 on", c.History))
	}
	cfg.Guard.MaxRemoved, cfg.Guard.Wait = percent/100, c.GuardWait
	startCtx, cancel := context.WithTimeout(ctx, c.Start)
	defer cancel()
	// A wrong address or secret must leave no trace, so FeatBit is asked first
	// and the store is opened, which may create it, when there is data.
	if !c.Wait {
		if err := c.probe(startCtx, con, cfg); err != nil {
			if ctx.Err() != nil {
				return errInterrupted
			}
			return c.named(err)
		}
	}
	st, err := openStore(con, c.Store, secret)
	if err != nil {
		return err
	}
	defer st.Close()
	if !c.Wait {
		if _, err := st.Load(startCtx, ""); err != nil {
			if ctx.Err() != nil {
				return errInterrupted
			}
			return c.storeError(err)
		}
	}
	cfg.Store, cfg.History = st, c.History
	reach.hangUpWith(ctx)
	return c.run(ctx, startCtx, con, cfg)
}

// run runs the syncer. Without --wait the store must be in sync before start
// ends.
func (c *syncCmd) run(ctx, start context.Context, con *console, cfg syncer.Config) error {
	runCtx, end := context.WithCancelCause(ctx)
	defer end(nil)
	report := c.report(con)
	cfg.OnStatus = report
	if !c.Wait {
		var mu sync.Mutex
		var last error
		started := false
		late := context.AfterFunc(start, func() {
			mu.Lock()
			defer mu.Unlock()
			if !started {
				end(c.late(last))
			}
		})
		cfg.OnStatus = func(s syncer.Status) {
			mu.Lock()
			defer mu.Unlock()
			switch _, final := errors.AsType[*fs.PathError](s.Err); {
			case started || s.State == syncer.OK:
				started = true
				late()
				report(s)
			case final: // no rights, no directory: waiting does not help
				end(c.late(s.Err))
			case s.Err != nil:
				last = s.Err
			}
		}
	}
	s, err := syncer.New(cfg)
	if err != nil {
		return plain(err)
	}
	if c.Accept {
		s.Accept()
	}
	err = s.Run(runCtx)
	if ctx.Err() != nil {
		con.printf("%s  stopped\n", time.Now().Format("15:04:05"))
		return nil
	}
	return c.named(err)
}

// named puts the URL before an error that does not name it.
func (c *syncCmd) named(err error) error {
	if errors.Is(err, syncer.ErrUnauthorized) {
		return fmt.Errorf("%s: %w", redact(c.FeatBit.URL), plain(err))
	}
	return plain(err)
}

// late says why the store has no data after all.
func (c *syncCmd) late(last error) error {
	if last == nil {
		return fmt.Errorf("store %s was not written within %v", redact(c.Store), c.Start)
	}
	if _, ok := errors.AsType[*syncer.RefusedError](last); ok {
		return fmt.Errorf("%s: %w; --accept takes it", redact(c.Store), last)
	}
	if text, ok := strings.CutPrefix(last.Error(), "store: "); ok && !errors.Is(last, context.DeadlineExceeded) {
		last = errors.New(text)
	} else if !ok {
		return c.named(last)
	}
	return c.storeError(last)
}

func (c *syncCmd) storeError(err error) error {
	return fmt.Errorf("store %s: %w", redact(c.Store), storeWords(err))
}

// probe connects once, into memory, and returns why that did not work.
func (c *syncCmd) probe(ctx context.Context, con *console, cfg syncer.Config) error {
	reach := &contact{}
	cfg.NetDial = reach.dial
	ctx, done := context.WithCancelCause(ctx)
	defer done(nil)
	reach.hangUpWith(ctx)
	cfg.Logger = con.log // what it warns of comes again with the store
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
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, ok):
		return nil
	case errors.Is(cause, context.DeadlineExceeded):
		return fmt.Errorf("no flags from %s within %v: %s", redact(c.FeatBit.URL), c.Start, reach.why())
	}
	return err
}

// report prints changes of the syncer's state.
func (c *syncCmd) report(con *console) func(syncer.Status) {
	last := syncer.Initializing
	lastErr := ""
	frozen := false
	return func(s syncer.Status) {
		now := time.Now().Format("15:04:05")
		if is := s.Frozen != nil; is != frozen {
			frozen = is
			if is {
				con.printf("%s  frozen: %s\n", now, frozenWords(*s.Frozen))
			} else {
				con.printf("%s  no longer frozen\n", now)
			}
		}
		switch {
		case s.State == syncer.OK && last != syncer.OK && frozen:
			con.printf("%s  connected: what FeatBit says is held until unfreeze\n", now)
			lastErr = ""
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
