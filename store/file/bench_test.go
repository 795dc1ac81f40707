package file_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/file"
)

// flagsOf2KB returns n flags of the size that real ones have.
func flagsOf2KB(n int) []store.Item {
	items := make([]store.Item, n)
	for i := range items {
		items[i] = flag(fmt.Sprintf("flag-%d", i), 1)
		rules := strings.Repeat(`{"id":"0123456789","conditions":[{"property":"country","op":"IsOneOf","value":"[\"de\",\"fr\"]"}]},`, 19)
		items[i].Data = fmt.Appendf(items[i].Data[:len(items[i].Data)-1:len(items[i].Data)-1], `,"rules":[%s]}`, rules[:len(rules)-1])
	}
	return items
}

// BenchmarkFirstLoad opens a reader and loads the file in each of its forms. It
// also says how big the file is.
func BenchmarkFirstLoad(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		for _, name := range []string{"flags.json", "flags.json.gz", "flags.yaml"} {
			b.Run(fmt.Sprint(n, "/", name), func(b *testing.B) {
				path := filepath.Join(b.TempDir(), name)
				text := wire.AppendDataSync(nil, wire.Full, flagsOf2KB(n)) // JSON is YAML
				if strings.HasSuffix(name, ".gz") {
					text = zip(b, text)
				}
				write(b, path, text)
				for b.Loop() {
					s, err := file.Open(path, &file.Options{ReadOnly: true})
					if err != nil {
						b.Fatal(err)
					}
					if got := len(load(b, s).Items); got != n {
						b.Fatalf("%d items, want %d", got, n)
					}
					s.Close()
				}
				b.ReportMetric(float64(len(text))/1e6, "MB")
			})
		}
	}
}

func BenchmarkPatch(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := open(b, fileIn(b.TempDir()), nil)
			apply(b, s, store.Change{Full: true, Items: flagsOf2KB(n)})
			for version := int64(2); b.Loop(); version++ {
				apply(b, s, store.Change{Items: []store.Item{flag("flag-0", version)}})
			}
		})
	}
}

func BenchmarkLoadUnchanged(b *testing.B) {
	s := open(b, fileIn(b.TempDir()), nil)
	rev := apply(b, s, store.Change{Full: true, Items: flagsOf2KB(1000)})
	for b.Loop() {
		if snap, err := s.Load(b.Context(), rev); err != nil || !snap.Delta {
			b.Fatal(snap, err)
		}
	}
}
