package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/flagstead/flagstead/internal/forward"
	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/spool"
	"github.com/flagstead/flagstead/relay"
)

// events keep what SDKs report until FeatBit has it.
type events struct {
	*forward.Forwarder
	fleet   *Fleet
	spool   *spool.Spool
	running sync.WaitGroup
	stopRun context.CancelFunc
	client  *http.Client
}

// unknownFor is how long events wait for the secret of their environment, which may
// come with FeatBit only, after a restart while it was away.
const unknownFor = 24 * time.Hour

// eventsURL returns where events go, or "".
func (c *Config) eventsURL() (string, error) {
	if c.FeatBit.Events != "" || c.FeatBit.URL == "" {
		return c.FeatBit.Events, nil
	}
	base, err := protocol.BaseURL(c.FeatBit.URL, "http")
	if err != nil {
		return "", err
	}
	return base.String(), nil
}

// newEvents returns nil if events are not to be forwarded.
func newEvents(f *Fleet, cfg *Config) (*events, error) {
	url, err := cfg.eventsURL()
	if err != nil {
		return nil, err
	}
	wanted := cfg.Events.Forward
	switch {
	case wanted != nil && !*wanted, wanted == nil && (url == "" || cfg.Relay.Listen == ""):
		return nil, nil
	case url == "":
		return nil, errors.New("events.forward: there is neither featbit.events nor featbit.url to forward to")
	}
	tls, err := cfg.FeatBit.TLS.config()
	if err != nil {
		return nil, fmt.Errorf("featbit.tls: %w", err)
	}
	e := &events{fleet: f}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig, transport.MaxIdleConnsPerHost = tls, 8
	e.client = &http.Client{Transport: transport, Timeout: 10 * time.Second}
	if e.spool, err = spool.Open(cfg.Events.Spool, spool.Options{MaxBytes: int64(cfg.Events.MaxSize), Logger: f.log}); err != nil {
		return nil, fmt.Errorf("events.spool: %w", err)
	}
	e.Forwarder, err = forward.New(forward.Config{Spool: e.spool, URL: url, Secret: f.secretOf, Logger: f.log, Client: e.client, UnknownFor: unknownFor})
	if err != nil {
		e.abandon()
		return nil, err
	}
	return e, nil
}

// secretOf returns a secret that the environment's events are delivered with.
func (f *Fleet) secretOf(id string) (protocol.Secret, bool) {
	for _, e := range f.all() {
		p := e.spec()
		if p.id != id {
			continue
		}
		server, client := p.secrets()
		for _, s := range append(server, client...) {
			return s, true
		}
	}
	if f.proxy != nil {
		return f.proxy.secretOf(id)
	}
	return "", false
}

// start begins to deliver.
func (e *events) start() {
	if e == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	e.stopRun = cancel
	e.running.Go(func() { _ = e.Run(ctx) })
}

// stop delivers what it can, keeps the rest, and gives the spool back.
func (e *events) stop() {
	if e == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), shutdownPatience)
	defer cancel()
	if err := e.Close(ctx); err != nil {
		e.fleet.log.Warn("not all events could be delivered in time", "pending", e.Stats().Pending, "kept", e.spool.Durable(), "error", err)
	}
	e.stopRun()
	e.running.Wait()
	e.abandon()
}

// abandon gives the spool back.
func (e *events) abandon() {
	if e == nil {
		return
	}
	e.client.CloseIdleConnections()
	if err := e.spool.Close(); err != nil {
		e.fleet.log.Warn("the spool of events could not be closed", "error", err)
	}
}

// A sink is the relay's, which knows its own words for a spool that is full.
type sink struct{ *events }

// Accept keeps insights.
func (s sink) Accept(ctx context.Context, env string, insights []json.RawMessage) error {
	err := s.events.Accept(ctx, env, insights)
	if errors.Is(err, spool.ErrFull) {
		return fmt.Errorf("%w: %w", relay.ErrBusy, err)
	}
	return err
}
