package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"sync"
	"syscall"
	"time"

	"github.com/flagstead/flagstead/internal/fleet"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
)

type serveCmd struct {
	Config string `short:"c" env:"FLAGSTEAD_CONFIG" placeholder:"FILE" type:"path" required:"" help:"Configuration, see docs/operations.md. It is read again when it changes and on SIGHUP."`
	Check  bool   `help:"Only say whether the configuration is right."`

	URL    string `env:"FLAGSTEAD_URL" placeholder:"URL" help:"FeatBit's evaluation server, in place of featbit.url."`
	Events string `env:"FLAGSTEAD_EVENTS_URL" placeholder:"URL" help:"Where events go, in place of featbit.events."`
	Listen string `env:"FLAGSTEAD_LISTEN" placeholder:"ADDR" help:"Where SDKs are served, in place of relay.listen."`
	Admin  string `env:"FLAGSTEAD_ADMIN_LISTEN" placeholder:"ADDR" help:"Where operators look, in place of admin.listen; off for nowhere."`
	State  string `env:"FLAGSTEAD_STATE" placeholder:"DIR" type:"path" help:"Directory for what must survive a restart, in place of state."`

	EndWithStdin bool `hidden:"" help:"End when standard input does, as a child of a program that may crash."`
}

// watchEvery is how often the configuration, and what it names, is looked at. They
// are small, and where they are mounted from a Kubernetes secret no event may come.
const watchEvery = 2 * time.Second

// Run runs what the configuration says until ctx ends.
func (c *serveCmd) Run(ctx context.Context, con *console) error {
	cfg, err := c.read()
	if err != nil {
		return plain(err)
	}
	if c.Check {
		con.printf("%s is right: %s\n", c.Config, cfg.Summary())
		return nil
	}
	log := c.log(con, cfg.Log)
	if c.EndWithStdin {
		var cancel context.CancelFunc
		ctx, cancel = endWith(ctx, con.in)
		defer cancel()
	}
	f, err := fleet.New(cfg, fleet.Options{
		Logger:  log,
		Version: version(),
		Open: func(r fleet.OpenRequest) (store.DataStore, error) {
			if r.URL == fleet.MemoryStore {
				return memory.New(), nil
			}
			return openFor(con, log, r)
		},
		Ready: func(a fleet.Addresses) {
			log.Info("serving", "relay", a.Relay, "admin", a.Admin, "version", version())
		},
	})
	if err != nil {
		return plain(err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGUSR1)
	defer signal.Stop(signals)
	watchCtx, stop := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer stop()
	watching.Go(func() { c.watch(watchCtx, f, log, cfg.Clone(), signals) })
	return plainOrNil(f.Run(ctx))
}

func plainOrNil(err error) error {
	if err == nil {
		return nil
	}
	return plain(err)
}

// read returns the configuration with what the command line and the environment
// have in place of it.
func (c *serveCmd) read() (*fleet.Config, error) {
	cfg, err := fleet.Read(c.Config, os.LookupEnv)
	if err != nil {
		return nil, err
	}
	for _, o := range []struct {
		given string
		field *string
	}{
		{c.URL, &cfg.FeatBit.URL}, {c.Events, &cfg.FeatBit.Events}, {c.Listen, &cfg.Relay.Listen}, {c.Admin, &cfg.Admin.Listen},
		{c.State, &cfg.State},
	} {
		if o.given != "" {
			*o.field = o.given
		}
	}
	if err := cfg.Complete(); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Config, err)
	}
	return cfg, nil
}

// watch reads the configuration again and again. One that is wrong changes nothing.
func (c *serveCmd) watch(ctx context.Context, f *fleet.Fleet, log *slog.Logger, have *fleet.Config, signals <-chan os.Signal) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	said := ""
	var seen *fleet.Config
	for {
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case s := <-signals:
			if s == syscall.SIGUSR1 {
				f.Reconcile("")
				log.Info("asked FeatBit for everything")
				continue
			}
			asked, said = true, ""
		}
		cfg, err := c.read()
		switch {
		case err != nil && err.Error() != said:
			said = err.Error()
			log.Error("the configuration is wrong; what was there before counts", "error", plain(err))
			f.Refused()
		case err != nil:
		case !asked && !reflect.DeepEqual(cfg, have) && !reflect.DeepEqual(cfg, seen):
			seen = cfg.Clone() // it may be half of what is being written: once more
		case !asked && reflect.DeepEqual(cfg, have):
			if said != "" {
				log.Info("the configuration is right again")
				said = ""
			}
		default:
			said = ""
			have = cfg.Clone()
			if restart := f.Reload(cfg); len(restart) > 0 {
				log.Warn("the configuration was read again; these parts need a restart to count", "parts", restart)
			} else {
				log.Info("the configuration was read again")
			}
		}
	}
}

// log returns the log that the command line or else the configuration asks for.
func (c *serveCmd) log(con *console, l fleet.Log) *slog.Logger {
	if con.asked {
		return con.log
	}
	var level slog.Level
	_ = level.UnmarshalText([]byte(l.Level)) // Complete has looked at it
	con.json = l.Format == "json"            // also of why it ends
	return slog.New(newHandler(con.err, l.Format == "json", level))
}
