package store_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
)

func TestControlCheck(t *testing.T) {
	for _, tc := range []struct {
		control store.Control
		ok      bool
	}{
		{store.Control{}, true},
		{store.Control{Frozen: true, Pinned: 3}, true},
		{store.Control{Pinned: 3}, false},
		{store.Control{Frozen: true, Pinned: 1 << 53}, false},
		{store.Control{By: strings.Repeat("x", 1024), Reason: strings.Repeat("y", 1024)}, true},
		{store.Control{By: strings.Repeat("x", 1024), Reason: strings.Repeat("y", 1025)}, false},
	} {
		if err := tc.control.Check(); (err == nil) != tc.ok {
			t.Errorf("%+v: %v", tc.control, err)
		}
	}
}

// TestFollowShowsWhatIsMeant: older versions are shown at once while the control
// says that an operator means them, also through layers, and are held back a while
// after.
func TestFollowShowsWhatIsMeant(t *testing.T) {
	for _, layered := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			st := memory.New()
			defer st.Close()
			var from store.Reader = st
			if layered {
				l := store.Layered(st)
				defer l.Close()
				from = l
			}
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			put := func(version int64) {
				t.Helper()
				_, err := st.Apply(context.Background(), store.Change{Full: true, Override: true, Items: []store.Item{{Kind: store.Flag, Key: "a", Version: version}}})
				must(err)
				time.Sleep(1500 * time.Millisecond) // of the test's own clock
				synctest.Wait()
			}
			must(st.WriteHeartbeat(context.Background(), store.Heartbeat{Source: "ok", Writer: "w"}))
			var mu sync.Mutex
			shown, last := int64(0), error(nil)
			ctx, cancel := context.WithCancel(context.Background())
			var wg sync.WaitGroup
			wg.Go(func() {
				store.Follow(ctx, from, store.FollowOptions{HoldBack: 5 * time.Second}, func(s store.Snapshot, err error) {
					mu.Lock()
					defer mu.Unlock()
					last = err
					for _, it := range s.Items {
						shown = it.Version
					}
				})
			})
			shows := func(version int64, why error) {
				t.Helper()
				mu.Lock()
				defer mu.Unlock()
				if shown != version || !errors.Is(last, why) {
					t.Errorf("layered %t: shows %d and %v, want %d and %v", layered, shown, last, version, why)
				}
			}
			put(9)
			shows(9, nil)
			put(8) // by somebody who is behind
			shows(9, store.ErrHeldBack)
			// An operator says so while it is held back.
			must(st.WriteControl(context.Background(), store.Control{Frozen: true}))
			time.Sleep(1500 * time.Millisecond)
			synctest.Wait()
			shows(8, nil)
			put(7)
			shows(7, nil)
			// The end of a freeze may bring what is older than was pinned.
			must(st.WriteControl(context.Background(), store.Control{}))
			put(6)
			shows(6, nil)
			time.Sleep(2 * time.Minute)
			put(5)
			shows(6, store.ErrHeldBack)
			cancel()
			wg.Wait()
		})
	}
}

// TestLayersReport: a report goes to the place that takes some, with a revision
// only if it is that one's.
func TestLayersReport(t *testing.T) {
	shared, copied := memory.New(), memory.New()
	defer shared.Close()
	defer copied.Close()
	l := store.Layered(shared, store.LastGood(copied))
	defer l.Close()
	rev, err := shared.Apply(t.Context(), store.Change{Full: true})
	if err != nil {
		t.Fatal(err)
	}
	snap, err := l.Load(t.Context(), "")
	if err != nil || snap.Rev == rev {
		t.Fatalf("%+v, %v", snap, err)
	}
	for _, tc := range []struct{ given, want store.Rev }{{snap.Rev, rev}, {"1:" + rev, ""}, {"", ""}} {
		if err := l.WriteReport(t.Context(), store.Report{Reader: "r", Rev: tc.given, State: "ok"}); err != nil {
			t.Fatal(err)
		}
		if all, err := shared.ReadReports(t.Context()); err != nil || len(all) != 1 || all[0].Rev != tc.want {
			t.Errorf("%q became %+v, %v", tc.given, all, err)
		}
	}
	if all, _ := copied.ReadReports(t.Context()); len(all) > 0 {
		t.Errorf("the copy has %+v", all)
	}
	none := store.Layered(onlyReads{shared})
	defer none.Close()
	if err := none.WriteReport(t.Context(), store.Report{Reader: "r"}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("without a place for it: %v", err)
	}
}

type onlyReads struct{ store.Reader }
