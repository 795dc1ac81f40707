// Package storetest checks that a store keeps the rules of package store.
//
// Run it from a test of your own store. Every case is a subtest named for the
// rule it checks, and a failure prints the sentence of that rule:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, storetest.Options{
//			Open: func(t testing.TB) store.DataStore {
//				s, err := mystore.Open(t.TempDir())
//				if err != nil {
//					t.Fatal(err)
//				}
//				return s
//			},
//		})
//	}
//
// Only Open is needed; each other option makes more cases apply: a second handle,
// a place that is emptied, damaged, or taken down and up, handles in other
// processes (see [Child]), which are killed in the middle of a commit.
//
// A store that is also a [store.Watcher] has its Watch checked too, and one that
// is a [store.HeartbeatWriter] and [store.HeartbeatReader] its heartbeats; so it is
// with [store.Controller], with [store.History] and [store.HistoryWriter], and with
// [store.ReportReader] and [store.ReportWriter]. The suite is worth most under the
// race detector.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/flagstead/flagstead/store"
)

// Options tells [Run] how to get at the store under test. Only Open is needed;
// each of the others makes more cases apply.
//
// Handles that are to be watched implement [store.Watcher]. The functions may
// end the test with t.Fatal or t.Skip.
type Options struct {
	// Open returns a handle on a fresh, empty place that no other test uses. The
	// suite closes it.
	Open func(t testing.TB) store.DataStore

	// Reopen returns another handle on the place that the given handle, made by
	// Open and not yet closed, is on. The suite closes it. Nil says that a place
	// has one handle only.
	Reopen func(t testing.TB, first store.DataStore) store.DataStore

	// ReopenedWrites says that the handle from Reopen may write, too. Otherwise
	// its Apply has to return [store.ErrReadOnly].
	ReopenedWrites bool

	// Flush empties the place behind the store's back, as FLUSHALL or rm would.
	// When it returns, the given handle has to find the place empty. Nil says
	// that nobody can do that to the store.
	Flush func(t testing.TB, s store.DataStore)

	// Place returns what another process needs to open the place of the given
	// handle: a path, or a URL. The suite starts the test binary again and hands
	// it to the function given to [Child], which TestMain must call. If
	// ReopenedWrites is false, only one process writes at a time, the first
	// handle being closed before. Nil says that no other process can get there.
	Place func(t testing.TB, s store.DataStore) string

	// Break takes the place of the given handle down, for every handle: calls fail
	// or hang until somebody calls mend. After that the place has what it had
	// before, or, if it does not keep it, nothing. Several outages may differ. Nil
	// says that the store cannot be down.
	Break func(t testing.TB, s store.DataStore) (mend func())

	// Spoil damages what the place of the given handle holds, in the way that the
	// key of the map names: cuts it, overwrites it, removes a part of it. Empty
	// says that nobody can do that.
	Spoil map[string]func(t testing.TB, s store.DataStore)

	// Large makes one case use a set of 100 MB (50,000 items of 2 KB) instead of
	// 10 MB. So does the environment variable STORETEST_LARGE=1. It takes
	// minutes with the race detector.
	Large bool

	// Patience is how long to wait for what has to happen sooner or later: a
	// wake-up, a commit seen through another handle, the return of a call whose
	// context ended. Only failures wait so long. Zero means 10 seconds.
	Patience time.Duration
}

// Run checks the store that o opens: every rule as a subtest of t, one after the
// other, each on a place of its own. A case that does not apply to the store
// passes and says in its log why it was not run.
func Run(t *testing.T, o Options) {
	t.Helper()
	if o.Open == nil {
		t.Fatal("storetest: Options.Open is nil")
	}
	for _, c := range allCases() {
		t.Run(c.name, func(t *testing.T) {
			failures, skip := check(t, o, c)
			for _, f := range failures {
				t.Error(f)
			}
			if skip != "" {
				t.Log("does not apply: " + skip)
			}
		})
	}
}

// How long the suite waits. Generous, because only failures wait so long.
const (
	caseLimit = time.Minute     // for one case
	grace     = 5 * time.Second // for a case to notice that its time is over, and for a Close
)

// A need is something that a case cannot do without.
type need uint

const (
	needOther   need = 1 << iota // a second handle on the same place
	needWrites                   // ... that writes
	needReads                    // ... that must not write
	needFlush                    // Options.Flush
	needForeign                  // a handle on another place
	needWatch                    // a store that is a Watcher
	needHeart                    // a store with heartbeats
	needControl                  // a store that can be frozen
	needHistory                  // a store that keeps revisions
	needReports                  // a store that takes readers' reports
	needProcess                  // Options.Place
	needBreak                    // Options.Break
	needSpoil                    // Options.Spoil
	wantOther                    // a second handle if there is one
)

// A testCase checks one rule.
type testCase struct {
	name  string
	rule  string // the sentence that a failure prints
	needs need
	limit time.Duration // zero means caseLimit
	run   func(c *tester)
}

func allCases() []testCase {
	var all []testCase
	for _, cases := range [][]testCase{
		loadCases, mergeCases, fullCases, baseCases, flushCases, dataCases,
		callCases, handleCases, concurrentCases, watchCases, versionCases, orderCases, refillCases,
		cancelCases, lostCases, heartbeatCases, controlCases, historyCases, reportCases, processCases,
		outageCases, spoilCases, largeCases,
	} {
		all = append(all, cases...)
	}
	return all
}

