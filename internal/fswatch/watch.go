package fswatch

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// QuietTime is how long no event must come before Watch looks where a file may be
	// found half-written, so that the several events of one write make one wake-up.
	QuietTime = 10 * time.Millisecond

	// stormTime is how long events may postpone the look altogether.
	stormTime = 100 * time.Millisecond

	// settleMargin is how much later than its readers take a file for whole it
	// is looked at again.
	settleMargin = 10 * time.Millisecond

	pollInterval = time.Second
)

// Watch calls wake once when watching has begun and then whenever the file at
// path may have changed: written, replaced, removed, created, or led to by other
// symlinks. It blocks until ctx ends and returns ctx's error. Neither the file
// nor its directory need exist. A file that was written a moment ago gets a
// second wake-up once it has settled, for readers that found it half-written.
//
// Watch looks once no event has come for quiet; with 0 it looks after each, for readers
// that can tell whether a file is whole.
//
// Events of the system make it quick; where there are none (resources used up,
// network file systems) it finds changes by stat, every second. If report is not
// nil it is told so: with the reason when polling has to do, and with nil when
// events do again. A reason that wraps [ErrSilent] stands until Watch returns.
//
// wake and report must not block; they are called from the goroutine of Watch,
// never after Watch returned.
func Watch(ctx context.Context, path string, quiet time.Duration, wake func(), report func(polling error)) error {
	return watch(ctx, path, quiet, wake, report, fsnotify.NewWatcher)
}

// ErrSilent says that the file changed and no event told of it: the file is on a
// network file system, say, or was written through a hard link or a memory
// mapping.
var ErrSilent = errors.New("a change came without an event")

func watch(ctx context.Context, path string, quiet time.Duration, wake func(), report func(error), open func() (*fsnotify.Watcher, error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if report == nil {
		report = func(error) {}
	}
	w := watcher{path: path, quiet: quiet, wake: wake, report: report, open: open, watched: map[string]Fingerprint{}}
	w.debounce, w.settle = stoppedTimer(), stoppedTimer()
	defer w.debounce.Stop()
	defer w.settle.Stop()
	defer w.closeEvents()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()

	w.look(true)
	for ctx.Err() == nil {
		var events chan fsnotify.Event
		var errs chan error
		if w.events != nil {
			events, errs = w.events.Events, w.events.Errors
		}
		select {
		case <-ctx.Done():
		case _, ok := <-events:
			w.event(ok)
		case _, ok := <-errs:
			// An overflow, most likely: events are lost, so look.
			w.event(ok)
		case <-w.debounce.C:
			w.stormEnd = time.Time{}
			w.look(false)
		case <-w.settle.C:
			w.look(true)
		case <-poll.C:
			w.poll()
		}
	}
	return ctx.Err()
}

type watcher struct {
	path   string
	quiet  time.Duration
	wake   func()
	report func(error)
	open   func() (*fsnotify.Watcher, error)

	events  *fsnotify.Watcher      // nil while there is none to be had
	watched map[string]Fingerprint // directories, as they were when their watch began

	reason  error // why directories are not watched, as far as last found
	silent  error // ErrSilent once changes came without events
	suspect bool  // the last poll found a change, and no event told of it so far
	heard   bool  // an event came since the last poll
	polling bool  // what was reported last

	last             Fingerprint // of the last wake-up; zero for no file
	debounce, settle *time.Timer
	stormEnd         time.Time // zero unless the debounce timer runs
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// event looks, or postpones the look a little, for more events to come.
func (w *watcher) event(ok bool) {
	if !ok {
		w.closeEvents()
	}
	w.heard = true
	if w.quiet == 0 {
		w.look(false)
		return
	}
	now := time.Now()
	if w.stormEnd.IsZero() {
		w.stormEnd = now.Add(stormTime)
	}
	w.debounce.Reset(min(w.quiet, w.stormEnd.Sub(now)))
}

// poll looks without having been told to.
func (w *watcher) poll() {
	// The event may be on its way still, so it has until the next poll to come.
	if w.suspect && !w.heard {
		w.silent = ErrSilent
	}
	before, told := w.last, !w.stormEnd.IsZero() || w.events == nil
	w.look(false)
	w.suspect, w.heard = w.last != before && !told, false
	w.tell()
}

// tell reports how changes are found, if that is another way than before.
func (w *watcher) tell() {
	reason := w.reason
	if reason == nil {
		reason = w.silent
	}
	if polling := reason != nil; polling != w.polling {
		w.polling = polling
		w.report(reason)
	}
}

// look wakes if the file is not the one of the last wake-up, or always.
func (w *watcher) look(always bool) {
	// What changed before a watch began shows in no event, so the directories
	// are worked out again until no watch is new, and the file comes after them.
	for range 5 {
		if !w.follow() {
			break
		}
	}
	w.tell()
	fp, err := Stat(w.path)
	if err != nil {
		fp = Fingerprint{}
	}
	changed := fp != w.last
	if !changed && !always {
		return
	}
	w.last = fp
	if changed && err == nil && !fp.Settled() {
		w.settle.Reset(SettleTime - fp.Age() + settleMargin)
	} else {
		w.settle.Stop()
	}
	w.wake()
}

// follow makes the watched directories those that matter now and reports
// whether there is a new one among them.
func (w *watcher) follow() (added bool) {
	w.reason = nil
	if w.events == nil {
		events, err := w.open()
		if err != nil {
			w.reason = err
			return false
		}
		w.events = events
	}
	want := watchDirs(w.path)
	for dir, was := range w.watched {
		// A directory that was replaced under its name needs a new watch. Where
		// there are no inodes that does not show, and polling has to do.
		now, err := Stat(dir)
		if replaced := was.Inode != 0 && !now.SameFile(was); !want[dir] || err != nil || replaced {
			_ = w.events.Remove(dir) // gone by itself if the directory is
			delete(w.watched, dir)
		}
	}
	for dir := range want {
		if _, ok := w.watched[dir]; ok {
			continue
		}
		fp, err := Stat(dir)
		if err != nil {
			continue // the next poll tries again
		}
		if err := w.events.Add(dir); err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				w.reason = &fs.PathError{Op: "watch", Path: dir, Err: err}
			}
			continue
		}
		w.watched[dir] = fp
		added = true
	}
	return added
}

func (w *watcher) closeEvents() {
	if w.events == nil {
		return
	}
	_ = w.events.Close()
	w.events = nil
	clear(w.watched)
}
