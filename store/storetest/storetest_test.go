package storetest

import (
	"testing"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
)

func TestMemory(t *testing.T) {
	Run(t, Options{Open: func(testing.TB) store.DataStore { return memory.New() }})
}
