package forward

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/syncer"
)

// PumpConfig says which outbox a Pump empties, and where to. Outbox, URL, Env,
// Secret and Consumer are required.
type PumpConfig struct {
	// Outbox is where the events of one environment are.
	Outbox store.OutboxReader

	// Env is the environment's id.
	Env string

	// URL, Secret, Client, Logger, RetryMin, RetryMax and SuspendFor are as in
	// [Config]. While there is no secret, nothing is read.
	URL                string
	Secret             func(env string) (protocol.Secret, bool)
	Client             *http.Client
	Logger             *slog.Logger
	RetryMin, RetryMax time.Duration
	SuspendFor         time.Duration

	// Consumer tells this process from the others that empty the same outbox, as
	// in "host-12345".
	Consumer string

	// Interval is how often an empty outbox is looked into. Zero means 1 second.
	Interval time.Duration
}

// PumpStats counts events since NewPump. What waits, and what was trimmed before
// anybody delivered it, says Outbox.
type PumpStats struct {
	Delivered uint64 // acknowledged by FeatBit
	Refused   uint64 // by FeatBit, as malformed or too large, or no JSON at all: lost
	Requests  uint64 // attempts at FeatBit
	Errors    uint64 // calls of the outbox that failed
	Suspended bool   // FeatBit refuses the secret
	Failing   bool   // FeatBit does not take events at the moment

	Outbox   store.OutboxStats // as of OutboxAt
	OutboxAt time.Time         // when the outbox was counted last; zero: never
}

// A Pump delivers the events of one outbox, up to 50 at a time, in order. To go
// faster, run several with different names of consumers. An event leaves the outbox
// when FeatBit has acknowledged it: if the process dies in between, or the answer
// gets lost, it is delivered again. Its methods are safe for concurrent use.
type Pump struct {
	cfg    PumpConfig
	pace   pace
	sender *sender
	owned  bool

	// Run's.
	owed    []string  // receipts of settled events that the outbox has to hear of
	counted time.Time // when the outbox was counted last

	mu    sync.Mutex
	stats PumpStats
}

// countEvery is how often a pump counts its outbox.
const countEvery = 10 * time.Second

// NewPump returns a Pump, which does nothing before Run. The error says what in cfg
// makes no sense.
func NewPump(cfg PumpConfig) (*Pump, error) {
	switch {
	case cfg.Outbox == nil:
		return nil, errors.New("forward: PumpConfig has no Outbox")
	case cfg.Secret == nil:
		return nil, errors.New("forward: PumpConfig has no Secret")
	case cfg.Env == "":
		return nil, errors.New("forward: PumpConfig has no Env")
	case cfg.Consumer == "":
		return nil, errors.New("forward: PumpConfig has no Consumer")
	}
	d := Config{Logger: cfg.Logger, RetryMin: cfg.RetryMin, RetryMax: cfg.RetryMax, SuspendFor: cfg.SuspendFor}.withDefaults()
	cfg.Logger, cfg.RetryMin, cfg.RetryMax, cfg.SuspendFor = d.Logger.With("env", cfg.Env), d.RetryMin, d.RetryMax, d.SuspendFor
	if cfg.Interval <= 0 {
		cfg.Interval = time.Second
	}
	p := &Pump{cfg: cfg, pace: pace{cfg.RetryMin, cfg.RetryMax}, owned: cfg.Client == nil}
	var err error
	p.sender, err = newSender(cfg.URL, cfg.Client, 1, func(err error) {
		cfg.Logger.Warn("FeatBit refused an event of the outbox", "error", err)
	})
	return p, err
}

