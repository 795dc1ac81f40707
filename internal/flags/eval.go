package flags

import "strings"

// A Result is the outcome of one evaluation.
type Result struct {
	Flag       *Flag      // nil if there is no such flag
	Variation  *Variation // nil if Reason.IsError
	Reason     Reason
	Experiment bool  // whether the event counts for the flag's experiment
	Err        error // with Reason Broken: what is wrong

	rule *rule // with RuleMatch
}

// RuleName returns the name of the rule that matched, or "".
func (r *Result) RuleName() string {
	if r.rule == nil {
		return ""
	}
	return r.rule.name
}

// Evaluate evaluates one flag for a user. A nil user is an invalid one.
func (s *Set) Evaluate(key string, u *User) Result {
	e := s.flags[key]
	if e == nil || e.src.Archived {
		return Result{Reason: FlagNotFound}
	}
	f := e.flag(s)
	if u == nil || u.key == "" {
		return Result{Flag: f, Reason: BadUser}
	}
	return s.evaluate(f, u)
}

func (s *Set) evaluate(f *Flag, u *User) Result {
	if f.err != nil {
		return Result{Flag: f, Reason: Broken, Err: f.err}
	}
	if !f.enabled {
		return f.serve(f.off, Off, false)
	}
	if f.targets != nil {
		if v, ok := f.targets[u.key]; ok {
			return f.serve(v, TargetMatch, f.exptAll)
		}
	}
	var n nesting
	for i := range f.rules {
		r := &f.rules[i]
		match, err := s.matchRule(r, u, &n)
		if err != nil {
			return Result{Flag: f, Reason: Broken, Err: err}
		}
		if !match {
			continue
		}
		if res, ok := f.roll(&r.rollout, u, RuleMatch); ok {
			res.rule = r
			return res
		}
		break // no slice for the user: the default rule, not the later rules
	}
	if f.fallback == nil {
		return Result{Flag: f, Reason: Broken, Err: errNoDefault}
	}
	if res, ok := f.roll(f.fallback, u, Fallthrough); ok {
		return res
	}
	return Result{Flag: f, Reason: Broken, Err: errNoSlice}
}

func (f *Flag) serve(v *Variation, why Reason, experiment bool) Result {
	if v == nil {
		return Result{Flag: f, Reason: Broken, Err: errNoVariation}
	}
	return Result{Flag: f, Variation: v, Reason: why, Experiment: experiment}
}

// roll picks the slice that the user falls into, if any.
func (f *Flag) roll(r *rollout, u *User, why Reason) (Result, bool) {
	b := -1.0 // worked out when the first slice needs it
	value := ""
	for i := range r.slices {
		s := &r.slices[i]
		if s.lo == 0 && s.hi == 1 {
			return f.serve(s.variation, why, s.variation != nil && f.inExperiment(r, s, u)), true
		}
		if b < 0 {
			value, _ = r.dispatch.text(u)
			b = bucket("", r.flagKey, value)
		}
		if inSlice(b, s.lo, s.hi) {
			return f.serve(s.variation, why, s.variation != nil && f.inExperiment(r, s, u)), true
		}
	}
	return Result{}, false
}

func (f *Flag) inExperiment(r *rollout, s *slice, u *User) bool {
	switch {
	case f.exptAll:
		return true
	case !r.expt || s.expt == 0:
		return false
	case s.expt == 1:
		return true
	}
	value, _ := r.dispatch.text(u)
	return inSlice(bucket("expt", r.flagKey, value), 0, s.expt)
}

func (s *Set) matchRule(r *rule, u *User, n *nesting) (bool, error) {
	if r.broken {
		return false, errNoConditions
	}
	for i := range r.conditions {
		match, err := s.match(&r.conditions[i], u, n)
		if err != nil || !match {
			return false, err
		}
	}
	return true, nil
}

// match evaluates one condition. A missing property is not an empty one: every
// positive operator fails on it and every negated one holds.
func (s *Set) match(c *condition, u *User, n *nesting) (bool, error) {
	hit := false
	switch c.op {
	case opNever:
	case opLess, opLessEqual, opGreater, opGreaterEqual:
		x, ok := c.prop.number(u)
		return ok && compareNumber(c.op, x, c.num), nil
	case opSegment:
		hit = s.inSegments(c.segs, u, n)
	default:
		if value, ok := c.prop.text(u); ok {
			if c.op == opRegexp && c.re == nil {
				return false, errRegexp
			}
			hit = c.matchText(value)
		}
	}
	return hit != c.negate, nil
}

func (c *condition) matchText(value string) bool {
	switch c.op {
	case opEqual:
		return value == c.text
	case opContains:
		return strings.Contains(value, c.text)
	case opStarts:
		return strings.HasPrefix(value, c.text)
	case opEnds:
		return strings.HasSuffix(value, c.text)
	case opOneOf:
		_, ok := c.set[value]
		return ok
	case opRegexp:
		return c.re.MatchString(value)
	case opTrue:
		return equalFoldASCII(value, "true")
	case opFalse:
		return equalFoldASCII(value, "false")
	}
	return false
}

func compareNumber(o op, a, b float64) bool {
	switch o {
	case opLess:
		return a < b
	case opLessEqual:
		return a <= b
	case opGreater:
		return a > b
	}
	return a >= b
}

// equalFoldASCII compares with a lower-case word. strings.EqualFold would also
// take a long s for an s.
func equalFoldASCII(value, word string) bool {
	if len(value) != len(word) {
		return false
	}
	for i := range len(word) {
		c := value[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != word[i] {
			return false
		}
	}
	return true
}

// nesting bounds the work of one evaluation in segments whose rules name
// segments: FeatBit's editor refuses such rules, but a circle of them must not
// hang a process. Segments that the flag's own rules name cost nothing of it.
type nesting struct {
	depth int
	steps int // segments and conditions looked at below the first level
}

const (
	maxDepth = 16
	maxSteps = 1024
)

// step reports whether there may be another one.
func (n *nesting) step() bool {
	if n.depth > 1 {
		n.steps++
	}
	return n.steps <= maxSteps
}

func (s *Set) inSegments(ids []int32, u *User, n *nesting) bool {
	if n.depth >= maxDepth {
		return false
	}
	n.depth++
	defer func() { n.depth-- }()
	for _, id := range ids {
		if !n.step() {
			return false
		}
		if seg := s.segment(id); seg != nil && s.inSegment(seg, u, n) {
			return true
		}
	}
	return false
}

// inSegment: excluded, then included, then any rule. An error ends the search
// in this segment: the user is not a member.
func (s *Set) inSegment(seg *segment, u *User, n *nesting) bool {
	if seg.err != nil {
		return false
	}
	if _, ok := seg.excluded[u.key]; ok {
		return false
	}
	if _, ok := seg.included[u.key]; ok {
		return true
	}
rules:
	for _, rule := range seg.rules {
		if rule == nil {
			return false
		}
		for i := range rule {
			if !n.step() {
				return false
			}
			match, err := s.match(&rule[i], u, n)
			if err != nil {
				return false
			}
			if !match {
				continue rules
			}
		}
		return true
	}
	return false
}
