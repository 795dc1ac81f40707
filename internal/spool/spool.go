// Package spool keeps insights until they are delivered: a bounded queue for each
// environment, on disk or in memory.
//
// What Append returned nil for survives the end of the process, kill -9 included.
// Files are synced every SyncEvery and by Close: a power cut may lose what came
// since, and may bring back what was acknowledged since. What is damaged on disk is
// counted and skipped. Insights are kept as SDKs sent them, users included, in
// files for their owner only; of an environment only the id is on disk, never its
// secret.
//
// A directory per environment holds segments of frames that are only appended to,
// and the position up to which all is settled. Nothing is overwritten: a full spool
// refuses.
package spool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
)

var (
	// ErrFull says that the spool has no room: the bound is reached, the
	// environment has used up its share, or the disk is full. Nothing was kept.
	ErrFull = errors.New("spool: full")

	// ErrTooLarge says that an insight is larger than MaxInsight.
	ErrTooLarge = errors.New("spool: insight too large")

	// ErrClosed says that the spool was closed.
	ErrClosed = errors.New("spool: closed")

	// ErrLocked says that another process, or another Spool, uses the directory.
	ErrLocked = errors.New("spool: the directory is in use by another process")
)

const (
	// MaxInsight is the size of one insight at most, in bytes.
	MaxInsight = 4 << 20

	// MaxInsights is how many insights a batch has at most.
	MaxInsights = protocol.MaxInsights

	// frameBytes is the size of a frame, and of a batch of frames, at most, unless
	// it is one large insight.
	frameBytes = 1 << 20

	// idleAfter is how long a settled queue keeps its files.
	idleAfter = time.Minute

	// dropFrom is the size of a settled segment that is not kept to be written on.
	dropFrom = 256 << 10
)

