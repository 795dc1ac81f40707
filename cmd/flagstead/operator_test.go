package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
)

// An upstream is a FeatBit that tests change, and take down.
type upstream struct {
	t      *testing.T
	store  *memory.Store
	secret relay.Secret
	url    string
	relay  atomic.Pointer[relay.Relay]
	stop   func()
}

func newUpstream(t *testing.T) *upstream {
	t.Helper()
	secret, err := protocol.NewSecret(protocol.NewEnvID())
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{t: t, store: memory.New(), secret: secret}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := u.relay.Load(); h != nil {
			h.ServeHTTP(w, r)
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	u.url = strings.Replace(srv.URL, "http", "ws", 1)
	u.up()
	t.Cleanup(func() { u.down(); srv.Close(); u.store.Close() })
	return u
}

func (u *upstream) up() {
	u.t.Helper()
	r, err := relay.New(relay.Config{Store: u.store, Secrets: []relay.Secret{u.secret}})
	if err != nil {
		u.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { r.Run(ctx); close(done) }()
	u.stop = func() { cancel(); <-done }
	u.relay.Store(r)
}

func (u *upstream) down() {
	if u.relay.Swap(nil) != nil {
		u.stop()
	}
}

// set gives flag a that version and flag b the next one, in one patch.
func (u *upstream) set(version int64) {
	u.t.Helper()
	var items []store.Item
	for i, key := range []string{"a", "b"} {
		version := version + int64(i)
		data := fmt.Sprintf(`{"id":%q,"key":%q,"name":%q,"variationType":"string","isEnabled":true,"variations":[{"id":"v","name":"v","value":"%d"}],`+
			`"fallthrough":{"variations":[{"id":"v","rollout":[0,1]}]},"rules":[],"targetUsers":[],"isArchived":false,"updatedAt":%q}`,
			key, key, key, version, wire.FormatMillis(version))
		items = append(items, store.Item{Kind: store.Flag, Key: key, Version: version, Data: []byte(data)})
	}
	if _, err := u.store.Apply(u.t.Context(), store.Change{Items: items}); err != nil {
		u.t.Fatal(err)
	}
}

// A child is a syncer in a process of its own.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	out   *buffer
}

func (u *upstream) syncer(place string) *child {
	u.t.Helper()
	c := &child{out: &buffer{}}
	c.cmd = exec.Command(os.Args[0], "sync", place, "--url", u.url, "--wait", "--end-with-stdin", "--history", "30")
	c.cmd.Env = append(os.Environ(), "FLAGSTEAD_TEST_AS_MAIN=1", "FLAGSTEAD_SECRET="+string(u.secret))
	c.cmd.Stdout, c.cmd.Stderr = c.out, c.out
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		u.t.Fatal(err)
	}
	c.stdin = stdin
	if err := c.cmd.Start(); err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(c.kill)
	return c
}

// kill is kill -9.
func (c *child) kill() {
	if c.cmd.ProcessState != nil {
		return
	}
	c.cmd.Process.Kill()
	c.cmd.Wait()
	c.stdin.Close()
}

