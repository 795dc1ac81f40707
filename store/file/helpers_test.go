package file_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
)

// patience bounds every wait; only failures wait so long.
const patience = 10 * time.Second

// flag returns a flag of FeatBit's shape whose name and version say n.
func flag(key string, n int64) store.Item {
	data := fmt.Sprintf(`{"key":%q,"name":"n%d","updatedAt":%q,"isArchived":false}`, key, n, wire.FormatMillis(n))
	return store.Item{Kind: store.Flag, Key: key, Version: n, Data: []byte(data)}
}

// document returns a file with count flags of generation n.
func document(n int64, count int) []byte {
	items := make([]store.Item, count)
	for i := range items {
		items[i] = flag(fmt.Sprintf("flag-%d", i), n)
	}
	return wire.AppendDataSync(nil, wire.Full, items)
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// replace writes data beside path and renames it over path.
func replace(t testing.TB, path string, data []byte) {
	t.Helper()
	write(t, path+".new", data)
	rename(t, path+".new", path)
}

func rename(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func symlink(t testing.TB, target, link string) {
	t.Helper()
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t testing.TB, path string) {
	t.Helper()
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
}

func apply(t testing.TB, s store.Writer, c store.Change) store.Rev {
	t.Helper()
	rev, err := s.Apply(t.Context(), c)
	if err != nil {
		t.Fatalf("Apply: %v", err)
	}
	return rev
}

func load(t testing.TB, s store.Reader) store.Snapshot {
	t.Helper()
	snap, err := s.Load(t.Context(), "")
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return snap
}

// generation returns the version that all items share, or -1 if they do not.
func generation(items []store.Item) int64 {
	for _, it := range items {
		if it.Version != items[0].Version {
			return -1
		}
	}
	if len(items) == 0 {
		return 0
	}
	return items[0].Version
}

// pause waits for d, for writers that have to stop in the middle.
func pause(d time.Duration) { <-time.After(d) }

// A news is what Follow delivered.
type news struct {
	snap store.Snapshot
	err  error
	at   time.Time
}

// followed runs Follow on s, with polling so slow that only Watch can be what
// brings the news, until the test ends.
func followed(t testing.TB, s store.Reader) <-chan news {
	t.Helper()
	out := make(chan news, 10000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		o := store.FollowOptions{Interval: time.Hour, MaxBackoff: 100 * time.Millisecond}
		store.Follow(ctx, s, o, func(snap store.Snapshot, err error) { out <- news{snap, err, time.Now()} })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return out
}

// await returns the first news for which ok holds. Every state on the way has to
// have count flags of one generation.
func await(t testing.TB, in <-chan news, count int, what string, ok func(news) bool) news {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		select {
		case n := <-in:
			if n.err == nil && !n.snap.Delta && (len(n.snap.Items) != count || generation(n.snap.Items) < 0) {
				t.Fatalf("%s: got %d items of generation %d, want %d of one", what, len(n.snap.Items), generation(n.snap.Items), count)
			}
			if ok(n) {
				return n
			}
		case <-limit.C:
			t.Fatalf("%s: not seen within %v", what, patience)
		}
	}
}

// awaitGeneration waits for generation n and returns how long after since it
// came.
func awaitGeneration(t testing.TB, in <-chan news, count int, n int64, since time.Time) time.Duration {
	t.Helper()
	got := await(t, in, count, fmt.Sprintf("generation %d", n), func(got news) bool {
		return got.err == nil && !got.snap.Delta && generation(got.snap.Items) == n
	})
	return got.at.Sub(since)
}

// strays returns the temporary files in dir.
func strays(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		if strings.Contains(e.Name(), "tmp") {
			found = append(found, filepath.Join(dir, e.Name()))
		}
	}
	return found
}
