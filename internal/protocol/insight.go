package protocol

// An Insight is one element of the array that is posted to InsightPath: a user
// and what happened to it. A user alone registers the user (identify).
type Insight struct {
	User       InsightUser        `json:"user"`
	Variations []InsightVariation `json:"variations,omitempty"`
	Metrics    []InsightMetric    `json:"metrics,omitempty"`
}

// An InsightUser is a user on the wire.
type InsightUser struct {
	KeyID      string            `json:"keyId"`
	Name       string            `json:"name"`
	Properties []InsightProperty `json:"customizedProperties"`
}

// An InsightProperty is a custom property of a user; all values are texts.
type InsightProperty struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// An InsightVariation says that a user was served a variation.
type InsightVariation struct {
	FlagKey          string      `json:"featureFlagKey"`
	SendToExperiment bool        `json:"sendToExperiment"`
	Timestamp        int64       `json:"timestamp"` // Unix milliseconds
	Variation        ServedValue `json:"variation"`
}

// A ServedValue is the variation that a user was served, and why.
type ServedValue struct {
	ID     string `json:"id"`
	Value  string `json:"value"`
	Reason string `json:"reason"`
}

// An InsightMetric is a custom event of a user.
type InsightMetric struct {
	Route     string  `json:"route"`
	Type      string  `json:"type"`
	EventName string  `json:"eventName"`
	Value     float64 `json:"numericValue"`
	AppType   string  `json:"appType"`
	Timestamp int64   `json:"timestamp"` // Unix milliseconds
}

// The values that every SDK sends with a metric, and the name of this one.
const (
	MetricRoute = "index/metric"
	MetricType  = "CustomEvent"
	AppType     = "goserverside"
)

// MaxInsights is how many insights SDKs send in one request.
const MaxInsights = 50

// UserAgent is sent with every request.
const UserAgent = "flagstead-go"
