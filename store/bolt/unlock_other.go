//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package bolt

import "os"

// release closes f, and with that gives up bbolt's lock where the system lets
// go of it.
func release(f *os.File) error { return f.Close() }
