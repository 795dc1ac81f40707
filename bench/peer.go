package bench

import (
	"net/http"
	"runtime/debug"
	"slices"
)

// A Peer is an SDK that is measured.
type Peer struct {
	Name   string // as the tables show it, in lower case
	Title  string // the vendor's name
	Module string // of the SDK, for its version; empty for the floor

	// Lacks are the cases that the peer cannot express.
	Lacks []Case

	// Document returns the flags in the vendor's own format, as its server would
	// send them. It is not measured.
	Document func(flags []Flag) []byte

	// Open starts the SDK on a document and returns when it can evaluate. With
	// events, every evaluation is recorded and delivered as the vendor does it by
	// default, over [BlackHole]; without, nothing is.
	Open func(document []byte, events bool) (Session, error)

	// NoEvents: the SDK has no events to switch on.
	NoEvents bool

	// NoDefault: the SDK's calls take no default, and an unknown flag is false.
	NoDefault bool

	// NoLoad: the SDK reads no document, so that there is no load to measure.
	NoLoad bool

	// Note says what a reader of the tables must know. One sentence, or empty.
	Note string
}

// A Session is an SDK with flags, and with [TheUser] in its own form, built
// beforehand.
type Session interface {
	// Bool evaluates a boolean flag for TheUser, by the call that the vendor's
	// documentation shows first, with the given default.
	Bool(key string, def bool) bool

	// All evaluates all flags for TheUser, and returns how many there were.
	All() int

	// Events returns how many events were recorded and how many of them were lost
	// because there was no room, if the SDK tells; ok is false if not.
	Events() (recorded, dropped uint64, ok bool)

	Close()
}

var peers []Peer

func register(p Peer) { peers = append(peers, p) }

// Peers returns all peers, Flagstead and the floor first.
func Peers() []Peer {
	list := slices.Clone(peers)
	rank := map[string]int{"floor": -2, "flagstead": -1}
	slices.SortFunc(list, func(a, b Peer) int {
		if d := rank[a.Name] - rank[b.Name]; d != 0 {
			return d
		}
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return list
}

// Version returns the version of a peer's module in this build.
func (p *Peer) Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || p.Module == "" {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == p.Module {
			return m.Version
		}
	}
	return ""
}

// BlackHole is a transport that takes every request, reads its body and answers 202
// with an empty JSON object. It costs an SDK less than any server would.
type BlackHole struct{}

// RoundTrip implements [http.RoundTripper].
func (BlackHole) RoundTrip(r *http.Request) (*http.Response, error) {
	return answer(r, http.StatusAccepted, []byte("{}")), nil
}
