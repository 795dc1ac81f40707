// Package bench does the same work in Flagstead and in other flag SDKs for Go.
//
// The flags, the user and the questions are defined once, here, and each peer
// translates them into its vendor's format. TestPeersAgree holds every peer to the
// same answers before anything is measured.
package bench

import (
	"fmt"
	"strconv"
)

// A Case is one kind of flag, and so one row of the tables.
type Case string

// The kinds of flags. All flags are boolean and serve true to [TheUser], except
// that a rollout serves whatever the vendor's hash says.
const (
	Boolean Case = "boolean" // no targeting, serves true to everybody
	Targets Case = "targets" // 100 user keys get true, all others false
	Rule    Case = "rule"    // one rule of three conditions: Country, AgeAbove, Plans
	Rollout Case = "rollout" // half the users get true, by a hash of their key
	Segment Case = "segment" // true for the 10,000 members of a segment
	Regex   Case = "regex"   // one rule: the email matches Pattern

	Missing Case = "missing" // no such flag: the default in the call, which is true
)

// Cases has all cases in the order of the tables.
var Cases = []Case{Boolean, Targets, Rule, Rollout, Segment, Regex, Missing}

// kinds are the cases that flags are made of, in turn.
var kinds = []Case{Boolean, Targets, Rule, Rollout, Segment, Regex}

// What the conditions of the flags are.
const (
	Country    = "fr" // country equals it
	AgeAbove   = 17.5 // age is greater
	Pattern    = `^[a-z]+@example\.(com|org)$`
	NumTargets = 100
	NumMembers = 10_000
	SegmentKey = "members"
)

// Plans is the list of the third condition: plan is one of them.
var Plans = []string{"pro", "team"}

// A Flag is one flag, of whichever vendor.
type Flag struct {
	Key  string
	Name string
	Kind Case
}

// Flags returns n flags of all kinds in turn. Their keys are KIND-NUMBER.
func Flags(n int) []Flag {
	list := make([]Flag, n)
	for i := range list {
		kind := kinds[i%len(kinds)]
		list[i] = Flag{Key: FlagKey(kind, i/len(kinds)), Name: fmt.Sprintf("Flag number %d", i), Kind: kind}
	}
	return list
}

// FlagKey returns the key of the i-th flag of a kind.
func FlagKey(kind Case, i int) string { return string(kind) + "-" + strconv.Itoa(i) }

// UserKeys returns the first n user keys: the targets, or the members.
func UserKeys(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = "user-" + strconv.Itoa(i)
	}
	return list
}

// TheUser is whom all flags are evaluated for.
var TheUser = struct {
	Key, Name, Country, Plan, Email string
	Age                             int
}{Key: "user-50", Name: "Ann", Country: Country, Plan: "pro", Email: "ann@example.com", Age: 42}

// Question returns the key that a case is measured with: a flag in the middle of
// 1,000, or one that does not exist.
func Question(c Case) string {
	if c == Missing {
		return "no-such-flag"
	}
	return FlagKey(c, 77)
}
