package fswatch

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// start watches path until the test ends and returns its wake-ups, after the
// first one.
func start(t *testing.T, path string, open func() (*fsnotify.Watcher, error)) <-chan time.Time {
	t.Helper()
	return startAfter(t, QuietTime, path, open)
}

// startAfter is start for a Watch that looks after some quiet.
func startAfter(t *testing.T, quiet time.Duration, path string, open func() (*fsnotify.Watcher, error)) <-chan time.Time {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	woken, done := make(chan time.Time, 1000), make(chan error, 1)
	go func() { done <- watch(ctx, path, quiet, func() { woken <- time.Now() }, nil, open) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch returned %v", err)
		}
	})
	next(t, woken)
	return woken
}

func next(t *testing.T, woken <-chan time.Time) time.Time {
	t.Helper()
	select {
	case at := <-woken:
		return at
	case <-time.After(patience):
		t.Fatal("no wake-up")
		return time.Time{}
	}
}

// quiet waits until no wake-up has come for d.
func quiet(woken <-chan time.Time, d time.Duration) {
	for {
		select {
		case <-woken:
		case <-time.After(d):
			return
		}
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWatchWakesForEveryKindOfChange(t *testing.T) {
	tests := []struct {
		name   string
		before func(t *testing.T, dir string)
		change func(t *testing.T, dir string)
	}{
		{"rename over", func(t *testing.T, dir string) { put(t, dir+"/f", "1") },
			func(t *testing.T, dir string) { must(t, WriteFile(dir+"/f", []byte("2"))) }},
		{"write in place", func(t *testing.T, dir string) { put(t, dir+"/f", "1") },
			func(t *testing.T, dir string) { put(t, dir+"/f", "2") }},
		{"create", func(*testing.T, string) {},
			func(t *testing.T, dir string) { put(t, dir+"/f", "1") }},
		{"remove", func(t *testing.T, dir string) { put(t, dir+"/f", "1") },
			func(t *testing.T, dir string) { must(t, os.Remove(dir+"/f")) }},
		{"symlink swap", func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir+"/else", 0o700))
			put(t, dir+"/else/1", "1")
			put(t, dir+"/else/2", "2")
			must(t, os.Symlink("else/1", dir+"/f"))
		}, func(t *testing.T, dir string) {
			must(t, os.Symlink("else/2", dir+"/new"))
			must(t, os.Rename(dir+"/new", dir+"/f"))
		}},
		{"symlink target", func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir+"/else", 0o700))
			put(t, dir+"/else/1", "1")
			must(t, os.Symlink("else/../else/1", dir+"/f"))
		}, func(t *testing.T, dir string) { must(t, WriteFile(dir+"/else/1", []byte("2"))) }},
		{"ConfigMap", func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir+"/..1", 0o700))
			put(t, dir+"/..1/f", "1")
			must(t, os.Symlink("..1", dir+"/..data"))
			must(t, os.Symlink("..data/f", dir+"/f"))
		}, func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir+"/..2", 0o700))
			put(t, dir+"/..2/f", "2")
			must(t, os.Symlink("..2", dir+"/..tmp"))
			must(t, os.Rename(dir+"/..tmp", dir+"/..data"))
			must(t, os.RemoveAll(dir+"/..1"))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			tt.before(t, dir)
			woken := start(t, dir+"/f", fsnotify.NewWatcher)
			quiet(woken, 2*SettleTime)
			began := time.Now()
			tt.change(t, dir)
			t.Logf("woken after %v", next(t, woken).Sub(began))
		})
	}
}

func TestWatchFindsMissingDirectories(t *testing.T) {
	dir := t.TempDir()
	woken := start(t, dir+"/a/b/f", fsnotify.NewWatcher)
	must(t, os.MkdirAll(dir+"/a/b", 0o700))
	put(t, dir+"/a/b/f", "1")
	next(t, woken)
	quiet(woken, 2*SettleTime)

	// The directory itself is replaced under its name.
	must(t, os.Mkdir(dir+"/a/c", 0o700))
	put(t, dir+"/a/c/f", "22")
	must(t, os.Rename(dir+"/a/b", dir+"/a/old"))
	must(t, os.Rename(dir+"/a/c", dir+"/a/b"))
	next(t, woken)
	quiet(woken, 2*SettleTime)
	must(t, WriteFile(dir+"/a/b/f", []byte("333")))
	next(t, woken)
}

