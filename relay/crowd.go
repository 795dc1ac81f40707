package relay

import (
	"sync"
	"time"
)

// A bag is a set of connections that costs each of them a pointer.
type bag struct {
	mu    sync.Mutex
	conns []*conn
	place func(*conn) *int32 // where a connection notes its index
}

func (b *bag) add(c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	*b.place(c) = int32(len(b.conns))
	b.conns = append(b.conns, c)
}

func (b *bag) remove(c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at, last := *b.place(c), len(b.conns)-1
	moved := b.conns[last]
	b.conns[at] = moved
	*b.place(moved) = at
	b.conns[last] = nil
	b.conns = b.conns[:last]
	if len(b.conns) < cap(b.conns)/4 {
		b.conns = append(make([]*conn, 0, cap(b.conns)/2), b.conns...)
	}
}

// appendTo returns list with the connections that are in the bag now.
func (b *bag) appendTo(list []*conn) []*conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append(list, b.conns...)
}

// A shard is a part of an environment's connections, which one goroutine brings up
// to date after a change.
type shard struct {
	bag
	walking, again bool // guarded by mu
}

func newShards(n int) []shard {
	all := make([]shard, n)
	for i := range all {
		all[i].place = func(c *conn) *int32 { return &c.shardAt }
	}
	return all
}

// announce makes every connection get what it lacks of the current view. It does not
// wait for that. The caller is a goroutine that following counts.
func (e *environment) announce() {
	for i := range e.shards {
		s := &e.shards[i]
		s.mu.Lock()
		s.again = true
		if !s.walking && len(s.conns) > 0 {
			s.walking = true
			e.relay.following.Go(s.walk)
		}
		s.mu.Unlock()
	}
}

// walk updates the shard's connections until there was no change during a round.
// None of them can make it wait. A change that comes during a round reaches those
// whose turn is still to come in the same round.
func (s *shard) walk() {
	var list []*conn
	for {
		s.mu.Lock()
		if !s.again {
			s.walking = false
			s.mu.Unlock()
			return
		}
		s.again = false
		list = append(list[:0], s.conns...)
		s.mu.Unlock()
		for _, c := range list {
			c.update()
		}
	}
}

// A wheel has all connections of a relay, spread over slots that take turns in
// being looked after: each connection once per turn of the wheel.
type wheel [32]bag

func (w *wheel) init() {
	for i := range w {
		w[i].place = func(c *conn) *int32 { return &c.slotAt }
	}
}

// all returns the connections that there are now.
func (w *wheel) all() []*conn {
	var list []*conn
	for i := range w {
		list = w[i].appendTo(list)
	}
	return list
}

// turn pings each connection once per interval, and ends those that have been silent
// for too long, until stop is closed.
func (w *wheel) turn(interval time.Duration, stop <-chan struct{}) {
	tick := time.NewTicker(max(interval/time.Duration(len(w)), time.Millisecond))
	defer tick.Stop()
	var list []*conn
	for slot := 0; ; slot = (slot + 1) % len(w) {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		list = w[slot].appendTo(list[:0])
		now := time.Now()
		for _, c := range list {
			c.probe(now)
		}
		clear(list)
	}
}
