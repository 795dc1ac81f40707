package relay

import (
	"encoding/json"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/time/rate"
)

// RateLimits are requests per second and environment, by what they ask for. Zero is
// no limit. A burst of ten seconds' worth is let through.
type RateLimits struct {
	Streaming float64 // streams opened
	SDK       float64 // latest-all of both kinds
	Insight   float64 // deliveries of insights
	Evaluate  float64 // evaluations
}

// limits are those of one environment; nil is no limit.
type limits struct{ streaming, sdk, insight, evaluate *rate.Limiter }

func (l RateLimits) limiters() limits {
	one := func(perSecond float64) *rate.Limiter {
		if perSecond <= 0 {
			return nil
		}
		return rate.NewLimiter(rate.Limit(perSecond), max(1, int(math.Ceil(10*perSecond))))
	}
	return limits{one(l.Streaming), one(l.SDK), one(l.Insight), one(l.Evaluate)}
}

// allowed reports whether another request is within the limit, and answers 429 in
// FeatBit's words if not.
func (r *Relay) allowed(w http.ResponseWriter, l *rate.Limiter) bool {
	if l == nil || l.Allow() {
		return true
	}
	r.counters.limited.Add(1)
	after := max(1, int(math.Ceil(1/float64(l.Limit()))))
	w.Header().Set("Retry-After", strconv.Itoa(after))
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(http.StatusTooManyRequests)
	text, _ := json.Marshal(map[string]string{"error": "Rate limit exceeded. Please try again later."})
	_, _ = w.Write(text)
	return false
}

// foreign reports whether a browser sends the request on behalf of a page that the
// relay is not meant for. Server-side SDKs may send any Origin: Python's repeats the
// URL that it was given, whatever proxy is between.
func (r *Relay) foreign(req *http.Request) bool {
	origin := req.Header.Get("Origin")
	return origin != "" && !slices.ContainsFunc(r.cfg.AllowedOrigins, func(allowed string) bool {
		before, after, pattern := strings.Cut(strings.ToLower(allowed), "*")
		o := strings.ToLower(origin)
		return o == before && !pattern ||
			pattern && len(o) >= len(before)+len(after) && strings.HasPrefix(o, before) && strings.HasSuffix(o, after)
	})
}
