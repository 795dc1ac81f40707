package relay

import (
	"sync/atomic"

	"github.com/flagstead/flagstead/store"
)

// Stats says what a Relay serves and did since New.
type Stats struct {
	Ready        bool // there is data to serve
	StoreFailing bool // the last attempt to load or watch failed

	Flags        int // served and not archived
	Segments     int // served and not archived
	InvalidItems int // items in the store that cannot be served

	Connections int   // streams open now
	Accepted    int64 // streams opened
	Rejected    int64 // streams closed with 4003
	Refused     int64 // requests answered 503 for lack of data
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
	Variations      int64
	Metrics         int64
}

type counters struct {
	accepted, rejected, refused, dropped, ignored, syncs atomic.Int64

	changes, restamped, patches, invalidItems atomic.Int64

	requests, insightRequests, insights, invalidInsights, variations, metrics atomic.Int64
}

// Stats returns the current numbers. They are read one by one, not at one
// moment.
func (r *Relay) Stats() Stats {
	n := &r.counters
	s := Stats{
		Ready:           r.Ready(),
		InvalidItems:    int(n.invalidItems.Load()),
		Accepted:        n.accepted.Load(),
		Rejected:        n.rejected.Load(),
		Refused:         n.refused.Load(),
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
		Variations:      n.variations.Load(),
		Metrics:         n.metrics.Load(),
	}
	if v := r.view.Load(); v != nil {
		s.Flags, s.Segments = v.live(store.Flag), v.live(store.Segment)
	}
	r.viewMu.Lock()
	s.StoreFailing = r.failing
	r.viewMu.Unlock()
	r.connMu.Lock()
	for c := range r.conns {
		if c.reject == 0 {
			s.Connections++
		}
	}
	r.connMu.Unlock()
	return s
}
