package storetest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flagstead/flagstead/store"
)

// TestSoundStorePasses is the control of TestFaultsAreCaught: the handles that
// the faults are built into keep every rule, and no case is skipped for both
// kinds of them.
func TestSoundStorePasses(t *testing.T) {
	t.Run("all write", func(t *testing.T) { Run(t, soundOptions(true)) })
	t.Run("one writes", func(t *testing.T) { Run(t, soundOptions(false)) })
	for _, c := range testable() {
		if c.needs&needProcess == 0 || c.needs&needWrites != 0 {
			continue
		}
		if failures, _ := check(t, fault{}.processOptions(t, false), c); len(failures) > 0 {
			t.Errorf("case %s, one process writes: %s", c.name, failures)
		}
	}
	for _, c := range testable() {
		failures, skipped := check(t, optionsFor(t, c, fault{}), c)
		if skipped != "" {
			t.Errorf("case %s is skipped: %s", c.name, skipped)
		}
		if len(failures) > 0 {
			t.Errorf("case %s: %s", c.name, failures)
		}
	}
}

func soundOptions(reopenedWrites bool) Options {
	o := fault{}.options(reopenedWrites)
	o.Patience = 0
	return o
}

// TestFaultsAreCaught breaks one rule at a time and insists that each case of
// that rule fails.
func TestFaultsAreCaught(t *testing.T) {
	all := allCases()
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			if len(f.cases) == 0 {
				t.Fatal("no case has to catch this fault")
			}
			for _, name := range f.cases {
				i := slices.IndexFunc(all, func(c testCase) bool { return c.name == name })
				if i < 0 {
					t.Fatalf("there is no case %q", name)
				}
				failures, skipped := check(t, optionsFor(t, all[i], f), all[i])
				text := strings.Join(failures, "\n")
				switch {
				case skipped != "":
					t.Errorf("case %s is skipped: %s", name, skipped)
				case len(failures) == 0:
					t.Errorf("case %s does not notice", name)
				case strings.Contains(text, "panic:") != f.panics, strings.Contains(text, "call hangs"):
					t.Errorf("case %s notices for the wrong reason: %s", name, text)
				case !strings.Contains(text, "rule: "+all[i].rule):
					t.Errorf("case %s does not print its rule: %s", name, text)
				}
			}
		})
	}
}

// TestEveryCaseCatchesAFault finds cases that no fault puts to the test.
func TestEveryCaseCatchesAFault(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range testable() {
		if seen[c.name] {
			t.Errorf("two cases are named %s", c.name)
		}
		seen[c.name] = true
		if !strings.HasSuffix(c.rule, ".") {
			t.Errorf("the rule of %s is no sentence: %q", c.name, c.rule)
		}
		if !slices.ContainsFunc(faults, func(f fault) bool { return slices.Contains(f.cases, c.name) }) {
			t.Errorf("no fault has to be caught by %s", c.name)
		}
	}
}

// testable returns the cases that can be tested here.
func testable() []testCase {
	return slices.DeleteFunc(allCases(), func(c testCase) bool { return c.needs&needProcess != 0 && !spansProcesses })
}

// optionsFor returns options with which c is not skipped.
func optionsFor(t testing.TB, c testCase, f fault) Options {
	if c.needs&needProcess != 0 {
		return f.processOptions(t, c.needs&needReads == 0)
	}
	return f.options(c.needs&needReads == 0)
}

func (f fault) options(reopenedWrites bool) Options {
	made := func(t testing.TB, h *handle) store.DataStore {
		// Some faults keep Close from ending a Watch, which must end all the same.
		t.Cleanup(h.end)
		if f.breaks != nil {
			f.breaks(h)
		}
		return h
	}
	return Options{
		Open: func(t testing.TB) store.DataStore { return made(t, newHandle(newPlace(), true, false)) },
		Reopen: func(t testing.TB, first store.DataStore) store.DataStore {
			return made(t, newHandle(first.(*handle).place, reopenedWrites || f.reopenedWrites, true))
		},
		ReopenedWrites: reopenedWrites,
		Flush:          func(_ testing.TB, s store.DataStore) { s.(*handle).place.flush() },
		Break:          func(_ testing.TB, s store.DataStore) func() { return s.(*handle).place.takeDown() },
		Spoil: map[string]func(testing.TB, store.DataStore){
			"spoiled": func(_ testing.TB, s store.DataStore) { s.(*handle).place.setSpoiled(true) },
			"again":   func(_ testing.TB, s store.DataStore) { s.(*handle).place.setSpoiled(true) },
		},
		// Long enough for what a sound case waits for on a busy machine, and
		// short because many faults are found by waiting in vain.
		Patience: time.Second,
	}
}
