package sdk

import (
	"errors"
	"sync"
	"testing"
)

// TestProcessClient: Get makes one client for all, SetConfig replaces it, and a
// wrong Config replaces nothing.
func TestProcessClient(t *testing.T) {
	defer func() {
		if c := process.client.Swap(nil); c != nil {
			c.Close(t.Context())
		}
		process.cfg = nil
	}()
	if c, err := Get(); c != nil || !errors.Is(err, ErrNoConfig) {
		t.Errorf("Get before SetConfig = %v, %v", c, err)
	}
	if err := SetConfig(Config{}); err == nil {
		t.Error("SetConfig takes an empty Config")
	}
	if err := SetConfig(Config{Offline: true, BootstrapFile: "/does/not/exist"}); err != nil {
		t.Error(err) // New will say so
	}
	if c, err := Get(); c != nil || err == nil {
		t.Errorf("Get with a missing file = %v, %v", c, err)
	}
	if err := SetConfig(Config{Offline: true}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := map[*Client]int{}
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			c, err := Get()
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			seen[c]++
		})
	}
	wg.Wait()
	if len(seen) != 1 {
		t.Fatalf("Get made %d clients", len(seen))
	}
	first, _ := Get()
	if err := SetConfig(Config{}); err == nil {
		t.Error("SetConfig takes an empty Config")
	}
	if c, _ := Get(); c != first || first.isClosed() {
		t.Error("a wrong Config replaced the client")
	}
	if err := SetConfig(Config{Offline: true}); err != nil {
		t.Fatal(err)
	}
	second, _ := Get()
	if second == first || !first.isClosed() || second.isClosed() {
		t.Error("SetConfig did not replace the client")
	}
}
