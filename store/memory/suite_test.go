package memory_test

import (
	"testing"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/store/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, storetest.Options{
		Open: func(testing.TB) store.DataStore { return memory.New() },
	})
}
