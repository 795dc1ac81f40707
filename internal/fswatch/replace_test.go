package fswatch

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
)

func putText(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func receive[T any](t testing.TB, ch <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(10 * time.Second):
		t.Fatalf("did not get %s", what)
	}
	return v
}

func wantText(t testing.TB, path, want string) {
	t.Helper()
	if got, _, err := ReadFile(path, 0); err != nil || string(got) != want {
		t.Errorf("ReadFile(%s) = %q, %v, want %q", path, got, err, want)
	}
}

func TestWriteFileReplacesWhatLinksLeadTo(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.Mkdir(at("d"), 0o700), os.Symlink("d", at("dd")), os.Symlink("dd/link", at("first")),
		os.Symlink("../target", at("d/link")), os.Symlink("loop", at("loop"))); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"new", "replaced"} {
		if err := WriteFile(at("first"), []byte(text)); err != nil {
			t.Fatal(err)
		}
		wantText(t, at("target"), text)
		wantText(t, at("first"), text)
	}
	if err := WriteFile(at("loop"), nil); err == nil {
		t.Error("WriteFile through a loop of links succeeds")
	}
}

// A reader sees every file whole, while a writer replaces it as fast as it can.
func TestReadFileNeverMixesStates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	content := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i%26)}, 10_000+i) }
	if err := WriteFile(path, content(0)); err != nil {
		t.Fatal(err)
	}
	var writing sync.WaitGroup
	done := make(chan struct{})
	writing.Go(func() {
		defer close(done)
		for i := range 200 {
			if err := WriteFile(path, content(i)); err != nil {
				t.Errorf("WriteFile: %v", err)
			}
		}
	})
	defer writing.Wait()
	for reads := 0; ; reads++ {
		data, fp, err := ReadFile(path, 0)
		switch {
		case err != nil:
			t.Fatalf("ReadFile of a file that is only ever replaced: %v", err)
		case int64(len(data)) != fp.Size || !bytes.Equal(data, content(len(data)-10_000)):
			t.Fatalf("ReadFile returns %d mixed bytes, size %d", len(data), fp.Size)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

func TestFingerprintTellsFilesAndStatesApart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	stat := func() Fingerprint {
		t.Helper()
		fp, err := Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return fp
	}
	putText(t, path, "one")
	first := stat()
	if settled, age := first.Settled(), first.Age(); settled && age < SettleTime {
		t.Errorf("Settled = true at age %v", age)
	}
	old := time.Unix(1000, 0)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	second := stat()
	if second == first || !second.SameFile(first) || !second.Settled() || !second.ModTime().Equal(old) {
		t.Errorf("with an old time %+v, before %+v: want another state of the same file, settled", second, first)
	}
	if err := WriteFile(path, []byte("one")); err != nil {
		t.Fatal(err)
	}
	if third := stat(); third.SameFile(second) {
		t.Errorf("replaced file %+v is the same as %+v", third, second)
	}
	if (Fingerprint{}).SameFile(Fingerprint{}) {
		t.Error("no file is the same file as no file")
	}
}

// A source of events that breaks down is replaced.
func TestWatchSurvivesTheEndOfItsEvents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	opened := make(chan *fsnotify.Watcher, 10)
	woken, ended := make(chan struct{}, 100), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		ended <- watch(ctx, path, QuietTime, func() { woken <- struct{}{} }, nil, func() (*fsnotify.Watcher, error) {
			w, err := fsnotify.NewWatcher()
			if err == nil {
				opened <- w
			}
			return w, err
		})
	}()
	defer func() { cancel(); <-ended }()
	receive(t, woken, "the first wake-up")
	receive(t, opened, "a source of events").Close()
	receive(t, opened, "another source of events")
	if err := WriteFile(path, []byte("x")); err != nil {
		t.Fatal(err)
	}
	receive(t, woken, "a wake-up")
}

func TestWatchDirs(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(root, name) }
	for _, dir := range []string{"plain", "map/..1", "far/away"} {
		if err := os.MkdirAll(at(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"map/..data": "..1", "map/f": "..data/f",
		"near": "far", "up": "far/away/../f", "absolute": at("plain/f"), "loop": "loop", "dangling": "plain/none/f",
	} {
		if err := os.Symlink(target, at(link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"plain/f", "map/..1/f", "far/away/f", "far/f"} {
		putText(t, at(f), "")
	}
	for _, test := range []struct {
		path string
		want []string
	}{
		{"plain/f", []string{"plain", "."}},
		{"plain/missing", []string{"plain", "."}},
		{"plain/missing/f", []string{"plain", "."}},
		{"map/f", []string{"map", "map/..1"}},
		{"near/away/f", []string{".", "far/away", "far"}},
		{"up", []string{".", "far"}},
		{"absolute", []string{".", "plain"}},
		{"dangling", []string{".", "plain"}},
	} {
		got := watchDirs(at(test.path))
		for _, dir := range test.want {
			if !got[at(dir)] {
				t.Errorf("watchDirs(%s) = %v, without %s", test.path, slices.Sorted(maps.Keys(got)), dir)
			}
		}
		for dir := range got {
			// Only their parents are there besides, which does no harm.
			if !slices.ContainsFunc(test.want, func(w string) bool { return at(w) == dir || filepath.Dir(at(w)) == dir }) {
				t.Errorf("watchDirs(%s) has %s", test.path, dir)
			}
		}
	}
	watchDirs(at("loop")) // ends
}
