package flags

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
)

// A Flag is a compiled flag. It is immutable.
type Flag struct {
	key, name string
	version   int64

	// What everybody gets: the flag is off, or it has no targets, no rules and a
	// default rule with one slice.
	settled    *Variation // nil: it depends on the user
	settledHow Why

	off        *Variation // nil if disabledVariationId names no variation
	targets    *targets   // nil: none
	targetExpt Why        // whether whoever is targeted is in the experiment, as part of an outcome
	rules      []rule
	fallback   *rollout // nil if the flag has no default rule

	options []*Variation // in the order of the flag
	err     *Fault       // the flag cannot be evaluated at all
	sum     uint64       // of its JSON

	enabled bool
	exptAll bool // exptIncludeAllTargets
	kind    Type
}

// Key returns the flag's key.
func (f *Flag) Key() string { return f.key }

// Name returns the flag's display name, or its key if it has none.
func (f *Flag) Name() string { return f.name }

// Version returns the flag's updatedAt in milliseconds since the Unix epoch.
func (f *Flag) Version() int64 { return f.version }

// Type returns the flag's variation type.
func (f *Flag) Type() Type { return f.kind }

// segments returns the segments that the rules name.
func (f *Flag) segments() []int32 {
	var ids []int32
	for i := range f.rules {
		ids = appendSegments(ids, f.rules[i].conditions)
	}
	return ids
}

func appendSegments(ids []int32, conditions []condition) []int32 {
	for i := range conditions {
		ids = append(ids, conditions[i].segs...)
	}
	return ids
}

// Variations returns the flag's variations that have a value, in its order. Nobody
// may modify them.
func (f *Flag) Variations() []*Variation { return f.options }

// Err says why the flag can never be evaluated, or is nil.
func (f *Flag) Err() error {
	if f.err == nil {
		return nil
	}
	return f.err
}

type rule struct {
	name       string
	conditions []condition
	rollout
	broken bool // no conditions member: must not match everybody
}

type rollout struct {
	dispatch property
	slices   []slice
	expt     bool // includedInExpt

	// settled: the first slice takes everybody, and either all of them or none,
	// which expt0 says, are in the experiment.
	settled bool
	expt0   Why
}

type slice struct {
	lo, hi    float64
	variation *Variation // nil if the slice names no variation
	expt      float64    // share of the slice's users that are in the experiment, 0 to 1
}

type condition struct {
	op     op
	negate bool
	null   bool // the condition has no value
	prop   property
	text   string   // the condition's value, if it is compared as it is
	num    float64  // … as a number, rounded
	set    *index   // … as a list; nil: an empty one
	re     *pattern // nil if the pattern does not compile
	segs   []int32  // … as a list of segments
}

type op uint8

const (
	opNever op = iota // unknown operator, or a value that can never match
	opLess
	opLessEqual
	opGreater
	opGreaterEqual
	opEqual
	opContains
	opStarts
	opEnds
	opRegexp
	opOneOf
	opTrue
	opFalse
	opSegment
)

var operators = map[string]struct {
	op     op
	negate bool
}{
	"LessThan":        {opLess, false},
	"LessEqualThan":   {opLessEqual, false},
	"BiggerThan":      {opGreater, false},
	"BiggerEqualThan": {opGreaterEqual, false},
	"Equal":           {opEqual, false},
	"NotEqual":        {opEqual, true},
	"Contains":        {opContains, false},
	"NotContain":      {opContains, true},
	"StartsWith":      {opStarts, false},
	"EndsWith":        {opEnds, false},
	"MatchRegex":      {opRegexp, false},
	"NotMatchRegex":   {opRegexp, true},
	"IsOneOf":         {opOneOf, false},
	"NotOneOf":        {opOneOf, true},
	"IsTrue":          {opTrue, false},
	"IsFalse":         {opFalse, false},
}

var segmentProperties = map[string]bool{ // value: negated
	"User is in segment":     false,
	"User is not in segment": true,
}

// errTooLarge is of texts that 32 bits cannot count.
var errTooLarge = errors.New("it has 4 GiB or more")

// decode reads text into w with read, or, where that is not for it, with encoding/json.
func decode[T any](text []byte, read func(string) (T, bool)) (w T, err error) {
	if uint64(len(text)) > math.MaxUint32 {
		return w, errTooLarge
	}
	if w, ok := read(string(text)); ok {
		return w, nil
	}
	err = json.Unmarshal(text, &w)
	return w, err
}

