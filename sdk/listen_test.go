package sdk_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
)

// told collects what listeners were told.
type told struct {
	mu    sync.Mutex
	lines []string
}

func (l *told) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *told) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

func (l *told) expect(t *testing.T, want ...string) {
	t.Helper()
	until(t, fmt.Sprintf("%q; got %q", want, l.all()), func() bool { return len(l.all()) >= len(want) })
	if got := l.all(); !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

func archived(it store.Item) store.Item {
	it.Archived = true
	return it
}

// TestOnValueChanged: only another value counts, whatever made it: the flag, its
// segment, its archiving, its return, a full state.
func TestOnValueChanged(t *testing.T) {
	st := memory.New()
	defer st.Close()
	apply(t, st, true, sampleItems()...)
	c := newClient(t, sdk.Config{Store: st})
	waitReady(t, c)
	ann, bob := newUser(t, "ann"), newUser(t, "bob")
	var texts, members, maybe told
	sdk.OnValueChanged(c, "text", ann, "def", func(old, now string) { texts.add("%s>%s", old, now) })
	sdk.OnValueChanged(c, "member", ann, false, func(old, now bool) { members.add("ann %t>%t", old, now) })
	sdk.OnValueMaybeChanged(c, "member", bob, false, func(now bool) { maybe.add("bob %t", now) })

	// Each step waits until its marker has been seen by both listeners, so that
	// no two steps merge.
	apply(t, st, false, flagJSON("text", "string", "two", "x", "", 2))
	texts.expect(t, "one>two")
	apply(t, st, false, segmentJSON("seg", "cid", 2))
	members.expect(t, "ann true>false")
	maybe.expect(t, "bob false")
	apply(t, st, false, segmentJSON("seg", "ann", 3), flagJSON("text", "string", "two", "y", "", 3))
	members.expect(t, "ann true>false", "ann false>true")
	maybe.expect(t, "bob false", "bob false")
	apply(t, st, false, archived(flagJSON("text", "string", "two", "y", "", 4)))
	texts.expect(t, "one>two", "two>def")
	apply(t, st, false, flagJSON("text", "string", "back", "y", "", 5))
	texts.expect(t, "one>two", "two>def", "def>back")
	apply(t, st, true, sampleItems()...)
	texts.expect(t, "one>two", "two>def", "def>back", "back>one")
	apply(t, st, true, sampleItems()[1:2]...)
	members.expect(t, "ann true>false", "ann false>true", "ann true>false")
	if st := c.ListenerStats(); st.Listeners != 3 {
		t.Errorf("ListenerStats() = %+v", st)
	}
}

// TestValueTypes: a listener reads the flag as its type says.
func TestValueTypes(t *testing.T) {
	st := memory.New()
	defer st.Close()
	apply(t, st, true, sampleItems()...)
	c := newClient(t, sdk.Config{Store: st})
	waitReady(t, c)
	ann := newUser(t, "ann")
	var got told
	sdk.OnValueChanged(c, "whole", ann, 0, func(old, now int) { got.add("int %d>%d", old, now) })
	sdk.OnValueChanged(c, "number", ann, 0.0, func(old, now float64) { got.add("float %v>%v", old, now) })
	sdk.OnValueChanged(c, "json", ann, struct{ Size int }{}, func(old, now struct{ Size int }) { got.add("json %d>%d", old.Size, now.Size) })
	sdk.OnValueChanged(c, "bool", ann, any(nil), func(old, now any) { got.add("any %v>%v", old, now) })
	for i, it := range []store.Item{
		flagJSON("whole", "number", "8", "3", "", 2),
		flagJSON("number", "number", "0.5", "3", "", 3),
		flagJSON("json", "json", `{"size":4}`, "{}", "", 4),
		flagJSON("bool", "boolean", "false", "true", "", 5),
	} {
		apply(t, st, false, it)
		until(t, it.Key, func() bool { return len(got.all()) == i+1 })
	}
	got.expect(t, "int 7>8", "float 2.5>0.5", "json 3>4", "any true>false")
}

// TestListenBeforeReady: the first flags are a change from the default for a
// listener that was there before them.
func TestListenBeforeReady(t *testing.T) {
	st := memory.New()
	defer st.Close()
	c := newClient(t, sdk.Config{Store: st})
	var got told
	sdk.OnValueChanged(c, "text", newUser(t, "ann"), "def", func(old, now string) { got.add("%s>%s", old, now) })
	apply(t, st, true, sampleItems()...)
	got.expect(t, "def>one")
}

// TestListenersSendNoEvents: what listeners evaluate is nobody's evaluation.
func TestListenersSendNoEvents(t *testing.T) {
	st := memory.New()
	defer st.Close()
	apply(t, st, true, sampleItems()...)
	sink := &sink{}
	c := newClient(t, sdk.Config{Store: st, EventSink: sink})
	waitReady(t, c)
	ann := newUser(t, "ann")
	var got told
	sdk.OnValueChanged(c, "text", ann, "", func(old, now string) { got.add("%s", now) })
	sdk.OnValueMaybeChanged(c, "text", ann, "", func(now string) { got.add("%s", now) })
	apply(t, st, false, flagJSON("text", "string", "new", "x", "", 2))
	got.expect(t, "new", "new")
	if n := len(sink.all()); n != 0 {
		t.Errorf("%d events", n)
	}
}

// TestRemoveWhileDelivering: a listener may remove itself and others from within
// a call, and close the client's door behind it.
func TestRemoveWhileDelivering(t *testing.T) {
	st := memory.New()
	defer st.Close()
	apply(t, st, true, sampleItems()...)
	c := newClient(t, sdk.Config{Store: st})
	waitReady(t, c)
	called := make(chan struct{}, 100)
	removers := make(chan func(), 2)
	remove := func() {
		for range 2 {
			r := <-removers
			r()
			removers <- r
		}
	}
	for range 2 {
		removers <- c.OnFlagChange(func(sdk.FlagChange) { remove(); called <- struct{}{} })
	}
	apply(t, st, false, flagJSON("text", "string", "x", "y", "", 2))
	<-called
	until(t, "both are gone", func() bool { return c.ListenerStats().Listeners == 0 })
	var last told
	c.OnFlagChange(func(ch sdk.FlagChange) { last.add("%s", ch.Key) })
	n := len(called)
	apply(t, st, false, flagJSON("text", "string", "z", "y", "", 3))
	last.expect(t, "text")
	if len(called) != n {
		t.Error("a removed listener was called")
	}
}

// TestLagIsCounted: what a busy listener has not seen is one call per flag, and
// the rest is counted.
func TestLagIsCounted(t *testing.T) {
	st := memory.New()
	defer st.Close()
	apply(t, st, true, sampleItems()...)
	c := newClient(t, sdk.Config{Store: st})
	waitReady(t, c)
	release, busy := make(chan struct{}), make(chan struct{}, 100)
	c.OnFlagChange(func(sdk.FlagChange) { busy <- struct{}{}; <-release })
	quick := make(chan struct{}, 100)
	c.OnFlagChange(func(sdk.FlagChange) { quick <- struct{}{} })
	for i := range int64(10) {
		apply(t, st, false, flagJSON("text", "string", "x", "y", "", i+2))
		<-quick
		if i == 0 {
			<-busy // so that the others merge
		}
	}
	if st := c.ListenerStats(); st.Pending != 1 || st.Merged != 8 {
		t.Errorf("ListenerStats() = %+v, want 1 pending and 8 merged", st)
	}
	close(release)
	until(t, "the listener has caught up", func() bool { return c.ListenerStats().Pending == 0 })
}

// TestListenInEveryMode: the same listener in a reader, a direct and an offline
// client.
func TestListenInEveryMode(t *testing.T) {
	srv := serve(t)
	apply(t, srv.store, true, sampleItems()...)
	until(t, "server is ready", srv.relay.Ready)
	st := memory.New()
	defer st.Close()
	apply(t, st, true, sampleItems()...)
	next := flagJSON("text", "string", "new", "x", "", time.Now().UnixMilli())

	reader := newClient(t, sdk.Config{Store: st})
	direct := newClient(t, sdk.Config{StreamingURL: srv.url, EnvSecret: srv.secret, DisableEvents: true})
	offline := newClient(t, sdk.Config{Offline: true, Bootstrap: document(sampleItems()...)})
	for what, mode := range map[string]struct {
		client *sdk.Client
		change func()
	}{
		"reader":  {reader, func() { apply(t, st, false, next) }},
		"direct":  {direct, func() { apply(t, srv.store, false, next) }},
		"offline": {offline, func() { load(t, offline, append(sampleItems()[:1], next)...) }},
	} {
		waitReady(t, mode.client)
		until(t, what+" ok", func() bool { return mode.client.Status().State == sdk.OK })
		var got told
		sdk.OnValueChanged(mode.client, "text", newUser(t, "ann"), "", func(old, now string) { got.add("%s>%s", old, now) })
		mode.change()
		got.expect(t, "one>new")
	}
}

func load(t *testing.T, c *sdk.Client, items ...store.Item) {
	t.Helper()
	if err := c.LoadJSON(newReader(document(items...))); err != nil {
		t.Fatal(err)
	}
}
