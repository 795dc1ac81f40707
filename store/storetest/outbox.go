package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flagstead/flagstead/store"
)

// An Outbox is a store with an outbox.
type Outbox interface {
	store.OutboxWriter
	store.OutboxReader
}

// OutboxOptions says how RunOutbox gets what it tests.
type OutboxOptions struct {
	// Open returns an empty outbox. What it opens it closes by t.Cleanup.
	Open func(t testing.TB) Outbox

	// Expire lets [store.OutboxClaim] pass, in what way soever, for whatever was
	// read so far. Nil leaves the cases out that need it.
	Expire func(t testing.TB, o Outbox)
}

// RunOutbox tests the contract of [store.OutboxWriter] and [store.OutboxReader].
func RunOutbox(t *testing.T, opts OutboxOptions) {
	for name, run := range map[string]func(*testing.T, OutboxOptions){
		"order": outboxOrder, "twice": outboxTwice, "again": outboxAgain, "dead": outboxDead,
		"bad": outboxBad, "consumers": outboxConsumers, "stats": outboxStats,
	} {
		t.Run(name, func(t *testing.T) { run(t, opts) })
	}
}

// patience bounds each call.
const outboxPatience = 20 * time.Second

func outboxContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), outboxPatience)
	t.Cleanup(cancel)
	return ctx
}

func makeEvents(from, n int) []store.Event {
	list := make([]store.Event, n)
	for i := range list {
		list[i] = store.Event{ID: fmt.Sprintf("e-%d", from+i), Data: fmt.Appendf(nil, `{"user":{"keyId":"u-%d"}}`, from+i)}
	}
	return list
}

func ids(events []store.Event) []string {
	var list []string
	for _, e := range events {
		list = append(list, e.ID)
	}
	return list
}

func appendTo(t testing.TB, o Outbox, events []store.Event) {
	t.Helper()
	if err := o.AppendEvents(outboxContext(t), events); err != nil {
		t.Fatalf("AppendEvents = %v", err)
	}
}

func readFrom(t testing.TB, o Outbox, consumer string, limit int) []store.Event {
	t.Helper()
	events, err := o.ReadEvents(outboxContext(t), consumer, limit)
	if err != nil {
		t.Fatalf("ReadEvents = %v", err)
	}
	if len(events) > limit {
		t.Errorf("ReadEvents(%d) returned %d events", limit, len(events))
	}
	return events
}

func ack(t testing.TB, o Outbox, events []store.Event) {
	t.Helper()
	var receipts []string
	for _, e := range events {
		receipts = append(receipts, e.Receipt)
	}
	if err := o.AckEvents(outboxContext(t), receipts); err != nil {
		t.Fatalf("AckEvents = %v", err)
	}
}

func outboxOrder(t *testing.T, opts OutboxOptions) {
	o := opts.Open(t)
	if events := readFrom(t, o, "c", 10); len(events) != 0 {
		t.Errorf("an empty outbox has %v", events)
	}
	appendTo(t, o, makeEvents(0, 1500))
	appendTo(t, o, makeEvents(1500, 3))
	var all []store.Event
	for {
		events := readFrom(t, o, "c", 100)
		if len(events) == 0 {
			break
		}
		for _, e := range events {
			if e.Receipt == "" {
				t.Fatalf("event %q has no receipt", e.ID)
			}
			all = append(all, store.Event{ID: e.ID, Data: e.Data})
		}
		ack(t, o, events)
	}
	if want := makeEvents(0, 1503); !slices.EqualFunc(all, want, func(a, b store.Event) bool { return a.ID == b.ID && string(a.Data) == string(b.Data) }) {
		t.Errorf("got %d events, want %d in order", len(all), len(want))
	}
}

// outboxTwice: what a writer repeats because it does not know whether it arrived is
// delivered once, also if it was delivered meanwhile.
func outboxTwice(t *testing.T, opts OutboxOptions) {
	o := opts.Open(t)
	appendTo(t, o, makeEvents(0, 10))
	appendTo(t, o, makeEvents(5, 10))
	events := readFrom(t, o, "c", 100)
	if got, want := ids(events), ids(makeEvents(0, 15)); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	ack(t, o, events)
	appendTo(t, o, makeEvents(0, 16))
	if got := ids(readFrom(t, o, "c", 100)); !slices.Equal(got, []string{"e-15"}) {
		t.Errorf("after delivery, got %v", got)
	}
	if st := outboxCount(t, o); st.Added != 16 || st.Ignored != 20 {
		t.Errorf("OutboxStats = %+v", st)
	}
}

