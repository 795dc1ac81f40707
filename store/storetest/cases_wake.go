package storetest

import (
	"context"
	"errors"

	"github.com/flagstead/flagstead/store"
)

// errWatchLost is what a Watch of the suite's own ends with.
var errWatchLost = errors.New("storetest: this Watch ends at once")

// A deaf handle is sound but for its Watch, which loses wake-ups.
type deaf struct {
	store.DataStore
	watch func(ctx context.Context, wake func()) error
}

func (d deaf) Watch(ctx context.Context, wake func()) error { return d.watch(ctx, wake) }

const lostRule = "A lost wake-up costs one poll interval in Follow: Load has the truth, whether anybody was woken or not."

var lostCases = []testCase{
	{
		name:  "follow-without-watch",
		rule:  lostRule,
		needs: wantOther,
		run: func(c *tester) {
			c.followDeaf(func(store.DataStore) func(context.Context, func()) error {
				return func(ctx context.Context, _ func()) error {
					<-ctx.Done()
					return ctx.Err()
				}
			})
		},
	},
	{
		name:  "follow-loses-wakes",
		rule:  lostRule,
		needs: wantOther | needWatch,
		run: func(c *tester) {
			c.followDeaf(func(h store.DataStore) func(context.Context, func()) error {
				return func(ctx context.Context, _ func()) error { return h.(store.Watcher).Watch(ctx, func() {}) }
			})
		},
	},
	{
		name:  "follow-with-a-watch-that-ends",
		rule:  lostRule,
		needs: wantOther | needWatch,
		run: func(c *tester) {
			c.followDeaf(func(h store.DataStore) func(context.Context, func()) error {
				return func(ctx context.Context, wake func()) error {
					// It lives until the first wake, and the next one begins anew.
					ctx, cancel := context.WithCancel(ctx)
					defer cancel()
					if err := h.(store.Watcher).Watch(ctx, cancel); !errors.Is(err, context.Canceled) {
						return err
					}
					return errWatchLost
				}
			})
		},
	},
}

// followDeaf follows every handle, with another Watch, through some commits.
func (c *tester) followDeaf(watch func(store.DataStore) func(context.Context, func()) error) {
	var followers []*followed
	for _, h := range c.handles {
		followers = append(followers, c.follow(deaf{h, watch(h)}))
	}
	state := content{}
	for i := range 5 {
		for _, ch := range []store.Change{
			full(flag("a", 1), segment("n", int64(2*i))), patch(flag("a", 2), segment("n", int64(2*i+1))),
		} {
			c.apply(c.s, ch)
			state, _ = state.apply(ch)
			for _, f := range followers {
				c.eventually("Follow delivers a commit that nobody was woken for", func() bool { return diff(f.now().items, state) == "" })
			}
		}
	}
	for _, f := range followers {
		f.cancel()
		if err := receive(c, "Follow returns when its context ends", f.ended); !errors.Is(err, context.Canceled) {
			c.fatalf("Follow returned %v", err)
		}
	}
}
