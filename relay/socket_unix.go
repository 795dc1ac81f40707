//go:build unix

package relay

import (
	"io"
	"net"
	"syscall"
)

// rawConn returns nc's file descriptor if bytes go from there to the peer as they
// are, or nil.
func rawConn(nc net.Conn) syscall.RawConn {
	var s syscall.Conn
	switch nc := nc.(type) {
	case *net.TCPConn:
		s = nc
	case *net.UnixConn:
		s = nc
	default:
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// awaitBytes waits until there is something to read, or the end. It reads nothing
// and needs little stack: a goroutine that parks in it keeps the 2 KiB it was born
// with.
func awaitBytes(raw syscall.RawConn) error { return raw.Read(readable) }

func readable(fd uintptr) bool {
	var one [1]byte
	for {
		switch _, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK); err {
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			return true
		}
	}
}

// writeNow writes what the kernel takes of b without waiting, which may be nothing.
func writeNow(raw syscall.RawConn, b []byte) (n int, err error) {
	closed := raw.Write(func(fd uintptr) bool {
		for n < len(b) {
			var wrote int
			switch wrote, err = syscall.Write(int(fd), b[n:]); {
			case err == syscall.EINTR:
				err = nil
			case err == syscall.EAGAIN:
				err = nil
				return true
			case err != nil:
				return true
			case wrote == 0:
				err = io.ErrUnexpectedEOF
				return true
			default:
				n += wrote
			}
		}
		return true
	})
	if closed != nil {
		return n, closed
	}
	return n, err
}
