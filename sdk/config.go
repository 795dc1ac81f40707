package sdk

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/flagstead/flagstead/internal/flags"
	"github.com/flagstead/flagstead/internal/insight"
	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/snapshot"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/syncer"
)

// A Secret is a FeatBit environment secret. Whatever prints it, or a Config, prints
// a placeholder, except that fmt looks into unexported fields: do not print a
// struct of your own that has a Config in one.
type Secret = protocol.Secret

// DataStore is what a store implements, see package store.
type DataStore = store.DataStore

// A DataSource feeds a client's flags in place of FeatBit's stream: it writes
// items, for instance those of [ParseItems], into st, by full changes or
// patches, until ctx ends. It may report how its source stands, from one
// goroutine at a time; its first commit should be followed by OK. Each OK also
// confirms that the flags are current, so with Config.MaxAge it has to be reported
// again before they become too old. If it reports Off, or returns before ctx ends, the client's state is Off with that error, for
// good.
type DataSource func(ctx context.Context, st DataStore, report func(State, error)) error

// Config says where a client's flags come from and where its events go. One of
// these is required: a Store to read, a StreamingURL to connect to, a
// DataSource, or Offline. Everything else has useful zero values. New copies the
// Config; what it points to stays the caller's, who closes it after the client.
type Config struct {
	// StartWait is how long New waits for the first flags. Zero means not at
	// all. New returns a client in any case.
	StartWait time.Duration

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

	// DataSource, if set, fills the client's memory, or Store, in place of a
	// stream. StreamingURL must be empty.
	DataSource DataSource

	// EnvSecret is the environment's server secret. It authorises the
	// connection and the events.
	EnvSecret Secret

	// EventURL is the server that gets events, such as https://featbit.example.
	// Empty means the host of StreamingURL; without either no events are sent,
	// unless a Store is read and EnvSecret is set, which is an error.
	EventURL string

	// DisableEvents sends no events at all.
	DisableEvents bool

	// EventSink, if set, gets the events instead of FeatBit, until Close.
	EventSink EventSink

	// Outbox, if set, takes the events in place of an event server, for a process
	// without a way to FeatBit: whoever syncs that store delivers them. It may be
	// the Store itself, if the process may write to its outbox. Delivered, for
	// [Client.EventStats], is what the outbox took. New does not close it.
	Outbox store.OutboxWriter

	// Offline uses no network: flags come from Bootstrap, Store or
	// [Client.LoadJSON], and no events are sent, except to an EventSink. Without
	// a Store an offline client is ready at once, even if it knows no flags yet.
	Offline bool

	// Bootstrap is a data-sync document, as GET
	// /api/public/sdk/server/latest-all returns it, that the client starts
	// with. With StreamingURL or DataSource it serves until their data
	// arrives. With Store it is an error. BootstrapFile names a file with it,
	// which is read once, by New.
	Bootstrap     []byte
	BootstrapFile string

	// Defaults are values by flag key that are given, instead of the default
	// in the call, when the flag cannot be evaluated: a bool, a string, a number,
	// or anything that encoding/json encodes, as the value of a json flag. They
	// are read like the values of flags of those types; one that cannot be read
	// as the type asked for does not count.
	Defaults map[string]any

	// MaxAge is how old flags may become, counted from when the source last
	// confirmed that they are current (Status.Confirmed), or from this client's
	// start if nobody ever did. Older ones make the State Interrupted with
	// [ErrTooOld], and WhenTooOld says what is served then. Zero means no limit.
	// What is confirmed is told every few seconds, and usually 5 to 15 seconds old,
	// so a MaxAge below 20 seconds strikes while all is well; that is logged. While
	// an operator has frozen the store and a syncer is there, no flags are too old:
	// they are what is meant to be served. A store
	// whose heartbeat this client may not read, which is
	// logged, counts as one that nobody confirms.
	MaxAge     time.Duration
	WhenTooOld StalePolicy

	// Logger gets changes of state, never evaluations. Nil is silent.
	Logger *slog.Logger

	// OnStatus, if set, is called after each change of the status, from one
	// goroutine at a time. It must not block, and must not call Close, Get or
	// SetConfig. The first calls may come before New has returned.
	OnStatus func(Status)

	// Report makes the client tell its Store, which must be a store.ReportWriter,
	// which state it works on: after each change, at most some per second, and every
	// five seconds, until Close. Operators see who lags ("flagstead readers"). It
	// needs the right to write reports, which readers do without otherwise. A report
	// that cannot be written is logged and harms nothing.
	//
	// ReportName is what the client calls itself, where no two of a Store may have
	// the same name; empty means the host's name, the process id and a number.
	// ReportVersion is that of the program; empty means what the build says.
	Report        bool
	ReportName    string
	ReportVersion string

	// Follow tunes how the store is followed. A reader's HoldBack is 5 seconds
	// unless it is set; below zero nothing is held back.
	Follow store.FollowOptions

	// EventCapacity is how many events are held until they are collected for
	// delivery; more are dropped and counted. Beside these, as many may be
	// collected, and some requests of up to 50 on their way. They are collected
	// early when there are many, at most every 50 ms. Zero means 10,000.
	EventCapacity int

	// FlushInterval is the time between deliveries of events. Zero means one
	// second.
	FlushInterval time.Duration

	// EventAttempts is how often the delivery of a request is tried, which holds
	// up to 50 events. Timeouts, 408, 429 and 5xx are worth another attempt; a
	// 401 ends the sending of events. Zero means 10. EventRetryInterval is the
	// pause before the second attempt, doubled for each further one up to 30
	// seconds, and jittered. Zero means 100 ms.
	EventAttempts      int
	EventRetryInterval time.Duration

	// GzipEvents compresses the bodies of events, for event servers that take
	// it. FeatBit's own does not.
	GzipEvents bool

	// ConnectTimeout bounds opening a connection, to the stream up to its first
	// byte, to the event server without TLS. Zero means 10 seconds.
	ConnectTimeout time.Duration

	// HTTPTimeout bounds one delivery of events, all in all, to an Outbox as well.
	// Zero means 10 seconds.
	HTTPTimeout time.Duration

	// HTTPClient delivers events. Nil means one that uses HTTPTimeout,
	// ConnectTimeout, TLS and Proxy, which are ignored otherwise. It is not
	// closed.
	HTTPClient *http.Client

	// TLS configures connections to FeatBit, see also [LoadTLS]. Nil means Go's
	// defaults, which verify; not to verify is logged as a warning. It is
	// cloned.
	TLS *tls.Config

	// Proxy chooses a proxy for the stream and the events; nil means
	// http.ProxyFromEnvironment. A proxy's URL is http:// or socks5://, with
	// user and password in it if it asks for them. For one proxy use
	// [http.ProxyURL].
	Proxy func(*http.Request) (*url.URL, error)

	// Sync tunes the client's own syncer. URL, Secret, Store, Logger, OnStatus,
	// TLS and Proxy in it are ignored.
	Sync syncer.Config
}

