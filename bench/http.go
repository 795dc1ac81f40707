package bench

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
)

// answer drains a request and returns a response with a JSON body.
func answer(r *http.Request, status int, body []byte) *http.Response {
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
	}
	return &http.Response{
		Status:     http.StatusText(status),
		StatusCode: status,
		Proto:      "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        http.Header{"Content-Type": {"application/json"}, "Content-Length": {strconv.Itoa(len(body))}},
		Body:          io.NopCloser(bytes.NewReader(body)),
		ContentLength: int64(len(body)),
		Request:       r,
	}
}

// A server answers requests in the process, so that no network is measured.
type server func(*http.Request) *http.Response

// RoundTrip implements [http.RoundTripper].
func (s server) RoundTrip(r *http.Request) (*http.Response, error) { return s(r), nil }

// client returns an HTTP client of s.
func (s server) client() *http.Client { return &http.Client{Transport: s} }
