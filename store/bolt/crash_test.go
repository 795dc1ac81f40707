package bolt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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

// killsEnv says how many writers TestKilledWriter kills, if not 400.
const killsEnv = "FLAGSTEAD_BOLT_KILLS"

// A writer that is killed at any moment leaves the old state or the new one,
// keeps what it acknowledged, and does not confuse those who read meanwhile.
// Several stores suffer at once, for processes spend most of their life starting.
func TestKilledWriter(t *testing.T) {
	kills := 400
	if text := os.Getenv(killsEnv); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("%s: %v", killsEnv, err)
		}
		kills = n
	}
	const lanes = 4
	var working, early, seen, commits atomic.Int64
	t.Run("lanes", func(t *testing.T) {
		for lane := range lanes {
			t.Run(fmt.Sprint(lane), func(t *testing.T) {
				t.Parallel()
				k := killer{path: newPath(t), working: &working, early: &early}
				seen.Add(k.run(t, kills/lanes))
				commits.Add(k.acked)
			})
		}
	})
	t.Logf("%d writers killed at work and %d before, after %d commits; the followers saw %d states", working.Load(), early.Load(), commits.Load(), seen.Load())
	if working.Load() < int64(kills/2) {
		t.Errorf("only %d of %d writers were killed at work", working.Load(), kills)
	}
}

// A killer kills the writers of one store.
type killer struct {
	path           string
	acked          int64         // the last generation known to be committed
	working, early *atomic.Int64 // kills, of all killers
}

// run kills n writers and checks after each what is left. It returns how many
// states a follower saw.
func (k *killer) run(t *testing.T, n int) int64 {
	w := &watched{news: make(chan struct{}, 1)}
	follow(t, openAt(t, k.path, readOnly()), w.deliver)
	for round := range n {
		k.killOne(t, round%5 == 0)
		k.check(t, "round "+fmt.Sprint(round))
		if t.Failed() {
			return 0
		}
	}
	s := openAt(t, k.path, nil) // a writer of this process
	last, err := generationOf(load(t, s, "").Items)
	if err != nil || last < k.acked || last > k.acked+1 {
		t.Errorf("at the end: %d (%v), acknowledged %d", last, err, k.acked)
	}
	limit := time.After(patience)
	for {
		at, seen, err := w.state()
		if err != nil {
			t.Fatal(err)
		}
		if at == last {
			k.checkDir(t)
			return int64(seen)
		}
		select {
		case <-w.news:
		case <-limit:
			t.Fatalf("the follower is at %d, the store at %d", at, last)
		}
	}
}

// check reads what is published. What the database has is checked by the next
// writer, which says what it finds.
func (k *killer) check(t *testing.T, when string) {
	r, err := Open(k.path, readOnly())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	snap, err := r.Load(t.Context(), "")
	if err != nil {
		t.Fatalf("%s: unreadable: %v", when, err)
	}
	if n, err := generationOf(snap.Items); err != nil || n < k.acked || n > k.acked+1 {
		t.Fatalf("%s: published %d (%v), acknowledged %d", when, n, err, k.acked)
	}
}

// checkDir wants nothing left behind.
func (k *killer) checkDir(t *testing.T) {
	left, err := os.ReadDir(filepath.Dir(k.path))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range left {
		names = append(names, e.Name())
	}
	if want := []string{"flags.db", "flags.db.control.lock", "flags.db.lock", "flags.db.snap"}; !slices.Equal(names, want) {
		t.Errorf("the directory has %v, want %v", names, want)
	}
}

// killOne runs a writer and kills it: while it works, or early, which may be
// before it has opened the store.
func (k *killer) killOne(t *testing.T, early bool) {
	p := startWriter(t, k.path)
	defer p.wait()
	atWork := false
	if early {
		defer time.AfterFunc(rand.N(60*time.Millisecond), p.kill).Stop()
	}
	for p.lines.Scan() {
		what, number, _ := strings.Cut(p.lines.Text(), " ")
		n, err := strconv.ParseInt(number, 10, 64)
		switch {
		case err != nil:
			t.Errorf("the writer says: %s", p.lines.Text())
		case what == "open":
			if n < k.acked || n > k.acked+1 {
				t.Errorf("opened at %d, acknowledged %d", n, k.acked)
			}
			if atWork = true; !early {
				defer time.AfterFunc(rand.N(30*time.Millisecond), p.kill).Stop()
			}
			k.acked = n
		case what == "done":
			if n != k.acked+1 {
				t.Errorf("%d follows %d", n, k.acked)
			}
			k.acked = n
		}
	}
	if atWork {
		k.working.Add(1)
	} else {
		k.early.Add(1)
	}
}

// A process is another process of this program, which prints lines.
type process struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	stop  *time.Timer
}

func startWriter(t *testing.T, path string) *process { return start(t, writerEnv+"="+path) }

// start runs this program with one more variable in its environment. It is
// killed if it runs for longer than patience, and dies with this process.
func start(t *testing.T, env string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0])}
	p.cmd.Env = append(os.Environ(), env)
	p.cmd.Stderr = os.Stderr
	dieWithParent(p.cmd)
	if _, err := p.cmd.StdinPipe(); err != nil { // open as long as this process lives
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewScanner(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.stop = time.AfterFunc(patience, p.kill)
	return p
}

func (p *process) kill() { p.cmd.Process.Kill() }

func (p *process) wait() {
	p.cmd.Wait()
	p.stop.Stop()
}

// next returns the rest of the next line that begins with what.
func (p *process) next(t *testing.T, what string) string {
	t.Helper()
	for p.lines.Scan() {
		if word, rest, _ := strings.Cut(p.lines.Text(), " "); word == what {
			return rest
		}
	}
	t.Fatalf("the process ended before it said %q", what)
	return ""
}
