package flags

import (
	"regexp"
)

// A pattern is a compiled regular expression.
type pattern struct {
	re *regexp.Regexp
}

// compilePattern returns nil for a pattern that RE2 rejects.
func compilePattern(text string) *pattern {
	re, err := regexp.Compile(text)
	if err != nil {
		return nil
	}
	return &pattern{re: re}
}

func (p *pattern) match(text string) bool { return p.re.MatchString(text) }
