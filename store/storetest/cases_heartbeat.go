package storetest

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/flagstead/flagstead/store"
)

// The heartbeat methods of a handle.
type heart interface {
	store.HeartbeatWriter
	store.HeartbeatReader
}

// heartbeatCases are about stores whose handles are a store.HeartbeatWriter and
// a store.HeartbeatReader.
var heartbeatCases = []testCase{
	{
		name:  "no-heartbeat-at-first",
		rule:  "ReadHeartbeat returns the zero Heartbeat if the store has none, also after commits.",
		needs: needHeart | wantOther,
		run: func(c *tester) {
			for range 2 {
				for _, h := range c.hearts() {
					if beat := c.beat(h); beat != (store.Heartbeat{}) {
						c.fatalf("ReadHeartbeat before the first heartbeat: %+v", beat)
					}
				}
				c.apply(c.s, full(flag("a", 1)))
			}
		},
	},
	{
		name:  "heartbeat-is-kept",
		rule:  "ReadHeartbeat returns the last heartbeat, through every handle, and WriteHeartbeat sets Written.",
		needs: needHeart | wantOther,
		run: func(c *tester) {
			ago := time.Hour
			for _, names := range [][2]string{
				{"initializing", "host-12345"}, {"off", "host-12345"}, {"ok", ""}, {"", "a b|c,d\n\"{}' ⚑"}, {"interrupted", "host-12345"},
			} {
				ago -= time.Minute
				c.write(c.s, names[1], names[0], ago)
				c.beats(names[1], names[0], ago)
			}
			// Commits do not remove it, and it stands in none.
			c.apply(c.s, full(flag("a", 1)))
			c.apply(c.s, patch(flag("a", 2)))
			c.beats("host-12345", "interrupted", ago)
			c.expect(c.s, flag("a", 2))
			if c.opts.Flush != nil {
				c.opts.Flush(c.tb, c.s)
				c.write(c.s, "host-12345", "ok", time.Second)
				c.beats("host-12345", "ok", time.Second)
			}
		},
	},
	{
		name:  "heartbeats-merge",
		rule:  "Of several writers the one that confirmed last speaks, unless it is off, as by Heartbeat.Merge; Confirmed never goes back and is never ahead of the clock.",
		needs: needHeart | wantOther,
		run: func(c *tester) {
			second := c.writers()[len(c.writers())-1]
			for _, s := range []struct {
				by           store.DataStore
				writer, says string
				ago          time.Duration // of what is written; negative is the future
				speaks, said string
				since        time.Duration
			}{
				{c.s, "a", "initializing", never, "a", "initializing", never},
				{c.s, "a", "ok", time.Hour, "a", "ok", time.Hour},
				{second, "b", "ok", 2 * time.Hour, "a", "ok", time.Hour},
				{second, "b", "interrupted", never, "a", "ok", time.Hour},
				{second, "b", "ok", 30 * time.Minute, "b", "ok", 30 * time.Minute},
				{c.s, "a", "ok", 50 * time.Minute, "b", "ok", 30 * time.Minute},
				{second, "b", "interrupted", 40 * time.Minute, "b", "interrupted", 30 * time.Minute},
				{second, "b", "off", never, "b", "off", 30 * time.Minute},
				{c.s, "a", "ok", 20 * time.Minute, "a", "ok", 20 * time.Minute},
				{c.s, "a", "ok", -time.Hour, "a", "ok", 0},
				{second, "b", "ok", 10 * time.Minute, "a", "ok", 0},
				{second, "b", "off", 0, "a", "ok", 0},
				{c.s, "a", "off", 0, "a", "off", 0},
				{second, "b", "ok", 10 * time.Minute, "b", "ok", 0},
			} {
				c.write(s.by, s.writer, s.says, s.ago)
				c.beats(s.speaks, s.said, s.since)
			}
		},
	},
	{
		name:  "heartbeat-is-no-commit",
		rule:  "A heartbeat is no commit: it changes no Rev, Load(since) is still an empty Delta, and a Base stays current.",
		needs: needHeart | wantOther,
		run: func(c *tester) {
			c.write(c.s, "a", "ok", time.Hour)
			for _, h := range c.handles {
				if snap := c.load(h, ""); snap.Rev != "" || len(snap.Items) > 0 {
					c.fatalf("a heartbeat on an empty place made Rev %q with %d items", snap.Rev, len(snap.Items))
				}
			}
			first := full(flag("a", 1))
			first.Base = store.Uncommitted
			base := c.apply(c.s, first)
			var delivered atomic.Int64
			followers := map[*followed]store.DataStore{}
			for _, h := range c.handles {
				c.sees(h, flag("a", 1))
				followers[c.followCounting(h, &delivered)] = h
			}
			for f := range followers {
				c.eventually("Follow delivers", func() bool { return f.now().rev == base })
			}
			before := delivered.Load()
			for i := range 5 {
				c.write(c.s, "a", "ok", time.Minute-time.Duration(i)*time.Second)
				for _, h := range c.handles {
					if snap := c.load(h, base); !snap.Delta || len(snap.Items) > 0 {
						c.fatalf("Load(%q) after a heartbeat: Rev %q, Delta %v, %d items", base, snap.Rev, snap.Delta, len(snap.Items))
					}
				}
			}
			if n := delivered.Load() - before; n > 0 {
				c.fatalf("Follow delivered %d states after heartbeats", n)
			}
			ch := patch(flag("a", 2))
			ch.Base = base
			c.apply(c.s, ch)
			c.applyKeeps(c.s, c.expect(c.s, flag("a", 2)).rev, full(flag("a", 2)))
		},
	},
	{
		name:  "heartbeats-amid-commits",
		rule:  "Heartbeats and commits do not disturb each other, and the heartbeat that confirmed last is the one that is there.",
		needs: needHeart | wantOther,
		run: func(c *tester) {
			stop := make(chan struct{})
			g := group{c: c}
			began := time.Now()
			writers := c.writers()
			for i, h := range writers {
				g.run(func() {
					tick := time.NewTicker(2 * time.Millisecond)
					defer tick.Stop()
					for n := 0; ; n++ {
						c.write(h, string(rune('a'+i)), "ok", time.Since(began.Add(-time.Hour))-time.Duration(n)*time.Second)
						select {
						case <-stop:
							return
						case <-tick.C:
						}
					}
				})
			}
			c.order(writers, c.handles)
			close(stop)
			g.wg.Wait()
			c.write(c.s, "last", "ok", 0)
			c.beats("last", "ok", 0)
		},
	},
	{
		name:  "ended-context-ends-heartbeats",
		rule:  contextRule,
		needs: needHeart,
		run: func(c *tester) {
			h := c.hearts()[0]
			for want, ctx := range ended() {
				if err := h.WriteHeartbeat(ctx, store.Heartbeat{Writer: "late"}); !errors.Is(err, want) {
					c.fatalf("WriteHeartbeat with an ended context: error %v, want %v", err, want)
				}
				if _, err := h.ReadHeartbeat(ctx); !errors.Is(err, want) {
					c.fatalf("ReadHeartbeat with an ended context: error %v, want %v", err, want)
				}
			}
			if beat := c.beat(h); beat != (store.Heartbeat{}) {
				c.fatalf("WriteHeartbeat with an ended context wrote %+v", beat)
			}
		},
	},
	{
		name:  "closed-heartbeats",
		rule:  closedRule,
		needs: needHeart,
		run: func(c *tester) {
			h := c.hearts()[0]
			c.write(c.s, "a", "ok", 0)
			c.close(c.s)
			if err := h.WriteHeartbeat(c.ctx, store.Heartbeat{Writer: "late"}); !errors.Is(err, store.ErrClosed) {
				c.fatalf("WriteHeartbeat after Close: error %v, want ErrClosed", err)
			}
			if beat, err := h.ReadHeartbeat(c.ctx); !errors.Is(err, store.ErrClosed) {
				c.fatalf("ReadHeartbeat after Close: %+v, error %v, want ErrClosed", beat, err)
			}
		},
	},
	{
		name:  "read-only-handle-writes-no-heartbeat",
		rule:  "WriteHeartbeat on a store that was opened for reading returns ErrReadOnly.",
		needs: needHeart | needReads,
		run: func(c *tester) {
			c.write(c.s, "a", "ok", time.Hour)
			if w, ok := c.other.(store.HeartbeatWriter); ok {
				if err := w.WriteHeartbeat(c.ctx, store.Heartbeat{Writer: "reader", Confirmed: time.Now()}); !errors.Is(err, store.ErrReadOnly) {
					c.fatalf("WriteHeartbeat on a handle for reading: error %v, want ErrReadOnly", err)
				}
			}
			c.beats("a", "ok", time.Hour)
		},
	},
}

