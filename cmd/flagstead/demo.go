package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/flagstead/flagstead/internal/fswatch"
	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/sdk"
)

type demoCmd struct {
	Store string `env:"STORE" default:"bolt" enum:"bolt,redis,file" help:"Store between the syncer and the workers: ${enum}."`
}

const (
	demoWorkers = 4
	demoTimeout = 55 * time.Second
	outageStep  = 11 // made while no syncer runs
)

// A demo is one run.
type demo struct {
	con      *console
	began    time.Time
	store    string // kind
	storeURL string
	dir      string
	program  string
	secret   sdk.Secret
	base     string // URL of the dev server

	procs   processes
	dev     *process
	syncer  *process
	workers []*demoWorker
	doc     *demoDoc
}

// A demoWorker is what the demo knows of a worker.
type demoWorker struct {
	*process
	latency map[int]time.Duration // by step
	final   *workerReport
	wrong   []string
}

// Run runs the demo. It ends by itself.
func (c *demoCmd) Run(ctx context.Context, con *console) error {
	outer := ctx
	ctx, cancel := context.WithTimeoutCause(ctx, demoTimeout, fmt.Errorf("the demo did not end within %v", demoTimeout))
	defer cancel()
	// Without a reader for what is printed (flagstead demo | head) the demo ends
	// like one that is interrupted, and leaves nothing either.
	signal.Ignore(syscall.SIGPIPE)
	out := &watchedWriter{w: con.out, broken: cancel}
	con.out = out
	dir, err := os.MkdirTemp("", "flagstead-demo-")
	if err != nil {
		return err
	}
	d := &demo{con: con, began: time.Now(), store: c.Store, dir: dir}
	err = d.run(ctx)
	stopErr := d.procs.stopAll()
	removeErr := os.RemoveAll(dir)
	if outer.Err() != nil || out.failed.Load() {
		err = errInterrupted // whatever it was that did not happen
	}
	if err = errors.Join(err, stopErr, removeErr); err != nil {
		if errors.Is(err, errInterrupted) {
			return err
		}
		return fmt.Errorf("demo failed: %w", err)
	}
	if left := d.left(); left != "" {
		return fmt.Errorf("demo left something behind: %s", left)
	}
	con.printf("\nEverything is as it was: no process is left, nothing is left on disk. The demo took %.1f s.\n", time.Since(d.began).Seconds())
	return nil
}

// A watchedWriter says when nobody takes what is written.
type watchedWriter struct {
	w      io.Writer
	broken func()
	failed atomic.Bool
}

func (w *watchedWriter) Write(b []byte) (int, error) {
	n, err := w.w.Write(b)
	if err != nil && !w.failed.Swap(true) {
		w.broken()
	}
	return n, err
}

func (d *demo) left() string {
	var left []string
	for _, p := range d.procs.list {
		if p.running() {
			left = append(left, fmt.Sprintf("%s (pid %d)", p.name, p.pid()))
		}
	}
	if _, err := os.Stat(d.dir); err == nil {
		left = append(left, d.dir)
	}
	return strings.Join(left, ", ")
}

func (d *demo) say(format string, args ...any) {
	d.con.printf("%6.2fs  %s\n", time.Since(d.began).Seconds(), fmt.Sprintf(format, args...))
}

func (d *demo) run(ctx context.Context) error {
	d.con.printf("One syncer writes, %d workers read, each a process of its own. Store: %s.\n\n", demoWorkers, d.store)
	d.con.printf("  flags.json ──▶ dev server ──stream──▶ syncer ──▶ %s ──▶ %d workers\n", d.store, demoWorkers)
	d.con.printf("                     ▲────────────── events ─────────────────┘\n\n")
	for _, step := range []func(context.Context) error{
		d.prepare, d.startDev, d.startStore, d.startSyncer, d.startWorkers, d.flipAll, d.stopWorkers,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if err := d.table(); err != nil {
		return err
	}
	return d.events(ctx)
}

// prepare works out what every user must get at every step, and writes the
// first flags file.
func (d *demo) prepare(context.Context) (err error) {
	if d.program, err = os.Executable(); err != nil {
		return err
	}
	if d.secret, err = protocol.NewSecret(protocol.NewEnvID()); err != nil {
		return err
	}
	plan, err := newDemoDoc()
	if err != nil {
		return err
	}
	var expect expectation
	for step := range len(flips) + 1 {
		if step > 0 {
			if err := plan.apply(step, time.Now()); err != nil {
				return err
			}
		}
		values, err := expected(plan)
		if err != nil {
			return err
		}
		expect = append(expect, values)
	}
	text, err := json.Marshal(expect)
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.path("expect.json"), text, 0o600); err != nil {
		return err
	}
	if d.doc, err = newDemoDoc(); err != nil {
		return err
	}
	return d.write()
}

