package redis

import (
	"context"
	"net"
	"syscall"
)

type dialer = func(ctx context.Context, network, addr string) (net.Conn, error)

// tracked wraps dial so that the connections end with ctx. A closed client alone
// leaves those open that are in their handshake, and with them whoever waits for
// a server that does not answer.
func tracked(ctx context.Context, dial dialer) dialer {
	return func(dialCtx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(dialCtx, network, addr)
		if err != nil {
			return nil, err
		}
		t := trackedConn{c, context.AfterFunc(ctx, func() { c.Close() })}
		// The client peeks into plain sockets to find dead connections, but not
		// into encrypted ones.
		if raw, ok := c.(syscall.Conn); ok {
			return trackedSocket{t, raw}, nil
		}
		return t, nil
	}
}

type trackedConn struct {
	net.Conn
	forget func() bool
}

func (c trackedConn) Close() error {
	c.forget()
	return c.Conn.Close()
}

type trackedSocket struct {
	trackedConn
	syscall.Conn
}