// never, as the age of a confirmation, says that nobody ever confirmed.
const never = time.Duration(-1 << 63)

// hearts returns the heartbeat readers among the handles.
func (c *tester) hearts() []heart {
	var all []heart
	for _, h := range c.handles {
		r, reads := h.(store.HeartbeatReader)
		w, _ := h.(store.HeartbeatWriter)
		if !reads {
			c.fatalf("a handle of a store with heartbeats cannot read them")
		}
		all = append(all, struct {
			store.HeartbeatWriter
			store.HeartbeatReader
		}{w, r})
	}
	return all
}

// beat reads the heartbeat through h.
func (c *tester) beat(h store.HeartbeatReader) store.Heartbeat {
	beat, err := h.ReadHeartbeat(c.ctx)
	if err != nil {
		c.fatalf("ReadHeartbeat: unexpected error %v", err)
	}
	return beat
}

// write writes a heartbeat that was confirmed some time ago through h.
func (c *tester) write(h store.DataStore, writer, source string, ago time.Duration) {
	beat := store.Heartbeat{Writer: writer, Source: source, Written: time.Unix(1, 0)}
	if ago != never {
		beat.Confirmed = time.Now().Add(-ago)
	}
	w, ok := h.(store.HeartbeatWriter)
	if !ok {
		c.fatalf("a handle of a store with heartbeats, which writes, cannot write them")
	}
	if err := w.WriteHeartbeat(c.ctx, beat); err != nil {
		c.fatalf("WriteHeartbeat: unexpected error %v", err)
	}
}

// beats waits until every handle shows the heartbeat of writer, confirmed some
// time ago and written just now.
func (c *tester) beats(writer, source string, ago time.Duration) {
	asked := time.Now()
	for _, h := range c.hearts() {
		var beat store.Heartbeat
		if !c.poll(func() bool {
			beat = c.beat(h)
			slack := time.Second + time.Since(asked)
			confirmed := near(beat.Confirmed, asked.Add(-ago), slack)
			if ago == never {
				confirmed = beat.Confirmed.IsZero()
			}
			return beat.Writer == writer && beat.Source == source && confirmed && near(beat.Written, asked, 2*slack)
		}) {
			c.fatalf("not within %v: ReadHeartbeat returns %+v (confirmed %v ago, written %v ago), want one of %q, %q, confirmed %v before, written just now",
				c.opts.Patience, beat, time.Since(beat.Confirmed), time.Since(beat.Written), writer, source, ago)
		}
	}
}

func near(a, b time.Time, slack time.Duration) bool { return a.Sub(b).Abs() <= slack }
