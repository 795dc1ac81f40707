package flags

import (
	"regexp"
	"strings"
	"testing"
)

// TestPatternLiterals: what can be said of a pattern without running it.
func TestPatternLiterals(t *testing.T) {
	for _, tc := range []struct {
		text, literal string
		plain         bool
	}{
		{`@example\.com$`, "@example.com", true},
		{`^ann`, "ann", true},
		{`^ann$`, "ann", true},
		{`\Aann\z`, "ann", true},
		{`ann`, "ann", true},
		{`é`, "é", true},
		{`[a-z]+@example\.(com|org)$`, "@example.", false},
		{`^[a-z]+@example\.(com|org)$`, "", false},
		{`(ab)+c`, "ab", false},
		{`(abc){2,3}`, "abc", false},
		{`(abc){0,3}d`, "d", false},
		{`a*b?`, "", false},
		{`abc|abd`, "ab", false},
		{`x|y`, "", false},
		{`(?i)ann`, "", false},
		{`(?m)^ann$`, "ann", false},
		{`\bann\b`, "ann", false},
		{`^$`, "", false},
		{``, "", false},
		{"\ufffd", "", false},
		{`a.b`, "a", false},
	} {
		p := compilePattern(tc.text)
		if p.literal != tc.literal || p.plain != tc.plain {
			t.Errorf("%q: literal %q, plain %t", tc.text, p.literal, p.plain)
		}
		for _, text := range []string{"", "ann", "anna", "joann", "joanna", "Ann", "x\nann\ny", "ann@example.com", "ann@example.com ", "ab", "abc", "ababc", "abcabc", "abcd", "abd", "é", "\xc3", "\xff", "\ufffd", "a\nb", "axb", "y"} {
			if got, want := p.match(text), regexp.MustCompile(tc.text).MatchString(text); got != want {
				t.Errorf("%q on %q is %t, want %t", tc.text, text, got, want)
			}
		}
	}
}

// FuzzPattern: a pattern matches what package regexp matches.
func FuzzPattern(f *testing.F) {
	for _, text := range []string{`^ann$`, `@example\.com$`, `(ab)+c`, `(?i)x`, `(?s).+b`, `a{2,}b`, `^\Aa`, `a$\z`, "\xff", `[^a]bc`, `\Qa.b\E$`, `(?:)`, `(?m)^a$`, `a||b`} {
		f.Add(text, "ann@example.com")
		f.Add(text, "\xc3\xa9ab")
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if len(pattern) > 100 || len(text) > 100 {
			return
		}
		re, err := regexp.Compile(pattern)
		p := compilePattern(pattern)
		if (p == nil) != (err != nil) {
			t.Fatalf("%q: %v, %v", pattern, p, err)
		}
		if p == nil {
			return
		}
		for _, text := range []string{text, pattern, p.literal, p.literal + text, text + p.literal, strings.ToUpper(p.literal)} {
			if got, want := p.match(text), re.MatchString(text); got != want {
				t.Errorf("%q on %q is %t, want %t", pattern, text, got, want)
			}
		}
	})
}

// TestPatternAutomata: patterns that are no literals have automata, unless they look at
// words or lines or would need too many states.
func TestPatternAutomata(t *testing.T) {
	many := "(a|b)*a" + strings.Repeat("(a|b)", 12) // 2^12 states
	for _, tc := range []struct {
		text string
		has  bool
	}{
		{`^[a-z]+@example\.(com|org)$`, true},
		{`(?i)ann|bob`, true},
		{`^$`, true},
		{`$^`, true},
		{`^(pro|team)$`, true},
		{`[0-9]{1,3}\.`, true},
		{`a$|^b`, true},
		{`(a*)*`, true},
		{``, true},
		{`\bann\b`, false},
		{`(?m)^ann$`, false},
		{many, false},
		{strings.Repeat("ab?", 300), false},
	} {
		p := compilePattern(tc.text)
		if (p.dfa != nil) != tc.has {
			t.Errorf("%.40q: automaton %t, want %t", tc.text, p.dfa != nil, tc.has)
		}
		re := regexp.MustCompile(tc.text)
		for _, text := range []string{"", "a", "b", "ba", "ab", "ann", "ANN", "x\nann", "ann@example.com", "ann@example.com\n", "pro", "prop", "team", "1234.", "é", "annéa", "a é", strings.Repeat("ab", 10)} {
			if got, want := p.match(text), re.MatchString(text); got != want {
				t.Errorf("%.40q on %q is %t, want %t", tc.text, text, got, want)
			}
		}
		if raceEnabled && !tc.has {
			continue // under the race detector the pools of package regexp drop items at random
		}
		if n := testing.AllocsPerRun(100, func() { p.match("ann@example.com") }); n != 0 {
			t.Errorf("%.40q: %v allocations", tc.text, n)
		}
	}
}

// BenchmarkPattern has package regexp beside what evaluations use.
func BenchmarkPattern(b *testing.B) {
	for _, tc := range []struct{ pattern, hit string }{
		{`@example\.com$`, "somebody@example.com"},
		{`^[a-z]+@example\.(com|org)$`, "somebody@example.com"},
		{`(corp|lab)-[0-9]+\.example\.com`, "lab-17.example.com"},
	} {
		p, re := compilePattern(tc.pattern), regexp.MustCompile(tc.pattern)
		for _, text := range []string{tc.hit, "somebody@elsewhere.net"} {
			if p.match(text) != (text == tc.hit) {
				b.Fatalf("%q on %q is %t", tc.pattern, text, p.match(text))
			}
			for by, match := range map[string]func(string) bool{"ours": p.match, "regexp": re.MatchString} {
				b.Run(tc.pattern+"/"+text+"/"+by, func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						match(text)
					}
				})
			}
		}
	}
}
