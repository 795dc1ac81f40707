package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/bolt"
	"github.com/flagstead/flagstead/store/file"
	"github.com/flagstead/flagstead/store/redis"
)

// featbit says which FeatBit environment to connect to.
type featbit struct {
	URL        string `env:"FLAGSTEAD_URL" placeholder:"URL" help:"FeatBit's evaluation server, such as wss://featbit.example."`
	Secret     string `env:"FLAGSTEAD_SECRET" placeholder:"SECRET" help:"Server secret of the environment. Other users of this host can read arguments: prefer the variable or --secret-file."`
	SecretFile string `env:"FLAGSTEAD_SECRET_FILE" placeholder:"FILE" type:"path" help:"File that holds the secret."`
}

// check returns the secret, or says what is missing.
func (f *featbit) check() (sdk.Secret, error) {
	if f.URL == "" {
		return "", errors.New("no FeatBit URL: give --url or set FLAGSTEAD_URL")
	}
	text := f.Secret
	if f.SecretFile != "" {
		b, err := os.ReadFile(f.SecretFile)
		if err != nil {
			return "", fmt.Errorf("secret file: %w", err)
		}
		text = strings.TrimSpace(string(b))
	}
	if text == "" {
		return "", errors.New("no secret: give --secret-file or set FLAGSTEAD_SECRET")
	}
	secret := sdk.Secret(text)
	if _, err := secret.EnvID(); err != nil {
		return "", err
	}
	return secret, nil
}

// source says where a command gets its flags: exactly one of three places.
type source struct {
	Store   string  `env:"FLAGSTEAD_STORE" placeholder:"URL" xor:"source" help:"Read a store: redis://host:6379/0, bolt:///path/flags.db or file:///path/flags.json."`
	File    string  `placeholder:"FILE" type:"path" xor:"source" help:"Read a bootstrap file: what FeatBit's latest-all returns."`
	FeatBit featbit `embed:""`
}

// open returns a client on the source, which is ready, and a function that
// releases it.
func (s *source) open(ctx context.Context, con *console, wait time.Duration, tune func(*sdk.Config)) (*sdk.Client, func(), error) {
	cfg := sdk.Config{DisableEvents: true, Logger: con.log}
	closeStore := func() {}
	switch {
	case s.File != "":
		cfg.Offline, cfg.BootstrapFile = true, s.File
	case s.Store != "":
		st, err := openStore(s.Store, true)
		if err != nil {
			return nil, nil, err
		}
		cfg.Store, closeStore = st, func() { st.Close() }
	case s.FeatBit.URL != "":
		secret, err := s.FeatBit.check()
		if err != nil {
			return nil, nil, err
		}
		cfg.StreamingURL, cfg.EnvSecret = s.FeatBit.URL, secret
	default:
		return nil, nil, errors.New("no flags: give --store, --file or --url")
	}
	if tune != nil {
		tune(&cfg)
	}
	c, err := sdk.New(cfg)
	if err != nil {
		closeStore()
		return nil, nil, plain(err)
	}
	release := func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		c.Close(ctx)
		closeStore()
	}
	if err := waitReady(ctx, c, wait); err != nil {
		why := c.Status().Err
		release()
		return nil, nil, s.explain(err, why, wait)
	}
	return c, release, nil
}

// waitReady waits for flags, but not for those that will surely not come: a
// command must not hang on a wrong address.
func waitReady(ctx context.Context, c *sdk.Client, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return c.WaitReady(ctx)
}

// explain names the source that gave no flags, and why it did not.
func (s *source) explain(err, why error, wait time.Duration) error {
	where := s.FeatBit.URL
	if s.Store != "" {
		where = s.Store
	}
	where = redact(where)
	switch {
	case !errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no flags from %s: %w", where, plain(err))
	case why != nil:
		return fmt.Errorf("no flags from %s within %v: %w", where, wait, plain(why))
	case s.Store != "":
		return fmt.Errorf("no flags in %s: has a syncer written to it?", where)
	}
	return fmt.Errorf("no flags from %s within %v", where, wait)
}

// plain takes the package's name, and Go's types, off an error that is shown to a
// person.
func plain(err error) error {
	return errors.New(strings.TrimPrefix(strings.TrimPrefix(wire.InWords(err), "sdk: "), "syncer: "))
}

// openStore opens the store that a URL names, for reading or for writing.
func openStore(text string, readOnly bool) (store.DataStore, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("store URL is not valid; use redis://host:6379/0, bolt:///path/flags.db or file:///path/flags.json")
	}
	switch u.Scheme {
	case "redis", "rediss":
		return redis.Open(text, nil)
	case "bolt", "file":
		path, err := storePath(u)
		if err != nil {
			return nil, err
		}
		if u.Scheme == "bolt" {
			return bolt.Open(path, &bolt.Options{ReadOnly: readOnly})
		}
		return file.Open(path, &file.Options{ReadOnly: readOnly})
	}
	return nil, fmt.Errorf("unknown kind of store in %q; use redis://host:6379/0, bolt:///path/flags.db or file:///path/flags.json", redact(text))
}

func storePath(u *url.URL) (string, error) {
	if u.Host != "" && u.Host != "localhost" {
		return "", fmt.Errorf("store URL %q has a host; for an absolute path write three slashes: %s:///%s%s", u.Redacted(), u.Scheme, u.Host, u.Path)
	}
	path := u.Path
	if u.Opaque != "" { // bolt:flags.db
		path = u.Opaque
	}
	if path == "" || strings.HasSuffix(path, "/") {
		return "", fmt.Errorf("store URL %q names no file", u.Redacted())
	}
	return path, nil
}

func redact(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "(not a URL)"
	}
	return u.Redacted()
}
