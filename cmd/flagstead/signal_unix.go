//go:build unix

package main

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// onReconcileSignal calls f for each SIGUSR1, until the function that it returns is
// called.
func onReconcileSignal(f func()) (stop func()) {
	c := make(chan os.Signal, 1)
	done := make(chan struct{})
	signal.Notify(c, syscall.SIGUSR1)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-c:
				f()
			case <-done:
				return
			}
		}
	})
	return func() {
		signal.Stop(c)
		close(done)
		wg.Wait()
	}
}
