package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flagstead/flagstead/store"
)

// A Layout says which keys hold the flags.
type Layout uint8

// The layouts. LayoutNative is this package's own, see the package's
// documentation. LayoutFeatBit is the one that a FeatBit installation with
// CacheProvider=Redis keeps, see [FeatBitOptions].
const (
	LayoutNative Layout = iota
	LayoutFeatBit
)

// String returns what the parameter layout of a URL says: "native" or "featbit".
func (l Layout) String() string {
	switch l {
	case LayoutNative:
		return "native"
	case LayoutFeatBit:
		return "featbit"
	}
	return fmt.Sprintf("layout(%d)", uint8(l))
}

// Errors of [LayoutFeatBit] to test for with [errors.Is].
var (
	// ErrNotPopulated says that the key featbit:redis-is-populated does not say
	// that FeatBit's api-server has put its flags into this Redis: it is new, was
	// flushed, or is another one. What a follower has stays until that is done.
	ErrNotPopulated = errors.New("FeatBit has not populated this Redis yet")

	// ErrUnknownSecret says that FeatBit's Redis knows no server secret like the
	// given one: it is mistyped or was removed, its environment was deleted, or it
	// is a client secret.
	ErrUnknownSecret = errors.New("FeatBit does not know the secret as a server secret")
)

// FeatBitOptions tune [LayoutFeatBit]. The zero value reads.
//
// The layout is the one that FeatBit's api-server writes and its evaluation
// server reads, since FeatBit 3.3.1. In it, Options.Env is the id of the
// environment, a GUID, and keys begin with featbit: whatever Options.Prefix says,
// which must be empty.
//
//	featbit:flag:{id}, featbit:segment:{id}  the JSON of each, one string per item
//	featbit:flag-index:{env}                 sorted set: id → updatedAt in ms
//	featbit:segment-index:{env}              the same for segments
//	featbit:secret:{secret}                  hash: type, envId and more
//	featbit:redis-is-populated               "true" once everything was written
//
// Nothing in it is written as a whole, so this layout does not keep all rules of
// package store. A reader of another process may see a change half: some items
// of it, never half an item. A Base is compared before writing, not with it, so
// only one syncer should write one environment. Revisions name contents: equal
// ones have equal Revs, on every handle, also if there was another content
// between them. FeatBit announces no deletions; polling finds them. Within one
// handle the rules hold.
//
// FeatBit stamps its items by clocks of several hosts, so an item is what Redis
// holds now, also if it held a later one before.
type FeatBitOptions struct {
	// Secret is a server secret of the environment. If it is set, each Load makes
	// sure that FeatBit's Redis knows it, and Options.Env may be empty. Without it
	// the environment's id is enough.
	Secret Secret

	// Write lets Apply write, for a Redis that a syncer feeds and FeatBit's
	// evaluation servers, or readers of this package, serve from. Otherwise Apply
	// returns [store.ErrReadOnly], lest a FeatBit api-server is overwritten, which
	// would never notice.
	Write bool

	// Secrets are written with every full change, so that evaluation servers let
	// in who connects with them. They need Write.
	Secrets []FeatBitSecret
}

// A FeatBitSecret is what FeatBit's evaluation server has to know of a secret. It
// prints without its value.
type FeatBitSecret struct {
	Value Secret // all 44 characters
	Type  string // "server" or "client"

	// The keys as in FeatBit, which its evaluation server gives to relay proxies.
	ProjectKey, EnvKey string

	// What FeatBit stores, too, and may stay empty.
	OrganizationID, OrganizationKey, ProjectID string
}

// A Secret is a FeatBit environment secret. It prints as "[secret]"; convert it
// to a string to use it.
type Secret string

// String returns a placeholder, never the secret.
func (Secret) String() string { return "[secret]" }

// GoString returns a placeholder, never the secret.
func (Secret) GoString() string { return "[secret]" }

