package flags

import "strings"

// A Result is the outcome of one evaluation.
type Result struct {
	Flag       *Flag      // nil if there is no such flag
	Variation  *Variation // nil if Reason.IsError
	Reason     Reason
	Experiment bool // whether the event counts for the flag's experiment

	how Why
}

// RuleName returns the name of the rule that matched, or "".
func (r *Result) RuleName() string {
	if r.Reason != RuleMatch {
		return ""
	}
	return r.Flag.rules[r.how>>ruleShift].name
}

// Why returns the reason and the experiment in one word.
func (r *Result) Why() Why { return r.how }

// Fault says, with Reason Broken, what is wrong; it is nil otherwise.
func (r *Result) Fault() *Fault {
	if r.Reason != Broken {
		return nil
	}
	if f := fault(r.how >> ruleShift); f != unreadable {
		return faults[f]
	}
	return r.Flag.err
}

// Err is Fault as an error.
func (r *Result) Err() error {
	if f := r.Fault(); f != nil {
		return f
	}
	return nil
}

// Why says how an evaluation came to its outcome. It is one word, because the
// outcome of an evaluation has to travel in registers: a reason, whether it counts
// for an experiment, and the number of the rule, or the fault.
type Why uint64

const (
	inExperiment Why = 1 << 8

	ruleShift = 16 // of the number of the rule, with RuleMatch, or the fault, with Broken
)

// Reason returns the reason.
func (w Why) Reason() Reason { return Reason(w) }

// Experiment reports whether the event counts for the flag's experiment.
func (w Why) Experiment() bool { return w&inExperiment != 0 }

func fail(f fault) Why { return Why(Broken) | Why(f)<<ruleShift }

// Evaluate evaluates one flag for a user. A nil user is an invalid one.
func (s *Set) Evaluate(key string, u *User) Result {
	return result(s.Serve(key, u))
}

func result(f *Flag, v *Variation, how Why) Result {
	return Result{Flag: f, Variation: v, Reason: how.Reason(), Experiment: how.Experiment(), how: how}
}

// Serve is [Set.Evaluate] for callers in a hurry. The flag is nil if there is none,
// the variation if the reason is an error.
func (s *Set) Serve(key string, u *User) (*Flag, *Variation, Why) {
	e := s.flags.get(key, hashOf(key))
	if e == nil {
		return nil, nil, Why(FlagNotFound)
	}
	f := e.flag(s)
	if f == nil { // archived
		return nil, nil, Why(FlagNotFound)
	}
	v, how := s.serve(f, u)
	return f, v, how
}

func (s *Set) serve(f *Flag, u *User) (*Variation, Why) {
	switch {
	case u == nil || u.key == "":
		return nil, Why(BadUser)
	case f.settled != nil:
		return f.settled, f.settledHow
	}
	return s.evaluate(f, u)
}

func (s *Set) evaluate(f *Flag, u *User) (*Variation, Why) {
	if f.err != nil {
		return nil, fail(unreadable)
	}
	if !f.enabled {
		return served(f.off, Why(Off))
	}
	if f.targets != nil {
		if v, ok := f.targets.find(u); ok {
			return served(v, Why(TargetMatch)|f.targetExpt)
		}
	}
	var n nesting
	for i := range f.rules {
		r := &f.rules[i]
		switch s.matchRule(r, u, &n) {
		case no:
			continue
		case failed:
			return nil, fail(r.fault())
		}
		if v, how, ok := f.roll(&r.rollout, u); ok {
			return served(v, Why(RuleMatch)|Why(i)<<ruleShift|how)
		}
		break // no slice for the user: the default rule, not the later rules
	}
	if f.fallback == nil {
		return nil, fail(noDefault)
	}
	if v, how, ok := f.roll(f.fallback, u); ok {
		return served(v, Why(Fallthrough)|how)
	}
	return nil, fail(noSlice)
}

func served(v *Variation, how Why) (*Variation, Why) {
	if v == nil {
		return nil, fail(noVariation)
	}
	return v, how
}