// compileFlag never fails: a flag that cannot be read gets an err, and every
// evaluation of it says so.
func compileFlag(key string, version int64, text []byte, syms *symbols) *Flag {
	f := &Flag{key: key, name: key, version: version, sum: checksum(text)}
	w, err := decode(text, readFlag)
	if err != nil {
		f.err = &Fault{fmt.Errorf("flag %q cannot be read: %w", key, inWords(err))}
		return f
	}
	if w.Name.s != "" {
		f.name = w.Name.s
	}
	c := compiler{flag: f, syms: syms, kind: typeOf(w.VariationType.s), variations: make(map[string]*Variation, len(w.Variations))}
	f.kind = c.kind
	all := make([]Variation, len(w.Variations))
	f.options = make([]*Variation, 0, len(all))
	for i, v := range w.Variations {
		if v.Value.ok {
			all[i].init(v, c.kind)
			c.variations[v.ID.s] = &all[i]
			f.options = append(f.options, &all[i])
		}
	}
	f.enabled, f.exptAll = bool(w.IsEnabled), bool(w.ExptAllTargets)
	if f.exptAll {
		f.targetExpt = inExperiment
	}
	f.off = c.variations[w.DisabledVariationID.s]
	c.targets(w.TargetUsers)
	f.rules = make([]rule, 0, len(w.Rules))
	for _, r := range w.Rules {
		f.rules = append(f.rules, rule{
			name:       r.Name.s,
			conditions: c.conditions(r.Conditions),
			broken:     r.Conditions == nil,
			rollout:    c.rollout(r.wireFallthrough),
		})
	}
	if w.Fallthrough != nil {
		r := c.rollout(*w.Fallthrough)
		f.fallback = &r
	}
	if len(w.Variations) == 0 {
		f.err = &Fault{fmt.Errorf("flag %q has no variations", key)}
	}
	pack(f.texts)
	for _, v := range f.options {
		v.box()
	}
	f.settle()
	return f
}

// texts calls f with every text that is a part of the flag's JSON.
func (f *Flag) texts(each func(*string)) {
	if f.name != f.key {
		each(&f.name)
	}
	for _, v := range f.options {
		each(&v.id)
		each(&v.value)
	}
	for i := range f.rules {
		each(&f.rules[i].name)
		each(&f.rules[i].dispatch.name)
		conditionTexts(f.rules[i].conditions, each)
	}
	if f.fallback != nil {
		each(&f.fallback.dispatch.name)
	}
}

func conditionTexts(list []condition, each func(*string)) {
	for i := range list {
		each(&list[i].prop.name)
		each(&list[i].text)
	}
}

// pack copies texts into one piece, so that they take no more memory than they must, and
// what they were parts of is let go.
func pack(texts func(each func(*string))) {
	size := 0
	texts(func(s *string) { size += len(*s) })
	var piece strings.Builder
	piece.Grow(size)
	texts(func(s *string) {
		start := piece.Len()
		piece.WriteString(*s)
		*s = piece.String()[start:]
	})
}

// settle works out what can be said of all users.
func (f *Flag) settle() {
	for i := range f.rules {
		f.settleRollout(&f.rules[i].rollout)
	}
	if f.fallback != nil {
		f.settleRollout(f.fallback)
	}
	if f.err != nil {
		return
	}
	switch r := f.fallback; {
	case !f.enabled:
		f.settled, f.settledHow = f.off, Why(Off)
	case f.targets == nil && len(f.rules) == 0 && r != nil && r.settled:
		f.settled, f.settledHow = r.slices[0].variation, Why(Fallthrough)|r.expt0
	}
}

func (f *Flag) settleRollout(r *rollout) {
	if len(r.slices) == 0 || r.slices[0].lo != 0 || r.slices[0].hi != 1 {
		return
	}
	in, all := f.experiment(r, &r.slices[0])
	r.settled = all
	if in {
		r.expt0 = inExperiment
	}
}

type compiler struct {
	flag       *Flag
	syms       *symbols
	kind       Type
	variations map[string]*Variation
}

// targets are the users that a flag lists by their keys.
type targets struct {
	keys *index
	to   []target
}

// A target is what some of the keys get.
type target struct {
	before    uint32     // number of the first key of the next target
	variation *Variation // nil: names no variation
}

