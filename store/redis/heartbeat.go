package redis

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/flagstead/flagstead/store"
)

// beatLife is how long a heartbeat stays that nobody writes again. Afterwards the
// place looks as if nobody had ever confirmed it, which is not far from true.
const beatLife = 24 * time.Hour

// WriteHeartbeat implements [store.HeartbeatWriter]. What counts is how long ago
// the source confirmed: the clocks of this host and the server need not agree.
func (s *Store) WriteHeartbeat(ctx context.Context, h store.Heartbeat) error {
	if s.featbit != nil {
		return s.featbit.writeHeartbeat(ctx, h)
	}
	return s.writeHeartbeat(ctx, s.beat, h)
}

func (s *Store) writeHeartbeat(ctx context.Context, key string, h store.Heartbeat) error {
	_, err := s.run(ctx, s.command(beatScript), []string{key},
		age(h.Confirmed, time.Now()), h.Source, h.Writer, store.HeartbeatLife.Milliseconds(), beatLife.Milliseconds())
	if err != nil {
		return s.wrap("write heartbeat of", err)
	}
	return nil
}

// ReadHeartbeat implements [store.HeartbeatReader]. Its times are of this host's
// clock, as old as they are by the server's.
func (s *Store) ReadHeartbeat(ctx context.Context) (store.Heartbeat, error) {
	if s.featbit != nil {
		return s.featbit.readHeartbeat(ctx)
	}
	return s.readHeartbeat(ctx, s.beat)
}

func (s *Store) readHeartbeat(ctx context.Context, key string) (store.Heartbeat, error) {
	reply, err := s.run(ctx, s.query(beatsScript), []string{key})
	if err != nil {
		return store.Heartbeat{}, s.wrap("read heartbeat of", err)
	}
	h, err := heartbeat(reply, time.Now())
	if err != nil {
		return store.Heartbeat{}, s.wrap("read heartbeat of", err)
	}
	return h, nil
}

// age returns the milliseconds from at to now, or "" for the zero time.
func age(at, now time.Time) string {
	if at.IsZero() {
		return ""
	}
	return strconv.FormatInt(max(now.Sub(at).Milliseconds(), 0), 10)
}

// heartbeat reads the answer of beats.lua that came at now.
func heartbeat(reply []string, now time.Time) (store.Heartbeat, error) {
	if reply[0] == "none" {
		return store.Heartbeat{}, nil
	}
	if len(reply) != 5 {
		return store.Heartbeat{}, fmt.Errorf("unexpected answer %.80q of a script", reply)
	}
	h := store.Heartbeat{Source: reply[2], Writer: reply[3]}
	var err error
	if reply[1] != "" {
		if h.Confirmed, err = before(now, reply[1]); err != nil {
			return store.Heartbeat{}, err
		}
	}
	h.Written, err = before(now, reply[4])
	return h, err
}

func before(now time.Time, age string) (time.Time, error) {
	ms, err := strconv.ParseInt(age, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: a heartbeat of age %.20q", ErrDamaged, age)
	}
	return now.Add(-time.Duration(ms) * time.Millisecond), nil
}
