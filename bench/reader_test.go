package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/bolt"
	"github.com/flagstead/flagstead/store/file"
	"github.com/flagstead/flagstead/store/redis"
)

// BenchmarkReader reports the memory of a process that reads 10,000 flags of 2 KB from a
// store and evaluates none of them, once all is collected that can be: what a flag takes
// beyond its JSON, and what the process takes beyond the flags.
func BenchmarkReader(b *testing.B) {
	program := filepath.Join(b.TempDir(), "reader")
	if text, err := exec.Command("go", "build", "-o", program, "./reader").CombinedOutput(); err != nil {
		b.Fatalf("go build: %v\n%s", err, text)
	}
	items := largeItems(many)
	size, rounded := 0, 0
	for _, it := range items {
		size += len(it.Data)
		rounded += cap(bytes.Clone(it.Data))
	}
	for _, where := range []string{"offline", "redis", "bolt", "file"} {
		b.Run("store="+where, func(b *testing.B) {
			full, none := published(b, where, items), published(b, where, nil)
			for b.Loop() {
				heap, resident := reader(b, program, where, full)
				heap0, resident0 := reader(b, program, where, none)
				b.ReportMetric(float64(heap-heap0-size)/many, "heap-beyond-B/flag")
				if resident > 0 {
					b.ReportMetric(float64(resident-resident0-size)/many, "rss-beyond-B/flag")
					b.ReportMetric(float64(resident0), "none-B")
				}
				b.ReportMetric(float64(rounded-size)/many, "rounding-B/flag")
			}
		})
	}
}

// published puts items into a new store and returns where it is.
func published(b *testing.B, where string, items []store.Item) (place string) {
	dir := b.TempDir()
	var w store.DataStore
	var err error
	switch where {
	case "offline":
		place = filepath.Join(dir, "bootstrap.json")
		must(b, os.WriteFile(place, document(items), 0o600))
		return place
	case "redis":
		place = redistest.Start(b).URL() + "/0?env=bench"
		w, err = redis.Open(place, nil)
	case "bolt":
		place = filepath.Join(dir, "flags.db")
		w, err = bolt.Open(place, nil)
	case "file":
		place = filepath.Join(dir, "flags.json")
		w, err = file.Open(place, nil)
	}
	must(b, err)
	_, err = w.Apply(context.Background(), store.Change{Full: true, Items: items})
	must(b, err)
	must(b, w.(interface{ Close() error }).Close())
	return place
}

// reader runs the program on a store.
func reader(b *testing.B, program, where, place string) (heap, resident int) {
	b.Helper()
	text, err := exec.Command(program, where, place).Output()
	if err != nil {
		if e, ok := err.(*exec.ExitError); ok {
			text = e.Stderr
		}
		b.Fatalf("%s %s: %v\n%s", program, where, err, text)
	}
	if _, err := fmt.Sscan(string(text), &heap, &resident); err != nil {
		b.Fatalf("%q: %v", text, err)
	}
	return heap, resident
}
