package flags

import (
	"regexp/syntax"
	"slices"
)

// A dfa says whether a pattern is found in a text of ASCII, in one step per byte. Package
// regexp takes four times as long and more (BenchmarkPattern), with a machine from a pool
// that processors may share.
type dfa struct {
	class [128]uint8 // of a byte: bytes of one class lead to the same state
	next  []uint8    // by state<<shift + class
	shift uint8
	final []bool // whether the pattern is found if the text ends in a state
}

// The first states. A text leads from the start to others.
const (
	lost  uint8 = iota // it is not found, whatever follows
	found              // it is found, whatever follows
	start
)

// The bounds of a dfa, beyond which a pattern is left to package regexp.
const (
	maxInstructions = 256
	maxStates       = 64
	maxTable        = 4096 // bytes
)

// match reports whether the pattern is found in text; ok is false if that has bytes that
// are no ASCII, so that package regexp has to say.
func (d *dfa) match(text string) (is, ok bool) {
	state := start
	for i := range len(text) {
		c := text[i]
		if c >= 0x80 {
			return false, false
		}
		state = d.next[int(state)<<d.shift+int(d.class[c])]
		if state <= found {
			return state == found, true
		}
	}
	return d.final[state], true
}

// newDFA returns nil for patterns that would need too large a one, or that look at
// lines or words.
func newDFA(prog *syntax.Prog) *dfa {
	if len(prog.Inst) > maxInstructions {
		return nil
	}
	for i := range prog.Inst {
		const known = syntax.EmptyBeginText | syntax.EmptyEndText
		if in := &prog.Inst[i]; in.Op == syntax.InstEmptyWidth && syntax.EmptyOp(in.Arg)&^known != 0 {
			return nil
		}
	}
	b := dfaBuilder{prog: prog, states: map[string]uint8{}}
	b.classes()
	for 1<<b.shift < len(b.bytes) {
		b.shift++
	}
	b.final = []bool{false, true}
	b.next = make([]uint8, 2<<b.shift)
	for i := range b.next {
		b.next[i] = uint8(i >> b.shift)
	}
	// The start is not any of the others: only there the text begins.
	b.add(b.closure(syntax.EmptyBeginText, uint32(prog.Start)), syntax.EmptyBeginText)
	for state := int(start); state < len(b.sets); state++ {
		if len(b.sets) > maxStates || len(b.next) > maxTable {
			return nil
		}
		set := b.sets[state]
		for class, c := range b.bytes {
			to := b.state(b.step(set, c)) // may make room in next
			b.next[state<<b.shift+class] = to
		}
	}
	return &dfa{b.class, slices.Clip(b.next), b.shift, slices.Clip(b.final)}
}

// A dfaBuilder makes states of sets of instructions: those at which the search may be,
// that want another byte or the end of the text.
type dfaBuilder struct {
	dfa
	prog   *syntax.Prog
	bytes  []rune // one of each class
	sets   [][]uint32
	states map[string]uint8 // by set
}

// classes finds bytes that no instruction tells apart.
func (b *dfaBuilder) classes() {
	byLook := map[string]uint8{}
	for c := range rune(128) {
		look := make([]byte, len(b.prog.Inst))
		for i := range b.prog.Inst {
			if takes(&b.prog.Inst[i], c) {
				look[i] = 1
			}
		}
		n, ok := byLook[string(look)]
		if !ok {
			n = uint8(len(b.bytes))
			byLook[string(look)] = n
			b.bytes = append(b.bytes, c)
		}
		b.class[c] = n
	}
}

// takes reports whether an instruction goes on with c.
func takes(in *syntax.Inst, c rune) bool {
	switch in.Op {
	case syntax.InstRune, syntax.InstRune1:
		return in.MatchRune(c)
	case syntax.InstRuneAny:
		return true
	case syntax.InstRuneAnyNotNL:
		return c != '\n'
	}
	return false
}

// state returns the state of a set.
func (b *dfaBuilder) state(set []uint32) uint8 {
	switch {
	case len(set) == 0:
		return lost
	case b.matches(set):
		return found
	}
	name := make([]byte, 0, 2*len(set))
	for _, pc := range set {
		name = append(name, byte(pc), byte(pc>>8))
	}
	n, ok := b.states[string(name)]
	if !ok {
		n = b.add(set, 0)
		b.states[string(name)] = n
	}
	return n
}

// add makes a state of a set, in which at says what holds beside the end of the text if
// it ends there.
func (b *dfaBuilder) add(set []uint32, at syntax.EmptyOp) uint8 {
	if b.sets == nil {
		b.sets = make([][]uint32, start)
	}
	b.sets = append(b.sets, set)
	b.next = append(b.next, make([]uint8, 1<<b.shift)...)
	b.final = append(b.final, b.matches(b.closure(at|syntax.EmptyEndText, set...)))
	return uint8(len(b.sets) - 1)
}

// step returns the set behind c. Another attempt may begin there, too.
func (b *dfaBuilder) step(set []uint32, c rune) []uint32 {
	from := []uint32{uint32(b.prog.Start)}
	for _, pc := range set {
		switch in := &b.prog.Inst[pc]; {
		case in.Op == syntax.InstMatch:
			return set
		case takes(in, c):
			from = append(from, in.Out)
		}
	}
	return b.closure(0, from...)
}

func (b *dfaBuilder) matches(set []uint32) bool {
	return slices.ContainsFunc(set, func(pc uint32) bool { return b.prog.Inst[pc].Op == syntax.InstMatch })
}

// closure returns the instructions that are reached from some without a byte, where at
// says what holds; in order, and of those that are passed on the way only what may hold
// at the end of the text.
func (b *dfaBuilder) closure(at syntax.EmptyOp, from ...uint32) []uint32 {
	var set []uint32
	from = slices.Clone(from)
	seen := make([]bool, len(b.prog.Inst))
	for len(from) > 0 {
		pc := from[len(from)-1]
		from = from[:len(from)-1]
		if seen[pc] {
			continue
		}
		seen[pc] = true
		switch in := &b.prog.Inst[pc]; in.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			from = append(from, in.Out, in.Arg)
		case syntax.InstCapture, syntax.InstNop:
			from = append(from, in.Out)
		case syntax.InstEmptyWidth:
			switch missing := syntax.EmptyOp(in.Arg) &^ at; missing {
			case 0:
				from = append(from, in.Out)
			case syntax.EmptyEndText:
				set = append(set, pc)
			}
		case syntax.InstMatch, syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
			set = append(set, pc)
		}
	}
	slices.Sort(set)
	return set
}
