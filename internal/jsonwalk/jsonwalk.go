// Package jsonwalk walks JSON that is in memory, and checks it, in one pass and without
// taking memory. Its functions take an offset in a text and return the one behind what
// they read there, or -1 if that is no JSON. They never write to the text.
package jsonwalk

// A Text is what JSON may be in.
type Text interface{ ~string | ~[]byte }

// Space returns the offset of what follows white space, if any, at i.
func Space[T Text](text T, i int) int {
	for i < len(text) && (text[i] == ' ' || text[i] == '\n' || text[i] == '\r' || text[i] == '\t') {
		i++
	}
	return i
}

// Colon returns the start of a member's value, given the end of its name.
func Colon[T Text](text T, i int) int {
	if i < len(text) && text[i] != ':' {
		i = Space(text, i)
	}
	if i >= len(text) || text[i] != ':' {
		return -1
	}
	return Space(text, i+1)
}

// Next returns the start of the next member or element after one that ends at i, or the
// end of the object or list and false.
func Next[T Text](text T, i int, closing byte) (int, bool) {
	i = Space(text, i)
	if i >= len(text) {
		return -1, false
	}
	switch text[i] {
	case ',':
		return Space(text, i+1), true
	case closing:
		return i + 1, false
	}
	return -1, false
}

// deepest is how deep values may be nested here. encoding/json takes more.
const deepest = 1000

// Skip returns the end of the value at i. Values that are nested more than 1,000 deep
// are not for it.
func Skip[T Text](text T, i int) int { return skip(text, i, 0) }

func skip[T Text](text T, i, depth int) int {
	if i >= len(text) || depth > deepest {
		return -1
	}
	switch c := text[i]; c {
	case '"':
		i, _ = String(text, i)
		return i
	case '{':
		i = Space(text, i+1)
		if i < len(text) && text[i] == '}' {
			return i + 1
		}
		for more := true; more; {
			if i, _ = String(text, i); i < 0 {
				return -1
			}
			if i = Colon(text, i); i < 0 {
				return -1
			}
			if i = skip(text, i, depth+1); i < 0 {
				return -1
			}
			i, more = Next(text, i, '}')
		}
		return i
	case '[':
		i = Space(text, i+1)
		if i < len(text) && text[i] == ']' {
			return i + 1
		}
		for more := true; more; {
			if i = skip(text, i, depth+1); i < 0 {
				return -1
			}
			i, more = Next(text, i, ']')
		}
		return i
	case 't':
		return word(text, i, "true")
	case 'f':
		return word(text, i, "false")
	case 'n':
		return word(text, i, "null")
	default:
		return number(text, i)
	}
}

func word[T Text](text T, i int, is string) int {
	end := i + len(is)
	if end > len(text) || string(text[i:end]) != is {
		return -1
	}
	return end
}

func number[T Text](text T, i int) int {
	if text[i] == '-' {
		i++
	}
	switch {
	case i < len(text) && text[i] == '0':
		i++
	case i < len(text) && '1' <= text[i] && text[i] <= '9':
		i = digits(text, i)
	default:
		return -1
	}
	if i < len(text) && text[i] == '.' {
		if i = digits(text, i+1); i < 0 {
			return -1
		}
	}
	if i < len(text) && (text[i] == 'e' || text[i] == 'E') {
		i++
		if i < len(text) && (text[i] == '+' || text[i] == '-') {
			i++
		}
		i = digits(text, i)
	}
	return i
}

// digits returns the end of one digit or more.
func digits[T Text](text T, i int) int {
	start := i
	for i < len(text) && '0' <= text[i] && text[i] <= '9' {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

const (
	each  = 0x0101010101010101 // a byte in every byte of a word
	highs = 0x80 * each
)

// String returns the end of the string at i, and whether it is plain: without
// escapes and in ASCII. It looks at eight bytes at a time.
func String[T Text](text T, i int) (end int, plain bool) {
	if i >= len(text) || text[i] != '"' {
		return -1, false
	}
	plain = true
	for i++; ; {
		for i+8 <= len(text) {
			w := load(text, i)
			quote, escape := w^'"'*each, w^'\\'*each
			// A high bit for each byte that is below 0x20, a quote or an escape; others
			// may have one only above such a byte.
			stop := ((w - 0x20*each) &^ w) | ((quote - each) &^ quote) | ((escape - each) &^ escape)
			if stop&highs != 0 {
				break
			}
			plain = plain && w&highs == 0
			i += 8
		}
		for {
			if i >= len(text) {
				return -1, false
			}
			c := text[i]
			if c == '"' {
				return i + 1, plain
			}
			if c == '\\' {
				plain = false
				if i = unescape(text, i); i < 0 {
					return -1, false
				}
				break
			}
			if c < 0x20 {
				return -1, false
			}
			plain = plain && c < 0x80
			i++
		}
	}
}

// unescape returns the end of the escape at i.
func unescape[T Text](text T, i int) int {
	if i+1 >= len(text) {
		return -1
	}
	switch text[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2
	case 'u':
		if i+6 > len(text) {
			return -1
		}
		for _, c := range []byte(text[i+2 : i+6]) {
			if (c < '0' || '9' < c) && (c < 'a' || 'f' < c) && (c < 'A' || 'F' < c) {
				return -1
			}
		}
		return i + 6
	}
	return -1
}

// load returns eight bytes of text, of which the first is the lowest.
func load[T Text](text T, i int) uint64 {
	b := text[i : i+8]
	return uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
		uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
}
