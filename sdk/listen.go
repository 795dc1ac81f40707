package sdk

import (
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/flagstead/flagstead/internal/flags"
)

// A FlagChange says that evaluations of a flag may give another result.
type FlagChange struct {
	Key     string // the flag's
	Removed bool   // the flag was deleted or archived
}

// OnFlagChange calls fn after each change of a flag, also of one that a flag's
// segment had, once the new flags are in effect. Calls come one at a time, in
// order, on a goroutine of this listener, so a slow fn delays nobody else;
// while it is busy, several changes of one flag become one call, which bounds
// what can pile up. fn may call the client, also remove, but not Close. A panic in
// fn is not caught.
//
// remove ends the listening; a call that runs meanwhile finishes. So does Close.
func (c *Client) OnFlagChange(fn func(FlagChange)) (remove func()) {
	return c.listener.add("", fn, c.closed, false)
}

// OnValueMaybeChanged calls fn with the value of a flag for u after each change
// of the flag, or of a segment that it uses, whether or not the value is another
// one. The type of def says what the flag is read as: a bool, string, int,
// float64, any (as [Client.Variation] gives it), or, for other types, what a
// json flag is decoded into; def is passed where such an evaluation would give
// it. No events are recorded. Calls are made, and end, as those of
// [Client.OnFlagChange] do.
func OnValueMaybeChanged[T any](c *Client, key string, u *User, def T, fn func(current T)) (remove func()) {
	return c.listener.add(key, func(FlagChange) { fn(peek(c, key, u, def)) }, c.closed, false)
}

// OnValueChanged is like [OnValueMaybeChanged], but calls fn only if the value
// differs from the one before, first from the value at this call. Values are
// compared by [reflect.DeepEqual]. A client that has no flags yet counts as
// having def.
func OnValueChanged[T any](c *Client, key string, u *User, def T, fn func(previous, current T)) (remove func()) {
	previous := peek(c, key, u, def)
	check := func(FlagChange) {
		if current := peek(c, key, u, def); !reflect.DeepEqual(previous, current) {
			old := previous
			previous = current
			fn(old, current)
		}
	}
	return c.listener.add(key, check, c.closed, true)
}

// peek evaluates without recording an event.
func peek[T any](c *Client, key string, u *User, def T) T {
	s := c.Snapshot()
	convert := converter[T]()
	if res := s.evaluate(key, u); !res.Reason.IsError() {
		if v, ok := convert(res.Variation); ok {
			return v
		}
	}
	return fallback(s, key, def, convert)
}

// converter returns the conversion that the typed calls use for a T.
func converter[T any]() func(*flags.Variation) (T, bool) {
	var convert any
	switch any((*T)(nil)).(type) {
	case *bool:
		convert = (*flags.Variation).Bool
	case *string:
		convert = toText
	case *int:
		convert = toInt
	case *float64:
		convert = (*flags.Variation).Float
	case *any:
		convert = toAny
	}
	if f, ok := convert.(func(*flags.Variation) (T, bool)); ok {
		return f
	}
	return func(v *flags.Variation) (T, bool) {
		value, ok, _ := toJSON[T](v)
		return value, ok
	}
}

// ListenerStats tells how a client's listeners keep up.
type ListenerStats struct {
	Listeners int    // how many there are
	Pending   int    // changes that wait for a listener to be called
	Merged    uint64 // changes that were not delivered by themselves, since a later one of the same flag came first
}

// ListenerStats returns how the listeners keep up.
func (c *Client) ListenerStats() ListenerStats { return c.listener.stats() }

type listeners struct {
	mu     sync.Mutex
	list   []*listener
	closed bool
	wg     sync.WaitGroup
	merged atomic.Uint64
}

type listener struct {
	key  string // of the only flag to listen to; empty: all
	fn   func(FlagChange)
	wake chan struct{}
	stop chan struct{}
	once sync.Once

	mu      sync.Mutex
	pending []FlagChange
	at      map[string]int // index in pending
}

// add starts a listener. With check it looks at its flag once by itself: the flag
// may have changed since the caller looked.
func (ls *listeners) add(key string, fn func(FlagChange), closed <-chan struct{}, check bool) (remove func()) {
	l := &listener{key: key, fn: fn, wake: make(chan struct{}, 1), stop: make(chan struct{}), at: map[string]int{}}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.closed {
		return func() {}
	}
	ls.list = append(ls.list, l)
	if check {
		l.push(FlagChange{Key: key})
	}
	ls.wg.Go(func() { l.run(closed) })
	return func() {
		l.once.Do(func() { close(l.stop) })
		ls.mu.Lock()
		defer ls.mu.Unlock()
		ls.list = slices.DeleteFunc(ls.list, func(x *listener) bool { return x == l })
	}
}

// close waits for the listeners' goroutines, which end with the client.
func (ls *listeners) close() {
	ls.mu.Lock()
	ls.closed = true
	ls.mu.Unlock()
	ls.wg.Wait()
}

func (ls *listeners) notify(old, next *flags.Set, ch flags.Changes) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if len(ls.list) == 0 {
		return
	}
	keys := append(slices.Clone(ch.Flags), next.FlagsUsing(ch.Segments)...)
	if old != nil {
		keys = append(keys, old.FlagsUsing(ch.Segments)...)
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	for _, l := range ls.list {
		wanted := keys
		if l.key != "" {
			i, _ := slices.BinarySearch(keys, l.key)
			wanted = keys[i:min(i+1, len(keys))]
		}
		for _, key := range wanted {
			if l.key == "" || l.key == key {
				ls.merged.Add(l.push(FlagChange{Key: key, Removed: !next.Known(key)}))
			}
		}
	}
}

func (ls *listeners) stats() ListenerStats {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	st := ListenerStats{Listeners: len(ls.list), Merged: ls.merged.Load()}
	for _, l := range ls.list {
		l.mu.Lock()
		st.Pending += len(l.pending)
		l.mu.Unlock()
	}
	return st
}

// push appends a change. It returns 1 if that replaced an earlier one of the same
// flag, which was not delivered.
func (l *listener) push(change FlagChange) (merged uint64) {
	l.mu.Lock()
	if i, ok := l.at[change.Key]; ok {
		l.pending[i] = change
		merged = 1
	} else {
		l.at[change.Key] = len(l.pending)
		l.pending = append(l.pending, change)
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return merged
}

func (l *listener) take() []FlagChange {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := l.pending
	l.pending = nil
	clear(l.at)
	return list
}

func (l *listener) run(closed <-chan struct{}) {
	for {
		select {
		case <-closed:
			return
		case <-l.stop:
			return
		case <-l.wake:
		}
		for _, change := range l.take() {
			select {
			case <-closed:
				return
			case <-l.stop:
				return
			default:
			}
			l.fn(change)
		}
	}
}
