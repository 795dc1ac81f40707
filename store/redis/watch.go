package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flagstead/flagstead/store"
)

// Watch implements [store.Watcher]. It returns an error as soon as the
// connection is lost or silent; [store.Follow] calls it again.
func (s *Store) Watch(ctx context.Context, wake func()) error {
	if s.featbit != nil {
		return s.featbit.watch(ctx, wake)
	}
	return s.listen(ctx, wake, ear{
		topics: []string{s.topic},
		began:  s.history.subscribed,
		hear: func(m *goredis.Message) bool {
			s.history.message(m.Payload)
			return true
		},
		deaf: s.history.deaf,
		wrap: s.wrap,
	})
}

// errDeaf ends a Watch, so that the next one goes to the right server.
var errDeaf = errors.New("commits are made that this connection is not told of")

// An ear is what a layout does with the messages that it gets.
type ear struct {
	topics []string
	began  func() (ended func())       // the subscription works
	hear   func(*goredis.Message) bool // reports whether that is news
	deaf   func() bool                 // reports whether messages are missing; asked once a second
	wrap   func(what string, err error) error
}

// listen is Watch.
func (s *Store) listen(ctx context.Context, wake func(), e ear) error {
	if err := s.usable(ctx); err != nil {
		return e.wrap("watch", err)
	}
	// The client may be stuck in a dial or a handshake when ctx ends, so all it
	// does is done elsewhere. wake is only called here, hence never too late.
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	news := make(chan struct{}, 1)
	failed := make(chan error, 1)
	go func() { failed <- s.receive(inner, news, e) }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if e.deaf() {
				return e.wrap("watch", errDeaf)
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-s.closed.Done():
			return e.wrap("watch", store.ErrClosed)
		case err := <-failed:
			if reason := s.usable(ctx); reason != nil {
				err = reason
			}
			return e.wrap("watch", err)
		case <-news:
			wake()
		}
	}
}

// receive subscribes and turns messages into news until something fails or ctx
// ends.
func (s *Store) receive(ctx context.Context, news chan<- struct{}, e ear) error {
	sub := s.client.Subscribe(ctx)
	defer sub.Close()
	// Reads do not end with ctx, but with the connection.
	defer context.AfterFunc(ctx, func() { sub.Close() })()

	if err := sub.Subscribe(ctx, e.topics...); err != nil {
		return s.explain(err)
	}
	defer e.began()()
	heard := time.Now()
	for {
		msg, err := sub.ReceiveTimeout(ctx, s.quiet)
		var timeout net.Error
		switch {
		case err == nil:
			heard = time.Now()
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.As(err, &timeout) || !timeout.Timeout():
			return s.explain(err)
		case time.Since(heard) >= s.silent:
			return fmt.Errorf("nothing heard for %v", s.silent)
		default:
			if err := sub.Ping(ctx); err != nil {
				return s.explain(err)
			}
		}
		switch msg := msg.(type) {
		case *goredis.Subscription:
		case *goredis.Message:
			if !e.hear(msg) {
				continue
			}
		default:
			continue
		}
		select {
		case news <- struct{}{}:
		default: // one is waiting already
		}
	}
}