// Options tunes a Spool. The zero value is useful.
type Options struct {
	// MaxBytes bounds all segments. Zero means 256 MB. The last eighth is for
	// environments that use less than half of it, so that one that cannot be
	// delivered does not take the room of the others.
	MaxBytes int64

	// SegmentBytes is how large a segment becomes before the next one begins.
	// Room is given back by segments. Zero means 4 MB, or an eighth of MaxBytes
	// if that is less.
	SegmentBytes int64

	// SyncEvery is how long at most what was appended is not synced to the disk.
	// Zero means 1 second.
	SyncEvery time.Duration

	// Logger gets trouble with the disk. Nil means silence.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.MaxBytes <= 0 {
		o.MaxBytes = 256 << 20
	}
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = min(4<<20, max(o.MaxBytes/8, 1))
	}
	if o.SyncEvery <= 0 {
		o.SyncEvery = time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Stats counts insights since Open.
type Stats struct {
	Recorded  uint64 // appended, and found by Open
	Recovered uint64 // of these, found by Open
	Settled   uint64 // acknowledged
	Damaged   uint64 // lost to damage on the disk, as far as they can be counted
	Pending   uint64 // Recorded - Settled - Damaged
	Refused   uint64 // not kept because the spool was full

	Bytes        int64  // in segments
	MaxBytes     int64  //
	DamagedBytes int64  // found by Open in frames that are not whole
	DiskErrors   uint64 // writes, syncs and removals that failed
	Environments int    // that have a queue
}

// A Spool keeps insights. Append and Stats are safe for concurrent use with
// everything; there is one consumer, which may call Take, Ack and Return from any
// number of goroutines.
type Spool struct {
	dir  string
	opts Options
	lock *os.File

	mu     sync.Mutex
	queues map[string]*queue
	ring   []*queue // the same, in the order of Take
	next   int      // where Take goes on in ring
	bytes  int64
	stats  Stats
	dirty  map[*segment]bool
	closed bool

	ready  chan struct{}
	stop   chan struct{}
	synced chan struct{} // closed when the syncing goroutine has ended; nil in memory
}

// Open opens the spool in the directory dir, which it makes if need be, and reads
// it through once. An empty dir means memory: nothing survives Close then. It
// returns ErrLocked if another Spool has the directory.
func Open(dir string, o Options) (*Spool, error) {
	s := &Spool{
		dir: dir, opts: o.withDefaults(),
		queues: map[string]*queue{}, dirty: map[*segment]bool{},
		ready: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	if dir == "" {
		return s, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	var err error
	if s.lock, err = lock(dir); err != nil {
		if errors.Is(err, ErrLocked) {
			return nil, err
		}
		return nil, fmt.Errorf("spool: %w", err)
	}
	if err := s.recover(); err != nil {
		for _, q := range s.ring {
			_ = q.close()
		}
		s.lock.Close()
		return nil, fmt.Errorf("spool: %w", err)
	}
	s.synced = make(chan struct{})
	go s.syncing()
	return s, nil
}

// recover opens the queues that are on disk.
func (s *Spool) recover() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || !validEnv(e.Name()) {
			continue
		}
		q, err := s.open(e.Name())
		if err != nil {
			return err
		}
		if err := s.recoverQueue(q); err != nil {
			return err
		}
		if q.unread > 0 {
			q.since = time.Now()
			s.wake()
		}
	}
	return nil
}

func (s *Spool) recoverQueue(q *queue) error {
	files, err := os.ReadDir(q.dir)
	if err != nil {
		return err
	}
	if q.skips, err = q.acked.read(); err != nil {
		return err
	}
	q.last = q.settled.number
	for _, f := range files { // in order of their names, which is that of the numbers
		hex, ok := strings.CutSuffix(f.Name(), ".seg")
		number, err := strconv.ParseUint(hex, 16, 64)
		if !ok || err != nil || len(hex) != 16 || number == 0 {
			continue
		}
		path := filepath.Join(q.dir, f.Name())
		q.last = max(q.last, number)
		if number < q.settled.number {
			if err := os.Remove(path); err != nil {
				return err
			}
			continue
		}
		info, err := f.Info()
		if err != nil {
			return err
		}
		seg := &segment{number: number, size: info.Size(), blob: &fileBlob{path: path}}
		var from int64
		if number == q.settled.number {
			from = q.settled.off
		}
		sc := seg.scan(from, q.skips)
		if sc.lost > 0 {
			s.opts.Logger.Warn("the spool is damaged", "file", path, "bytes", sc.lost, "insights", sc.damaged)
		}
		seg.left = sc.insights
		q.segs = append(q.segs, seg)
		q.bytes += seg.size
		q.unread += sc.insights
		s.stats.Recorded += uint64(sc.insights + sc.damaged)
		s.stats.Recovered += uint64(sc.insights + sc.damaged)
		s.stats.Damaged += uint64(sc.damaged)
		s.stats.DamagedBytes += sc.lost
	}
	if q.unread == 0 { // nothing worth keeping
		q.settled = position{q.last, 1 << 62}
	}
	q.read = q.settled
	if _, err := q.drop(true); err != nil {
		return err
	}
	s.bytes += q.bytes
	return nil
}

// open returns the queue of env, which it makes.
func (s *Spool) open(env string) (*queue, error) {
	q := &queue{env: env}
	if s.dir != "" {
		q.dir = filepath.Join(s.dir, env)
		if err := os.MkdirAll(q.dir, 0o700); err != nil {
			return nil, err
		}
		var err error
		if q.file, q.settled, err = openPosition(filepath.Join(q.dir, "position")); err != nil {
			return nil, err
		}
		q.acked = &ackedFile{path: filepath.Join(q.dir, "acked")}
		q.read, q.last = q.settled, q.settled.number
	}
	s.queues[env] = q
	s.ring = append(s.ring, q)
	return q, nil
}

// validEnv accepts what is a plain name of a directory.
func validEnv(env string) bool {
	return env != "" && len(env) <= 100 && !strings.ContainsFunc(env, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	})
}

