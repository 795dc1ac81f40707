package bolt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/storetest"
)

func TestStore(t *testing.T) {
	pathOf := func(s store.DataStore) string { return s.(*Store).h.(*writer).path }
	// The writer has the state and puts a snapshot back, so only readers may fail.
	spoil := func(damage func(good []byte) []byte) func(testing.TB, store.DataStore) {
		return func(t testing.TB, s store.DataStore) {
			snap := pathOf(s) + ".snap"
			write(t, snap, damage(read(t, snap)))
		}
	}
	storetest.Run(t, storetest.Options{
		Open: func(t testing.TB) store.DataStore { return openAt(t, newPath(t), nil) },
		Reopen: func(t testing.TB, first store.DataStore) store.DataStore {
			return openAt(t, pathOf(first), readOnly())
		},
		Place: func(_ testing.TB, s store.DataStore) string { return pathOf(s) },
		Spoil: map[string]func(testing.TB, store.DataStore){
			"cut":     spoil(func(good []byte) []byte { return good[:len(good)/2] }),
			"emptied": spoil(func([]byte) []byte { return nil }),
			"foreign": spoil(func([]byte) []byte { return []byte("{}\n") }),
			"flipped": spoil(func(good []byte) []byte { good[len(good)-20] ^= 1; return good }),
		},
	})
}

// A restarted writer, and a reader, have what was there. A Rev from before the
// restart is answered with everything: the files may come from a backup.
func TestRestart(t *testing.T) {
	path := newPath(t)
	w := openAt(t, path, nil)
	apply(t, w, store.Change{Full: true, Items: []store.Item{item("a", 1), item("b", 1), {Kind: store.Segment, Key: "a", Version: 3}}})
	old := apply(t, w, store.Change{Items: []store.Item{item("b", 2), {Kind: store.Flag, Key: "gone", Version: 9, Archived: true}}})
	want := text(load(t, w, ""))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w, r := openAt(t, path, nil), openAt(t, path, readOnly())
	rev := load(t, w, "").Rev
	for _, s := range []*Store{w, r} {
		for _, since := range []store.Rev{"", old} {
			if got := load(t, s, since); got.Rev != rev || rev == old || got.Delta || text(got) != want {
				t.Errorf("Load(%q) after a restart: %+v, want all of %s\n%s", since, got, rev, want)
			}
		}
	}
	before, err := os.Stat(path + ".snap")
	if err != nil {
		t.Fatal(err)
	}
	if again := apply(t, w, store.Change{Items: []store.Item{item("b", 2)}}); again != rev {
		t.Errorf("a change without effect made %s of %s", again, rev)
	}
	if after, err := os.Stat(path + ".snap"); err != nil || !os.SameFile(before, after) {
		t.Errorf("a sound snapshot was published again (%v)", err)
	}
	next := apply(t, w, store.Change{Items: []store.Item{item("b", 3)}})
	if got := load(t, r, rev); got.Rev != next || !got.Delta || text(got) != text(store.Snapshot{Items: []store.Item{item("b", 3)}}) {
		t.Errorf("delta after a restart: %+v, want %s", got, next)
	}
	// An empty state is a state.
	if rev = apply(t, w, store.Change{Full: true}); rev == "" {
		t.Error("an empty full change has no Rev")
	}
	if got := load(t, openAt(t, path, readOnly()), ""); got.Rev != rev || len(got.Items) != 0 {
		t.Errorf("reader of an empty state: %+v, want %s", got, rev)
	}
}

func TestOneWriter(t *testing.T) {
	path := newPath(t)
	first := openAt(t, path, nil)
	for _, wait := range []time.Duration{-1, 50 * time.Millisecond} {
		_, err := Open(path, &Options{LockTimeout: wait})
		if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), path) {
			t.Errorf("second writer: %v", err)
		}
	}
	opened := make(chan error)
	go func() {
		second, err := Open(path, &Options{LockTimeout: patience})
		if err == nil {
			err = second.Close()
		}
		opened <- err
	}()
	if err := errors.Join(first.Close(), first.Close()); err != nil {
		t.Error(err)
	}
	if err := <-opened; err != nil {
		t.Errorf("a writer that waited: %v", err)
	}
}

