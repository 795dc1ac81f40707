package storetest_test

import (
	"testing"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/store/storetest"
)

// In the test of a store, this is a function named TestStore.
func Example() {
	_ = func(t *testing.T) {
		storetest.Run(t, storetest.Options{
			Open: func(t testing.TB) store.DataStore { return memory.New() },
		})
	}
}
