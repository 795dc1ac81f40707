package redis

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/storetest"
)

// What doc.go gives in addition to whom events pass through, for the environment
// "prod".
const (
	outboxWriterRules = `~{flagstead:prod}:e* +evalsha +eval +xadd +xlen +xrange +xdel +xack ` +
		`+hincrby +zscore +zadd +zcard +zremrangebyscore +zremrangebyrank`
	outboxReaderRules = `~{flagstead:prod}:e* +evalsha +eval +exists +xgroup|create +xpending +xclaim +xautoclaim +xreadgroup ` +
		`+xrange +xlen +xack +xdel +hincrby +hmget`
)

func TestOutbox(t *testing.T) {
	raw := rawClient(t, server)
	storetest.RunOutbox(t, storetest.OutboxOptions{
		Open: func(t testing.TB) storetest.Outbox { return open(t, server, newEnv()) },
		Expire: func(t testing.TB, o storetest.Outbox) {
			key := o.(*Store).outboxKeys()[0]
			for _, p := range raw.XPendingExt(bounded(t), &goredis.XPendingExtArgs{Stream: key, Group: outboxGroup, Start: "-", End: "+", Count: 10_000}).Val() {
				idle := store.OutboxClaim.Milliseconds()
				if err := raw.Do(bounded(t), "XCLAIM", key, outboxGroup, p.Consumer, 0, p.ID, "IDLE", idle, "JUSTID").Err(); err != nil {
					t.Fatal(err)
				}
			}
		},
	})
}

func outboxEvents(from, n, size int) []store.Event {
	list := make([]store.Event, n)
	for i := range list {
		list[i] = store.Event{ID: fmt.Sprintf("e-%06d", from+i), Data: bytes.Repeat([]byte("x"), size)}
	}
	return list
}

