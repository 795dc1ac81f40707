package flags_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/flagstead/flagstead/internal/verify"
)

// TestConformance runs every recorded case of FeatBit's Python SDK. None is
// excepted: the documents on which flags.Differences applies are not among
// them, and TestDifferences covers those.
func TestConformance(t *testing.T) {
	files, err := filepath.Glob("testdata/eval-*.json")
	if err != nil || len(files) != 10 {
		t.Fatalf("found %d case files (%v), want 10", len(files), err)
	}
	total := 0
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			f, err := verify.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			set, err := f.Load()
			if err != nil {
				t.Fatal(err)
			}
			for i, c := range f.Cases {
				total++
				if err := c.Expect.Check(verify.Evaluate(set, c)); err != nil {
					t.Errorf("case %d, flag %q, user %s: %v", i+1, c.FlagKey, c.User, err)
				}
			}
		})
	}
	if total < 10824 {
		t.Errorf("ran %d cases, want 10824", total)
	}
}
