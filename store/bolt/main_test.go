package bolt

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/storetest"
)

// These make the test binary another process, on the path that they name.
const (
	writerEnv = "FLAGSTEAD_BOLT_TEST_WRITER"
	readerEnv = "FLAGSTEAD_BOLT_TEST_READER"

	beatingEnv = "FLAGSTEAD_BOLT_TEST_HEARTBEATS"
)

func TestMain(m *testing.M) {
	storetest.Child(func(place string, write bool) (store.DataStore, error) {
		return Open(place, &Options{ReadOnly: !write, LockTimeout: patience})
	})
	for env, main := range map[string]func(path string) error{
		writerEnv: writeGenerations,
		readerEnv: readGenerations,

		beatingEnv: writeHeartbeats,
	} {
		if path := os.Getenv(env); path != "" {
			go func() {
				io.Copy(io.Discard, os.Stdin) // ends with the parent
				os.Exit(3)
			}()
			fmt.Println("failed", main(path))
			os.Exit(2)
		}
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what has to happen.
const patience = 20 * time.Second

func openAt(t testing.TB, path string, o *Options) *Store {
	t.Helper()
	s, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newPath(t testing.TB) string { return filepath.Join(t.TempDir(), "flags.db") }

func readOnly() *Options { return &Options{ReadOnly: true} }

func item(key string, version int64) store.Item {
	return store.Item{Kind: store.Flag, Key: key, Version: version, Data: fmt.Appendf(nil, `{"key":%q,"v":%d}`, key, version)}
}

func apply(t testing.TB, s *Store, c store.Change) store.Rev {
	t.Helper()
	rev, err := s.Apply(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func load(t testing.TB, s *Store, since store.Rev) store.Snapshot {
	t.Helper()
	snap, err := s.Load(t.Context(), since)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

// text spells a snapshot's items, to compare.
func text(snap store.Snapshot) string {
	lines := map[string]bool{}
	for _, it := range snap.Items {
		lines[fmt.Sprintf("%v/%s@%d archived=%v %s", it.Kind, it.Key, it.Version, it.Archived, it.Data)] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(lines)), "\n")
}

// follow runs store.Follow until the test ends and passes on what it delivers.
func follow(t testing.TB, r store.Reader, fn func(store.Snapshot, error)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		store.Follow(ctx, r, store.FollowOptions{}, fn)
	}()
	t.Cleanup(func() { cancel(); <-done })
}
