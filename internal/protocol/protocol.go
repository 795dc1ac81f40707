// Package protocol holds what FeatBit's evaluation server and its SDKs agree
// on: environment secrets, connection tokens, paths, messages and the shape of
// insight events. It opens no connection.
package protocol

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Paths below a FeatBit base URL.
const (
	StreamingPath = "/streaming"
	LatestAllPath = "/api/public/sdk/server/latest-all"
	InsightPath   = "/api/public/insight/track"
	RegisterPath  = "/api/public/agent/register"
)

// Close codes of the stream that have a meaning of their own.
const (
	// CloseInvalid is sent by the server for a request that can never succeed:
	// wrong secret, wrong type, or a clock more than 30 s off. SDKs stop for
	// good when they get it.
	CloseInvalid = 4003
)

// The messageType values of the stream.
const (
	TypePing     = "ping"
	TypePong     = "pong"
	TypeEcho     = "echo"
	TypeDataSync = "data-sync"

	TypeAgentStatus = "rp-agent-status" // of a connection with a relay-proxy key
)

// Frames with fixed content, as the Python SDK and FeatBit's server send them.
var (
	PingFrame = []byte(`{"messageType":"ping","data":null}`)
	PongFrame = []byte(`{"messageType":"pong","data":{}}`)
)

// A client that sends the header PatchesHeader with the value WholePatches when
// it opens the stream asks a relay for each change of several items as one
// patch, so that it becomes visible as a whole. Without it a relay sends one
// item at a time, because several official SDKs lose items otherwise. FeatBit's
// own server knows neither and sends one item at a time.
const (
	PatchesHeader = "Flagstead-Patches"
	WholePatches  = "whole"
)

// TokenWindow is how far the time in a token may be from FeatBit's clock.
const TokenWindow = 30 * time.Second

// An Envelope is the outer shape of every message in both directions.
type Envelope struct {
	MessageType string          `json:"messageType"`
	Data        json.RawMessage `json:"data"`
}

// DataSyncRequest asks the server for everything (cursor 0) or for what is
// newer than cursor, in milliseconds since the Unix epoch.
func DataSyncRequest(cursor int64) []byte {
	return fmt.Appendf(nil, `{"messageType":"data-sync","data":{"timestamp":%d}}`, cursor)
}

// BaseURL checks a base URL (http, https, ws or wss with a host) and returns it
// with the wanted kind of scheme ("ws" or "http"; the s of TLS is kept), without
// a trailing slash, query or fragment. Errors never contain the URL's password.
func BaseURL(text, kind string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSpace(text))
	if err != nil {
		// url.Error repeats the text, which may hold a password.
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return nil, fmt.Errorf("URL is not valid: %w", err)
	}
	tls := ""
	switch strings.ToLower(u.Scheme) {
	case "http", "ws":
	case "https", "wss":
		tls = "s"
	default:
		return nil, fmt.Errorf("URL %q must start with http://, https://, ws:// or wss://", u.Redacted())
	}
	if u.Host == "" {
		return nil, fmt.Errorf("URL %q has no host", u.Redacted())
	}
	return &url.URL{Scheme: kind + tls, User: u.User, Host: u.Host, Path: strings.TrimRight(u.Path, "/")}, nil
}

// ProxyStreamingURL returns the address of the stream for a relay-proxy key, and
// is as sensitive as that.
func ProxyStreamingURL(base *url.URL, key ProxyKey) string {
	u := *base
	u.Path += StreamingPath
	u.RawQuery = url.Values{"token": {string(key)}, "type": {"relay-proxy"}}.Encode()
	return u.String()
}

// StreamingURL returns the address of the stream for one connection attempt.
// It carries the token and is as sensitive as the secret itself.
func StreamingURL(base *url.URL, token string) string {
	u := *base
	u.Path += StreamingPath
	u.RawQuery = url.Values{"token": {token}, "type": {"server"}}.Encode()
	return u.String()
}