func (d *demo) path(name string) string { return filepath.Join(d.dir, name) }

func (d *demo) write() error {
	text, err := d.doc.text()
	if err != nil {
		return err
	}
	return fswatch.WriteFile(d.path("flags.json"), text)
}

// expected evaluates a document in this process, far from any store.
func expected(doc *demoDoc) (map[string]string, error) {
	text, err := doc.text()
	if err != nil {
		return nil, err
	}
	client, err := sdk.New(sdk.Config{Offline: true, Bootstrap: text})
	if err != nil {
		return nil, err
	}
	defer client.Close(context.Background())
	users, err := demoUsers()
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	for _, u := range users {
		if _, values[u.Key()], err = valuesOf(client.AllFlags(u)); err != nil {
			return nil, err
		}
	}
	return values, nil
}

func (d *demo) env() []string { return []string{"FLAGSTEAD_SECRET=" + string(d.secret)} }

func (d *demo) startDev(ctx context.Context) (err error) {
	d.dev, err = d.procs.start("dev server", d.program, d.env(), "dev", d.path("flags.json"), "--addr", "127.0.0.1:0", "--end-with-stdin")
	if err != nil {
		return err
	}
	what, err := d.dev.line(ctx, "serving")
	if err != nil {
		return err
	}
	line, err := d.dev.line(ctx, "ws://")
	if err != nil {
		return err
	}
	d.base = "http://" + line[strings.Index(line, "ws://")+len("ws://"):]
	d.dev.drain()
	_, counts, _ := strings.Cut(what, "flags.json: ")
	d.say("dev server   pid %-7d serves %s at %s", d.dev.pid(), counts, d.base)
	return nil
}

func (d *demo) startStore(ctx context.Context) (err error) {
	switch d.store {
	case "bolt":
		d.storeURL = "bolt://" + d.path("store.db")
	case "file":
		d.storeURL = "file://" + d.path("store.json")
	case "redis":
		var p *process
		if d.storeURL, p, err = d.procs.startRedis(ctx, d.dir); err != nil {
			return err
		}
		d.say("redis-server pid %-7d at %s", p.pid(), d.storeURL)
	}
	return nil
}

func (d *demo) startSyncer(ctx context.Context) (err error) {
	d.syncer, err = d.procs.start("syncer", d.program, append(d.env(), "FLAGSTEAD_URL="+d.base), "sync", d.storeURL, "--end-with-stdin")
	if err != nil {
		return err
	}
	if _, err := d.syncer.line(ctx, "in sync"); err != nil {
		return err
	}
	d.syncer.drain()
	d.say("syncer       pid %-7d writes %s", d.syncer.pid(), d.store)
	return nil
}

func (d *demo) startWorkers(ctx context.Context) error {
	for i := range demoWorkers {
		p, err := d.procs.start(fmt.Sprintf("worker %d", i+1), d.program, d.env(), "demo-worker",
			"--store", d.storeURL, "--expect", d.path("expect.json"), "--events", d.base)
		if err != nil {
			return err
		}
		d.workers = append(d.workers, &demoWorker{process: p, latency: map[int]time.Duration{}})
	}
	pids := make([]string, 0, demoWorkers)
	for _, w := range d.workers {
		if _, err := w.line(ctx, `"ready"`); err != nil {
			return err
		}
		pids = append(pids, fmt.Sprint(w.pid()))
	}
	d.say("%d workers    pids %s evaluate from %s, with no connection to the dev server but for events", demoWorkers, strings.Join(pids, ", "), d.store)
	return nil
}

// take reads one report of a worker.
func (w *demoWorker) take(line string) error {
	var r workerReport
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		return fmt.Errorf("%s printed %q", w.name, line)
	}
	switch r.Event {
	case "seen":
		if _, again := w.latency[r.Step]; !again {
			w.latency[r.Step] = r.Latency
		}
	case "wrong":
		w.wrong = append(w.wrong, fmt.Sprintf("step %d: %s", r.Step, r.Text))
	case "end":
		w.final = &r
	}
	return nil
}

