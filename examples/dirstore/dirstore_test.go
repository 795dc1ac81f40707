//go:build unix

package dirstore_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/flagstead/flagstead/examples/dirstore"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/storetest"
)

func TestMain(m *testing.M) {
	storetest.Child(func(place string, _ bool) (store.DataStore, error) { return dirstore.Open(place), nil })
	os.Exit(m.Run())
}

func TestStore(t *testing.T) {
	var dirs sync.Map // directory by handle
	open := func(dir string) store.DataStore {
		s := dirstore.Open(dir)
		dirs.Store(s, dir)
		return s
	}
	dirOf := func(s store.DataStore) string {
		dir, _ := dirs.Load(s)
		return dir.(string)
	}
	storetest.Run(t, storetest.Options{
		Open:           func(t testing.TB) store.DataStore { return open(t.TempDir()) },
		Reopen:         func(_ testing.TB, first store.DataStore) store.DataStore { return open(dirOf(first)) },
		ReopenedWrites: true,
		Place:          func(_ testing.TB, s store.DataStore) string { return dirOf(s) },
		Flush: func(t testing.TB, s store.DataStore) {
			if err := os.Remove(filepath.Join(dirOf(s), "state")); err != nil {
				t.Fatal(err)
			}
		},
	})
}
