package flags

import (
	"fmt"
	"runtime"
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
		e := newEntry(&Source{Key: key})
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
			if seen++; want[e.key] != e {
				t.Fatalf("%s is not what was put", e.key)
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

// TestReplacedFlagsAreLetGo: a set of 1,000 flags does not hold on to what was replaced.
func TestReplacedFlagsAreLetGo(t *testing.T) {
	items := make([]Source, 1000)
	for i := range items {
		items[i] = Source{Key: fmt.Sprint("flag-", i), Version: 1, Data: []byte(fmt.Sprintf(`{"key":"flag-%d"}`, i))}
	}
	gone := make(chan struct{})
	runtime.AddCleanup(&items[7].Data[0], func(int) { close(gone) }, 0)
	set, _ := new(Set).Apply(true, items)
	items = nil
	set, changes := set.Apply(false, []Source{{Key: "flag-7", Version: 2, Data: []byte(`{"key":"flag-7","name":"new"}`)}})
	if !slices.Equal(changes.Flags, []string{"flag-7"}) {
		t.Fatalf("changed: %v", changes.Flags)
	}
	collects(t, "the old one", func() bool {
		select {
		case <-gone:
			return true
		default:
			return false
		}
	})
	if f := set.Flag("flag-7"); f == nil || f.Version() != 2 {
		t.Error("the new one is not there")
	}
}

// TestOrderIsKept: all flags come in the order of their keys, also after patches to a set
// whose order was asked for.
func TestOrderIsKept(t *testing.T) {
	u := user(t, "ann")
	set := new(Set)
	flag := func(key string, version int64, archived bool) Source {
		return Source{Key: key, Version: version, Archived: archived, Data: []byte(`{"key":"` + key + `"}`)}
	}
	for i, step := range []struct {
		full  bool
		items []Source
		want  string
	}{
		{true, []Source{flag("c", 1, false), flag("a", 1, false), flag("z", 1, true)}, "a1 c1"},
		{false, []Source{flag("b", 1, false), flag("c", 2, false)}, "a1 b1 c2"},
		{false, []Source{flag("a", 2, true), flag("z", 2, false)}, "b1 c2 z2"},
		{false, []Source{flag("y", 1, true)}, "b1 c2 z2"},
		{true, []Source{flag("c", 2, false)}, "c2"},
	} {
		set, _ = set.Apply(step.full, step.items)
		var got []string
		for f, res := range set.All(u) {
			got = append(got, fmt.Sprint(f.Key(), f.Version()))
			if res.Flag != f {
				t.Errorf("step %d: the result of %s is another flag's", i, f.Key())
			}
		}
		if strings.Join(got, " ") != step.want {
			t.Errorf("step %d: %v, want %s", i, got, step.want)
		}
	}
}
