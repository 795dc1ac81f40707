package syncer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/protocol"
)

// A link keeps a connection to FeatBit for its user.
type link struct {
	cfg    *Config
	base   *url.URL
	name   string // what it is for, in logs
	user   linkUser
	next   func() uint64 // numbers the connections
	number uint64        // of the connection that is open or was last

	blocked int // attempts in a row that reached somebody, but opened no stream

	// skew is FeatBit's clock minus ours, by the Date header of its last answer.
	// applied is what the last token was made with.
	skew, applied time.Duration
	dated         bool // there was a Date header

	reading atomic.Bool // a message is arriving
}

// A linkUser says what a link connects to, and takes what comes.
type linkUser interface {
	// request returns the address of the stream and the handshake's header. now is
	// FeatBit's time.
	request(now time.Time) (url string, header http.Header)

	// hint says what may be wrong when FeatBit refuses a connection with 4003.
	hint(dated bool) string

	connected(number uint64)
	ended(number uint64, err error)
	skewed(by time.Duration)
	heard(number uint64)            // something arrived
	ignored(what string, err error) // and could not be used

	// write makes requests and pings until ctx ends or the connection must. It is
	// the only writer of the connection but for the close frame.
	write(ctx context.Context, conn *websocket.Conn, number uint64) error

	// dataSync takes the data of a message of that type. An error ends the
	// connection.
	dataSync(ctx context.Context, data json.RawMessage, number uint64) error
}

// errRenew ends a connection that works, because a new one has more to give.
var errRenew = errors.New("a new connection is wanted")

// errClock says that FeatBit refused a token for its time. The next one is made
// with FeatBit's.
var errClock = errors.New("this host's clock is wrong")

// goodAfter is how long a connection must have lasted to count as good, so that
// the next pause starts small again: a server that accepts and closes must not
// be hammered.
const goodAfter = time.Minute

// run connects again and again. It returns ctx's error or one that wraps
// ErrUnauthorized.
func (l *link) run(ctx context.Context) error {
	cfg := l.cfg
	for attempt := 0; ; attempt++ {
		began := time.Now()
		err := l.connect(ctx)
		if errors.Is(err, errClock) && ctx.Err() == nil {
			cfg.Logger.Warn("connecting again with FeatBit's time", "env", l.name, "error", err)
			err = l.connect(ctx)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, ErrUnauthorized) {
			return err
		}
		if errors.Is(err, errRenew) {
			attempt = -1
			continue
		}
		if time.Since(began) > goodAfter {
			attempt = 0
		}
		l.user.ended(l.number, err)
		if !pause(ctx, jitter(attempt, cfg.BackoffMin, cfg.BackoffMax)) {
			return ctx.Err()
		}
	}
}

// jitter returns a random time up to first·2^attempt, capped at limit: full
// jitter, so that the clients of a restarted server spread out from the first
// attempt on.
func jitter(attempt int, first, limit time.Duration) time.Duration {
	b := first
	for ; attempt > 0 && b < limit; attempt-- {
		b *= 2
	}
	b = min(b, limit)
	return b/20 + rand.N(b-b/20)
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// connect opens one connection, serves it until it ends, and says why it did.
func (l *link) connect(ctx context.Context) error {
	conn, err := l.dial(ctx)
	if err != nil {
		return err
	}
	l.number = l.next()
	number := l.number
	silent := true
	l.user.connected(number)

	outer := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer conn.Close()
	defer cancel(nil)
	// Whoever notices first that the connection must end closes it, which ends
	// the read.
	stop := context.AfterFunc(ctx, func() {
		sendClose(conn, websocket.CloseNormalClosure)
		conn.Close()
	})
	defer stop()

	wg.Go(func() {
		if err := l.user.write(ctx, conn, number); err != nil {
			cancel(err)
		}
	})
	err = l.read(ctx, conn, &silent)
	if _, closed := errors.AsType[*websocket.CloseError](err); silent && !closed && outer.Err() == nil {
		l.blocked++ // something on the way lets the handshake pass and nothing else
	}
	switch {
	case errors.Is(err, errMalformed):
		sendClose(conn, websocket.CloseGoingAway)
	case errors.Is(err, errRenew):
		sendClose(conn, websocket.CloseNormalClosure)
	}
	if _, ok := errors.AsType[*websocket.CloseError](err); ok {
		return l.explain(err) // says more than that nothing could be sent any more
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return l.explain(err)
}

func sendClose(conn *websocket.Conn, code int) {
	conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(time.Second))
}

func (l *link) dial(ctx context.Context) (*websocket.Conn, error) {
	cfg := l.cfg
	ctx, cancel := context.WithTimeout(ctx, cfg.DialTimeout)
	defer cancel()
	var live *liveConn
	d := websocket.Dialer{
		Proxy: cfg.Proxy,
		NetDialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
			c, err := cfg.NetDial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			// While the handshake lasts, the end of ctx closes the connection:
			// a peer that says nothing, or a byte now and then, ends with it.
			live = &liveConn{Conn: c, timeout: cfg.ReadTimeout}
			live.armed = context.AfterFunc(ctx, func() { c.Close() })
			return live, nil
		},
	}
	if cfg.TLS != nil {
		d.TLSClientConfig = cfg.TLS.Clone()
	}
	l.applied = l.skew
	address, header := l.user.request(time.Now().Add(l.applied))
	// The library would set a context's deadline on the connection, and what fails
	// by that does not say so; ctx closes the connection instead.
	conn, resp, err := d.DialContext(context.WithoutCancel(ctx), address, header)
	if resp != nil {
		l.noteDate(resp.Header.Get("Date"))
	}
	if err == nil && !live.arm() {
		conn.Close()
		err = ctx.Err()
	}
	if err != nil {
		if live != nil {
			live.arm()
			l.blocked++
		} else {
			l.blocked = 0
		}
		if resp == nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("no answer within %v: %w", cfg.DialTimeout, err)
		}
		return nil, l.dialError(resp, err)
	}
	conn.SetReadLimit(cfg.MaxMessage)
	return conn, nil
}

