package redis

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/store"
)

// The rules that doc.go gives to operators, for the environment "prod".
const (
	readerRules = `resetchannels &{flagstead:prod}:c %R~{flagstead:prod}:* -@all ` +
		`+evalsha_ro +eval_ro +hlen +hget +hmget +hkeys +hgetall +zcard +zcount +zrangebyscore +time +subscribe +ping`
	syncerRules = `resetchannels &{flagstead:prod}:c ~{flagstead:prod}:* -@all ` +
		`+evalsha_ro +eval_ro +hlen +hget +hmget +hkeys +hgetall +zcard +zcount +zrangebyscore +time +subscribe +ping ` +
		`+evalsha +eval +hset +hdel +zadd +rename +unlink +expire +pexpire +persist +publish`
	reporterRules = `resetchannels &{flagstead:prod}:c %R~{flagstead:prod}:* ~{flagstead:prod}:r -@all ` +
		`+evalsha_ro +eval_ro +hlen +hget +hmget +hkeys +hgetall +zcard +zcount +zrangebyscore +time +subscribe +ping ` +
		`+evalsha +eval +hset +hdel +pexpire`
	clusterRules  = `+cluster|slots`
	sentinelRules = `resetchannels &+switch-master &+replica-reconf-done resetkeys -@all ` +
		`+sentinel|get-master-addr-by-name +sentinel|sentinels +subscribe +ping`
)

// setUsers makes the users "reader", "syncer" and "reporter" on servers.
func setUsers(t *testing.T, more string, servers ...*redistest.Server) {
	t.Helper()
	for _, srv := range servers {
		for name, rules := range map[string]string{"reader": readerRules, "syncer": syncerRules, "reporter": reporterRules} {
			srv.Must(t, append([]string{"ACL", "SETUSER", name, "reset", "on", ">s3cret"}, strings.Fields(rules+" "+more)...)...)
		}
	}
}

func as(t *testing.T, raw, user, env string) *Store {
	t.Helper()
	return openURL(t, raw, env, &Options{Username: user, Password: "s3cret"})
}

func TestRulesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	doc := strings.Join(strings.Fields(strings.ReplaceAll(string(text), "//", " ")), " ")
	for _, rules := range []string{readerRules, syncerRules, reporterRules, clusterRules, sentinelRules} {
		if !strings.Contains(doc, rules) {
			t.Errorf("doc.go lacks %q", rules)
		}
	}
}

