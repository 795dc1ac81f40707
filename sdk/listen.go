package sdk

import (
	"slices"
	"sync"

	"github.com/flagstead/flagstead/internal/flags"
)

// A FlagChange says that evaluations of a flag may give another result.
type FlagChange struct {
	Key     string
	Removed bool // the flag was deleted or archived
}

// OnFlagChange calls fn after each change of a flag, also of one that a flag's
// segment had, once the new flags are in effect. Calls come one at a time, in
// order, on a goroutine of this listener, so a slow fn delays nobody else;
// while it is busy, several changes of one flag become one call, which bounds
// what can pile up. fn may call the client, also remove.
//
// remove ends the listening; a call that runs meanwhile finishes. So does Close.
func (c *Client) OnFlagChange(fn func(FlagChange)) (remove func()) {
	return c.listener.add(fn, c.closed)
}

type listeners struct {
	mu     sync.Mutex
	list   []*listener
	closed bool
	wg     sync.WaitGroup
}

type listener struct {
	fn   func(FlagChange)
	wake chan struct{}
	stop chan struct{}
	once sync.Once

	mu      sync.Mutex
	pending []FlagChange
	at      map[string]int // index in pending
}

func (ls *listeners) add(fn func(FlagChange), closed <-chan struct{}) (remove func()) {
	l := &listener{fn: fn, wake: make(chan struct{}, 1), stop: make(chan struct{}), at: map[string]int{}}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.closed {
		return func() {}
	}
	ls.list = append(ls.list, l)
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
		l.push(keys, next)
	}
}

func (l *listener) push(keys []string, set *flags.Set) {
	if len(keys) == 0 {
		return
	}
	l.mu.Lock()
	for _, key := range keys {
		change := FlagChange{Key: key, Removed: !set.Known(key)}
		if i, ok := l.at[key]; ok {
			l.pending[i] = change
			continue
		}
		l.at[key] = len(l.pending)
		l.pending = append(l.pending, change)
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
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
