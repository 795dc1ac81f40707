//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package spool

import (
	"errors"
	"os"
	"runtime"
)

func lock(string) (*os.File, error) {
	return nil, errors.New("spools on disk are not supported on " + runtime.GOOS)
}

func noSpace(error) bool { return false }
