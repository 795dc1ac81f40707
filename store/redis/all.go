package redis

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/flagstead/flagstead/store"
)

const (
	// partsFrom is from how many items on everything is loaded in parts, so that
	// the server is never busy with all of it at once.
	partsFrom = 1000

	// partSize is how many items one command then loads.
	partSize = 200
)

// meta are the fields that say what the others are, in the order of parseMeta.
var meta = []string{"$seq", "$nonce", "$log", "$n", "$z"}

// loadAll loads everything and returns where it stands and the nonces before that.
func (s *Store) loadAll(ctx context.Context) (snap store.Snapshot, at position, before string, err error) {
	type answer struct {
		snap   store.Snapshot
		at     position
		before string
	}
	a, err := do(ctx, s, 5*s.opts.Timeout, func(ctx context.Context) (answer, error) {
		n, err := s.client.HGet(ctx, s.data, "$n").Int()
		if err == nil && n >= partsFrom {
			snap, at, before, ok, err := s.loadParts(ctx)
			if ok || err != nil {
				return answer{snap, at, before}, err
			}
		}
		snap, at, before, err := s.loadWhole(ctx)
		return answer{snap, at, before}, err
	})
	return a.snap, a.at, a.before, err
}

// loadWhole takes items and meta data from one reply, which is one state.
func (s *Store) loadWhole(ctx context.Context) (snap store.Snapshot, at position, before string, err error) {
	all, err := s.client.HGetAll(ctx, s.data).Result()
	if err != nil || len(all) == 0 {
		return snap, at, "", err
	}
	values := make([]any, len(meta))
	for i, field := range meta {
		if v, ok := all[field]; ok {
			values[i] = v
		}
	}
	at, before, n, err := parseMeta(values)
	if err != nil {
		return snap, at, "", err
	}
	items := make([]store.Item, 0, n)
	for field, value := range all {
		if field == "$digest" || slices.Contains(meta, field) {
			continue
		}
		it, err := parseItem(field, value)
		if err != nil {
			return snap, at, "", err
		}
		items = append(items, it)
	}
	if len(items) != n {
		return snap, at, "", fmt.Errorf("%w: %d items instead of %d", ErrDamaged, len(items), n)
	}
	return store.Snapshot{Rev: at.rev(), Items: items}, at, before, nil
}

// loadParts loads everything by and by. Each part comes with the revision that it
// is of, and a revision names one state: if all of them are of the same one, they
// are that state. Otherwise somebody commits faster than this loads, or the place
// is damaged, and ok is false.
func (s *Store) loadParts(ctx context.Context) (snap store.Snapshot, at position, before string, ok bool, err error) {
	fields, err := s.client.HKeys(ctx, s.data).Result()
	if err != nil {
		return snap, at, "", false, err
	}
	fields = slices.DeleteFunc(fields, func(f string) bool { return strings.HasPrefix(f, "$") })
	first, err := s.client.HMGet(ctx, s.data, meta...).Result()
	if err != nil {
		return snap, at, "", false, err
	}
	at, before, n, err := parseMeta(first)
	if err != nil || n != len(fields) {
		return snap, at, "", false, nil
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	items := make([]store.Item, n)
	parts := make(chan int)
	var workers sync.WaitGroup
	for range inFlight {
		workers.Go(func() {
			for from := range parts {
				to := min(from+partSize, n)
				if err := s.loadPart(ctx, at, fields[from:to], items[from:to]); err != nil {
					cancel(err)
				}
			}
		})
	}
	for from := 0; from < n && ctx.Err() == nil; from += partSize {
		select {
		case parts <- from:
		case <-ctx.Done():
		}
	}
	close(parts)
	workers.Wait()
	switch err := context.Cause(ctx); {
	case err == errMoved:
		return snap, at, "", false, nil
	case err != nil:
		return snap, at, "", false, err
	}
	return store.Snapshot{Rev: at.rev(), Items: items}, at, before, true, nil
}

// errMoved says that a part is not of the revision that the others are of.
var errMoved = fmt.Errorf("%w: parts of several revisions", ErrDamaged)

func (s *Store) loadPart(ctx context.Context, at position, fields []string, items []store.Item) error {
	values, err := s.client.HMGet(ctx, s.data, append([]string{"$seq", "$nonce"}, fields...)...).Result()
	if err != nil {
		return err
	}
	if values[0] != strconv.FormatInt(at.seq, 10) || values[1] != at.nonce {
		return errMoved
	}
	for i, value := range values[2:] {
		text, ok := value.(string)
		if !ok {
			return errMoved
		}
		if items[i], err = parseItem(fields[i], text); err != nil {
			return err
		}
	}
	return nil
}

// parseMeta reads the values of meta: the revision, the nonces before it, and the
// number of items.
func parseMeta(values []any) (at position, before string, n int, err error) {
	var text [5]string
	for i := range text {
		var ok bool
		if text[i], ok = values[i].(string); !ok {
			return at, "", 0, fmt.Errorf("%w: items without their meta data", ErrDamaged)
		}
	}
	at, ok := parseRev(store.Rev(text[0] + "-" + text[1]))
	n, err = strconv.Atoi(text[3])
	if !ok || err != nil {
		return at, "", 0, fmt.Errorf("%w: items without their meta data", ErrDamaged)
	}
	before = strings.Replace(text[2], "|", "", 1)
	if len(before)%nonceSize != 0 || int64(len(before)) >= at.seq*nonceSize {
		return at, "", 0, fmt.Errorf("%w: cannot read the log of commits", ErrDamaged)
	}
	return at, before, n, nil
}
