package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/redis"
)

// patience is how long everybody may take to catch up after a fault.
const patience = 30 * time.Second

// An arena is everything that runs.
type arena struct {
	settings
	random  *rand.Rand
	featbit *featbit
	link    *proxy // to FeatBit
	wire    *proxy // to Redis
	redis   *process
	admin   *goredis.Client // past the proxy
	store   *redis.Store    // likewise
	syncers []*process
	health  []*health // of the syncers
	readers []*reader

	faults   map[string]int
	worst    time.Duration // to catch up
	worstFor string
	outages  []outage // of profile ha
}

// A reader is a process and what it said.
type reader struct {
	*process
	arena *arena

	mu         sync.Mutex
	newest     int64 // that this run has seen
	states     int
	seen       []moment
	violations []string
}

// heard checks a state.
func (r *reader) heard(line string) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	fields := strings.Fields(line)
	var version int64
	var digest []byte
	var err error
	if len(fields) == 3 {
		version, err = strconv.ParseInt(fields[0], 10, 64)
		if err == nil {
			digest, err = hex.DecodeString(fields[1])
		}
	}
	if len(fields) != 3 || err != nil {
		r.wrong("said %q", line)
		return
	}
	r.states++
	want, known := r.arena.featbit.had(version)
	switch {
	case !known:
		r.wrong("saw version %d, which never was", version)
	case string(digest) != string(want[:]):
		r.wrong("saw a state of version %d with %s items that never was", version, fields[2])
	}
	if version < r.newest {
		r.wrong("went back from version %d to %d", r.newest, version)
	}
	if version > r.newest {
		r.seen = append(r.seen, moment{version, now})
	}
	r.newest = version
}

func (r *reader) wrong(format string, args ...any) {
	text := fmt.Sprintf("%s  %s ", time.Now().Format("15:04:05.000"), r.name) + fmt.Sprintf(format, args...)
	r.violations = append(r.violations, text)
	fmt.Println("VIOLATION", text)
}

func (r *reader) at() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.newest
}

// begin starts a run, which knows nothing of those before it.
func (r *reader) begin() error {
	r.mu.Lock()
	r.newest = 0
	r.mu.Unlock()
	return r.start()
}

func torture(ctx context.Context, s settings) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	a := &arena{settings: s, random: rand.New(rand.NewPCG(s.seed, 0)), faults: map[string]int{}}
	if err := a.build(ctx, &wg); err != nil {
		return err
	}
	defer a.tearDown()

	changing, stopChanging := context.WithCancel(ctx)
	defer stopChanging()
	changed := make(chan error, 1)
	random := rand.New(rand.NewPCG(s.seed, 1))
	wg.Go(func() { changed <- a.featbit.change(changing, random, s.flags) })

	began := time.Now()
	run := a.run
	if s.profile == "ha" {
		run = a.failovers
	}
	err = run(ctx, began.Add(s.duration))
	stopChanging()
	if e := <-changed; err == nil {
		err = e
	}
	if err == nil {
		_, err = a.caughtUp(ctx, a.featbit.now())
	}
	return a.report(time.Since(began), err)
}

