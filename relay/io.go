package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/flagstead/flagstead/internal/flags"
	"github.com/flagstead/flagstead/internal/protocol"
)

const (
	// closeGrace is how long we wait for the answer to a close frame.
	closeGrace = time.Second

	// slowestRate is what a connection must carry of a large message, in bytes
	// per second; smaller ones have the WriteTimeout.
	slowestRate = 256 << 10
)

// A conn is one stream. It has one goroutine, its reader, which is parked while the
// SDK is silent. Whoever has something for the SDK sends it without waiting: what the
// kernel does not take at once is left to a goroutine, flush, that lives until it is
// gone. Changes are not queued for a slow SDK: flush sends those that it lacks by
// then.
type conn struct {
	relay  *Relay
	env    *environment // nil if it is rejected
	cred   credential
	nc     net.Conn
	raw    syscall.RawConn // nil if nc is not simply a socket
	reject bool            // it is closed with 4003 at once
	whole  bool            // a change of several items goes out as one patch

	slotAt, shardAt int32 // places in these two
	slot            *bag
	shard           *shard // nil if it is rejected

	heard atomic.Int64 // when the SDK last sent something, in Unix nanoseconds
	part  *partial     // reader's own; nil between messages

	mu      sync.Mutex
	user    *flags.User   // of a client-side SDK
	synced  bool          // the SDK has asked for data
	closing bool          // our close frame is sent, or waits to be
	dead    bool          // nothing can be sent any more
	sending bool          // flush runs
	sent    int64         // everything served up to this version was sent
	pending net.Buffers   // for flush
	waiting int           // bytes in pending
	idle    chan struct{} // closed when flush has nothing to do; nil unless the reader waits for that
}

func (c *conn) remote() string { return c.nc.RemoteAddr().String() }

// start begins to read. running counts the connection already.
func (c *conn) start() {
	if c.reject {
		c.leave(protocol.CloseInvalid, invalidReason)
	}
	if c.raw != nil {
		go c.park()
	} else {
		go c.listen()
	}
}

// inBuffers are for what SDKs send.
var inBuffers = sync.Pool{New: func() any { return new([4 << 10]byte) }}

// park waits until the SDK sends something, hears it, and leaves the wait for more to
// a new goroutine: this one's stack has grown, and only its end gives that back.
func (c *conn) park() {
	if !c.receive(awaitBytes(c.raw)) {
		c.end()
		return
	}
	go c.park()
}

// receive reads what there is, and reports whether the connection goes on.
func (c *conn) receive(err error) bool {
	if err != nil {
		return false
	}
	in := inBuffers.Get().(*[4 << 10]byte)
	defer inBuffers.Put(in)
	n, err := c.nc.Read(in[:])
	return c.hear(in[:n]) && err == nil
}

// listen does park's work where reading cannot be told from waiting.
func (c *conn) listen() {
	defer c.end()
	in := make([]byte, 1<<10)
	for {
		n, err := c.nc.Read(in)
		if !c.hear(in[:n]) || err != nil {
			return
		}
	}
}

// hear takes what the SDK sent and reports whether the connection goes on.
func (c *conn) hear(in []byte) bool {
	if len(in) == 0 {
		return true
	}
	c.heard.Store(time.Now().UnixNano())
	if c.part == nil {
		c.part = &partial{}
	}
	if c.part == deaf {
		return true
	}
	err := c.part.feed(in, c.relay.cfg.MaxMessage, c.take)
	if bad, ok := errors.AsType[*violation](err); ok {
		// If we closed at once, the close frame might get lost.
		c.leave(bad.code, bad.reason)
		c.part = deaf
		return true
	}
	if c.part.empty() {
		c.part = nil
	}
	return err == nil
}

// deaf is the partial of a connection whose peer broke the protocol: what it sends
// is no longer looked at.
var deaf = &partial{}

// take handles one message or control frame.
func (c *conn) take(op byte, payload []byte) error {
	switch op {
	case opPong:
		return nil
	case opPing:
		return c.reply(newFrame(opPong, payload))
	case opClose:
		code, err := closeCode(payload)
		if err != nil {
			return err
		}
		c.leave(code, "")
		c.lockIdle() // until that is sent, after what was on its way
		c.mu.Unlock()
		return io.EOF
	}
	req, ok := parseRequest(payload, c.cred.kind)
	c.mu.Lock()
	closing := c.closing
	c.mu.Unlock()
	if closing {
		return nil
	}
	if !ok {
		c.relay.counters.ignored.Add(1)
		return nil
	}
	err := c.answer(req)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.giveUp(err)
	}
	return err
}

// end is the reader's last act.
func (c *conn) end() {
	c.mu.Lock()
	c.dead = true
	c.mu.Unlock()
	_ = c.nc.Close()
	c.relay.forget(c)
}

