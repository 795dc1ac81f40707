package file_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/fswatch"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/file"
)

func TestLoadReadsAnExportAsItIs(t *testing.T) {
	flagText := `{ "id":"1", "updatedAt":"2024-05-01T10:00:00.1239Z",
	  "key":"a", "isArchived":true, "unknown": 1.0e+2 }`
	segmentText := `{"id":"s","key":"not the id","updatedAt":"2024-05-01T10:00:00Z"}`
	text := "\xef\xbb\xbf{\"messageType\":\"data-sync\",\n \"data\":{\"eventType\":\"full\",\"featureFlags\":[\n" + flagText + `],"segments":[` + segmentText + "]}}\n"
	path := fileIn(t.TempDir())
	write(t, path, []byte(text))

	got := load(t, open(t, path, &file.Options{ReadOnly: true})).Items
	slices.SortFunc(got, func(a, b store.Item) int { return int(a.Kind) - int(b.Kind) })
	want := []store.Item{
		{Kind: store.Flag, Key: "a", Version: 1714557600123, Archived: true, Data: []byte(flagText)},
		{Kind: store.Segment, Key: "s", Version: 1714557600000, Data: []byte(segmentText)},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("Load of an export =\n%v\nwant\n%v", got, want)
	}
}

func TestLoadSaysWhatIsWrongWithTheDocument(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"empty", "", "document is empty"},
		{"blank", " \n\t", "document is empty"},
		{"comma", "{\"messageType\":\"data-sync\",\n\"data\":{\n  \"eventType\" \"full\"}}", "line 3, column 15"},
		{"cut off", "{\"messageType\":\"data-sync\",\n\"data\":{", "line 2, column 8"},
		{"list", "[]", "not a FeatBit data-sync document"},
		{"other message", `{"messageType":"pong","data":{}}`, `messageType is "pong"`},
		{"no flags", `{"messageType":"data-sync","data":{"eventType":"full","segments":[]}}`, "no featureFlags"},
		{"patch", `{"messageType":"data-sync","data":{"eventType":"patch","featureFlags":[],"segments":[]}}`, `eventType is "patch"`},
		{
			"foreign member", `{"messageType":"data-sync","data":{"eventType":"full","featureFlags":[],"segments":[]},"flagstead":{"items":[{"kind":"x","key":"k"}]}}`,
			`kind "x"`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := fileIn(t.TempDir())
			s := open(t, path, nil)
			replace(t, path, document(1, count))
			before := load(t, s)
			replace(t, path, []byte(test.text))
			for range 2 { // the second time from memory
				_, err := s.Load(t.Context(), before.Rev)
				if !errors.Is(err, file.ErrBroken) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
					t.Errorf("Load of a broken document = %v, want ErrBroken with %q and the path", err, test.want)
				}
			}
			replace(t, path, document(1, count))
			if snap, err := s.Load(t.Context(), before.Rev); err != nil || !snap.Delta || snap.Rev != before.Rev {
				t.Errorf("Load after the old document is back = %v, %v, want an empty Delta", snap, err)
			}
		})
	}
}

func TestBrokenJSONIsASyntaxError(t *testing.T) {
	path := fileIn(t.TempDir())
	write(t, path, []byte("{\n\n  x"))
	_, err := open(t, path, nil).Load(t.Context(), "")
	if syntax, ok := errors.AsType[*wire.SyntaxError](err); !ok || syntax.Line != 3 || syntax.Column != 3 {
		t.Errorf("Load = %v, want a SyntaxError at line 3, column 3", err)
	}
}

func TestMissingFileIsEmptyForWritersAndAnErrorForReaders(t *testing.T) {
	path := fileIn(t.TempDir())
	if snap := load(t, open(t, path, nil)); snap.Rev != "" || snap.Delta || snap.Items != nil {
		t.Errorf("Load of a missing file = %v, want the zero Snapshot", snap)
	}
	_, err := open(t, path, &file.Options{ReadOnly: true}).Load(t.Context(), "")
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("Load by a reader = %v, want fs.ErrNotExist with the path", err)
	}
}