func TestWatchWakesAgainOnceTheFileSettled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	put(t, path, "1")
	woken := start(t, path, fsnotify.NewWatcher)
	quiet(woken, 2*SettleTime)
	put(t, path, "22")
	for {
		next(t, woken)
		fp, err := Stat(path)
		must(t, err)
		if fp.Settled() {
			return
		}
	}
}

func TestWatchPollsWithoutEvents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	put(t, path, "1")
	woken := start(t, path, func() (*fsnotify.Watcher, error) { return nil, errors.New("too many open files") })
	quiet(woken, 2*SettleTime)
	must(t, WriteFile(path, []byte("2")))
	next(t, woken)
}

func TestWatchIgnoresNeighbours(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/f", "1")
	woken := start(t, dir+"/f", fsnotify.NewWatcher)
	quiet(woken, 2*SettleTime)
	put(t, dir+"/g", "1")
	select {
	case <-woken:
		t.Error("woken for another file")
	case <-time.After(2 * SettleTime):
	}
}

func TestWatchWakesDuringAStorm(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/f", "1")
	woken := start(t, dir+"/f", fsnotify.NewWatcher)
	quiet(woken, 2*SettleTime)
	must(t, WriteFile(dir+"/f", []byte("2")))
	began := time.Now()
	for i := 0; ; i++ {
		put(t, dir+"/noise", strings.Repeat("x", i%100))
		select {
		case at := <-woken:
			t.Logf("woken after %v", at.Sub(began))
			return
		default:
		}
		if time.Since(began) > patience {
			t.Fatal("a storm of events keeps Watch from waking")
		}
	}
}