// leastPrivilege has a reader and a syncer do all that they do, and tries what
// they must not do.
func leastPrivilege(t *testing.T, raw string, admin goredis.UniversalClient) {
	t.Helper()
	syncer, reader := as(t, raw, "syncer", "prod"), as(t, raw, "reader", "prod")
	woken := watch(t, reader)
	first := apply(t, syncer, true, flag("a", 1, "1"))
	<-woken
	second := apply(t, syncer, false, flag("b", 1, "1"), flag("a", 2, "2"))
	<-woken
	for _, since := range []store.Rev{"", first, second, "foreign"} {
		if snap := load(t, reader, since); snap.Rev != second {
			t.Errorf("since %q: %+v", since, snap)
		}
	}
	if err := syncer.WriteHeartbeat(bounded(t), store.Heartbeat{Confirmed: time.Now(), Source: "ok", Writer: "w"}); err != nil {
		t.Error(err)
	}
	if h, err := reader.ReadHeartbeat(bounded(t)); err != nil || h.Writer != "w" {
		t.Errorf("%+v, %v", h, err)
	}
	for _, name := range []string{"w", "v"} {
		if held, err := syncer.Acquire(bounded(t), name, time.Minute); err != nil || held != (name == "w") {
			t.Errorf("lease for %s: %v, %v", name, held, err)
		}
	}
	if err := syncer.Release(bounded(t), "w"); err != nil {
		t.Error(err)
	}
	// Damage, repair, conflict, an equal content: the other ways through the scripts.
	if err := admin.HDel(bounded(t), syncer.data, "f:a").Err(); err != nil {
		t.Fatal(err)
	}
	_, err := reader.Load(bounded(t), second)
	wantErr(t, err, ErrDamaged)
	rev := apply(t, syncer, true, flag("a", 3, "3"))
	if again := apply(t, syncer, true, flag("a", 3, "3")); again != rev {
		t.Errorf("%q became %q", rev, again)
	}
	if _, err := syncer.Apply(bounded(t), store.Change{Full: true, Base: "other"}); !errors.Is(err, store.ErrConflict) {
		t.Error(err)
	}
	if err := admin.Del(bounded(t), syncer.sorted).Err(); err != nil {
		t.Fatal(err)
	}
	rev = apply(t, syncer, false, flag("c", 1, "1"))
	if snap := load(t, reader, first); snap.Rev != rev {
		t.Errorf("%+v", snap)
	}
	if watched, err := syncer.client.PubSubNumSub(bounded(t), syncer.topic).Result(); err == nil {
		t.Errorf("the syncer may run any command: %v", watched)
	}
	syncerWatch := watch(t, syncer)
	apply(t, syncer, false, flag("c", 2, "2"))
	<-syncerWatch

	operate(t, syncer, reader, as(t, raw, "reporter", "prod"))

	// The reader writes nothing, by none of the store's ways nor by its own.
	before := load(t, reader, "")
	for _, c := range []store.Change{{Items: []store.Item{flag("a", 9, "9")}}, {Full: true}, {Full: true, Items: []store.Item{flag("a", 9, "9")}}} {
		_, err := reader.Apply(bounded(t), c)
		wantErr(t, err, nil, "the user lacks a permission", "NOPERM")
	}
	wantErr(t, reader.WriteHeartbeat(bounded(t), store.Heartbeat{Writer: "x"}), nil, "the user lacks a permission")
	wantErr(t, reader.WriteControl(bounded(t), store.Control{Frozen: true}), nil, "the user lacks a permission")
	wantErr(t, reader.WriteReport(bounded(t), store.Report{Reader: "x"}), nil, "the user lacks a permission")
	_, err = reader.AppendRevision(bounded(t), store.Record{Rev: "x", Whole: true, After: 2}, store.Keep{})
	wantErr(t, err, nil, "the user lacks a permission")
	r := reader.client
	for name, err := range map[string]error{
		"HSET":                 r.HSet(bounded(t), reader.data, "f:a", "9|0|9").Err(),
		"DEL":                  r.Del(bounded(t), reader.data).Err(),
		"EXPIRE":               r.Expire(bounded(t), reader.data, time.Second).Err(),
		"PUBLISH":              r.Publish(bounded(t), reader.topic, "x").Err(),
		"EVAL":                 r.Eval(bounded(t), "return redis.call('HSET', KEYS[1], 'f:a', '9|0|9')", []string{reader.data}).Err(),
		"EVAL_RO that writes":  r.EvalRO(bounded(t), "return redis.call('HSET', KEYS[1], 'f:a', '9|0|9')", []string{reader.data}).Err(),
		"reading another key":  r.HGetAll(bounded(t), "{flagstead:other}:d").Err(),
		"another key's script": sinceScript.RunRO(bounded(t), r, []string{"{flagstead:other}:d", "{flagstead:other}:z"}, 1, "x", 1).Err(),
		"FLUSHALL":             r.FlushAll(bounded(t)).Err(),
		"KEYS":                 r.Keys(bounded(t), "*").Err(),
		"CONFIG":               r.ConfigGet(bounded(t), "*").Err(),
	} {
		if err == nil {
			t.Errorf("the reader may do: %s", name)
		}
	}
	if after := load(t, reader, ""); after.Rev != before.Rev {
		t.Errorf("Rev %q became %q", before.Rev, after.Rev)
	}
	// Neither goes to other environments.
	for _, user := range []string{"reader", "syncer"} {
		s := as(t, raw, user, "other")
		_, loadErr := s.Load(bounded(t), "")
		_, applyErr := s.Apply(bounded(t), store.Change{Full: true, Items: []store.Item{flag("a", 1, "1")}})
		for _, err := range []error{loadErr, applyErr, s.Watch(bounded(t), func() {})} {
			wantErr(t, err, nil, "the user lacks a permission")
			if strings.Contains(err.Error(), "s3cret") {
				t.Error(err)
			}
		}
	}
}