// LoadTLS reads PEM files into a TLS configuration: certificates of authorities
// that servers are verified by, instead of the system's, and a certificate with
// its key to identify this client by. Each name may be empty, certFile and
// keyFile only together. The caller owns the result.
func LoadTLS(caFile, certFile, keyFile string) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		text, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("sdk: authorities: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("sdk: authorities: %s holds no PEM certificate", caFile)
		}
	}
	if certFile == "" && keyFile == "" {
		return cfg, nil
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("sdk: client certificate %q with key %q: %w", certFile, keyFile, err)
	}
	cfg.Certificates = []tls.Certificate{pair}
	return cfg, nil
}

// ParseItems returns the items of a data-sync document, for a [DataSource] or to
// fill a store. The error says what cannot be read, and where.
func ParseItems(text []byte) ([]store.Item, error) {
	items, err := snapshot.Items(text)
	if err != nil {
		return nil, fmt.Errorf("sdk: %w", err)
	}
	return items, nil
}

// plan is a checked Config.
type plan struct {
	Config
	endpoint  string                      // for events; empty: none
	sink      EventSink                   // for events, instead; nil: none
	outbox    bool                        // events go to Outbox
	direct    bool                        // the client fills its store
	streaming bool                        // from FeatBit's stream
	defaults  map[string]*flags.Variation // by flag key
	http      *http.Client                // of the events, once they are sent
}