func (a *arena) build(ctx context.Context, wg *sync.WaitGroup) error {
	goredis.SetLogger(noLog{})
	server, err := exec.LookPath("redis-server")
	if err != nil {
		return errors.New("redis-server is not on PATH; scripts/need-redis.sh installs it")
	}
	dir, err := os.MkdirTemp("", "torture")
	if err != nil {
		return err
	}
	wg.Go(func() { <-ctx.Done(); os.RemoveAll(dir) })
	if a.featbit, err = serve(ctx, wg, a.flags); err != nil {
		return err
	}
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	if a.link, err = newProxy(ctx, wg, a.featbit.addr); err != nil {
		return err
	}
	if a.wire, err = newProxy(ctx, wg, addr); err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(addr)
	a.admin = goredis.NewClient(&goredis.Options{Addr: addr, MaxRetries: -1})
	if a.store, err = redis.Open("redis://"+addr, nil); err != nil {
		return err
	}
	noise := io.Discard
	if a.verbose {
		noise = os.Stderr
	}
	a.redis = &process{name: "redis", err: noise, make: func() *exec.Cmd {
		cmd := exec.Command(server, "--port", port, "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--appendonly", "no", "--loglevel", "warning")
		dieWithParent(cmd)
		return cmd
	}}
	if err := a.redis.start(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	child := func(role string) func() *exec.Cmd {
		return func() *exec.Cmd {
			cmd := exec.Command(self)
			cmd.Env = append(os.Environ(), "TORTURE_ROLE="+role, "TORTURE_STORE=redis://"+a.wire.addr,
				"TORTURE_URL=ws://"+a.link.addr, "TORTURE_SECRET="+string(a.featbit.secret))
			dieWithParent(cmd)
			return cmd
		}
	}
	for i := range 2 {
		h := &health{}
		p := &process{name: fmt.Sprintf("syncer %d", i+1), make: child("syncer"), out: h.heard, err: noise}
		a.syncers, a.health = append(a.syncers, p), append(a.health, h)
		if err := p.start(); err != nil {
			return err
		}
	}
	for i := range a.settings.readers {
		r := &reader{arena: a}
		r.process = &process{name: fmt.Sprintf("reader %d", i+1), make: child("reader"), out: r.heard, err: noise}
		a.readers = append(a.readers, r)
		if err := r.begin(); err != nil {
			return err
		}
	}
	return nil
}

func (a *arena) tearDown() {
	for _, r := range a.readers {
		r.kill()
	}
	for _, p := range a.syncers {
		p.kill()
	}
	a.redis.kill()
	a.store.Close()
	a.admin.Close()
}

// run injects faults until end, each when everybody got over the one before.
func (a *arena) run(ctx context.Context, end time.Time) error {
	if _, err := a.caughtUp(ctx, a.featbit.now()); err != nil {
		return fmt.Errorf("before any fault: %w", err)
	}
	for time.Now().Before(end) {
		picked := []fault{faults[a.random.IntN(len(faults))]}
		if a.random.IntN(3) == 0 {
			picked = append(picked, faults[a.random.IntN(len(faults))])
		}
		name, err := a.inject(ctx, picked)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		took, err := a.caughtUp(ctx, a.featbit.now())
		if err != nil {
			return fmt.Errorf("after %s: %w", name, err)
		}
		if a.verbose {
			fmt.Printf("%s  %-60s caught up in %v\n", time.Now().Format("15:04:05.000"), name, took.Round(time.Millisecond))
		}
		if took > a.worst {
			a.worst, a.worstFor = took, name
		}
	}
	return nil
}

// inject makes faults happen at once, and undoes what does not end by itself.
func (a *arena) inject(ctx context.Context, picked []fault) (string, error) {
	var names []string
	var undo []func() error
	for _, f := range picked {
		name, heal, err := f(ctx, a)
		names = append(names, name)
		a.faults[name]++
		if err != nil {
			return strings.Join(names, " + "), err
		}
		if heal != nil {
			undo = append(undo, heal)
		}
	}
	err := a.pause(ctx, time.Duration(a.random.Int64N(int64(2*time.Second))))
	for _, heal := range undo {
		err = errors.Join(err, heal())
	}
	return strings.Join(names, " + "), err
}

func (a *arena) pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// caughtUp waits until the store has version and all readers have seen it, and
// says how long it took.
func (a *arena) caughtUp(ctx context.Context, version int64) (time.Duration, error) {
	began := time.Now()
	for {
		var behind []string
		for _, r := range a.readers {
			if at := r.at(); at < version {
				behind = append(behind, fmt.Sprintf("%s is at %d", r.name, at))
			}
		}
		if len(behind) == 0 && !a.whole(ctx, version) {
			behind = append(behind, "redis-server is behind")
		}
		if len(behind) == 0 {
			return time.Since(began), nil
		}
		for _, p := range a.processes() {
			if p.ended() {
				return 0, fmt.Errorf("%s ended", p.name)
			}
		}
		if time.Since(began) > patience {
			return 0, fmt.Errorf("not caught up with version %d within %v: %s", version, patience, strings.Join(behind, ", "))
		}
		if err := a.pause(ctx, time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// whole reports whether the store has what FeatBit had at version, or later.
func (a *arena) whole(ctx context.Context, version int64) bool {
	snap, err := a.store.Load(ctx, "")
	if err != nil {
		return false // the next look tells
	}
	state := make(map[string]store.Item, len(snap.Items))
	for _, it := range snap.Items {
		state[it.Key] = it
	}
	newest, digest := describe(state)
	want, known := a.featbit.had(newest)
	return known && newest >= version && digest == want
}

func (a *arena) processes() []*process {
	all := append(slices.Clone(a.syncers), a.redis)
	for _, r := range a.readers {
		all = append(all, r.process)
	}
	return all
}

func (a *arena) report(took time.Duration, err error) error {
	states, violations, injected := 0, 0, 0
	for _, r := range a.readers {
		r.mu.Lock()
		states += r.states
		violations += len(r.violations)
		r.mu.Unlock()
	}
	var kinds []string
	for name, n := range a.faults {
		injected += n
		kinds = append(kinds, fmt.Sprintf("%5d  %s", n, name))
	}
	slices.SortFunc(kinds, func(a, b string) int { return strings.Compare(a[7:], b[7:]) })
	fmt.Printf("seed %d, %v: 2 syncers, %d readers, %d flags, %d changes\n", a.seed, took.Round(time.Second), len(a.readers), a.flags, a.featbit.changes)
	fmt.Printf("faults injected: %d\n%s\n", injected, strings.Join(kinds, "\n"))
	fmt.Printf("states checked: %d\n", states)
	fmt.Printf("violations: %d\n", violations)
	fmt.Printf("longest until all had caught up after a fault was over: %v (%s)\n", a.worst.Round(time.Millisecond), a.worstFor)
	a.latencies()
	switch {
	case err != nil:
		return err
	case violations > 0:
		return fmt.Errorf("%d violations", violations)
	case states == 0 || injected == 0:
		return errors.New("nothing was tested")
	}
	return nil
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
