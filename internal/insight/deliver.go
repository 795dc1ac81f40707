package insight

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/flagstead/flagstead/internal/delivery"
	"github.com/flagstead/flagstead/internal/protocol"
)

// run is the pipeline's main goroutine. While all senders are busy nothing more
// is taken out of the shards, so memory stays bounded by their capacity, one
// collection, and the senders' bodies.
func (p *Pipeline) run() {
	defer close(p.done)
	var ticking sync.WaitGroup
	defer ticking.Wait()
	defer p.cancel()
	ticking.Go(func() {
		p.clock.run(p.ctx, func() uint64 {
			recorded, _ := p.counts()
			return recorded
		})
	})
	ticker := time.NewTicker(p.cfg.Interval)
	defer ticker.Stop()
	var held []event
	early := pacer{full: p.full, timer: time.NewTimer(0)}
	defer early.timer.Stop()
	for {
		var answer chan struct{}
		last := false
		select {
		case <-ticker.C:
		case <-early.timer.C:
			early.full = p.full
			continue
		case <-early.full:
			early.full = nil
			early.timer.Reset(earlyPause)
		case answer = <-p.flushes:
		case <-p.closing:
			last = true
		}
		held = p.collect(held[:0], last)
		for batch := range batches(held) {
			p.send(batch)
		}
		clear(held)
		if answer != nil {
			p.answer(answer)
		}
		if last {
			p.batch.sending.Wait()
			p.waiters.Wait()
			return
		}
	}
}

// earlyPause is the least time between two collections that are made because the
// buffers are half full. A process that evaluates in a tight loop records more events
// than anybody can deliver; without a pause it would spend a third of its time on
// those that are. As it is, Capacity events per earlyPause are delivered, 200,000 per
// second by default, and the others are dropped and counted.
const earlyPause = 50 * time.Millisecond

// A pacer lets early collections through once per earlyPause.
type pacer struct {
	full  <-chan struct{} // nil during the pause
	timer *time.Timer
}

// answer closes answer when what was sent so far is settled. Nobody else waits
// for that: one batch may be tried for minutes.
func (p *Pipeline) answer(answer chan struct{}) {
	g := p.batch
	p.batch = &generation{before: answer}
	p.waiters.Go(func() {
		g.sending.Wait()
		<-g.before
		close(answer)
	})
}

// send encodes a batch and hands it to a sender, for which it waits.
func (p *Pipeline) send(batch []event) {
	buffer := (<-p.senders)[:0]
	var attempt func() delivery.Answer
	n := uint64(len(batch))
	if p.cfg.Send == nil {
		body, err := p.encode(buffer, batch)
		if err != nil {
			p.unencodable(n, err)
			p.senders <- buffer
			return
		}
		buffer = body
		request := delivery.Request{Endpoint: p.cfg.Endpoint, Secret: p.cfg.Secret, Body: body, Gzip: p.cfg.Gzip}
		attempt = func() delivery.Answer { return delivery.Post(p.ctx, p.cfg.Client, request) }
	} else {
		entries := p.entries(batch)
		if n = uint64(len(entries)); n == 0 {
			p.senders <- buffer
			return
		}
		attempt = func() delivery.Answer {
			if err := p.cfg.Send(p.ctx, entries); err != nil {
				return delivery.Answer{Outcome: delivery.Failed, Err: err}
			}
			return delivery.Answer{Outcome: delivery.Accepted}
		}
	}
	p.batch.sending.Go(func() {
		p.deliver(attempt, n)
		p.senders <- buffer
	})
}

func (p *Pipeline) unencodable(events uint64, err error) {
	p.failed.Add(events)
	p.cfg.Logger.Error("events cannot be encoded", "events", events, "error", err)
}

// entries encodes events one by one. It counts those that cannot be sent as failed.
func (p *Pipeline) entries(batch []event) []Entry {
	list := make([]Entry, 0, len(batch))
	for _, e := range batch {
		text, err := appendInsight(nil, &e)
		p.ids++
		entry := Entry{ID: p.id + "-" + strconv.FormatUint(p.ids, 36), Data: text}
		if n := len(entry.ID) + len(entry.Data); err == nil && p.cfg.MaxEntry > 0 && n > p.cfg.MaxEntry {
			err = fmt.Errorf("%d bytes, want at most %d", n, p.cfg.MaxEntry)
		}
		if err != nil {
			p.unencodable(1, err)
			continue
		}
		list = append(list, entry)
	}
	return list
}

func batches(events []event) func(yield func([]event) bool) {
	return func(yield func([]event) bool) {
		for len(events) > 0 {
			n := min(len(events), protocol.MaxInsights)
			if !yield(events[:n]) {
				return
			}
			events = events[n:]
		}
	}
}

// deliver makes attempts until a batch is settled or the pipeline is cancelled.
func (p *Pipeline) deliver(try func() delivery.Answer, events uint64) {
	for attempt := 1; ; attempt++ {
		if p.refused.Load() || p.ctx.Err() != nil {
			p.failed.Add(events)
			return
		}
		answer := try()
		err := answer.Err
		switch answer.Outcome {
		case delivery.Accepted:
			p.delivered.Add(events)
			return
		case delivery.Unauthorized:
			p.failed.Add(events)
			if !p.refused.Swap(true) {
				p.cfg.Logger.Error("the event server refuses the secret, no more events are sent", "error", err)
			}
			return
		case delivery.Refused:
			p.failed.Add(events)
			p.cfg.Logger.Warn("events refused", "events", events, "error", err)
			return
		}
		if attempt == p.cfg.Attempts {
			p.failed.Add(events)
			p.cfg.Logger.Warn("events given up", "events", events, "attempts", attempt, "error", err)
			return
		}
		if p.ctx.Err() != nil {
			continue
		}
		if attempt == 1 {
			p.cfg.Logger.Warn("events not delivered, retrying", "events", events, "error", err)
		}
		p.retries.Add(1)
		p.pause(max(answer.RetryAfter, p.backoff(attempt)))
	}
}

func (p *Pipeline) backoff(attempt int) time.Duration {
	b := p.cfg.RetryMin
	for i := 1; i < attempt && b < p.cfg.RetryMax; i++ {
		b *= 2
	}
	b = min(b, p.cfg.RetryMax)
	return b/2 + rand.N(b/2+1)
}

// pause waits, but no longer than the pipeline lives. The begin of Close cuts a
// pause to maxLastPause.
func (p *Pipeline) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	closing := p.closing
	select {
	case <-closing:
		// Later pauses of a closing pipeline must not spin.
		t.Reset(min(d, maxLastPause))
		select {
		case <-t.C:
		case <-p.ctx.Done():
		}
	case <-t.C:
	case <-p.ctx.Done():
	}
}

// maxLastPause caps the pauses while the pipeline closes: somebody waits.
const maxLastPause = time.Second
