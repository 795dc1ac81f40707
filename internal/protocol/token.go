package protocol

import (
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// digits is the alphabet of the numbers in a token: the letter at index d
// stands for the digit d.
const digits = "QBWSPHDXZU"

// A token is the secret with the time written into it:
//
//	enc(start, 3) enc(len(time), 2) secret[:start] enc(time) secret[start:]
//
// Token returns one for a connection attempt at the given time. Every attempt
// needs a new one, because FeatBit refuses those older than TokenWindow.
func Token(s Secret, now time.Time) string {
	text := strings.TrimRight(string(s), "=")
	return token(text, now, max(rand.IntN(max(len(text), 1)), 2))
}

func token(text string, now time.Time, start int) string {
	start = min(start, len(text))
	millis := strconv.FormatInt(now.UnixMilli(), 10)
	b := make([]byte, 0, 5+len(text)+len(millis))
	b = appendDigits(b, strconv.Itoa(start), 3)
	b = appendDigits(b, strconv.Itoa(len(millis)), 2)
	b = append(b, text[:start]...)
	b = appendDigits(b, millis, len(millis))
	b = append(b, text[start:]...)
	return string(b)
}

func appendDigits(b []byte, number string, width int) []byte {
	for range width - len(number) {
		b = append(b, digits[0])
	}
	for _, d := range []byte(number) {
		b = append(b, digits[d-'0'])
	}
	return b
}

// ErrToken says that a text is not a token. It never repeats the text.
var ErrToken = errors.New("not a connection token")

// ParseToken returns the secret and the time in a token. It checks the form
// only: neither whether the secret is known nor how old the token is.
func ParseToken(token string) (Secret, time.Time, error) {
	if len(token) < 5 {
		return "", time.Time{}, ErrToken
	}
	start, ok1 := parseDigits(token[:3])
	width, ok2 := parseDigits(token[3:5])
	rest := token[5:]
	if !ok1 || !ok2 || width == 0 || start > 255 || int64(len(rest)) < start+width {
		return "", time.Time{}, ErrToken
	}
	millis, ok := parseDigits(rest[start : start+width])
	if !ok {
		return "", time.Time{}, ErrToken
	}
	secret := rest[:start] + rest[start+width:]
	if pad := len(secret) % 4; pad != 0 {
		secret += "===="[pad:]
	}
	if len(secret) != secretLen {
		return "", time.Time{}, ErrToken
	}
	return Secret(secret), time.UnixMilli(millis), nil
}

func parseDigits(text string) (int64, bool) {
	if len(text) > 18 { // what surely fits an int64
		return 0, false
	}
	n := int64(0)
	for _, c := range []byte(text) {
		d := strings.IndexByte(digits, c)
		if d < 0 {
			return 0, false
		}
		n = n*10 + int64(d)
	}
	return n, true
}
