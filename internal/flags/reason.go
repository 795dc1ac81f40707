package flags

// A Reason says why an evaluation gave its value.
type Reason uint8

// The reasons. The zero Reason is invalid.
const (
	_              Reason = iota
	Off                   // the flag is off
	TargetMatch           // the user is targeted individually
	RuleMatch             // a rule's conditions hold
	Fallthrough           // the default rule
	ClientNotReady        // no data yet
	FlagNotFound          // no such flag, or archived
	BadUser               // no user, or one without a key
	Broken                // the flag cannot be evaluated for this user
	WrongType             // the value is not of the type asked for
)

var reasonTexts = [...]string{
	Off:            "flag off",
	TargetMatch:    "target match",
	RuleMatch:      "rule match",
	Fallthrough:    "fall through all rules",
	ClientNotReady: "client not ready",
	FlagNotFound:   "flag not found",
	BadUser:        "user not specified",
	Broken:         "error in evaluation",
	WrongType:      "wrong type",
}

// String returns the reason in FeatBit's words.
func (r Reason) String() string {
	if int(r) < len(reasonTexts) && reasonTexts[r] != "" {
		return reasonTexts[r]
	}
	return "unknown"
}

// IsError reports whether the evaluation served the default instead of a
// variation.
func (r Reason) IsError() bool { return r >= ClientNotReady || r == 0 }
