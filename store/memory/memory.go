// Package memory keeps flags in the process.
//
// It is the store of a client that connects to FeatBit itself, of tests, and of
// offline use. Nothing survives the process.
package memory

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/flagstead/flagstead/store"
)

// A Store is a [store.DataStore] and [store.Watcher] in memory. Its methods are
// safe for concurrent use; none of them blocks on anything but each other.
type Store struct {
	mu     sync.RWMutex // guards what follows
	items  table
	epoch  string // random, so that no other store has the same revisions
	seq    int64  // commits so far
	full   int64  // seq of the last full change: no delta reaches back behind it
	log    []logged
	logged int64 // log is complete for every seq after this one
	beat   store.Heartbeat
	ctl    store.Control
	past   past
	outbox outbox
	lease  lease
	news   chan struct{} // closed and replaced by each commit
	closed chan struct{}

	reports map[string]store.Report // by reader
}

type logged struct {
	seq int64
	id  store.ID
}

// logMax bounds the log of changes; a reader that is further behind costs a
// pass over all items.
const logMax = 4096

// New returns an empty store.
func New() *Store {
	var b [8]byte
	rand.Read(b[:])
	return &Store{
		epoch:  hex.EncodeToString(b[:]),
		news:   make(chan struct{}),
		closed: make(chan struct{}),
		past:   past{turn: make(chan struct{}, 1), bodies: map[uint64][]byte{}},

		reports: map[string]store.Report{},
	}
}

// Close releases the content and ends all running calls of Watch. It always
// returns nil.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isClosed() {
		close(s.closed)
		s.items, s.log = table{}, nil
		s.past.all, s.past.bodies = nil, nil
	}
	return nil
}

func (s *Store) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// usable says why a call cannot go ahead. The caller holds mu.
func (s *Store) usable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.isClosed() {
		return store.ErrClosed
	}
	return nil
}

func (s *Store) rev() store.Rev {
	if s.seq == 0 {
		return ""
	}
	return store.Rev(s.epoch + "-" + strconv.FormatInt(s.seq, 10))
}

// seqOf returns the commit that rev names, if it is one of this store's.
func (s *Store) seqOf(rev store.Rev) (int64, bool) {
	text, ok := strings.CutPrefix(string(rev), s.epoch+"-")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil && n > 0 && n <= s.seq && text == strconv.FormatInt(n, 10)
}

// WriteHeartbeat implements [store.HeartbeatWriter].
func (s *Store) WriteHeartbeat(ctx context.Context, h store.Heartbeat) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return fmt.Errorf("memory: write heartbeat: %w", err)
	}
	s.beat, _ = h.Merge(s.beat, time.Now())
	return nil
}

// ReadHeartbeat implements [store.HeartbeatReader].
func (s *Store) ReadHeartbeat(ctx context.Context) (store.Heartbeat, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable(ctx); err != nil {
		return store.Heartbeat{}, fmt.Errorf("memory: read heartbeat: %w", err)
	}
	return s.beat, nil
}

// Load implements [store.Reader].
func (s *Store) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable(ctx); err != nil {
		return store.Snapshot{}, fmt.Errorf("memory: load: %w", err)
	}
	snap := store.Snapshot{Rev: s.rev()}
	if n, ok := s.seqOf(since); ok && n >= s.full {
		snap.Delta, snap.Items = true, s.after(n)
		return snap, nil
	}
	if n := len(s.items.entries); n > 0 {
		snap.Items = make([]store.Item, n)
		for i := range snap.Items {
			snap.Items[i] = s.items.entries[i].item
		}
	}
	return snap, nil
}

// after returns the items that were written after commit n.
func (s *Store) after(n int64) []store.Item {
	var out []store.Item
	if n < s.logged {
		for i := range s.items.entries {
			if e := &s.items.entries[i]; e.seq > n {
				out = append(out, e.item)
			}
		}
		return out
	}
	first, _ := slices.BinarySearchFunc(s.log, n+1, func(l logged, seq int64) int { return cmp.Compare(l.seq, seq) })
	for _, l := range s.log[first:] {
		if e := s.items.find(l.id); e.seq == l.seq { // else a later entry has it
			out = append(out, e.item)
		}
	}
	return out
}

// Apply implements [store.Writer].
func (s *Store) Apply(ctx context.Context, c store.Change) (store.Rev, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return "", fmt.Errorf("memory: apply: %w", err)
	}
	if s.ctl.Frozen && !c.Override {
		return "", fmt.Errorf("memory: apply: %w", store.ErrFrozen)
	}
	if c.Conflicts(s.rev()) {
		return "", fmt.Errorf("memory: apply: %w", store.ErrConflict)
	}
	changed := false
	if c.Full {
		changed = s.replace(c.Items)
	} else {
		changed = s.merge(c.Items)
	}
	if changed {
		close(s.news)
		s.news = make(chan struct{})
	}
	return s.rev(), nil
}

func (s *Store) merge(items []store.Item) bool {
	next := s.seq + 1
	for _, it := range items {
		id := it.ID()
		old := s.items.find(id)
		if old != nil && old.item.Version >= it.Version {
			continue
		}
		// A key that comes twice in a change is logged once, or a Delta would
		// hold it twice.
		if old == nil || old.seq != next {
			s.note(next, id)
		}
		s.items.put(it, next)
		s.seq = next
	}
	return s.seq == next
}

func (s *Store) note(seq int64, id store.ID) {
	if len(s.log) == logMax {
		half := s.log[logMax/2]
		s.logged = half.seq
		keep, _ := slices.BinarySearchFunc(s.log, half.seq+1, func(l logged, seq int64) int { return cmp.Compare(l.seq, seq) })
		s.log = append(make([]logged, 0, logMax), s.log[keep:]...)
	}
	s.log = append(s.log, logged{seq, id})
}

func (s *Store) replace(items []store.Item) bool {
	next := newTable(len(items))
	for _, it := range items {
		if old := next.find(it.ID()); old == nil || it.Version >= old.item.Version {
			next.put(it, s.seq+1)
		}
	}
	if s.seq > 0 && s.same(&next) {
		return false
	}
	s.seq++
	s.items, s.full, s.logged, s.log = next, s.seq, s.seq, nil
	return true
}

func (s *Store) same(next *table) bool {
	if len(next.entries) != len(s.items.entries) {
		return false
	}
	for i := range next.entries {
		it := &next.entries[i].item
		old := s.items.find(it.ID())
		if old == nil || old.item.Version != it.Version || old.item.Archived != it.Archived || !bytes.Equal(old.item.Data, it.Data) {
			return false
		}
	}
	return true
}

// Watch implements [store.Watcher].
func (s *Store) Watch(ctx context.Context, wake func()) error {
	for {
		s.mu.RLock()
		err, news := s.usable(ctx), s.news
		s.mu.RUnlock()
		if err != nil {
			return fmt.Errorf("memory: watch: %w", err)
		}
		wake()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.closed:
			return fmt.Errorf("memory: watch: %w", store.ErrClosed)
		case <-news:
		}
	}
}
