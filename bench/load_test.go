package bench

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
)

// many is how many flags are loaded.
const many = 10_000

// BenchmarkLoad starts an SDK on 10,000 flags that are in memory as its vendor's server
// would send them, until it gives the right value of one of them. Closing is not
// measured.
func BenchmarkLoad(b *testing.B) {
	for _, p := range Peers() {
		if p.NoLoad {
			continue
		}
		b.Run("peer="+p.Name, func(b *testing.B) {
			document := p.Document(Flags(many))
			b.ReportAllocs()
			for b.Loop() {
				s, err := p.Open(document, false)
				if err != nil {
					b.Fatal(err)
				}
				if !s.Bool(FlagKey(Boolean, many/len(kinds)-1), false) {
					b.Fatal("the value is wrong")
				}
				b.StopTimer()
				s.Close()
				b.StartTimer()
			}
			b.ReportMetric(float64(len(document))/1e6, "docMB")
		})
	}
}

// BenchmarkMemory reports what 10,000 flags take, per flag, once everything is collected
// that can be: of the heap and of the process, before they were evaluated and after. It
// is of use only in a process of its own, once.
func BenchmarkMemory(b *testing.B) {
	for _, p := range Peers() {
		if p.NoLoad {
			continue
		}
		b.Run("peer="+p.Name, func(b *testing.B) {
			document := p.Document(Flags(many))
			size := len(document)
			warm, err := p.Open(p.Document(Flags(len(kinds))), false) // what does not depend on the flags
			if err != nil {
				b.Fatal(err)
			}
			defer warm.Close()
			heap, resident := footprint(b)
			for b.Loop() {
				s, err := p.Open(document, false)
				if err != nil {
					b.Fatal(err)
				}
				document = nil // its Open has it, or has it not
				idleHeap, idleResident := footprint(b)
				s.All()
				usedHeap, usedResident := footprint(b)
				per := func(now, before int) float64 { return float64(now-before+size) / many }
				b.ReportMetric(per(idleHeap, heap), "heapB/flag")
				b.ReportMetric(per(usedHeap, heap), "usedheapB/flag")
				if resident > 0 {
					b.ReportMetric(per(idleResident, resident), "rssB/flag")
					b.ReportMetric(per(usedResident, resident), "usedrssB/flag")
				}
				b.ReportMetric(float64(size)/many, "docB/flag")
				s.Close()
				if b.N > 1 {
					b.Fatal("run it with -benchtime 1x")
				}
			}
		})
	}
}

// footprint returns the bytes of the heap that are in use and of the process that are
// resident, 0 where /proc does not say. The document counts until it is let go, so that
// per adds it again.
func footprint(tb testing.TB) (heap, resident int) {
	tb.Helper()
	for range 3 {
		runtime.GC()
	}
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return int(m.HeapAlloc), 0
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kB, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				tb.Fatal(err)
			}
			return int(m.HeapAlloc), kB << 10
		}
	}
	tb.Fatalf("no VmRSS in %s", status)
	return 0, 0
}
