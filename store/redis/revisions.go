package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	goredis "github.com/redis/go-redis/v9"

	revisions "github.com/flagstead/flagstead/internal/history"
	"github.com/flagstead/flagstead/store"
)

var (
	_ store.History       = (*Store)(nil)
	_ store.HistoryWriter = (*Store)(nil)
)

// errNoHistory is what FeatBit's layout answers with.
var errNoHistory = fmt.Errorf("FeatBit's layout keeps no revisions: %w", errors.ErrUnsupported)

// Revisions implements [store.History]. In LayoutFeatBit the error wraps
// [errors.ErrUnsupported].
func (s *Store) Revisions(ctx context.Context) ([]store.Revision, error) {
	all, _, err := s.revisions(ctx)
	if err != nil {
		return nil, s.wrap("read the revisions of", err)
	}
	return all, nil
}

// revisions returns what the history has, and the number of its last revision.
func (s *Store) revisions(ctx context.Context) (all []store.Revision, last uint64, err error) {
	if s.featbit != nil {
		return nil, 0, errNoHistory
	}
	fields, err := do(ctx, s, s.opts.Timeout, func(ctx context.Context) (map[string]string, error) {
		return s.client.HGetAll(ctx, s.past).Result()
	})
	if err != nil {
		return nil, 0, err
	}
	for field, text := range fields {
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			continue
		}
		var r store.Revision
		if err := json.Unmarshal([]byte(text), &r); err != nil || r.N != n {
			continue // a hole, which a whole state follows
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b store.Revision) int { return int(int64(a.N) - int64(b.N)) })
	if text, ok := fields["$last"]; ok {
		if last, err = strconv.ParseUint(text, 10, 64); err != nil {
			return nil, 0, fmt.Errorf("%w: a last revision %.20q", ErrDamaged, text)
		}
	}
	return all, last, nil
}

// At implements [store.History].
func (s *Store) At(ctx context.Context, n uint64) (store.Snapshot, error) {
	snap, err := s.at(ctx, n)
	if err != nil {
		return store.Snapshot{}, s.wrap(fmt.Sprintf("read revision %d of", n), err)
	}
	return snap, nil
}

func (s *Store) at(ctx context.Context, n uint64) (store.Snapshot, error) {
	all, _, err := s.revisions(ctx)
	if err != nil {
		return store.Snapshot{}, err
	}
	return revisions.Rebuild(all, n, func(r store.Revision) ([]byte, error) {
		body, err := do(ctx, s, 5*s.opts.Timeout, func(ctx context.Context) ([]byte, error) {
			return s.client.HGet(ctx, s.bodies, strconv.FormatUint(r.N, 10)).Bytes()
		})
		if errors.Is(err, goredis.Nil) {
			return nil, fmt.Errorf("%w: revision %d lost its content", ErrDamaged, r.N)
		}
		return body, err
	})
}

// AppendRevision implements [store.HistoryWriter]. In LayoutFeatBit the error wraps
// [errors.ErrUnsupported].
func (s *Store) AppendRevision(ctx context.Context, r store.Record, k store.Keep) (store.Revision, error) {
	rev, err := s.appendRevision(ctx, r, k)
	if err != nil {
		return store.Revision{}, s.wrap("write a revision of", err)
	}
	return rev, nil
}

func (s *Store) appendRevision(ctx context.Context, r store.Record, k store.Keep) (store.Revision, error) {
	all, last, err := s.revisions(ctx)
	if err != nil {
		return store.Revision{}, err
	}
	if n := len(all); last > 0 && (n == 0 || all[n-1].N != last) {
		// The last one was damaged: only a whole state can follow.
		if n == 0 && r.After == 0 || n > 0 && r.After == all[n-1].N {
			r.After = last
		}
		all = append(all, store.Revision{N: last})
	}
	step, err := revisions.Next(all, r, k, time.Now())
	if err != nil || step.Nothing {
		return step.Revision, err
	}
	text, err := json.Marshal(step.Revision)
	if err != nil {
		return store.Revision{}, err
	}
	args := []any{r.After, step.Revision.N, text, step.Body}
	for _, n := range step.Drop {
		args = append(args, n)
	}
	reply, err := s.runFor(ctx, 5*s.opts.Timeout, s.command(reviseScript), []string{s.past, s.bodies}, args...)
	switch {
	case err != nil:
		return store.Revision{}, err
	case reply[0] == "next":
		return store.Revision{}, fmt.Errorf("%w: that is %s, not %d", store.ErrNotNext, reply[len(reply)-1], r.After)
	}
	return step.Revision, nil
}
