package syncer

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/flagstead/flagstead/store"
)

// A recorder adds what the syncer commits to the store's history, after the commit
// and beside it. What it misses, because the process died in between or others
// committed, the next record makes good: nothing is recorded that does not follow
// what is there.
type recorder struct {
	syncer  *Syncer
	store   store.HistoryWriter
	history store.History
	queue   chan store.Record
	missed  atomic.Bool // there is a commit that is not in the queue

	last store.Revision
	said string // the error that was logged last
}

// recordQueue is how many commits may wait to be recorded one by one.
const recordQueue = 64

// recordLimit bounds the recording of one commit. A whole state is compressed and
// goes to the store in it.
const recordLimit = time.Minute

// recordPatience is how long another syncer's record is waited for that comes
// before this one's.
const recordPatience = 200 * time.Millisecond

// newRecorder returns nil if no history is kept.
func newRecorder(s *Syncer) *recorder {
	if s.cfg.History <= 0 {
		return nil
	}
	w, writes := s.cfg.Store.(store.HistoryWriter)
	h, reads := s.cfg.Store.(store.History)
	if !writes || !reads {
		s.cfg.Logger.Info("the store keeps no revisions", "env", s.env)
		return nil
	}
	return &recorder{syncer: s, store: w, history: h, queue: make(chan store.Record, recordQueue)}
}

// note queues what became of a commit on before.
func (m *manager) note(before store.Rev, r result) {
	if m.recorder == nil {
		return
	}
	rec := store.Record{Rev: r.rev, Prev: before, Whole: r.change.Full, Items: r.change.Items, Writer: m.syncer.cfg.Name, Restores: r.pin}
	rec.Flags, rec.Segments = m.counts()
	select {
	case m.recorder.queue <- rec:
	default:
		m.recorder.missed.Store(true)
	}
}

// counts returns how many flags and segments are held.
func (m *manager) counts() (flags, segments int) {
	for id := range m.held {
		if id.Kind == store.Flag {
			flags++
		} else {
			segments++
		}
	}
	return flags, segments
}

// run records until ctx ends. What was never recorded, by whomever, is found when
// it begins.
func (r *recorder) run(ctx context.Context) {
	r.missed.Store(true)
	retry := time.NewTimer(0)
	defer retry.Stop()
	failures := 0
	for {
		var rec *store.Record
		select {
		case <-ctx.Done():
			return
		case next := <-r.queue:
			rec = &next
		case <-retry.C:
		}
		err := r.record(ctx, rec)
		switch {
		case ctx.Err() != nil || errors.Is(err, store.ErrClosed):
			return
		case errors.Is(err, errors.ErrUnsupported):
			r.syncer.cfg.Logger.Info("the store keeps no revisions", "env", r.syncer.env, "error", err)
			return
		case err != nil:
			failures++
			r.missed.Store(true)
			r.complain(err)
			retry.Reset(store.Backoff(failures, 100*time.Millisecond, 10*time.Second))
		default:
			failures, r.said = 0, ""
			if r.missed.Load() {
				retry.Reset(0)
			}
		}
	}
}

// finish records what was committed last, after run has ended and nothing is
// committed any more. It must not hold up who waits for that.
func (r *recorder) finish() {
	ctx, cancel := context.WithTimeout(context.Background(), finishLimit)
	defer cancel()
	if err := r.catchUp(ctx, 0); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, store.ErrClosed) {
		r.complain(err)
	}
}

// finishLimit bounds the recording of the last commit.
const finishLimit = 2 * time.Second

func (r *recorder) complain(err error) {
	if why := err.Error(); why != r.said {
		r.said = why
		r.syncer.cfg.Logger.Warn("a revision could not be recorded", "env", r.syncer.env, "error", err)
	}
}

// record adds rec, if it follows what is there, or else whatever is missing.
func (r *recorder) record(ctx context.Context, rec *store.Record) error {
	ctx, cancel := context.WithTimeout(ctx, recordLimit)
	defer cancel()
	if rec != nil && !r.missed.Load() {
		err := r.append(ctx, *rec)
		if errors.Is(err, store.ErrNotNext) && pause(ctx, recordPatience) {
			// Another syncer's may have been under way.
			if err = r.look(ctx); err == nil {
				err = r.append(ctx, *rec)
			}
		}
		if err == nil || !errors.Is(err, store.ErrNotNext) && !errors.Is(err, store.ErrWholeWanted) {
			return err
		}
	}
	r.missed.Store(false)
	var restores uint64
	if rec != nil {
		restores = rec.Restores
	}
	return r.catchUp(ctx, restores)
}

func (r *recorder) append(ctx context.Context, rec store.Record) error {
	rec.After = r.last.N
	keep := store.Keep{Revisions: r.syncer.cfg.History}
	last, err := r.store.AppendRevision(ctx, rec, keep)
	if err != nil {
		return err
	}
	// What is kept afterwards is for metrics; the next record looks at what counts.
	if r.look(ctx) != nil {
		r.last = last
	}
	return nil
}

// look finds out what the last revision is.
func (r *recorder) look(ctx context.Context) error {
	all, err := r.history.Revisions(ctx)
	if err != nil {
		return err
	}
	kept := retained{count: len(all)}
	for _, rev := range all {
		kept.bytes += rev.Size
	}
	r.last = store.Revision{}
	if len(all) > 0 {
		r.last = all[len(all)-1]
		kept.last = r.last.N
	}
	r.syncer.retained.Store(&kept)
	return nil
}

// retained is what a history has.
type retained struct {
	last  uint64 // number of the last revision
	count int
	bytes int64
}

// catchUp makes the store's state the last revision, by what came after that one or,
// if the store cannot tell, as a whole.
func (r *recorder) catchUp(ctx context.Context, restores uint64) error {
	if err := r.look(ctx); err != nil {
		return err
	}
	snap, err := r.syncer.cfg.Store.Load(ctx, r.last.Rev)
	if err != nil || snap.Rev == "" || snap.Rev == r.last.Rev {
		return err
	}
	rec := store.Record{Rev: snap.Rev, Prev: r.last.Rev, Whole: !snap.Delta, Items: snap.Items, Writer: r.syncer.cfg.Name, Restores: restores}
	if snap.Delta {
		rec.Flags, rec.Segments = r.last.Flags, r.last.Segments
		err = r.append(ctx, rec)
		if err == nil || !errors.Is(err, store.ErrWholeWanted) && !errors.Is(err, store.ErrNotNext) {
			return err
		}
		if snap, err = r.syncer.cfg.Store.Load(ctx, ""); err != nil || snap.Rev == "" {
			return err
		}
		rec.Rev, rec.Whole, rec.Items = snap.Rev, true, snap.Items
	}
	// Some stores name all states anew when they are opened.
	if r.last.N > 0 && r.same(ctx, snap) {
		rec.Whole, rec.Items = false, nil
	}
	return r.append(ctx, rec)
}

// same reports whether the last revision has the content of snap.
func (r *recorder) same(ctx context.Context, snap store.Snapshot) bool {
	if r.last.Flags+r.last.Segments != len(snap.Items) {
		return false
	}
	last, err := r.history.At(ctx, r.last.N)
	if err != nil || len(last.Items) != len(snap.Items) {
		return false
	}
	there := make(map[store.ID]store.Item, len(last.Items))
	for _, it := range last.Items {
		there[it.ID()] = it
	}
	for _, it := range snap.Items {
		old, ok := there[it.ID()]
		if !ok || old.Version != it.Version || old.Archived != it.Archived || string(old.Data) != string(it.Data) {
			return false
		}
	}
	return true
}
