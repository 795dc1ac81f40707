package redis

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/flagstead/flagstead/store"
)

// ErrDamaged says that the place does not hold what was written to it: items or
// their meta data were evicted, removed or overwritten by somebody else. It is a
// [store.ErrDamaged], too. A full change without a Base repairs the place; until
// then Load and patches fail rather than work with holes.
var ErrDamaged error = damaged{}

type damaged struct{}

func (damaged) Error() string { return "damaged" }
func (damaged) Unwrap() error { return store.ErrDamaged }

// Options tunes a [Store]. The zero value is useful.
type Options struct {
	// Prefix starts all keys. Empty means "flagstead".
	Prefix string

	// Env names the environment, the place within the server. Empty means
	// "default".
	Env string

	// Timeout bounds one command, and five times that bounds loading everything.
	// Zero means 2 seconds.
	Timeout time.Duration
}

func (o *Options) withDefaults() Options {
	var out Options
	if o != nil {
		out = *o
	}
	if out.Prefix == "" {
		out.Prefix = "flagstead"
	}
	if out.Env == "" {
		out.Env = "default"
	}
	if out.Timeout <= 0 {
		out.Timeout = 2 * time.Second
	}
	return out
}

// A Store is a [store.DataStore] and [store.Watcher] in Redis. Its methods are
// safe for concurrent use. Any number of handles may write to one place.
type Store struct {
	client goredis.UniversalClient
	owned  bool // Close closes client
	secret string
	opts   Options
	data   string // key of the hash
	sorted string // key of the sorted set
	stage  string // keys of staged hashes start so
	topic  string // channel

	quiet  time.Duration // Watch asks for a sign of life after this
	silent time.Duration // and gives up after this

	closing sync.Once
	closed  context.Context // ends with Close
	end     context.CancelFunc
}

var (
	_ store.DataStore = (*Store)(nil)
	_ store.Watcher   = (*Store)(nil)
)

// Open returns a store on the server that rawURL names:
//
//	redis://user:password@host:6379/0?env=prod&prefix=flagstead
//
// rediss:// is the same with TLS. The parameters env and prefix win over o;
// others are go-redis' own, but time limits and retries are the store's. Open
// does not connect: only a URL that makes no sense is an error, a server that is
// down is one of the calls that need it.
func Open(rawURL string, o *Options) (*Store, error) {
	opts := o.withDefaults()
	co, err := parseURL(rawURL, &opts)
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	// Whoever calls decides about trying again. A retry down here would only
	// hide for how long the server is gone.
	co.MaxRetries = -1
	co.DialerRetries = 1
	co.DialTimeout = time.Second
	co.ContextTimeoutEnabled = true
	// The context of every command has the deadline.
	co.ReadTimeout = 5 * opts.Timeout
	co.WriteTimeout = 5 * opts.Timeout
	co.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}

	s := newStore(nil, opts)
	co.Dialer = tracked(s.closed, goredis.NewDialer(co))
	s.client, s.owned, s.secret = goredis.NewClient(co), true, co.Password
	return s, nil
}

// parseURL returns client options and puts env and prefix into opts. Its errors
// quote nothing that may be part of a password, as for example what follows an
// unescaped slash.
func parseURL(rawURL string, opts *Options) (*goredis.Options, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, errors.New("bad URL (special characters in a password must be percent-encoded)")
	}
	if u.Scheme != "redis" && u.Scheme != "rediss" {
		return nil, errors.New("bad URL: it must begin with redis:// or rediss://")
	}
	if u.Host == "" || u.Opaque != "" {
		return nil, errors.New("bad URL: no host")
	}
	if u.Fragment != "" {
		return nil, errors.New("bad URL: unexpected # (special characters in a password must be percent-encoded)")
	}
	if db := strings.Trim(u.Path, "/"); db != "" {
		if n, err := strconv.Atoi(db); err != nil || n < 0 {
			return nil, errors.New("bad URL: what follows the host must be the number of a database")
		}
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("bad URL: cannot read the parameters")
	}
	if v := q.Get("prefix"); v != "" {
		opts.Prefix = v
	}
	if v := q.Get("env"); v != "" {
		opts.Env = v
	}
	q.Del("prefix")
	q.Del("env")
	u.RawQuery = q.Encode()
	co, err := goredis.ParseURL(u.String())
	if err != nil {
		if strings.Contains(err.Error(), "@") || strings.Contains(u.Path, "@") {
			return nil, errors.New("bad URL: unknown parameter or bad value")
		}
		return nil, fmt.Errorf("bad URL: %s", strings.TrimPrefix(err.Error(), "redis: "))
	}
	return co, nil
}

