package flags

import (
	"regexp"
	"runtime"
	"strings"
	"sync"
	"weak"
)

// A pattern is a compiled regular expression.
type pattern struct {
	re *regexp.Regexp
}

// patterns are those in use by their texts: many flags have the same, and a compiled one
// takes kilobytes.
var patterns = struct {
	sync.Mutex
	byText map[string]weak.Pointer[pattern]
}{byText: map[string]weak.Pointer[pattern]{}}

// compilePattern returns nil for a pattern that RE2 rejects.
func compilePattern(text string) *pattern {
	if p := knownPattern(text); p != nil {
		return p
	}
	text = strings.Clone(text) // it may be a part of something
	re, err := regexp.Compile(text)
	if err != nil {
		return nil
	}
	p := &pattern{re: re}
	patterns.Lock()
	defer patterns.Unlock()
	patterns.byText[text] = weak.Make(p)
	runtime.AddCleanup(p, forgetPattern, text)
	return p
}

func knownPattern(text string) *pattern {
	patterns.Lock()
	defer patterns.Unlock()
	return patterns.byText[text].Value()
}

// forgetPattern takes out a pattern that nobody has any more.
func forgetPattern(text string) {
	patterns.Lock()
	defer patterns.Unlock()
	if patterns.byText[text].Value() == nil { // else it was compiled again
		delete(patterns.byText, text)
	}
}

func (p *pattern) match(text string) bool { return p.re.MatchString(text) }
