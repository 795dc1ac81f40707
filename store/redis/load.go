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

// A position is a revision taken apart. The zero position is that of an empty
// place.
type position struct {
	seq   int64
	nonce string
}

func (p position) rev() store.Rev {
	return store.Rev(strconv.FormatInt(p.seq, 10) + "-" + p.nonce)
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
	return position{n, nonce}, true
}

// Load implements [store.Reader]. While a Watch runs, the small changes that it
// was told of answer a Load without a trip to the server, at most one second old.
//
// A server that goes back to an earlier state of the same content, by a failover
// to a replica that lagged or from a backup, is not followed for a minute: Load
// returns a [store.ErrDamaged] that says so until the server moves on, if this
// handle has shown a later state. A full change by somebody who knows better is
// such a move.
func (s *Store) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	if s.featbit != nil {
		return s.featbit.load(ctx, since)
	}
	snap, err := s.load(ctx, since)
	if err != nil {
		return store.Snapshot{}, s.wrap("load", err)
	}
	s.warn(ctx)
	return snap, nil
}

func (s *Store) load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	if err := s.usable(ctx); err != nil {
		return store.Snapshot{}, err
	}
	from, ok := parseRev(since)
	if !ok {
		return s.loadShown(ctx, s.history.mark())
	}
	if snap, ok := s.history.answer(from); ok {
		return snap, nil
	}
	m := s.history.mark()
	h, err := s.ask(ctx, from)
	if err != nil {
		return store.Snapshot{}, err
	}
	switch h.state {
	case "empty":
		return store.Snapshot{}, s.history.loaded(m, position{}, "", false, from)
	case "current", "delta":
		if err := s.history.loaded(m, h.at, h.between, h.state == "delta", from); err != nil {
			return store.Snapshot{}, err
		}
		items, err := parseItems(h.items)
		return store.Snapshot{Rev: h.at.rev(), Delta: true, Items: items}, err
	}
	if err := s.history.check(m, h.at); err != nil {
		return store.Snapshot{}, err // without loading what is not shown
	}
	return s.loadShown(ctx, m)
}

// loadShown loads everything for a caller, who may not have seen more already.
func (s *Store) loadShown(ctx context.Context, m mark) (store.Snapshot, error) {
	snap, at, before, err := s.loadAll(ctx)
	if err != nil {
		return store.Snapshot{}, err
	}
	if err := s.history.loaded(m, at, before, false, position{}); err != nil {
		return store.Snapshot{}, err
	}
	return snap, nil
}

// A head is the answer of since.lua.
type head struct {
	state   string
	at      position
	n       int
	digest  string
	between string   // nonces of the commits between
	items   []string // field, value, ...
}

func (s *Store) ask(ctx context.Context, from position) (head, error) {
	reply, err := s.run(ctx, s.query(sinceScript), []string{s.data, s.sorted}, from.seq, from.nonce, deltaMax)
	if err != nil {
		return head{}, err
	}
	h := head{state: reply[0]}
	if h.state == "empty" {
		return h, nil
	}
	if len(reply) < 4 || h.state == "delta" && len(reply) < 5 {
		return head{}, fmt.Errorf("unexpected answer %.80q of a script", reply)
	}
	var ok bool
	if h.at, ok = parseRev(store.Rev(reply[1])); !ok {
		return head{}, fmt.Errorf("%w: %.80q is no revision", ErrDamaged, reply[1])
	}
	if h.n, err = strconv.Atoi(reply[2]); err != nil {
		return head{}, err
	}
	h.digest = reply[3]
	if h.state == "delta" {
		h.between, h.items = reply[4], reply[5:]
		if int64(len(h.between)) != (h.at.seq-from.seq-1)*nonceSize {
			return head{}, fmt.Errorf("%w: the log of commits has a hole", ErrDamaged)
		}
	}
	return h, nil
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
	version, rest, _ := strings.Cut(value, "|")
	archived, data, ok := strings.Cut(rest, "|") // Data may have any bytes, also "|"
	if !ok || it.Key == "" || archived != "0" && archived != "1" {
		return it, unreadable(field)
	}
	v, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		return it, unreadable(field)
	}
	it.Version, it.Archived, it.Data = v, archived == "1", []byte(data)
	return it, nil
}

// maxPrefix is how long what stands before a key or before data can be.
const maxPrefix = 24

func appendField(b []byte, it store.Item) []byte {
	if it.Kind == store.Segment {
		return append(append(b, "s:"...), it.Key...)
	}
	return append(append(b, "f:"...), it.Key...)
}

func appendValue(b []byte, it store.Item) []byte {
	b = strconv.AppendInt(b, it.Version, 10)
	if it.Archived {
		b = append(b, "|1|"...)
	} else {
		b = append(b, "|0|"...)
	}
	return append(b, it.Data...)
}

func fieldOf(it store.Item) string { return string(appendField(nil, it)) }

func valueOf(it store.Item) string { return string(appendValue(nil, it)) }

func unreadable(field string) error {
	return fmt.Errorf("%w: cannot read the item %.80q", ErrDamaged, field)
}
