package bench

import (
	"crypto/md5"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync/atomic"
	"time"
)

// The floor is the least code that answers as FeatBit does: flags are compiled when
// they are loaded, and there is no client around it: no readiness, no reasons, no
// details, no defaults, no errors, no changes, no counters. It is what the machine
// charges; what an SDK takes above it is the SDK's own price.
//
// With events it puts a pointer to the user, the flag and the variation, and a time
// from a clock that ticks once per millisecond, into one of a few buffers, which it
// throws away when they are full.

func init() {
	register(Peer{
		Name: "floor", Title: "bare loop", Document: featBit, Open: openFloor,
		Note: "the least code with FeatBit's semantics, on Go's maps and package regexp",
	})
}

type floorFlag struct {
	targets   map[string]int
	rules     []floorRule
	otherwise floorServe
	values    []bool
}

type floorServe struct {
	prefix string // of the hash input
	slices []floorSlice
}

type floorSlice struct {
	lo, hi float64
	value  int
}

type floorRule struct {
	conditions []floorCondition
	serve      floorServe
}

type floorCondition struct {
	op       byte // = > o r s
	property string
	text     string
	number   float64
	set      map[string]struct{}
	re       *regexp.Regexp
}

type floorUser struct {
	key   string
	names []string
	texts []string
	nums  []float64
}

func (u *floorUser) at(name string) int {
	for i, n := range u.names {
		if n == name {
			return i
		}
	}
	return -1
}

type floor struct {
	flags atomic.Pointer[map[string]*floorFlag]
	user  *floorUser
	sink  *floorSink
}

func openFloor(document []byte, events bool) (Session, error) {
	flags, err := floorLoad(document)
	if err != nil {
		return nil, err
	}
	f := &floor{user: &floorUser{
		key: TheUser.Key, names: []string{"country", "age", "plan", "email"},
		texts: []string{TheUser.Country, "", TheUser.Plan, TheUser.Email}, nums: []float64{0, float64(TheUser.Age), 0, 0},
	}}
	f.flags.Store(&flags)
	if events {
		f.sink = newFloorSink()
	}
	return f, nil
}

func floorLoad(document []byte) (map[string]*floorFlag, error) {
	type serve struct {
		Variations []struct {
			ID      string
			Rollout [2]float64
		}
	}
	var doc struct {
		Data struct {
			FeatureFlags []struct {
				Key         string
				Variations  []struct{ ID, Value string }
				TargetUsers []struct {
					KeyIDs      []string
					VariationID string
				}
				Rules []struct {
					Conditions []struct{ Property, Op, Value string }
					serve
				}
				Fallthrough serve
			}
			Segments []struct {
				ID       string
				Included []string
			}
		}
	}
	if err := json.Unmarshal(document, &doc); err != nil {
		return nil, err
	}
	setOf := func(list []string) map[string]struct{} {
		set := make(map[string]struct{}, len(list))
		for _, s := range list {
			set[s] = struct{}{}
		}
		return set
	}
	segments := map[string]map[string]struct{}{}
	for _, s := range doc.Data.Segments {
		segments[s.ID] = setOf(s.Included)
	}
	flags := make(map[string]*floorFlag, len(doc.Data.FeatureFlags))
	for _, w := range doc.Data.FeatureFlags {
		f := &floorFlag{}
		index := map[string]int{}
		for i, v := range w.Variations {
			index[v.ID] = i
			f.values = append(f.values, v.Value == "true")
		}
		compile := func(s serve) floorServe {
			out := floorServe{prefix: w.Key}
			for _, v := range s.Variations {
				out.slices = append(out.slices, floorSlice{v.Rollout[0], v.Rollout[1], index[v.ID]})
			}
			return out
		}
		for _, t := range w.TargetUsers {
			if f.targets == nil {
				f.targets = make(map[string]int, len(t.KeyIDs))
			}
			for _, k := range t.KeyIDs {
				f.targets[k] = index[t.VariationID]
			}
		}
		for _, r := range w.Rules {
			rule := floorRule{serve: compile(r.serve)}
			for _, c := range r.Conditions {
				out := floorCondition{property: c.Property, text: c.Value}
				var list []string
				if strings.HasPrefix(c.Value, "[") {
					if err := json.Unmarshal([]byte(c.Value), &list); err != nil {
						return nil, err
					}
				}
				switch {
				case c.Property == "User is in segment":
					out.op, out.set = 's', segments[list[0]]
				case c.Op == "Equal":
					out.op = '='
				case c.Op == "BiggerThan":
					out.op = '>'
					if err := json.Unmarshal([]byte(c.Value), &out.number); err != nil {
						return nil, err
					}
				case c.Op == "IsOneOf":
					out.op, out.set = 'o', setOf(list)
				case c.Op == "MatchRegex":
					re, err := regexp.Compile(c.Value)
					if err != nil {
						return nil, err
					}
					out.op, out.re = 'r', re
				default:
					return nil, errors.New("floor: unknown operator " + c.Op)
				}
				rule.conditions = append(rule.conditions, out)
			}
			f.rules = append(f.rules, rule)
		}
		f.otherwise = compile(w.Fallthrough)
		flags[w.Key] = f
	}
	return flags, nil
}