// roll picks the slice that the user falls into, if any. Of how it says only
// whether the user is in the experiment.
func (f *Flag) roll(r *rollout, u *User) (v *Variation, how Why, ok bool) {
	if r.settled { // everybody gets the same
		return r.slices[0].variation, r.expt0, true
	}
	b := -1.0 // worked out when the first slice needs it
	for i := range r.slices {
		s := &r.slices[i]
		if s.lo != 0 || s.hi != 1 {
			if b < 0 {
				value, _ := r.dispatch.text(u)
				b = bucket("", f.key, value)
			}
			if !inSlice(b, s.lo, s.hi) {
				continue
			}
		}
		if s.variation != nil && f.inExperiment(r, s, u) {
			how = inExperiment
		}
		return s.variation, how, true
	}
	return nil, 0, false
}

func (f *Flag) inExperiment(r *rollout, s *slice, u *User) bool {
	if inAll, all := f.experiment(r, s); all {
		return inAll
	}
	value, _ := r.dispatch.text(u)
	return inSlice(bucket("expt", f.key, value), 0, s.expt)
}

// experiment reports whether the users of a slice are in the experiment, if that
// is the same for all of them.
func (f *Flag) experiment(r *rollout, s *slice) (in, all bool) {
	switch {
	case f.exptAll:
		return true, true
	case !r.expt || s.expt == 0:
		return false, true
	case s.expt == 1:
		return true, true
	}
	return false, false
}

// A verdict is the outcome of a rule or a condition.
type verdict uint8

const (
	no verdict = iota
	yes
	failed // it cannot be evaluated
)

func verdictOf(holds bool) verdict {
	if holds {
		return yes
	}
	return no
}

func (s *Set) matchRule(r *rule, u *User, n *nesting) verdict {
	if r.broken {
		return failed
	}
	for i := range r.conditions {
		if v := s.match(&r.conditions[i], u, n); v != yes {
			return v
		}
	}
	return yes
}

// fault says why the rule failed.
func (r *rule) fault() fault {
	if r.broken {
		return noConditions
	}
	return badPattern
}

// match evaluates one condition. A missing property is not an empty one: every
// positive operator fails on it and every negated one holds.
func (s *Set) match(c *condition, u *User, n *nesting) verdict {
	switch c.op {
	case opNever:
		return verdictOf(c.negate)
	case opSegment:
		if n.depth == 0 && len(c.segs) == 1 {
			if seg := s.segment(c.segs[0]); seg == nil || seg.listed {
				return verdictOf((seg != nil && seg.included.findKey(u) >= 0) != c.negate)
			}
		}
		return verdictOf(s.inSegments(c.segs, u, n) != c.negate)
	case opLess, opLessEqual, opGreater, opGreaterEqual:
		x, ok := c.prop.number(u)
		return verdictOf(ok && compareNumber(c.op, x, c.num))
	}
	value, ok := c.prop.text(u)
	if !ok {
		return verdictOf(c.negate)
	}
	switch c.op {
	case opEqual:
		ok = value == c.text
	case opOneOf:
		ok = c.set.find(value) >= 0
	case opContains:
		ok = strings.Contains(value, c.text)
	case opStarts:
		ok = strings.HasPrefix(value, c.text)
	case opEnds:
		ok = strings.HasSuffix(value, c.text)
	case opRegexp:
		if c.re == nil {
			return failed
		}
		ok = c.re.match(value)
	case opTrue:
		ok = equalFoldASCII(value, "true")
	case opFalse:
		ok = equalFoldASCII(value, "false")
	}
	return verdictOf(ok != c.negate)
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
	in := false
	for _, id := range ids {
		if !n.step() {
			break
		}
		if seg := s.segment(id); seg != nil && s.inSegment(seg, u, n) {
			in = true
			break
		}
	}
	n.depth--
	return in
}

// inSegment: excluded, then included, then any rule. An error ends the search
// in this segment: the user is not a member.
func (s *Set) inSegment(seg *segment, u *User, n *nesting) bool {
	if seg.err != nil {
		return false
	}
	if seg.excluded.findKey(u) >= 0 {
		return false
	}
	if seg.included.findKey(u) >= 0 {
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
			switch s.match(&rule[i], u, n) {
			case failed:
				return false
			case no:
				continue rules
			}
		}
		return true
	}
	return false
}
