package redis

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/store"
)

// monitor collects the commands that change something, by name and key, until the
// returned function is called.
func monitor(t *testing.T, srv *redistest.Server) func() []string {
	t.Helper()
	conn, err := net.Dial("tcp", srv.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer t.Cleanup(func() { conn.Close() })
	if _, err := fmt.Fprint(conn, "MONITOR\r\n"); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReaderSize(conn, 1<<20)
	if line, err := lines.ReadString('\n'); err != nil || !strings.HasPrefix(line, "+OK") {
		t.Fatalf("%q, %v", line, err)
	}
	c := rawClient(t, srv)
	return func() []string {
		t.Helper()
		if err := c.Echo(bounded(t), "the end").Err(); err != nil {
			t.Fatal(err)
		}
		var commands []string
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(line, `"the end"`) {
				return commands
			}
			words := strings.Split(line, `"`)
			if len(words) < 4 {
				continue
			}
			switch name := strings.ToUpper(words[1]); name {
			case "GET", "ZRANGE", "HELLO", "CLIENT", "SELECT", "PING", "HMGET":
			case "ZADD", "ZREM":
				commands = append(commands, strings.Join([]string{name, words[3], words[len(words)-2]}, " "))
			default:
				commands = append(commands, name+" "+words[3])
			}
		}
	}
}

