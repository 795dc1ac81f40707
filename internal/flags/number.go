package flags

import (
	"math"
	"strconv"
	"strings"
)

// parseNumber reads a number as Python's float() does: surrounding white space,
// a sign, decimal digits with single underscores between them, an exponent,
// inf, infinity and nan in any case. Out of range is infinite. Hexadecimal is
// not a number.
func parseNumber(text string) (float64, bool) {
	text = strings.TrimSpace(text)
	if text == "" || !numeric(text[len(text)-1]) || !numeric(text[0]) {
		return 0, false // most texts that are no numbers end here
	}
	if strings.ContainsAny(text, "xX") {
		return 0, false
	}
	if strings.IndexByte(text, '_') >= 0 {
		if !underscoresOK(text) {
			return 0, false
		}
		text = strings.ReplaceAll(text, "_", "")
	}
	x, err := strconv.ParseFloat(text, 64)
	if err != nil && !math.IsInf(x, 0) {
		return 0, false
	}
	return x, true
}

// numeric reports whether a number may begin or end with c: digits, signs and
// points, and the letters of inf, infinity and nan.
func numeric(c byte) bool {
	switch c {
	case '+', '-', '.', 'i', 'I', 'n', 'N', 'f', 'F', 'y', 'Y':
		return true
	}
	return '0' <= c && c <= '9'
}

func underscoresOK(text string) bool {
	for i := range len(text) {
		if text[i] != '_' {
			continue
		}
		if i == 0 || i == len(text)-1 || !digit(text[i-1]) || !digit(text[i+1]) {
			return false
		}
	}
	return true
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// round5 rounds to five decimals, half to even on the exact binary value, as
// Python's round does and as FeatBit compares numbers.
func round5(x float64) float64 {
	if x == math.Trunc(x) || math.IsInf(x, 0) || math.IsNaN(x) {
		return x // also every number of 2^52 and more
	}
	var buf [32]byte // 16 digits before the point at most, sign, point, 5 decimals
	r, err := strconv.ParseFloat(string(strconv.AppendFloat(buf[:0], x, 'f', 5, 64)), 64)
	if err != nil {
		return x
	}
	return r
}

// comparable5 returns the number that FeatBit compares for text, and whether
// text is a number. NaN is one, for which every comparison is false.
func comparable5(text string) (float64, bool) {
	x, ok := parseNumber(text)
	if !ok {
		return 0, false
	}
	return round5(x), true
}

// formatFloat writes a number as Python's str() does, except that whole numbers
// have no decimals.
func formatFloat(x float64) string {
	if a := math.Abs(x); a != 0 && (a < 1e-4 || a >= 1e16) && !math.IsInf(x, 0) {
		return strconv.FormatFloat(x, 'e', -1, 64)
	}
	return strconv.FormatFloat(x, 'f', -1, 64)
}
