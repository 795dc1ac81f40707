package redis

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"

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
	// Layout is LayoutNative or LayoutFeatBit.
	Layout Layout

	// FeatBit tunes LayoutFeatBit and has to be empty without it.
	FeatBit FeatBitOptions

	// Prefix starts all keys. Empty means "flagstead".
	Prefix string

	// Env names the environment, the place within the server. Empty means
	// "default". In LayoutFeatBit it is the id of FeatBit's environment.
	Env string

	// Timeout bounds one command, and five times that bounds loading everything.
	// Zero means 2 seconds.
	Timeout time.Duration

	// Outbox bounds what AppendEvents adds to.
	Outbox OutboxOptions

	// Username and Password, if not empty, win over those of the URL. [New] does
	// not use them: its client has its own.
	Username, Password string

	// Logger, if not nil, gets a warning if the server may evict the flags. To find
	// out takes one INFO; a server that forbids it is not warned of. In LayoutFeatBit
	// it hears as well of values that cannot be used, of members of an index without
	// one, and of messages that could not be published.
	Logger *slog.Logger

	// TLS, if not nil, is how Open's connections are encrypted: another certificate
	// authority, a certificate for a server that asks for one. It needs a URL with
	// TLS, as rediss://. Open uses a clone. [New] does not use it.
	TLS *tls.Config
}

const (
	defaultPrefix = "flagstead"
	defaultEnv    = "default"
)

func (o *Options) withDefaults() Options {
	var out Options
	if o != nil {
		out = *o
	}
	if out.Prefix == "" {
		out.Prefix = defaultPrefix
	}
	if out.Env == "" {
		out.Env = defaultEnv
	}
	if out.Timeout <= 0 {
		out.Timeout = 2 * time.Second
	}
	return out
}

// A Store is a [store.DataStore] and [store.Watcher] in Redis. Its methods are
// safe for concurrent use. Any number of handles may write to one place.
type Store struct {
	client     goredis.UniversalClient
	owned      bool     // Close closes client
	reload     func()   // has client look where its servers are
	secrets    []string // each followed by what stands for it
	opts       Options
	data       string // key of the hash
	sorted     string // key of the sorted set
	stage      string // keys of staged hashes start so
	topic      string // channel
	beat       string // key of the heartbeat
	control    string // key of the control
	past       string // key of the history
	bodies     string // and of what its revisions hold
	reports    string // key of the readers' reports
	history    history
	noReadOnly atomic.Bool // the server has no read-only scripts
	warned     atomic.Bool // of what may be evicted, or there is nothing to warn of

	featbit *featbit // nil in the native layout

	outboxClaim time.Duration // see store.OutboxClaim; only tests change it

	quiet  time.Duration // Watch asks for a sign of life after this
	silent time.Duration // and gives up after this

	closing sync.Once
	closed  context.Context // ends with Close
	end     context.CancelFunc
}

var (
	_ store.DataStore       = (*Store)(nil)
	_ store.Watcher         = (*Store)(nil)
	_ store.HeartbeatWriter = (*Store)(nil)
	_ store.HeartbeatReader = (*Store)(nil)
)

// Open returns a store on the servers that rawURL names:
//
//	redis://user:password@host:6379/0?env=prod&prefix=flagstead
//	redis+sentinel://user:password@host1:26379,host2:26379/0?master=mymaster
//	redis+cluster://user:password@host1:6379,host2:6379
//
// rediss://, rediss+sentinel:// and rediss+cluster:// are the same with TLS. User
// and password are those of the data's servers. Sentinels and the nodes of a
// cluster find each other: some of them are enough, of which one has to be up.
// The parameters are
//
//	env, prefix               win over o
//	layout, write             layout=featbit is FeatBit's own, which write=true writes
//	                          ([FeatBitOptions])
//	master                    the name that the Sentinels know the master by
//	sentinel_username, sentinel_password
//	                          what the Sentinels themselves ask for
//	ca                        file with the certificate authorities, PEM
//	cert, key                 files with the client's certificate and key, PEM
//	client_name               how CLIENT LIST names the connections
//	protocol                  2 or 3, of the Redis protocol
//	pool_size                 most connections, to each node of a cluster
//
// and any other is an error. Open does not connect: only a URL or a file that
// makes no sense is an error, a server that is down is one of the calls that need
// it.
func Open(rawURL string, o *Options) (*Store, error) {
	opts := o.withDefaults()
	t, err := parseURL(rawURL)
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	config, err := t.tlsConfig(opts.TLS)
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	opts.Prefix = cmp.Or(t.prefix, opts.Prefix)
	opts.Env = cmp.Or(t.env, opts.Env)
	if err := featbitParams(t.layout, t.write, &opts); err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	t.username = cmp.Or(opts.Username, t.username)
	t.password = cmp.Or(opts.Password, t.password)
	opts.Password = "" // nothing prints it if nothing has it

	s := newStore(opts)
	if s.featbit != nil && s.featbit.err != nil {
		return nil, fmt.Errorf("redis: %w", s.featbit.err)
	}
	s.use(newClient(s.closed, t, config, opts))
	s.owned = true
	s.hide(t.password, t.sentinelPassword)
	return s, nil
}