func TestNothingThere(t *testing.T) {
	path := newPath(t)
	r := openAt(t, path, readOnly())
	if got := load(t, r, ""); got.Rev != "" || got.Delta || got.Items != nil {
		t.Errorf("no files: %+v", got)
	}
	if _, err := r.Apply(t.Context(), store.Change{}); !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("Apply on a reader: %v", err)
	}
	w := openAt(t, path, nil)
	if got := load(t, r, ""); got.Rev != "" || got.Items != nil {
		t.Errorf("nothing committed: %+v", got)
	}
	rev := apply(t, w, store.Change{Items: []store.Item{item("a", 1)}})
	if got := load(t, r, ""); got.Rev != rev || len(got.Items) != 1 {
		t.Errorf("after the first commit: %+v", got)
	}
	if _, err := Open(newPath(t)+"/none/flags.db", nil); err == nil {
		t.Error("opened a writer in a directory that does not exist")
	}
}

// Without a snapshot a reader makes do with a database that nobody writes.
func TestDatabaseOnly(t *testing.T) {
	path := newPath(t)
	w := openAt(t, path, nil)
	rev := apply(t, w, store.Change{Items: []store.Item{item("a", 1)}})
	w.Close()
	remove(t, path+".snap")
	r := openAt(t, path, readOnly())
	if got := load(t, r, ""); got.Rev != rev || text(got) != text(store.Snapshot{Items: []store.Item{item("a", 1)}}) {
		t.Errorf("from the database: %+v, want %s", got, rev)
	}
	w = openAt(t, path, nil) // publishes
	next := apply(t, w, store.Change{Items: []store.Item{item("a", 2)}})
	if got := load(t, r, rev); got.Rev != next || got.Delta || len(got.Items) != 1 {
		t.Errorf("after a writer came: %+v, want %s", got, next)
	}
	remove(t, path+".snap")
	if _, err := r.Load(t.Context(), ""); err == nil || !strings.Contains(err.Error(), path+".snap") {
		t.Errorf("the snapshot vanished: %v", err)
	}
	if _, err := openAt(t, path, readOnly()).Load(t.Context(), ""); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("no snapshot and a busy database: %v", err)
	}
}

func remove(t testing.TB, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// What is committed but not published is published by the next call.
func TestPublishFails(t *testing.T) {
	path := newPath(t)
	w, r := openAt(t, path, nil), openAt(t, path, readOnly())
	old := apply(t, w, store.Change{Items: []store.Item{item("a", 1)}})
	remove(t, path+".snap")
	if err := os.Mkdir(path+".snap", 0o700); err != nil {
		t.Fatal(err)
	}
	change := store.Change{Items: []store.Item{item("a", 2)}}
	for range 2 {
		if rev, err := w.Apply(t.Context(), change); err == nil || rev != "" || !strings.Contains(err.Error(), "not published") {
			t.Fatalf("Apply could publish on a directory: %q, %v", rev, err)
		}
	}
	committed := load(t, w, old)
	if committed.Rev == old || len(committed.Items) != 1 {
		t.Errorf("the writer does not have what it committed: %+v", committed)
	}
	remove(t, path+".snap")
	load(t, w, "") // publishes
	if got := load(t, r, old); got.Rev != committed.Rev || len(got.Items) != 1 {
		t.Errorf("reader after a Load of the writer: %+v, want %s", got, committed.Rev)
	}
	if rev := apply(t, w, change); rev != committed.Rev {
		t.Errorf("applied again: %s, want %s", rev, committed.Rev)
	}
}

func TestCommitFails(t *testing.T) {
	path := newPath(t)
	s := openAt(t, path, nil)
	w := s.h.(*writer)
	rev := apply(t, s, store.Change{Items: []store.Item{item("a", 1)}})
	w.db.db.MaxSize = 1
	big := item("b", 1)
	big.Data = make([]byte, 1<<20)
	if _, err := s.Apply(t.Context(), store.Change{Items: []store.Item{big}}); err == nil || !strings.Contains(err.Error(), path) {
		t.Fatalf("Apply on a full disk: %v", err)
	}
	if got := load(t, s, rev); got.Rev != rev || len(got.Items) != 0 {
		t.Errorf("after a failed commit: %+v", got)
	}
	w.db.db.MaxSize = 0
	next := apply(t, s, store.Change{Base: rev, Items: []store.Item{big}})
	if got := load(t, openAt(t, path, readOnly()), rev); got.Rev != next || len(got.Items) != 1 {
		t.Errorf("reader after a commit that worked: rev %s, %d items", got.Rev, len(got.Items))
	}

	// A commit that failed may still have reached the disk.
	m := w.state
	m.seq++
	late := record{item("c", 1), m.seq}
	if err := w.db.commit(m, len(w.items)+1, []record{late}, nil); err != nil {
		t.Fatal(err)
	}
	w.unsure = true
	if got := load(t, s, next); got.Rev != m.rev() || text(got) != text(store.Snapshot{Items: []store.Item{late.Item}}) {
		t.Errorf("after an outcome that was unknown: %+v", got)
	}

	// Nor does a panic of bbolt take the process along.
	if err := w.db.do(func() error { panic("page 7 already freed") }); err == nil {
		t.Error("no error")
	}
	if _, err := s.Apply(t.Context(), store.Change{Items: []store.Item{item("d", 1)}}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("Apply on a broken database: %v", err)
	}
	if got := load(t, s, ""); got.Rev != m.rev() {
		t.Errorf("Load with a broken database: %s", got.Rev)
	}
	s.Close()
	if got := load(t, openAt(t, path, nil), ""); commits(got.Rev) != commits(m.rev()) || len(got.Items) != 3 {
		t.Errorf("opened again: %s, want %s", got.Rev, m.rev())
	}
}

func TestLimits(t *testing.T) {
	path := newPath(t)
	w := openAt(t, path, &Options{MaxSnapshot: 300})
	rev := apply(t, w, store.Change{Items: []store.Item{item("a", 1)}})
	big := item("b", 1)
	big.Data = make([]byte, 300)
	bad := []store.Item{
		big,
		{Kind: store.Flag, Version: 1},
		{Kind: 3, Key: "x", Version: 1},
		{Kind: store.Flag, Key: strings.Repeat("k", maxKey+1), Version: 1},
	}
	for _, it := range bad {
		if _, err := w.Apply(t.Context(), store.Change{Items: []store.Item{item("c", 1), it}}); err == nil {
			t.Errorf("stored %v %.9q with %d bytes", it.Kind, it.Key, len(it.Data))
		}
	}
	if got := load(t, w, rev); got.Rev != rev || len(got.Items) != 0 {
		t.Errorf("after refused changes: %+v", got)
	}
	if _, err := openAt(t, path, &Options{ReadOnly: true, MaxSnapshot: 70}).Load(t.Context(), ""); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("reader beyond its limit: %v", err)
	}
	if _, err := Open("", nil); err == nil {
		t.Error("opened an empty path")
	}
}

