package bench

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// BenchmarkScale reports how many times as many evaluations all processors do together
// as one does. Short runs of the one and of the other alternate, and the fastest of each
// count: on a shared machine one of the processors is often somebody else's for a while,
// which says nothing about what is measured.
func BenchmarkScale(b *testing.B) {
	for _, p := range Peers() {
		if p.Name != "floor" && p.Name != "flagstead" {
			continue
		}
		for _, events := range []bool{false, true} {
			b.Run(fmt.Sprintf("peer=%s/events=%s", p.Name, onOff(events)), func(b *testing.B) {
				s := open(b, p, 1000, events)
				for _, c := range Cases {
					b.Run("case="+string(c), func(b *testing.B) {
						key := Question(c)
						s.Bool(key, true)
						began := time.Now()
						for range 10_000 {
							s.Bool(key, true)
						}
						calls := int(10_000 * 2 * time.Millisecond / time.Since(began)) // of 2 ms
						one, all := time.Duration(math.MaxInt64), time.Duration(math.MaxInt64)
						for b.Loop() {
							x, y := scale(s, key, calls)
							one, all = min(one, x), min(all, y)
						}
						b.ReportMetric(float64(runtime.GOMAXPROCS(0))*float64(one)/float64(all), "times")
					})
				}
			})
		}
	}
}

// scale returns what one caller takes and what one per processor take, each for the same
// number of calls.
func scale(s Session, key string, calls int) (one, all time.Duration) {
	run := func() {
		for range calls {
			s.Bool(key, true)
		}
	}
	n := runtime.GOMAXPROCS(0)
	began := time.Now()
	run()
	one = time.Since(began)
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	ready.Add(n)
	for range n {
		done.Go(func() {
			ready.Done()
			<-start
			run()
		})
	}
	ready.Wait()
	began = time.Now()
	close(start)
	done.Wait()
	return one, time.Since(began)
}

// BenchmarkRatio reports how many times as long Flagstead takes as the bare loop, in
// pairs of short runs, too.
func BenchmarkRatio(b *testing.B) {
	of := map[string]Peer{}
	for _, p := range Peers() {
		of[p.Name] = p
	}
	for _, events := range []bool{false, true} {
		b.Run("events="+onOff(events), func(b *testing.B) {
			bare, ours := open(b, of["floor"], 1000, events), open(b, of["flagstead"], 1000, events)
			for _, c := range Cases {
				b.Run("case="+string(c), func(b *testing.B) {
					key := Question(c)
					ours.Bool(key, true)
					run := func(s Session) float64 {
						const calls = 10_000
						began := time.Now()
						for range calls {
							s.Bool(key, true)
						}
						return float64(time.Since(began))
					}
					var pairs []float64
					for b.Loop() {
						pairs = append(pairs, run(ours)/run(bare))
					}
					slices.Sort(pairs)
					b.ReportMetric(pairs[len(pairs)/2], "times")
				})
			}
		})
	}
}
