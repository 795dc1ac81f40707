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
			for b.Loop() {
				size, idle, used := perFlag(b, p)
				b.ReportMetric(size, "docB/flag")
				b.ReportMetric(idle.heap, "heapB/flag")
				b.ReportMetric(used.heap, "usedheapB/flag")
				if idle.resident > 0 {
					b.ReportMetric(idle.resident, "rssB/flag")
					b.ReportMetric(used.resident, "usedrssB/flag")
				}
				if b.N > 1 {
					b.Fatal("run it with -benchtime 1x")
				}
			}
		})
	}
}

// TestMemory: a flag that was loaded takes little more than its JSON, and one that was
// evaluated takes less.
func TestMemory(t *testing.T) {
	for _, p := range Peers() {
		if p.Name != "flagstead" {
			continue
		}
		size, idle, used := perFlag(t, p)
		t.Logf("document %.0f bytes per flag, loaded %.0f, evaluated %.0f", size, idle.heap, used.heap)
		if idle.heap > size+200 || used.heap > size {
			t.Errorf("%.0f bytes per flag that was loaded, want at most %.0f; %.0f that was evaluated, want at most %.0f", idle.heap, size+200, used.heap, size)
		}
	}
}

// A use is of memory, in bytes per flag: of the heap, and of the process, 0 if unknown.
type use struct{ heap, resident float64 }

// perFlag returns the size of the document with many flags, what they take once they are
// loaded, and once they were evaluated, too.
func perFlag(tb testing.TB, p Peer) (size float64, idle, used use) {
	tb.Helper()
	document := p.Document(Flags(many))
	bytes := len(document)
	warm, err := p.Open(p.Document(Flags(len(kinds))), false) // what does not depend on the flags
	if err != nil {
		tb.Fatal(err)
	}
	defer warm.Close()
	heap, resident := footprint(tb)
	since := func() (u use) {
		// The document counted before, and is let go now.
		h, r := footprint(tb)
		u.heap = float64(h-heap+bytes) / many
		if r > 0 {
			u.resident = float64(r-resident+bytes) / many
		}
		return u
	}
	s, err := p.Open(document, false)
	if err != nil {
		tb.Fatal(err)
	}
	defer s.Close()
	document = nil // its Open has it, or has it not
	idle = since()
	s.All()
	used = since()
	return float64(bytes) / many, idle, used
}

// footprint returns the bytes of the heap that are in use and of the process that are
// resident, 0 where /proc does not say. What the runtime has free and did not give back,
// which it does not always do, is nobody's.
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
			return int(m.HeapAlloc), kB<<10 - int(m.HeapIdle-m.HeapReleased)
		}
	}
	tb.Fatalf("no VmRSS in %s", status)
	return 0, 0
}