// Run delivers until ctx ends and returns ctx's error. A request that is under way
// then is cut, and its events come again, to this consumer or another. It may be
// called once.
func (p *Pump) Run(ctx context.Context) error {
	if p.owned {
		defer p.sender.client.CloseIdleConnections()
	}
	failures := 0 // of whatever, in a row
	for {
		pause, err := p.step(ctx)
		if ctx.Err() != nil {
			p.settleDebts(ctx)
			return ctx.Err()
		}
		if err != nil {
			if failures++; failures == 1 {
				p.cfg.Logger.Warn("events of the outbox wait", "error", err)
			}
			pause = max(pause, p.pace.after(failures))
		} else if failures > 0 {
			p.cfg.Logger.Info("the outbox and FeatBit work again")
			failures = 0
		}
		if pause == 0 {
			continue
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// settleDebts makes a last attempt to acknowledge what was delivered.
func (p *Pump) settleDebts(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := p.acknowledge(ctx); err != nil {
		p.cfg.Logger.Warn("events were delivered but not acknowledged, they come again", "events", len(p.owed), "error", err)
	}
}

// step delivers one batch. It returns how long to pause at least, 0 if there may be
// more.
func (p *Pump) step(ctx context.Context) (time.Duration, error) {
	if err := p.acknowledge(ctx); err != nil {
		return 0, err
	}
	if err := p.count(ctx); err != nil {
		return 0, err
	}
	secret, ok := p.cfg.Secret(p.cfg.Env)
	if !ok {
		return p.cfg.Interval, nil
	}
	events, err := p.cfg.Outbox.ReadEvents(ctx, p.cfg.Consumer, protocol.MaxInsights)
	if err != nil {
		return 0, p.fault(err)
	}
	if len(events) == 0 {
		return p.cfg.Interval, nil
	}
	r := p.deliver(ctx, secret, events)
	if err := p.acknowledge(ctx); err != nil {
		return 0, err
	}
	switch r.verdict {
	case unauthorized:
		return p.cfg.SuspendFor, r.err
	case again:
		return r.after, r.err
	}
	return 0, nil
}

// deliver makes an attempt at events and notes those that are settled.
func (p *Pump) deliver(ctx context.Context, secret protocol.Secret, events []store.Event) result {
	var insights []json.RawMessage
	var receipts []string
	var spoilt uint64 // no JSON: they would spoil the others' array
	for _, e := range events {
		if text := bytes.TrimLeft(e.Data, " \t\r\n"); json.Valid(text) && text[0] == '{' {
			insights = append(insights, text)
			receipts = append(receipts, e.Receipt)
			continue
		}
		p.owed = append(p.owed, e.Receipt)
		spoilt++
	}
	r := p.sender.send(ctx, secret, insights, false)
	p.owed = append(p.owed, receipts[:r.settled]...)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Delivered += uint64(r.settled - r.refused)
	p.stats.Refused += uint64(r.refused) + spoilt
	p.stats.Requests += uint64(r.requests)
	if ctx.Err() == nil {
		p.stats.Suspended, p.stats.Failing = r.verdict == unauthorized, r.verdict == again
	}
	return r
}

// acknowledge tells the outbox what is settled. What it cannot tell it owes.
func (p *Pump) acknowledge(ctx context.Context) error {
	if len(p.owed) == 0 {
		return nil
	}
	if err := p.cfg.Outbox.AckEvents(ctx, p.owed); err != nil {
		return p.fault(err)
	}
	p.owed = nil
	return nil
}

// count counts the outbox now and then.
func (p *Pump) count(ctx context.Context) error {
	if time.Since(p.counted) < countEvery {
		return nil
	}
	st, err := p.cfg.Outbox.OutboxStats(ctx)
	if err != nil {
		return p.fault(err)
	}
	p.counted = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Outbox, p.stats.OutboxAt = st, p.counted
	return nil
}

func (p *Pump) fault(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Errors++
	return err
}

// Stats returns the counters.
func (p *Pump) Stats() PumpStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stats
}

// Metrics returns what an operator watches of a Pump and its outbox. It does not
// block.
func (p *Pump) Metrics() []syncer.Measurement {
	st := p.Stats()
	bit := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	m := []syncer.Measurement{
		{Name: "flagstead_outbox_delivered_total", Help: "Events of the outbox acknowledged by FeatBit.", Counter: true, Value: float64(st.Delivered)},
		{Name: "flagstead_outbox_lost_refused_total", Help: "Events of the outbox lost because FeatBit took them for malformed or too large.", Counter: true, Value: float64(st.Refused)},
		{Name: "flagstead_outbox_requests_total", Help: "Requests to FeatBit with events of the outbox.", Counter: true, Value: float64(st.Requests)},
		{Name: "flagstead_outbox_errors_total", Help: "Calls of the outbox that failed.", Counter: true, Value: float64(st.Errors)},
		{Name: "flagstead_outbox_suspended", Help: "Whether FeatBit refuses the secret.", Value: bit(st.Suspended)},
		{Name: "flagstead_outbox_failing", Help: "Whether FeatBit takes no events at the moment.", Value: bit(st.Failing)},
	}
	if st.OutboxAt.IsZero() {
		return m
	}
	return append(m,
		syncer.Measurement{Name: "flagstead_outbox_added_total", Help: "Events that readers put into the outbox.", Counter: true, Value: float64(st.Outbox.Added)},
		syncer.Measurement{Name: "flagstead_outbox_trimmed_total", Help: "Events that went to make room in the outbox.", Counter: true, Value: float64(st.Outbox.Trimmed)},
		syncer.Measurement{Name: "flagstead_outbox_pending", Help: "Events in the outbox.", Value: float64(st.Outbox.Pending)},
		syncer.Measurement{Name: "flagstead_outbox_bytes", Help: "Size of the events in the outbox.", Value: float64(st.Outbox.Bytes)},
	)
}