func wantCommands(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestWhatIsWritten checks the commands, which are FeatBit's, and their order.
func TestWhatIsWritten(t *testing.T) {
	srv, c, env := fresh(t)
	w := openFeatBit(t, srv, env, FeatBitOptions{Write: true, Secrets: []FeatBitSecret{
		{Value: aSecret, Type: "server", ProjectKey: "web", EnvKey: "prod", OrganizationID: "1", OrganizationKey: "acme", ProjectID: "2"},
	}})
	heard := c.PSubscribe(bounded(t), "featbit-*-change")
	t.Cleanup(func() { heard.Close() })
	if _, err := heard.Receive(bounded(t)); err != nil {
		t.Fatal(err)
	}
	message := func() (channel, payload string) {
		t.Helper()
		m, err := heard.ReceiveMessage(bounded(t))
		if err != nil {
			t.Fatal(err)
		}
		return m.Channel, m.Payload
	}
	a, b, seg := flagDoc(env, "a", 1), flagDoc(env, "b", 2), segmentDoc(env, "s", 1)
	b.archived, a.uses = true, seg.id
	end := monitor(t, srv)
	rev := apply(t, w, true, a.item(env), b.item(env), seg.item(env))
	wantCommands(t, end(),
		"SET "+seg.valueKey(), "ZADD "+seg.indexKey(env)+" "+seg.id,
		"SET "+a.valueKey(), "SET "+b.valueKey(), "ZADD "+a.indexKey(env)+" "+b.id,
		"HSET featbit:secret:"+aSecret, "SET "+markerKey, "PUBLISH featbit-feature-flag-change")
	if channel, payload := message(); channel != "featbit-feature-flag-change" || payload != "" {
		t.Errorf("%s: %q", channel, payload)
	}
	for _, d := range []doc{a, b, seg} {
		if got := c.Get(bounded(t), d.valueKey()).Val(); got != d.json() {
			t.Errorf("got %s, want %s", got, d.json())
		}
		if got := c.ZScore(bounded(t), d.indexKey(env), d.id).Val(); got != float64(epoch+d.at) {
			t.Errorf("score %v of %s", got, d.key)
		}
	}
	hash := map[string]string{"type": "server", "organizationId": "1", "organizationKey": "acme", "projectId": "2",
		"projectKey": "web", "envId": env, "envKey": "prod"}
	if got := c.HGetAll(bounded(t), "featbit:secret:"+aSecret).Val(); !maps.Equal(got, hash) {
		t.Errorf("got %v", got)
	}

	// The same again writes the secrets only, of which somebody may have lost one.
	c.Del(bounded(t), "featbit:secret:"+aSecret)
	end = monitor(t, srv)
	if again := apply(t, w, true, a.item(env), b.item(env), seg.item(env)); again != rev {
		t.Errorf("Rev %q after %q", again, rev)
	}
	wantCommands(t, end(), "HSET featbit:secret:"+aSecret)

	// A patch: values before their scores, all before the messages.
	a, seg = a.edited(3), seg.edited(4)
	end = monitor(t, srv)
	apply(t, w, false, a.item(env), seg.item(env))
	wantCommands(t, end(),
		"SET "+seg.valueKey(), "ZADD "+seg.indexKey(env)+" "+seg.id, "SET "+a.valueKey(), "ZADD "+a.indexKey(env)+" "+a.id,
		"PUBLISH featbit-feature-flag-change", "PUBLISH featbit-segment-change")
	if _, payload := message(); payload != a.json() {
		t.Errorf("got %s", payload)
	}
	_, payload := message()
	var m struct {
		Segment         json.RawMessage
		AffectedFlagIDs []string
	}
	if err := json.Unmarshal([]byte(payload), &m); err != nil || string(m.Segment) != seg.json() || !slices.Equal(m.AffectedFlagIDs, []string{a.id}) {
		t.Errorf("got %s (%v)", payload, err)
	}

	// A flag that was deleted and made again has another id: the old one goes.
	again := flagDoc(env, "a", 5)
	end = monitor(t, srv)
	apply(t, w, false, again.item(env))
	wantCommands(t, end(), "SET "+again.valueKey(), "ZADD "+a.indexKey(env)+" "+again.id,
		"ZREM "+a.indexKey(env)+" "+a.id, "DEL "+a.valueKey(), "PUBLISH featbit-feature-flag-change", "PUBLISH featbit-feature-flag-change")

	// Full: members go before values, flags before segments.
	end = monitor(t, srv)
	apply(t, w, true, again.item(env))
	wantCommands(t, end(), "ZREM "+b.indexKey(env)+" "+b.id, "DEL "+b.valueKey(),
		"ZREM "+seg.indexKey(env)+" "+seg.id, "DEL "+seg.valueKey(), "HSET featbit:secret:"+aSecret, "PUBLISH featbit-feature-flag-change")
}

func TestFeatBitRefuses(t *testing.T) {
	srv, c, env := fresh(t)
	reader := openFeatBit(t, srv, env, FeatBitOptions{})
	for _, ch := range []store.Change{{}, {Full: true}, {Items: []store.Item{flagDoc(env, "a", 1).item(env)}}} {
		_, err := reader.Apply(bounded(t), ch)
		wantErr(t, err, store.ErrReadOnly, env)
	}
	w := openFeatBit(t, srv, env, FeatBitOptions{Write: true})
	good := flagDoc(env, "a", 1)
	with := func(change func(*store.Item)) store.Item {
		it := good.item(env)
		change(&it)
		return it
	}
	replace := func(old, new string) store.Item {
		return with(func(it *store.Item) { it.Data = []byte(strings.Replace(string(it.Data), old, new, 1)) })
	}
	twin := flagDoc(env, "twin", 1)
	twin.id = good.id
	for want, items := range map[string][]store.Item{
		`flag "a": its JSON has no id`:                      {replace(`"id":"`+good.id+`"`, `"x":1`)},
		`flag "a": it is of the environment ""`:             {replace(`"envId":"`+env+`"`, `"x":1`)},
		`flag "a": it is of the environment "other"`:        {replace(env, "other")},
		`flag "a": FeatBit's layout takes FeatBit's`:        {with(func(it *store.Item) { it.Data = []byte("1") })},
		`flag "a": "key" is missing or not a text`:          {with(func(it *store.Item) { it.Data = []byte(`{"id":"x"}`) })},
		"instead of version 9":                              {with(func(it *store.Item) { it.Version = 9 })},
		"archived false instead of version":                 {with(func(it *store.Item) { it.Archived = true })},
		`flag "b": its JSON says "a"`:                       {with(func(it *store.Item) { it.Key = "b" })},
		"invalid kind(0)":                                   {with(func(it *store.Item) { it.Kind = 0 })},
		`the flags "a" and "twin" have one id, "` + good.id: {good.item(env), twin.item(env)},
	} {
		for _, full := range []bool{false, true} {
			_, err := w.Apply(bounded(t), store.Change{Full: full, Items: items})
			wantErr(t, err, nil, want, env)
		}
	}
	if n := c.DBSize(bounded(t)).Val(); n != 0 {
		t.Errorf("%d keys", n)
	}
}

// What was written but for the marker is no state: the first change replaces it.
func TestHalfWrittenPlaceBeginsAgain(t *testing.T) {
	for _, full := range []bool{false, true} {
		srv, c, env := fresh(t)
		old, seg, a := flagDoc(env, "old", 9), segmentDoc(env, "s", 9), flagDoc(env, "a", 1)
		runAll(t, c, append(saveFlag(old, false), saveSegment(seg, []string{env}, false)...)...)
		w := openFeatBit(t, srv, env, FeatBitOptions{Write: true})
		if snap := load(t, w, ""); snap.Rev != "" || len(snap.Items) != 0 {
			t.Fatalf("got %+v", snap)
		}
		rev, err := w.Apply(bounded(t), store.Change{Full: full, Base: store.Uncommitted, Items: []store.Item{a.item(env)}})
		if err != nil {
			t.Fatal(err)
		}
		snap := load(t, openFeatBit(t, srv, env, FeatBitOptions{}), "")
		if snap.Rev != rev || len(snap.Items) != 1 || snap.Items[0].Key != "a" {
			t.Errorf("got %+v", snap)
		}
		if n := c.Exists(bounded(t), old.valueKey(), seg.valueKey()).Val(); n != 0 {
			t.Errorf("%d of the old values are left", n)
		}
	}
}

func TestFullRepairsWhatWasOverwritten(t *testing.T) {
	srv, c, env := fresh(t)
	w := openFeatBit(t, srv, env, FeatBitOptions{Write: true})
	a, b, d, seg := flagDoc(env, "a", 1), flagDoc(env, "b", 1), flagDoc(env, "d", 1), segmentDoc(env, "s", 1)
	items := []store.Item{a.item(env), b.item(env), d.item(env), seg.item(env)}
	rev := apply(t, w, true, items...)
	foreign := flagDoc(newGUID(), "x", 1)
	runAll(t, c, raw("SET", a.valueKey(), "garbage"), raw("DEL", b.valueKey()), raw("ZADD", d.indexKey(env), 7, d.id),
		set(foreign), zadd(foreign, env), raw("ZADD", a.indexKey(env), 1, "nothing"))
	if got := apply(t, w, true, items...); got != rev {
		t.Errorf("Rev %q, was %q", got, rev)
	}
	for _, it := range []doc{a, b, d, seg} {
		if got := c.Get(bounded(t), it.valueKey()).Val(); got != it.json() {
			t.Errorf("%s is %s", it.key, got)
		}
	}
	if got := c.ZRangeWithScores(bounded(t), a.indexKey(env), 0, -1).Val(); len(got) != 3 || got[0].Score != epoch+1 {
		t.Errorf("index %v", got)
	}
	if c.Exists(bounded(t), foreign.valueKey()).Val() != 1 {
		t.Error("another environment's flag was deleted")
	}
}

// A shared segment has one value for all its environments, of which each syncer
// knows but its own.
func TestTwoEnvironmentsShareASegment(t *testing.T) {
	srv, c, env := fresh(t)
	envs := []string{env, newGUID()}
	seg := segmentDoc("", "s", 1)
	var writers, readers []*Store
	for _, env := range envs {
		writers = append(writers, openFeatBit(t, srv, env, FeatBitOptions{Write: true}))
		readers = append(readers, openFeatBit(t, srv, env, FeatBitOptions{}))
	}
	check := func(want doc) {
		t.Helper()
		for i, env := range envs {
			items := load(t, readers[i], "").Items
			if len(items) != 1 || !maps.Equal(meaning(t, items), meaning(t, []store.Item{want.item(env)})) {
				t.Fatalf("environment %d: %q", i, content(items))
			}
			if later := load(t, writers[i], "").Items; !maps.Equal(meaning(t, later), meaning(t, items)) {
				t.Fatalf("writer %d: %q", i, content(later))
			}
		}
	}
	apply(t, writers[0], true, seg.item(envs[0]))
	apply(t, writers[1], true, seg.item(envs[1]))
	for _, r := range append(slices.Clone(readers), writers...) {
		r.featbit.sweepEvery = time.Nanosecond // the score was the same
	}
	check(seg)
	// What FeatBit's evaluation server looks for.
	if got := c.Get(bounded(t), seg.valueKey()).Val(); !strings.HasPrefix(got, `{"envId":"",`) {
		t.Errorf("got %s", got)
	}
	first := apply(t, writers[0], true, seg.item(envs[0]))
	seg = seg.edited(2)
	if apply(t, writers[0], false, seg.item(envs[0])) == first {
		t.Error("nothing changed")
	}
	apply(t, writers[1], false, seg.item(envs[1]))
	check(seg)
	// One environment loses it, the other keeps it.
	apply(t, writers[0], true)
	if items := load(t, readers[1], "").Items; len(items) != 1 {
		t.Errorf("got %q", content(items))
	}
	readers[0].featbit.emptyGrace = 0
	if items := load(t, readers[0], "").Items; len(items) != 0 {
		t.Errorf("got %q", content(items))
	}
}

// evaluationServer answers as FeatBit's own reads: by score, one GET each, the
// environment filled in as text.
func evaluationServer(t *testing.T, c *goredis.Client, env string, since int64) map[string]string {
	t.Helper()
	got := map[string]string{}
	for _, kind := range []string{"flag", "segment"} {
		ids, err := c.ZRangeArgs(bounded(t), goredis.ZRangeArgs{
			Key: "featbit:" + kind + "-index:" + env, Start: fmt.Sprintf("(%d", since), Stop: "+inf", ByScore: true,
		}).Result()
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			text, err := c.Get(bounded(t), "featbit:"+kind+":"+id).Result()
			if err != nil {
				t.Fatalf("an orphan: %v", err)
			}
			if kind == "segment" {
				text = strings.Replace(text, `"envId":"",`, `"envId":"`+env+`",`, 1)
			}
			var m map[string]any
			if err := json.Unmarshal([]byte(text), &m); err != nil || m["envId"] != env {
				t.Fatalf("%s: %v", text, err)
			}
			name := "f:" + fmt.Sprint(m["key"])
			if kind == "segment" {
				name = "s:" + id
			}
			got[name] = normal(t, m)
		}
	}
	return got
}

