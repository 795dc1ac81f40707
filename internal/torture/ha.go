package main

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// A moment is when a state came to be, or was seen.
type moment struct {
	version int64
	at      time.Time
}

// A health is what a syncer last said of itself.
type health struct{ ok atomic.Bool }

func (h *health) heard(line string) { h.ok.Store(line == "ok") }

// An outage is the time in which one syncer was gone.
type outage struct {
	frozen      bool
	began, over time.Time
}

const (
	// before and after are how long before and after an outage a change counts as
	// one around it: it may have been on its way, and the return is work, too.
	before = 100 * time.Millisecond
	after  = time.Second

	// slow is what is worth a line of its own.
	slow = 500 * time.Millisecond
)

func (o outage) around(at time.Time) bool {
	return at.After(o.began.Add(-before)) && at.Before(o.over.Add(after))
}

// failovers kills or freezes one syncer at a time until end, each time when both
// of them work. About half of the time nothing happens.
func (a *arena) failovers(ctx context.Context, end time.Time) error {
	if _, err := a.caughtUp(ctx, a.featbit.now()); err != nil {
		return fmt.Errorf("before any fault: %w", err)
	}
	for time.Now().Before(end) {
		if err := a.bothOK(ctx); err != nil {
			return err
		}
		if err := a.pause(ctx, after+before+a.upTo(4*time.Second)); err != nil {
			return err
		}
		i := a.random.IntN(len(a.syncers))
		p := a.syncers[i]
		o := outage{frozen: a.random.IntN(2) == 0, began: time.Now()}
		name := "SIGKILL of a syncer"
		if o.frozen {
			name = "SIGSTOP of a syncer"
			p.freeze()
		} else {
			p.kill()
			a.health[i].ok.Store(false)
		}
		a.faults[name]++
		if err := a.pause(ctx, a.upTo(2*time.Second)); err != nil {
			return err
		}
		if o.frozen {
			p.thaw()
		} else if err := p.start(); err != nil {
			return err
		}
		o.over = time.Now()
		fmt.Printf("%s  %s %d, back after %v\n", o.began.Format("15:04:05.000"), name, i, o.over.Sub(o.began).Round(time.Millisecond))
		a.outages = append(a.outages, o)
		took, err := a.caughtUp(ctx, a.featbit.now())
		if err != nil {
			return fmt.Errorf("after %s: %w", name, err)
		}
		if took > a.worst {
			a.worst, a.worstFor = took, name
		}
	}
	return nil
}

func (a *arena) upTo(d time.Duration) time.Duration { return time.Duration(a.random.Int64N(int64(d))) }

// bothOK waits until both syncers say that they are in sync.
func (a *arena) bothOK(ctx context.Context) error {
	began := time.Now()
	for !a.health[0].ok.Load() || !a.health[1].ok.Load() {
		if time.Since(began) > patience {
			return fmt.Errorf("a syncer was not in sync within %v", patience)
		}
		if err := a.pause(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// latencies prints how long changes took until readers saw them, or newer ones.
func (a *arena) latencies() {
	if a.profile != "ha" {
		return
	}
	a.featbit.mu.Lock()
	made := slices.Clone(a.featbit.moments)
	a.featbit.mu.Unlock()
	var calm, killed, frozen []time.Duration
	missed := 0
	for n, r := range a.readers {
		r.mu.Lock()
		seen := slices.Clone(r.seen)
		r.mu.Unlock()
		if len(seen) == 0 {
			continue
		}
		next, last := 0, 0 // in seen, in outages
		for _, m := range made {
			if m.version < seen[0].version {
				continue // before the reader was there
			}
			for next < len(seen) && seen[next].version < m.version {
				next++
			}
			if next == len(seen) {
				missed++
				continue
			}
			took := seen[next].at.Sub(m.at)
			if took > slow {
				fmt.Printf("%s  reader %d saw version %d after %v, when the newest was %d\n",
					m.at.Format("15:04:05.000"), n, m.version, took.Round(time.Millisecond), seen[next].version)
			}
			for last < len(a.outages) && !m.at.Before(a.outages[last].over.Add(after)) {
				last++
			}
			switch {
			case last == len(a.outages) || !a.outages[last].around(m.at):
				calm = append(calm, took)
			case a.outages[last].frozen:
				frozen = append(frozen, took)
			default:
				killed = append(killed, took)
			}
		}
	}
	fmt.Printf("from a change to a reader that has it    %10s %9s %9s %9s %9s\n", "samples", "p50", "p99", "p99.9", "max")
	row := func(name string, d []time.Duration) {
		slices.Sort(d)
		fmt.Printf("  %-38s %10d", name, len(d))
		for _, share := range []float64{0.5, 0.99, 0.999, 1} {
			if len(d) == 0 {
				continue
			}
			at := d[min(len(d)-1, int(share*float64(len(d))))]
			fmt.Printf(" %6.1f ms", float64(at.Microseconds())/1000)
		}
		fmt.Println()
	}
	row("both syncers there", calm)
	row("around a SIGKILL of one", killed)
	row("around a SIGSTOP of one", frozen)
	if missed > 0 {
		fmt.Printf("  not seen before the end: %d\n", missed)
	}
}