// A store that was put back to an older state, with its snapshot or without,
// gives its next commits names that readers have not seen.
func TestRestoredBackup(t *testing.T) {
	for _, files := range [][]string{{""}, {"", ".snap"}} {
		t.Run(fmt.Sprint(len(files), " files"), func(t *testing.T) {
			path := newPath(t)
			w := openAt(t, path, nil)
			apply(t, w, store.Change{Full: true, Items: []store.Item{item("a", 1), item("b", 1)}})
			w.Close()
			var backup [][]byte
			for _, f := range files {
				backup = append(backup, read(t, path+f))
			}
			w = openAt(t, path, nil)
			r := openAt(t, path, readOnly())
			var lost []store.Rev
			for n := range int64(3) {
				lost = append(lost, apply(t, w, store.Change{Items: []store.Item{item("a", n+2)}}))
				load(t, r, "")
			}
			w.Close()
			for i, f := range files {
				write(t, path+f, backup[i])
			}
			w = openAt(t, path, nil)
			state := []store.Item{item("a", 1), item("b", 1)}
			for n := range int64(5) { // below the lost commits, among them and past them
				for _, old := range lost {
					if got := load(t, r, old); got.Rev == old || got.Delta || text(got) != text(store.Snapshot{Items: state}) {
						t.Fatalf("a reader at the lost %s: %+v", old, got)
					}
				}
				next := item(fmt.Sprint("new", n), 1)
				apply(t, w, store.Change{Items: []store.Item{next}})
				state = append(state, next)
			}
		})
	}
}

