package redis

import (
	"testing"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, storetest.Options{
		Open: func(t testing.TB) store.DataStore { return open(t, server, newEnv()) },
		Reopen: func(t testing.TB, first store.DataStore) store.DataStore {
			return open(t, server, first.(*Store).opts.Env)
		},
		ReopenedWrites: true,
		Flush: func(t testing.TB, s store.DataStore) {
			r := s.(*Store)
			if err := rawClient(t, server).Del(bounded(t), r.data, r.sorted).Err(); err != nil {
				t.Fatal(err)
			}
		},
	})
}
