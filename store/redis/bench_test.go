package redis

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/store"
)

const (
	manyFlags = 10_000
	flagSize  = 2 << 10
)

// bigSet returns many flags of one version, whose data nothing can compress.
func bigSet(version int64) []store.Item {
	rnd := rand.New(rand.NewPCG(uint64(version), 1))
	items := make([]store.Item, manyFlags)
	for i := range items {
		data := make([]byte, flagSize)
		for j := range data {
			data[j] = byte('a' + rnd.IntN(26))
		}
		items[i] = store.Item{Kind: store.Flag, Key: fmt.Sprint("flag-", i), Version: version, Data: data}
	}
	return items
}

// bareFull is what a full change cannot do without: all values, in pipelines.
func bareFull(ctx context.Context, c goredis.UniversalClient, key string, items []store.Item) error {
	for chunk := range slices.Chunk(items, 100) {
		_, err := c.Pipelined(ctx, func(p goredis.Pipeliner) error {
			for _, it := range chunk {
				p.HSet(ctx, key, it.Key, it.Data)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// barePatch is a write and a message.
func barePatch(ctx context.Context, c goredis.UniversalClient, key string, it store.Item) error {
	_, err := c.Pipelined(ctx, func(p goredis.Pipeliner) error {
		p.HSet(ctx, key, it.Key, it.Data)
		p.Publish(ctx, key, it.Key)
		return nil
	})
	return err
}

// bystander is another client of the server.
type bystander struct {
	stop    context.CancelFunc
	done    sync.WaitGroup
	mu      sync.Mutex
	longest time.Duration
}

func newBystander(t testing.TB, srv *redistest.Server) *bystander {
	c := rawClient(t, srv)
	ctx, stop := context.WithCancel(context.Background())
	b := &bystander{stop: stop}
	if err := c.Ping(ctx).Err(); err != nil { // dialing is not waiting
		t.Fatal(err)
	}
	b.done.Go(func() {
		for ctx.Err() == nil {
			began := time.Now()
			if err := c.Ping(ctx).Err(); err != nil {
				continue
			}
			b.mu.Lock()
			b.longest = max(b.longest, time.Since(began))
			b.mu.Unlock()
		}
	})
	t.Cleanup(func() { stop(); b.done.Wait() })
	return b
}

// take returns the longest that it waited since the last take.
func (b *bystander) take() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.longest
	b.longest = 0
	return d
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// TestCost compares with bare commands of the same client, in the same run, and
// prints the figures. The limit is far from them: machines differ.
func TestCost(t *testing.T) {
	srv := redistest.Start(t)
	s, c := open(t, srv, "x"), rawClient(t, srv)
	ctx := bounded(t)
	sets := [][]store.Item{bigSet(1), bigSet(2)}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	timed := func(f func(int), round int) time.Duration {
		began := time.Now()
		f(round)
		return time.Since(began)
	}
	compare := func(what string, rounds int, ours, bare func(round int)) {
		t.Helper()
		ours(0) // the first one dials, and has the server learn the script
		bare(1)
		var took, tookBare []time.Duration
		for i := range rounds { // in turn, since machines have moods
			took, tookBare = append(took, timed(ours, i)), append(tookBare, timed(bare, i))
		}
		var wait, waitBare time.Duration
		b := newBystander(t, srv)
		for i := range rounds {
			b.take()
			ours(i)
			wait = max(wait, b.take())
			bare(i)
			waitBare = max(waitBare, b.take())
		}
		b.stop()
		b.done.Wait()
		ratio := float64(median(took)) / float64(median(tookBare))
		t.Logf("%-18s %8.2f ms, bare %8.2f ms: %.2f; longest PING %.1f ms, bare %.1f ms", what,
			1e3*median(took).Seconds(), 1e3*median(tookBare).Seconds(), ratio, 1e3*wait.Seconds(), 1e3*waitBare.Seconds())
		if ratio > 30 {
			t.Errorf("%s takes %.1f times as long as bare commands", what, ratio)
		}
	}
	compare("full", 7,
		func(i int) { apply(t, s, true, sets[i%2]...) },
		func(i int) { must(bareFull(ctx, c, "bare", sets[i%2])) })
	compare("load", 7,
		func(int) { load(t, s, "") },
		func(int) {
			if all, err := c.HGetAll(ctx, "bare").Result(); err != nil || len(all) != manyFlags {
				t.Fatal(len(all), err)
			}
		})
	n := int64(10)
	compare("patch of one", 300,
		func(i int) { n++; apply(t, s, false, flag(fmt.Sprint("flag-", i), n, string(sets[0][i].Data))) },
		func(i int) { must(barePatch(ctx, c, "bare", sets[0][i])) })
	compare("poll without news", 300,
		func(int) { load(t, s, s.history.at(s.history.top).rev()) },
		func(int) { must(c.HMGet(ctx, "bare", "a", "b").Err()) })
}

func BenchmarkFull(b *testing.B) {
	srv := redistest.Start(b)
	sets := [][]store.Item{bigSet(1), bigSet(2)}
	b.Run("store", func(b *testing.B) {
		s := open(b, srv, "x")
		for i := 0; b.Loop(); i++ {
			apply(b, s, true, sets[i%2]...)
		}
	})
	b.Run("bare", func(b *testing.B) {
		c := rawClient(b, srv)
		for i := 0; b.Loop(); i++ {
			if err := bareFull(bounded(b), c, "bare", sets[i%2]); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkLoad(b *testing.B) {
	srv := redistest.Start(b)
	s, c := open(b, srv, "x"), rawClient(b, srv)
	apply(b, s, true, bigSet(1)...)
	b.Run("store", func(b *testing.B) {
		for b.Loop() {
			load(b, s, "")
		}
	})
	b.Run("bare", func(b *testing.B) {
		for b.Loop() {
			if err := c.HGetAll(bounded(b), s.data).Err(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkPatch(b *testing.B) {
	srv := redistest.Start(b)
	s, c := open(b, srv, "x"), rawClient(b, srv)
	set := bigSet(1)
	apply(b, s, true, set...)
	b.Run("store", func(b *testing.B) {
		for i := int64(2); b.Loop(); i++ {
			apply(b, s, false, flag(fmt.Sprint("flag-", i%manyFlags), i, string(set[0].Data)))
		}
	})
	b.Run("bare", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if err := barePatch(bounded(b), c, "bare", set[i%manyFlags]); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkPush(b *testing.B) {
	for _, mailbox := range []bool{true, false} {
		b.Run(fmt.Sprintf("mailbox=%t", mailbox), func(b *testing.B) {
			took := pushed(b, server, mailbox, max(b.N, 10))
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}