func TestUnusableItemIsLoggedAndTheOthersStay(t *testing.T) {
	path := fileIn(t.TempDir())
	text := wire.AppendDataSync(nil, wire.Full, []store.Item{flag("a", 1), {Kind: store.Flag, Version: 2, Data: []byte(`{"name":"no key"}`)}})
	write(t, path, text)
	var log bytes.Buffer
	s := open(t, path, &file.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if items := load(t, s).Items; len(items) != 1 || items[0].Key != "a" {
		t.Errorf("Load = %v, want flag a", items)
	}
	load(t, s)
	if lines := strings.Count(log.String(), "\n"); lines != 1 || !strings.Contains(log.String(), "flag number 2") {
		t.Errorf("log = %q, want one line about flag number 2", &log)
	}
}

func TestFileOverTheLimitIsRefused(t *testing.T) {
	path := fileIn(t.TempDir())
	s := open(t, path, &file.Options{MaxSize: 500})
	apply(t, s, store.Change{Items: []store.Item{flag("a", 1)}})
	long := flag("b", 1)
	long.Data = append(long.Data, bytes.Repeat([]byte(" "), 500)...)
	if _, err := s.Apply(t.Context(), store.Change{Items: []store.Item{long}}); err == nil {
		t.Error("Apply of more than MaxSize succeeds")
	}
	if got := load(t, s).Items; len(got) != 1 {
		t.Errorf("after a refused Apply Load = %v, want flag a", got)
	}
	replace(t, path, document(1, count))
	if _, err := s.Load(t.Context(), ""); err == nil || errors.Is(err, file.ErrBroken) {
		t.Errorf("Load of more than MaxSize = %v, want an error about the size", err)
	}
}

func TestApplyWritesAPlainDocument(t *testing.T) {
	path := fileIn(t.TempDir())
	tombstone, err := wire.Tombstone(flag("b", 1), 2)
	if err != nil {
		t.Fatal(err)
	}
	items := []store.Item{flag("a", 1), tombstone}
	rev := apply(t, open(t, path, nil), store.Change{Full: true, Items: items})
	want := append(wire.AppendDataSync(nil, wire.Full, items), '\n')
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("file = %s, %v, want %s", got, err, want)
	}
	if got := load(t, open(t, path, &file.Options{ReadOnly: true})); got.Rev != rev || len(got.Items) != 2 {
		t.Errorf("another handle loads %v, want Rev %q", got, rev)
	}
}

// deep nests n lists.
func deep(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }

func TestApplyKeepsItemsThatContradictTheirData(t *testing.T) {
	path := fileIn(t.TempDir())
	like := func(change func(*store.Item)) store.Item {
		it := flag("key", 5)
		change(&it)
		return it
	}
	for i, it := range []store.Item{
		like(func(it *store.Item) { it.Key = "other" }),
		like(func(it *store.Item) { it.Version = 6 }),
		like(func(it *store.Item) { it.Version = -6 }),
		like(func(it *store.Item) { it.Archived = true }),
		like(func(it *store.Item) { it.Kind = store.Segment }),
		like(func(it *store.Item) { it.Data = append(it.Data, '\n') }),
		like(func(it *store.Item) { it.Data = nil }),
		like(func(it *store.Item) { it.Data = []byte("\x00\xff") }),
		like(func(it *store.Item) { it.Key = "\xff" }),
		like(func(it *store.Item) {
			it.Data = bytes.Replace(it.Data, []byte("{"), []byte(`{"deep":`+deep(9998)+`,`), 1)
		}),
		like(func(it *store.Item) { it.Data = bytes.Replace(it.Data, []byte("{"), []byte("{\"raw\":\"\xff\","), 1) }),
	} {
		apply(t, open(t, path, nil), store.Change{Full: true, Items: []store.Item{it, flag("plain", 1)}})
		apply(t, open(t, path, nil), store.Change{Items: []store.Item{flag("plain", 2)}})
		got := load(t, open(t, path, nil)).Items
		if !slices.ContainsFunc(got, func(g store.Item) bool {
			return g.ID() == it.ID() && g.Version == it.Version && g.Archived == it.Archived && bytes.Equal(g.Data, it.Data)
		}) || len(got) != 2 {
			t.Errorf("item %d does not come back: %d items", i, len(got))
		}
	}
}

func TestNewerItemInTheDocumentWinsOverTheMember(t *testing.T) {
	path := fileIn(t.TempDir())
	odd := flag("a", 5)
	odd.Data = []byte("opaque")
	s := open(t, path, nil)
	apply(t, s, store.Change{Items: []store.Item{odd}})
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	edited := bytes.Replace(text, []byte(`"featureFlags":[`), append([]byte(`"featureFlags":[`), flag("a", 6).Data...), 1)
	replace(t, path, edited)
	apply(t, s, store.Change{Items: []store.Item{flag("b", 1)}})
	if got, _ := os.ReadFile(path); bytes.Contains(got, []byte("flagstead")) {
		t.Errorf("the document still has the older item: %s", got)
	}
	if got := load(t, s).Items; len(got) != 2 || !slices.ContainsFunc(got, func(it store.Item) bool { return it.Version == 6 }) {
		t.Errorf("Load = %v, want version 6 of flag a", got)
	}
}

func TestApplyReplacesWhatASymlinkPointsTo(t *testing.T) {
	dir := t.TempDir()
	mkdir(t, filepath.Join(dir, "real"))
	target := filepath.Join(dir, "real", "a.json")
	symlink(t, filepath.Join("real", "a.json"), fileIn(dir))
	s := open(t, fileIn(dir), nil)
	for n := range int64(2) { // at first the target is missing
		apply(t, s, store.Change{Items: []store.Item{flag("a", n+1)}})
		if got := load(t, open(t, target, &file.Options{ReadOnly: true})).Items; len(got) != 1 || got[0].Version != n+1 {
			t.Errorf("behind the link: %v, want version %d", got, n+1)
		}
	}
	if info, err := os.Lstat(fileIn(dir)); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link became %v, %v", info, err)
	}
}

