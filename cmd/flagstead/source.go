package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/flagstead/flagstead/internal/fleet"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/bolt"
	"github.com/flagstead/flagstead/store/file"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/store/redis"
)

// featbit says which FeatBit environment to connect to.
type featbit struct {
	URL        string `env:"FLAGSTEAD_URL" placeholder:"URL" help:"FeatBit's evaluation server, such as wss://featbit.example."`
	Secret     string `env:"FLAGSTEAD_SECRET" placeholder:"SECRET" help:"Server secret of the environment. Other users of this host can read arguments: prefer the variable or --secret-file."`
	SecretFile string `env:"FLAGSTEAD_SECRET_FILE" placeholder:"FILE" type:"path" help:"File that holds the secret."`
}

// check returns the secret, or says what is missing or wrong.
func (f *featbit) check(con *console) (sdk.Secret, error) {
	if f.URL == "" {
		return "", errors.New("no FeatBit URL: give --url or set FLAGSTEAD_URL")
	}
	if err := checkURL(f.URL); err != nil {
		name := "FLAGSTEAD_URL"
		if con.typed["url"] {
			name = "--url"
		}
		return "", fmt.Errorf("%s: %w", name, err)
	}
	text, file := f.Secret, f.SecretFile
	if con.typed["secret"] {
		if con.typed["secret-file"] {
			return "", usageError("--secret and --secret-file can't be used together")
		}
		file = "" // of the environment
	}
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("secret file: %w", err)
		}
		if text = strings.TrimSpace(string(b)); text == "" {
			return "", fmt.Errorf("secret file %s is empty", file)
		}
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

// checkURL says what is wrong with the URL of an evaluation server. It repeats
// nothing of what may be a password or a token.
func checkURL(text string) error {
	if !strings.Contains(text, "://") {
		return errors.New("put ws:// or http:// before the address, or wss:// or https:// for TLS")
	}
	u, err := url.Parse(strings.TrimSpace(text))
	if err != nil {
		return badURL(err)
	}
	switch scheme := strings.ToLower(u.Scheme); {
	case scheme != "ws" && scheme != "wss" && scheme != "http" && scheme != "https":
		return fmt.Errorf("%s:// is not for FeatBit; use ws://, wss://, http:// or https://", scheme)
	case u.User != nil:
		return errors.New("the address must not have a user or a password; FeatBit wants the secret alone")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return errors.New("the address must end before the ? or #; the token is made from the secret")
	case u.Hostname() == "":
		return errors.New("the address has no host")
	}
	return nil
}

// badURL says why a URL cannot be parsed without repeating any of it: what looks
// like a port may be half of a password.
func badURL(err error) error {
	if strings.Contains(err.Error(), "invalid port") {
		return errors.New("the port is not a number")
	}
	return errors.New("it is not a valid URL")
}

// source says where a command gets its flags: exactly one of three places.
type source struct {
	Store   string  `env:"FLAGSTEAD_STORE" placeholder:"URL" help:"Read a store: redis://host:6379/0, bolt:///path/flags.db or file:///path/flags.json (file:flags.json is relative)."`
	File    string  `placeholder:"FILE" type:"path" help:"Read a bootstrap file: what FeatBit's latest-all returns, or YAML of that shape (.yaml, .yml); also compressed (.gz)."`
	FeatBit featbit `embed:""`
}

// pick drops the sources of the environment if one is given on the command line.
func (s *source) pick(con *console) error {
	var given []string
	for _, name := range []string{"store", "file", "url"} {
		if con.typed[name] {
			given = append(given, name)
		}
	}
	if len(given) > 1 {
		return usageError(fmt.Sprintf("--%s and --%s can't be used together", given[0], given[1]))
	}
	if len(given) == 0 {
		return nil
	}
	if given[0] != "store" {
		s.Store = ""
	}
	if given[0] != "url" {
		s.FeatBit.URL = ""
	}
	return nil
}

// openOptions tune source.open.
type openOptions struct {
	wait     time.Duration    // for the first flags
	follow   bool             // the file, which is read once otherwise
	onStatus func(sdk.Status) // may be nil
	at       uint64           // revision of the store; 0: what is published
}

// open returns a client on the source, which is ready, and a function that
// releases it.
func (s *source) open(ctx context.Context, con *console, o openOptions) (*sdk.Client, func(), error) {
	if err := s.pick(con); err != nil {
		return nil, nil, err
	}
	if o.at != 0 && (s.Store == "" || s.File != "") {
		return nil, nil, usageError("--at is about the revisions of a --store")
	}
	cfg := sdk.Config{DisableEvents: true, Logger: con.log, OnStatus: o.onStatus}
	reach := &contact{}
	cfg.Sync.NetDial = reach.dial
	var st store.DataStore
	var err error
	switch {
	case s.File != "" && (o.follow || !plainJSON(s.File)):
		st, err = openFile(ctx, con, s.File)
	case s.File != "":
		cfg.Offline, cfg.BootstrapFile = true, s.File
	case s.Store != "":
		if st, err = openStore(con, s.Store, ""); err == nil && o.at != 0 {
			st, err = s.past(ctx, st, o)
		}
	case s.FeatBit.URL != "":
		cfg.StreamingURL = s.FeatBit.URL
		cfg.EnvSecret, err = s.FeatBit.check(con)
	default:
		err = errors.New("no flags: give --store, --file or --url")
	}
	if err != nil {
		return nil, nil, err
	}
	closeStore := func() {}
	if st != nil {
		cfg.Store, closeStore = st, func() { st.Close() }
	}
	c, err := sdk.New(cfg)
	if err != nil {
		closeStore()
		return nil, nil, plain(err)
	}
	release := func() {
		defer time.AfterFunc(hangUpAfter, reach.hangUp).Stop()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		c.Close(ctx)
		closeStore()
	}
	if err := waitReady(ctx, c, o.wait); err != nil {
		why := c.Status().Err
		switch {
		case why != nil || !errors.Is(err, context.DeadlineExceeded):
		case st == nil:
			why = errors.New(reach.why())
		default:
			why = lookAt(ctx, st)
		}
		release()
		if ctx.Err() != nil {
			return nil, nil, errInterrupted
		}
		return nil, nil, s.explain(err, why, o.wait)
	}
	return c, release, nil
}