func (f *floor) Bool(key string, def bool) bool {
	flag := (*f.flags.Load())[key]
	if flag == nil {
		return def
	}
	v := flag.evaluate(f.user)
	if v < 0 {
		return def
	}
	if f.sink != nil {
		f.sink.record(f.user, flag, v)
	}
	return flag.values[v]
}

func (f *floorFlag) evaluate(u *floorUser) int {
	if f.targets != nil {
		if v, ok := f.targets[u.key]; ok {
			return v
		}
	}
rules:
	for i := range f.rules {
		r := &f.rules[i]
		for j := range r.conditions {
			if !r.conditions[j].holds(u) {
				continue rules
			}
		}
		return r.serve.pick(u)
	}
	return f.otherwise.pick(u)
}

func (c *floorCondition) holds(u *floorUser) bool {
	if c.op == 's' {
		_, ok := c.set[u.key]
		return ok
	}
	i := u.at(c.property)
	if i < 0 {
		return false
	}
	switch c.op {
	case '=':
		return u.texts[i] == c.text
	case '>':
		return u.nums[i] > c.number
	case 'o':
		_, ok := c.set[u.texts[i]]
		return ok
	}
	return c.re.MatchString(u.texts[i])
}

func (s *floorServe) pick(u *floorUser) int {
	if len(s.slices) == 1 {
		return s.slices[0].value
	}
	var buf [128]byte
	sum := md5.Sum(append(append(buf[:0], s.prefix...), u.key...))
	n := int64(int32(binary.LittleEndian.Uint32(sum[:4])))
	if n < 0 {
		n = -n
	}
	x := float64(n) / (1 << 31)
	for i := range s.slices {
		if s := &s.slices[i]; s.lo <= x && (x < s.hi || s.hi == 1) {
			return s.value
		}
	}
	return -1
}

func (f *floor) All() int {
	type answer struct {
		key   string
		value bool
	}
	all := make([]answer, 0, len(*f.flags.Load()))
	for key, flag := range *f.flags.Load() {
		if v := flag.evaluate(f.user); v >= 0 {
			all = append(all, answer{key, flag.values[v]})
		}
	}
	return len(all)
}

func (f *floor) Events() (recorded, dropped uint64, ok bool) { return 0, 0, false }

func (f *floor) Close() {
	if f.sink != nil {
		close(f.sink.stop)
		<-f.sink.done
	}
}

type floorEvent struct {
	user      *floorUser
	flag      *floorFlag
	variation int
	millis    int64
}

type floorStripe struct {
	busy   atomic.Bool
	events []floorEvent
	_      [64]byte
}

type floorSink struct {
	stripes    [8]floorStripe
	now        atomic.Int64
	stop, done chan struct{}
}

func newFloorSink() *floorSink {
	s := &floorSink{stop: make(chan struct{}), done: make(chan struct{})}
	for i := range s.stripes {
		s.stripes[i].events = make([]floorEvent, 0, 4096)
	}
	s.now.Store(time.Now().UnixMilli())
	tick := time.NewTicker(time.Millisecond)
	go func() {
		defer close(s.done)
		defer tick.Stop()
		for {
			select {
			case t := <-tick.C:
				s.now.Store(t.UnixMilli())
			case <-s.stop:
				return
			}
		}
	}()
	return s
}

func (s *floorSink) record(u *floorUser, f *floorFlag, variation int) {
	for {
		p := &s.stripes[rand.Uint32()%uint32(len(s.stripes))]
		if !p.busy.CompareAndSwap(false, true) {
			continue
		}
		if len(p.events) == cap(p.events) {
			p.events = p.events[:0]
		}
		p.events = append(p.events, floorEvent{u, f, variation, s.now.Load()})
		p.busy.Store(false)
		return
	}
}
