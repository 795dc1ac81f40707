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

	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/syncer"
)

type syncCmd struct {
	EndWithStdin bool `hidden:"" help:"End when standard input does, as a child of a program that may crash."`

	Store      string        `arg:"" env:"FLAGSTEAD_STORE" placeholder:"STORE" help:"Store to write: redis://host:6379/0, bolt:///path/flags.db or file:///path/flags.json."`
	FeatBit    featbit       `embed:""`
	From       string        `placeholder:"STORE" help:"Copy this store instead of asking FeatBit: redis://…, bolt://… or file://…."`
	Once       bool          `help:"End when the store has one full state: for jobs. Exit 0: it has; 1: FeatBit or the store failed, or --start was not enough; 3: the guard refused the state; 4: FeatBit refused the secret."`
	Reconcile  time.Duration `default:"10m" placeholder:"TIME" help:"How often to ask for everything, which finds deletions (default ${default}). SIGUSR1 asks now."`
	Poll       string        `default:"fallback" placeholder:"WHEN" help:"When to poll over HTTP: fallback (while WebSockets do not get through), never or always (default ${default})."`
	Lease      bool          `help:"Stand by while another syncer of the store, also started with --lease, is at work (Redis)."`
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
	defer onReconcileSignal(func() {})() // which ends the process while nobody wants it
	var secret sdk.Secret
	if c.From == "" {
		var err error
		if secret, err = c.FeatBit.check(con); err != nil {
			return err
		}
	} else if con.typed["url"] {
		return usageError("--from and --url can't be used together")
	}
	reach := &contact{}
	percent, err := strconv.ParseFloat(strings.TrimSuffix(c.MaxRemoved, "%"), 64)
	if err != nil || !(percent > 0 && percent <= 100) {
		return usageError(fmt.Sprintf("--max-removed=%s: want a number above 0 and at most 100", c.MaxRemoved))
	}
	if c.GuardWait <= 0 {
		return usageError(fmt.Sprintf("--guard-wait=%v: want a time above zero", c.GuardWait))
	}
	if c.History < 0 {
		return usageError(fmt.Sprintf("--history=%d: want a number from 0 on", c.History))
	}
	if c.Reconcile <= 0 {
		return usageError(fmt.Sprintf("--reconcile=%v: want a time above zero", c.Reconcile))
	}
	poll, ok := map[string]syncer.Poll{"fallback": syncer.PollFallback, "never": syncer.PollNever, "always": syncer.PollAlways}[c.Poll]
	if !ok {
		return usageError(fmt.Sprintf("--poll=%s: want fallback, never or always", c.Poll))
	}
	if c.Lease && c.Once {
		return usageError("--lease and --once can't be used together")
	}
	cfg := syncer.Config{Logger: con.loud(), NetDial: reach.dial, Reconcile: c.Reconcile, Poll: poll}
	if c.From == "" {
		cfg.URL, cfg.Secret = c.FeatBit.URL, secret
	} else {
		from, err := openStore(con, c.From, "")
		if err != nil {
			return fmt.Errorf("--from: %w", err)
		}
		defer from.Close()
		cfg.From = from
	}
	cfg.Guard.MaxRemoved, cfg.Guard.Wait = percent/100, c.GuardWait
	startCtx, cancel := context.WithTimeout(ctx, c.Start)
	defer cancel()
	// A wrong address or secret must leave no trace, so FeatBit is asked first
	// and the store is opened, which may create it, when there is data.
	if !c.Wait {
		if err := c.look(startCtx, con, cfg); err != nil {
			if ctx.Err() != nil {
				return errInterrupted
			}
			return c.coded(err)
		}
	}
	st, err := openStoreTo(con, c.Store, true, secret)
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
	if _, ok := st.(store.Leaser); c.Lease && !ok {
		return usageError(fmt.Sprintf("--lease: %s has no leases", redact(c.Store)))
	}
	cfg.Store, cfg.History, cfg.Lease = st, c.History, c.Lease
	reach.hangUpWith(ctx)
	if c.Once {
		if c.Wait {
			startCtx = ctx
		}
		return c.once(ctx, startCtx, con, cfg)
	}
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
			case started || s.State == syncer.OK || errors.Is(s.Err, syncer.ErrStandby):
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
	defer onReconcileSignal(func() {
		con.printf("%s  asking for everything\n", time.Now().Format("15:04:05"))
		s.Reconcile()
	})()
	err = s.Run(runCtx)
	if ctx.Err() != nil {
		con.printf("%s  stopped\n", time.Now().Format("15:04:05"))
		return nil
	}
	return c.named(err)
}

// once fills the store one time.
func (c *syncCmd) once(ctx, start context.Context, con *console, cfg syncer.Config) error {
	cfg.Guard.Off = c.Accept
	st, err := syncer.Once(start, cfg)
	_, refused := errors.AsType[*syncer.RefusedError](err)
	switch {
	case err == nil:
		con.printf("%s  in sync: %s is equal to %s\n", time.Now().Format("15:04:05"), redact(c.Store), c.source())
		return nil
	case ctx.Err() != nil:
		return errInterrupted
	case refused:
		return codedError{c.late(err), exitRefused}
	case errors.Is(err, context.DeadlineExceeded):
		return c.late(st.Err)
	}
	return c.coded(err)
}

// coded is named, with the status that --once promises.
func (c *syncCmd) coded(err error) error {
	if c.Once && errors.Is(err, syncer.ErrUnauthorized) {
		return codedError{c.named(err), exitForbidden}
	}
	return c.named(err)
}

// source names what is synced from.
func (c *syncCmd) source() string {
	if c.From != "" {
		return redact(c.From)
	}
	return "FeatBit"
}

// look returns why there are no flags at the source, before the store is touched.
func (c *syncCmd) look(ctx context.Context, con *console, cfg syncer.Config) error {
	if cfg.From != nil {
		snap, err := cfg.From.Load(ctx, "")
		switch {
		case err != nil:
			return fmt.Errorf("store %s: %w", redact(c.From), storeWords(err))
		case snap.Rev == "":
			return fmt.Errorf("store %s: nothing was ever written to it", redact(c.From))
		}
		return nil
	}
	err := c.probe(ctx, con, cfg)
	if err == nil || cfg.Poll != syncer.PollFallback || errors.Is(err, syncer.ErrUnauthorized) || ctx.Err() != nil {
		return err
	}
	cfg.Poll = syncer.PollAlways
	if c.probe(ctx, con, cfg) == nil {
		return nil
	}
	return err
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
	last, transport := syncer.Initializing, ""
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
			con.printf("%s  in sync: %s is equal to %s\n", now, redact(c.Store), c.source())
			lastErr = ""
		case errors.Is(s.Err, syncer.ErrStandby) && s.State != syncer.Off:
			if lastErr != s.Err.Error() {
				lastErr = s.Err.Error()
				con.printf("%s  %v\n", now, s.Err)
			}
		case s.Err != nil && s.State != syncer.Off && s.Err.Error() != lastErr:
			lastErr = s.Err.Error()
			con.printf("%s  interrupted: %v; trying again\n", now, s.Err)
		}
		if s.State == syncer.OK && s.Transport != transport {
			if s.Transport == syncer.TransportPoll {
				con.printf("%s  polling\n", now)
			} else if transport == syncer.TransportPoll {
				con.printf("%s  polling no longer: the stream gets through\n", now)
			}
			transport = s.Transport
		}
		last = s.State
	}
}