// past returns a store with a revision of st, which it closes.
func (s *source) past(ctx context.Context, st store.DataStore, o openOptions) (store.DataStore, error) {
	defer st.Close()
	p := place{Store: s.Store, Timeout: o.wait}
	h, err := p.history(st)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.wait)
	defer cancel()
	snap, err := p.revision(ctx, h, o.at)
	if err != nil {
		return nil, err
	}
	then := memory.New()
	if _, err := then.Apply(ctx, store.Change{Full: true, Items: snap.Items}); err != nil {
		then.Close()
		return nil, err
	}
	return then, nil
}

// plainJSON reports whether a file's name says that it is neither YAML nor
// compressed. Only package file reads those, and only files, not pipes.
func plainJSON(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".yaml", ".yml", ".gz":
		return false
	}
	return true
}

// openFile returns a store that reads a file and follows it. What is wrong from
// the start is a mistake, not a state.
func openFile(ctx context.Context, con *console, name string) (store.DataStore, error) {
	st, err := file.Open(name, &file.Options{ReadOnly: true, Logger: con.warnings()})
	if err != nil {
		return nil, err
	}
	if _, err := st.Load(ctx, ""); err != nil {
		st.Close()
		return nil, plain(err)
	}
	return st, nil
}

// lookAt returns why a store that gave no flags in all the time did not, or nil if
// it simply has none.
func lookAt(ctx context.Context, st store.Reader) error {
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	_, err := st.Load(ctx, "")
	return err
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
	case why == nil:
		return fmt.Errorf("no flags in %s: has a syncer written to it?", where)
	}
	return fmt.Errorf("no flags from %s within %v: %w", where, wait, storeWords(why))
}

// storeWords puts the error of a store in words.
func storeWords(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("it does not answer")
	}
	return plain(err)
}

// plain takes the package's name, and Go's types, off an error that is shown to a
// person.
func plain(err error) error {
	text := wire.InWords(err)
	for _, prefix := range []string{"sdk: ", "syncer: ", "BootstrapFile: ", "BootstrapFile ", "Bootstrap: ", "file: load: ", "store: "} {
		text = strings.TrimPrefix(text, prefix)
	}
	return errors.New(text)
}

// openStore opens the store that a URL names, for reading or, with the secret that
// the flags come by, for writing.
func openStore(con *console, text string, write sdk.Secret) (store.DataStore, error) {
	return openStoreTo(con, text, write != "", write)
}

// openStoreTo is openStore where flags may be written that come by no secret.
func openStoreTo(con *console, text string, writes bool, write sdk.Secret) (store.DataStore, error) {
	r := fleet.OpenRequest{URL: text, ReadOnly: !writes}
	if write != "" {
		r.Server = []sdk.Secret{write}
	}
	return openFor(con, con.warnings(), r)
}

// openFor opens a store, which tells log what is wrong with it.
func openFor(con *console, log *slog.Logger, r fleet.OpenRequest) (store.DataStore, error) {
	text := r.URL
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("store URL: %w; use redis://host:6379/0, bolt:///path/flags.db or file:///path/flags.json", badURL(err))
	}
	switch u.Scheme {
	case "redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster":
		o := &redis.Options{Logger: log}
		if q := u.Query(); !r.ReadOnly && q.Get("layout") == "featbit" {
			if q.Get("write") != "true" {
				return nil, errors.New("FeatBit's layout is written only if the store URL has write=true; never say so of the Redis of a FeatBit installation")
			}
			if len(r.Server)+len(r.Client) == 0 {
				return nil, errors.New("FeatBit's layout has the environment's secret in it, so it cannot be written from another store")
			}
			// FeatBit's evaluation server lets in who has a secret that it finds there.
			for kind, secrets := range map[string][]sdk.Secret{"server": r.Server, "client": r.Client} {
				for _, s := range secrets {
					o.FeatBit.Secrets = append(o.FeatBit.Secrets, redis.FeatBitSecret{Value: redis.Secret(s), Type: kind})
				}
			}
		}
		return redis.Open(text, o)
	case "bolt", "file":
		path, err := storePath(u)
		if err != nil {
			return nil, err
		}
		if u.Scheme == "bolt" {
			return bolt.Open(path, &bolt.Options{ReadOnly: r.ReadOnly})
		}
		return file.Open(path, &file.Options{ReadOnly: r.ReadOnly, Logger: log})
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

// redact returns a URL without what nobody must see.
func redact(text string) string { return fleet.Redact(text) }
