//go:build !linux && !darwin

package fswatch

import (
	"errors"
	"os"
	"runtime"
)

// Without device and inode a replaced file shows by its size and time only.
func fingerprintOf(info os.FileInfo) Fingerprint {
	return Fingerprint{Size: info.Size(), Modified: info.ModTime().UnixNano()}
}

// TryLock is not supported on this system.
func TryLock(string) (unlock func(), err error) {
	return nil, errors.New("fswatch: locking files is not supported on " + runtime.GOOS)
}

func syncDir(string) error { return nil }