// Append keeps insights of the environment with the id env, all or none, and
// returns when the system has them. It blocks no longer than the disk does.
// Insights are opaque; they are copied. Errors to test for are ErrFull, ErrTooLarge
// and ErrClosed. After an error of the disk some may be kept all the same, if the
// process ends before they are taken back.
func (s *Spool) Append(ctx context.Context, env string, insights []json.RawMessage) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !validEnv(env) {
		return fmt.Errorf("spool: %.120q is no id of an environment: want letters, digits, - and _", env)
	}
	frames, err := encode(insights)
	if err != nil || len(frames) == 0 {
		return err
	}
	size := int64(len(frames))

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	q := s.queues[env]
	if !s.room(q, size) {
		s.stats.Refused += uint64(len(insights))
		return ErrFull
	}
	if q == nil {
		if q, err = s.open(env); err != nil {
			return s.failed("make the queue of environment "+env, err, len(insights))
		}
	}
	seg := q.writing
	if seg == nil || seg.size >= s.opts.SegmentBytes {
		seg = q.rotate()
	}
	if err := seg.blob.write(frames, seg.size); err != nil {
		q.writing = nil
		if seg.size == 0 {
			q.discard(seg) // or a full disk would cost a file, and its handle, per attempt
		}
		return s.failed("write", err, len(insights))
	}
	now := time.Now()
	if q.unread == 0 {
		q.since = now
	}
	q.appended = now
	seg.size += size
	seg.left += len(insights)
	q.bytes += size
	q.unread += len(insights)
	s.bytes += size
	s.stats.Recorded += uint64(len(insights))
	if s.dir != "" {
		s.dirty[seg] = true
	}
	s.wake()
	return nil
}

// failed counts and explains an error of the disk.
func (s *Spool) failed(what string, err error, refused int) error {
	s.stats.DiskErrors++
	s.stats.Refused += uint64(refused)
	if noSpace(err) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return fmt.Errorf("spool: %s: %w", what, err)
}

// encode returns insights in frames that a batch can take.
func encode(insights []json.RawMessage) ([]byte, error) {
	total := 0
	for _, in := range insights {
		if len(in) > MaxInsight {
			return nil, fmt.Errorf("%w: %d bytes, want at most %d", ErrTooLarge, len(in), MaxInsight)
		}
		total += len(in) + 4
	}
	frames := make([]byte, 0, total+(len(insights)/MaxInsights+1)*headerSize)
	for len(insights) > 0 {
		n, size := 0, 0
		for n < min(len(insights), MaxInsights) && (n == 0 || size+len(insights[n])+10 <= frameBytes) {
			size += len(insights[n]) + 10
			n++
		}
		frames = appendFrame(frames, insights[:n])
		insights = insights[n:]
	}
	return frames, nil
}

// room reports whether q, nil if it is new, may have n bytes more.
func (s *Spool) room(q *queue, n int64) bool {
	fits := func() bool {
		limit := s.opts.MaxBytes
		if q != nil && len(s.ring) > 1 && q.bytes+n > limit/2 {
			limit -= limit / 8
		}
		return s.bytes+n <= limit
	}
	if fits() {
		return true
	}
	for _, q := range s.ring {
		if q.idle() {
			s.drop(q, true)
		}
	}
	return fits()
}

func (s *Spool) drop(q *queue, all bool) {
	freed, err := q.drop(all)
	s.bytes -= freed
	if err != nil {
		s.stats.DiskErrors++
		s.opts.Logger.Error("a settled part of the spool cannot be removed", "error", err)
	}
}

func (s *Spool) wake() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// Ready has a value when there may be something to take that was not there before.
func (s *Spool) Ready() <-chan struct{} { return s.ready }

// Durable reports whether what is pending outlives Close.
func (s *Spool) Durable() bool { return s.dir != "" }

// Waiting is what an environment has to hand out.
type Waiting struct {
	Env      string
	Insights int       // never handed out
	Since    time.Time // when the oldest of those came, roughly
	Returned int       // batches to hand out again
}

