package bolt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flagstead/flagstead/store"
)

// stamped is a generation that says when it was made, and whether it is the last.
func stamped(n int64, last bool) store.Change {
	c := generation(n)
	c.Full = false
	head := fmt.Sprintf("%d %d %t ", n, time.Now().UnixNano(), last)
	for i := range c.Items {
		c.Items[i].Data = []byte(head + strings.Repeat("x", 500))
	}
	return c
}

// readGenerations is a reader process. It follows stamped generations up to the
// last one and prints how old each was when it had it.
func readGenerations(path string) error {
	s, err := Open(path, readOnly())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	w := &watched{news: make(chan struct{}, 1)}
	var ages []time.Duration
	store.Follow(ctx, s, store.FollowOptions{}, func(snap store.Snapshot, err error) {
		w.deliver(snap, err)
		if _, seen, err := w.state(); err != nil || seen == 0 {
			cancel(fmt.Errorf("after %d states: %w", len(ages), err))
			return
		}
		if len(w.items) == 0 || len(snap.Items) == 0 {
			fmt.Println("following")
			return
		}
		words := strings.SplitN(string(snap.Items[0].Data), " ", 4)
		made, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil {
			cancel(err)
			return
		}
		ages = append(ages, time.Since(time.Unix(0, made)))
		if words[2] == "true" {
			cancel(nil)
		}
	})
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	for _, age := range ages {
		fmt.Println("age", age.Nanoseconds())
	}
	fmt.Println("last", w.last)
	select {} // until the parent has read this
}

// One writer at 50 commits a second and 16 reader processes wait for nobody: all
// commits go through, and every reader gets to the last state.
func TestReadersAndWriterDoNotStarveEachOther(t *testing.T) {
	const (
		readers = 16
		rate    = 50
		seconds = 4
	)
	path := newPath(t)
	s := openAt(t, path, nil)
	apply(t, s, store.Change{Full: true})
	var all []*process
	for range readers {
		p := start(t, readerEnv+"="+path)
		defer p.wait()
		defer p.kill()
		all = append(all, p)
	}
	for _, p := range all {
		p.next(t, "following")
	}
	began, commits := time.Now(), int64(0)
	tick := time.NewTicker(time.Second / rate)
	defer tick.Stop()
	for time.Since(began) < seconds*time.Second {
		<-tick.C
		commits++
		apply(t, s, stamped(commits, false))
	}
	took := time.Since(began)
	commits++
	apply(t, s, stamped(commits, true))

	var ages []time.Duration
	for i, p := range all {
		seen := 0
		for p.lines.Scan() {
			what, text, _ := strings.Cut(p.lines.Text(), " ")
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				t.Fatalf("reader %d says: %s", i, p.lines.Text())
			}
			if what == "age" {
				seen++
				ages = append(ages, time.Duration(n))
				continue
			}
			if n != commits {
				t.Errorf("reader %d ends at %d, the store at %d", i, n, commits)
			}
			break
		}
		if seen == 0 {
			t.Errorf("reader %d saw nothing", i)
		}
	}
	slices.Sort(ages)
	perSecond := float64(commits) / took.Seconds()
	t.Logf("%.1f commits/s of %d asked for; %d readers had %.0f %% of the states; age when they had them: median %v, p99 %v, worst %v",
		perSecond, rate, readers, 100*float64(len(ages))/float64(readers*commits), ages[len(ages)/2], ages[len(ages)*99/100], ages[len(ages)-1])
	if perSecond < rate/2 {
		t.Errorf("the writer managed %.1f commits/s of %d", perSecond, rate)
	}
	if p99 := ages[len(ages)*99/100]; p99 > 2*time.Second {
		t.Errorf("p99 of the age is %v", p99)
	}
}

// A reader notices a commit quickly if nothing else is going on.
func TestCommitIsNoticedQuickly(t *testing.T) {
	path := newPath(t)
	s := openAt(t, path, nil)
	apply(t, s, store.Change{Full: true})
	seen := make(chan store.Rev, 1000)
	follow(t, openAt(t, path, readOnly()), func(snap store.Snapshot, err error) {
		if err != nil {
			t.Error(err)
		}
		seen <- snap.Rev
	})
	<-seen
	var took []time.Duration
	for n := range int64(50) {
		began := time.Now()
		rev := apply(t, s, generation(3*n+1))
		for got := range seen {
			if got == rev {
				break
			}
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("from Apply to the reader: median %v, worst %v", took[len(took)/2], took[len(took)-1])
	if median := took[len(took)/2]; median > 500*time.Millisecond {
		t.Errorf("the median is %v", median)
	}
}

// A writer that hangs keeps its lock, which no second writer can get; readers
// have what it published last, at once, and what it publishes when it goes on.
func TestFrozenWriter(t *testing.T) {
	path := newPath(t)
	w := &watched{news: make(chan struct{}, 1)}
	r := openAt(t, path, readOnly())
	p := startWriter(t, path)
	defer p.wait()
	defer p.kill()
	for range 3 {
		p.next(t, "done")
	}
	follow(t, r, w.deliver)
	for freeze := range 5 {
		if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		var status syscall.WaitStatus // until each thread has come back from the kernel
		if _, err := syscall.Wait4(p.cmd.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
			t.Fatalf("not stopped: %v, %v", status, err)
		}
		var last int64
		for i := range 20 {
			began := time.Now()
			snap := load(t, openAt(t, path, readOnly()), "")
			if took := time.Since(began); took > time.Second {
				t.Errorf("a reader waited %v for a writer that does nothing", took)
			}
			n, err := generationOf(snap.Items)
			if err != nil || n == 0 || i > 0 && n != last {
				t.Errorf("freeze %d: generation %d (%v) after %d", freeze, n, err, last)
			}
			last = n
		}
		for _, wait := range []time.Duration{-1, 100 * time.Millisecond} {
			began := time.Now()
			_, err := Open(path, &Options{LockTimeout: wait})
			if took := time.Since(began); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), path) || took > wait+5*time.Second {
				t.Errorf("second writer with timeout %v: %v after %v", wait, err, took)
			}
		}
		if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		until(t, "news after the freeze", func() bool {
			at, _, err := w.state()
			if err != nil {
				t.Fatal(err)
			}
			return at > last
		})
	}
	p.kill()
	p.wait()
	second := openAt(t, path, &Options{LockTimeout: patience}) // the lock ended with its holder
	if _, err := generationOf(load(t, second, "").Items); err != nil {
		t.Error(err)
	}
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit, tick := time.After(patience), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}
