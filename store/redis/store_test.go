package redis

import (
	"strconv"
	"syscall"
	"testing"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/storetest"
)

func TestContract(t *testing.T) {
	server := redistest.Start(t) // of its own: it goes down now and then
	outages := 0
	storetest.Run(t, storetest.Options{
		Open: func(t testing.TB) store.DataStore { return open(t, server, newEnv()) },
		Reopen: func(t testing.TB, first store.DataStore) store.DataStore {
			return open(t, server, first.(*Store).opts.Env)
		},
		Place: func(_ testing.TB, s store.DataStore) string {
			return server.URL() + "/0?env=" + s.(*Store).opts.Env
		},
		// By turns it is frozen, and gone with all that it had.
		Break: func(t testing.TB, _ store.DataStore) func() {
			if outages++; outages%2 == 0 {
				server.Stop(t)
				return func() { server.Restart(t) }
			}
			pid := pidOf(t, server)
			signal(t, pid, syscall.SIGSTOP)
			return func() { signal(t, pid, syscall.SIGCONT) }
		},
		Spoil: map[string]func(testing.TB, store.DataStore){
			"an item is gone":     func(t testing.TB, s store.DataStore) { harm(t, server, s, "HDEL", "f:a") },
			"the counts are gone": func(t testing.TB, s store.DataStore) { harm(t, server, s, "HDEL", "$seq", "$n") },
			"a foreign field":     func(t testing.TB, s store.DataStore) { harm(t, server, s, "HSET", "foreign", "1") },
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

func harm(t testing.TB, server *redistest.Server, s store.DataStore, command string, args ...any) {
	t.Helper()
	args = append([]any{command, s.(*Store).data}, args...)
	if err := rawClient(t, server).Do(bounded(t), args...).Err(); err != nil {
		t.Fatal(err)
	}
}

func pidOf(t testing.TB, server *redistest.Server) int {
	t.Helper()
	info, err := rawClient(t, server).InfoMap(bounded(t), "server").Result()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(info["Server"]["process_id"])
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func signal(t testing.TB, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
}