// TestFromSyncerToReader commits what a syncer would and reads it with another
// handle, which follows, and as FeatBit's evaluation server does.
func TestFromSyncerToReader(t *testing.T) {
	srv, c, env := fresh(t)
	w := openFeatBit(t, srv, env, FeatBitOptions{Write: true})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var mu sync.Mutex
	byKey, rev := map[store.ID]store.Item{}, store.Rev("")
	r := openFeatBit(t, srv, env, FeatBitOptions{})
	r.featbit.emptyGrace = 0
	wg.Go(func() {
		store.Follow(ctx, r, store.FollowOptions{Interval: 200 * time.Millisecond, MaxBackoff: 50 * time.Millisecond}, func(s store.Snapshot, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				return // not populated at first
			}
			if !s.Delta {
				clear(byKey)
			}
			for _, it := range s.Items {
				byKey[it.ID()] = it
			}
			rev = s.Rev
		})
	})
	seg := segmentDoc(env, "s", 1)
	docs := map[string]doc{"s": seg}
	for i := range 600 { // more than go out at once
		d := flagDoc(env, fmt.Sprintf("flag %d", i), int64(i+1))
		d.archived = i%50 == 7
		docs[d.key] = d
	}
	items := func() (all []store.Item) {
		for _, d := range docs {
			all = append(all, d.item(env))
		}
		return all
	}
	check := func(what string, got store.Rev) {
		t.Helper()
		want := map[store.ID]string{}
		for _, it := range items() {
			want[it.ID()] = valueOf(it) // version, archived, and every byte of the JSON
		}
		waitUntil(t, what, func() bool {
			mu.Lock()
			defer mu.Unlock()
			now := map[store.ID]string{}
			for id, it := range byKey {
				now[id] = valueOf(it)
			}
			return rev == got && maps.Equal(now, want)
		})
		if served := evaluationServer(t, c, env, 0); !maps.Equal(served, meaning(t, items())) {
			t.Fatalf("%s: an evaluation server has something else", what)
		}
	}
	rev0 := apply(t, w, true, items()...)
	check("the reader has the first state", rev0)
	a := docs["flag 3"].edited(1000)
	docs[a.key] = a
	docs["s"] = seg.edited(1001)
	rev1 := apply(t, w, false, a.item(env), docs["s"].item(env))
	check("the reader has a patch", rev1)
	if served := evaluationServer(t, c, env, epoch+999); len(served) != 2 {
		t.Errorf("an evaluation server finds %d items that are new", len(served))
	}
	delete(docs, "flag 9")
	delete(docs, "flag 500")
	check("the reader has a full change", apply(t, w, true, items()...))

	// Flushed, the syncer finds it empty and writes it again.
	c.FlushAll(bounded(t))
	if snap := load(t, w, rev1); snap.Rev != "" {
		t.Fatalf("got %q", snap.Rev)
	}
	check("the reader has it again", apply(t, w, true, items()...))
	clear(docs)
	check("the reader has nothing", apply(t, w, true))
}