// missing says why a case with these needs does not apply, if it does not.
func (o Options) missing(n need) string {
	switch {
	case n&(needOther|needWrites|needReads) != 0 && o.Reopen == nil:
		return "a place of this store has one handle only"
	case n&needWrites != 0 && !o.ReopenedWrites:
		return "only the first handle writes"
	case n&needReads != 0 && o.ReopenedWrites:
		return "every handle writes"
	case n&needFlush != 0 && o.Flush == nil:
		return "nobody can empty this store behind its back"
	case n&needProcess != 0 && o.Place == nil:
		return "a place of this store belongs to one process"
	case n&needBreak != 0 && o.Break == nil:
		return "nobody can take this store down"
	case n&needSpoil != 0 && len(o.Spoil) == 0:
		return "nobody can damage this store"
	}
	return ""
}

// lacking says which optional interface of s a case needs that s does not have.
// What a store has and does not support is lacking, too.
func (n need) lacking(s store.DataStore) string {
	ctx := context.Background()
	unsupported := func(err error) bool { return errors.Is(err, errors.ErrUnsupported) }
	if n&needControl != 0 {
		// A store that cannot be frozen may say that it is not.
		f, ok := s.(store.Controller)
		if !ok || unsupported(f.WriteControl(ctx, store.Control{Pinned: 1})) {
			return "the store cannot be frozen"
		}
	}
	if n&needHistory != 0 {
		h, reads := s.(store.History)
		_, writes := s.(store.HistoryWriter)
		if !reads || !writes {
			return "the store keeps no revisions"
		}
		if _, err := h.Revisions(ctx); unsupported(err) {
			return "the store keeps no revisions"
		}
	}
	if n&needReports != 0 {
		_, reads := s.(store.ReportReader)
		_, writes := s.(store.ReportWriter)
		if !reads || !writes {
			return "the store takes no reports"
		}
	}
	return ""
}

// check runs one case and returns what went wrong, or why the case does not
// apply. tb is only for the functions in o: failures of the store do not fail
// it.
func check(tb testing.TB, o Options, tc testCase) (failures []string, skip string) {
	tb.Helper()
	if why := o.missing(tc.needs); why != "" {
		return nil, why
	}
	if o.Patience <= 0 {
		o.Patience = 10 * time.Second
	}
	caseLimit := caseLimit
	if tc.limit > 0 {
		caseLimit = tc.limit
	}
	ctx, cancel := context.WithTimeout(context.Background(), caseLimit)
	c := &tester{ctx: ctx, tb: tb, opts: o, rec: &record{rule: tc.rule}}
	defer c.closeAll()
	defer cancel() // first, so that every Watch ends before its handle is closed

	// The handles are opened here, on tb's own goroutine, where the functions
	// may call tb.Fatal and tb.Skip.
	c.s = c.opened(o.Open(tb))
	if tc.needs&needWatch != 0 {
		if _, ok := c.s.(store.Watcher); !ok {
			return nil, "the store is not a Watcher"
		}
	}
	if tc.needs&needHeart != 0 {
		_, writes := c.s.(store.HeartbeatWriter)
		_, reads := c.s.(store.HeartbeatReader)
		if !writes || !reads {
			return nil, "the store has no heartbeats"
		}
	}
	if why := tc.needs.lacking(c.s); why != "" {
		return nil, why
	}
	if tc.needs&(needOther|needWrites|needReads|wantOther) != 0 && o.Reopen != nil {
		c.other = c.opened(o.Reopen(tb, c.s))
	}
	if tc.needs&needProcess != 0 {
		c.place = o.Place(tb, c.s)
	}
	if tc.needs&needForeign != 0 {
		c.foreign = c.opened(o.Open(tb))
	}

	// A goroutine of its own, which a failure can end and a store that hangs can
	// keep.
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer c.recoverPanic()
		tc.run(c)
	}()
	limit := time.NewTimer(caseLimit + grace)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
		c.rec.addf("the case did not end within %v: some call hangs", caseLimit)
	}
	cancel()
	c.closeAll()
	return c.rec.end(), ""
}

// A recorder takes the failures of a case.
type recorder interface {
	addf(format string, args ...any)
	addNote(format string, args ...any)
	end() []string
}

// A record is a recorder that keeps them, so that whoever runs the case decides
// what a failure means.
type record struct {
	rule string

	mu       sync.Mutex
	note     string // what else a failure prints
	failures []string
	ended    bool
}

// maxFailures bounds what one case has to say: a broken store tends to be broken
// at every turn of a loop.
const maxFailures = 5

func (r *record) addf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended || len(r.failures) == maxFailures {
		return
	}
	r.failures = append(r.failures, fmt.Sprintf(format, args...)+r.note+"\n\trule: "+r.rule)
}

// addNote makes every later failure print a line more.
func (r *record) addNote(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note += "\n\t" + fmt.Sprintf(format, args...)
}

// end returns the failures; those that come later are lost.
func (r *record) end() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	return r.failures
}

// recoverPanic makes a panic of the store a failure of the case.
func (c *tester) recoverPanic() {
	if p := recover(); p != nil {
		c.rec.addf("panic: %v\n%s", p, debug.Stack())
	}
}

func (c *tester) opened(s store.DataStore) store.DataStore {
	if s == nil {
		c.tb.Helper()
		c.tb.Fatal("storetest: Open or Reopen returned nil")
	}
	c.handles = append(c.handles, s)
	return s
}

// closeAll closes the handles, the last one first, but does not wait for a Close
// that hangs. A second call has nothing to do.
func (c *tester) closeAll() {
	c.endProcesses()
	handles := c.handles
	c.handles = nil
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := len(handles) - 1; i >= 0; i-- {
			if err := handles[i].Close(); err != nil && !errors.Is(err, store.ErrClosed) {
				c.rec.addf("Close: %v", err)
			}
		}
	}()
	limit := time.NewTimer(grace)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
	}
}

// fatalf records a failure and ends the calling goroutine.
func (c *tester) fatalf(format string, args ...any) {
	c.rec.addf(format, args...)
	runtime.Goexit()
}