// A writer puts its snapshot back, whatever somebody did to it.
func TestSnapshotIsPutBack(t *testing.T) {
	path := newPath(t)
	snap := path + ".snap"
	w := openAt(t, path, nil)
	apply(t, w, store.Change{Items: []store.Item{item("a", 1)}})
	old := read(t, snap)
	full := store.Change{Full: true, Items: []store.Item{item("a", 2), item("b", 1)}}
	rev := apply(t, w, full)
	want := text(load(t, w, ""))
	for what, harm := range map[string]func(){
		"removed":  func() { remove(t, snap) },
		"older":    func() { write(t, snap, old) },
		"foreign":  func() { write(t, snap, []byte("flags")) },
		"replaced": func() { remove(t, snap); write(t, snap, nil) },
	} {
		for how, heal := range map[string]func(){
			"a load":      func() { load(t, w, rev) },
			"a full":      func() { apply(t, w, full) },
			"its closing": func() { w.Close() },
		} {
			harm()
			heal()
			if got := load(t, openAt(t, path, readOnly()), ""); got.Rev != rev || text(got) != want {
				t.Errorf("%s, after %s: %+v, want %s", what, how, got, rev)
			}
			if how == "its closing" {
				w = openAt(t, path, nil)
				rev = load(t, w, "").Rev
			}
		}
	}
}

// A handle does not go back when somebody puts an older snapshot in place.
func TestOlderSnapshot(t *testing.T) {
	path := newPath(t)
	w, r := openAt(t, path, nil), openAt(t, path, readOnly())
	apply(t, w, store.Change{Items: []store.Item{item("a", 1)}})
	old, err := os.ReadFile(path + ".snap")
	if err != nil {
		t.Fatal(err)
	}
	rev := apply(t, w, store.Change{Items: []store.Item{item("a", 2)}})
	load(t, r, "")
	if err := os.WriteFile(path+".snap", old, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := load(t, r, ""); got.Rev != rev || got.Items[0].Version != 2 {
			t.Errorf("went back: %+v, want %s", got, rev)
		}
	}
	// Nor to one of an earlier writer.
	w.Close()
	openAt(t, path, nil)
	rev = load(t, r, "").Rev
	write(t, path+".snap", old)
	if got := load(t, r, ""); got.Rev != rev || got.Items[0].Version != 2 {
		t.Errorf("went back to another writer's: %+v, want %s", got, rev)
	}
}

// Items of a delta do not keep the file they came in.
func TestDeltaIsCopied(t *testing.T) {
	var e encoder
	e.reset()
	e.add(record{item("a", 1), 1})
	e.add(record{item("b", 2), 2})
	b := e.finish(mark{epoch: 7, seq: 2}, time.Now())
	m, _, err := decode(b)
	if err != nil {
		t.Fatal(err)
	}
	got := m.since(mark{epoch: 7, seq: 1}.rev())
	clear(b)
	if want := text(store.Snapshot{Items: []store.Item{item("b", 2)}}); text(got) != want {
		t.Errorf("got %s, want %s", text(got), want)
	}
}

func TestClose(t *testing.T) {
	path := newPath(t)
	for _, o := range []*Options{nil, readOnly()} {
		s := openAt(t, path, o)
		woken, ended := make(chan struct{}, 1), make(chan error, 1)
		go func() {
			ended <- s.Watch(context.Background(), func() {
				select {
				case woken <- struct{}{}:
				default:
				}
			})
		}()
		<-woken
		if err := errors.Join(s.Close(), s.Close()); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, store.ErrClosed) {
			t.Errorf("Watch ended with %v", err)
		}
		_, loadErr := s.Load(t.Context(), "")
		_, applyErr := s.Apply(t.Context(), store.Change{})
		watchErr := s.Watch(t.Context(), func() { t.Error("woken after Close") })
		for _, err := range []error{loadErr, applyErr, watchErr} {
			if !errors.Is(err, store.ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
		}
	}
}

func ExampleOpen() {
	dir, err := os.MkdirTemp("", "flags")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()

	w, err := Open(dir+"/flags.db", nil) // in the process that syncs
	if err != nil {
		panic(err)
	}
	defer w.Close()
	flag := store.Item{Kind: store.Flag, Key: "dark-mode", Version: 1, Data: []byte(`{"isEnabled":true}`)}
	if _, err := w.Apply(ctx, store.Change{Full: true, Items: []store.Item{flag}}); err != nil {
		panic(err)
	}

	r, err := Open(dir+"/flags.db", &Options{ReadOnly: true}) // in the others
	if err != nil {
		panic(err)
	}
	defer r.Close()
	snap, err := r.Load(ctx, "")
	if err != nil {
		panic(err)
	}
	for _, it := range snap.Items {
		fmt.Printf("%v %s: %s\n", it.Kind, it.Key, it.Data)
	}
	// Output: flag dark-mode: {"isEnabled":true}
}