// LogValue returns a placeholder, never the secret.
func (Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// MarshalText returns a placeholder, never the secret.
func (Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

const (
	featbitFlags    = "featbit:flag:"
	featbitSegments = "featbit:segment:"
	featbitSecrets  = "featbit:secret:"
	featbitMarker   = "featbit:redis-is-populated"

	featbitFlagTopic    = "featbit-feature-flag-change"
	featbitSegmentTopic = "featbit-segment-change"

	// sweepEvery is how long it takes until every value was looked at again
	// although nothing said that it changed.
	sweepEvery = 10 * time.Minute

	// emptyGrace is how long an index that lost all its flags is not believed.
	emptyGrace = time.Minute
)

// featbit is a Store's side of LayoutFeatBit. What is not otherwise guarded
// belongs to whoever has the turn.
type featbit struct {
	s    *Store
	opts FeatBitOptions
	log  *slog.Logger
	err  error                  // the options make no sense
	env  atomic.Pointer[string] // nil until the secret was looked up

	noBeat atomic.Bool // the user may not read heartbeats

	turn     chan struct{} // capacity 1
	flags    cache
	segments cache
	dirty    bool // now is not what the caches say
	now      featbitState
	steps    []step

	emptyGrace time.Duration
	emptySince time.Time // zero: the index of flags has some, or never had

	sweepEvery time.Duration
	swept      time.Time
	sweep      []ref // what is left of this round

	mu    sync.Mutex // guards hints
	hints map[ref]struct{}
}

// featbitParams puts the URL's parameters layout and write into opts, if given.
func featbitParams(layout, write string, opts *Options) error {
	switch layout {
	case "":
	case LayoutNative.String():
		opts.Layout = LayoutNative
	case LayoutFeatBit.String():
		opts.Layout = LayoutFeatBit
	default:
		return errors.New("bad URL: the layout must be native or featbit")
	}
	if write == "" {
		return nil
	}
	var err error
	if opts.FeatBit.Write, err = strconv.ParseBool(write); err != nil {
		return errors.New("bad URL: write must be true or false")
	}
	return nil
}

// newFeatBit returns what s needs for its layout: nil for the native one.
func newFeatBit(s *Store) *featbit {
	o := s.opts.FeatBit
	f := &featbit{
		s:          s,
		opts:       o,
		log:        s.opts.Logger,
		turn:       make(chan struct{}, 1),
		flags:      newCache(store.Flag),
		segments:   newCache(store.Segment),
		emptyGrace: emptyGrace,
		sweepEvery: sweepEvery,
		hints:      map[ref]struct{}{},
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	if s.opts.Layout == LayoutNative && !o.Write && o.Secret == "" && len(o.Secrets) == 0 {
		return nil
	}
	env := s.opts.Env
	if env == defaultEnv {
		env = ""
	}
	if f.err = f.check(env); f.err == nil && env != "" {
		f.setEnv(strings.ToLower(env))
		s.data, s.sorted = flagIndex(f.envID()), segmentIndex(f.envID()) // for messages
	}
	return f
}

var guid = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)

func (f *featbit) check(env string) error {
	o := f.opts
	switch {
	case f.s.opts.Layout == LayoutNative:
		return errors.New("options of FeatBit's layout, but the layout is not featbit")
	case f.s.opts.Layout != LayoutFeatBit:
		return fmt.Errorf("unknown %v", f.s.opts.Layout)
	case f.s.opts.Prefix != defaultPrefix:
		return errors.New("FeatBit's layout has no prefix")
	case env == "" && o.Secret == "":
		return errors.New("FeatBit's layout needs env, the id of FeatBit's environment, or a secret")
	case env != "" && !guid.MatchString(env):
		return fmt.Errorf("env %.80q is not the id of a FeatBit environment, which is a GUID", env)
	case len(o.Secrets) > 0 && !o.Write:
		return errors.New("secrets to write, but not the permission to write")
	}
	for i, secret := range o.Secrets {
		if secret.Value == "" || secret.Type != "server" && secret.Type != "client" {
			return fmt.Errorf("secret number %d has no value, or its type %.20q is not server or client", i+1, secret.Type)
		}
	}
	return nil
}

func (f *featbit) setEnv(env string) { f.env.Store(&env) }

func (f *featbit) envID() string {
	if env := f.env.Load(); env != nil {
		return *env
	}
	return ""
}

func flagIndex(env string) string    { return "featbit:flag-index:" + env }
func segmentIndex(env string) string { return "featbit:segment-index:" + env }

// enter waits for the turn.
func (f *featbit) enter(ctx context.Context) error {
	if f.err != nil {
		return f.err
	}
	if err := f.s.usable(ctx); err != nil {
		return err
	}
	select {
	case f.turn <- struct{}{}:
		if err := f.s.usable(ctx); err != nil {
			f.leave()
			return err
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-f.s.closed.Done():
		return store.ErrClosed
	}
}

func (f *featbit) leave() { <-f.turn }

func (f *featbit) wrap(what string, err error) error {
	// Servers and proxies may quote a key.
	for _, s := range append([]FeatBitSecret{{Value: f.opts.Secret}}, f.opts.Secrets...) {
		if s.Value != "" && strings.Contains(err.Error(), string(s.Value)) {
			err = errors.New(strings.ReplaceAll(err.Error(), string(s.Value), s.Value.String()))
		}
	}
	if env := f.envID(); env != "" {
		return fmt.Errorf("redis: %s FeatBit's environment %s: %w", what, env, err)
	}
	return fmt.Errorf("redis: %s the environment of FeatBit's secret: %w", what, err)
}
