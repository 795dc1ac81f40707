package redis

import (
	"context"
	_ "embed" // the scripts
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flagstead/flagstead/store"
)

var (
	//go:embed outbox_add.lua
	outboxAddLua string
	//go:embed outbox_read.lua
	outboxReadLua string
	//go:embed outbox_ack.lua
	outboxAckLua string
	//go:embed outbox_stats.lua
	outboxStatsLua string

	outboxAddScript   = goredis.NewScript(outboxAddLua)
	outboxReadScript  = goredis.NewScript(outboxReadLua)
	outboxAckScript   = goredis.NewScript(outboxAckLua)
	outboxStatsScript = goredis.NewScript(outboxStatsLua)
)

// OutboxOptions bounds the outbox of an environment, so that events never crowd
// out flags. What an AppendEvents brings beyond either bound removes the oldest.
// Beside them the ids of the last events are kept, at most twice MaxEvents.
type OutboxOptions struct {
	MaxEvents int   // zero: 100,000
	MaxBytes  int64 // of ids and data; zero: 64 MB
}

func (o OutboxOptions) withDefaults() OutboxOptions {
	if o.MaxEvents <= 0 {
		o.MaxEvents = 100_000
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 64 << 20
	}
	return o
}

var (
	_ store.OutboxWriter = (*Store)(nil)
	_ store.OutboxReader = (*Store)(nil)
)

var errNoOutbox = fmt.Errorf("%w: FeatBit's layout has no outbox; use the native layout, with the same server if need be", errors.ErrUnsupported)

// The outbox's keys, and what its consumers share.
const (
	outboxSuffix  = ":e"
	outboxGroup   = "syncers"
	maxOutboxRead = 1000 // events at a time, either way
	outboxChunk   = 1 << 20
)

func (s *Store) outboxKeys() []string {
	name := strings.TrimSuffix(s.data, ":d") + outboxSuffix
	return []string{name, name + ":n", name + ":i"}
}

// AppendEvents implements [store.OutboxWriter]. It needs rights that a reader does
// not have otherwise, see the package's documentation, and Redis 5. A server that
// is out of memory takes nothing.
func (s *Store) AppendEvents(ctx context.Context, events []store.Event) error {
	if err := s.appendEvents(ctx, events); err != nil {
		return s.wrap("append events of", err)
	}
	return nil
}

func (s *Store) appendEvents(ctx context.Context, events []store.Event) error {
	if s.featbit != nil {
		return errNoOutbox
	}
	for _, e := range events {
		if err := e.Check(); err != nil {
			return err
		}
	}
	o := s.opts.Outbox.withDefaults()
	for len(events) > 0 {
		args := []any{o.MaxEvents, o.MaxBytes, store.OutboxWindow.Milliseconds(), outboxGroup}
		n, size := 0, 0
		for n < min(len(events), maxOutboxRead) && size < outboxChunk {
			args = append(args, events[n].ID, events[n].Data)
			size += len(events[n].Data)
			n++
		}
		if _, err := s.run(ctx, s.command(outboxAddScript), s.outboxKeys(), args...); err != nil {
			return err
		}
		events = events[n:]
	}
	return nil
}

// ReadEvents implements [store.OutboxReader]. It returns no more than 1,000 events
// and needs Redis 6.2.
func (s *Store) ReadEvents(ctx context.Context, consumer string, limit int) ([]store.Event, error) {
	events, err := s.readEvents(ctx, consumer, limit)
	if err != nil {
		return nil, s.wrap("read events of", err)
	}
	return events, nil
}

func (s *Store) readEvents(ctx context.Context, consumer string, limit int) ([]store.Event, error) {
	switch {
	case s.featbit != nil:
		return nil, errNoOutbox
	case consumer == "":
		return nil, errors.New("no name of a consumer")
	case limit <= 0:
		return nil, nil
	}
	reply, err := s.run(ctx, s.command(outboxReadScript), s.outboxKeys()[:1],
		outboxGroup, consumer, min(limit, maxOutboxRead), s.outboxClaim.Milliseconds())
	if err != nil {
		return nil, err
	}
	reply = reply[1:]
	if len(reply)%3 != 0 {
		return nil, fmt.Errorf("unexpected answer of %d parts of a script", len(reply))
	}
	events := make([]store.Event, 0, len(reply)/3)
	for ; len(reply) > 0; reply = reply[3:] {
		events = append(events, store.Event{Receipt: reply[0], ID: reply[1], Data: []byte(reply[2])})
	}
	return events, nil
}

// receipt is what a stream calls an entry.
var receipt = regexp.MustCompile(`^[0-9]{1,20}-[0-9]{1,20}$`)

// AckEvents implements [store.OutboxReader].
func (s *Store) AckEvents(ctx context.Context, receipts []string) error {
	if err := s.ackEvents(ctx, receipts); err != nil {
		return s.wrap("acknowledge events of", err)
	}
	return nil
}

func (s *Store) ackEvents(ctx context.Context, receipts []string) error {
	if s.featbit != nil {
		return errNoOutbox
	}
	for _, r := range receipts {
		if !receipt.MatchString(r) {
			return fmt.Errorf("%.50q is no receipt of an event", r)
		}
	}
	for len(receipts) > 0 {
		n := min(len(receipts), maxOutboxRead)
		args := []any{outboxGroup}
		for _, r := range receipts[:n] {
			args = append(args, r)
		}
		if _, err := s.run(ctx, s.command(outboxAckScript), s.outboxKeys()[:2], args...); err != nil {
			return err
		}
		receipts = receipts[n:]
	}
	return nil
}

// OutboxStats implements [store.OutboxReader]. A reader's rights are enough if they
// include xrange and xlen.
func (s *Store) OutboxStats(ctx context.Context) (store.OutboxStats, error) {
	st, err := s.outboxStats(ctx)
	if err != nil {
		return store.OutboxStats{}, s.wrap("count the outbox of", err)
	}
	return st, nil
}

func (s *Store) outboxStats(ctx context.Context) (st store.OutboxStats, err error) {
	if s.featbit != nil {
		return st, errNoOutbox
	}
	reply, err := s.run(ctx, s.query(outboxStatsScript), s.outboxKeys()[:2])
	if err != nil {
		return st, err
	}
	if len(reply) != 7 {
		return st, fmt.Errorf("unexpected answer %.80q of a script", reply)
	}
	var counts [5]uint64
	for i := range counts {
		if counts[i], err = strconv.ParseUint(reply[i+1], 10, 64); err != nil {
			return st, fmt.Errorf("%w: a counter of the outbox is %.40q", ErrDamaged, reply[i+1])
		}
	}
	st.Added, st.Acknowledged, st.Ignored, st.Bytes, st.Pending = counts[0], counts[1], counts[2], int64(counts[3]), counts[4]
	if st.Added < st.Acknowledged+st.Pending {
		return st, fmt.Errorf("%w: the outbox counts %d events added, %d acknowledged and %d pending", ErrDamaged, st.Added, st.Acknowledged, st.Pending)
	}
	st.Trimmed = st.Added - st.Acknowledged - st.Pending
	if ms, err := strconv.ParseInt(strings.SplitN(reply[6], "-", 2)[0], 10, 64); err == nil {
		st.Oldest = time.UnixMilli(ms)
	}
	return st, nil
}
