//go:build !unix

package relay

import (
	"net"
	"syscall"
)

// rawConn returns nil: connections are read and written by goroutines that block.
func rawConn(net.Conn) syscall.RawConn { return nil }

func awaitBytes(syscall.RawConn) error { panic("no raw connection here") }

func writeNow(syscall.RawConn, []byte) (int, error) { panic("no raw connection here") }