func openWithin(t *testing.T, place string) store.DataStore {
	t.Helper()
	st, err := openStore(&console{err: io.Discard, log: slog.New(slog.DiscardHandler)}, place, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

// versionIn returns the version that set gave the flags, 0 if there are none.
func versionIn(t *testing.T, items []store.Item) int64 {
	t.Helper()
	versions := map[string]int64{}
	for _, it := range items {
		versions[it.Key] = it.Version
	}
	if len(items) != 0 && (len(items) != 2 || versions["b"] != versions["a"]+1) {
		t.Fatalf("half a change: %v", versions)
	}
	return versions["a"]
}

func versionOf(t *testing.T, st store.Reader) int64 {
	t.Helper()
	snap, err := st.Load(context.Background(), "")
	if err != nil {
		return -1 // not there yet
	}
	return versionIn(t, snap.Items)
}

// ok runs a command that has to work.
func ok(t *testing.T, args ...string) string {
	t.Helper()
	code, out, errOut := call(t, args...)
	if code != 0 {
		t.Fatalf("%q: status %d: %s%s", args, code, out, errOut)
	}
	return out
}

// places returns a store of each kind, and how many syncers it may have.
func places(t *testing.T) map[string]int {
	dir := t.TempDir()
	return map[string]int{
		"bolt://" + filepath.Join(dir, "flags.db"):              1,
		"file://" + filepath.Join(dir, "flags.json"):            2,
		redistest.Start(t).URL() + "?env=ops-" + t.Name()[4:10]: 2,
	}
}

// TestIncident is an operator's day: freeze, look, roll back, and go on, while
// syncers die and FeatBit is away.
func TestIncident(t *testing.T) {
	for place, n := range places(t) {
		t.Run(place[:4], func(t *testing.T) {
			up := newUpstream(t)
			up.set(1000)
			var syncers []*child
			for range n {
				syncers = append(syncers, up.syncer(place))
			}
			st := openWithin(t, place)
			until(t, "first flags", func() bool { return versionOf(t, st) == 1000 })
			reader, err := sdk.New(sdk.Config{Store: openWithin(t, place), DisableEvents: true, Report: true, ReportName: "web-1", StartWait: 10 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close(context.Background())
			user, err := sdk.NewUser("u")
			if err != nil {
				t.Fatal(err)
			}
			serves := func(version int64) func() bool {
				return func() bool { return reader.String("a", user, "") == fmt.Sprint(version) }
			}
			recorded := func(count int) func() bool {
				return func() bool {
					all, err := st.(store.History).Revisions(t.Context())
					return err == nil && len(all) >= count
				}
			}
			until(t, "revision 1", recorded(1))
			for i, version := range []int64{2000, 3000} {
				up.set(version)
				until(t, "the reader has it", serves(version))
				until(t, "its revision", recorded(i+2))
			}
			// The gate of a deployment.
			if out := ok(t, "wait", place, "--flag", "a", "--version", "3000", "--all"); !strings.Contains(out, "1 reader of 1") {
				t.Errorf("wait printed %q", out)
			}
			if out := ok(t, "readers", place); !strings.Contains(out, "web-1") {
				t.Errorf("readers printed %q", out)
			}
			for _, tc := range []struct{ args, want string }{
				{"--flag a --version 9999999999999 --all --timeout 500ms", "before 9999999999999"},
				{"--flag nope --version 1 --timeout 500ms", `no flag "nope"`},
				{"--flag a --min-readers 2 --timeout 500ms", "of at least 2"},
			} {
				if code, _, errOut := call(t, append([]string{"wait", place}, strings.Fields(tc.args)...)...); code != 1 || !strings.Contains(errOut, tc.want) {
					t.Errorf("wait %s: status %d, %q", tc.args, code, errOut)
				}
			}

			var rows []readerRow
			if err := json.Unmarshal([]byte(ok(t, "readers", place, "--json")), &rows); err != nil || len(rows) != 1 || rows[0].Reader != "web-1" || rows[0].Rev == "" {
				t.Fatalf("readers --json: %+v, %v", rows, err)
			}
			ok(t, "wait", place, "--rev", string(rows[0].Rev), "--all")
			if code, _, errOut := call(t, "wait", place, "--rev", "1-none", "--all", "--timeout", "300ms"); code != 1 {
				t.Errorf("wait --rev of none: status %d, %q", code, errOut)
			}

			ok(t, "freeze", place, "--reason", "incident 7")
			up.set(4000)
			until(t, "the heartbeat says it", func() bool {
				h, err := st.(store.HeartbeatReader).ReadHeartbeat(t.Context())
				return err == nil && h.Source == store.SourceFrozen
			})
			before := time.Now()
			ok(t, "rollback", place, "1", "--reason", "back")
			until(t, "the reader went back", serves(1000))
			took := time.Since(before)
			t.Logf("from the command to the reader's evaluations: %v", took)
			if took > 4*time.Second { // HoldBack is 5 s
				t.Errorf("the rollback took %v to the reader", took)
			}
			ok(t, "wait", place, "--flag", "a", "--all")
			if out := ok(t, "revisions", place); !strings.Contains(out, "revision 1 again") || !strings.Contains(out, "at revision 1: back") {
				t.Errorf("revisions printed %s", out)
			}
			if out := ok(t, "diff", place, "1", "3"); !strings.Contains(out, `variation changed: v = 1000 → v = 3000`) || !strings.Contains(out, "2 changed") {
				t.Errorf("diff printed %s", out)
			}
			if out := ok(t, "diff", place, "1"); !strings.Contains(out, "1 to now: no difference") {
				t.Errorf("diff printed %s", out)
			}
			for n, want := range map[string]string{"2": `"2000"`, "1": `"1000"`} {
				if out := ok(t, "eval", "a", "--store", place, "--at", n, "-u", "u"); !strings.Contains(out, want) {
					t.Errorf("eval --at %s printed %s", n, out)
				}
			}

			// All of them die, FeatBit goes away, and those that start find the freeze.
			for _, c := range syncers {
				c.kill()
			}
			up.down()
			next := up.syncer(place)
			until(t, "it says that it is frozen", func() bool { return strings.Contains(next.out.String(), "publication is frozen") })
			ok(t, "rollback", place, "2")
			until(t, "the reader has the other one", serves(2000))
			up.up()
			until(t, "FeatBit is back", func() bool { return strings.Contains(next.out.String(), "what FeatBit says is held until unfreeze") })
			if v := versionOf(t, st); v != 2000 {
				t.Fatalf("the frozen store has %d", v)
			}
			ok(t, "unfreeze", place)
			until(t, "the newest flags", serves(4000))
			until(t, "it says so", func() bool { return strings.Contains(next.out.String(), "no longer frozen") })
			ok(t, "unfreeze", place)
			up.set(5000)
			until(t, "it goes on", serves(5000))
		})
	}
}

// TestKilledBeforeTheRecord: syncers are killed as soon as a commit shows. Whatever
// they did not record, each revision is a state that FeatBit had.
func TestKilledBeforeTheRecord(t *testing.T) {
	for place := range places(t) {
		t.Run(place[:4], func(t *testing.T) {
			up := newUpstream(t)
			up.set(1000)
			st := openWithin(t, place)
			for round := range int64(6) {
				c := up.syncer(place)
				until(t, "the state before", func() bool { return versionOf(t, st) == 1000*(round+1) })
				up.set(1000 * (round + 2))
				until(t, "the commit", func() bool { return versionOf(t, st) == 1000*(round+2) })
				c.kill()
			}
			up.syncer(place)
			h := st.(store.History)
			var all []store.Revision
			until(t, "the last state is recorded", func() bool {
				var err error
				if all, err = h.Revisions(t.Context()); err != nil {
					t.Fatal(err)
				}
				if len(all) == 0 {
					return false
				}
				snap, err := h.At(t.Context(), all[len(all)-1].N)
				return err == nil && versionIn(t, snap.Items) == 7000
			})
			last := int64(0)
			for _, r := range all {
				snap, err := h.At(t.Context(), r.N)
				if err != nil {
					t.Fatalf("revision %d: %v", r.N, err)
				}
				version := versionIn(t, snap.Items)
				if version <= last || version%1000 != 0 {
					t.Errorf("revision %d has version %d after %d", r.N, version, last)
				}
				last = version
			}
		})
	}
}

// TestOperatorsMistakes: one clear sentence each, and nothing happens.
func TestOperatorsMistakes(t *testing.T) {
	dir := t.TempDir()
	none := "bolt://" + filepath.Join(dir, "none.db")
	nodir := "bolt://" + filepath.Join(dir, "x", "none.db")
	featbitLayout := redistest.Start(t).URL() + "?layout=featbit&env=" + protocol.NewEnvID()
	for name, tc := range map[string]struct {
		args []string
		want string
		code int
	}{
		"revisions of nothing":   {[]string{"revisions", none}, "has no revisions: has a syncer", 1},
		"rollback of nothing":    {[]string{"rollback", none, "3"}, "has no revisions", 1},
		"rollback to a word":     {[]string{"rollback", none, "yesterday"}, "yesterday", 2},
		"freeze of nothing":      {[]string{"freeze", none}, "has no flags: is that the right one?", 1},
		"freeze of no directory": {[]string{"freeze", nodir, "--empty"}, "no such file or directory", 1},
		"a long reason":          {[]string{"freeze", none, "--empty", "--reason", strings.Repeat("x", 5000)}, "the limit is 2048", 1},
		"diff of a word":         {[]string{"diff", none, "then"}, "is no revision: give a number, or now", 2},
		"diff of nothing":        {[]string{"diff", none, "1", "2"}, "has no revisions", 1},
		"eval at nothing":        {[]string{"eval", "--store", none, "--at", "2", "-u", "u"}, "has no revisions", 1},
		"eval at without store":  {[]string{"eval", "--file", "x.json", "--at", "2", "-u", "u"}, "--at is about the revisions of a --store", 2},
		"wait for nothing":       {[]string{"wait", none}, "--flag or --rev, one of them", 2},
		"wait for both":          {[]string{"wait", none, "--flag", "a", "--rev", "b"}, "one of them", 2},
		"wait for no version":    {[]string{"wait", none, "--flag", "a", "--version", "soon"}, "--version=soon", 2},
		"wait for nobody":        {[]string{"wait", none, "--flag", "a", "--min-readers", "0"}, "waits for nobody", 2},
		"no time":                {[]string{"wait", none, "--flag", "a", "--timeout", "0s"}, "want a time above zero", 2},
		"FeatBit's layout":       {[]string{"revisions", featbitLayout}, "FeatBit's layout keeps no revisions", 1},
		"a Redis that is down":   {[]string{"freeze", "redis://u:hunter2@127.0.0.1:1", "--timeout", "2s"}, "store redis://u:xxxxx@127.0.0.1:1", 1},
		"history below zero":     {[]string{"sync", none, "--history=-1", "--url", "ws://x", "--secret", "x"}, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errOut := call(t, tc.args...)
			if code != tc.code || !strings.Contains(errOut, tc.want) || strings.Contains(out+errOut, "hunter2") {
				t.Errorf("status %d, printed %q %q, want %d and %q", code, out, errOut, tc.code, tc.want)
			}
		})
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*.control")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if out := ok(t, "freeze", none, "--empty"); !strings.Contains(out, "frozen") {
		t.Errorf("printed %q", out)
	}
	if out := ok(t, "unfreeze", none); !strings.Contains(out, "unfrozen") {
		t.Errorf("printed %q", out)
	}
}

func TestDiffInWords(t *testing.T) {
	item := func(version int64, text string) store.Item {
		it := store.Item{Kind: store.Flag, Key: "a", Version: version, Data: []byte(text)}
		it.Archived = strings.Contains(text, `"isArchived":true`)
		return it
	}
	const was = `{"name":"A","isEnabled":true,"variations":[{"id":"1","name":"On","value":"true"},{"id":"2","name":"Off","value":"false"}],` +
		`"rules":[{"id":"r","name":"beta"}],"targetUsers":[{"keyIds":["u1","u2"],"variationId":"1"}],"disabledVariationId":"2",` +
		`"fallthrough":{"variations":[{"id":"1","rollout":[0,0.1]},{"id":"2","rollout":[0.1,1]}]},"updatedAt":"1"}`
	for name, tc := range map[string]struct{ old, now, want string }{
		"enabled":  {`"isEnabled":true`, `"isEnabled":false`, "enabled: true → false"},
		"value":    {`"value":"true"`, `"value":"yes"`, "variation changed: On = true → On = yes"},
		"rule":     {`"name":"beta"`, `"name":"gamma"`, "rule changed: beta → gamma"},
		"rule off": {`{"id":"r","name":"beta"}`, ``, "rule removed: beta"},
		"targets":  {`"u1","u2"`, `"u2","u3","u4"`, "targets of On: 2 added, 1 removed"},
		"off":      {`"disabledVariationId":"2"`, `"disabledVariationId":"1"`, "when off: Off → On"},
		"rollout":  {`[0,0.1]},{"id":"2","rollout":[0.1,1]}`, `[0,0.25]},{"id":"2","rollout":[0.25,1]}`, "default rule: On 10%, Off 90% → On 25%, Off 75%"},
		"other":    {`"updatedAt":"1"`, `"tags":["x"],"updatedAt":"1"`, `tags: nothing → ["x"]`},
	} {
		now := strings.Replace(was, tc.old, tc.now, 1)
		if now == was {
			t.Fatalf("%s: nothing was replaced", name)
		}
		d := compare([]store.Item{item(1, was)}, []store.Item{item(2, now)})
		if len(d) != 1 || d[0].What != "changed" || len(d[0].Changes) != 1 || d[0].Changes[0] != tc.want {
			t.Errorf("%s: %+v, want %q", name, d, tc.want)
		}
	}
	if d := compare([]store.Item{item(1, was)}, []store.Item{item(2, strings.Replace(was, `"updatedAt":"1"`, `"updatedAt":"2"`, 1))}); len(d) != 1 || d[0].What != "touched" {
		t.Errorf("saved again: %+v", d)
	}
	if d := compare([]store.Item{item(1, was)}, []store.Item{item(2, strings.Replace(was, `"isEnabled"`, `"isArchived":true,"isEnabled"`, 1))}); len(d) != 1 || d[0].What != "archived" {
		t.Errorf("archived: %+v", d)
	}
	if d := compare(nil, []store.Item{item(1, was)}); len(d) != 1 || d[0].What != "added" || d[0].String() != "+ a: added" {
		t.Errorf("added: %v", d)
	}
	if d := compare([]store.Item{item(1, was)}, nil); d.summary() != "1 removed" {
		t.Errorf("removed: %v", d)
	}
	if _, err := json.Marshal(compare([]store.Item{item(1, "no JSON")}, []store.Item{item(2, "[]")})); err != nil {
		t.Error(err)
	}
}