// New returns a store that uses client, a client of one server. Clusters and
// Sentinel are not supported yet: their clients may work, but nothing here tests
// that or follows a failover. The caller keeps client and closes it after the
// store. It should have ContextTimeoutEnabled set, a ReadTimeout of five times
// the Timeout of o, and no retries.
func New(client goredis.UniversalClient, o *Options) *Store {
	s := newStore(client, o.withDefaults())
	if c, ok := client.(*goredis.Client); ok {
		s.secret = c.Options().Password
	}
	return s
}

func newStore(client goredis.UniversalClient, opts Options) *Store {
	// The name is unambiguous and has no braces of its own, so that a cluster
	// hashes exactly what is between ours.
	name := "{" + braces.Replace(opts.Prefix) + ":" + colons.Replace(braces.Replace(opts.Env)) + "}"
	s := &Store{
		client: client,
		opts:   opts,
		data:   name + ":d",
		sorted: name + ":z",
		stage:  name + ":stage:",
		topic:  name + ":c",
		quiet:  3 * time.Second,
		silent: 8 * time.Second,
	}
	s.closed, s.end = context.WithCancel(context.Background())
	return s
}

var (
	braces = strings.NewReplacer("%", "%25", "{", "%7B", "}", "%7D")
	colons = strings.NewReplacer(":", "%3A")
)

// Close makes all running and later calls return [store.ErrClosed]. It closes
// the connections unless they came with [New].
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.end()
		if s.owned {
			// It is about connections that were going to be dropped anyway.
			_ = s.client.Close()
		}
	})
	return nil
}

// do runs f with a deadline and returns as soon as ctx ends or the store is
// closed. The client looks at deadlines but not at cancellation, so f may then
// go on until its deadline; what it returns is dropped.
func do[T any](ctx context.Context, s *Store, limit time.Duration, f func(context.Context) (T, error)) (T, error) {
	var none T
	if err := s.usable(ctx); err != nil {
		return none, err
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	limited, cancel := context.WithTimeout(ctx, limit)
	go func() {
		defer cancel()
		v, err := f(limited)
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		if r.err == nil {
			return r.value, nil
		}
		if err := s.usable(ctx); err != nil {
			return none, err
		}
		// The connection has the same deadlines and may notice them first.
		if past(ctx) {
			return none, context.DeadlineExceeded
		}
		if past(limited) {
			return none, fmt.Errorf("no answer within %v: %w", limit, r.err)
		}
		return none, s.explain(r.err)
	case <-ctx.Done():
		return none, ctx.Err()
	case <-s.closed.Done():
		return none, store.ErrClosed
	}
}

// past reports whether ctx has a deadline that is over.
func past(ctx context.Context) bool {
	at, ok := ctx.Deadline()
	return ok && !time.Now().Before(at)
}

// usable says why a call cannot go ahead.
func (s *Store) usable(ctx context.Context) error {
	if s.closed.Err() != nil {
		return store.ErrClosed
	}
	// A connection's deadline is ctx's and may strike a moment before ctx's own
	// timer does.
	if at, ok := ctx.Deadline(); ok && !time.Now().Before(at) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

// explain makes errors of the server readable, and repeatable in public: a
// server that does not know AUTH quotes its arguments.
func (s *Store) explain(err error) error {
	var reply goredis.Error
	if !errors.As(err, &reply) {
		return err
	}
	if strings.Contains(err.Error(), "WRONGTYPE") {
		return fmt.Errorf("one of the keys %s and %s has the wrong type, something else uses it: %w", s.data, s.sorted, err)
	}
	if s.secret != "" && strings.Contains(err.Error(), s.secret) {
		return errors.New(strings.ReplaceAll(err.Error(), s.secret, "*****"))
	}
	return err
}

func (s *Store) wrap(what string, err error) error {
	return fmt.Errorf("redis: %s environment %q: %w", what, s.opts.Env, err)
}
