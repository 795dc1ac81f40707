// Command reader is a process that reads flags from a store and does nothing else: it
// says how much memory it has when it is ready, and ends.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/bolt"
	"github.com/flagstead/flagstead/store/file"
	"github.com/flagstead/flagstead/store/redis"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: reader offline|redis|bolt|file PLACE")
	}
	heap, resident, err := run(os.Args[1], os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(heap, resident)
}

// run returns the bytes of the heap that are in use and of the process that are resident.
func run(where, place string) (heap uint64, resident int, err error) {
	var st interface {
		store.Reader
		Close() error
	}
	cfg := sdk.Config{}
	switch where {
	case "offline":
		cfg.Offline, cfg.BootstrapFile = true, place
	case "redis":
		st, err = redis.Open(place, nil)
	case "bolt":
		st, err = bolt.Open(place, &bolt.Options{ReadOnly: true})
	case "file":
		st, err = file.Open(place, &file.Options{ReadOnly: true})
	default:
		err = fmt.Errorf("no store is called %q", where)
	}
	if err != nil {
		return 0, 0, err
	}
	if st != nil {
		defer st.Close()
		cfg.Store = st
	}
	c, err := sdk.New(cfg)
	if err != nil {
		return 0, 0, err
	}
	defer c.Close(context.Background())
	if err := c.WaitReady(context.Background()); err != nil {
		return 0, 0, err
	}
	for range 3 {
		runtime.GC()
	}
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if resident, err = rss(); resident > 0 {
		resident -= int(m.HeapIdle - m.HeapReleased) // free, and did not go back to the system
	}
	return m.HeapAlloc, resident, err
}

// rss returns 0 where /proc does not say.
func rss() (int, error) {
	status, err := os.ReadFile("/proc/self/status")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kB, err := strconv.Atoi(strings.Fields(rest)[0])
			return kB << 10, err
		}
	}
	return 0, fmt.Errorf("no VmRSS in %s", status)
}
