package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/flagstead/flagstead/store"
)

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// mutations yields b with each byte changed in two ways, and every beginning of
// b, b with more behind it, and nothing.
func mutations(b []byte, step int) func(yield func(what string, b []byte) bool) {
	return func(yield func(string, []byte) bool) {
		for i := 0; i < len(b); i += step {
			for _, x := range []byte{0x01, 0xff} {
				c := bytes.Clone(b)
				c[i] ^= x
				if !yield(fmt.Sprintf("byte %d ^ %02x", i, x), c) {
					return
				}
			}
			if !yield(fmt.Sprintf("cut at %d", i), b[:i]) {
				return
			}
		}
		yield("longer", append(bytes.Clone(b), 0))
	}
}

// Whatever happens to the snapshot, a reader has the right content or an error
// that names the file, and the next writer puts it right.
func TestDamagedSnapshot(t *testing.T) {
	path := newPath(t)
	snapPath := path + ".snap"
	w := openAt(t, path, nil)
	rev := apply(t, w, store.Change{Items: []store.Item{item("a", 1), item("b", 1)}})
	want := text(load(t, w, ""))
	w.Close()
	good := read(t, snapPath)

	for what, bad := range mutations(good, 1) {
		write(t, snapPath, bad)
		r, err := Open(path, readOnly())
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.Load(t.Context(), "")
		if err == nil && (got.Rev != rev || text(got) != want) {
			t.Errorf("%s: wrong content: %+v", what, got)
		}
		if what == "longer" && err == nil {
			r.Close()
			continue // a frame may begin with one byte
		}
		if err == nil || !strings.Contains(err.Error(), snapPath) {
			t.Errorf("%s: error %v", what, err)
		}
		if newer := strings.Contains(fmt.Sprint(err), "format version"); !newer && !errors.Is(err, store.ErrDamaged) {
			t.Errorf("%s: error %v is not ErrDamaged", what, err)
		}
		r.Close()
	}

	write(t, snapPath, good)
	r := openAt(t, path, readOnly())
	load(t, r, "")
	for _, spoil := range []func(){
		func() { write(t, snapPath, good[:len(good)-1]) },
		func() { write(t, snapPath, good[:10]) },
		func() { write(t, snapPath, nil) },
		func() { remove(t, snapPath) },
	} {
		spoil()
		if _, err := r.Load(t.Context(), rev); err == nil || !strings.Contains(err.Error(), snapPath) {
			t.Errorf("a handle that had loaded: %v", err)
		}
		w := openAt(t, path, nil)
		rev := load(t, w, "").Rev
		w.Close()
		if got := load(t, r, ""); got.Rev != rev || text(got) != want {
			t.Errorf("not healed: %+v", got)
		}
		if got := load(t, openAt(t, path, readOnly()), ""); got.Rev != rev || text(got) != want {
			t.Errorf("not healed for others: %+v", got)
		}
	}
}

// Whatever happens to the database, a writer has the right content or an error
// that names the file, and whatever it writes then is right or noticed.
func TestDamagedDatabase(t *testing.T) {
	path := newPath(t)
	w := openAt(t, path, nil)
	var items []store.Item
	for i := range 300 { // more than one page
		items = append(items, item(fmt.Sprintf("flag-%03d", i), 1))
	}
	apply(t, w, store.Change{Full: true, Items: items})
	apply(t, w, store.Change{Items: []store.Item{item("flag-000", 2)}})
	want := text(load(t, w, ""))
	w.Close()
	good, snap := read(t, path), read(t, path+".snap")

	refused, opened := 0, 0
	for what, bad := range mutations(good, 997) {
		write(t, path, bad)
		write(t, path+".snap", snap)
		s, err := Open(path, nil)
		if err != nil {
			refused++
			if !strings.Contains(err.Error(), path) {
				t.Errorf("%s: error %v", what, err)
			}
			continue
		}
		opened++
		if got := load(t, s, ""); text(got) != want && got.Rev != "" {
			// bbolt falls back to the older of its two states when the
			// newer one's page is damaged. That is a state, too.
			if older := strings.Replace(want, text(store.Snapshot{Items: []store.Item{item("flag-000", 2)}}), text(store.Snapshot{Items: []store.Item{item("flag-000", 1)}}), 1); text(got) != older {
				t.Errorf("%s: wrong content, rev %s, %d items", what, got.Rev, len(got.Items))
			}
		}
		now := text(load(t, s, ""))
		rev, err := s.Apply(t.Context(), store.Change{Items: []store.Item{item("new", 1)}})
		if err == nil {
			now = text(load(t, s, ""))
		}
		s.Close()
		again, openErr := Open(path, nil)
		if openErr != nil {
			continue
		}
		if got := load(t, again, ""); err == nil && commits(got.Rev) != commits(rev) || text(got) != now {
			t.Errorf("%s: after a commit (%v) and a restart: rev %s, %d items", what, err, got.Rev, len(got.Items))
		}
		again.Close()
	}
	t.Logf("%d refused, %d opened", refused, opened)
	if refused == 0 || opened == 0 {
		t.Error("the damage is not what the test wants")
	}
	for what, b := range map[string][]byte{"empty": nil, "foreign": bytes.Repeat([]byte("flags\n"), 9000)} {
		write(t, path, b)
		if _, err := Open(path, nil); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s file: %v", what, err)
		}
		remove(t, path+".snap")
		if _, err := openAt(t, path, readOnly()).Load(t.Context(), ""); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s file, for a reader: %v", what, err)
		}
	}
}

// commits returns the part of a Rev that another writer keeps.
func commits(rev store.Rev) string {
	_, n, _ := strings.Cut(string(rev), "-")
	return n
}

// The clean-up at Open takes what was left half-written, and only that.
func TestSweep(t *testing.T) {
	path := newPath(t)
	stale, foreign := strings.Replace(path, "flags.db", ".flags.db.snap.tmp-123", 1), path+".snap.tmp-123"
	for _, name := range []string{stale, foreign, path + ".new"} {
		write(t, name, []byte("half"))
	}
	openAt(t, path, nil)
	for _, name := range []string{stale, path + ".new"} {
		if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	var e encoder
	for n := range int64(4) {
		e.reset()
		for i := range n {
			e.add(record{item(fmt.Sprint("k", i), i), uint64(i + 1)})
		}
		f.Add(bytes.Clone(e.finish(mark{epoch: 1, seq: uint64(n), full: uint64(n / 2)}, time.UnixMilli(n))), false)
	}
	f.Add([]byte(magic), true)
	f.Fuzz(func(t *testing.T, b []byte, sign bool) {
		if sign && len(b) >= headerSize { // past the checksum
			b = bytes.Clone(b)
			binary.LittleEndian.PutUint64(b[44:], uint64(len(b)-headerSize))
			binary.LittleEndian.PutUint32(b[crcAt:], checksum(b))
		}
		if m, l, err := decode(b); err == nil && (l.end > int64(len(b)) || m.seq != l.seq) {
			t.Errorf("%x ends at %d, commit %d of %d", b, l.end, m.seq, l.seq)
		}
		m, l, err := decodeBody(b)
		if err != nil {
			return
		}
		b = b[:l.end]
		var e encoder
		e.reset()
		for _, r := range m.items {
			e.add(r)
		}
		if again := e.finish(m.mark, time.UnixMilli(int64(binary.LittleEndian.Uint64(b[52:])))); !bytes.Equal(again, b) {
			t.Errorf("%x encodes as %x", b, again)
		}
		m.since(m.rev())
	})
}
