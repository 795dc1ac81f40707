package histdir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/flagstead/flagstead/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fill appends revisions until there are n: a whole state, and deltas.
func fill(t *testing.T, d Dir, like string, from, n int) {
	t.Helper()
	for i := from; i <= n; i++ {
		r := store.Record{Rev: store.Rev(fmt.Sprint(i)), Prev: store.Rev(fmt.Sprint(i - 1)), After: uint64(i - 1), Whole: i == 1,
			Items: []store.Item{{Kind: store.Flag, Key: "a", Version: int64(i), Data: fmt.Append(nil, i)}}}
		if _, err := d.AppendLocked(context.Background(), r, store.Keep{}, like); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPermissions: what a history holds is as private as the store's own content.
func TestPermissions(t *testing.T) {
	for mode, dir := range map[os.FileMode]os.FileMode{0o600: 0o700, 0o640: 0o750, 0o644: 0o755} {
		like := filepath.Join(t.TempDir(), "flags.db.snap")
		if mode != 0o600 { // without the file it is 0600
			if err := os.WriteFile(like, nil, mode); err != nil {
				t.Fatal(err)
			}
		}
		d := Of(filepath.Join(filepath.Dir(like), "flags.db"))
		fill(t, d, like, 1, 2)
		for name, want := range map[string]os.FileMode{string(d): dir, d.name(1): mode, d.name(2): mode} {
			if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
				t.Errorf("%s: %v, %v, want %v", name, info, err, want)
			}
		}
		left, err := filepath.Glob(filepath.Join(string(d), "*.tmp"))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

// TestDamagedFile: whatever happens to a file, no revision shows another state than
// its own, and the history goes on.
func TestDamagedFile(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, name string) error{
		"emptied":   func(t *testing.T, name string) error { return os.Truncate(name, 0) },
		"cut":       func(t *testing.T, name string) error { return os.Truncate(name, 150) },
		"removed":   func(t *testing.T, name string) error { return os.Remove(name) },
		"garbage":   func(t *testing.T, name string) error { return os.WriteFile(name, []byte("{}\nx"), 0o600) },
		"directory": func(t *testing.T, name string) error { os.Remove(name); return os.Mkdir(name, 0o700) },
	} {
		for _, which := range []uint64{1, 3, 5} {
			d := Of(filepath.Join(t.TempDir(), "flags.db"))
			fill(t, d, "", 1, 5)
			if err := spoil(t, d.name(which)); err != nil {
				t.Fatal(err)
			}
			all, err := d.Revisions()
			if err != nil {
				t.Errorf("%s, %d: %v", name, which, err)
			}
			for n := uint64(1); n <= 5; n++ {
				snap, err := d.At(n)
				if err == nil && (len(snap.Items) != 1 || snap.Items[0].Version != int64(n)) || err == nil && n >= which {
					t.Errorf("%s, %d: revision %d is %+v", name, which, n, snap)
				}
				if err != nil && !errors.Is(err, store.ErrDamaged) && !errors.Is(err, store.ErrNoRevision) {
					t.Errorf("%s, %d: revision %d: %v", name, which, n, err)
				}
			}
			last := uint64(0)
			if len(all) > 0 {
				last = all[len(all)-1].N
			}
			r := store.Record{Rev: "x", Whole: true, After: last, Items: []store.Item{{Kind: store.Flag, Key: "a", Version: 99}}}
			if name == "directory" && which == 5 {
				continue // somebody has to take that away
			}
			rev, err := d.AppendLocked(context.Background(), r, store.Keep{}, "")
			if err != nil {
				t.Fatalf("%s, %d: %v", name, which, err)
			}
			if snap, err := d.At(rev.N); err != nil || snap.Items[0].Version != 99 {
				t.Errorf("%s, %d: the next one is %+v, %v", name, which, snap, err)
			}
		}
	}
}

// TestOthersFiles: what is no revision is left alone.
func TestOthersFiles(t *testing.T) {
	d := Of(filepath.Join(t.TempDir(), "flags.db"))
	fill(t, d, "", 1, 2)
	for _, name := range []string{"notes.txt", "x.rev", "-1.rev"} {
		if err := os.WriteFile(filepath.Join(string(d), name), []byte("hello"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := d.Revisions(); err != nil || len(all) != 2 {
		t.Errorf("%+v, %v", all, err)
	}
	fill(t, d, "", 3, 3)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := d.AppendLocked(ctx, store.Record{Rev: "9"}, store.Keep{}, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}
