package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strconv"
	"strings"

	goredis "github.com/redis/go-redis/v9"
)

// A ServerInfo is what the server that holds a store's flags says of itself: with
// Sentinel the master, in a cluster the node of the environment's slot.
type ServerInfo struct {
	Version string // as in "7.2.4"
	Role    string // "master" or "slave", in Redis' terms
	Mode    string // "standalone", "cluster" or "sentinel"

	MaxMemory  int64  // bytes; 0 is no limit
	UsedMemory int64  // bytes
	Policy     string // maxmemory-policy, as in "noeviction"
	Evicted    int64  // keys evicted since the server started

	AOF        bool  // an append-only file is written
	SaveFailed bool  // the last snapshot, or the last write of the file, failed
	Unsaved    int64 // changes since the last snapshot

	Replicas    int  // connected ones
	MinReplicas bool // min-replicas-to-write is set
}

// Evicts reports whether the server may evict flags when it is full: its policy is
// one of allkeys-*. The keys of flags have no expiry, so the volatile-* policies
// leave them alone.
func (i ServerInfo) Evicts() bool { return strings.HasPrefix(i.Policy, "allkeys-") }

// node returns the client of the server that holds the environment.
func (s *Store) node(ctx context.Context) (*goredis.Client, error) {
	switch c := s.client.(type) {
	case *goredis.Client:
		return c, nil
	case *goredis.ClusterClient:
		return c.MasterForKey(ctx, s.data)
	}
	return nil, errors.New("this kind of client cannot be inspected")
}

// ServerInfo asks the server about itself, with one INFO, for whoever looks for the
// cause of trouble. It needs +info; a user without it gets an error. It blocks for
// Options.Timeout at most.
func (s *Store) ServerInfo(ctx context.Context) (ServerInfo, error) {
	text, err := do(ctx, s, s.opts.Timeout, func(ctx context.Context) (string, error) {
		node, err := s.node(ctx)
		if err != nil {
			return "", err
		}
		return node.Info(ctx).Result()
	})
	if err != nil {
		return ServerInfo{}, s.wrap("inspect", err)
	}
	number := func(name string) int64 {
		n, _ := strconv.ParseInt(infoField(text, name), 10, 64) // 0 for what a server does not say
		return n
	}
	failed := func(name string) bool { v := infoField(text, name); return v != "" && v != "ok" }
	return ServerInfo{
		Version:     infoField(text, "redis_version"),
		Role:        infoField(text, "role"),
		Mode:        infoField(text, "redis_mode"),
		MaxMemory:   number("maxmemory"),
		UsedMemory:  number("used_memory"),
		Policy:      infoField(text, "maxmemory_policy"),
		Evicted:     number("evicted_keys"),
		AOF:         number("aof_enabled") == 1,
		SaveFailed:  failed("rdb_last_bgsave_status") || failed("aof_last_write_status"),
		Unsaved:     number("rdb_changes_since_last_save"),
		Replicas:    int(number("connected_slaves")),
		MinReplicas: infoField(text, "min_slaves_good_slaves") != "",
	}, nil
}

// Rights that the documentation of the package gives to who reads and who writes.
var (
	readRights  = []string{"evalsha_ro", "eval_ro", "hlen", "hget", "hmget", "hkeys", "hgetall", "zcard", "zcount", "zrangebyscore", "time", "subscribe", "ping"}
	writeRights = []string{"evalsha", "eval", "hset", "hdel", "zadd", "rename", "unlink", "expire", "pexpire", "persist", "publish"}
)

// ErrRightsUnknown says that MissingRights does not know what is needed: in
// [LayoutFeatBit] that depends on what FeatBit does.
var ErrRightsUnknown = errors.New("the rights of this layout are not checked")

// MissingRights returns the commands, as in "hget", that the user may not run on the
// environment's keys and channel, of those that a reader, or with write a syncer,
// needs; none if all is well. If the user may ask the server (+acl|dryrun), nothing
// is run. Otherwise each command is tried in a form that changes nothing, but for a
// hash of its own, which it removes, and a message that has readers load once. It
// returns [ErrRightsUnknown] in [LayoutFeatBit], and an error if the server cannot
// be asked at all. It blocks for twenty times Options.Timeout at most.
func (s *Store) MissingRights(ctx context.Context, write bool) ([]string, error) {
	if s.featbit != nil {
		return nil, ErrRightsUnknown
	}
	names := slices.Clone(readRights)
	if write {
		names = append(names, writeRights...)
	}
	missing, err := do(ctx, s, 20*s.opts.Timeout, func(ctx context.Context) ([]string, error) {
		node, err := s.node(ctx)
		if err != nil {
			return nil, err
		}
		missing, err := s.dryRun(ctx, node, names)
		if errors.Is(err, errNoDryRun) {
			missing, err = s.try(ctx, node, names)
		}
		return missing, err
	})
	if err != nil {
		return nil, s.wrap("rights", err)
	}
	return missing, nil
}

