package redis

import (
	"strconv"
	"strings"
	"time"

	"github.com/flagstead/flagstead/store"
)

// A message is a commit as the channel carries it. One that says no more than its
// revision, as of a full or a big change, has no base and no items.
type message struct {
	base  position
	items []store.Item
	size  int
	came  time.Time
}

// parseMessage takes a payload apart: a revision alone, or "d" and, each as
// "length:bytes,", the revision before, the one that it names, and fields and
// values. It understands nothing but what patch.lua writes.
func parseMessage(payload string) (m message, rev position, ok bool) {
	if rev, ok = parseRev(store.Rev(payload)); ok {
		return m, rev, true
	}
	rest, ok := strings.CutPrefix(payload, "d")
	if !ok {
		return m, rev, false
	}
	var parts []string
	for rest != "" {
		var part string
		if part, rest, ok = netstring(rest); !ok {
			return m, rev, false
		}
		parts = append(parts, part)
	}
	if len(parts) < 4 || len(parts)%2 != 0 {
		return m, rev, false
	}
	m.base, ok = parseRev(store.Rev(parts[0]))
	if !ok {
		return m, rev, false
	}
	if rev, ok = parseRev(store.Rev(parts[1])); !ok || rev.seq != m.base.seq+1 {
		return m, rev, false
	}
	items, err := parseItems(parts[2:])
	if err != nil {
		return m, rev, false
	}
	seen := make(map[store.ID]bool, len(items))
	for _, it := range items {
		if seen[it.ID()] {
			return m, rev, false
		}
		seen[it.ID()] = true
	}
	m.items, m.size = items, len(payload)
	return m, rev, true
}

// netstring takes "length:bytes," off s.
func netstring(s string) (part, rest string, ok bool) {
	digits, s, ok := strings.Cut(s, ":")
	if !ok || len(digits) > 7 {
		return "", "", false
	}
	n, err := strconv.Atoi(digits)
	if err != nil || strconv.Itoa(n) != digits || n < 0 || n >= len(s) || s[n] != ',' {
		return "", "", false
	}
	return s[:n], s[n+1:], true
}