// noteDate takes the skew from a Date header. Its seconds are whole, so it is
// right to half a second beside the time that the answer took; what is below two
// seconds is taken for none.
func (l *link) noteDate(date string) {
	at, err := http.ParseTime(date)
	if err != nil {
		return
	}
	l.dated = true
	skew := time.Until(at.Add(time.Second / 2)).Round(time.Second)
	if skew.Abs() < 2*time.Second {
		skew = 0
	}
	if skew == l.skew {
		return
	}
	l.skew = skew
	l.user.skewed(skew)
}

// dialError says in words what a failed attempt means. The text has no token.
func (l *link) dialError(resp *http.Response, err error) error {
	where := l.base.Redacted() + protocol.StreamingPath
	if resp == nil {
		return fmt.Errorf("cannot connect to %s: %w", where, err)
	}
	switch code := resp.StatusCode; {
	case code == http.StatusServiceUnavailable, code == http.StatusTooManyRequests, code >= 500:
		return fmt.Errorf("%s is not ready: it answered %s", where, resp.Status)
	case code == http.StatusUnauthorized, code == http.StatusForbidden, code == http.StatusProxyAuthRequired:
		return fmt.Errorf("%s refused the connection: it answered %s", where, resp.Status)
	}
	return fmt.Errorf("%s: %w: it answered %s", where, ErrNotFeatBit, resp.Status)
}

// errMalformed ends a connection on which something came that is no JSON.
var errMalformed = errors.New("malformed message")

// explain turns the error of a read into the reason that a user should see.
func (l *link) explain(err error) error {
	if closed, ok := errors.AsType[*websocket.CloseError](err); ok && closed.Code == protocol.CloseInvalid {
		// A little less than the window, for the time on the way.
		if off := (l.skew - l.applied).Abs(); off > protocol.TokenWindow-5*time.Second {
			return fmt.Errorf("%w: clock off by %d s, FeatBit allows %d s (4003)", errClock,
				int(off.Seconds()), int(protocol.TokenWindow.Seconds()))
		}
		return fmt.Errorf("%w: %s", ErrUnauthorized, l.user.hint(l.dated))
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return fmt.Errorf("connection to %s is dead: nothing arrived for %v", l.base.Redacted(), l.cfg.ReadTimeout)
	}
	return fmt.Errorf("connection to %s lost: %w", l.base.Redacted(), err)
}

// read hands over what arrives until the connection ends. It sets silent to false
// when something has.
func (l *link) read(ctx context.Context, conn *websocket.Conn, silent *bool) error {
	for {
		l.reading.Store(false)
		_, r, err := conn.NextReader()
		if err != nil {
			return err
		}
		l.reading.Store(true)
		text, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		*silent, l.blocked = false, 0
		l.user.heard(l.number)
		var env protocol.Envelope
		if err := json.Unmarshal(text, &env); err != nil {
			if _, ok := errors.AsType[*json.SyntaxError](err); ok {
				return fmt.Errorf("%w of %d bytes", errMalformed, len(text))
			}
			l.user.ignored("message of unknown shape", err)
			continue
		}
		if env.MessageType != protocol.TypeDataSync {
			if env.MessageType != protocol.TypePong {
				l.user.ignored("message of unknown type", nil)
			}
			continue
		}
		if err := l.user.dataSync(ctx, env.Data, l.number); err != nil {
			return err
		}
	}
}

// A liveConn fails a read when nothing at all arrives for a while. The deadline
// moves with every byte, so a slow link that delivers is not a dead one.
type liveConn struct {
	net.Conn
	timeout time.Duration

	handshaken bool        // set before anybody else reads
	armed      func() bool // ends the handshake's limit; false if it has struck
}

// arm is called when the handshake is over. It reports whether that was in time.
func (c *liveConn) arm() bool {
	c.handshaken = true
	return c.armed()
}

func (c *liveConn) Read(b []byte) (int, error) {
	if !c.handshaken {
		return c.Conn.Read(b)
	}
	if err := c.Conn.SetReadDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}