func TestWatchEndedContext(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	err := Watch(ctx, filepath.Join(t.TempDir(), "f"), 0, func() { t.Error("woken") }, nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Watch: %v", err)
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	mode := func(want fs.FileMode) {
		t.Helper()
		info, err := os.Stat(path)
		must(t, err)
		if info.Mode() != want {
			t.Errorf("mode %v, want %v", info.Mode(), want)
		}
	}
	must(t, WriteFile(path, []byte("1")))
	mode(0o600)
	must(t, os.Chmod(path, 0o644))
	must(t, WriteFile(path, []byte("2")))
	mode(0o644)

	// A symlink stays one, also if what it points to is still missing.
	must(t, os.Symlink("g", filepath.Join(dir, "link")))
	must(t, WriteFile(filepath.Join(dir, "link"), []byte("3")))
	data, err := os.ReadFile(filepath.Join(dir, "g"))
	if err != nil || string(data) != "3" {
		t.Errorf("behind the symlink: %q, %v", data, err)
	}
	if info, err := os.Lstat(filepath.Join(dir, "link")); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the symlink was replaced: %v, %v", info, err)
	}
	must(t, os.Symlink("loop", filepath.Join(dir, "loop")))
	if err := WriteFile(filepath.Join(dir, "loop"), nil); err == nil {
		t.Error("wrote to a loop of symlinks")
	}
	if err := WriteFile(dir, nil); err == nil {
		t.Error("wrote to a directory")
	}
	if err := WriteFile(filepath.Join(dir, "none", "f"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	text := bytes.Repeat([]byte("x"), 100_000)
	must(t, WriteFile(path, text))
	data, fp, err := ReadFile(path, 100_000)
	must(t, err)
	if !bytes.Equal(data, text) {
		t.Errorf("read %d bytes", len(data))
	}
	if now, err := Stat(path); err != nil || now != fp {
		t.Errorf("Stat: %v, %v; ReadFile: %v", now, err, fp)
	}
	_, _, err = ReadFile(path, 99_999)
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "99999") {
		t.Errorf("too large: %v", err)
	}
	if _, _, err := ReadFile(dir, 0); err == nil {
		t.Error("read a directory")
	}
	if _, _, err := ReadFile(path+"x", 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func TestSettled(t *testing.T) {
	for age, want := range map[time.Duration]bool{0: false, 100 * time.Millisecond: false, time.Second: true, -time.Hour: true} {
		if fp := (Fingerprint{Modified: time.Now().Add(-age).UnixNano()}); fp.Settled() != want {
			t.Errorf("Settled is %v at age %v", !want, age)
		}
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := TryLock(path)
	must(t, err)
	if _, err := TryLock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("locked twice: %v", err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	if _, err := Lock(ctx, path); !errors.Is(err, ErrLocked) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Lock: %v", err)
	}
	go unlock()
	unlock, err = Lock(t.Context(), path)
	must(t, err)
	unlock()
	if _, err := Lock(ctx, filepath.Join(path, "x")); err == nil {
		t.Error("locked below a file")
	}
}

// On systems without inodes no directory is the same as before, and yet the
// watches must not be begun anew at each look: what happens meanwhile is lost.
func TestWatchesStayWithoutInodes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	w := watcher{path: path, report: func(error) {}, open: fsnotify.NewWatcher, watched: map[string]Fingerprint{}}
	defer w.closeEvents()
	if !w.follow() || w.follow() {
		t.Fatal("the watches do not begin once")
	}
	for dir, fp := range w.watched {
		fp.Device, fp.Inode = 0, 0
		w.watched[dir] = fp
	}
	if w.follow() {
		t.Error("the watches began anew")
	}
}

// TestWatchAtOnce: where there is no need to wait for quiet, nothing waits for it.
func TestWatchAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	woken := startAfter(t, 0, path, fsnotify.NewWatcher)
	quickest := time.Hour
	for i := range 20 {
		began := time.Now()
		if err := os.WriteFile(path, make([]byte, i), 0o600); err != nil {
			t.Fatal(err)
		}
		quickest = min(quickest, next(t, woken).Sub(began))
		quiet(woken, 2*time.Millisecond)
	}
	if quickest >= QuietTime {
		t.Errorf("the quickest wake-up took %v", quickest)
	}
}

// reports returns what Watch on path reports until the test ends.
func reports(t *testing.T, path string, open func() (*fsnotify.Watcher, error)) <-chan error {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	told, woken, done := make(chan error, 100), make(chan struct{}, 100), make(chan error, 1)
	go func() {
		done <- watch(ctx, path, QuietTime, func() { woken <- struct{}{} }, func(err error) { told <- err }, open)
	}()
	t.Cleanup(func() { stop(); <-done })
	receive(t, woken, "the first wake-up")
	return told
}

func TestWatchReportsPollingAndItsEnd(t *testing.T) {
	var failures atomic.Int64
	failures.Store(2)
	told := reports(t, filepath.Join(t.TempDir(), "f"), func() (*fsnotify.Watcher, error) {
		if failures.Add(-1) >= 0 {
			return nil, syscall.EMFILE
		}
		return fsnotify.NewWatcher()
	})
	if err := receive(t, told, "a report of polling"); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("reason %v, want EMFILE", err)
	}
	if err := receive(t, told, "the end of polling"); err != nil {
		t.Errorf("still %v", err)
	}
}

func TestWatchReportsChangesWithoutEvents(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/d", 0o700))
	must(t, os.Mkdir(dir+"/else", 0o700))
	put(t, dir+"/d/f", "1")
	must(t, os.Link(dir+"/d/f", dir+"/else/f"))
	told := reports(t, dir+"/d/f", fsnotify.NewWatcher)
	must(t, WriteFile(dir+"/d/g", []byte("an event"))) // nothing to report
	// The look that the event makes may find a change that came just after it, so
	// one is not enough.
	again := time.NewTicker(3 * pollInterval)
	defer again.Stop()
	for text := "22"; ; text += "2" {
		put(t, dir+"/else/f", text)
		select {
		case err := <-told:
			if !errors.Is(err, ErrSilent) {
				t.Errorf("reason %v, want ErrSilent", err)
			}
		case <-again.C:
			if len(text) > 10 {
				t.Fatal("silence is not reported")
			}
			continue
		}
		break
	}
	select {
	case err := <-told:
		t.Errorf("another report: %v", err)
	case <-time.After(2 * pollInterval):
	}
}