// New returns a store that uses client: that of one server (from go-redis's
// NewClient), of a master that Sentinels watch (NewFailoverClient) or of a cluster
// (NewClusterClient). The caller keeps client and closes it after the store. It
// should have ContextTimeoutEnabled set, a ReadTimeout of five times the Timeout
// of o, and no retries. One that reads from replicas shows states late; a handle
// never goes back to an older one all the same, see [Store.Load]. Options of
// [LayoutFeatBit] that make no sense are an error of every call.
func New(client goredis.UniversalClient, o *Options) *Store {
	s := newStore(o.withDefaults())
	s.use(client)
	switch c := client.(type) {
	case *goredis.Client:
		s.hide(c.Options().Password)
	case *goredis.ClusterClient:
		s.hide(c.Options().Password)
	}
	return s
}

// use makes client the one to ask.
func (s *Store) use(client goredis.UniversalClient) {
	s.client = client
	if c, ok := client.(*goredis.ClusterClient); ok {
		// By itself the client only notices after a while that a node is gone.
		s.reload = func() { c.ReloadState(s.closed) }
	}
}

// hide keeps secrets out of errors.
func (s *Store) hide(secrets ...string) {
	for _, secret := range secrets {
		if secret != "" {
			s.secrets = append(s.secrets, secret, "*****")
		}
	}
}

func newStore(opts Options) *Store {
	// The name is unambiguous and has no braces of its own, so that a cluster
	// hashes exactly what is between ours.
	name := placeName(opts.Prefix, opts.Env)
	s := &Store{
		reload:      func() {},
		opts:        opts,
		data:        name + ":d",
		sorted:      name + ":z",
		stage:       name + ":stage:",
		topic:       name + ":c",
		beat:        name + ":h",
		outboxClaim: store.OutboxClaim,

		quiet:  3 * time.Second,
		silent: 8 * time.Second,

		control: name + ":f",
		past:    name + ":v",
		bodies:  name + ":b",
		reports: name + ":r",
	}
	s.closed, s.end = context.WithCancel(context.Background())
	s.featbit = newFeatBit(s)
	return s
}

func placeName(prefix, env string) string {
	return "{" + braces.Replace(prefix) + ":" + colons.Replace(braces.Replace(env)) + "}"
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
		r.err = revealed(r.err)
		if err := s.usable(ctx); err != nil {
			return none, err
		}
		// The connection has the same deadlines and may notice them first.
		if past(ctx) {
			return none, context.DeadlineExceeded
		}
		if past(limited) {
			s.reload()
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
// server that does not know AUTH quotes its arguments. Errors that the server did
// not send may mean that it is gone for good.
func (s *Store) explain(err error) error {
	if text := err.Error(); strings.Contains(text, "all sentinels specified") && strings.Contains(text, goredis.Nil.Error()) {
		return fmt.Errorf("no Sentinel knows a master of that name (parameter master): %w", err)
	}
	var reply goredis.Error
	if !errors.As(err, &reply) {
		s.reload()
		return err
	}
	if s.featbit == nil && strings.Contains(err.Error(), "WRONGTYPE") {
		return fmt.Errorf("one of the keys %s, %s and %s has the wrong type, something else uses it: %w", s.data, s.sorted, s.beat, err)
	}
	if why := reason(err); why != "" {
		err = fmt.Errorf("%s: %w", why, err)
	}
	if clean := strings.NewReplacer(s.secrets...).Replace(err.Error()); clean != err.Error() {
		return errors.New(clean)
	}
	return err
}

// reason puts an error of the server in the words of whoever has to mend it.
func reason(err error) string {
	switch {
	case goredis.IsReadOnlyError(err):
		return "the address is that of a replica, which takes no changes"
	case goredis.IsOOMError(err):
		return "the server is out of memory and wrote nothing (maxmemory)"
	case goredis.IsLoadingError(err):
		return "the server has just started and is reading its data"
	case goredis.IsMasterDownError(err):
		return "the address is that of a replica without a master"
	case goredis.IsClusterDownError(err):
		return "the cluster does not work"
	case goredis.IsPermissionError(err):
		return "the user lacks a permission"
	case goredis.IsAuthError(err):
		return "the server refuses the login"
	case goredis.HasErrorPrefix(err, "MOVED "):
		return "the server is a node of a cluster; use redis+cluster://"
	}
	return ""
}

func (s *Store) wrap(what string, err error) error {
	return fmt.Errorf("redis: %s environment %q: %w", what, s.opts.Env, err)
}
