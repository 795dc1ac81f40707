package redis

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/store"
)

// big returns n flags of some 2 KB.
func big(env string, n int) []store.Item {
	items := make([]store.Item, n)
	for i := range items {
		d := flagDoc(env, fmt.Sprintf("flag-%d", i), int64(i+1))
		d.revision = strings.Repeat("x", 1200)
		items[i] = d.item(env)
	}
	return items
}

// sent returns how many bytes the server has sent so far, to whomever.
func sent(b testing.TB, c *goredis.Client) int64 {
	info := c.Info(bounded(b), "stats").Val()
	_, rest, _ := strings.Cut(info, "total_net_output_bytes:")
	n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// BenchmarkFeatBit is what a reader costs in a big environment.
func BenchmarkFeatBit(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		srv := redistest.Start(b)
		c, env := rawClient(b, srv), newGUID()
		o := &Options{Layout: LayoutFeatBit, Env: env, Timeout: time.Minute, FeatBit: FeatBitOptions{Write: true}}
		w := New(c, o)
		items := big(env, n)
		ctx := context.Background()
		began := time.Now()
		if _, err := w.Apply(ctx, store.Change{Full: true, Items: items}); err != nil {
			b.Fatal(err)
		}
		b.Logf("%d flags of %d bytes: the first full change took %v", n, len(items[0].Data), time.Since(began))
		o = &Options{Layout: LayoutFeatBit, Env: env}
		b.Run(fmt.Sprintf("load-everything/%d", n), func(b *testing.B) {
			for b.Loop() {
				if snap := load(b, New(c, o), ""); len(snap.Items) != n {
					b.Fatal(len(snap.Items))
				}
			}
		})
		r := New(c, o)
		rev := load(b, r, "").Rev
		b.Run(fmt.Sprintf("poll/%d", n), func(b *testing.B) {
			before := sent(b, c)
			for b.Loop() {
				load(b, r, rev)
			}
			b.ReportMetric(float64(sent(b, c)-before)/float64(b.N), "bytes/op")
		})
		b.Run(fmt.Sprintf("edit-and-load/%d", n), func(b *testing.B) {
			d := flagDoc(env, "edited", 1)
			for b.Loop() {
				d = d.edited(d.at + 1)
				runAll(b, c, saveFlag(d, true)...)
				snap := load(b, r, rev)
				rev = snap.Rev
			}
		})
		b.Run(fmt.Sprintf("apply-patch/%d", n), func(b *testing.B) {
			load(b, w, "")
			d := flagDoc(env, "applied", 1)
			for b.Loop() {
				d = d.edited(d.at + 1)
				apply(b, w, false, d.item(env))
			}
		})
		w.Close()
		r.Close()
	}
}
