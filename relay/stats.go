package relay

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/flagstead/flagstead/store"
)

// Stats says what a Relay serves and did since New.
type Stats struct {
	Ready        bool // there is data to serve
	StoreFailing bool // the last attempt to load or watch a store failed

	Flags        int // served and not archived
	Segments     int // served and not archived
	InvalidItems int // items in the store that cannot be served

	Connections int   // streams open now
	Accepted    int64 // streams opened
	Rejected    int64 // streams closed with 4003
	Refused     int64 // requests answered 503 for lack of data, or of room
	Limited     int64 // requests answered 429
	Dropped     int64 // streams given up because the SDK did not accept data
	Ignored     int64 // messages from SDKs that were not understood
	Syncs       int64 // data-sync messages answered

	Changes   int64 // items of the store that changed after the first load
	Restamped int64 // of these, those that needed an updatedAt of ours
	Patches   int64 // patches with items sent to connections

	Requests        int64 // HTTP requests, upgrades included
	InsightRequests int64 // accepted requests with insights
	Insights        int64 // valid entries of these
	InvalidInsights int64 // entries that were skipped
	RefusedInsights int64 // requests with insights that Config.Insights did not take
	Variations      int64
	Metrics         int64

	Environments []EnvironmentStats // by name
}

// EnvironmentStats says how one environment stands.
type EnvironmentStats struct {
	ID           string // as in Environment
	Name         string // as in Environment
	Ready        bool   // there is data to serve
	StoreFailing bool   // the last attempt to load or watch failed
	Flags        int    // served and not archived
	Segments     int    // served and not archived
	InvalidItems int    // items in the store that cannot be served
	Connections  int    // streams open now
	Changes      int64
	Rev          store.Rev

	// Confirmed is until when the store is known to be equal to its source, if it
	// tells.
	Confirmed time.Time
}

func (e *environment) stats() EnvironmentStats {
	s := EnvironmentStats{
		ID: e.id, Name: *e.name.Load(),
		InvalidItems: int(e.invalid.Load()), Connections: int(e.conns.Load()), Changes: e.changes.Load(),
	}
	if v := e.view.Load(); v != nil {
		s.Ready, s.Flags, s.Segments = true, v.live(store.Flag), v.live(store.Segment)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s.StoreFailing, s.Rev, s.Confirmed = e.failing, e.rev, e.heartbeat.Confirmed
	return s
}

type counters struct {
	accepted, rejected, refused, limited, dropped, ignored, syncs atomic.Int64

	changes, restamped, patches atomic.Int64

	requests, insightRequests, insights, invalidInsights, refusedInsights, variations, metrics atomic.Int64
}

// Stats returns the current numbers. They are read one by one, not at one
// moment.
func (r *Relay) Stats() Stats {
	n := &r.counters
	s := Stats{
		Ready:           r.Ready(),
		Connections:     int(r.open.Load()),
		Accepted:        n.accepted.Load(),
		Rejected:        n.rejected.Load(),
		Refused:         n.refused.Load(),
		Limited:         n.limited.Load(),
		Dropped:         n.dropped.Load(),
		Ignored:         n.ignored.Load(),
		Syncs:           n.syncs.Load(),
		Changes:         n.changes.Load(),
		Restamped:       n.restamped.Load(),
		Patches:         n.patches.Load(),
		Requests:        n.requests.Load(),
		InsightRequests: n.insightRequests.Load(),
		Insights:        n.insights.Load(),
		InvalidInsights: n.invalidInsights.Load(),
		RefusedInsights: n.refusedInsights.Load(),
		Variations:      n.variations.Load(),
		Metrics:         n.metrics.Load(),
	}
	for _, e := range r.list() {
		one := e.stats()
		s.Environments = append(s.Environments, one)
		s.Flags += one.Flags
		s.Segments += one.Segments
		s.InvalidItems += one.InvalidItems
		s.StoreFailing = s.StoreFailing || one.StoreFailing
	}
	slices.SortFunc(s.Environments, func(a, b EnvironmentStats) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return s
}
