//go:build unix

package dirstore_test

import (
	"errors"
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
		Spoil: map[string]func(testing.TB, store.DataStore){
			"cut": func(t testing.TB, s store.DataStore) {
				if err := os.Truncate(filepath.Join(dirOf(s), "state"), 200); err != nil {
					t.Fatal(err)
				}
			},
			"foreign": func(t testing.TB, s store.DataStore) {
				if err := os.WriteFile(filepath.Join(dirOf(s), "state"), []byte("{}"), 0o600); err != nil {
					t.Fatal(err)
				}
			},
		},
		Break: func(t testing.TB, s store.DataStore) (mend func()) {
			dir := dirOf(s)
			if err := errors.Join(os.Rename(dir, dir+".away"), os.WriteFile(dir, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			return func() {
				if err := errors.Join(os.Remove(dir), os.Rename(dir+".away", dir)); err != nil {
					t.Error(err)
				}
			}
		},
		Flush: func(t testing.TB, s store.DataStore) {
			if err := os.Remove(filepath.Join(dirOf(s), "state")); err != nil {
				t.Fatal(err)
			}
		},
	})
}
