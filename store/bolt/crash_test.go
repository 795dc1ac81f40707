package bolt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flagstead/flagstead/store"
)

// Every item of a generation has its number as version and as data. Full and
// other changes alternate.
const perGeneration = 40

func generation(n int64) store.Change {
	c := store.Change{Full: n%3 == 0}
	data := fmt.Appendf(nil, "%d %s", n, strings.Repeat("x", 500))
	for i := range perGeneration {
		c.Items = append(c.Items, store.Item{Kind: store.Flag, Key: fmt.Sprint("flag-", i), Version: n, Data: data})
	}
	return c
}

// generationOf returns which generation the items are, all of them together.
func generationOf(items []store.Item) (int64, error) {
	if len(items) == 0 {
		return 0, nil
	}
	n := items[0].Version
	for _, it := range items {
		if data, _, _ := strings.Cut(string(it.Data), " "); it.Version != n || data != strconv.FormatInt(n, 10) {
			return 0, fmt.Errorf("torn: %d and %d (%s)", n, it.Version, data)
		}
	}
	if len(items) != perGeneration {
		return 0, fmt.Errorf("generation %d has %d items", n, len(items))
	}
	return n, nil
}

// writeGenerations is the other process: it commits one generation after the
// other and says so.
func writeGenerations(path string) error {
	ctx := context.Background()
	s, err := Open(path, &Options{LockTimeout: patience})
	if err != nil {
		return err
	}
	snap, err := s.Load(ctx, "")
	if err != nil {
		return err
	}
	n, err := generationOf(snap.Items)
	if err != nil {
		return err
	}
	fmt.Println("open", n)
	for {
		n++
		if _, err := s.Apply(ctx, generation(n)); err != nil {
			return err
		}
		fmt.Println("done", n)
	}
}

// A watched is what a follower saw.
type watched struct {
	mu    sync.Mutex
	items map[store.ID]store.Item
	last  int64
	seen  int
	fail  error
	news  chan struct{}
}

func (w *watched) deliver(snap store.Snapshot, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail = errors.Join(w.fail, err)
	if err != nil {
		return
	}
	if !snap.Delta {
		w.items = map[store.ID]store.Item{}
	}
	for _, it := range snap.Items {
		w.items[it.ID()] = it
	}
	all := make([]store.Item, 0, len(w.items))
	for _, it := range w.items {
		all = append(all, it)
	}
	n, err := generationOf(all)
	if err == nil && n < w.last {
		err = fmt.Errorf("went back from %d to %d", w.last, n)
	}
	w.fail = errors.Join(w.fail, err)
	w.last, w.seen = n, w.seen+1
	select {
	case w.news <- struct{}{}:
	default:
	}
}

func (w *watched) state() (last int64, seen int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last, w.seen, w.fail
}

// A writer that is killed at any moment leaves the old state or the new one,
// keeps what it acknowledged, and does not confuse those who read meanwhile.
func TestKilledWriter(t *testing.T) {
	path := newPath(t)
	w := &watched{news: make(chan struct{}, 1)}
	follow(t, openAt(t, path, readOnly()), w.deliver)

	const rounds = 25
	acked := int64(0)
	for round := range rounds {
		if acked = killOne(t, path, acked, round%2 == 0); t.Failed() {
			return
		}
		snap, err := openAt(t, path, readOnly()).Load(t.Context(), "")
		if err != nil {
			// The first one may not have got as far as a snapshot.
			t.Fatalf("round %d: %v", round, err)
		}
		if n, err := generationOf(snap.Items); err != nil || n < acked || n > acked+1 {
			t.Fatalf("round %d: published %d (%v), acknowledged %d", round, n, err, acked)
		}
	}
	s := openAt(t, path, nil)
	n, err := generationOf(load(t, s, "").Items)
	if err != nil || n < acked || n > acked+1 {
		t.Errorf("at the end: %d (%v), acknowledged %d", n, err, acked)
	}
	limit := time.After(patience)
	for {
		last, seen, err := w.state()
		if err != nil {
			t.Fatal(err)
		}
		if last == n {
			t.Logf("%d generations, %d of them seen", n, seen)
			break
		}
		select {
		case <-w.news:
		case <-limit:
			t.Fatalf("the follower is at %d, the store at %d", last, n)
		}
	}
	left, err := os.ReadDir(strings.TrimSuffix(path, "/flags.db"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range left {
		names = append(names, e.Name())
	}
	if want := []string{"flags.db", "flags.db.lock", "flags.db.snap"}; !slices.Equal(names, want) {
		t.Errorf("the directory has %v, want %v", names, want)
	}
}

// killOne runs a writer, kills it and returns the last generation that is known
// to be committed.
func killOne(t *testing.T, path string, acked int64, early bool) int64 {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), writerEnv+"="+path)
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil { // open as long as this process lives
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := func() { cmd.Process.Kill() }
	watchdog := time.AfterFunc(patience, kill)
	defer watchdog.Stop()
	if early { // perhaps before it has opened the store
		defer time.AfterFunc(rand.N(120*time.Millisecond), kill).Stop()
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		what, number, _ := strings.Cut(lines.Text(), " ")
		n, err := strconv.ParseInt(number, 10, 64)
		switch {
		case err != nil:
			t.Errorf("the writer says: %s", lines.Text())
		case what == "open":
			if n < acked || n > acked+1 {
				t.Errorf("opened at %d, acknowledged %d", n, acked)
			}
			if !early {
				defer time.AfterFunc(rand.N(60*time.Millisecond), kill).Stop()
			}
			acked = n
		case what == "done":
			if n != acked+1 {
				t.Errorf("%d follows %d", n, acked)
			}
			acked = n
		}
	}
	cmd.Wait()
	return acked
}
