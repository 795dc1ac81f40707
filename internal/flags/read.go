package flags

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/flagstead/flagstead/internal/jsonwalk"
)

// What follows reads the wire form in one pass, several times as fast as encoding/json
// and without its garbage, which decides what the first evaluation of a flag costs. It is
// not for anything unusual: it then returns false, or -1 instead of the offset behind
// what it read, and encoding/json reads the whole. The texts are parts of s.

// readFlag reads a flag.
func readFlag(s string) (w wireFlag, ok bool) {
	end := readObject(s, jsonwalk.Space(s, 0), flagMembers, func(name string, at int) int {
		switch name {
		case "name":
			return readText(s, at, &w.Name)
		case "variationType":
			return readText(s, at, &w.VariationType)
		case "variations":
			return readList(s, at, &w.Variations, readVariation)
		case "targetUsers":
			return readList(s, at, &w.TargetUsers, readTarget)
		case "rules":
			return readList(s, at, &w.Rules, readRule)
		case "isEnabled":
			return readTruth(s, at, &w.IsEnabled)
		case "disabledVariationId":
			return readText(s, at, &w.DisabledVariationID)
		case "exptIncludeAllTargets":
			return readTruth(s, at, &w.ExptAllTargets)
		case "fallthrough":
			if end := null(s, at); end > 0 {
				return end
			}
			w.Fallthrough = new(wireFallthrough)
			return readObject(s, at, rolloutMembers, func(name string, at int) int {
				return readRollout(s, name, at, w.Fallthrough)
			})
		}
		return -1
	})
	return w, end >= 0 && jsonwalk.Space(s, end) == len(s)
}

// readSegment reads a segment.
func readSegment(s string) (w wireSegment, ok bool) {
	end := readObject(s, jsonwalk.Space(s, 0), segmentMembers, func(name string, at int) int {
		switch name {
		case "included":
			return readTexts(s, at, &w.Included)
		case "excluded":
			return readTexts(s, at, &w.Excluded)
		case "rules":
			return readList(s, at, &w.Rules, func(s string, at int, r *wireSegmentRule) int {
				return readObject(s, at, segmentRuleMembers, func(_ string, at int) int {
					return readList(s, at, &r.Conditions, readCondition)
				})
			})
		}
		return -1
	})
	return w, end >= 0 && jsonwalk.Space(s, end) == len(s)
}

// The members that are read of each kind of object.
var (
	flagMembers = []string{"name", "variationType", "variations", "targetUsers", "rules", "isEnabled",
		"disabledVariationId", "fallthrough", "exptIncludeAllTargets"}
	variationMembers   = []string{"id", "name", "value"}
	targetMembers      = []string{"keyIds", "variationId"}
	rolloutMembers     = []string{"dispatchKey", "includedInExpt", "variations"}
	ruleMembers        = append([]string{"name", "conditions"}, rolloutMembers...)
	sliceMembers       = []string{"id", "rollout", "exptRollout"}
	conditionMembers   = []string{"property", "op", "value"}
	segmentMembers     = []string{"included", "excluded", "rules"}
	segmentRuleMembers = []string{"conditions"}
)

func readVariation(s string, at int, v *wireVariation) int {
	return readObject(s, at, variationMembers, func(name string, at int) int {
		switch name {
		case "id":
			return readText(s, at, &v.ID)
		case "name":
			return readText(s, at, &v.Name)
		}
		return readText(s, at, &v.Value)
	})
}

func readTarget(s string, at int, t *wireTarget) int {
	return readObject(s, at, targetMembers, func(name string, at int) int {
		if name == "keyIds" {
			return readTexts(s, at, &t.KeyIDs)
		}
		return readText(s, at, &t.VariationID)
	})
}

func readRule(s string, at int, r *wireRule) int {
	return readObject(s, at, ruleMembers, func(name string, at int) int {
		switch name {
		case "name":
			return readText(s, at, &r.Name)
		case "conditions":
			return readList(s, at, &r.Conditions, readCondition)
		}
		return readRollout(s, name, at, &r.wireFallthrough)
	})
}

// readRollout reads one of rolloutMembers.
func readRollout(s, name string, at int, f *wireFallthrough) int {
	switch name {
	case "dispatchKey":
		return readText(s, at, &f.DispatchKey)
	case "includedInExpt":
		return readTruth(s, at, &f.IncludedInExpt)
	}
	return readList(s, at, &f.Variations, readSlice)
}

func readSlice(s string, at int, w *wireSlice) int {
	return readObject(s, at, sliceMembers, func(name string, at int) int {
		switch name {
		case "id":
			return readText(s, at, &w.ID)
		case "rollout":
			return readBounds(s, at, &w.Rollout)
		}
		return readNumber(s, at, &w.ExptRollout)
	})
}