// operate does what operators do, and what readers report to them.
func operate(t *testing.T, syncer, reader, reporter *Store) {
	t.Helper()
	record := store.Record{Rev: "r1", Whole: true, Items: []store.Item{flag("a", 1, "1")}}
	for n := range uint64(2) {
		record.After, record.Rev = n, store.Rev(rune('x'+n))
		if _, err := syncer.AppendRevision(bounded(t), record, store.Keep{Revisions: 1}); err != nil {
			t.Error(err)
		}
	}
	if snap, err := reader.At(bounded(t), 2); err != nil || len(snap.Items) != 1 {
		t.Errorf("%+v, %v", snap, err)
	}
	if err := syncer.WriteControl(bounded(t), store.Control{Frozen: true, Reason: "r"}); err != nil {
		t.Error(err)
	}
	if c, err := reader.ReadControl(bounded(t)); err != nil || c.Reason != "r" {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := syncer.Apply(bounded(t), store.Change{Full: true}); !errors.Is(err, store.ErrFrozen) {
		t.Error(err)
	}
	if err := syncer.WriteControl(bounded(t), store.Control{}); err != nil {
		t.Error(err)
	}
	for _, state := range []string{"ok", "off", "ok"} {
		if err := reporter.WriteReport(bounded(t), store.Report{Reader: "r1", State: state}); err != nil {
			t.Error(err)
		}
	}
	if all, err := reader.ReadReports(bounded(t)); err != nil || len(all) != 1 {
		t.Errorf("%+v, %v", all, err)
	}
	_, err := reporter.Apply(bounded(t), store.Change{Items: []store.Item{flag("a", 99, "9")}})
	wantErr(t, err, nil, "the user lacks a permission")
	wantErr(t, reporter.WriteControl(bounded(t), store.Control{Frozen: true}), nil, "the user lacks a permission")
	_, err = reporter.AppendRevision(bounded(t), store.Record{Rev: "z", Whole: true, After: 2}, store.Keep{})
	wantErr(t, err, nil, "the user lacks a permission")
	if err := reporter.client.HSet(bounded(t), reporter.data, "f:a", "9|0|9").Err(); err == nil {
		t.Error("a reporting reader may write flags")
	}
}

func TestLeastPrivilege(t *testing.T) {
	srv := redistest.Start(t)
	setUsers(t, "", srv)
	leastPrivilege(t, srv.URL(), rawClient(t, srv))
}

func TestLeastPrivilegeOnSentinel(t *testing.T) {
	r := redistest.StartSentinel(t, 1, redistest.Options{})
	setUsers(t, "", r.Servers...)
	for _, s := range r.Sentinels() {
		s.Must(t, append([]string{"ACL", "SETUSER", "watcher", "reset", "on", ">w4tch"}, strings.Fields(sentinelRules)...)...)
	}
	admin := goredis.NewFailoverClient(&goredis.FailoverOptions{SentinelAddrs: r.Addrs(), MasterName: redistest.MasterName})
	defer admin.Close()
	raw := r.URL() + "&sentinel_username=watcher&sentinel_password=w4tch"
	leastPrivilege(t, raw, admin)
	r.KillMaster(t)
	s := as(t, raw, "reader", "prod")
	eventually(t, "a Load after a failover", func() bool { _, err := s.Load(bounded(t), ""); return err == nil })
	// Passwords of both kinds stay out of errors.
	wrong := openURL(t, r.URL()+"&sentinel_username=watcher&sentinel_password=wr0ng", "prod", &Options{Username: "reader", Password: "s3cret"})
	_, err := wrong.Load(bounded(t), "")
	if err == nil || strings.Contains(err.Error(), "wr0ng") || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("with a wrong password for the Sentinels: %v", err)
	}
}

func TestLeastPrivilegeOnCluster(t *testing.T) {
	c := redistest.StartCluster(t, redistest.Options{})
	setUsers(t, clusterRules, c.Servers...)
	admin := goredis.NewClusterClient(&goredis.ClusterOptions{Addrs: c.Addrs()})
	defer admin.Close()
	leastPrivilege(t, c.URL(), admin)
}

// Redis before 7 has neither read-only scripts nor permissions to read alone.
func TestServerWithoutReadOnlyScripts(t *testing.T) {
	srv := redistest.StartWith(t, redistest.Options{Args: []string{"--rename-command", "EVALSHA_RO", "", "--rename-command", "EVAL_RO", ""}})
	s := open(t, srv, "x")
	rev := apply(t, s, true, flag("a", 1, "1"))
	other := open(t, srv, "x")
	for range 2 {
		if snap := load(t, other, rev); snap.Rev != rev || !snap.Delta {
			t.Errorf("%+v", snap)
		}
	}
	if _, err := other.ReadHeartbeat(bounded(t)); err != nil {
		t.Error(err)
	}
	if !other.noReadOnly.Load() {
		t.Error("asks again and again")
	}
}

