package flags

import (
	"regexp"
	"regexp/syntax"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
	"weak"
)

// A pattern is a compiled regular expression.
type pattern struct {
	re  *regexp.Regexp // nil if the pattern is plain
	dfa *dfa           // nil: there is none, or the pattern is plain

	// literal is what every text that matches contains, if it is quicker to look for that
	// first. A plain pattern is nothing but it, at the beginning, at the end, or anywhere.
	literal  string
	plain    bool
	from, to bool // a plain one is anchored at the beginning, at the end
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
	if tree, err := syntax.Parse(text, syntax.Perl); err == nil {
		if p.findLiteral(tree); p.plain {
			p.re = nil
		} else if prog, err := syntax.Compile(tree.Simplify()); err == nil {
			p.dfa = newDFA(prog)
		}
	}
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

// match reports whether the pattern is found in text.
func (p *pattern) match(text string) bool {
	switch {
	case !p.plain:
		if p.literal != "" && !strings.Contains(text, p.literal) {
			return false
		}
		if p.dfa != nil {
			if is, ok := p.dfa.match(text); ok {
				return is
			}
		}
		return p.re.MatchString(text)
	case p.from && p.to:
		return text == p.literal
	case p.from:
		return strings.HasPrefix(text, p.literal)
	case p.to:
		return strings.HasSuffix(text, p.literal)
	}
	return strings.Contains(text, p.literal)
}

// findLiteral sets literal, plain, from and to.
func (p *pattern) findLiteral(tree *syntax.Regexp) {
	p.literal = required(tree)
	parts := []*syntax.Regexp{tree}
	if tree.Op == syntax.OpConcat {
		parts = slices.Clone(tree.Sub)
	}
	if len(parts) > 1 && parts[0].Op == syntax.OpBeginText {
		parts, p.from = parts[1:], true
	}
	if n := len(parts) - 1; n > 0 && parts[n].Op == syntax.OpEndText {
		parts, p.to = parts[:n], true
	}
	p.plain = len(parts) == 1 && literalOf(parts[0]) != ""
	if p.from && !p.plain {
		p.literal = "" // most texts end the search at once
	}
}

// required returns the longest literal that is part of whatever matches, or "".
func required(re *syntax.Regexp) string {
	switch re.Op {
	case syntax.OpLiteral:
		return literalOf(re)
	case syntax.OpCapture, syntax.OpPlus:
		return required(re.Sub[0])
	case syntax.OpRepeat:
		if re.Min > 0 {
			return required(re.Sub[0])
		}
	case syntax.OpConcat:
		longest := ""
		for _, sub := range re.Sub {
			if s := required(sub); len(s) > len(longest) {
				longest = s
			}
		}
		return longest
	}
	return ""
}

// literalOf returns the text of a literal that stands for its own bytes alone, or "".
func literalOf(re *syntax.Regexp) string {
	if re.Op != syntax.OpLiteral || re.Flags&syntax.FoldCase != 0 || slices.Contains(re.Rune, utf8.RuneError) {
		return ""
	}
	return string(re.Rune)
}
