package sdk

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/flagstead/flagstead/internal/insight"
	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/snapshot"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/syncer"
)

// A Secret is a FeatBit environment secret. Whatever prints it prints a
// placeholder.
type Secret = protocol.Secret

// DataStore is what a store implements, see package store.
type DataStore = store.DataStore

// Config says where a client's flags come from and where its events go. One of
// three things is required: a Store to read, a StreamingURL to connect to, or
// Offline. Everything else has useful zero values. New copies the Config.
type Config struct {
	// Store, without StreamingURL, is where flags are read from: a store that
	// some syncer fills. The client follows it and neither writes nor closes
	// it.
	//
	// With StreamingURL, the client's own syncer writes into it (it must be a
	// store.DataStore then) instead of into memory, so that the flags survive
	// the process.
	Store store.Reader

	// StreamingURL is FeatBit's evaluation server, such as
	// wss://featbit.example (http and https are taken as ws and wss).
	// EnvSecret is required with it.
	StreamingURL string

	// EnvSecret is the environment's server secret. It authorises the
	// connection and the events.
	EnvSecret Secret

	// EventURL is the server that gets events, such as https://featbit.example.
	// Empty means the host of StreamingURL; without either no events are sent,
	// unless a Store is read and EnvSecret is set, which is an error.
	EventURL string

	// DisableEvents sends no events at all.
	DisableEvents bool

	// Offline uses no network: flags come from Bootstrap or Store, and no
	// events are sent.
	Offline bool

	// Bootstrap is a data-sync document, as GET
	// /api/public/sdk/server/latest-all returns it, that the client starts
	// with. With StreamingURL it serves until FeatBit's data arrives. With
	// Store it is an error. BootstrapFile names a file with it, which is read
	// once, by New.
	Bootstrap     []byte
	BootstrapFile string

	// Logger gets changes of state, never evaluations. Nil is silent.
	Logger *slog.Logger

	// OnStatus, if set, is called after each change of the status, from one
	// goroutine at a time. It must not block and must not call Close.
	OnStatus func(Status)

	// Follow tunes how the store is followed.
	Follow store.FollowOptions

	// EventCapacity is how many events are held until they are delivered; more
	// are dropped and counted. Zero means 10,000.
	EventCapacity int

	// FlushInterval is the time between deliveries of events. Zero means one
	// second.
	FlushInterval time.Duration

	// HTTPClient delivers events. Nil means one with a timeout of 10 seconds
	// that uses TLS and Proxy. It is not closed.
	HTTPClient *http.Client

	// TLS configures connections to FeatBit. Nil means Go's defaults, which
	// verify. It is cloned.
	TLS *tls.Config

	// Proxy chooses a proxy per request; nil means http.ProxyFromEnvironment.
	Proxy func(*http.Request) (*url.URL, error)

	// Sync tunes the client's own syncer. URL, Secret, Store, Logger, OnStatus,
	// TLS and Proxy in it are ignored.
	Sync syncer.Config
}

// plan is a checked Config.
type plan struct {
	Config
	endpoint string // for events; empty: none
	direct   bool
}

func (cfg Config) check() (*plan, error) {
	p := &plan{Config: cfg, direct: cfg.StreamingURL != "" && !cfg.Offline}
	if p.Logger == nil {
		p.Logger = slog.New(slog.DiscardHandler)
	}
	hasBootstrap := cfg.Bootstrap != nil || cfg.BootstrapFile != ""
	switch {
	case cfg.Bootstrap != nil && cfg.BootstrapFile != "":
		return nil, errors.New("sdk: Config has both Bootstrap and BootstrapFile")
	case hasBootstrap && cfg.Store != nil:
		return nil, errors.New("sdk: Config has both Store and Bootstrap")
	case cfg.Store == nil && !p.direct && !hasBootstrap:
		return nil, errors.New("sdk: Config needs a Store to read, a StreamingURL to connect to, or Offline with Bootstrap or BootstrapFile")
	case hasBootstrap && !p.direct && !cfg.Offline:
		return nil, errors.New("sdk: Config has Bootstrap alone; set Offline, or a StreamingURL")
	}
	if p.direct {
		if _, err := protocol.BaseURL(cfg.StreamingURL, "ws"); err != nil {
			return nil, fmt.Errorf("sdk: StreamingURL: %w", err)
		}
		if _, err := cfg.EnvSecret.EnvID(); err != nil {
			return nil, fmt.Errorf("sdk: EnvSecret: %w", err)
		}
		if _, ok := cfg.Store.(store.DataStore); cfg.Store != nil && !ok {
			return nil, errors.New("sdk: Store must be a store.DataStore when StreamingURL is set, because it is written to")
		}
	}
	return p, p.checkEvents()
}

func (p *plan) checkEvents() error {
	if p.Offline || p.DisableEvents {
		return nil
	}
	target, field := p.EventURL, "EventURL"
	if target == "" {
		target, field = p.StreamingURL, "StreamingURL"
	}
	if target == "" {
		if p.EnvSecret != "" {
			return errors.New("sdk: Config has an EnvSecret but no EventURL; set it, or DisableEvents")
		}
		return nil
	}
	base, err := protocol.BaseURL(target, "http")
	if err != nil {
		return fmt.Errorf("sdk: %s: %w", field, err)
	}
	if _, err := p.EnvSecret.EnvID(); err != nil {
		return fmt.Errorf("sdk: EnvSecret: %w", err)
	}
	base.Path += protocol.InsightPath
	p.endpoint = base.String()
	return nil
}

func (p *plan) pipeline() *insight.Pipeline {
	client := p.HTTPClient
	if client == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		if p.TLS != nil {
			t.TLSClientConfig = p.TLS.Clone()
		}
		if p.Proxy != nil {
			t.Proxy = p.Proxy
		}
		client = &http.Client{Timeout: 10 * time.Second, Transport: t}
	}
	return insight.New(insight.Config{
		Endpoint: p.endpoint,
		Secret:   p.EnvSecret,
		Client:   client,
		Logger:   p.Logger,
		Capacity: p.EventCapacity,
		Interval: p.FlushInterval,
	})
}

// bootstrap returns the items that the client starts with.
func (p *plan) bootstrap() ([]store.Item, error) {
	text := p.Bootstrap
	if p.BootstrapFile != "" {
		var err error
		if text, err = readFile(p.BootstrapFile); err != nil {
			return nil, fmt.Errorf("sdk: BootstrapFile: %w", err)
		}
	}
	if text == nil {
		return nil, nil
	}
	items, err := snapshot.Items(text)
	if err != nil {
		if p.BootstrapFile != "" {
			return nil, fmt.Errorf("sdk: BootstrapFile %s: %w", p.BootstrapFile, err)
		}
		return nil, fmt.Errorf("sdk: Bootstrap: %w", err)
	}
	return items, nil
}
