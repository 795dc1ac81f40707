package main

import (
	"context"
	"net"
	"sync"
	"time"
)

// A contact opens a command's connections to FeatBit. It notes how far they got,
// which is what to tell somebody who waited in vain, and can cut them off: the
// peer may be one that accepts and says nothing, and a command keeps its limits
// with that, too.
type contact struct {
	mu             sync.Mutex
	reached, heard bool
	cut            bool
	conn           net.Conn // the last one
}

// hangUpAfter is how long connections get to end in good order.
const hangUpAfter = 200 * time.Millisecond

// dial is a syncer.Config.NetDial.
func (c *contact) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		conn.Close()
		return nil, net.ErrClosed
	}
	c.reached, c.conn = true, conn
	return contactConn{conn, c}, nil
}

// hangUp closes the connection and opens no other one.
func (c *contact) hangUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	if c.conn != nil {
		c.conn.Close()
	}
}

// hangUpWith hangs up soon after ctx ends.
func (c *contact) hangUpWith(ctx context.Context) {
	context.AfterFunc(ctx, func() { time.AfterFunc(hangUpAfter, c.hangUp) })
}

// why says what is missing when there are no flags.
func (c *contact) why() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.heard:
		return "it answered, but sent no flags"
	case c.reached:
		return "it accepted the connection and said nothing"
	}
	return "it did not accept the connection"
}

type contactConn struct {
	net.Conn
	contact *contact
}

func (c contactConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.contact.mu.Lock()
		c.contact.heard = true
		c.contact.mu.Unlock()
	}
	return n, err
}