var errNoDryRun = errors.New("ACL DRYRUN cannot be used")

// sample returns a whole command that the name stands for. What it would write goes
// to scratch.
func (s *Store) sample(name, scratch string) []any {
	const noScript = "0000000000000000000000000000000000000000"
	switch name {
	case "evalsha_ro", "evalsha":
		return []any{name, noScript, 1, s.data}
	case "eval_ro", "eval":
		return []any{name, "return 1", 1, s.data}
	case "hget":
		return []any{name, s.data, "$seq"}
	case "hmget":
		return []any{name, s.beat, "written"}
	case "hgetall":
		return []any{name, s.beat}
	case "hlen", "zcard":
		return []any{name, map[string]string{"hlen": s.data, "zcard": s.sorted}[name]}
	case "hkeys":
		return []any{name, s.beat}
	case "zcount":
		return []any{name, s.sorted, 0, 0}
	case "zrangebyscore":
		return []any{name, s.sorted, 0, 0, "LIMIT", 0, 1}
	case "subscribe":
		return []any{name, s.topic}
	case "publish":
		return []any{name, s.topic, "inspect"}
	case "hset":
		return []any{name, scratch, "f", "v"}
	case "hdel":
		return []any{name, scratch, "none"}
	case "zadd":
		return []any{name, scratch + ":z", "XX", 1, "m"} // changes what is there, and there is nothing
	case "rename":
		return []any{name, scratch + ":none", scratch + ":other"} // fails for lack of a source
	case "expire", "pexpire":
		return []any{name, scratch, 60000}
	case "persist", "unlink":
		return []any{name, scratch + ":none"}
	}
	return []any{name} // time, ping
}

func (s *Store) scratch() string { return s.stage + "inspect-" + rand.Text() }

// dryRun asks the server what the user may do. It returns errNoDryRun if it may not
// ask, or the server is older than Redis 7.
func (s *Store) dryRun(ctx context.Context, node *goredis.Client, names []string) ([]string, error) {
	user := node.Options().Username
	if user == "" {
		user = "default"
	}
	var missing []string
	scratch := s.scratch()
	for _, name := range names {
		text, err := node.Do(ctx, append([]any{"acl", "dryrun", user}, s.sample(name, scratch)...)...).Text()
		switch {
		case err == nil && text == "OK":
		case err == nil:
			missing = append(missing, name)
		case isReply(err):
			return nil, errNoDryRun
		default:
			return nil, err
		}
	}
	return missing, nil
}

// try runs the commands. A hash that HSET writes is removed, so it is written only
// if that is allowed.
func (s *Store) try(ctx context.Context, node *goredis.Client, names []string) ([]string, error) {
	var missing []string
	scratch := s.scratch()
	denied := func(name string) (bool, error) {
		if name == "subscribe" {
			sub := node.Subscribe(ctx, s.topic)
			defer sub.Close()
			_, err := sub.Receive(ctx)
			return deniedBy(err)
		}
		return deniedBy(node.Do(ctx, s.sample(name, scratch)...).Err())
	}
	for _, name := range names {
		if name == "hset" {
			if no, err := denied("unlink"); no || err != nil {
				if err != nil {
					return nil, err
				}
				continue // told when it is unlink's turn; then look at hset again
			}
		}
		no, err := denied(name)
		if err != nil {
			return nil, err
		}
		if no {
			missing = append(missing, name)
		}
		if name == "hset" && !no {
			if err := node.Unlink(ctx, scratch).Err(); err != nil {
				return nil, err
			}
		}
	}
	return missing, nil
}

// deniedBy tells a refusal from the other answers of a server, which say that the
// user may run the command, and both from a server that does not answer.
func deniedBy(err error) (bool, error) {
	switch {
	case err == nil || errors.Is(err, goredis.Nil):
		return false, nil
	case goredis.IsAuthError(err):
		return false, err
	case goredis.IsPermissionError(err):
		return true, nil
	case isReply(err):
		return false, nil
	}
	return false, err
}

func isReply(err error) bool {
	var reply goredis.Error
	return errors.As(err, &reply) && !goredis.IsAuthError(err) && !goredis.IsLoadingError(err)
}
