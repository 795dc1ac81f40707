package protocol

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// A ProxyKey is a FeatBit relay-proxy key: it opens a connection that serves all
// environments in its scope. Like a [Secret] it prints as "[secret]".
type ProxyKey string

// String returns a placeholder, never the key.
func (ProxyKey) String() string { return redacted }

// GoString returns a placeholder, never the key.
func (ProxyKey) GoString() string { return redacted }

// LogValue returns a placeholder, never the key.
func (ProxyKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns a placeholder, never the key.
func (ProxyKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

const (
	proxyKeyPrefix = "rp-"
	proxyKeyMax    = 256
)

// Check returns an error if the text cannot be a relay-proxy key. The error does
// not repeat the text.
func (k ProxyKey) Check() error {
	switch {
	case k == "":
		return errors.New("no relay-proxy key")
	case !strings.HasPrefix(string(k), proxyKeyPrefix):
		return fmt.Errorf("a relay-proxy key begins with %q", proxyKeyPrefix)
	case len(k) > proxyKeyMax:
		return fmt.Errorf("the relay-proxy key has %d characters", len(k))
	}
	for _, c := range []byte(k) {
		if c <= ' ' || c >= 0x7f {
			return errors.New("the relay-proxy key has characters that no key has")
		}
	}
	return nil
}
