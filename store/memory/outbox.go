package memory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/flagstead/flagstead/store"
)

var (
	_ store.OutboxWriter = (*Store)(nil)
	_ store.OutboxReader = (*Store)(nil)
)

// What an outbox in memory holds at most.
const (
	outboxEvents = 100_000
	outboxBytes  = 64 << 20
)

// An outbox is a Store's. Its zero value is empty.
type outbox struct {
	first   uint64             // number of the oldest event that may be there
	next    uint64             // number of the next event
	waiting map[uint64]*waiter // by number
	ids     map[string]bool    // of the last events
	order   []seen             // the same, oldest first
	stats   store.OutboxStats
}

type waiter struct {
	event    store.Event
	consumer string
	read     time.Time
	added    time.Time
}

type seen struct {
	id string
	at time.Time
}

// AppendEvents implements [store.OutboxWriter]. The store holds 100,000 events at
// most, and 64 MB of them.
func (s *Store) AppendEvents(ctx context.Context, events []store.Event) error {
	for _, e := range events {
		if err := e.Check(); err != nil {
			return fmt.Errorf("memory: append events: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return fmt.Errorf("memory: append events: %w", err)
	}
	now := time.Now()
	for _, e := range events {
		s.outbox.add(e, now)
	}
	s.outbox.forget(now)
	return nil
}

func (o *outbox) add(e store.Event, now time.Time) {
	if o.ids[e.ID] {
		o.stats.Ignored++
		return
	}
	if o.waiting == nil {
		o.waiting, o.ids = map[uint64]*waiter{}, map[string]bool{}
	}
	o.ids[e.ID] = true
	o.order = append(o.order, seen{e.ID, now})
	e.Data = bytes.Clone(e.Data)
	e.Receipt = strconv.FormatUint(o.next, 10)
	o.waiting[o.next] = &waiter{event: e, added: now}
	o.next++
	o.stats.Added++
	o.stats.Bytes += int64(len(e.ID) + len(e.Data))
	for len(o.waiting) > outboxEvents || o.stats.Bytes > outboxBytes {
		o.remove(o.oldest())
		o.stats.Trimmed++
	}
}

// oldest returns the number of the oldest event that is there.
func (o *outbox) oldest() uint64 {
	for o.first < o.next && o.waiting[o.first] == nil {
		o.first++
	}
	return o.first
}

func (o *outbox) remove(number uint64) {
	e := o.waiting[number].event
	o.stats.Bytes -= int64(len(e.ID) + len(e.Data))
	delete(o.waiting, number)
}

// forget lets go of ids that need not be remembered.
func (o *outbox) forget(now time.Time) {
	n := 0
	for n < len(o.order) && (now.Sub(o.order[n].at) > store.OutboxWindow || len(o.order)-n > 2*outboxEvents) {
		delete(o.ids, o.order[n].id)
		n++
	}
	o.order = append(o.order[:0], o.order[n:]...)
}

// ReadEvents implements [store.OutboxReader].
func (s *Store) ReadEvents(ctx context.Context, consumer string, limit int) ([]store.Event, error) {
	if consumer == "" {
		return nil, errors.New("memory: read events: no name of a consumer")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return nil, fmt.Errorf("memory: read events: %w", err)
	}
	o := &s.outbox
	now := time.Now()
	var events []store.Event
	for _, wanted := range []func(*waiter) bool{
		func(w *waiter) bool { return w.consumer == consumer },
		func(w *waiter) bool { return w.consumer != "" && now.Sub(w.read) >= store.OutboxClaim },
		func(w *waiter) bool { return w.consumer == "" },
	} {
		for n := o.oldest(); n < o.next && len(events) < limit; n++ {
			w := o.waiting[n]
			if w == nil || w.read.Equal(now) || !wanted(w) {
				continue
			}
			w.consumer, w.read = consumer, now
			e := w.event
			e.Data = bytes.Clone(e.Data)
			events = append(events, e)
		}
	}
	return events, nil
}

// AckEvents implements [store.OutboxReader].
func (s *Store) AckEvents(ctx context.Context, receipts []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return fmt.Errorf("memory: acknowledge events: %w", err)
	}
	for _, r := range receipts {
		n, err := strconv.ParseUint(r, 10, 64)
		if err != nil {
			return fmt.Errorf("memory: acknowledge events: %.50q is no receipt of an event", r)
		}
		if s.outbox.waiting[n] != nil {
			s.outbox.remove(n)
			s.outbox.stats.Acknowledged++
		}
	}
	return nil
}

// OutboxStats implements [store.OutboxReader].
func (s *Store) OutboxStats(ctx context.Context) (store.OutboxStats, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return store.OutboxStats{}, fmt.Errorf("memory: count the outbox: %w", err)
	}
	o := &s.outbox
	st := o.stats
	st.Pending = uint64(len(o.waiting))
	if w := o.waiting[o.oldest()]; w != nil {
		st.Oldest = w.added
	}
	return st, nil
}
