package redis

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/store"
)

// Other users of the server must not feel a full change.
func TestFullDoesNotHoldUpOthers(t *testing.T) {
	srv := redistest.Start(t)
	s, c := open(t, srv, "x"), rawClient(t, srv)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var longest time.Duration
	ready := make(chan struct{})
	wg.Go(func() {
		for first := true; ctx.Err() == nil; first = false {
			began := time.Now()
			if err := c.Ping(ctx).Err(); err != nil {
				continue
			}
			if first { // dialing is not waiting
				close(ready)
				continue
			}
			longest = max(longest, time.Since(began))
		}
	})
	<-ready

	var took []string
	for round := range 2 {
		var items []store.Item
		for i := range 5000 {
			items = append(items, flag(fmt.Sprint(i), int64(round), string(bytes.Repeat([]byte{'a' + byte(round)}, 2048))))
		}
		began := time.Now()
		rev := apply(t, s, true, items...)
		replaced := time.Since(began)
		began = time.Now()
		if same := apply(t, s, true, items...); same != rev {
			t.Errorf("Rev %q became %q", rev, same)
		}
		identical := time.Since(began)
		began = time.Now()
		if n := len(load(t, s, "").Items); n != 5000 {
			t.Errorf("%d items", n)
		}
		took = append(took, fmt.Sprintf("full %v, the same again %v, load %v", replaced, identical, time.Since(began)))
	}
	cancel()
	wg.Wait()
	t.Logf("5,000 items of 2 KB: %s; longest PING %v", strings.Join(took, "; "), longest)
	if longest > 250*time.Millisecond {
		t.Errorf("a PING took %v", longest)
	}
}

// Every change writes the same version to all keys that it touches, so a reader
// that sees a mixture sees a torn state.
func TestNoTornReads(t *testing.T) {
	env := newEnv()
	const keys = 40
	set := func(n int64) (items []store.Item) {
		for i := range keys {
			items = append(items, flag(fmt.Sprint(i), n, fmt.Sprint(n)))
		}
		return items
	}
	first := open(t, server, env)
	apply(t, first, true, set(1)...)

	ctx, cancel := context.WithCancel(context.Background())
	var readers, writers sync.WaitGroup
	for r := range 3 {
		s := open(t, server, env)
		readers.Go(func() {
			state, rev := map[string]string{}, store.Rev("")
			byRev := map[store.Rev]string{}
			for loads := 0; ctx.Err() == nil; loads++ {
				since := rev
				if r == 0 {
					since = ""
				}
				snap, err := s.Load(ctx, since)
				if err != nil {
					if ctx.Err() == nil {
						t.Error(err)
					}
					return
				}
				if !snap.Delta {
					state = map[string]string{}
				}
				for k, v := range content(snap.Items) {
					state[k] = v
				}
				rev = snap.Rev
				value := state["f:0"]
				for k, v := range state {
					if v != value {
						t.Errorf("torn: f:0 is %q, %s is %q", value, k, v)
						return
					}
				}
				if old, ok := byRev[rev]; len(state) != keys || ok && old != value {
					t.Errorf("%d keys; Rev %q is %q and was %q", len(state), rev, value, old)
					return
				}
				byRev[rev] = value
			}
		})
	}
	for w := range int64(3) {
		s := open(t, server, env)
		writers.Go(func() {
			for i := range int64(60) {
				n := 2 + i*3 + w
				if _, err := s.Apply(ctx, store.Change{Full: w == 0, Items: set(n)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	cancel()
	readers.Wait()
}

// A big content is loaded in parts, and what comes of it is one state all the same.
func TestPartsMakeOneState(t *testing.T) {
	srv := redistest.Start(t)
	set := func(n int64) (items []store.Item) {
		for i := range partsFrom + partSize/2 {
			items = append(items, flag(fmt.Sprint(i), n, fmt.Sprint(n)))
		}
		return items
	}
	writer := open(t, srv, "x")
	apply(t, writer, true, set(1)...)
	load(t, open(t, srv, "x"), "")
	if parts, whole := calls(t, srv, "hkeys"), calls(t, srv, "hgetall"); parts != 1 || whole != 0 {
		t.Fatalf("%d loads in parts, %d in one", parts, whole)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var readers sync.WaitGroup
	for range 2 {
		s := open(t, srv, "x")
		readers.Go(func() {
			var last int64
			for ctx.Err() == nil {
				snap, err := s.Load(ctx, "")
				if err != nil {
					if ctx.Err() == nil {
						t.Error(err)
					}
					return
				}
				n := snap.Items[0].Version
				for _, it := range snap.Items {
					if it.Version != n || string(it.Data) != fmt.Sprint(n) {
						t.Errorf("torn: version %d and %d", n, it.Version)
						return
					}
				}
				if n < last || len(snap.Items) != partsFrom+partSize/2 {
					t.Errorf("version %d after %d, %d items", n, last, len(snap.Items))
				}
				last = n
			}
		})
	}
	for n := range int64(60) {
		apply(t, writer, n%2 == 0, set(n+2)...)
	}
	cancel()
	readers.Wait()
	if whole := calls(t, srv, "hgetall"); whole == 0 {
		t.Error("no load was ever overtaken, which proves nothing")
	}

	// A part that is missing or cannot be read.
	raw := rawClient(t, srv)
	raw.HSet(bounded(t), writer.data, "f:700", "garbage")
	_, err := writer.Load(bounded(t), "")
	wantErr(t, err, ErrDamaged, "f:700")
	raw.HDel(bounded(t), writer.data, "f:700")
	_, err = writer.Load(bounded(t), "")
	wantErr(t, err, ErrDamaged, "items instead of")
}

// With Base as the only lock no increment gets lost.
func TestBaseSerializes(t *testing.T) {
	env := newEnv()
	apply(t, open(t, server, env), true, flag("n", 0, ""))
	var wg sync.WaitGroup
	for w := range 3 {
		s := open(t, server, env)
		wg.Go(func() {
			for done := 0; done < 10; {
				snap, err := s.Load(bounded(t), "")
				if err != nil {
					t.Error(err)
					return
				}
				c := store.Change{Full: w == 0, Base: snap.Rev, Items: []store.Item{flag("n", snap.Items[0].Version+1, "")}}
				switch _, err := s.Apply(bounded(t), c); {
				case err == nil:
					done++
				case !strings.Contains(err.Error(), store.ErrConflict.Error()):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if v := load(t, open(t, server, env), "").Items[0].Version; v != 30 {
		t.Errorf("%d increments, want 30", v)
	}
}
