// Package flags evaluates FeatBit's feature flags.
//
// A [Set] is an immutable collection of flags and segments that belong
// together. Its items stay raw JSON until they are first evaluated; then they
// are compiled (patterns, lists as tables, numbers, typed values), so that an
// evaluation neither parses nor allocates nor locks, and the JSON is let go.
//
// The semantics are those of FeatBit's Python server SDK, as recorded in the
// conformance files in testdata; [Differences] lists the intended exceptions.
//
// Everything here is safe for concurrent use.
package flags

// A Difference is a place where this package intentionally does not do what
// FeatBit's Python SDK does.
type Difference struct {
	Name   string // short and unique
	Python string // what the Python SDK does
	Here   string // what this package does
	Reason string
}

// Differences is the complete list of intended differences from FeatBit's
// Python SDK. The conformance tests accept no other.
var Differences = []Difference{
	{
		Name:   "regexp-syntax",
		Python: "backtracking expressions with look-around and back-references",
		Here:   "RE2; a pattern that RE2 cannot compile is an error in evaluation, as a broken pattern is in Python; what RE2 has in addition (\\z, \\pL, [[:alpha:]]) works; \\d, \\w, \\s and \\b are ASCII; $ does not match before a final newline",
		Reason: "linear time: a flag cannot hang a process",
	},
	{
		Name:   "rollout-end",
		Python: "a user whose hash is exactly 1 is outside of every slice but [0, 1] (one key in 2^32), and the call raises",
		Here:   "a slice that ends at 1 includes 1",
		Reason: "every user gets a variation; the evaluation server does the same",
	},
	{
		Name:   "no-slice",
		Python: "raises to the caller when no slice of the default rule covers the user",
		Here:   "error in evaluation, the caller's default",
		Reason: "an evaluation never panics",
	},
	{
		Name:   "null-lists",
		Python: "error in evaluation for null rules, targetUsers or keyIds; null lists of a segment make it match nobody",
		Here:   "null is an empty list; null conditions stay an error (in a segment: no match)",
		Reason: "the official Go and Java SDKs agree, and an absent list cannot be told from an empty one",
	},
	{
		Name:   "missing-members",
		Python: "a flag without isArchived, or with null variations, makes the whole document fail to load",
		Here:   "isArchived and isEnabled default to false; a flag without variations is an error in evaluation; the rest of the document loads",
		Reason: "one broken flag must not take the others down",
	},
	{
		Name:   "null-value",
		Python: "a variation whose value is null serves null",
		Here:   "such a variation is as good as missing: error in evaluation where it is served",
		Reason: "no typed call could tell it from a broken flag",
	},
	{
		Name:   "condition-without-value",
		Python: "error in evaluation when a condition without a value needs it",
		Here:   "as a value of null is in both: the positive operators miss, the negated ones hold",
		Reason: "to a decoder an absent member and a null one are the same, and Python treats null so",
	},
	{
		Name:   "lenient-shapes",
		Python: "a member is looked at when it is needed; anything that Python takes for true switches a flag on; member names count in their exact case",
		Here:   "a flag in which a list or an object is of another kind is an error in evaluation, also while it is off; only true is true; of two members whose names differ in case the later counts",
		Reason: "a flag is read once, at load, by encoding/json",
	},
	{
		Name:   "json-integers",
		Python: "whole numbers within the value of a json flag are exact at any size",
		Here:   "in an untyped value all numbers are float64, exact up to 2^53; decoded into a caller's type they are what that type holds",
		Reason: "encoding/json; FeatBit's own number flags are no more exact",
	},
	{
		Name:   "nested-segments",
		Python: "segments whose rules name segments are followed up to the recursion limit, beyond which the user is no member",
		Here:   "followed 16 deep, and for 1,024 segments and conditions per evaluation, after which a segment does not match",
		Reason: "FeatBit's editor refuses such rules, and none may hang a process",
	},
	{
		Name:   "experiment-defaults",
		Python: "error in evaluation when exptRollout is needed and absent, or includedInExpt is absent",
		Here:   "0 and false: the evaluation is not sent to the experiment",
		Reason: "a missing experiment setting must not change what is served",
	},
	{
		Name:   "operator-from-property",
		Python: "a condition without operator takes its property's name as operator, whatever it is",
		Here:   "only the two segment properties stand in for an operator; otherwise the condition does not match",
		Reason: "the rule exists for segments; for other names it is an accident",
	},
	{
		Name:   "segment-property",
		Python: "a segment property with some operator is an ordinary condition",
		Here:   "a segment condition, whatever the operator says",
		Reason: "the evaluation server, Node and .NET agree",
	},
	{
		Name:   "broken-segment",
		Python: "an error in one listed segment ends the search, so later segments are not looked at",
		Here:   "the broken segment does not match; later ones are looked at",
		Reason: "one broken segment must not take the others down",
	},
	{
		Name:   "lists-are-arrays",
		Python: "IsOneOf on a JSON string tests for a substring, on a JSON object for a key",
		Here:   "only JSON arrays are lists; only their texts are members",
		Reason: "an accident of the language",
	},
	{
		Name:   "boolean-attributes",
		Python: `a user's true and false are "True" and "False" when compared as texts and in events`,
		Here:   `"true" and "false"`,
		Reason: "the spelling of every other SDK and of JSON; IsTrue and IsFalse agree with Python",
	},
	{
		Name:   "float-attributes",
		Python: `a user's 1.0 is "1.0" when compared as text`,
		Here:   `the shortest form, "1"`,
		Reason: "Go cannot tell 1.0 from 1 in a float64",
	},
	{
		Name:   "not-finite",
		Python: "a number flag may serve NaN and infinities, a json flag a document with NaN",
		Here:   "such a value does not parse: it is served as its raw text, and typed calls give the default with wrong type",
		Reason: "JSON has no such numbers, and arithmetic on them surprises far from the flag",
	},
	{
		Name:   "duplicate-keys",
		Python: "of two flags with one key in a document the last wins",
		Here:   "the one with the later updatedAt wins, the last among equals",
		Reason: "the store contract: the larger version wins, whatever the order",
	},
}
