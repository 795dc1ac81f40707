package sdk

import (
	"errors"
	"time"

	"github.com/flagstead/flagstead/internal/flags"
)

// A Reason says why an evaluation gave its value.
type Reason uint8

// The reasons. String gives FeatBit's words, which the comments repeat.
const (
	ReasonOff          Reason = Reason(flags.Off)            // flag off
	ReasonTargetMatch  Reason = Reason(flags.TargetMatch)    // target match
	ReasonRuleMatch    Reason = Reason(flags.RuleMatch)      // rule match
	ReasonFallthrough  Reason = Reason(flags.Fallthrough)    // fall through all rules
	ReasonNotReady     Reason = Reason(flags.ClientNotReady) // client not ready
	ReasonFlagNotFound Reason = Reason(flags.FlagNotFound)   // flag not found
	ReasonBadUser      Reason = Reason(flags.BadUser)        // user not specified
	ReasonError        Reason = Reason(flags.Broken)         // error in evaluation
	ReasonWrongType    Reason = Reason(flags.WrongType)      // wrong type
)

// String returns the reason in FeatBit's words.
func (r Reason) String() string { return flags.Reason(r).String() }

// IsDefault reports whether the caller's default was returned instead of a
// variation of the flag.
func (r Reason) IsDefault() bool { return flags.Reason(r).IsError() }

// Errors in Detail.Err, to test for with [errors.Is].
var (
	ErrNotReady     = errors.New("sdk: no flags received yet")
	ErrFlagNotFound = errors.New("sdk: no such flag")
	ErrBadUser      = errors.New("sdk: no valid user")
	ErrWrongType    = errors.New("sdk: the flag's value is not of the type asked for")
	ErrFlagBroken   = errors.New("sdk: the flag cannot be evaluated")
)

// A Detail is the outcome of one evaluation.
type Detail[T any] struct {
	Value       T      // the variation's, or the default
	Reason      Reason // why it is that
	VariationID string // empty if Value is the default
	FlagKey     string // as asked for
	FlagName    string // FeatBit's display name; empty if there is no such flag
	Version     int64  // the flag's updatedAt in Unix milliseconds; 0 if there is no such flag
	Err         error  // nil unless Value is the default

	// StaleSince is since when newer flags may exist that this client has not
	// seen, as in [Status]; zero while there is no reason to think so.
	StaleSince time.Time

	// Confirmed and Source say when the source last confirmed that the flags are
	// current, and how it stands, as in [Status].
	Confirmed time.Time
	Source    State
}

// Age returns how long the flags behind d may have been out of date: zero
// while StaleSince is.
func (d Detail[T]) Age() time.Duration {
	if d.StaleSince.IsZero() {
		return 0
	}
	return time.Since(d.StaleSince)
}

// A brokenError joins ErrFlagBroken with its cause. It is as large as a pointer, so that
// the path to a default allocates as little as any other.
type brokenError struct{ *flags.Fault }

func (e brokenError) Error() string   { return ErrFlagBroken.Error() + ": " + e.Fault.Error() }
func (e brokenError) Unwrap() []error { return []error{ErrFlagBroken, e.Fault} }

func errOf(res *flags.Result) error {
	switch res.Reason {
	case flags.ClientNotReady:
		return ErrNotReady
	case flags.FlagNotFound:
		return ErrFlagNotFound
	case flags.BadUser:
		return ErrBadUser
	case flags.WrongType:
		return ErrWrongType
	case flags.Broken:
		return brokenError{res.Fault()}
	}
	return nil
}

func detail[T any](s Snapshot, key string, value T, res *flags.Result) Detail[T] {
	d := frame[T](s)
	d.fill(key, value, res)
	if s.set == nil && s.client != nil {
		d.Err = s.missing()
	}
	return d
}

// frame returns what all details of one moment have in common.
func frame[T any](s Snapshot) (d Detail[T]) {
	if s.client != nil {
		d.StaleSince = fromUnixNano(s.client.stale.Load())
		d.Confirmed = fromUnixNano(s.client.confirmed.Load())
		d.Source = State(s.client.sourceState.Load())
	}
	return d
}

// fill adds one outcome to what frame returned.
func (d *Detail[T]) fill(key string, value T, res *flags.Result) {
	d.Value, d.Reason, d.FlagKey, d.Err = value, Reason(res.Reason), key, errOf(res)
	if res.Flag != nil {
		d.FlagName, d.Version = res.Flag.Name(), res.Flag.Version()
	}
	if res.Variation != nil && !res.Reason.IsError() {
		d.VariationID = res.Variation.ID()
	}
}
