package syncer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/protocol"
)

// A socket opens connections to FeatBit and says what their ends mean. Its owner uses
// it from one goroutine at a time.
type socket struct {
	cfg     *Config
	base    *url.URL
	secret  protocol.Secret
	address func(at time.Time) string // for one attempt; as sensitive as the secret
	hint    string                    // what to look at when FeatBit refuses the secret
	skewed  func(time.Duration)       // told of another skew

	// skew is FeatBit's clock minus ours, by the Date header of its last answer.
	// applied is what the last token was made with.
	skew, applied time.Duration
	dated         bool // there was a Date header
}

// errClock says that FeatBit refused a token for its time. The next one is made
// with FeatBit's.
var errClock = errors.New("this host's clock is wrong")

func (s *socket) dial(ctx context.Context) (*websocket.Conn, error) {
	cfg := s.cfg
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
	header := http.Header{
		"User-Agent":    {protocol.UserAgent},
		"Authorization": {string(s.secret)},

		protocol.PatchesHeader: {protocol.WholePatches},
	}
	s.applied = s.skew
	// The library would set a context's deadline on the connection, and what fails
	// by that does not say so; ctx closes the connection instead.
	conn, resp, err := d.DialContext(context.WithoutCancel(ctx), s.address(time.Now().Add(s.applied)), header)
	if resp != nil {
		s.noteDate(resp.Header.Get("Date"))
	}
	if err == nil && !live.arm() {
		conn.Close()
		err = ctx.Err()
	}
	if err != nil {
		if live != nil {
			live.arm()
		}
		if resp == nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("no answer within %v: %w", cfg.DialTimeout, err)
		}
		return nil, s.dialError(resp, err)
	}
	conn.SetReadLimit(cfg.MaxMessage)
	return conn, nil
}

// noteDate takes the skew from a Date header. Its seconds are whole, so it is
// right to half a second beside the time that the answer took; what is below two
// seconds is taken for none.
func (s *socket) noteDate(date string) {
	at, err := http.ParseTime(date)
	if err != nil {
		return
	}
	s.dated = true
	skew := time.Until(at.Add(time.Second / 2)).Round(time.Second)
	if skew.Abs() < 2*time.Second {
		skew = 0
	}
	if skew == s.skew {
		return
	}
	s.skew = skew
	s.skewed(skew)
}

// dialError says in words what a failed attempt means. The text has no token.
func (s *socket) dialError(resp *http.Response, err error) error {
	where := s.base.Redacted() + protocol.StreamingPath
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

// explain turns the error of a read into the reason that a user should see.
func (s *socket) explain(err error) error {
	if closed, ok := errors.AsType[*websocket.CloseError](err); ok && closed.Code == protocol.CloseInvalid {
		// A little less than the window, for the time on the way.
		if off := (s.skew - s.applied).Abs(); off > protocol.TokenWindow-5*time.Second {
			return fmt.Errorf("%w: clock off by %d s, FeatBit allows %d s (4003)", errClock,
				int(off.Seconds()), int(protocol.TokenWindow.Seconds()))
		}
		hint := s.hint
		if !s.dated {
			hint += fmt.Sprintf(", and that this host's clock is less than %d s off", int(protocol.TokenWindow.Seconds()))
		}
		return fmt.Errorf("%w: %s", ErrUnauthorized, hint)
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return fmt.Errorf("connection to %s is dead: nothing arrived for %v", s.base.Redacted(), s.cfg.ReadTimeout)
	}
	return fmt.Errorf("connection to %s lost: %w", s.base.Redacted(), err)
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