func TestRequirePass(t *testing.T) {
	srv := redistest.StartWith(t, redistest.Options{Password: "s3cret"})
	for name, tc := range map[string]struct {
		url  string
		opts *Options
		ok   bool
	}{
		"in the URL":     {"redis://:s3cret@" + srv.Addr(), nil, true},
		"in the options": {srv.URL(), &Options{Password: "s3cret"}, true},
		"wrong":          {"redis://:wr0ng@" + srv.Addr(), nil, false},
		"none":           {srv.URL(), nil, false},
	} {
		s := openURL(t, tc.url, newEnv(), tc.opts)
		_, err := s.Load(bounded(t), "")
		if (err == nil) != tc.ok || err != nil && (strings.Contains(err.Error(), "wr0ng") || !strings.Contains(err.Error(), "refuses the login")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTLS(t *testing.T) {
	certs, others := redistest.NewCertificates(t), redistest.NewCertificates(t)
	plain := redistest.StartWith(t, redistest.Options{TLS: certs})
	mutual := redistest.StartWith(t, redistest.Options{TLS: certs, ClientCertificates: true})
	for name, tc := range map[string]struct {
		url  string
		opts *Options
		want string // in the error
	}{
		"an authority in the options":     {plain.URL(), &Options{TLS: certs.Config(false)}, ""},
		"an authority in the URL":         {plain.URL() + "?ca=" + certs.CA, nil, ""},
		"an unknown authority":            {plain.URL(), nil, "certificate"},
		"another authority":               {plain.URL() + "?ca=" + others.CA, nil, "certificate"},
		"a certificate in the options":    {mutual.URL(), &Options{TLS: certs.Config(true)}, ""},
		"a certificate in the URL":        {mutual.URL() + "?ca=" + certs.CA + "&cert=" + certs.Client + "&key=" + certs.ClientKey, nil, ""},
		"no certificate":                  {mutual.URL(), &Options{TLS: certs.Config(false)}, "certificate required"},
		"a certificate of somebody else":  {mutual.URL() + "?ca=" + certs.CA + "&cert=" + others.Client + "&key=" + others.ClientKey, nil, "unknown certificate authority"},
		"no TLS with a server that wants": {"redis://" + mutual.Addr(), nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := openURL(t, tc.url, newEnv(), tc.opts)
			_, err := s.Apply(bounded(t), store.Change{Full: true, Items: []store.Item{flag("a", 1, "1")}})
			if strings.HasPrefix(tc.url, "redis://") {
				wantErr(t, err, nil)
				return
			}
			if tc.want != "" {
				wantErr(t, err, nil, tc.want)
				wantErr(t, s.Watch(bounded(t), func() {}), nil, tc.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			woken := watch(t, s)
			apply(t, s, false, flag("b", 1, "1"))
			<-woken
			if n := len(load(t, s, "").Items); n != 2 {
				t.Errorf("%d items", n)
			}
		})
	}
}

func TestTLSOnSentinelAndCluster(t *testing.T) {
	certs := redistest.NewCertificates(t)
	o := redistest.Options{TLS: certs, ClientCertificates: true}
	for name, raw := range map[string]string{
		"sentinel": redistest.StartSentinel(t, 1, o).URL(),
		"cluster":  redistest.StartCluster(t, o).URL(),
	} {
		t.Run(name, func(t *testing.T) {
			s := openURL(t, raw, newEnv(), &Options{TLS: certs.Config(true)})
			rev := apply(t, s, true, flag("a", 1, "1"))
			if snap := load(t, s, ""); snap.Rev != rev {
				t.Errorf("%+v", snap)
			}
			ctx, cancel := context.WithCancel(bounded(t))
			err := s.Watch(ctx, cancel)
			wantErr(t, err, context.Canceled)
			bare := openURL(t, raw, newEnv(), &Options{TLS: certs.Config(false), Timeout: time.Second})
			if _, err := bare.Load(bounded(t), ""); err == nil {
				t.Error("no certificate was needed")
			}
		})
	}
}
