package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/flagstead/flagstead/store"
)

// grown returns a published file with three frames, and for each length at which
// it is whole the state that it has then.
func grown(t testing.TB, path string) (w *Store, file []byte, states map[int]store.Snapshot) {
	t.Helper()
	w = openAt(t, path, nil)
	states = map[int]store.Snapshot{}
	for i, c := range []store.Change{
		{Full: true, Items: []store.Item{item("b", 1), item("d", 1)}},
		{Items: []store.Item{item("b", 2)}},
		{Items: []store.Item{item("a", 1), item("c", 1), item("d", 3), {Kind: store.Segment, Key: "a", Version: 1}}},
		{Items: []store.Item{{Kind: store.Flag, Key: "b", Version: 7, Archived: true}}},
	} {
		apply(t, w, c)
		now := read(t, path+".snap")
		if i > 0 && !bytes.HasPrefix(now, file) {
			t.Fatalf("commit %d was not appended", i)
		}
		file = now
		states[len(file)] = load(t, w, "")
	}
	return w, file, states
}

// A file that was cut off anywhere behind its body has the last state that is
// whole in it; and one that goes on reading when the rest comes has every state.
func TestCutFrames(t *testing.T) {
	path := newPath(t)
	_, file, states := grown(t, path)
	body := len(file)
	for n := range states {
		body = min(body, n)
	}
	alone := newPath(t) // no database beside it
	for n := body; n <= len(file); n++ {
		write(t, alone+".snap", file[:n])
		var want store.Snapshot
		for whole := n; want.Rev == ""; whole-- {
			want = states[whole]
		}
		r := openAt(t, alone, readOnly())
		if got := load(t, r, ""); got.Rev != want.Rev || text(got) != text(want) {
			t.Fatalf("cut at %d of %d: %+v, want %s", n, len(file), got, want.Rev)
		}
		last := states[len(file)]
		appendTo(t, alone+".snap", file[n:])
		got := load(t, r, want.Rev)
		if got.Rev != last.Rev || !got.Delta || text(load(t, r, "")) != text(last) {
			t.Fatalf("cut at %d of %d, then the rest: %+v, want a delta to %s", n, len(file), got, last.Rev)
		}
		// What a crash may leave instead.
		write(t, alone+".snap", append(bytes.Clone(file[:n]), make([]byte, 100)...))
		if got, err := openAt(t, alone, readOnly()).Load(t.Context(), ""); states[n].Rev != "" && (err != nil || text(got) != text(want)) {
			t.Fatalf("zeros from %d: %+v, %v", n, got, err)
		} else if err == nil && text(got) != text(want) || err != nil && !errors.Is(err, store.ErrDamaged) {
			t.Fatalf("zeros from %d: %+v, %v", n, got, err)
		}
		r.Close()
	}
}

func appendTo(t testing.TB, path string, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
}

// A frame that is there and is wrong is damage, not a frame that is still to come.
func TestDamagedFrames(t *testing.T) {
	path := newPath(t)
	w, file, states := grown(t, path)
	body := len(file)
	for n := range states {
		body = min(body, n)
	}
	alone := newPath(t)
	for at := 0; at < len(file); at++ {
		bad := bytes.Clone(file)
		bad[at] ^= 1 << (at % 8)
		write(t, alone+".snap", bad)
		r := openAt(t, alone, readOnly())
		got, err := r.Load(t.Context(), "")
		if newer := strings.Contains(fmt.Sprint(err), "format version"); err == nil || !newer && !errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), alone+".snap") {
			t.Fatalf("byte %d: %+v, %v, want ErrDamaged with the path", at, got, err)
		}
		r.Close()
	}
	// Frames of another file, a frame twice, frames in another order.
	first, second := nextState(states, body), nextState(states, nextState(states, body))
	for what, bad := range map[string][]byte{
		"twice": append(bytes.Clone(file[:first]), file[body:]...),
		"order": append(append(bytes.Clone(file[:body]), file[first:second]...), file[body:first]...),
		"other": append(bytes.Clone(file), otherFrame(t)...),
	} {
		write(t, alone+".snap", bad)
		if _, err := openAt(t, alone, readOnly()).Load(t.Context(), ""); !errors.Is(err, store.ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}

	// A reader that was there keeps what it has, and the writer mends the file.
	r := openAt(t, path, readOnly())
	want := load(t, r, "")
	bad := bytes.Clone(file)
	bad[len(bad)-1] ^= 1
	write(t, path+".snap", bad)
	if _, err := r.Load(t.Context(), ""); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("damage under a reader: %v", err)
	}
	load(t, w, "")
	if got := load(t, r, want.Rev); got.Rev != want.Rev || !got.Delta || len(got.Items) != 0 {
		t.Errorf("after mending: %+v, want %s", got, want.Rev)
	}
}

func nextState(states map[int]store.Snapshot, after int) int {
	for after++; states[after].Rev == ""; after++ {
	}
	return after
}

func otherFrame(t *testing.T) []byte {
	_, file, states := grown(t, newPath(t))
	last := 0
	for n := range states {
		if n < len(file) {
			last = max(last, n)
		}
	}
	return file[last:]
}

// A power cut may damage the frame that was being written. Nobody holds the
// database then, and it has the commit.
func TestDamagedFrameWithADatabase(t *testing.T) {
	path := newPath(t)
	w, file, states := grown(t, path)
	want := states[len(file)]
	w.Close()
	file[len(file)-1] ^= 1
	write(t, path+".snap", file)
	r := openAt(t, path, readOnly())
	if got := load(t, r, ""); got.Rev != want.Rev || text(got) != text(want) {
		t.Errorf("from the database: %+v, want %s", got, want.Rev)
	}
	w = openAt(t, path, nil)
	next := apply(t, w, store.Change{Items: []store.Item{item("new", 1)}})
	if got := load(t, r, want.Rev); got.Rev != next || got.Delta {
		t.Errorf("after the next writer came: %+v, want %s", got, next)
	}
}

