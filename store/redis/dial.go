package redis

import (
	"context"
	"crypto/tls"
	"net"
	"syscall"
	"time"
)

type dialer = func(ctx context.Context, network, addr string) (net.Conn, error)

// newDialer returns a dialer whose connections end with closed. A config makes it
// speak TLS.
func newDialer(closed context.Context, config *tls.Config) dialer {
	d := &net.Dialer{
		Timeout:         dialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	plain := tracked(closed, d.DialContext)
	if config == nil {
		return plain
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, 2*dialTimeout)
		defer cancel()
		raw, err := plain(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		own := config
		if own.ServerName == "" {
			own = config.Clone()
			own.ServerName, _, _ = net.SplitHostPort(addr)
		}
		c := tls.Client(raw, own)
		if err := c.HandshakeContext(ctx); err != nil {
			raw.Close()
			return nil, err
		}
		return c, nil
	}
}

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