// find returns what a user gets, and whether the user is listed.
func (t *targets) find(u *User) (v *Variation, ok bool) {
	i := t.keys.findKey(u)
	if i < 0 {
		return nil, false
	}
	lo, hi := 0, len(t.to)-1
	for lo < hi {
		if mid := (lo + hi) / 2; uint32(i) < t.to[mid].before {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return t.to[lo].variation, true
}

// targets builds one index of all targeted users: of several entries for one user
// the first counts.
func (c *compiler) targets(list []wireTarget) {
	var keys []string
	var to []target
	for _, t := range list {
		if len(t.KeyIDs) == 0 {
			continue
		}
		keys = append(keys, t.KeyIDs...)
		to = append(to, target{uint32(len(keys)), c.variations[t.VariationID.s]})
	}
	if len(keys) > 0 {
		c.flag.targets = &targets{indexOf(keys), to}
	}
}

func (c *compiler) rollout(w wireFallthrough) rollout {
	r := rollout{dispatch: property{at: userKey}, expt: bool(w.IncludedInExpt)}
	if w.DispatchKey.s != "" {
		r.dispatch = newProperty(w.DispatchKey.s)
	}
	r.slices = make([]slice, 0, len(w.Variations))
	for _, s := range w.Variations {
		r.slices = append(r.slices, slice{
			lo: s.Rollout.lo, hi: s.Rollout.hi,
			variation: c.variations[s.ID.s],
			expt:      exptShare(s.Rollout.lo, s.Rollout.hi, float64(s.ExptRollout)),
		})
	}
	return r
}

// exptShare turns exptRollout, a share of all of a rule's users, into the share
// of the users of one slice.
func exptShare(lo, hi, expt float64) float64 {
	width := hi - lo
	if !(width > 0) || !(expt > 0) { // also NaN
		return 0
	}
	return min(expt/width, 1)
}

func (c *compiler) conditions(list []wireCondition) []condition {
	out := make([]condition, 0, len(list))
	for _, w := range list {
		out = append(out, compileCondition(w, c.syms))
	}
	return out
}

func compileCondition(w wireCondition, syms *symbols) condition {
	c := condition{prop: newProperty(w.Property.s), text: w.Value.s, null: !w.Value.ok}
	negated, isSegment := segmentProperties[w.Property.s]
	if !isSegment {
		negated, isSegment = segmentProperties[w.Op.s]
	}
	if isSegment {
		c.op, c.negate = opSegment, negated
		for _, id := range listOf(c.text) {
			c.segs = append(c.segs, syms.intern(id))
		}
		c.text = ""
		return c
	}
	spec, ok := operators[w.Op.s]
	if !ok {
		return c // opNever, and not negated: unknown operators match nobody
	}
	c.op, c.negate = spec.op, spec.negate
	if c.null && c.op != opTrue && c.op != opFalse {
		c.op = opNever // the negated operators match everybody
		return c
	}
	switch c.op {
	case opLess, opLessEqual, opGreater, opGreaterEqual:
		if c.num, ok = comparable5(c.text); !ok {
			c.op = opNever
		}
		c.text = ""
	case opOneOf:
		c.set, c.text = indexOf(listOf(c.text)), ""
	case opRegexp:
		c.re, c.text = compilePattern(c.text), "" // nil: an error once a user has the property
	}
	return c
}

// A segment is a compiled segment.
type segment struct {
	included, excluded *index
	listed             bool          // whoever is included is in it, and nobody else
	rules              [][]condition // a nil rule has no conditions member and matches nobody
	err                error
	sum                uint64 // of its JSON
}

// segments returns the segments that the rules name.
func (s *segment) segments() []int32 {
	var ids []int32
	for _, conditions := range s.rules {
		ids = appendSegments(ids, conditions)
	}
	return ids
}

func compileSegment(id string, text []byte, syms *symbols) *segment {
	s := &segment{sum: checksum(text)}
	w, err := decode(text, readSegment)
	if err != nil {
		s.err = fmt.Errorf("segment %q cannot be read: %w", id, inWords(err))
		return s
	}
	s.included, s.excluded = indexOf(w.Included), indexOf(w.Excluded)
	for _, r := range w.Rules {
		var rule []condition
		if r.Conditions != nil {
			rule = make([]condition, 0, len(r.Conditions))
			for _, c := range r.Conditions {
				rule = append(rule, compileCondition(c, syms))
			}
		}
		s.rules = append(s.rules, rule)
	}
	s.listed = len(w.Excluded) == 0 && len(s.rules) == 0
	pack(func(each func(*string)) {
		for _, rule := range s.rules {
			conditionTexts(rule, each)
		}
	})
	return s
}

// inWords says in FeatBit's terms what encoding/json says in Go's.
func inWords(err error) error {
	e, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		return err
	}
	is, _, _ := strings.Cut(e.Value, " ") // "number 5"
	is = map[string]string{"string": "a text", "number": "a number", "bool": "a truth value", "object": "an object", "array": "a list"}[is]
	want := "what is expected there"
	switch e.Type.Kind() {
	case reflect.Slice, reflect.Array:
		want = "a list"
	case reflect.Struct, reflect.Map:
		want = "an object"
	case reflect.String:
		want = "a text"
	case reflect.Bool:
		want = "a truth value"
	case reflect.Int, reflect.Int64, reflect.Float64:
		want = "a number"
	}
	where := e.Field
	if where == "" {
		where = "it"
	}
	return fmt.Errorf("%s is %s, not %s", where, cmp.Or(is, e.Value), want)
}

// A fault is what is wrong with a flag that cannot be evaluated for a user. As an
// error it would be two words of every result.
type fault uint8

const (
	unreadable fault = iota // the flag's err says more
	noVariation
	noDefault
	noSlice
	noConditions
	badPattern
)

// The faults of an evaluation. They are values, so that a broken flag costs no
// allocation per call either.
var faults = [...]*Fault{
	noVariation:  {errors.New("it names a variation that does not exist or has no value")},
	noDefault:    {errors.New("it has no default rule")},
	noSlice:      {errors.New("no slice of the default rule covers the user")},
	noConditions: {errors.New("it has a rule without conditions")},
	badPattern:   {errors.New("it has a pattern that RE2 cannot compile")},
}

// A Fault says what is wrong with a flag. It is a pointer where errors are passed on,
// so that an error that contains nothing else takes no memory.
type Fault struct{ err error }

// Error implements error.
func (f *Fault) Error() string { return f.err.Error() }

// Unwrap returns the error of encoding/json, if that is what was wrong.
func (f *Fault) Unwrap() error { return f.err }
