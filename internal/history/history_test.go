package history

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/flagstead/flagstead/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func item(key string, version int64) store.Item {
	return store.Item{Kind: store.Flag, Key: key, Version: version, Data: fmt.Appendf(nil, `{"key":%q,"v":%d}`, key, version)}
}

// grown returns a history of n revisions: a whole state and deltas.
func grown(t *testing.T, n int) (all []store.Revision, bodies map[uint64][]byte) {
	t.Helper()
	bodies = map[uint64][]byte{}
	for i := 1; i <= n; i++ {
		r := store.Record{Rev: store.Rev(fmt.Sprint(i)), Prev: store.Rev(fmt.Sprint(i - 1)), After: uint64(i - 1), Whole: i == 1,
			Items: []store.Item{item("a", int64(i)), item(fmt.Sprint("k", i), 1)}}
		s, err := Next(all, r, store.Keep{}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s.Revision)
		bodies[s.Revision.N] = s.Body
	}
	return all, bodies
}

func rebuild(all []store.Revision, bodies map[uint64][]byte, n uint64) (store.Snapshot, error) {
	return Rebuild(all, n, func(r store.Revision) ([]byte, error) { return bodies[r.N], nil })
}

// TestDamage: a state is put together exactly or not at all, whatever is missing,
// cut or changed of what it is made of.
func TestDamage(t *testing.T) {
	all, bodies := grown(t, 6)
	snap, err := rebuild(all, bodies, 6)
	if err != nil || len(snap.Items) != 7 || snap.Rev != "6" {
		t.Fatalf("%+v, %v", snap, err)
	}
	for n, body := range bodies {
		for i := range body {
			for _, bad := range [][]byte{body[:i], flipped(body, i), append(append([]byte{}, body[:i]...), body[i+1:]...)} {
				hurt := map[uint64][]byte{}
				for k, v := range bodies {
					hurt[k] = v
				}
				hurt[n] = bad
				got, err := rebuild(all, hurt, 6)
				if err != nil && !errors.Is(err, store.ErrDamaged) {
					t.Fatalf("revision %d, byte %d: %v", n, i, err)
				}
				// A header of gzip has bytes that say nothing.
				if err == nil && !equal(got.Items, snap.Items) {
					t.Fatalf("revision %d, byte %d: %+v", n, i, got.Items)
				}
			}
		}
	}
	for missing := range all {
		some := append(append([]store.Revision{}, all[:missing]...), all[missing+1:]...)
		for n := uint64(1); n <= 6; n++ {
			_, err := rebuild(some, bodies, n)
			switch {
			case int(n) == missing+1 && !errors.Is(err, store.ErrNoRevision):
				t.Errorf("without %d, revision %d: %v", missing+1, n, err)
			case int(n) > missing+1 && !errors.Is(err, store.ErrDamaged):
				t.Errorf("without %d, revision %d: %v", missing+1, n, err)
			case int(n) < missing+1 && err != nil:
				t.Errorf("without %d, revision %d: %v", missing+1, n, err)
			}
		}
	}
}

func flipped(b []byte, i int) []byte {
	b = append([]byte{}, b...)
	b[i] ^= 0x41
	return b
}

func equal(a, b []store.Item) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].ID() != b[i].ID() || a[i].Version != b[i].Version || string(a[i].Data) != string(b[i].Data) || a[i].Archived != b[i].Archived {
			return false
		}
	}
	return true
}

func TestGroups(t *testing.T) {
	all, _ := grown(t, 50)
	r := store.Record{Rev: "51", Prev: "50", After: 50, Items: []store.Item{item("a", 99)}}
	if _, err := Next(all, r, store.Keep{}, time.Now()); !errors.Is(err, store.ErrWholeWanted) {
		t.Errorf("after 50 revisions in a group: %v", err)
	}
	// What is as large as the whole state ends a group, too.
	all, _ = grown(t, 3)
	all[2].Size = 1 << 20
	r.Rev, r.Prev, r.After = "4", "3", 3
	if _, err := Next(all, r, store.Keep{}, time.Now()); !errors.Is(err, store.ErrWholeWanted) {
		t.Errorf("after a large delta: %v", err)
	}
	if _, err := Next(all, store.Record{}, store.Keep{}, time.Now()); err == nil {
		t.Error("a record without a Rev")
	}
}

func FuzzDecode(f *testing.F) {
	body, err := encode([]store.Item{item("a", 1), {Kind: store.Segment, Key: "s", Archived: true, Version: -5}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, text []byte) {
		items, err := decode(text)
		if err != nil {
			return
		}
		again, err := encode(items)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decode(again); err != nil || !equal(items, back) {
			t.Fatalf("%+v became %+v, %v", items, back, err)
		}
	})
}
