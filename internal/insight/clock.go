package insight

import (
	"context"
	"sync/atomic"
	"time"
)

// A clock tells the time to callers who would spend half of their time on asking
// the system for it. It ticks once per millisecond, but only while somebody asks
// that often; a process that evaluates now and then is not woken up for it. While
// all processors are busy a tick may come some milliseconds late.
type clock struct {
	_      [64]byte     // nothing else is written on this cache line
	millis atomic.Int64 // since the Unix epoch; 0 while it stands still
	_      [64]byte
	asked  chan struct{} // capacity 1: it should tick
}

const (
	// tick is the resolution of the clock, which is that of events.
	tick = time.Millisecond

	// manyInARow is how many events of one processor have one time before the
	// clock is asked to tick: some ten thousand per second.
	manyInARow = 16

	// ticksBetweenLooks is after how many ticks the clock looks whether it is still
	// worth its while: whether there were as many events as it ticked.
	ticksBetweenLooks = 16
)

// coarse returns the time in milliseconds, or 0 while the clock stands still.
func (c *clock) coarse() int64 { return c.millis.Load() }

// ask has the clock tick from now on.
func (c *clock) ask() {
	select {
	case c.asked <- struct{}{}:
	default:
	}
}

// time asks the system, and the clock to tick if that was done too often. The shard
// is locked.
func (s *shard) time(c *clock) int64 {
	now := time.Now().UnixMilli()
	if now != s.last {
		s.last, s.dense = now, 0
		return now
	}
	if s.dense++; s.dense == manyInARow {
		s.dense = 0
		c.ask()
	}
	return now
}

// run ticks, when it is asked to, until ctx ends. recorded returns how many events
// there were so far.
func (c *clock) run(ctx context.Context, recorded func() uint64) {
	ticker := time.NewTicker(time.Hour)
	ticker.Stop()
	defer ticker.Stop()
	for {
		select {
		case <-c.asked:
		case <-ctx.Done():
			return
		}
		ticker.Reset(tick)
		c.tickWhileBusy(ctx, ticker, recorded)
		ticker.Stop()
		c.millis.Store(0)
	}
}

func (c *clock) tickWhileBusy(ctx context.Context, ticker *time.Ticker, recorded func() uint64) {
	c.millis.Store(time.Now().UnixMilli())
	before := recorded()
	for n := 1; ; n++ {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		c.millis.Store(time.Now().UnixMilli())
		if n%ticksBetweenLooks != 0 {
			continue
		}
		now := recorded()
		if now-before < ticksBetweenLooks {
			return
		}
		before = now
	}
}
