package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flagstead/flagstead/store"
)

// watch is Watch. FeatBit publishes each change if its MqProvider is Redis; with
// others nothing comes, and polling does it.
func (f *featbit) watch(ctx context.Context, wake func()) error {
	if f.err != nil {
		return f.wrap("watch", f.err)
	}
	if err := f.s.usable(ctx); err != nil {
		return f.wrap("watch", err)
	}
	// As in Watch: the client may be stuck when ctx ends.
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	news := make(chan struct{}, 1)
	failed := make(chan error, 1)
	go func() { failed <- f.receive(inner, news) }()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.s.closed.Done():
			return f.wrap("watch", store.ErrClosed)
		case err := <-failed:
			if reason := f.s.usable(ctx); reason != nil {
				err = reason
			}
			return f.wrap("watch", err)
		case <-news:
			wake()
		}
	}
}

// receive subscribes and turns messages into hints and news until something fails
// or ctx ends.
func (f *featbit) receive(ctx context.Context, news chan<- struct{}) error {
	sub := f.s.client.Subscribe(ctx)
	defer sub.Close()
	defer context.AfterFunc(ctx, func() { sub.Close() })()

	if err := sub.Subscribe(ctx, featbitFlagTopic, featbitSegmentTopic); err != nil {
		return f.s.explain(err)
	}
	heard := time.Now()
	for {
		msg, err := sub.ReceiveTimeout(ctx, f.s.quiet)
		var timeout net.Error
		switch {
		case err == nil:
			heard = time.Now()
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.As(err, &timeout) || !timeout.Timeout():
			return f.s.explain(err)
		case time.Since(heard) >= f.s.silent:
			return fmt.Errorf("nothing heard for %v", f.s.silent)
		default:
			if err := sub.Ping(ctx); err != nil {
				return f.s.explain(err)
			}
		}
		wake := false
		switch msg := msg.(type) {
		case *goredis.Subscription:
			wake = true
		case *goredis.Message:
			wake = f.hear(msg.Channel, msg.Payload)
		}
		if wake {
			select {
			case news <- struct{}{}:
			default: // one is waiting already
			}
		}
	}
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
