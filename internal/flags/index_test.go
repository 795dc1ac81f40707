package flags

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestIndex: an index finds what a search in its list finds.
func TestIndex(t *testing.T) {
	for _, n := range []int{0, 1, fewTexts, fewTexts + 1, 8, 9, 10, 11, 100, 10_000} {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprint("text-", i))
			if i%7 == 0 {
				list = append(list, fmt.Sprint("text-", i/2)) // was there before
			}
		}
		x := indexOf(list)
		for i := range n + 100 {
			text := fmt.Sprint("text-", i)
			want := slices.Index(list[:min(2*i+2, len(list))], text)
			if got := x.find(text); got != want {
				t.Errorf("%d texts: %s is at %d, want %d", n, text, got, want)
			}
			u, err := NewUser(text, "name", nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := x.findKey(u); got != want {
				t.Errorf("%d texts: the user %s is at %d, want %d", n, text, got, want)
			}
		}
		if got := x.find(""); got != -1 {
			t.Errorf("%d texts: no text is at %d", n, got)
		}
	}
}

// TestDirectory: a directory holds what a map would, and older ones stay as they were.
func TestDirectory(t *testing.T) {
	want := map[string]*entry{}
	var d directory
	set := func(d directory, key string) directory {
		e := &entry{src: Source{Key: key}}
		e.hash = hashOf(key)
		want[key] = e
		n := d.edit()
		n.put(e)
		return n.directory
	}
	check := func(d directory, want map[string]*entry) {
		t.Helper()
		if d.n != len(want) {
			t.Fatalf("%d entries, want %d", d.n, len(want))
		}
		seen := 0
		for e := range d.all() {
			if seen++; want[e.src.Key] != e {
				t.Fatalf("%s is not what was put", e.src.Key)
			}
		}
		if seen != len(want) {
			t.Fatalf("%d entries of %d", seen, len(want))
		}
		for key, e := range want {
			if d.find(key) != e {
				t.Fatalf("%s is not found", key)
			}
		}
		if d.find("nobody") != nil {
			t.Fatal("found what was never put")
		}
	}
	check(d, want)
	for i := range 3000 {
		d = set(d, fmt.Sprint("key-", i%2000))
		if i%500 == 0 || i < 200 {
			check(d, want)
		}
	}
	check(d, want)
	before := map[string]*entry{}
	for key, e := range want {
		before[key] = e
	}
	after := d
	for i := range 3000 {
		after = set(after, fmt.Sprint("key-", 1000+i))
	}
	check(d, before)
	check(after, want)
}

// TestHashesSpread: texts that are alike, of every length, share neither hashes nor,
// more than chance has it, their first or last bits.
func TestHashesSpread(t *testing.T) {
	seen := map[uint64]string{}
	var first, last [64]int
	n := 0
	for _, prefix := range []string{"", "a", "ab", "flag", "feature", "boolean-", "a-rather-long-flag-key", strings.Repeat("k", 64)} {
		for i := range 5000 {
			text := prefix + strconv.Itoa(i)
			h := hashOf(text)
			if other, ok := seen[h]; ok && other != text {
				t.Fatalf("%q and %q have one hash", text, other)
			}
			seen[h] = text
			first[h>>58]++
			last[h&63]++
			n++
		}
	}
	for i := range 64 {
		for _, got := range []int{first[i], last[i]} {
			if want := n / 64; got < want*3/4 || got > want*5/4 {
				t.Errorf("%d of %d hashes in the place %d, want about %d", got, n, i, want)
			}
		}
	}
}
