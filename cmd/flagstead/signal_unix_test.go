//go:build unix

package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestSyncReconcilesOnSignal(t *testing.T) {
	url, secret := dev(t, flagsFile(t))
	t.Setenv("FLAGSTEAD_SECRET", secret)
	s := start(t, "sync", "file://"+filepath.Join(t.TempDir(), "a.json"), "--url", url)
	s.says(t, "in sync")
	if err := syscall.Kill(os.Getpid(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	s.says(t, "asking for everything")
}