func (cfg Config) check() (*plan, error) {
	p := &plan{Config: cfg}
	if cfg.Offline {
		p.DataSource = nil
	}
	p.streaming = cfg.StreamingURL != "" && !cfg.Offline
	p.direct = p.streaming || p.DataSource != nil
	if p.Logger == nil {
		p.Logger = slog.New(slog.DiscardHandler)
	}
	hasBootstrap := cfg.Bootstrap != nil || cfg.BootstrapFile != ""
	switch {
	case cfg.Bootstrap != nil && cfg.BootstrapFile != "":
		return nil, errors.New("sdk: Config has both Bootstrap and BootstrapFile")
	case hasBootstrap && cfg.Store != nil:
		return nil, errors.New("sdk: Config has both Store and Bootstrap")
	case cfg.StreamingURL != "" && cfg.DataSource != nil:
		return nil, errors.New("sdk: Config has both StreamingURL and DataSource")
	case cfg.MaxAge < 0:
		return nil, fmt.Errorf("sdk: MaxAge is %v, want a time above zero, or zero for no limit", cfg.MaxAge)
	case cfg.MaxAge > 0 && !p.direct && cfg.Store == nil:
		return nil, errors.New("sdk: Config has a MaxAge but nothing that could confirm how old the flags are")
	case cfg.WhenTooOld > ServeDefaults:
		return nil, fmt.Errorf("sdk: WhenTooOld is %d, want ServeStale or ServeDefaults", cfg.WhenTooOld)
	case hasBootstrap && !p.direct && !cfg.Offline:
		return nil, errors.New("sdk: Config has Bootstrap alone; set Offline, or a StreamingURL")
	case cfg.Store == nil && !p.direct && !cfg.Offline:
		return nil, errors.New("sdk: Config needs a Store to read, a StreamingURL to connect to, a DataSource, or Offline")
	}
	if _, ok := cfg.Store.(store.DataStore); p.direct && cfg.Store != nil && !ok {
		return nil, errors.New("sdk: Store must be a store.DataStore when StreamingURL or DataSource is set, because it is written to")
	}
	if err := p.checkReport(); err != nil {
		return nil, err
	}
	if p.streaming {
		if _, err := protocol.BaseURL(cfg.StreamingURL, "ws"); err != nil {
			return nil, fmt.Errorf("sdk: StreamingURL: %w", err)
		}
		if _, err := cfg.EnvSecret.EnvID(); err != nil {
			return nil, fmt.Errorf("sdk: EnvSecret: %w", err)
		}
	}
	if cfg.TLS != nil && cfg.TLS.InsecureSkipVerify {
		p.Logger.Warn("certificates are not verified: whoever is between this process and FeatBit can read the secret and change flags")
	}
	if cfg.MaxAge > 0 && cfg.MaxAge < leastMaxAge {
		p.Logger.Warn("MaxAge is so short that flags are too old while all is well", "maxAge", cfg.MaxAge, "least", leastMaxAge)
	}
	if err := p.checkDefaults(); err != nil {
		return nil, err
	}
	return p, p.checkEvents()
}

func (p *plan) checkDefaults() error {
	p.defaults = make(map[string]*flags.Variation, len(p.Defaults))
	for key, value := range p.Defaults {
		v, err := flags.NewVariation(value)
		if err != nil {
			return fmt.Errorf("sdk: Defaults: flag %q: %w", key, err)
		}
		p.defaults[key] = v
	}
	return nil
}

func (p *plan) checkEvents() error {
	if p.DisableEvents {
		return nil
	}
	switch {
	case p.Outbox != nil && p.EventSink != nil:
		return errors.New("sdk: Config has both Outbox and EventSink")
	case p.Outbox != nil && p.EventURL != "":
		return errors.New("sdk: Config has both Outbox and EventURL")
	case p.EventSink != nil:
		p.sink = p.EventSink
		return nil
	case p.Offline:
		return nil
	case p.Outbox != nil:
		p.outbox = true
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
	var send func(context.Context, []insight.Entry) error
	if p.endpoint != "" {
		p.http = p.httpClient()
	} else {
		send = p.append
	}
	return insight.New(insight.Config{
		Send:     send,
		MaxEntry: store.MaxEventBytes,
		Endpoint: p.endpoint,
		Secret:   p.EnvSecret,
		Client:   p.http,
		Logger:   p.Logger,
		Capacity: p.EventCapacity,
		Interval: p.FlushInterval,
		Attempts: p.EventAttempts,
		RetryMin: p.EventRetryInterval,
		Gzip:     p.GzipEvents,
	})
}

// append puts events into the outbox.
func (p *plan) append(ctx context.Context, entries []insight.Entry) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(p.HTTPTimeout, 10*time.Second))
	defer cancel()
	events := make([]store.Event, len(entries))
	for i, e := range entries {
		events[i] = store.Event{ID: e.ID, Data: e.Data}
	}
	return p.Outbox.AppendEvents(ctx, events)
}

func (p *plan) httpClient() *http.Client {
	if p.HTTPClient != nil {
		return p.HTTPClient
	}
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, IdleConnTimeout: 90 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second}
	t.DisableCompression = true // answers are empty
	t.MaxIdleConnsPerHost = insight.MaxSenders
	t.DialContext = (&net.Dialer{Timeout: cmp.Or(p.ConnectTimeout, 10*time.Second)}).DialContext
	if p.TLS != nil {
		t.TLSClientConfig = p.TLS.Clone()
	}
	if p.Proxy != nil {
		t.Proxy = p.Proxy
	}
	return &http.Client{Timeout: cmp.Or(p.HTTPTimeout, 10*time.Second), Transport: t}
}

// bootstrap returns the items that the client starts with.
func (p *plan) bootstrap() ([]store.Item, error) {
	text := p.Bootstrap
	p.Bootstrap = nil // nobody needs the text again, and it may be large
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
