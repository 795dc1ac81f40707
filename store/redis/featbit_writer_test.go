package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/store"
)

// newGUID returns a GUID that nobody else uses.
func newGUID() string {
	return fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", rand.Uint32(), rand.N(1<<16), rand.N(1<<12), rand.N(1<<12), rand.N(int64(1)<<48))
}

// epoch is when the tests' flags were made.
const epoch = 1_735_689_600_000

// A doc is a flag or segment as FeatBit's api-server has it.
type doc struct {
	kind     store.Kind
	id, key  string
	env      string
	at       int64 // ms after epoch
	archived bool
	uses     string // id of a segment
	revision string
}

// json returns what FeatBit puts into Redis, see the field order of its classes.
func (d doc) json() string {
	at := time.UnixMilli(epoch+d.at).UTC().Format("2006-01-02T15:04:05.000") + "4567Z"
	rules := "[]"
	if d.uses != "" {
		rules = fmt.Sprintf(`[{"id":"r","name":"R","dispatchKey":null,"includedInExpt":false,"conditions":[{"id":"c","property":"User is in segment","op":null,"value":"[\"%s\"]"}],"variations":[{"id":"v1","rollout":[0,1],"exptRollout":1}]}]`, d.uses)
	}
	if d.kind == store.Segment {
		return fmt.Sprintf(`{"envId":%q,"name":%q,"key":%q,"description":"","included":["u-1"],"excluded":[],"rules":[],"tags":[],"isArchived":%t,"createdAt":"2025-01-01T00:00:00Z","updatedAt":%q,"id":%q}`,
			d.env, d.revision, d.key, d.archived, at, d.id)
	}
	return fmt.Sprintf(`{"envId":%q,"revision":%q,"name":%q,"description":"\u00e9","key":%q,"variationType":"boolean","variations":[{"id":"v1","name":"On","value":"true"},{"id":"v2","name":"Off","value":"false"}],"targetUsers":[],"rules":%s,"isEnabled":true,"disabledVariationId":"v2","fallthrough":{"dispatchKey":null,"includedInExpt":true,"variations":[{"id":"v1","rollout":[0,1],"exptRollout":1}]},"exptIncludeAllTargets":true,"tags":[],"isArchived":%t,"createdAt":"2025-01-01T00:00:00Z","updatedAt":%q,"id":%q}`,
		d.env, d.revision, "name of "+d.key, d.key, rules, d.archived, at, d.id)
}

func (d doc) version() string { return fmt.Sprint(epoch + d.at) }

func (d doc) valueKey() string { return "featbit:" + d.kind.String() + ":" + d.id }

func (d doc) indexKey(env string) string { return "featbit:" + d.kind.String() + "-index:" + env }

// item returns d as a syncer of env gets it.
func (d doc) item(env string) store.Item {
	d.env = env
	return store.Item{Kind: d.kind, Key: d.name(), Version: epoch + d.at, Archived: d.archived, Data: []byte(d.json())}
}

func (d doc) name() string {
	if d.kind == store.Segment {
		return d.id
	}
	return d.key
}

func flagDoc(env, key string, at int64) doc {
	return doc{kind: store.Flag, id: newGUID(), key: key, env: env, at: at, revision: newGUID()}
}

func segmentDoc(env, key string, at int64) doc {
	return doc{kind: store.Segment, id: newGUID(), key: key, env: env, at: at, revision: newGUID()}
}

func (d doc) edited(at int64) doc {
	d.at, d.revision = at, newGUID()
	return d
}

// A command is one that an api-server sends and waits for.
type command []any

func raw(args ...any) command { return args }

func (c command) String() string { return fmt.Sprintf("%.70s", fmt.Sprintln([]any(c)...)) }

func (c command) send(to *goredis.Client) error {
	err := to.Do(context.Background(), c...).Err()
	if errors.Is(err, goredis.Nil) {
		return nil
	}
	return err
}

func set(d doc) command { return raw("SET", d.valueKey(), d.json()) }

func zadd(d doc, env string) command { return raw("ZADD", d.indexKey(env), epoch+d.at, d.id) }

// saveFlag is create, update, archive and restore of a flag.
func saveFlag(d doc, mq bool) []command {
	text := d.json()
	cs := []command{raw("SET", d.valueKey(), text), zadd(d, d.env)}
	if mq {
		cs = append(cs, raw("PUBLISH", "featbit-feature-flag-change", text))
	}
	return cs
}

// saveSegment is an update of a segment that envs share, or of one of its own if
// d names its environment. touched are the flags of each that it affects.
func saveSegment(d doc, envs []string, mq bool, touched ...doc) []command {
	cs := []command{set(d)}
	for _, env := range envs {
		cs = append(cs, zadd(d, env))
	}
	for _, env := range envs {
		ids := []string{}
		for _, f := range touched {
			if f.env == env {
				cs = append(cs, set(f), zadd(f, env))
				ids = append(ids, f.id)
			}
		}
		if mq {
			d.env = env
			affected, _ := json.Marshal(ids)
			cs = append(cs, raw("PUBLISH", "featbit-segment-change", fmt.Sprintf(`{"segment":%s,"affectedFlagIds":%s}`, d.json(), affected)))
		}
	}
	return cs
}

