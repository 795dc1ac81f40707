package redis

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/flagstead/flagstead/store"
)

// deltaMax is how many items since.lua may collect. More than that are loaded
// with everything else: HGETALL is far cheaper per item than a script.
const deltaMax = 1000

// nonceSize is how long the random part of a revision is.
const nonceSize = 16

// A position is a revision taken apart.
type position struct {
	seq, nonce string
}

// parseRev takes a revision apart. Only the form that the scripts write is
// understood; everything else is foreign.
func parseRev(rev store.Rev) (position, bool) {
	seq, nonce, ok := strings.Cut(string(rev), "-")
	if !ok || len(nonce) != nonceSize {
		return position{}, false
	}
	n, err := strconv.ParseInt(seq, 10, 64)
	if err != nil || n <= 0 || strconv.FormatInt(n, 10) != seq {
		return position{}, false
	}
	return position{seq, nonce}, true
}

// Load implements [store.Reader].
func (s *Store) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	snap, err := s.load(ctx, since)
	if err != nil {
		return store.Snapshot{}, s.wrap("load", err)
	}
	return snap, nil
}

func (s *Store) load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	if from, ok := parseRev(since); ok {
		h, err := s.ask(ctx, from)
		switch {
		case err != nil:
			return store.Snapshot{}, err
		case h.state == "empty":
			return store.Snapshot{}, nil
		case h.state == "current" || h.state == "delta":
			items, err := parseItems(h.items)
			return store.Snapshot{Rev: h.rev, Delta: true, Items: items}, err
		}
	}
	return s.loadAll(ctx)
}

// A head is the answer of since.lua.
type head struct {
	state  string
	rev    store.Rev
	n      int
	digest string
	items  []string // field, value, ...
}

func (s *Store) ask(ctx context.Context, from position) (head, error) {
	reply, err := s.run(ctx, sinceScript, []string{s.data, s.sorted}, from.seq, from.nonce, deltaMax)
	if err != nil {
		return head{}, err
	}
	h := head{state: reply[0]}
	if len(reply) >= 4 {
		h.rev, h.digest, h.items = store.Rev(reply[1]), reply[3], reply[4:]
		h.n, err = strconv.Atoi(reply[2])
	}
	return h, err
}

// loadAll takes items and meta data from one reply, which is one state.
func (s *Store) loadAll(ctx context.Context) (store.Snapshot, error) {
	all, err := do(ctx, s, 5*s.opts.Timeout, func(ctx context.Context) (map[string]string, error) {
		return s.client.HGetAll(ctx, s.data).Result()
	})
	if err != nil || len(all) == 0 {
		return store.Snapshot{}, err
	}
	rev := store.Rev(all["$seq"] + "-" + all["$nonce"])
	_, ok := parseRev(rev)
	_, hasLog := all["$log"]
	_, hasSize := all["$z"]
	n, err := strconv.Atoi(all["$n"])
	if !ok || !hasLog || !hasSize || err != nil {
		return store.Snapshot{}, fmt.Errorf("%w: items without their meta data", ErrDamaged)
	}
	items := make([]store.Item, 0, n)
	for field, value := range all {
		switch field {
		case "$seq", "$nonce", "$log", "$n", "$z", "$digest":
			continue
		}
		it, err := parseItem(field, value)
		if err != nil {
			return store.Snapshot{}, err
		}
		items = append(items, it)
	}
	if len(items) != n {
		return store.Snapshot{}, fmt.Errorf("%w: %d items instead of %d", ErrDamaged, len(items), n)
	}
	return store.Snapshot{Rev: rev, Items: items}, nil
}

func parseItems(pairs []string) ([]store.Item, error) {
	var items []store.Item
	for i := 0; i+1 < len(pairs); i += 2 {
		it, err := parseItem(pairs[i], pairs[i+1])
		if err != nil {
			return nil, err
		}
		items = append(items, it)
	}
	return items, nil
}

func parseItem(field, value string) (store.Item, error) {
	it := store.Item{}
	switch {
	case strings.HasPrefix(field, "f:"):
		it.Kind = store.Flag
	case strings.HasPrefix(field, "s:"):
		it.Kind = store.Segment
	default:
		return it, unreadable(field)
	}
	it.Key = field[2:]
	parts := strings.SplitN(value, "|", 3) // Data may have any bytes, also "|"
	if len(parts) != 3 || it.Key == "" || parts[1] != "0" && parts[1] != "1" {
		return it, unreadable(field)
	}
	v, err := strconv.ParseInt(parts[0], 10, 64)
	if err != nil {
		return it, unreadable(field)
	}
	it.Version, it.Archived, it.Data = v, parts[1] == "1", []byte(parts[2])
	return it, nil
}

func fieldOf(it store.Item) string {
	if it.Kind == store.Segment {
		return "s:" + it.Key
	}
	return "f:" + it.Key
}

func valueOf(it store.Item) string {
	var b strings.Builder
	b.Grow(len(it.Data) + 20)
	b.WriteString(strconv.FormatInt(it.Version, 10))
	if it.Archived {
		b.WriteString("|1|")
	} else {
		b.WriteString("|0|")
	}
	b.Write(it.Data)
	return b.String()
}

func unreadable(field string) error {
	return fmt.Errorf("%w: cannot read the item %.80q", ErrDamaged, field)
}