// until reads a worker's reports until ok.
func (w *demoWorker) until(ctx context.Context, what string, ok func() bool) error {
	for !ok() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %s did not happen: %w", w.name, what, context.Cause(ctx))
		case line, open := <-w.lines:
			if !open {
				<-w.done
				return fmt.Errorf("%s ended before %s: %v: %s", w.name, what, w.err, w.said())
			}
			if err := w.take(line); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *demo) flipAll(ctx context.Context) error {
	d.con.printf("\n")
	for step := 1; step <= len(flips); step++ {
		if step == outageStep {
			pid := d.syncer.pid()
			d.syncer.kill()
			d.say("syncer killed (SIGKILL, pid %d); the workers go on evaluating", pid)
		}
		if err := d.doc.apply(step, time.Now()); err != nil {
			return err
		}
		if err := d.write(); err != nil {
			return err
		}
		if step == outageStep {
			d.say("flip %2d  %-28s written while no syncer runs", step, flips[step-1].what)
			if err := rest(ctx, 300*time.Millisecond); err != nil {
				return err
			}
			for _, w := range d.workers {
				if !w.running() {
					return fmt.Errorf("%s ended with the syncer: %s", w.name, w.said())
				}
			}
			if err := d.startSyncer(ctx); err != nil {
				return err
			}
		}
		var slowest time.Duration
		for _, w := range d.workers {
			if err := w.until(ctx, fmt.Sprintf("flip %d", step), func() bool { _, seen := w.latency[step]; return seen }); err != nil {
				return err
			}
			slowest = max(slowest, w.latency[step])
		}
		d.say("flip %2d  %-28s seen by %d of %d workers, the last after %s", step, flips[step-1].what, len(d.workers), demoWorkers, millis(slowest))
		if err := rest(ctx, 150*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

func (d *demo) stopWorkers(ctx context.Context) error {
	for _, w := range d.workers {
		w.stdin.Close()
	}
	for _, w := range d.workers {
		if err := w.until(ctx, "its report", func() bool { return w.final != nil }); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) table() error {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "worker\tflips seen\tp50\tp99\tflip %d, no syncer\tevaluations/s\tchecked\twrong values\t\n", outageStep)
	var problems []error
	for i, worker := range d.workers {
		var list []time.Duration
		for step, l := range worker.latency {
			if step != outageStep && step > 0 {
				list = append(list, l)
			}
		}
		slices.Sort(list)
		f := worker.final
		seen := len(list)
		if _, ok := worker.latency[outageStep]; ok {
			seen++
		}
		fmt.Fprintf(w, "%d\t%d of %d\t%s\t%s\t%s\t%.0f\t%d\t%d\t\n", i+1, seen, len(flips),
			millis(quantile(list, 0.5)), millis(quantile(list, 0.99)), millis(worker.latency[outageStep]),
			float64(f.Evaluations)/f.Elapsed.Seconds(), f.Checks, f.Wrong)
		if seen != len(flips) {
			problems = append(problems, fmt.Errorf("worker %d saw %d of %d flips", i+1, seen, len(flips)))
		}
		if f.Wrong > 0 || f.Checks == 0 {
			problems = append(problems, fmt.Errorf("worker %d had %d wrong values in %d checks: %s", i+1, f.Wrong, f.Checks, strings.Join(worker.wrong, "; ")))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	d.con.printf("\n%s\n", out.String())
	d.con.printf("Latency is from the change of the file to its visibility in a worker. The workers rest 1 ms\n" +
		"after every 400 evaluations; \"checked\" counts comparisons of all flags of a user at one moment.\n")
	return errors.Join(problems...)
}

// events compares what the workers delivered with what the dev server got.
func (d *demo) events(ctx context.Context) error {
	sent := uint64(0)
	for _, w := range d.workers {
		sent += w.final.Events
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.base+relay.ReceivedPath, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", string(d.secret))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return err
	}
	var list []protocol.Insight
	if err := json.Unmarshal(text, &list); err != nil {
		return fmt.Errorf("the dev server's list of events: %w", err)
	}
	d.con.printf("Events: the workers delivered %d evaluations, the dev server received %d.\n", sent, len(list))
	if want := uint64(demoWorkers * len(flips)); sent != want || uint64(len(list)) != want {
		return fmt.Errorf("%d events were expected", want)
	}
	return nil
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func millis(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}