// outboxAgain: a consumer gets again what it did not acknowledge, first.
func outboxAgain(t *testing.T, opts OutboxOptions) {
	o := opts.Open(t)
	appendTo(t, o, makeEvents(0, 30))
	first := readFrom(t, o, "c", 10)
	ack(t, o, first[3:5])
	ack(t, o, first[3:5]) // does no harm
	got := ids(readFrom(t, o, "c", 12))
	if want := append(ids(slices.Concat(first[:3], first[5:])), "e-10", "e-11", "e-12", "e-13"); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func outboxDead(t *testing.T, opts OutboxOptions) {
	if opts.Expire == nil {
		return
	}
	o := opts.Open(t)
	appendTo(t, o, makeEvents(0, 20))
	dead := readFrom(t, o, "dead", 10)
	if got := ids(readFrom(t, o, "c", 100)); !slices.Equal(got, ids(makeEvents(10, 10))) {
		t.Errorf("of a consumer that may live, got %v", got)
	}
	ack(t, o, readFrom(t, o, "c", 100))
	opts.Expire(t, o)
	got := readFrom(t, o, "c", 100)
	if !slices.Equal(ids(got), ids(dead)) {
		t.Errorf("of a dead consumer, got %v", ids(got))
	}
	if again := readFrom(t, o, "dead", 100); len(again) != 0 {
		t.Errorf("the dead consumer got %v back", ids(again))
	}
	ack(t, o, dead) // it delivered them all the same
	if st := outboxCount(t, o); st.Pending != 0 || st.Acknowledged != 20 {
		t.Errorf("OutboxStats = %+v", st)
	}
}

func outboxBad(t *testing.T, opts OutboxOptions) {
	o := opts.Open(t)
	good := makeEvents(0, 1)[0]
	for _, e := range []store.Event{
		{Data: []byte("{}")}, {ID: "x"}, {ID: "x", Data: []byte(strings.Repeat("x", store.MaxEventBytes))},
	} {
		if err := o.AppendEvents(outboxContext(t), []store.Event{good, e}); !errors.Is(err, store.ErrEvent) {
			t.Errorf("AppendEvents = %v, want ErrEvent", err)
		}
	}
	if err := o.AckEvents(outboxContext(t), []string{"no receipt"}); err == nil {
		t.Error("AckEvents takes anything for a receipt")
	}
	if _, err := o.ReadEvents(outboxContext(t), "", 1); err == nil {
		t.Error("ReadEvents takes a consumer without a name")
	}
	if events := readFrom(t, o, "c", 10); len(events) != 0 {
		t.Errorf("a call that failed added %v", ids(events))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.AppendEvents(ctx, []store.Event{good}); !errors.Is(err, context.Canceled) {
		t.Errorf("AppendEvents with an ended context = %v", err)
	}
}

// outboxConsumers: several writers and consumers at once, and each event comes to
// one consumer.
func outboxConsumers(t *testing.T, opts OutboxOptions) {
	o := opts.Open(t)
	const each = 400
	var writers, consumers sync.WaitGroup
	for w := range 3 {
		writers.Go(func() {
			for i := 0; i < each; i += 20 {
				appendTo(t, o, makeEvents(w*each+i, 20))
			}
		})
	}
	done := make(chan struct{})
	got := make([][]string, 3)
	for c := range got {
		consumers.Go(func() {
			name := fmt.Sprint("c", c)
			for {
				ended := false
				select {
				case <-done:
					ended = true
				default:
				}
				events := readFrom(t, o, name, 50)
				if len(events) == 0 && ended {
					return
				}
				got[c] = append(got[c], ids(events)...)
				ack(t, o, events)
			}
		})
	}
	writers.Wait()
	close(done)
	consumers.Wait()
	all := slices.Concat(got...)
	slices.Sort(all)
	want := ids(makeEvents(0, 3*each))
	slices.Sort(want)
	if !slices.Equal(all, want) {
		t.Errorf("%d events were read, want %d", len(all), len(want))
	}
}

func outboxStats(t *testing.T, opts OutboxOptions) {
	o := opts.Open(t)
	if st := outboxCount(t, o); st != (store.OutboxStats{}) {
		t.Errorf("OutboxStats of an empty outbox = %+v", st)
	}
	appendTo(t, o, makeEvents(0, 10))
	ack(t, o, readFrom(t, o, "c", 4))
	readFrom(t, o, "c", 4)
	st := outboxCount(t, o)
	if st.Added != 10 || st.Acknowledged != 4 || st.Pending != 6 || st.Trimmed != 0 || st.Oldest.IsZero() || st.Bytes != 6*int64(len("e-4")+len(`{"user":{"keyId":"u-4"}}`)) {
		t.Errorf("OutboxStats = %+v", st)
	}
}

func outboxCount(t testing.TB, o Outbox) store.OutboxStats {
	t.Helper()
	st, err := o.OutboxStats(outboxContext(t))
	if err != nil {
		t.Fatalf("OutboxStats = %v", err)
	}
	return st
}
