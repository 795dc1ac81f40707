package bolt

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/flagstead/flagstead/store"
)

func filled(b *testing.B, n int) (path string, w *Store) {
	path = newPath(b)
	w = openAt(b, path, nil)
	items := make([]store.Item, n)
	for i := range items {
		items[i] = store.Item{Kind: store.Flag, Key: fmt.Sprintf("flag-%06d", i), Version: 1, Data: make([]byte, 2048)}
	}
	apply(b, w, store.Change{Full: true, Items: items})
	return path, w
}

func patch(i int) store.Change {
	return store.Change{Items: []store.Item{{Kind: store.Flag, Key: "flag-000007", Version: int64(i + 2), Data: make([]byte, 2048)}}}
}

// BenchmarkApply commits and publishes a patch of one item.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			_, w := filled(b, n)
			var i int
			for b.Loop() {
				apply(b, w, patch(i))
				i++
			}
		})
	}
}

// BenchmarkFollow adds the time from the return of Apply until a reader has the
// patch.
func BenchmarkFollow(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			path, w := filled(b, n)
			seen := make(chan store.Rev, 1024)
			follow(b, openAt(b, path, readOnly()), func(snap store.Snapshot, err error) {
				if err != nil {
					b.Error(err)
				}
				seen <- snap.Rev
			})
			<-seen
			var late, worst time.Duration
			var i int
			for b.Loop() {
				rev := apply(b, w, patch(i))
				i++
				began := time.Now()
				for got := range seen {
					if got == rev {
						break
					}
				}
				d := time.Since(began)
				late, worst = late+d, max(worst, d)
			}
			b.ReportMetric(late.Seconds()*1e3/float64(i), "delivery-ms/op")
			b.ReportMetric(worst.Seconds()*1e3, "worst-ms")
		})
	}
}

// BenchmarkRead opens a reader and loads the whole snapshot, as each reader does
// at its start and when the snapshot is replaced. It also says how big the files
// are.
func BenchmarkRead(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			path, _ := filled(b, n)
			for b.Loop() {
				r := openAt(b, path, readOnly())
				load(b, r, "")
				r.Close()
			}
			for _, end := range []string{"", ".snap"} {
				info, err := os.Stat(path + end)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(info.Size())/1e6, "MB"+end)
			}
		})
	}
}

// BenchmarkOpen opens a writer on what is there, and closes it.
func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			path, w := filled(b, n)
			w.Close()
			for b.Loop() {
				openAt(b, path, nil).Close()
			}
		})
	}
}

// BenchmarkFull replaces everything.
func BenchmarkFull(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			_, w := filled(b, n)
			version := int64(1)
			for b.Loop() {
				version++
				items := make([]store.Item, n)
				for i := range items {
					items[i] = store.Item{Kind: store.Flag, Key: fmt.Sprintf("flag-%06d", i), Version: version, Data: make([]byte, 2048)}
				}
				apply(b, w, store.Change{Full: true, Items: items})
			}
		})
	}
}