// remove is a hard delete; of FeatBit up to 5.4.2 if old.
func remove(d doc, old bool, envs ...string) []command {
	var cs []command
	for _, env := range envs {
		cs = append(cs, raw("ZREM", d.indexKey(env), d.id))
	}
	del := raw("DEL", d.valueKey())
	if old {
		return append([]command{del}, cs...)
	}
	return append(cs, del)
}

const (
	markerKey = "featbit:redis-is-populated"
	lockKey   = "featbit:populate-redis"
)

// populate is what an api-server does at its start.
func populate(docs ...doc) []command {
	cs := []command{raw("GET", markerKey), raw("SET", lockKey, newGUID(), "NX", "PX", 60_000), raw("GET", markerKey)}
	for _, kind := range []store.Kind{store.Flag, store.Segment} {
		for _, d := range docs {
			if d.kind == kind {
				cs = append(cs, set(d), zadd(d, d.env))
			}
		}
	}
	return append(cs, raw("SET", markerKey, "true"), raw("DEL", lockKey))
}

// interleavings calls f with every order of the commands of a and b that keeps
// both orders.
func interleavings(a, b []command, f func([]command)) {
	var walk func(done, a, b []command)
	walk = func(done, a, b []command) {
		if len(a)+len(b) == 0 {
			f(done)
			return
		}
		if len(a) > 0 {
			walk(append(done[:len(done):len(done)], a[0]), a[1:], b)
		}
		if len(b) > 0 {
			walk(append(done[:len(done):len(done)], b[0]), a, b[1:])
		}
	}
	walk(nil, a, b)
}

func runAll(t testing.TB, c *goredis.Client, cs ...command) {
	t.Helper()
	for _, one := range cs {
		if err := one.send(c); err != nil {
			t.Fatalf("%v: %v", one, err)
		}
	}
}

// expected works out what a reader of env has to see of what is in Redis now, by
// other code than the reader's, and whether every member of the indexes has a value.
func expected(t testing.TB, c *goredis.Client, env string) (want map[string]string, whole bool) {
	t.Helper()
	var indexes [2]*goredis.StringSliceCmd
	kinds := [2]string{"flag", "segment"}
	_, err := c.Pipelined(bounded(t), func(p goredis.Pipeliner) error {
		for i, kind := range kinds {
			indexes[i] = p.ZRange(bounded(t), "featbit:"+kind+"-index:"+env, 0, -1)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var values []*goredis.StringCmd
	_, err = c.Pipelined(bounded(t), func(p goredis.Pipeliner) error {
		for i, kind := range kinds {
			for _, id := range indexes[i].Val() {
				values = append(values, p.Get(bounded(t), "featbit:"+kind+":"+id))
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, goredis.Nil) {
		t.Fatal(err)
	}
	want, whole = map[string]string{}, true
	newest := map[string]string{}
	for i, v := range values {
		if v.Err() != nil {
			whole = false
			continue
		}
		text := strings.Replace(v.Val(), `"envId":""`, `"envId":"`+env+`"`, 1)
		var d struct {
			ID, Key, EnvID string
			UpdatedAt      time.Time
			IsArchived     bool
		}
		if err := json.Unmarshal([]byte(text), &d); err != nil {
			t.Fatal(err)
		}
		if d.EnvID != env {
			continue
		}
		it := store.Item{Kind: store.Flag, Key: d.Key, Version: d.UpdatedAt.UnixMilli(), Archived: d.IsArchived, Data: []byte(text)}
		if i >= len(indexes[0].Val()) {
			it.Kind, it.Key = store.Segment, d.ID
		}
		if rank := fmt.Sprint(it.Version, d.ID); rank > newest[fieldOf(it)] {
			want[fieldOf(it)], newest[fieldOf(it)] = valueOf(it), rank
		}
	}
	return want, whole
}

func normal(t testing.TB, m map[string]any) string {
	at, err := time.Parse(time.RFC3339Nano, m["updatedAt"].(string))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %v %s", at.UnixMilli(), m["isArchived"], text)
}

// meaning is items as JSON without a form of its own.
func meaning(t testing.TB, items []store.Item) map[string]string {
	t.Helper()
	got := map[string]string{}
	for _, it := range items {
		var m map[string]any
		if err := json.Unmarshal(it.Data, &m); err != nil {
			t.Fatalf("%s: %v", it.Data, err)
		}
		got[fieldOf(it)] = normal(t, m)
		if want := fmt.Sprintf("%d %v ", it.Version, it.Archived); !strings.HasPrefix(got[fieldOf(it)], want) {
			t.Fatalf("%s has %q but is %s", it.Key, want, it.Data)
		}
	}
	return got
}

// A reading is a reader that keeps what Load gave it.
type reading struct {
	s     *Store
	rev   store.Rev
	state map[string]string
	whole int // loads of everything
}

// load loads and returns what is known then.
func (r *reading) load(t testing.TB) map[string]string {
	t.Helper()
	snap := load(t, r.s, r.rev)
	r.take(t, snap)
	return r.state
}

func (r *reading) take(t testing.TB, snap store.Snapshot) {
	t.Helper()
	if snap.Rev == "" {
		t.Fatal("no Rev")
	}
	if !snap.Delta {
		r.state = map[string]string{}
		r.whole++
	}
	maps.Copy(r.state, content(snap.Items))
	r.rev = snap.Rev
}

func openFeatBit(t testing.TB, srv *redistest.Server, env string, o FeatBitOptions) *Store {
	t.Helper()
	s, err := Open(srv.URL(), &Options{Layout: LayoutFeatBit, Env: env, FeatBit: o})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