// Take hands out the next batch of an environment that pick accepts, in turn, and
// nil if there is none. Within an environment the order is that of Append; batches
// that were returned take turns with the others, so that one which nobody can
// deliver blocks no other. Any number may be out. pick must not call the Spool.
func (s *Spool) Take(pick func(Waiting) bool) *Batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range s.ring {
		q := s.ring[s.next%len(s.ring)]
		s.next = (s.next + 1) % len(s.ring)
		if q.unread == 0 && len(q.returned) == 0 || s.closed {
			continue
		}
		if !pick(Waiting{q.env, q.unread, q.since, len(q.returned)}) {
			continue
		}
		if b := q.take(&s.stats.Damaged); b != nil {
			return b
		}
		s.settle(q)
	}
	return nil
}

// Ack settles a batch: it is never handed out again, unless a power cut brings it
// back. The disk gives room back up to the oldest batch that is not settled.
func (s *Spool) Ack(b *Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.acked || s.closed {
		return
	}
	b.acked = true
	s.stats.Settled += uint64(b.taken)
	b.Insights = nil
	if q := b.q; q.acked != nil && q.flight[0] != b {
		s.forgot(q.acked.add(b.span))
		return
	}
	s.settle(b.q)
}

func (s *Spool) settle(q *queue) {
	moved, err := q.settle()
	s.forgot(err)
	if moved {
		s.drop(q, q.idle() && q.writing != nil && q.writing.size >= min(dropFrom, s.opts.SegmentBytes))
	}
}

// forgot counts and logs that what is settled could not be written down.
func (s *Spool) forgot(err error) {
	if err != nil {
		s.stats.DiskErrors++
		s.opts.Logger.Error("the spool cannot write down what is settled, that may be delivered again after a restart", "error", err)
	}
}

// Return gives a batch back, to be handed out again after those returned before.
// Until it is acknowledged, the disk keeps it and what follows it.
func (s *Spool) Return(b *Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b.Tries++
	b.q.returned = append(b.q.returned, b)
	s.wake()
}

// Stats returns the counters.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Pending = st.Recorded - st.Settled - st.Damaged
	st.Bytes, st.MaxBytes, st.Environments = s.bytes, s.opts.MaxBytes, len(s.ring)
	return st
}

// syncing syncs what was written, and removes what nobody needs.
func (s *Spool) syncing() {
	defer close(s.synced)
	tick := time.NewTicker(s.opts.SyncEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case now := <-tick.C:
			if err := s.sync(); err != nil {
				s.opts.Logger.Error("the spool cannot be synced", "error", err)
			}
			s.retire(now)
		}
	}
}

// sync writes to the disk what the system holds.
func (s *Spool) sync() error {
	s.mu.Lock()
	dirty := make([]*segment, 0, len(s.dirty))
	for seg := range s.dirty {
		dirty = append(dirty, seg)
	}
	clear(s.dirty)
	s.mu.Unlock()
	var errs []error
	for _, seg := range dirty {
		// One that was removed meanwhile is closed or not there.
		if err := seg.blob.sync(); err != nil && !errors.Is(err, os.ErrClosed) && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		s.mu.Lock()
		s.stats.DiskErrors += uint64(len(errs))
		s.mu.Unlock()
	}
	return errors.Join(errs...)
}

// retire lets go of queues that have been idle for a while.
func (s *Spool) retire(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ring = slices.DeleteFunc(s.ring, func(q *queue) bool {
		if !q.idle() || now.Sub(q.appended) < idleAfter {
			return false
		}
		s.bytes -= q.bytes
		if err := q.erase(); err != nil {
			s.stats.DiskErrors++
			s.opts.Logger.Error("an empty queue cannot be removed", "error", err)
		}
		delete(s.queues, q.env)
		return true
	})
}

// Close syncs and gives the directory back. What is pending stays there; in memory
// it is lost. Later calls return ErrClosed, nil, or do nothing.
func (s *Spool) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	if s.synced == nil {
		return nil
	}
	close(s.stop)
	<-s.synced
	errs := []error{s.sync()}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range s.ring {
		errs = append(errs, q.close())
	}
	errs = append(errs, s.lock.Close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("spool: close: %w", err)
	}
	return nil
}
