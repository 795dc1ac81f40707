package redis

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/store"
)

// benchItems returns n items of about 2 KB, which compress about as flags do.
func benchItems(n int) []store.Item {
	items := make([]store.Item, n)
	for i := range items {
		data := fmt.Appendf(nil, `{"key":"flag-%d","variations":[`, i)
		for len(data) < 2000 {
			data = fmt.Appendf(data, `{"id":"%08x-%04x","name":"variation %d","value":"true"},`, rand.Uint32(), rand.N(1<<16), len(data))
		}
		items[i] = store.Item{Kind: store.Flag, Key: fmt.Sprintf("flag-%d", i), Version: 1, Data: append(data, `{}]}`...)}
	}
	return items
}

// BenchmarkPatchWithHistory shows what readers wait for when a flag changes, of
// 10,000 with 2 KB each: the commit, without a history and while one is written
// beside it; and what writing it takes.
func BenchmarkPatchWithHistory(b *testing.B) {
	items := benchItems(10_000)
	for _, recorded := range []bool{false, true} {
		b.Run(fmt.Sprintf("recorded=%t", recorded), func(b *testing.B) {
			srv := redistest.Start(b)
			s, err := Open(srv.URL(), &Options{Env: "bench"})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			ctx := b.Context()
			if _, err := s.Apply(ctx, store.Change{Full: true, Items: items}); err != nil {
				b.Fatal(err)
			}
			type commit struct {
				base, rev store.Rev
				item      store.Item
			}
			commits, done := make(chan commit, 1<<20), make(chan struct{})
			var deltas, wholes []time.Duration
			go func() {
				defer close(done)
				after := uint64(0)
				for c := range commits {
					began := time.Now()
					r, err := s.AppendRevision(ctx, store.Record{Rev: c.rev, Prev: c.base, After: after, Items: []store.Item{c.item}}, store.Keep{})
					if err != nil {
						began = time.Now()
						if r, err = s.AppendRevision(ctx, store.Record{Rev: c.rev, Prev: c.base, After: after, Items: items, Whole: true}, store.Keep{}); err != nil {
							b.Error(err)
							return
						}
						wholes = append(wholes, time.Since(began))
					} else {
						deltas = append(deltas, time.Since(began))
					}
					after = r.N
				}
			}()
			var took []time.Duration
			pace := time.NewTicker(10 * time.Millisecond) // people do not click faster
			defer pace.Stop()
			base := store.Rev("")
			for i := 0; b.Loop(); i++ {
				it := items[i%len(items)]
				it.Version = int64(i + 2)
				began := time.Now()
				rev, err := s.Apply(ctx, store.Change{Items: []store.Item{it}})
				took = append(took, time.Since(began))
				if err != nil {
					b.Fatal(err)
				}
				if recorded {
					commits <- commit{base, rev, it}
				}
				base = rev
				<-pace.C
			}
			close(commits)
			<-done
			for name, d := range map[string][]time.Duration{"commit": took, "delta": deltas, "whole": wholes} {
				if len(d) > 0 {
					slices.Sort(d)
					b.ReportMetric(float64(d[len(d)/2].Microseconds()), name+"-p50-µs")
					b.ReportMetric(float64(d[len(d)*99/100].Microseconds()), name+"-p99-µs")
				}
			}
			all, err := s.Revisions(ctx)
			if err != nil {
				b.Fatal(err)
			}
			size := int64(0)
			for _, r := range all {
				size += r.Size
			}
			b.ReportMetric(float64(size)/1e6, "history-MB")
		})
	}
}