func readCondition(s string, at int, c *wireCondition) int {
	return readObject(s, at, conditionMembers, func(name string, at int) int {
		switch name {
		case "property":
			return readText(s, at, &c.Property)
		case "op":
			return readText(s, at, &c.Op)
		}
		return readText(s, at, &c.Value)
	})
}

// readObject calls f with the name of each of the given members of an object and the
// offset of its value, whose end f returns. Others are skipped.
func readObject(s string, at int, members []string, f func(name string, at int) int) int {
	if at >= len(s) || s[at] != '{' {
		return -1
	}
	seen := 0 // bits by index in members
	i := jsonwalk.Space(s, at+1)
	for more := i < len(s) && s[i] != '}'; more; {
		end, plain := jsonwalk.String(s, i)
		if end < 0 || !plain {
			return -1
		}
		name := s[i+1 : end-1]
		if i = jsonwalk.Colon(s, end); i < 0 {
			return -1
		}
		switch n := slices.Index(members, name); {
		case n >= 0 && seen&(1<<n) == 0:
			seen |= 1 << n
			i = f(name, i)
		case n >= 0 || foldsToOne(name, members):
			return -1
		default:
			i = jsonwalk.Skip(s, i)
		}
		if i < 0 {
			return -1
		}
		if i, more = jsonwalk.Next(s, i, '}'); i < 0 || !more {
			return i
		}
	}
	if i >= len(s) {
		return -1
	}
	return i + 1
}

// foldsToOne reports whether encoding/json takes name for one of members.
func foldsToOne(name string, members []string) bool {
	for _, m := range members {
		if len(m) == len(name) && strings.EqualFold(m, name) {
			return true
		}
	}
	return false
}

// readList reads the elements of a list. Null is no list.
func readList[T any](s string, at int, list *[]T, read func(s string, at int, to *T) int) int {
	if end := null(s, at); end > 0 {
		return end
	}
	if at >= len(s) || s[at] != '[' {
		return -1
	}
	*list = make([]T, 0, 2)
	i := jsonwalk.Space(s, at+1)
	for more := i < len(s) && s[i] != ']'; more; {
		*list = append(*list, *new(T))
		if i = read(s, i, &(*list)[len(*list)-1]); i < 0 {
			return -1
		}
		if i, more = jsonwalk.Next(s, i, ']'); i < 0 || !more {
			return i
		}
	}
	if i >= len(s) {
		return -1
	}
	return i + 1
}

// null returns the end of null, or 0 if something else is there.
func null(s string, at int) int {
	if strings.HasPrefix(s[at:], "null") {
		return at + len("null")
	}
	return 0
}

func readText(s string, at int, t *text) int {
	if at < len(s) && s[at] == '"' {
		t.ok = true
		return readString(s, at, &t.s)
	}
	end := jsonwalk.Skip(s, at)
	if end > 0 && s[at:end] != "null" {
		*t = text{s[at:end], true}
	}
	return end
}

func readString(s string, at int, to *string) int {
	end, plain := jsonwalk.String(s, at)
	switch {
	case end < 0:
	case plain:
		*to = s[at+1 : end-1]
	case json.Unmarshal([]byte(s[at:end]), to) != nil:
		return -1
	}
	return end
}

// readTexts reads a list of strings as texts does.
func readTexts(s string, at int, list *texts) int {
	end := jsonwalk.Skip(s, at)
	if end < 0 || s[at] != '[' {
		return end
	}
	*list = make(texts, 0, strings.Count(s[at:end], `",`)+1)
	for i, more := jsonwalk.Space(s, at+1), true; more && s[i] != ']'; {
		if s[i] == '"' {
			*list = append(*list, "")
			i = readString(s, i, &(*list)[len(*list)-1])
		} else {
			i = jsonwalk.Skip(s, i)
		}
		i, more = jsonwalk.Next(s, i, ']')
	}
	return end
}

func readTruth(s string, at int, t *truth) int {
	end := jsonwalk.Skip(s, at)
	*t = end > 0 && s[at:end] == "true"
	return end
}

func readNumber(s string, at int, n *number) int {
	end := jsonwalk.Skip(s, at)
	if end > 0 && s[at:end] != "null" {
		x, err := strconv.ParseFloat(s[at:end], 64)
		if err != nil { // too large, or no number
			return -1
		}
		*n = number(x)
	}
	return end
}

// readBounds reads a list of two numbers or more.
func readBounds(s string, at int, b *bounds) int {
	if at >= len(s) || s[at] != '[' {
		return -1
	}
	var of [2]number
	i := jsonwalk.Space(s, at+1)
	for n, more := 0, true; more; n++ {
		if i = readNumber(s, i, &of[min(n, 1)]); i < 0 {
			return -1
		}
		if i, more = jsonwalk.Next(s, i, ']'); more == (n > 0) { // more than two are unusual
			return -1
		}
	}
	*b = bounds{float64(of[0]), float64(of[1])}
	return i
}
