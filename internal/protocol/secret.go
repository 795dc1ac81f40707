package protocol

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// A Secret is a FeatBit environment secret. It prints as "[secret]" wherever
// values are printed: fmt, slog, JSON, text. One place is beyond its reach: within
// an unexported field of another struct, fmt prints it as it is. Convert it to a
// string to use it.
type Secret string

const redacted = "[secret]"

// String returns a placeholder, never the secret.
func (Secret) String() string { return redacted }

// GoString returns a placeholder, never the secret.
func (Secret) GoString() string { return redacted }

// LogValue returns a placeholder, never the secret.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns a placeholder, never the secret.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// secretLen is two GUIDs of 16 bytes, each as 22 characters of base64.
const secretLen = 44

// EnvID returns the id of the environment that the secret belongs to, as a
// lower-case GUID, or an error if the text cannot be an environment secret. The
// error does not repeat the text.
func (s Secret) EnvID() (string, error) {
	if len(s) != secretLen {
		return "", fmt.Errorf("environment secret has %d characters, want %d", len(s), secretLen)
	}
	raw, err := base64.RawURLEncoding.DecodeString(string(s[secretLen/2:]))
	if err != nil {
		return "", errors.New("environment secret has characters that no secret has")
	}
	if _, err := base64.RawURLEncoding.DecodeString(string(s[:secretLen/2])); err != nil {
		return "", errors.New("environment secret has characters that no secret has")
	}
	if [16]byte(raw) == [16]byte{} {
		return "", errors.New("environment secret names no environment")
	}
	return formatGUID([16]byte(raw)), nil
}

// NewSecret returns a fresh secret for the environment with the given GUID.
func NewSecret(envID string) (Secret, error) {
	env, err := parseGUID(envID)
	if err != nil {
		return "", err
	}
	var head [16]byte
	rand.Read(head[:]) // never fails, see its documentation
	return Secret(base64.RawURLEncoding.EncodeToString(head[:]) + base64.RawURLEncoding.EncodeToString(env[:])), nil
}

// NewEnvID returns a random GUID.
func NewEnvID() string {
	var b [16]byte
	rand.Read(b[:])
	b[7] = b[7]&0x0f | 0x40 // version 4; .NET stores the third field little-endian
	b[8] = b[8]&0x3f | 0x80
	return formatGUID(b)
}

// EnvID returns the id of an environment, a GUID in any case, as [Secret.EnvID] writes
// it.
func EnvID(text string) (string, error) {
	env, err := parseGUID(text)
	if err != nil {
		return "", err
	}
	return formatGUID(env), nil
}

// netOrder maps a GUID's text order to .NET's byte order, which FeatBit
// encodes: the first three fields are little-endian.
var netOrder = [16]int{3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15}

func formatGUID(net [16]byte) string {
	var b [16]byte
	for i, j := range netOrder {
		b[i] = net[j]
	}
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func parseGUID(text string) ([16]byte, error) {
	var net [16]byte
	b, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(b) != 16 || len(text) != 36 {
		return net, fmt.Errorf("%q is not a GUID", text)
	}
	for i, j := range netOrder {
		net[j] = b[i]
	}
	return net, nil
}

// CheckEnvID returns the GUID of an environment in lower case, or an error if the
// text is none.
func CheckEnvID(text string) (string, error) {
	net, err := parseGUID(text)
	if err != nil {
		return "", err
	}
	return formatGUID(net), nil
}
