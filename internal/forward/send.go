package forward

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/flagstead/flagstead/internal/delivery"
	"github.com/flagstead/flagstead/internal/protocol"
)

// A sender posts batches of one environment's insights.
type sender struct {
	client   *http.Client
	endpoint string
	refused  func(error) // hears of insights that FeatBit refused
}

func newSender(url string, client *http.Client, parallel int, refused func(error)) (*sender, error) {
	base, err := protocol.BaseURL(url, "http")
	if err != nil {
		return nil, fmt.Errorf("forward: URL: %w", err)
	}
	base.Path += protocol.InsightPath
	s := &sender{endpoint: base.String(), refused: refused}
	if client == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConnsPerHost = parallel
		t.DisableCompression = true // answers are empty
		client = &http.Client{Transport: t, Timeout: 10 * time.Second}
	}
	s.client = delivery.WithoutGet(client)
	return s, nil
}

type verdict int

const (
	settled      verdict = iota
	again                // the server is not able to at the moment
	unauthorized         // it does not know the secret
)

// A result says what became of a batch, from its front: what was delivered or
// refused is settled, the rest is not.
type result struct {
	verdict  verdict
	settled  int // insights
	refused  int // of these
	status   int // of the last answer; 0: none came
	after    time.Duration
	requests int
	err      error
}

// send posts insights until all are settled or an attempt fails. What the server
// refuses as malformed or too large is halved until the entry is found that it
// cannot take. stubborn treats an answer of 5xx so, too.
func (s *sender) send(ctx context.Context, secret protocol.Secret, insights []json.RawMessage, stubborn bool) result {
	var r result
	for size := len(insights); r.settled < len(insights); {
		part := insights[r.settled:min(r.settled+size, len(insights))]
		a := delivery.Post(ctx, s.client, delivery.Request{Endpoint: s.endpoint, Secret: secret, Body: array(part)})
		r.requests++
		r.status, r.err = a.Status, a.Err
		switch {
		case a.Outcome == delivery.Accepted:
			r.settled += len(part)
			size = max(size, len(insights)-r.settled)
		case a.Outcome == delivery.Unauthorized, a.Status == http.StatusForbidden:
			r.verdict = unauthorized
			return r
		case a.Status == http.StatusBadRequest, a.Status == http.StatusRequestEntityTooLarge,
			a.Status == http.StatusUnprocessableEntity, stubborn && a.Status >= 500:
			if len(part) > 1 {
				size = len(part) / 2
				continue
			}
			r.settled++
			r.refused++
			s.refused(a.Err)
			size = len(insights) - r.settled
		default:
			// A wrong address or a redirect, too: somebody will mend it.
			r.verdict, r.after = again, a.RetryAfter
			return r
		}
	}
	r.err = nil
	return r
}

// array returns a JSON array.
func array(insights []json.RawMessage) []byte {
	size := 2
	for _, in := range insights {
		size += len(in) + 1
	}
	b := append(make([]byte, 0, size), '[')
	for i, in := range insights {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, in...)
	}
	return append(b, ']')
}

// A pace is how long to pause after failures in a row.
type pace struct{ least, most time.Duration }

// after returns a random pause up to what doubles with each failure, so that those
// who failed together do not come back together.
func (p pace) after(failures int) time.Duration {
	d := p.least
	for i := 1; i < failures && d < p.most; i++ {
		d *= 2
	}
	return rand.N(min(d, p.most)) + 1
}
