//go:build unix

package faultstore_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/flagstead/flagstead/examples/dirstore"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/faultstore"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/store/storetest"
)

// outage takes a store down, by turns so that calls fail and so that they hang.
func outage(faults *faultstore.Faults, n *int) (mend func()) {
	if *n++; *n%2 == 1 {
		faults.Down()
		return faults.Up
	}
	return faults.Hang(faultstore.All).Remove
}

// Without faults, and through outages, a wrapped store keeps the rules.
func TestContract(t *testing.T) {
	var all sync.Map // Faults by store
	outages := 0
	storetest.Run(t, storetest.Options{
		Open: func(testing.TB) store.DataStore {
			st, faults := faultstore.Wrap(memory.New())
			all.Store(st, faults)
			return st
		},
		Break: func(_ testing.TB, s store.DataStore) func() {
			faults, _ := all.Load(s)
			return outage(faults.(*faultstore.Faults), &outages)
		},
	})
}

// So it does on a store that is slow at times, and with several handles that go
// down together.
func TestContractOfSlowHandles(t *testing.T) {
	type opened struct {
		faults *faultstore.Faults
		dir    string
	}
	var all sync.Map // opened by store
	on := func(o opened) store.DataStore {
		st := o.faults.Wrap(dirstore.Open(o.dir))
		all.Store(st, o)
		return st
	}
	of := func(s store.DataStore) opened {
		o, _ := all.Load(s)
		return o.(opened)
	}
	outages := 0
	storetest.Run(t, storetest.Options{
		Open: func(t testing.TB) store.DataStore {
			faults := faultstore.New(1)
			faults.Delay(faultstore.All, 300*time.Microsecond, faultstore.Chance(0.2))
			return on(opened{faults, t.TempDir()})
		},
		Reopen:         func(_ testing.TB, first store.DataStore) store.DataStore { return on(of(first)) },
		ReopenedWrites: true,
		Flush: func(t testing.TB, s store.DataStore) {
			if err := os.Remove(filepath.Join(of(s).dir, "state")); err != nil {
				t.Fatal(err)
			}
		},
		Break: func(_ testing.TB, s store.DataStore) func() { return outage(of(s).faults, &outages) },
	})
}