func count(t *testing.T, s *Store) store.OutboxStats {
	t.Helper()
	st, err := s.OutboxStats(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// TestOutboxIsBounded: the oldest go, read or not, all are counted, and the ids do
// not pile up either.
func TestOutboxIsBounded(t *testing.T) {
	s := openURL(t, server.URL()+"/0", newEnv(), &Options{Outbox: OutboxOptions{MaxEvents: 100, MaxBytes: 20_000}})
	if err := s.AppendEvents(bounded(t), outboxEvents(0, 60, 92)); err != nil {
		t.Fatal(err)
	}
	read, err := s.ReadEvents(bounded(t), "c", 10)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := s.AppendEvents(bounded(t), outboxEvents(60+100*i, 100, 92)); err != nil {
			t.Fatal(err)
		}
	}
	if st := count(t, s); st.Added != 560 || st.Pending != 100 || st.Trimmed != 460 || st.Bytes != 10_000 {
		t.Errorf("by number: %+v", st)
	}
	var receipts []string
	for _, e := range read {
		receipts = append(receipts, e.Receipt)
	}
	if err := s.AckEvents(bounded(t), receipts); err != nil {
		t.Fatal(err)
	}
	if got, err := s.ReadEvents(bounded(t), "c", 3); err != nil || len(got) != 3 || got[0].ID != "e-000460" {
		t.Errorf("the oldest are %v, %v", got, err)
	}
	if err := s.AppendEvents(bounded(t), outboxEvents(1000, 3, 9992)); err != nil {
		t.Fatal(err)
	}
	if st := count(t, s); st.Pending != 2 || st.Bytes != 20_000 || st.Added != 563 || st.Trimmed != 561 || st.Acknowledged != 0 {
		t.Errorf("by size: %+v", st)
	}
	raw := rawClient(t, server)
	if n := raw.ZCard(bounded(t), s.outboxKeys()[2]).Val(); n > 200 {
		t.Errorf("%d ids are remembered", n)
	}
	if p := raw.XPending(bounded(t), s.outboxKeys()[0], outboxGroup).Val(); p.Count != 0 {
		t.Errorf("%d events that are gone count as read", p.Count)
	}
}

// TestOutboxOutOfMemory: a server without room takes no events, says so, and keeps
// the flags.
func TestOutboxOutOfMemory(t *testing.T) {
	srv := redistest.StartWith(t, redistest.Options{Args: []string{"--maxmemory", "16mb", "--maxmemory-policy", "noeviction"}})
	s := open(t, srv, "x")
	rev := apply(t, s, true, flag("a", 1, "1"))
	added := 0
	for {
		err := s.AppendEvents(bounded(t), outboxEvents(added, 20, 50_000))
		if err != nil {
			wantErr(t, err, nil, "out of memory", "OOM")
			break
		}
		if added += 20; added > 1000 {
			t.Fatal("the server takes everything")
		}
	}
	if snap := load(t, open(t, srv, "x"), ""); snap.Rev != rev || len(snap.Items) != 1 {
		t.Errorf("the flags are %+v", snap)
	}
	if st := count(t, s); st.Added != uint64(added) || st.Pending != uint64(added) {
		t.Errorf("%d events were added, %+v", added, st)
	}
	// Delivery makes room again.
	events, err := s.ReadEvents(bounded(t), "c", 100)
	if err != nil {
		t.Fatal(err)
	}
	var receipts []string
	for _, e := range events {
		receipts = append(receipts, e.Receipt)
	}
	if err := s.AckEvents(bounded(t), receipts); err != nil {
		t.Fatal(err)
	}
	if err := s.AppendEvents(bounded(t), outboxEvents(added, 20, 50_000)); err != nil {
		t.Error(err)
	}
}

func TestOutboxLeastPrivilege(t *testing.T) {
	srv := redistest.Start(t)
	for name, rules := range map[string]string{
		"reader": readerRules + " " + outboxWriterRules, "syncer": syncerRules + " " + outboxReaderRules, "plain": readerRules,
	} {
		srv.Must(t, append([]string{"ACL", "SETUSER", name, "reset", "on", ">s3cret"}, strings.Fields(rules)...)...)
	}
	syncer, reader, plain := as(t, srv.URL(), "syncer", "prod"), as(t, srv.URL(), "reader", "prod"), as(t, srv.URL(), "plain", "prod")
	rev := apply(t, syncer, true, flag("a", 1, "1"))
	for i := range 3 { // beyond the bounds, too
		reader.opts.Outbox = OutboxOptions{MaxEvents: 1 + i}
		if err := reader.AppendEvents(bounded(t), outboxEvents(10*i, 10, 10)); err != nil {
			t.Fatal(err)
		}
	}
	events, err := syncer.ReadEvents(bounded(t), "c", 10)
	if err != nil || len(events) != 3 {
		t.Fatalf("%v, %v", events, err)
	}
	if again, err := syncer.ReadEvents(bounded(t), "c", 10); err != nil || len(again) != 3 {
		t.Errorf("%v, %v", again, err)
	}
	if err := syncer.AckEvents(bounded(t), []string{events[0].Receipt}); err != nil {
		t.Error(err)
	}
	for name, s := range map[string]*Store{"syncer": syncer, "reader": reader} {
		if st, err := s.OutboxStats(bounded(t)); err != nil || st.Pending != 2 {
			t.Errorf("%s: %+v, %v", name, st, err)
		}
	}
	err = plain.AppendEvents(bounded(t), outboxEvents(90, 1, 1))
	wantErr(t, err, nil, "lacks a permission")
	if _, err := reader.Apply(bounded(t), store.Change{Full: true, Items: []store.Item{flag("a", 2, "2")}}); err == nil {
		t.Error("a reader with an outbox writes flags")
	}
	if snap := load(t, plain, ""); snap.Rev != rev {
		t.Errorf("%+v", snap)
	}
}

func TestOutboxRulesAreDocumented(t *testing.T) {
	for _, name := range []string{"doc.go", "../../docs/stores.md"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		doc := strings.Join(strings.Fields(strings.ReplaceAll(string(text), "//", " ")), " ")
		for _, rules := range []string{outboxWriterRules, outboxReaderRules} {
			if !strings.Contains(doc, rules) {
				t.Errorf("%s lacks %q", name, rules)
			}
		}
	}
}

func TestNoOutboxInFeatBitsLayout(t *testing.T) {
	s := openURL(t, server.URL()+"/0?layout=featbit", "226b9bf8-4af3-4ffa-9b01-162270e4cd40", nil)
	_, read := s.ReadEvents(bounded(t), "c", 1)
	_, counted := s.OutboxStats(bounded(t))
	for what, err := range map[string]error{
		"append": s.AppendEvents(bounded(t), outboxEvents(0, 1, 1)), "read": read, "count": counted,
		"acknowledge": s.AckEvents(bounded(t), []string{"1-1"}),
	} {
		if !errors.Is(err, errNoOutbox) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