// lockIdle locks mu as soon as nothing is on its way to the SDK, or never will be: an
// SDK that does not read is not read from. Only the reader may call it.
func (c *conn) lockIdle() {
	c.mu.Lock()
	for c.sending && !c.dead {
		if c.idle == nil {
			c.idle = make(chan struct{})
		}
		idle := c.idle
		c.mu.Unlock()
		<-idle
		c.mu.Lock()
	}
}

// reply sends an answer, and then what flush left to the reader. Only the reader may
// call it.
func (c *conn) reply(f frame) error {
	c.lockIdle()
	defer c.mu.Unlock()
	if err := c.send(f); err != nil {
		return err
	}
	return c.push()
}

// send sends f, or leaves it to flush. It does not wait. The caller holds mu.
func (c *conn) send(f frame) error {
	if c.dead || c.closing {
		return nil
	}
	return c.write(f)
}

func (c *conn) write(b []byte) error {
	if !c.sending && c.raw != nil {
		n, err := writeNow(c.raw, b)
		if err != nil {
			return err
		}
		if b = b[n:]; len(b) == 0 {
			return nil
		}
	}
	c.pending = append(c.pending, b)
	c.waiting += len(b)
	if !c.sending {
		c.sending = true
		c.relay.running.Go(c.flush)
	}
	return nil
}

// flush writes what is pending, and then what the SDK lacks of the current view, until
// it has everything. An SDK that does not accept that in the time it has is dropped.
func (c *conn) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() {
		c.sending = false
		c.wake()
	}()
	for !c.dead {
		if len(c.pending) == 0 {
			if c.closing {
				c.awaitClose()
				return
			}
			if c.idle != nil {
				return // the reader goes on
			}
			if err := c.push(); err != nil {
				c.giveUp(err)
				return
			}
			if len(c.pending) == 0 {
				return
			}
		}
		out, size := c.pending, c.waiting
		c.pending, c.waiting = nil, 0
		c.mu.Unlock()
		_ = c.nc.SetWriteDeadline(time.Now().Add(c.relay.cfg.WriteTimeout + time.Duration(size)*time.Second/slowestRate))
		_, err := out.WriteTo(c.nc)
		_ = c.nc.SetWriteDeadline(time.Time{})
		c.mu.Lock()
		if err != nil {
			c.giveUp(err)
		}
		c.heard.Store(time.Now().UnixNano()) // whoever accepts data is not silent
	}
}

func (c *conn) wake() {
	if c.idle != nil {
		close(c.idle)
		c.idle = nil
	}
}

// update sends what the SDK lacks of the current view. It does not wait for the SDK.
func (c *conn) update() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.push(); err != nil {
		c.giveUp(err)
	}
}

// probe pings the SDK, or ends the connection if it has been silent for too long. While
// something is on its way the SDK has a time limit for that.
func (c *conn) probe(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead || c.closing || c.sending {
		return
	}
	if silent := now.Sub(time.Unix(0, c.heard.Load())); silent > c.relay.silence {
		c.giveUp(errSilent)
		return
	}
	if err := c.send(c.relay.ping); err != nil {
		c.giveUp(err)
	}
}

var errSilent = errors.New("the SDK is silent")

// leave starts the closing handshake. The SDK's answer, or its silence, ends the
// reader. Only the first call counts.
func (c *conn) leave(code int, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead || c.closing {
		return
	}
	c.closing = true
	if err := c.write(closeFrame(code, reason)); err != nil {
		c.giveUp(err)
	} else if !c.sending {
		c.awaitClose()
	}
}

// awaitClose gives the SDK a moment to answer our close frame.
func (c *conn) awaitClose() { _ = c.nc.SetReadDeadline(time.Now().Add(closeGrace)) }

// giveUp ends a connection that cannot be used any more. The caller holds mu.
func (c *conn) giveUp(err error) {
	if c.dead {
		return
	}
	c.dead = true
	c.pending, c.waiting = nil, 0
	switch {
	case c.closing:
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.relay.counters.dropped.Add(1)
		c.relay.log.Info("relay: stream dropped, the SDK does not accept data", "env", *c.env.name.Load(), "remote", c.remote())
	default:
		c.relay.log.Debug("relay: stream ended", "env", *c.env.name.Load(), "remote", c.remote(), "error", err)
	}
	c.cut()
}

// cut closes the socket, without a TLS goodbye, which might take long. Reader and
// flush notice.
func (c *conn) cut() {
	nc := c.nc
	if over, ok := nc.(interface{ NetConn() net.Conn }); ok {
		nc = over.NetConn()
	}
	_ = nc.Close()
}
