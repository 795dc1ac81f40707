package spool

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const env = "226b9bf8-4af3-4ffa-9b01-162270e4cd40"

func open(t testing.TB, dir string, o Options) *Spool {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func text(i int) string { return fmt.Sprintf(`{"user":{"keyId":"u-%d"}}`, i) }

func insights(from, n int) []json.RawMessage {
	list := make([]json.RawMessage, n)
	for i := range list {
		list[i] = json.RawMessage(text(from + i))
	}
	return list
}

func put(t testing.TB, s *Spool, env string, from, n int) {
	t.Helper()
	if err := s.Append(t.Context(), env, insights(from, n)); err != nil {
		t.Fatal(err)
	}
}

func any(Waiting) bool { return true }

func texts(b *Batch) []string {
	var list []string
	if b != nil {
		for _, in := range b.Insights {
			list = append(list, string(in))
		}
	}
	return list
}

// drain takes and acknowledges everything.
func drain(s *Spool) []string {
	var all []string
	for b := s.Take(any); b != nil; b = s.Take(any) {
		all = append(all, texts(b)...)
		s.Ack(b)
	}
	return all
}

func want(from, n int) []string {
	var list []string
	for i := range n {
		list = append(list, text(from+i))
	}
	return list
}

func sorted(list []string) []string { slices.Sort(list); return list }

func check(t testing.TB, s *Spool, want Stats) {
	t.Helper()
	got := s.Stats()
	got.Bytes, got.MaxBytes, got.Environments, got.DamagedBytes = 0, 0, 0, 0
	if got != want {
		t.Errorf("Stats() = %+v, want %+v", got, want)
	}
}

func kinds(t *testing.T, f func(t *testing.T, dir string)) {
	t.Run("disk", func(t *testing.T) { f(t, filepath.Join(t.TempDir(), "a", "b")) })
	t.Run("memory", func(t *testing.T) { f(t, "") })
}

func TestInOrder(t *testing.T) {
	kinds(t, func(t *testing.T, dir string) {
		s := open(t, dir, Options{SegmentBytes: 1000})
		for i := range 30 {
			put(t, s, env, 7*i, 7)
		}
		put(t, s, env, 210, 120)
		if got := drain(s); !slices.Equal(got, want(0, 330)) {
			t.Errorf("got %d insights %v", len(got), got)
		}
		check(t, s, Stats{Recorded: 330, Settled: 330})
		if n := s.Stats().Bytes; n > 1000 {
			t.Errorf("%d bytes are left of what was settled", n)
		}
	})
}

// TestBatches: a batch is as full as whole appends allow.
func TestBatches(t *testing.T) {
	s := open(t, "", Options{})
	for i := range 8 {
		put(t, s, env, 20*i, 20)
	}
	if b := s.Take(any); len(b.Insights) != 40 || b.Env != env {
		t.Errorf("a batch of %d of %q", len(b.Insights), b.Env)
	}
	big := json.RawMessage(`"` + strings.Repeat("x", frameBytes-100) + `"`)
	if err := s.Append(t.Context(), "big", []json.RawMessage{big, big, json.RawMessage(`1`)}); err != nil {
		t.Fatal(err)
	}
	var sizes []int
	for b := s.Take(func(w Waiting) bool { return w.Env == "big" }); b != nil; b = s.Take(func(w Waiting) bool { return w.Env == "big" }) {
		sizes = append(sizes, len(b.Insights))
	}
	if !slices.Equal(sizes, []int{1, 2}) {
		t.Errorf("batches of %v large insights", sizes)
	}
}

func TestReturned(t *testing.T) {
	kinds(t, func(t *testing.T, dir string) {
		s := open(t, dir, Options{})
		put(t, s, env, 0, 150)
		a, b := s.Take(any), s.Take(any)
		s.Return(b)
		s.Return(a)
		a.Insights = a.Insights[10:]
		if got := drain(s); !slices.Equal(got, slices.Concat(want(100, 50), want(50, 50), want(10, 40))) {
			t.Errorf("got %d: %.300v", len(got), got)
		}
		check(t, s, Stats{Recorded: 150, Settled: 150})
		// Not all of a long queue gets into memory.
		put(t, s, env, 0, 50*100)
		seen := map[*Batch]bool{}
		for range 200 {
			b := s.Take(any)
			seen[b] = true
			s.Return(b)
		}
		if len(seen) != maxReturned {
			t.Errorf("%d batches are in memory, want %d", len(seen), maxReturned)
		}
	})
}

// TestEnvironmentsTakeTurns: and one that is not picked holds up no other.
func TestEnvironmentsTakeTurns(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	for i := range 3 {
		for _, e := range []string{"a", "b", "c"} {
			put(t, s, e, i*50, 50)
		}
	}
	var order string
	pick := func(w Waiting) bool { return w.Env != "b" }
	for b := s.Take(pick); b != nil; b = s.Take(pick) {
		order += b.Env
		s.Ack(b)
	}
	if order != "acacac" {
		t.Errorf("order = %s", order)
	}
	if got := drain(s); !slices.Equal(got, want(0, 150)) {
		t.Errorf("b has %v", got)
	}
}

// TestRestart: what was acknowledged does not come back, what was not does, also
// if the process ends without Close.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{SegmentBytes: 2000})
	put(t, s, env, 0, 500)
	put(t, s, "other", 0, 10)
	for range 3 {
		s.Ack(s.Take(func(w Waiting) bool { return w.Env == env }))
	}
	late, early := s.Take(func(w Waiting) bool { return w.Env == env }), s.Take(func(w Waiting) bool { return w.Env == env })
	s.Ack(early)
	s.Return(late)
	after := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(after, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	s2 := open(t, after, Options{})
	check(t, s2, Stats{Recorded: 310, Recovered: 310, Pending: 310})
	put(t, s2, env, 500, 1)
	got := drain(s2)
	if !slices.Equal(sorted(got), sorted(slices.Concat(want(150, 50), want(250, 251), want(0, 10)))) {
		t.Errorf("got %d: %v", len(got), got)
	}
	if err := s2.Close(); err != nil {
		t.Fatal(err)
	}
	s3 := open(t, after, Options{})
	check(t, s3, Stats{})
	put(t, s3, env, 7, 1)
	if got := drain(s3); !slices.Equal(got, want(7, 1)) {
		t.Errorf("got %d: %.300v", len(got), got)
	}
}

// TestAckedOutOfOrder: a batch that is stuck brings no other back, however often
// the process ends.
func TestAckedOutOfOrder(t *testing.T) {
	dir := t.TempDir()
	open := func() *Spool {
		s, err := Open(dir, Options{SegmentBytes: 3000})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	put(t, s, env, 0, 1000)
	left := map[string]bool{}
	for _, in := range want(0, 1000) {
		left[in] = true
	}
	for round := range 6 {
		var out []*Batch
		for len(out) < 3+2*round {
			b := s.Take(any)
			if b == nil {
				break
			}
			out = append(out, b)
		}
		rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
		for _, b := range out[:len(out)/2] {
			for _, in := range texts(b) {
				delete(left, in)
			}
			s.Ack(b)
		}
		if got := s.Stats().Pending; int(got) != len(left) {
			t.Errorf("%d pending, want %d", got, len(left))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open()
		if got := s.Stats().Recovered; int(got) != len(left) {
			t.Errorf("%d recovered, want %d", got, len(left))
		}
	}
	if got := drain(s); !slices.Equal(sorted(got), slices.Sorted(maps.Keys(left))) || len(left) == 0 {
		t.Errorf("got %d insights, want %d", len(got), len(left))
	}
	if st := s.Stats(); st.DiskErrors != 0 || st.DamagedBytes != 0 || st.Bytes > 3000 {
		t.Errorf("%+v", st)
	}
	if info, err := os.Stat(filepath.Join(dir, env, "acked")); err != nil || info.Size() != 0 {
		t.Errorf("%v, %v", info, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFull(t *testing.T) {
	kinds(t, func(t *testing.T, dir string) {
		s := open(t, dir, Options{MaxBytes: 10_000, SegmentBytes: 1000})
		kept := 0
		for {
			err := s.Append(t.Context(), env, insights(kept, 10))
			if errors.Is(err, ErrFull) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			kept += 10
		}
		if n := s.Stats().Bytes; n > 10_000 || n < 9_000 {
			t.Errorf("full with %d bytes", n)
		}
		check(t, s, Stats{Recorded: uint64(kept), Pending: uint64(kept), Refused: 10})
		s.Ack(s.Take(any))
		s.Ack(s.Take(any))
		put(t, s, env, kept, 10)
		if got := drain(s); !slices.Equal(got, want(100, kept+10-100)) {
			t.Errorf("got %d: %.300v", len(got), got)
		}
	})
}

// TestShare: an environment that is stuck leaves room for the others, and what is
// settled but still there takes nobody's.
func TestShare(t *testing.T) {
	s := open(t, t.TempDir(), Options{MaxBytes: 80_000, SegmentBytes: 10_000})
	put(t, s, "b", 0, 200)
	s.Ack(s.Take(any))
	s.Ack(s.Take(any))
	s.Ack(s.Take(any))
	s.Ack(s.Take(any))
	for s.Append(t.Context(), "stuck", insights(0, 10)) == nil {
	}
	if n := s.Stats().Bytes; n < 60_000 || n > 70_000 {
		t.Errorf("the stuck environment was refused at %d bytes", n)
	}
	put(t, s, "b", 200, 100)
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Errorf("Open = %v, want ErrLocked", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(t.Context(), env, insights(0, 1)); !errors.Is(err, ErrClosed) {
		t.Errorf("Append after Close = %v", err)
	}
	open(t, dir, Options{})
}

func TestPermissions(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	s := open(t, dir, Options{})
	put(t, s, env, 0, 60)
	s.Ack(s.Take(any))
	seen := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		seen++
		return nil
	})
	if err != nil || seen != 5 {
		t.Errorf("%d files, %v", seen, err)
	}
}

func TestBadInput(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	for _, name := range []string{"", "..", "a/b", "a.b", "ä", strings.Repeat("x", 101)} {
		if err := s.Append(t.Context(), name, insights(0, 1)); err == nil {
			t.Errorf("environment %q was accepted", name)
		}
	}
	if err := s.Append(t.Context(), env, []json.RawMessage{json.RawMessage(`1`), make(json.RawMessage, MaxInsight+1)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Append of a large insight = %v", err)
	}
	check(t, s, Stats{})
}

// single returns a directory with one segment of four frames of 10 insights, and
// the segment's path.
func single(t *testing.T) (dir, path string) {
	dir = t.TempDir()
	s := open(t, dir, Options{})
	for i := range 4 {
		put(t, s, env, 100+10*i, 10)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, filepath.Join(dir, env, segmentName(1))
}

// reopen opens a copy of dir in which the segment is replaced.
func reopen(t *testing.T, dir, path string, content []byte) *Spool {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestTorn: a segment that ends anywhere gives all frames that are whole.
func TestTorn(t *testing.T) {
	dir, path := single(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	frame := len(whole) / 4
	for n := range len(whole) {
		s := reopen(t, dir, path, whole[:n])
		frames := n / frame
		put(t, s, env, 1000, 3)
		if got := drain(s); !slices.Equal(got, slices.Concat(want(100, 10*frames), want(1000, 3))) {
			t.Fatalf("%d of %d bytes: got %.300v", n, len(whole), got)
		}
		st := s.Stats()
		if st.Pending != 0 || st.Damaged != 0 || st.DamagedBytes != int64(n-frames*frame) {
			t.Fatalf("%d of %d bytes: %+v", n, len(whole), st)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(dir, env)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFlipped: a wrong byte costs its frame and no other, and is counted.
func TestFlipped(t *testing.T) {
	dir, path := single(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	frame := len(whole) / 4
	for n := range len(whole) {
		broken := slices.Clone(whole)
		broken[n] ^= 1 << rand.N(8)
		s := reopen(t, dir, path, broken)
		hit := n / frame
		if got := drain(s); !slices.Equal(got, slices.Concat(want(100, 10*hit), want(110+10*hit, 30-10*hit))) {
			t.Fatalf("byte %d: got %v", n, got)
		}
		st := s.Stats()
		known := uint64(0)
		if n%frame >= headerSize {
			known = 10
		}
		if st.Pending != 0 || st.Damaged != known || st.DamagedBytes != int64(frame) || st.Recorded != 30+known {
			t.Fatalf("byte %d: %+v", n, st)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(dir, env)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDamageWhileRunning: what the disk gives back wrongly after it was counted as
// pending is lost and counted.
func TestDamageWhileRunning(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{SegmentBytes: 2500})
	for i := range 50 {
		put(t, s, env, 10*i, 10)
	}
	path := filepath.Join(dir, env, segmentName(2))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		b[i] = byte(i)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	got := drain(s)
	st := s.Stats()
	if len(got)+int(st.Damaged) != 500 || st.Damaged == 0 || st.Damaged > 110 || st.Pending != 0 || len(got) != int(st.Settled) {
		t.Errorf("%d insights, %+v", len(got), st)
	}
	if st.Bytes > 2500 {
		t.Errorf("%d bytes are left", st.Bytes)
	}
}

// TestPositionDamaged: whatever the file holds, nothing pending is lost.
func TestPositionDamaged(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	put(t, s, env, 0, 500)
	for range 4 {
		s.Ack(s.Take(any))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, env, "position")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) {
		broken := slices.Clone(whole)
		broken[n] ^= 1 << rand.N(8)
		if err := os.WriteFile(path, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if n := s.Stats().Pending; n != 300 && n != 350 {
			t.Errorf("%d pending", n)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDiskFails: an append that the disk refuses is an error, and the next one
// goes on in a new file.
func TestDiskFails(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	put(t, s, env, 0, 10)
	good := s.queues[env].writing.blob.(*fileBlob)
	readOnly, err := os.Open(good.path)
	if err != nil {
		t.Fatal(err)
	}
	old := good.f
	good.f = readOnly
	defer old.Close()
	if err := s.Append(t.Context(), env, insights(10, 10)); err == nil {
		t.Error("Append succeeded")
	}
	put(t, s, env, 20, 10)
	if got := drain(s); !slices.Equal(got, slices.Concat(want(0, 10), want(20, 10))) {
		t.Errorf("got %d: %.300v", len(got), got)
	}
	check(t, s, Stats{Recorded: 20, Settled: 20, Refused: 10, DiskErrors: 1})
}

// TestIdleQueuesGo: environments come and go, their files too.
func TestIdleQueuesGo(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := open(t, dir, Options{})
		put(t, s, "gone", 0, 10)
		put(t, s, "stays", 0, 10)
		s.Ack(s.Take(func(w Waiting) bool { return w.Env == "gone" }))
		time.Sleep(idleAfter + 5*time.Second)
		if n := s.Stats().Environments; n != 1 {
			t.Errorf("%d environments", n)
		}
		if _, err := os.Stat(filepath.Join(dir, "gone")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the directory of an idle queue: %v", err)
		}
		put(t, s, "gone", 10, 10)
		if got := drain(s); len(got) != 20 {
			t.Errorf("got %d: %.300v", len(got), got)
		}
	})
}

func FuzzRecover(f *testing.F) {
	f.Add(appendFrame(nil, insights(0, 3)), []byte{})
	f.Add(append(appendFrame(nil, insights(0, 1)), 1, 0x50, 0xa6, 0xf1), make([]byte, 64))
	f.Fuzz(func(t *testing.T, content, at []byte) {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, env), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, env, "position"), at, 0o600); err != nil {
			t.Fatal(err)
		}
		s := reopen(t, dir, filepath.Join(dir, env, segmentName(1)), content)
		defer s.Close()
		st := s.Stats()
		if got := drain(s); uint64(len(got))+st.Damaged != st.Recorded {
			t.Errorf("%d insights of %+v", len(got), st)
		}
		if s.Stats().Pending != 0 {
			t.Errorf("%+v is pending after all was taken", s.Stats())
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	s := open(b, b.TempDir(), Options{MaxBytes: 1 << 40})
	list := insights(0, 50)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Append(b.Context(), env, list); err != nil {
			b.Fatal(err)
		}
		s.Ack(s.Take(any))
	}
}