func TestApplyKeepsPermissionsAndLeavesNoTemporaryFiles(t *testing.T) {
	dir := t.TempDir()
	s := open(t, fileIn(dir), nil)
	stray := filepath.Join(dir, ".flags.json.tmp-123")
	write(t, stray, []byte("left behind by a killed writer"))
	for n, mode := range []fs.FileMode{0o600, 0o640} {
		if n > 0 {
			if err := os.Chmod(fileIn(dir), mode); err != nil {
				t.Fatal(err)
			}
		}
		apply(t, s, store.Change{Items: []store.Item{flag("a", int64(n))}})
		if info, err := os.Stat(fileIn(dir)); err != nil || info.Mode() != mode {
			t.Errorf("mode %v, %v, want %v", info.Mode(), err, mode)
		}
	}
	if found := strays(t, dir); len(found) != 0 {
		t.Errorf("temporary files: %q", found)
	}
}

func TestFailedApplyLeavesTheFileAndNothingElse(t *testing.T) {
	// A directory in place of the file: the rename over it cannot succeed.
	path := fileIn(t.TempDir())
	mkdir(t, path)
	if _, err := open(t, path, nil).Apply(t.Context(), store.Change{Full: true}); err == nil {
		t.Error("Apply onto a directory succeeds")
	}
	if found := strays(t, filepath.Dir(path)); len(found) != 0 {
		t.Errorf("temporary files: %q", found)
	}
	_, err := open(t, fileIn(filepath.Join(path, "nowhere")), nil).Apply(t.Context(), store.Change{Full: true})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Apply in a directory that is missing = %v, want fs.ErrNotExist", err)
	}
}

func TestOnlyAnUnconditionalFullReplacesABrokenDocument(t *testing.T) {
	path := fileIn(t.TempDir())
	s := open(t, path, nil)
	items := []store.Item{flag("a", 1)}
	rev := apply(t, s, store.Change{Items: items})
	replace(t, path, []byte("{"))
	for _, c := range []store.Change{{Items: []store.Item{flag("b", 1)}}, {Full: true, Base: rev, Items: items}} {
		if _, err := s.Apply(t.Context(), c); !errors.Is(err, file.ErrBroken) {
			t.Errorf("Apply(Full %t, Base %q) on a broken document = %v, want ErrBroken", c.Full, c.Base, err)
		}
	}
	if _, err := s.Load(t.Context(), rev); !errors.Is(err, file.ErrBroken) || !errors.Is(err, store.ErrDamaged) {
		t.Errorf("Load of a broken document = %v, want ErrBroken and store.ErrDamaged", err)
	}
	// Also if it is what the handle had before.
	apply(t, s, store.Change{Full: true, Items: items})
	if got := load(t, s).Items; len(got) != 1 {
		t.Errorf("Load after healing = %v", got)
	}
	if got := load(t, open(t, path, nil)).Items; len(got) != 1 {
		t.Errorf("Load after healing = %v", got)
	}
	// And by a handle that never saw anything else.
	replace(t, path, []byte("{"))
	apply(t, open(t, path, nil), store.Change{Full: true, Items: items})
	if got := load(t, s).Items; len(got) != 1 {
		t.Errorf("Load after healing by another handle = %v", got)
	}
}

func TestApplyRefusesInvalidItems(t *testing.T) {
	s := open(t, fileIn(t.TempDir()), nil)
	for _, it := range []store.Item{{Kind: store.Flag}, {Key: "a"}, {Kind: 3, Key: "a"}} {
		if _, err := s.Apply(t.Context(), store.Change{Items: []store.Item{it}}); err == nil {
			t.Errorf("Apply(%v) succeeds", it)
		}
	}
}

func TestApplyWaitsForTheLockWithinBounds(t *testing.T) {
	path := fileIn(t.TempDir())
	unlock, err := fswatch.TryLock(path + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	c := store.Change{Full: true}

	s := open(t, path, &file.Options{LockTimeout: 20 * time.Millisecond})
	if _, err := s.Apply(t.Context(), c); !errors.Is(err, file.ErrLocked) {
		t.Errorf("Apply while the file is locked = %v, want ErrLocked", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	s = open(t, path, nil)
	if _, err := s.Apply(ctx, c); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, file.ErrLocked) {
		t.Errorf("Apply with a context that ends = %v, want its error", err)
	}
	failed := make(chan error)
	go func() {
		_, err := s.Apply(context.Background(), c)
		failed <- err
	}()
	s.Close()
	if err := <-failed; !errors.Is(err, store.ErrClosed) {
		t.Errorf("Apply on a store that is closed meanwhile = %v, want ErrClosed", err)
	}
}

func TestOpenNeedsAPath(t *testing.T) {
	if _, err := file.Open("", nil); err == nil {
		t.Error("Open of an empty path succeeds")
	}
}
