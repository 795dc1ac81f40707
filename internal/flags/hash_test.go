package flags

import (
	"encoding/json"
	"os"
	"testing"
)

// TestRollout compares hashes and slices with those that the Python SDK gave.
func TestRollout(t *testing.T) {
	var data struct {
		Hash []struct {
			Key        string
			Percentage float64
		}
		Ranges []struct {
			Key   string
			Range [2]float64
			In    bool
		}
	}
	text, err := os.ReadFile("testdata/rollout.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &data); err != nil {
		t.Fatal(err)
	}
	if len(data.Hash) < 600 || len(data.Ranges) < 1600 {
		t.Fatalf("read %d hashes and %d ranges", len(data.Hash), len(data.Ranges))
	}
	for _, h := range data.Hash {
		for _, cut := range []int{0, len(h.Key) / 2, len(h.Key)} {
			if got := bucket("", h.Key[:cut], h.Key[cut:]); got != h.Percentage {
				t.Errorf("bucket(%q) = %v, want %v", h.Key, got, h.Percentage)
			}
		}
	}
	closed := 0
	for _, r := range data.Ranges {
		b := bucket("", r.Key, "")
		got := inSlice(b, r.Range[0], r.Range[1])
		if got != r.In {
			if b == 1 && r.Range[1] == 1 && got { // Differences: rollout-end
				closed++
				continue
			}
			t.Errorf("inSlice(%q = %v, %v) = %t, want %t", r.Key, b, r.Range, got, r.In)
		}
	}
	t.Logf("%d slices that end at 1 include 1, unlike Python's", closed)
}

func TestBucketOfLongInput(t *testing.T) {
	long := string(make([]byte, 1000))
	if got, want := bucket("", long, "x"), bucket(long, "x", ""); got != want {
		t.Errorf("bucket depends on where the input is cut: %v, %v", got, want)
	}
}
