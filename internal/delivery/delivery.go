// Package delivery makes one attempt to post insights to FeatBit.
package delivery

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
)

// An Outcome says what an attempt came to.
type Outcome int

// The outcomes. Other redirects and client errors than those that Refused and
// Unauthorized stand for are Refused as well; Status tells them apart.
const (
	Accepted     Outcome = iota
	Refused              // repeating it cannot help
	Unauthorized         // the server does not know the secret
	Failed               // worth another attempt
)

// A Request is what to post, and where.
type Request struct {
	Endpoint string // complete URL
	Secret   protocol.Secret
	Body     []byte // a JSON array of insights
	Gzip     bool   // Body is compressed
}

// An Answer is what came of a Request.
type Answer struct {
	Outcome    Outcome
	Status     int           // of HTTP; 0 without an answer
	RetryAfter time.Duration // how long a server that failed asks to be left alone, 5 minutes at most
	Err        error         // what happened; nil if Accepted
}

// maxRetryAfter caps what a server may ask for.
const maxRetryAfter = 5 * time.Minute

// Post makes one attempt. It ends with ctx, or when client's timeout is over.
// client should come from WithoutGet.
func Post(ctx context.Context, client *http.Client, r Request) Answer {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.Endpoint, bytes.NewReader(r.Body))
	if err != nil {
		return Answer{Outcome: Refused, Err: err}
	}
	if r.Gzip {
		req.Header.Set("Content-Encoding", "gzip")
	}
	req.Header.Set("Authorization", string(r.Secret))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", protocol.UserAgent)
	resp, err := client.Do(req)
	if err != nil {
		return Answer{Outcome: Failed, Err: err}
	}
	defer resp.Body.Close()
	// Reading a little lets the connection be used again.
	io.Copy(io.Discard, io.LimitReader(resp.Body, 4<<10))
	a := Answer{Outcome: Refused, Status: resp.StatusCode, Err: fmt.Errorf("server answered %s", resp.Status)}
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
		a.Outcome, a.Err = Accepted, nil
	case code == http.StatusUnauthorized:
		a.Outcome = Unauthorized
	case code == http.StatusRequestTimeout, code == http.StatusTooManyRequests, code >= 500:
		a.Outcome, a.RetryAfter = Failed, retryAfter(resp.Header, time.Now())
	case code >= 300 && code < 400:
		a.Err = fmt.Errorf("%w; events do not follow this redirect, set the event URL to where it leads", a.Err)
	}
	return a
}

// retryAfter returns how long the server asks to be left alone, in either form
// of RFC 9110, section 10.2.3.
func retryAfter(h http.Header, now time.Time) time.Duration {
	text := h.Get("Retry-After")
	var d time.Duration
	if seconds, err := strconv.ParseInt(text, 10, 32); err == nil {
		d = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}

// WithoutGet returns a copy of c, or of a client with a timeout of 10 seconds,
// that follows a redirect only if the events and the secret go along: one that
// would turn the POST into a GET gives an answer that says nothing about the
// events, and to another host the secret is not sent.
func WithoutGet(c *http.Client) *http.Client {
	var own http.Client
	if c != nil {
		own = *c
	} else {
		own.Timeout = 10 * time.Second
	}
	callers := own.CheckRedirect
	own.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		plain := via[0].URL.Scheme == "https" && req.URL.Scheme != "https"
		if req.Method != http.MethodPost || req.URL.Hostname() != via[0].URL.Hostname() || plain || len(via) >= 5 {
			return http.ErrUseLastResponse
		}
		if callers != nil {
			return callers(req, via)
		}
		return nil
	}
	return &own
}
