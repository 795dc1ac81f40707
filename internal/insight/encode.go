package insight

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	"github.com/flagstead/flagstead/internal/flags"
	"github.com/flagstead/flagstead/internal/protocol"
)

// encode appends the JSON array that the server expects.
func (p *Pipeline) encode(dst []byte, batch []event) ([]byte, error) {
	if !p.cfg.Gzip {
		return appendInsights(dst, batch)
	}
	text, err := appendInsights(nil, batch)
	if err != nil {
		return nil, err
	}
	b := bytes.NewBuffer(dst)
	w := gzip.NewWriter(b)
	w.Write(text) // a Buffer takes everything
	w.Close()
	return b.Bytes(), nil
}

func appendInsights(dst []byte, batch []event) ([]byte, error) {
	dst = append(dst, '[')
	for i := range batch {
		if i > 0 {
			dst = append(dst, ',')
		}
		var err error
		if dst, err = appendInsight(dst, &batch[i]); err != nil {
			return nil, err
		}
	}
	return append(dst, ']'), nil
}

// appendInsight appends what json.Marshal makes of a [protocol.Insight], whose
// members have no names to look up here. The error names a metric that is not
// finite, which callers must not record.
func appendInsight(dst []byte, e *event) ([]byte, error) {
	dst = append(dst, `{"user":`...)
	dst = append(dst, e.user.Encoded(encodeUser)...)
	switch {
	case e.variation != nil:
		dst = append(dst, `,"variations":[{"featureFlagKey":`...)
		dst = appendText(dst, e.flag.Key())
		dst = append(dst, `,"sendToExperiment":`...)
		dst = strconv.AppendBool(dst, e.how.Experiment())
		dst = append(dst, `,"timestamp":`...)
		dst = strconv.AppendInt(dst, e.millis, 10)
		dst = append(dst, `,"variation":{"id":`...)
		dst = appendText(dst, e.variation.ID())
		dst = append(dst, `,"value":`...)
		dst = appendText(dst, e.variation.Text())
		dst = append(dst, `,"reason":`...)
		dst = appendText(dst, e.how.Reason().String())
		dst = append(dst, `}}]`...)
	case e.metrics != nil && len(*e.metrics) > 0:
		var err error
		if dst, err = appendMetrics(dst, *e.metrics, e.millis); err != nil {
			return nil, err
		}
	}
	return append(dst, '}'), nil
}

func appendMetrics(dst []byte, metrics []Metric, millis int64) ([]byte, error) {
	list := make([]protocol.InsightMetric, len(metrics))
	for i, m := range metrics {
		if math.IsInf(m.Value, 0) || math.IsNaN(m.Value) {
			return nil, fmt.Errorf("metric %q is %v", m.Name, m.Value)
		}
		list[i] = protocol.InsightMetric{
			Route: protocol.MetricRoute, Type: protocol.MetricType, AppType: protocol.AppType,
			EventName: m.Name, Value: m.Value, Timestamp: millis,
		}
	}
	text, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	dst = append(dst, `,"metrics":`...)
	return append(dst, text...), nil
}

// appendText appends a JSON string. Most texts need no escaping; encoding/json sees to
// the others.
func appendText(dst []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, _ := json.Marshal(text) // a text can always be encoded
			return append(dst, quoted...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, text...)
	return append(dst, '"')
}

func encodeUser(u *flags.User) []byte {
	w := protocol.InsightUser{KeyID: u.Key(), Name: u.Name(), Properties: make([]protocol.InsightProperty, 0, len(u.Attrs()))}
	for _, a := range u.Attrs() {
		w.Properties = append(w.Properties, protocol.InsightProperty{Name: a.Name(), Value: a.Value()})
	}
	text, err := json.Marshal(w)
	if err != nil {
		return []byte("{}") // unreachable: the struct holds only texts
	}
	return text
}
