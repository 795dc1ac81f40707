package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/redis"
)

const (
	pings        = 50
	slowStore    = 100 * time.Millisecond // for the 99th of 100 loads without news
	oldHeartbeat = 30 * time.Second       // after which readers call their flags interrupted
	littleSpace  = 256 << 20              // bytes
	noSpace      = 16 << 20
	nearlyFull   = 0.9
)

// store examines the store, and what is particular to its kind.
func (e *examination) store(ctx context.Context) {
	e.began = time.Now()
	st, err := openStore(e.con, e.cmd.Store, "")
	if err != nil {
		e.add("store", verdictFail, words(err), "correct the store's URL; see docs/stores.md")
		return
	}
	defer st.Close()
	if u, err := url.Parse(e.cmd.Store); err == nil && (u.Scheme == "bolt" || u.Scheme == "file") {
		if path, err := storePath(u); err == nil {
			e.place(path, u.Scheme)
		}
	}
	if e.loads(ctx, st) {
		e.heartbeat(ctx, st)
		e.control(ctx, st)
	}
	if r, ok := st.(*redis.Store); ok {
		e.redisServer(ctx, r)
		e.redisRights(ctx, r)
	}
}

func (e *examination) syncs() bool { return e.cmd.As == "syncer" }

// loads loads once everything and then, again and again, nothing.
func (e *examination) loads(ctx context.Context, st store.Reader) bool {
	ctx, cancel := e.start(ctx)
	defer cancel()
	snap, err := st.Load(ctx, "")
	if errors.Is(err, fs.ErrNotExist) && e.syncs() {
		e.content(store.Snapshot{}) // a file store that is not there yet
		e.skip("store latency", "there is nothing to read yet")
		e.skip("store heartbeat", "there is nothing to read yet")
		return false
	}
	if err != nil {
		remedy := "check that it runs, the address, and the login"
		switch {
		case errors.Is(err, store.ErrDamaged):
			remedy = "a syncer writes it again at once; is one running?"
		case errors.Is(err, fs.ErrPermission):
			remedy = "give this user the right to read it"
		}
		e.add("store", verdictFail, redact(e.cmd.Store)+": "+words(storeWords(err)), remedy)
		for _, check := range []string{"store content", "store latency", "store heartbeat"} {
			e.skip(check, "it cannot be read")
		}
		return false
	}
	first := time.Since(e.began)
	e.ok("store", "%s was read in %s", redact(e.cmd.Store), inMillis(first))
	e.content(snap)

	e.began = time.Now()
	var took []time.Duration
	for range pings {
		began := time.Now()
		if _, err := st.Load(ctx, snap.Rev); err != nil {
			e.add("store latency", verdictFail, fmt.Sprintf("load %d of %d: %s", len(took)+2, pings+1, words(storeWords(err))), "it works only at times: look at its log, and at the network")
			return true
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	p50, p99 := took[len(took)/2], took[len(took)*99/100]
	found := fmt.Sprintf("a load without news takes p50 %s, p99 %s (%d loads)", inMillis(p50), inMillis(p99), len(took))
	if p99 > slowStore {
		e.add("store latency", verdictWarn, found, "changes arrive that much later; put the store nearer, or see what keeps it busy")
	} else {
		e.ok("store latency", "%s", found)
	}
	return true
}

// content says what is in the store, and whose.
func (e *examination) content(snap store.Snapshot) {
	e.began = time.Now()
	const check = "store content"
	if snap.Rev == "" {
		verdict, remedy := verdictFail, "start a syncer on it (flagstead sync), or correct env and prefix in the URL"
		if e.syncs() {
			verdict, remedy = verdictWarn, "a syncer fills it"
		}
		e.add(check, verdict, "nothing was ever written to it", remedy)
		return
	}
	flags, segments := count(snap.Items)
	found := fmt.Sprintf("%s, %s, revision %s", plural(flags, "flag"), plural(segments, "segment"), snap.Rev)
	envs := environments(snap.Items)
	want, from := e.served, "FeatBit sends those"
	if want == nil && e.secret != "" {
		env, _ := e.secret.EnvID() // it has the form of one
		want, from = map[string]bool{env: true}, "the secret is"
	}
	if other := anyOf(envs); len(want) > 0 && other != "" && !want[other] {
		e.add(check, verdictFail, fmt.Sprintf("%s, of the environment %s; %s of %s", found, other, from, anyOf(want)), "use the secret of that environment, or another env in the store's URL: one place holds one environment")
		return
	}
	if flags == 0 {
		e.add(check, verdictWarn, found, "is the environment really without flags?")
		return
	}
	e.ok(check, "%s", found)
}

// environments returns the ids of the environments that flags say they are of.
func environments(items []store.Item) map[string]bool {
	envs := map[string]bool{}
	for _, it := range items {
		var item struct {
			EnvID string `json:"envId"`
		}
		if it.Kind == store.Flag && json.Unmarshal(it.Data, &item) == nil && item.EnvID != "" {
			envs[strings.ToLower(item.EnvID)] = true
		}
	}
	return envs
}

func anyOf(set map[string]bool) (last string) {
	for text := range set {
		last = max(last, text)
	}
	return last
}

func (e *examination) heartbeat(ctx context.Context, st store.Reader) {
	const check = "store heartbeat"
	ctx, cancel := e.start(ctx)
	defer cancel()
	r, ok := st.(store.HeartbeatReader)
	if !ok {
		e.skip(check, "this store has none")
		return
	}
	beat, err := r.ReadHeartbeat(ctx)
	if err != nil {
		e.add(check, verdictFail, words(storeWords(err)), "look at the store's log, and at what this user may read")
		return
	}
	age := time.Since(beat.Written).Round(time.Second)
	start := "start a syncer on it, or find out why the one that wrote it stopped"
	switch {
	case beat.Written.IsZero():
		remedy := "readers cannot know how old the flags are; a syncer of this version writes one every five seconds"
		e.add(check, verdictWarn, "there is none: no syncer ever wrote here, or people edit the flags by hand", remedy)
	case age > oldHeartbeat:
		e.add(check, verdictWarn, fmt.Sprintf("%s wrote the last one %v ago", beat.Writer, age), start)
	case beat.Source != "ok":
		e.add(check, verdictWarn, fmt.Sprintf("%s says that its source is %s", beat.Writer, beat.Source), "look at that syncer's log")
	default:
		e.ok(check, "%s wrote it %v ago; FeatBit confirmed the flags %v ago", beat.Writer, age, time.Since(beat.Confirmed).Round(time.Second))
	}
}

// control says whether somebody froze the store, which is easily forgotten.
func (e *examination) control(ctx context.Context, st store.Reader) {
	const check = "store control"
	ctx, cancel := e.start(ctx)
	defer cancel()
	r, ok := st.(store.ControlReader)
	if !ok {
		return
	}
	control, err := r.ReadControl(ctx)
	switch {
	case err != nil:
		e.add(check, verdictFail, words(storeWords(err)), "look at the store's log, and at what this user may read")
	case !control.Frozen:
		e.ok(check, "publication is not frozen")
	default:
		found := fmt.Sprintf("frozen for %v by %s (%s): changes in FeatBit do not arrive", time.Since(control.At).Round(time.Second), control.By, control.Reason)
		e.add(check, verdictWarn, found, "flagstead unfreeze, when what it was frozen for is over")
	}
}

// redisServer looks at what the server says of itself.
func (e *examination) redisServer(ctx context.Context, st *redis.Store) {
	ctx, cancel := e.start(ctx)
	defer cancel()
	info, err := st.ServerInfo(ctx)
	if err != nil {
		if strings.Contains(err.Error(), "lacks a permission") {
			e.add("redis server", verdictWarn, "the user may not ask (INFO), so version, role, memory and persistence are not known", "ACL SETUSER … +info, for this examination at least")
		} else {
			e.add("redis server", verdictFail, words(storeWords(err)), "check that it runs, the address, and the login")
		}
		return
	}
	major, _, _ := strings.Cut(info.Version, ".")
	switch n, err := strconv.Atoi(major); {
	case err == nil && n < 6:
		e.add("redis server", verdictFail, "version "+info.Version, "use Redis 7 or newer")
	case err == nil && n < 7:
		e.add("redis server", verdictWarn, "version "+info.Version+" has no read-only scripts and is not tested", "use Redis 7 or newer")
	default:
		e.ok("redis server", "version %s, %s", info.Version, info.Mode)
	}
	switch {
	case info.Role == "master":
		e.ok("redis role", "it is a master with %s", plural(info.Replicas, "replica"))
	case e.syncs():
		e.add("redis role", verdictFail, "it is a replica, which takes no changes", "use the master's address, or redis+sentinel://")
	default:
		e.add("redis role", verdictWarn, "it is a replica: flags arrive later, and its heartbeat with them", "use the master's address, or redis+sentinel://, where that matters")
	}
	e.redisMemory(info)
	switch {
	case info.SaveFailed:
		e.add("redis persistence", verdictFail, "the last write to the disk failed", "look at the server's log; is the disk full?")
	case info.AOF:
		e.ok("redis persistence", "an append-only file is written")
	default:
		e.ok("redis persistence", "by snapshots at most: a restart may lose the last changes, which a syncer writes again")
	}
	if info.Role == "master" && info.Replicas > 0 {
		if info.MinReplicas {
			e.ok("redis replication", "min-replicas-to-write limits what a failover loses")
		} else {
			e.add("redis replication", verdictWarn, "a master that was cut off goes on to take changes, which are lost with the failover", "set min-replicas-to-write 1 and min-replicas-max-lag 10")
		}
	}
}

func (e *examination) redisMemory(info redis.ServerInfo) {
	const check = "redis memory"
	limit := "no limit"
	if info.MaxMemory > 0 {
		limit = fmt.Sprintf("%d MB of %d MB", info.UsedMemory>>20, info.MaxMemory>>20)
	}
	found := fmt.Sprintf("maxmemory-policy %s, %s", info.Policy, limit)
	switch {
	case info.Evicts():
		e.add(check, verdictFail, found+": when it is full it drops flags", "CONFIG SET maxmemory-policy noeviction (or volatile-lru), in redis.conf, too")
	case info.MaxMemory > 0 && float64(info.UsedMemory) > nearlyFull*float64(info.MaxMemory):
		e.add(check, verdictWarn, found, "give it more memory: a full server takes no changes")
	default:
		e.ok(check, "%s", found)
	}
}

func (e *examination) redisRights(ctx context.Context, st *redis.Store) {
	const check = "redis rights"
	ctx, cancel := e.start(ctx)
	defer cancel()
	missing, err := st.MissingRights(ctx, e.syncs())
	switch {
	case errors.Is(err, redis.ErrRightsUnknown):
		e.skip(check, "not checked in FeatBit's layout")
	case err != nil:
		e.add(check, verdictFail, words(storeWords(err)), "check the login")
	case len(missing) > 0:
		rights := "+" + strings.Join(missing, " +")
		e.add(check, verdictFail, fmt.Sprintf("a %s may not: %s", e.cmd.As, strings.Join(missing, ", ")), "ACL SETUSER … "+rights+" (and the keys and the channel of docs/stores.md)")
	default:
		e.ok(check, "all that a %s needs", e.cmd.As)
	}
}

// place looks at where a file store is. kind is bolt or file.
func (e *examination) place(path, kind string) {
	e.began = time.Now()
	dir := filepath.Dir(path)
	info, err := os.Stat(dir)
	if err != nil {
		if e.syncs() && errors.Is(err, fs.ErrNotExist) {
			e.add("directory", verdictWarn, dir+" does not exist", "a syncer makes it if it may; on a read-only file system it cannot")
		} else {
			e.add("directory", verdictFail, words(err), "make it, or correct the path")
		}
		return
	}
	found := fmt.Sprintf("%s, mode %04o%s", dir, info.Mode().Perm(), owner(info))
	switch {
	case !info.IsDir():
		e.add("directory", verdictFail, dir+" is no directory", "correct the path")
		return
	case e.syncs() && !writable(dir):
		e.add("directory", verdictFail, found+": this user may not write there", fmt.Sprintf("chown it to the syncer's user (this is uid %d)", os.Getuid()))
	case info.Mode().Perm()&0o002 != 0 && info.Mode()&os.ModeSticky == 0:
		e.add("directory", verdictWarn, found+": everybody may replace the flags", "chmod o-w "+dir)
	default:
		e.ok("directory", "%s", found)
	}
	e.disk(dir)
	if kind == "bolt" {
		e.lock(path)
	}
}

// writable tries it: rights, mounts and quotas are known to nobody else.
func writable(dir string) bool {
	f, err := os.CreateTemp(dir, ".flagstead-doctor-*")
	if err != nil {
		return false
	}
	_, err = f.Write([]byte("x"))
	return errors.Join(err, f.Close(), os.Remove(f.Name())) == nil
}

func (e *examination) disk(dir string) {
	e.began = time.Now()
	free, kind, err := fileSystem(dir)
	if err != nil {
		e.skip("disk", words(err))
		return
	}
	found := fmt.Sprintf("%d MB free", free>>20)
	switch {
	case kind != "":
		e.add("disk", verdictWarn, fmt.Sprintf("%s, on a network file system (%s): changes are noticed late, and locks may not hold", found, kind), "use a local disk, or Redis for several hosts")
	case free < noSpace:
		e.add("disk", verdictFail, found, "make room: nothing can be written")
	case free < littleSpace:
		e.add("disk", verdictWarn, found, "make room")
	default:
		e.ok("disk", "%s", found)
	}
}

func (e *examination) lock(path string) {
	e.began = time.Now()
	const check = "lock"
	held, by, err := lockHolder(path)
	switch {
	case err != nil:
		e.skip(check, words(err))
	case !held && e.syncs():
		e.ok(check, "nobody holds the database")
	case !held:
		e.add(check, verdictWarn, "nobody holds the database, so no syncer writes it", "start one: flagstead sync")
	case e.syncs():
		e.add(check, verdictWarn, "the database is held by "+by, "bolt takes one writer: a second syncer waits for the first to end")
	default:
		e.ok(check, "the database is held by %s", by)
	}
}