// However changes come, a reader that follows and one that comes new have what the
// writer has; and most changes cost a frame.
func TestFramesAgreeWithTheWriter(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	path := newPath(t)
	w := openAt(t, path, nil)
	r := openAt(t, path, readOnly())
	inner := r.h.(*reader)
	var appended, replaced int
	rev := apply(t, w, store.Change{Full: true, Items: []store.Item{item("key-0", 1)}})
	load(t, r, "")
	for n := int64(2); n < 700; n++ {
		c := store.Change{Full: random.IntN(100) == 0}
		for range 1 + random.IntN(4) {
			it := item(fmt.Sprint("key-", random.IntN(200)), n-random.Int64N(3))
			it.Kind = store.Kind(1 + random.IntN(2))
			it.Data = append(it.Data, bytes.Repeat([]byte(" "), random.IntN(600))...)
			c.Items = append(c.Items, it)
		}
		before := inner.source
		next := apply(t, w, c)
		got := load(t, r, rev)
		if got.Rev != next || !c.Full && !got.Delta {
			t.Fatalf("change %d: reader at %s (delta %t), want %s", n, got.Rev, got.Delta, next)
		}
		switch {
		case inner.source == before:
		case inner.source.head == before.head:
			appended++
		default:
			replaced++
		}
		rev = next
		if n%50 == 0 {
			want := text(load(t, w, ""))
			if text(load(t, r, "")) != want || text(load(t, openAt(t, path, readOnly()), "")) != want {
				t.Fatalf("change %d: the reader has other items than the writer", n)
			}
		}
	}
	info, err := os.Stat(path + ".snap")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d changes appended, %d files replaced, %d bytes at the end", appended, replaced, info.Size())
	if appended < 5*replaced {
		t.Errorf("%d changes appended, %d files replaced", appended, replaced)
	}
	before := inner.source.head
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got := load(t, r, rev); got.Rev != rev || inner.source.head == before || inner.behind.end != headerSize+bodyOf(t, path) {
		t.Errorf("a closed store has frames, or another state: %+v", got)
	}
}

func bodyOf(t *testing.T, path string) int64 {
	_, l, err := decodeBody(read(t, path+".snap"))
	if err != nil {
		t.Fatal(err)
	}
	return l.end - headerSize
}

// A file that somebody replaced or wrote to is not appended to.
func TestFramesOnlyOnOnesOwnFile(t *testing.T) {
	for what, harm := range map[string]func(t *testing.T, snap string, old []byte){
		"longer":  func(t *testing.T, snap string, _ []byte) { appendTo(t, snap, []byte{0}) },
		"cut":     func(t *testing.T, snap string, old []byte) { write(t, snap, old[:len(old)-1]) },
		"removed": func(t *testing.T, snap string, _ []byte) { remove(t, snap) },
		"copied": func(t *testing.T, snap string, old []byte) {
			write(t, snap+".copy", old)
			if err := os.Rename(snap+".copy", snap); err != nil {
				t.Fatal(err)
			}
		},
		"made read-only": func(t *testing.T, snap string, _ []byte) {
			if err := os.Chmod(snap, 0o400); err != nil {
				t.Fatal(err)
			}
		},
	} {
		path := newPath(t)
		w, file, _ := grown(t, path)
		r := openAt(t, path, readOnly())
		old := load(t, r, "")
		harm(t, path+".snap", file)
		rev := apply(t, w, store.Change{Items: []store.Item{item("new", 1)}})
		for _, s := range []*Store{r, openAt(t, path, readOnly())} {
			if got := load(t, s, old.Rev); got.Rev != rev || !got.Delta || text(got) != text(store.Snapshot{Items: []store.Item{item("new", 1)}}) {
				t.Errorf("%s: %+v, want %s", what, got, rev)
			}
		}
		if now := read(t, path+".snap"); bytes.HasPrefix(now, file[:headerSize]) {
			t.Errorf("%s: the file was appended to", what)
		}
	}
}

func FuzzFrames(f *testing.F) {
	base := link{end: 64, sum: 7, seq: 3}
	l := base
	b := l.appendFrame(nil, 4, []record{{item("a", 1), 4}, {item("b", 1), 4}})
	f.Add(b, false)
	f.Add(l.appendFrame(b, 5, []record{{item("a", 2), 5}}), true)
	f.Add(make([]byte, 50), false)
	f.Fuzz(func(t *testing.T, b []byte, sign bool) {
		if sign && len(b) >= frameSize { // past the checksums
			l := base
			var records []record
			for body := b[frameSize:]; len(body) > 0; {
				r, n, err := decodeItem(body, 4)
				if err != nil {
					return
				}
				r.seq = 4
				records, body = append(records, r), body[n:]
			}
			b = l.appendFrame(nil, 4, records)
		}
		l := base
		puts, err := l.readFrames(b)
		if err != nil || l.end == base.end {
			if len(puts) > 0 || l != base {
				t.Errorf("%d items and %+v from a frame that is none: %v", len(puts), l, err)
			}
			return
		}
		again := base
		var out []byte
		for len(puts) > 0 {
			n := 1
			for n < len(puts) && puts[n].seq == puts[0].seq {
				n++
			}
			out = again.appendFrame(out, puts[0].seq, puts[:n])
			puts = puts[n:]
		}
		if again != l || !bytes.Equal(out, b[:l.end-base.end]) {
			t.Errorf("%x encodes as %x", b, out)
		}
	})
}
