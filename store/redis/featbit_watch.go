package redis

import (
	"context"
	"encoding/json"
	"strings"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flagstead/flagstead/store"
)

// watch is Watch. FeatBit publishes each change if its MqProvider is Redis; with
// others nothing comes, and polling does it.
func (f *featbit) watch(ctx context.Context, wake func()) error {
	if f.err != nil {
		return f.wrap("watch", f.err)
	}
	return f.s.listen(ctx, wake, ear{
		topics: []string{featbitFlagTopic, featbitSegmentTopic},
		began:  func() func() { return func() {} },
		hear:   func(m *goredis.Message) bool { return f.hear(m.Channel, m.Payload) },
		deaf:   func() bool { return false },
		wrap:   f.wrap,
	})
}

// An announced item is what is read of a message. The rest of it is in Redis by now, and
// there it may be newer already.
type announced struct {
	ID    string `json:"id"`
	EnvID string `json:"envId"`
}

// hear notes what a message says has changed, and reports whether that may be of
// this environment.
func (f *featbit) hear(channel, payload string) bool {
	var refs []ref
	var of string
	if channel == featbitSegmentTopic {
		var msg struct {
			Segment  announced `json:"segment"`
			Affected []string  `json:"affectedFlagIds"`
		}
		if json.Unmarshal([]byte(payload), &msg) != nil {
			return true // no reason not to look
		}
		of = msg.Segment.EnvID
		refs = append(refs, ref{store.Segment, msg.Segment.ID})
		for _, id := range msg.Affected {
			refs = append(refs, ref{store.Flag, id})
		}
	} else {
		var msg announced
		if json.Unmarshal([]byte(payload), &msg) != nil {
			return true
		}
		of = msg.EnvID
		refs = append(refs, ref{store.Flag, msg.ID})
	}
	env := f.envID()
	if env != "" && of != "" && !strings.EqualFold(of, env) {
		return false
	}
	f.hint(refs...)
	return true
}
