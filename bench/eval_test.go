package bench

import (
	"fmt"
	"slices"
	"testing"
)

func lacks(p Peer, c Case) bool { return slices.Contains(p.Lacks, c) }

func onOff(events bool) string {
	if events {
		return "on"
	}
	return "off"
}

// BenchmarkEval evaluates one flag again and again, among 1,000.
func BenchmarkEval(b *testing.B) {
	for _, p := range Peers() {
		for _, events := range []bool{false, true} {
			if events && p.NoEvents {
				continue
			}
			b.Run(fmt.Sprintf("peer=%s/events=%s", p.Name, onOff(events)), func(b *testing.B) {
				s := open(b, p, 1000, events)
				for _, c := range Cases {
					if !lacks(p, c) {
						b.Run("case="+string(c), func(b *testing.B) { evalCase(b, s, c) })
					}
				}
			})
		}
	}
}

func evalCase(b *testing.B, s Session, c Case) {
	key := Question(c)
	s.Bool(key, true) // compiles, where that is done on first use
	b.ReportAllocs()
	for b.Loop() {
		s.Bool(key, true)
	}
}

// BenchmarkAll evaluates 1,000 flags for one user.
func BenchmarkAll(b *testing.B) {
	for _, p := range Peers() {
		b.Run("peer="+p.Name, func(b *testing.B) {
			s := open(b, p, 1000, false)
			s.All()
			b.ReportAllocs()
			for b.Loop() {
				s.All()
			}
		})
	}
}
